"""Which groups a step trains on: the authors' dynamic sampling (sheet §2.4, their `dapo_ray_trainer.py`).

Groups whose rewards are all equal have no gradient. Keep the others; if they are fewer than the step needs,
sample once more, then

    (a) enough    cut to the step's size
    (b) too few   repeat the kept ones cyclically until the batch is full
    (c) none      train on the last unfiltered batch: all advantages are 0, so only weight decay and the
                  optimizer's momentum move the weights

P groups per step, G responses per group. A group is never split.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from typing import Any

from shared.seeding import derive_seed

MAX_GENERATION_BATCHES = 2  # authors' scripts


@dataclass(frozen=True)
class Group:
    """One prompt's G responses, rewarded and graded."""

    position: int  # in the run's order of prompts
    row: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[list[int]]
    logprobs: list[list[float]]
    texts: list[str]
    rewards: list[float]  # NaN: could not be graded
    correct: list[bool | None]  # the answer alone, without the format gate; None: could not be graded

    @property
    def failed(self) -> bool:
        """The grader failed on one of the responses, so the group's mean is unknown: it is not trained on."""
        return any(reward != reward for reward in self.rewards)

    @property
    def effective(self) -> bool:
        """Graded, and the rewards' standard deviation is above 0: the group has a gradient."""
        return not self.failed and len(set(self.rewards)) > 1


def fill(
    generate: Callable[[], list[Group]], size: int, max_batches: int = MAX_GENERATION_BATCHES
) -> list[Group]:
    """Exactly `size` groups by cases (a), (b), (c); `generate` samples one batch of `size` groups."""
    kept: list[Group] = []
    batch: list[Group] = []
    for _ in range(max_batches):
        batch = generate()
        kept += [group for group in batch if group.effective]
        if len(kept) >= size:
            break
    return list(islice(cycle(kept or batch), size))


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    return random.Random(derive_seed(seed, "prompts", epoch)).sample(range(count), count)


def prompt_at(position: int, count: int, seed: int) -> int:
    """The index of the prompt at `position` of an endless order: each epoch is a permutation of all `count`,
    fixed by (seed, epoch)."""
    epoch, offset = divmod(position, count)
    return _order(count, seed, epoch)[offset]
