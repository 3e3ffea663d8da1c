"""The gate between pre-training and RL at small scale (sheet §7.2): does the base know one family well and
another barely? Without that situation a comparison of rewards means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from alignment_study import sampling
from alignment_study.families import WORLDS, WorldName
from alignment_study.pass_at_k import curve
from alignment_study.sampling import Sample
from alignment_study.tasks import load_task
from shared.seeding import derive_seed

ALIGNED_PASS16 = 0.95
WEAK_PASS1 = (0.015, 0.05)
SUBTASK_PASS1, SUBTASKS = 0.005, 3
ITEMS, SAMPLES = 64, 16


@dataclass(frozen=True)
class Look:
    """What the model could do at one step, on validation items at temperature 1."""

    step: int
    aligned_pass1: float
    aligned_pass16: float
    aligned_format: float
    weak_pass1: float
    weak_pass16: float
    weak_format: float
    weak_subtasks: dict[str, float] = field(default_factory=dict)

    @property
    def spread(self) -> int:
        """How many weak sub-tasks are above SUBTASK_PASS1."""
        return sum(p > SUBTASK_PASS1 for p in self.weak_subtasks.values())

    @property
    def passed(self) -> bool:
        low, high = WEAK_PASS1
        known = self.aligned_pass16 >= ALIGNED_PASS16
        return known and low <= self.weak_pass1 <= high and self.spread >= SUBTASKS

    def __str__(self) -> str:
        return (
            f"step {self.step}: aligned pass@16 {self.aligned_pass16:.3f}, weak pass@1 {self.weak_pass1:.4f} "
            f"({self.spread} of {len(self.weak_subtasks)} sub-tasks above {SUBTASK_PASS1})"
        )


def answer(model: Any, tokenizer: Any, family: str, seed: int, step: int, items: int) -> list[list[Sample]]:
    """SAMPLES graded answers to each of `items` validation items, drawn as RL and the evaluation will."""
    task = load_task(family, split="validation", n=items, seed=seed)
    return sampling.sample(model, tokenizer, task, samples=SAMPLES, seed=derive_seed(seed, "gate", step))


def look(model: Any, tokenizer: Any, world: WorldName, seed: int, step: int, items: int = ITEMS) -> Look:
    """What the model can do now; a function of the arguments."""
    roles = {"aligned": WORLDS[world].aligned, "weak": WORLDS[world].weak}
    found = {role: answer(model, tokenizer, name, seed, step, items) for role, name in roles.items()}
    numbers: dict[str, float] = {}
    for role, rows in found.items():
        one, sixteen = curve([[s.strict for s in group] for group in rows], [1, SAMPLES])
        numbers |= {f"{role}_pass1": one.value, f"{role}_pass16": sixteen.value}
        numbers[f"{role}_format"] = sampling.mean(rows, "formatted")
    by_task: dict[str, list[Any]] = {}
    for group in found["weak"]:
        by_task.setdefault(group[0].subtask, []).append(group)
    return Look(step, **numbers, weak_subtasks={name: sampling.mean(g) for name, g in by_task.items()})
