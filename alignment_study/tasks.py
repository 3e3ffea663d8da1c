"""Tasks: problems with a verifier. `load_task` knows every name; `check_golds` refuses a broken task.

perm, perm_transfer, caesar, shift, shift_transfer, rearrange      generated letter strings (`families`)
rg:NAME                                                            any data set of reasoning-gym
gsm8k, math500, aime24, aime25, deepscaler, svamp, mawps           mathematics, from data_dir or the hub
synlogic-easy                                                      27 logic tasks, each with its verifier
kor-operation, -logic, -cipher, -puzzle, -counterfactual           KOR-Bench, tests only
FILE.jsonl                                                         question and answer per line
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment_study import families, kor_bench, sources, verifiers
from alignment_study.families import Split
from alignment_study.sources import SETS
from alignment_study.synlogic import rows as synlogic
from alignment_study.verifiers import Verify
from shared import answers
from shared.seeding import derive_seed

# The authors' template says the same in other words; no system prompt (sheet §3.2).
INSTRUCTION = (
    "Solve the problem step by step. Think first, then answer: write your reasoning between <think> and "
    "</think>, and only the final answer between <answer> and </answer>."
)


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        question: as the task has it; the contamination probe cuts this.
        prompt: what the model is asked, with the instruction about the tags where the task needs one.
        answer: to be read by people and by the probe; empty where the data set names none.
        gold: what `Task.verify` is given: the answer, or the id where the verifier needs the whole entry.
        subtask: e.g. the operation; the task's name where there are none.
    """

    id: str
    question: str
    prompt: str
    answer: str
    gold: str
    subtask: str


@dataclass(frozen=True)
class Task:
    """Problems of one split and what is needed to sample and grade them.

    Attributes:
        verify: (answer, gold) -> right, wrong, or None: it failed.
        candidate: pattern of an answer anywhere in a text, for lenient grading; its last match counts.
        max_new_tokens: of a completion.
        answer_space: how many answers a guesser chooses among; None where that is not known.
    """

    name: str
    split: Split
    problems: tuple[Problem, ...]
    verify: Verify = field(compare=False)
    candidate: str
    max_new_tokens: int
    answer_space: int | None = None

    def grade(self, found: Sequence[str | None], golds: Sequence[str]) -> list[bool | None]:
        """`verify` per pair, equal pairs once; no answer (None) is wrong, an exception is None."""
        pairs = list(zip(found, golds, strict=True))
        unique = [(a, g) for a, g in dict.fromkeys(pairs) if a is not None]
        if self.verify is verifiers.mathematics:  # in several worker processes at once
            graded = answers.grade_many([verifiers.boxed(a) for a, _ in unique], [g for _, g in unique])
        else:
            graded = [self._verify(a, g) for a, g in unique]
        verdicts: dict[tuple[str | None, str], bool | None] = dict(zip(unique, graded, strict=True))
        return [verdicts.get(pair, False) for pair in pairs]

    def _verify(self, answer: str, gold: str) -> bool | None:
        try:
            return self.verify(answer, gold)
        except Exception:  # a verifier of another library, on text that nobody foresaw
            return None


def load_task(
    name: str, *, split: Split = "test", n: int = 200, seed: int = 0, data_dir: Path | str | None = None
) -> Task:
    """`n` problems of a task, or all there are if fewer; a function of the arguments.

    Raises:
        ValueError: no such task (with a list), or a bad row (file, line and field).
        FileNotFoundError: no such file. ConnectionError: the hub's copy cannot be had. Each names the fix.
    """
    if n < 1:
        raise ValueError(f"n={n} problems: need at least 1")
    if name in families.FAMILIES:
        return _letters(name, split, n, seed)
    if name.startswith("rg:"):
        return _reasoning_gym(name, split, n, seed)
    if name == "synlogic-easy":
        return _synlogic(name, split, n, seed, data_dir)
    if name in kor_bench.TASKS:
        return _kor_bench(name, split, n, seed, data_dir)
    if name in SETS:
        return _questions(name, split, sources.read(name, split, data_dir), n, seed, verifiers.mathematics)
    if name.endswith(".jsonl") or Path(name).is_file():
        rows = sources.local_rows(Path(name).expanduser())
        return _questions(Path(name).name, split, rows, n, seed, verifiers.any_kind)
    known = ", ".join((*families.FAMILIES, *SETS, *kor_bench.TASKS))
    raise ValueError(
        f"no task {name!r}; choose from {known}, rg:NAME with a data set of reasoning-gym (e.g. "
        "rg:chain_sum), or a JSONL file with question and answer"
    )


