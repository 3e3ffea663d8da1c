"""Samples n answers per problem and grades them: strict, lenient, and whether the form is right.

* strict: the first <answer> holds the right answer. This is what RL and the tables use.
* lenient: strict, or the last candidate anywhere in the text is right; the difference is pure form (§2.3).
* formatted: <think>...</think> <answer>...</answer> and nothing else.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from alignment_study import rewards
from alignment_study.tasks import LOGIC_ANSWER, Problem, Task
from shared import answers, rollouts
from shared.rollouts import Sampling
from shared.seeding import derive_seed

ROWS = 2048  # samples between two steps of the progress bar
_TAGS = re.compile(r"</?(?:think|answer)>")
_told: set[str] = set()


@dataclass(frozen=True)
class Sample:
    """One graded completion. `length` counts tokens with the end token; None is a failed verifier."""

    problem: str
    subtask: str
    strict: bool | None
    lenient: bool | None
    formatted: bool
    length: int
    finished: bool
    text: str


def prompt_ids(
    tokenizer: Any, prompts: Sequence[str], say: Callable[[str], object] = print
) -> list[list[int]]:
    """Token ids of each prompt: in the chat template if the tokenizer has one, else as plain text.

    That there is none is said once per tokenizer.
    """
    if tokenizer.chat_template:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        return tokenizer(texts, add_special_tokens=False)["input_ids"]
    if tokenizer.name_or_path not in _told:
        _told.add(tokenizer.name_or_path)
        say(f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: prompts are plain text")
    return tokenizer(list(prompts))["input_ids"]


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The end tokens of tokenizer and generation config (an instruct model may have several)."""
    more = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])}
    return sorted(i for i in ids if i is not None)


def room(model: Any, prompts: Sequence[Sequence[int]], wanted: int) -> int:
    """`wanted` new tokens, or as many as the model's positions leave after the longest prompt.

    Raises:
        ValueError: a prompt alone fills them.
    """
    limit, longest = getattr(model.config, "max_position_embeddings", None), max(map(len, prompts))
    if limit is None or longest + wanted <= limit:
        return wanted
    if longest >= limit:
        raise ValueError(
            f"a prompt of {longest} tokens fills the model's {limit} positions; use another model"
        )
    return limit - longest


def candidate(text: str, task: Task) -> str | None:
    r"""The lenient answer: the last \boxed{}, else the last match of the task's pattern, tags left out.

    On logic tasks the last code block, list of lists or line, with the box that may be in it.
    """
    bare = _TAGS.sub(" ", text)
    boxes = task.candidate != LOGIC_ANSWER  # those verifiers look for the box themselves
    if boxes and (box := answers.last_boxed(bare)) is not None:
        return box.strip()
    matches = re.findall(task.candidate, bare)
    return matches[-1].strip() if matches else None


def grade(
    task: Task, problems: Sequence[Problem], texts: Sequence[str]
) -> list[tuple[bool | None, bool | None]]:
    """(strict, lenient) of each text as an answer to the problem beside it."""
    golds = [p.gold for p in problems]
    strict = task.grade([rewards.extract(text) for text in texts], golds)
    other = task.grade([candidate(text, task) for text in texts], golds)
    return [(s, s if s or o is None else o) for s, o in zip(strict, other, strict=True)]


def sample(
    model: Any,
    tokenizer: Any,
    task: Task,
    *,
    samples: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    title: str | None = None,
) -> list[list[Sample]]:
    """`samples` graded completions of every problem, one list per problem; a function of `seed`.

    `title` shows a progress bar on a terminal.
    """
    ids = prompt_ids(tokenizer, [p.prompt for p in task.problems])
    sampling = Sampling(room(model, ids, task.max_new_tokens), temperature, top_p)
    size = max(1, ROWS // samples)
    found: list[list[Sample]] = []
    starts = range(0, len(task.problems), size)
    hidden = title is None or not sys.stderr.isatty()
    for start in track(starts, title or "", console=Console(stderr=True), disable=hidden):
        part = slice(start, start + size)
        drawn = rollouts.generate(
            model,
            ids[part],
            samples=samples,
            sampling=sampling,
            stop_ids=stop_ids(model, tokenizer),
            generator=torch.Generator(device=model.device).manual_seed(
                derive_seed(seed, "sample", task.name, start)
            ),
        )
        texts = tokenizer.batch_decode(drawn.completion_ids, skip_special_tokens=True)
        problems = [p for p in task.problems[part] for _ in range(samples)]
        rows = [
            Sample(p.id, p.subtask, strict, lenient, rewards.is_formatted(text), len(row), ended, text)
            for p, (strict, lenient), text, row, ended in zip(
                problems,
                grade(task, problems, texts),
                texts,
                drawn.completion_ids,
                drawn.finished,
                strict=True,
            )
        ]
        found += [rows[i : i + samples] for i in range(0, len(rows), samples)]
    return found


def mean(rows: Sequence[Sequence[Sample]], what: str = "strict") -> float:
    """Share of samples with `what` (strict, lenient, formatted); failed gradings are left out, NaN if all."""
    values = [getattr(s, what) for group in rows for s in group if getattr(s, what) is not None]
    return sum(values) / len(values) if values else float("nan")
