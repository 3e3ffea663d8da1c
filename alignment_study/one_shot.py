"""Which single problem to train on (arXiv 2508.21188, RQ2), and the batch of its copies.

The release has neither selection code nor the chosen examples. "variance" is the recipe the study re-tests
(One-shot RLVR, arXiv 2504.20571): train on the pool, record every problem's accuracy over training, take the
one whose accuracy varied most. "near_half" needs no such run: one measurement of the base model will do.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Literal, TypeVar

from shared.seeding import derive_seed

How = Literal["variance", "random", "near_half"]
Problem = TypeVar("Problem")


def select(history: Mapping[str, Sequence[float]], how: str = "variance", seed: int = 0) -> str:
    """The id of the problem to train on; ties go to the smallest id, whatever the order of `history`.

    Args:
        history: problem id -> its accuracies in [0, 1] in the order of training, at least one each.
        how: "variance": highest population variance of the accuracies (0 for a single one).
            "near_half": mean accuracy closest to 0.5, among the problems whose first accuracy is strictly
            between 0 and 1 if there are any: at 0 or 1 the first steps have no gradient (claim 12).
            "random": uniform.
        seed: of "random"; the others do not draw.

    Raises:
        ValueError: an unknown `how`, an empty history, a problem without accuracies, one outside [0, 1].
    """
    if how not in ("variance", "random", "near_half"):
        raise ValueError(f"how={how!r} is not one of variance, random, near_half; pick one of these")
    if not history:
        raise ValueError("the history has no problems; record at least one accuracy of one problem")
    for name, accuracies in history.items():
        if not len(accuracies) or not all(0 <= accuracy <= 1 for accuracy in accuracies):
            raise ValueError(
                f"problem {name!r} has accuracies {list(accuracies)}; give at least one, each from 0 to 1"
            )
    names = sorted(history, key=str)
    if how == "random":
        return random.Random(derive_seed(seed, "one_shot")).choice(names)
    if how == "variance":
        return max(names, key=lambda name: pvariance(history[name]))  # max keeps the first of equals
    learnable = [name for name in names if 0 < history[name][0] < 1] or names
    return min(learnable, key=lambda name: abs(fmean(history[name]) - 0.5))


def copies(problem: Problem, count: int) -> list[Problem]:
    """The one-shot training set: `count` copies, the prompts per step. Each becomes a group of its own.

    Raises:
        ValueError: `count` below 1.
    """
    if count < 1:
        raise ValueError(f"count={count} copies make no batch; give at least 1, the prompts per step")
    return [problem] * count