def check_golds(task: Task, show: int = 5) -> None:
    """Refuse a task whose own golds its verifier does not accept.

    Raises:
        ValueError: lists the offending rows, at most `show` of them.
    """
    rows = [p for p in task.problems if p.answer]
    graded = task.grade([p.answer for p in rows], [p.gold for p in rows])
    bad = [(p, verdict) for p, verdict in zip(rows, graded, strict=True) if verdict is not True]
    if bad:
        listed = "; ".join(
            f"{p.id} gold {p.answer[:60]!r}: {'rejected' if verdict is False else 'verifier failed'}"
            for p, verdict in bad[:show]
        )
        more = f"; and {len(bad) - show} more" if len(bad) > show else ""
        raise ValueError(
            f"{task.name}: its verifier does not accept {len(bad)} of {len(rows)} golds ({listed}{more}); "
            "correct or remove these rows"
        )


# ---- generated letter strings


def _letters(name: str, split: Split, n: int, seed: int) -> Task:
    room = sum(len(families.items(op, split)) for op in families.FAMILIES[name])
    smallest = min(len(families.items(op, split)) for op in families.FAMILIES[name])
    drawn = families.draw(name, split, min(n, room, smallest * len(families.FAMILIES[name])), seed)
    problems = tuple(
        Problem(f"{name}/{i.operation}/{i.letters}", i.prompt[:-2], i.prompt, i.answer, i.answer, i.operation)
        for i in drawn
    )
    space = len(families.LETTERS) ** families.LENGTH
    candidate = rf"(?:\b[{families.LETTERS}]\b ?){{{families.LENGTH}}}"
    return Task(name, split, problems, verifiers.text, candidate, families.MAX_COMPLETION, space)


# ---- reasoning-gym


def _reasoning_gym(name: str, split: Split, n: int, seed: int) -> Task:
    """Its generators make the problems, its verifiers score; right means the full score of 1."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError(
            f"{name} needs reasoning-gym: pip install -c constraints.txt reasoning-gym"
        ) from error
    dataset = name.removeprefix("rg:")
    if dataset not in DATASETS or dataset == "composite":
        known = ", ".join(sorted(set(DATASETS) - {"composite"}))
        raise ValueError(f"reasoning-gym has no data set {dataset!r}; choose rg: and one of {known}")
    made = reasoning_gym.create_dataset(dataset, size=n, seed=derive_seed(seed, name, split) % 2**31)
    entries: dict[str, Any] = {f"{name}/{split}/{seed}/{i}": made[i] for i in range(n)}

    def verify(answer: str, gold: str) -> bool | None:
        entry = entries[gold]
        if answer == entry["answer"]:
            return made.score_answer(answer, entry) >= 1
        return verifiers.readable(dataset, answer) and made.score_answer(answer, entry) >= 1

    problems = tuple(
        Problem(id, entry["question"], _asked(entry["question"]), str(entry["answer"] or ""), id, dataset)
        for id, entry in entries.items()
    )
    return Task(name, split, problems, verify, LAST_LINE, 512, _space(problems))


# ---- logic

# A code block, a list of lists, or a line: what SynLogic's and KOR-Bench's answers look like.
_ROW = r"\[[^\[\]]*+\]"
LOGIC_ANSWER = rf"```[^`]*+```|\[\s*+{_ROW}(?:\s*+,\s*+{_ROW})*+\s*+,?\s*+\]|[^\n]+"


def _synlogic(name: str, split: Split, n: int, seed: int, data_dir: Path | str | None) -> Task:
    """The hub's prompts, unchanged; sub-tasks are the games."""
    found = [synlogic.parse(at, row) for at, row in sources.read(name, split, data_dir)]
    entries = {row.id: row for row in found}
    problems = [Problem(row.id, row.question, row.prompt, row.gold, row.id, row.task) for row in found]

    def verify(answer: str, gold: str) -> bool | None:
        return entries[gold].verify(answer)

    return Task(name, split, _some(name, split, problems, n, seed), verify, LOGIC_ANSWER, 512)


