"""Tasks: problems with a verifier. `load_task` knows every name; `check_golds` refuses a broken task.

perm, perm_transfer, caesar, shift, shift_transfer, rearrange      generated letter strings (`families`)
rg:NAME                                                            any data set of reasoning-gym
gsm8k, math500, aime24, aime25, deepscaler, svamp, mawps           mathematics, from data_dir or the hub
FILE.jsonl                                                         question and answer per line
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment_study import families, verifiers
from alignment_study.families import Split
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
    if name in SETS:
        return _mathematics(name, split, n, seed, data_dir)
    if name.endswith(".jsonl") or Path(name).is_file():
        rows = _local_rows(Path(name).expanduser())
        return _questions(Path(name).name, split, rows, n, seed, verifiers.any_kind)
    raise ValueError(
        f"no task {name!r}; choose from {', '.join(families.FAMILIES)}, {', '.join(SETS)}, rg:NAME with a "
        "data set of reasoning-gym (e.g. rg:chain_sum), or a JSONL file with question and answer"
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


# ---- mathematics and JSONL


@dataclass(frozen=True)
class Source:
    """Where a set is: a data set of the hub at a commit (None: only local), and its name in `data_dir`."""

    hub: tuple[str, str | None, str] | None  # id, config, split
    revision: str | None
    file: str  # may hold a *


_GSM8K = "740312add88f781978c0658806c59bc2815b9866"
SETS: dict[str, dict[Split, Source]] = {
    "gsm8k": {
        "train": Source(("openai/gsm8k", "main", "train"), _GSM8K, "gsm8k_train.jsonl"),
        "test": Source(("openai/gsm8k", "main", "test"), _GSM8K, "gsm8k_test.jsonl"),
    },
    "math500": {
        "test": Source(
            ("HuggingFaceH4/MATH-500", None, "test"),
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            "math500_test.jsonl",
        )
    },
    "aime24": {"test": Source(("zwhe99/aime90", None, "2024"), None, "aime24_test.jsonl")},
    "aime25": {
        "test": Source(
            ("math-ai/aime25", None, "test"), "563bb8404243c5f09de6ec262f2db674fe5bce9b", "aime25_test.jsonl"
        )
    },
    "deepscaler": {
        "train": Source(("agentica-org/DeepScaleR-Preview-Dataset", None, "train"), None, "deepscaler.jsonl")
    },
    "svamp": {"test": Source(None, None, "svamp_test.jsonl")},
    "mawps": {"test": Source(None, None, "mawps_*.jsonl")},
}
FIELDS = {  # of the names in use, the first that a row has
    "question": ("problem", "question", "Question", "input"),
    "answer": ("final_answer", "expected_answer", "answer", "Answer", "target"),
}
LAST_LINE = r"[^\n]+"
LAST_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?"


def _mathematics(name: str, split: Split, n: int, seed: int, data_dir: Path | str | None) -> Task:
    if split not in SETS[name]:
        raise ValueError(f"{name} has no {split} split, only {', '.join(SETS[name])}")
    source = SETS[name][split]
    if data_dir:
        files = sorted(Path(data_dir).expanduser().glob(source.file))
        if not files:
            raise FileNotFoundError(f"no {source.file} in {data_dir}; put it there or choose another task")
        rows = [row for file in files for row in _local_rows(file)]
    else:
        rows = _hub_rows(name, source)
    return _questions(name, split, rows, n, seed, verifiers.mathematics)


def _questions(
    name: str, split: Split, rows: Iterable[tuple[str, Any]], n: int, seed: int, verify: Verify
) -> Task:
    """`rows`: (where it stands, row); a random `n` of them in their order."""
    found = [_problem(name, at, row) for at, row in rows]
    if not found:
        raise ValueError(f"{name} holds no rows")
    picked = sorted(
        random.Random(derive_seed(seed, name, split)).sample(range(len(found)), min(n, len(found)))
    )
    problems = tuple(found[i] for i in picked)
    candidate = LAST_NUMBER if verify is verifiers.mathematics else LAST_LINE
    return Task(name, split, problems, verify, candidate, 512, _space(problems))


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


def _local_rows(path: Path) -> Iterable[tuple[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a JSONL file with question and answer per line")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"{path.name} line {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path} line {number} is not JSON: {error}; correct the line"
                    ) from error


def _hub_rows(name: str, source: Source) -> Iterable[tuple[str, Any]]:
    if source.hub is None:
        raise FileNotFoundError(f"{name} is read from local files: give --data-dir with {source.file}")
    import datasets

    hub_id, config, part = source.hub
    try:
        rows = datasets.load_dataset(hub_id, config, split=part, revision=source.revision)
    except Exception as error:  # offline, gated, moved: a dozen types
        fix = f"connect once, or give --data-dir with {source.file}"
        raise ConnectionError(f"cannot load {hub_id}@{source.revision or 'main'} ({error}); {fix}") from error
    return ((f"{name}/{i}", row) for i, row in enumerate(rows))


def _asked(question: str) -> str:
    return f"{INSTRUCTION}\n\n{question}"


def _space(problems: Sequence[Problem]) -> int | None:
    """The number of different golds where they are few (yes/no, multiple choice), else None."""
    golds = len({p.answer for p in problems})
    return golds if golds <= min(20, len(problems) // 5) else None
