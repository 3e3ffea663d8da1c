"""Contamination probe: does the model continue a test question it should not have seen? (sheet §2.8)

Each question is cut after 40, 60 and 80 % of its words; the model continues greedily, without chat template.
As in arXiv 2507.10532, which the paper reuses: exact match and ROUGE-L of the continuation with the true
rest, and whether the right answer comes out of a part of the question.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track

from alignment_study import sampling
from alignment_study.tasks import Task
from shared import rollouts, stats
from shared.rollouts import Sampling

SHARES = (0.4, 0.6, 0.8)
Interval = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True)
class Probe:
    """One share: means with 95 % intervals over `problems`; answer accuracy is NaN if no grading worked."""

    share: float
    exact_match: Interval
    rouge_l: Interval
    answer_accuracy: Interval
    problems: int


def cut(question: str, share: float) -> tuple[str, str] | None:
    """(the first `share` of the words, the rest), both at least one word; None for a single word.

    Raises:
        ValueError: share not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} of the question: need a number between 0 and 1, such as 0.6")
    ends = [match.end() for match in re.finditer(r"\S+", question)]
    if len(ends) < 2:
        return None
    at = ends[min(max(int(share * len(ends) + 1e-9), 1), len(ends) - 1) - 1]
    return question[:at], question[at:].strip()


def exact_match(continuation: str, rest: str) -> bool:
    """Whether the continuation begins with the rest, white space aside."""
    words = rest.split()
    return continuation.split()[: len(words)] == words


def rouge_l(continuation: str, rest: str) -> float:
    """F1 of the longest common subsequence of words, in lower case; the continuation is cut to the rest's
    length, since a model goes on to answer."""
    right = rest.lower().split()
    left = continuation.lower().split()[: len(right)]
    common = _longest_common_subsequence(left, right)
    return 2 * common / (len(left) + len(right)) if right else 0.0


def _longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    row = [0] * (len(right) + 1)  # of the prefixes of `right`
    for word in left:
        diagonal = 0
        for j, other in enumerate(right, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def probe(
    model: Any, tokenizer: Any, task: Task, shares: Sequence[float] = SHARES, title: str | None = None
) -> list[Probe]:
    """One row per share. Questions of one word cannot be cut and are left out.

    Raises:
        ValueError: no question has two words.
    """
    found = []
    hidden = title is None or not sys.stderr.isatty()
    for share in track(shares, title or "", console=Console(stderr=True), disable=hidden):
        cuts = [(p, parts) for p in task.problems if (parts := cut(p.question, share))]
        if not cuts:
            raise ValueError(
                f"{task.name}: no question of {len(task.problems)} has two words to be cut between"
            )
        rest_tokens = max(len(tokenizer(rest)["input_ids"]) for _, (_, rest) in cuts)
        ids = tokenizer([start for _, (start, _) in cuts])["input_ids"]
        budget = sampling.room(model, ids, rest_tokens + task.max_new_tokens)
        drawn = rollouts.generate(
            model,
            ids,
            sampling=Sampling(budget, temperature=0),
            stop_ids=sampling.stop_ids(model, tokenizer),
        )
        texts = tokenizer.batch_decode(drawn.completion_ids, skip_special_tokens=True)
        grades = sampling.grade(task, [p for p, _ in cuts], texts)
        answered = [float(lenient) for _, lenient in grades if lenient is not None]
        matched = [exact_match(text, rest) for text, (_, (_, rest)) in zip(texts, cuts, strict=True)]
        overlap = [rouge_l(text, rest) for text, (_, (_, rest)) in zip(texts, cuts, strict=True)]
        found.append(
            Probe(
                share,
                _share_of(matched),
                stats.bootstrap(overlap),
                _share_of(answered),
                len(cuts),
            )
        )
    return found


def _share_of(values: Sequence[float]) -> Interval:
    if not values:
        return float("nan"), float("nan"), float("nan")
    right = int(sum(values))
    return right / len(values), *stats.wilson(right, len(values))