def _kor_bench(name: str, split: Split, n: int, seed: int, data_dir: Path | str | None) -> Task:
    """Every prompt brings its rule; the authors' prompts say the same in other words."""
    if split != "test":
        raise ValueError(f"{name} has no {split} split, only test")
    found = kor_bench.load(kor_bench.TASKS[name], data_dir)
    entries = {item.id: item for item in found}
    problems = [
        Problem(
            item.id,
            item.question,
            _asked(
                f"Apply the rules below, also where they differ from what you know.\n\nRules:\n{item.rule}"
                f"\n\nQuestion:\n{item.question}"
            ),
            item.answer,
            item.id,
            item.title,
        )
        for item in found
    ]

    def verify(answer: str, gold: str) -> bool | None:
        return entries[gold].verify(answer)

    some = _some(name, split, problems, n, seed)
    return Task(name, split, some, verify, LOGIC_ANSWER, 512, _space(some))


# ---- mathematics and JSONL


FIELDS = {  # of the names in use, the first that a row has
    "question": ("problem", "question", "Question", "input"),
    "answer": ("final_answer", "expected_answer", "answer", "Answer", "target"),
}
LAST_LINE = r"[^\n]+"
LAST_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?"


def _questions(
    name: str, split: Split, rows: Iterable[tuple[str, Any]], n: int, seed: int, verify: Verify
) -> Task:
    """`rows`: (where it stands, row); a random `n` of them in their order."""
    problems = _some(name, split, [_problem(name, at, row) for at, row in rows], n, seed)
    candidate = LAST_NUMBER if verify is verifiers.mathematics else LAST_LINE
    return Task(name, split, problems, verify, candidate, 512, _space(problems))


def _some(name: str, split: Split, found: Sequence[Problem], n: int, seed: int) -> tuple[Problem, ...]:
    """A random `n` of the problems, or all if there are fewer, in their order."""
    if not found:
        raise ValueError(f"{name} holds no rows")
    drawn = random.Random(derive_seed(seed, name, split)).sample(range(len(found)), min(n, len(found)))
    return tuple(found[i] for i in sorted(drawn))


def _problem(name: str, at: str, row: Any) -> Problem:
    if not isinstance(row, Mapping):
        raise ValueError(f"{at}: {str(row)[:40]!r} is no JSON object; write one with question and answer")

    def value(kind: str) -> str:
        present = next((key for key in FIELDS[kind] if row.get(key) is not None), None)
        text = "" if present is None else str(row[present]).strip()
        if not text:
            raise ValueError(
                f"{at}: no value for the field {kind!r} (also read as {', '.join(FIELDS[kind])}); "
                f"the row has {', '.join(row) or 'nothing'}"
            )
        return text

    question, answer = value("question"), value("answer")
    if body := row.get("Body"):  # SVAMP's story
        question = f"{body} {question}"
    if name == "gsm8k":  # the working, ####, the number
        answer = answer.rpartition("####")[2].strip().replace(",", "")
    if re.fullmatch(r"-?\d+\.0", answer):  # "27.0" of a JSON float
        answer = answer[:-2]
    return Problem(at, question, _asked(question), answer, answer, str(row.get("subtask") or name))


def _asked(question: str) -> str:
    return f"{INSTRUCTION}\n\n{question}"


def _space(problems: Sequence[Problem]) -> int | None:
    """The number of different golds where they are few (yes/no, multiple choice), else None."""
    golds = len({p.answer for p in problems})
    return golds if golds <= min(20, len(problems) // 5) else None
