"""Accuracies, gains and gain recovery of one world with hierarchical bootstrap intervals.

    GR(trick) = (acc_trick - acc_base) / (acc_GT - acc_base)        (sheet §1), per seed, then the mean

A resample draws seeds, then test items. All seeds and variants answer the same items and all variants of a
seed share their base, so both draws are common to them: differences are paired.

Everything here is an array of shape (1 + RESAMPLES, seeds) or, averaged over seeds, (1 + RESAMPLES,); row 0
is what was observed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignment_study.evidence import Evidence, Items, Role, Run
from shared.seeding import derive_seed

RESAMPLES = 2000
MIN_GAIN = 0.02  # a seed where ground truth gains less has no GR: it would be a ratio of noise
Array = NDArray[np.float64]
LETTER = {"aligned": "M", "transfer": "G", "weak": "L"}


@dataclass(frozen=True)
class Statistic:
    """A named number with its 95 % interval (NaN bounds: a plain number without one)."""

    name: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name} = {self.estimate:.3f}{interval}"


def statistic(name: str, draws: Array) -> Statistic:
    """Observed value and percentiles of (1 + RESAMPLES,) values; NaN where nothing is defined."""
    known = draws[1:][np.isfinite(draws[1:])]
    low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
    return Statistic(name, round(float(draws[0]), 9), float(low), float(high))


def p_value(draws: Array) -> float:
    """Two-sided bootstrap p of "the value is 0", never below 2 / (RESAMPLES + 1); 1 where undefined."""
    known = draws[1:][np.isfinite(draws[1:])]
    if not known.size:
        return 1.0
    tail = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (known.size + 1)))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values of one family of tests."""
    adjusted, running = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def over_seeds(values: Array) -> Array:
    """Mean over seeds of (1 + RESAMPLES, seeds), those without a value left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample in which no seed has one
        return np.nanmean(values, axis=1)


class World:
    """All cells of one world. A cell is a variant, the role that was trained on, and the role evaluated."""

    def __init__(self, evidence: Evidence, name: str, stream: str | None = None) -> None:
        """Worlds with the same `stream` (by default the name) draw the same seeds and items."""
        self.evidence, self.name, self.seeds = evidence, name, evidence.seeds(name)
        self.stream = stream or name
        rng = np.random.default_rng(derive_seed("resampling", self.stream, "seeds"))
        self.drawn_seeds = rng.integers(0, len(self.seeds), (RESAMPLES, len(self.seeds)))
        self._weights: dict[tuple[str, int], Array] = {}

    def has(self, variant: str, *trained: Role) -> bool:
        return all(self.evidence.has(self.name, role, variant) for role in trained)

    def has_all(self, variants: Sequence[str], trained: Role) -> bool:
        return all(self.has(variant, trained) for variant in variants)

    def runs(self, variant: str, trained: Role) -> list[Run]:
        """One per seed."""
        return [self.evidence.run(self.name, trained, variant, seed) for seed in self.seeds]

    def items(self, variant: str, trained: Role, role: Role, steps: list[int] | None = None) -> list[Items]:
        """One per seed, of the last step or of each seed's own."""
        runs = self.runs(variant, trained)
        return [r.items[role, s] for r, s in zip(runs, steps or [r.last for r in runs], strict=True)]

    def base_items(self, role: Role) -> list[Items]:
        """The base model's, before any RL."""
        return self.items("ground_truth", "weak", role, [0] * len(self.seeds))

    # ---- (1 + RESAMPLES, seeds)

    def means(self, values: Array, role: str, mask: Array | None = None) -> Array:
        """Mean over items of (seeds, items), observed and in every resample; `mask` keeps some items."""
        drawn = self._counts(role, values.shape[1])
        mask = np.ones_like(values) if mask is None else mask.astype(float)

        def weighted(of: Array) -> Array:
            resampled = (of @ drawn)[self.drawn_seeds, np.arange(RESAMPLES)[:, None]]
            return np.concatenate([of.sum(axis=1)[None], resampled])

        with np.errstate(invalid="ignore", divide="ignore"):
            return weighted(values * mask) / weighted(mask)

    def _counts(self, role: str, items: int) -> Array:
        """(items, RESAMPLES): how often each item is drawn."""
        if (role, items) not in self._weights:
            rng = np.random.default_rng(derive_seed("resampling", self.stream, role))
            drawn = rng.multinomial(items, np.full(items, 1 / items), RESAMPLES)
            self._weights[role, items] = drawn.T.astype(np.float64)
        return self._weights[role, items]

    def accuracy(
        self, variant: str, trained: Role, role: Role, what: str = "strict", steps: list[int] | None = None
    ) -> Array:
        found = self.items(variant, trained, role, steps)
        return self.means(np.stack([items.share(what) for items in found]), role)

    def base(self, role: Role, what: str = "strict") -> Array:
        return self.means(np.stack([items.share(what) for items in self.base_items(role)]), role)

    def recoveries(
        self, variant: str, trained: Role, role: Role, what: str = "strict", steps: list[int] | None = None
    ) -> Array:
        """GR of each seed; NaN where ground truth gains less than MIN_GAIN."""
        base = self.base(role, what)
        full = self.accuracy("ground_truth", trained, role, what) - base
        part = self.accuracy(variant, trained, role, what, steps) - base
        return np.where(full >= MIN_GAIN, part / np.where(full >= MIN_GAIN, full, 1), np.nan)

    # ---- over seeds, (1 + RESAMPLES,)

    def gains(
        self, variant: str, trained: Role, role: Role, what: str = "strict", steps: list[int] | None = None
    ) -> Array:
        return over_seeds(self.accuracy(variant, trained, role, what, steps) - self.base(role, what))

    def recovery(self, variant: str, trained: Role, role: Role, steps: list[int] | None = None) -> Array:
        return over_seeds(self.recoveries(variant, trained, role, steps=steps))

    # ---- named

    def gain(self, variant: str, trained: Role, role: Role) -> Statistic:
        return statistic(f"gain {variant} {cell(trained, role)}", self.gains(variant, trained, role))

    def gr(self, variant: str, trained: Role, role: Role) -> Statistic:
        return statistic(f"GR {variant} {cell(trained, role)}", self.recovery(variant, trained, role))

    def best_steps(self, variant: str, trained: Role, role: Role) -> list[int]:
        """Each seed's step, after step 0, with the highest accuracy: the best of the curve (claim 3)."""
        found = []
        for run in self.runs(variant, trained):
            later = [step for step in run.steps(role) if step > 0]
            found.append(max(later, key=lambda step: run.items[role, step].share().mean()))
        return found

    def subtask_mask(self, variant: str, trained: Role, role: Role) -> Array:
        """(seeds, items): 1 for items of the sub-task that the seed's one-shot example comes from."""
        rows = []
        for run, items in zip(self.runs(variant, trained), self.base_items(role), strict=True):
            example = run.example
            rows.append([float(example is not None and s == example.subtask) for s in items.subtasks])
        return np.array(rows)

    def subtask_gains(self, variant: str, trained: Role, role: Role, mask: Array) -> Array:
        """(1 + RESAMPLES, seeds) gain on the items of `mask` (seeds, items)."""
        after = np.stack([items.share() for items in self.items(variant, trained, role)])
        before = np.stack([items.share() for items in self.base_items(role)])
        return self.means(after - before, role, mask)

    def logged(self, variant: str, trained: Role, name: str) -> Array:
        """(1 + RESAMPLES, seeds) mean over training of a logged value; only seeds are drawn."""
        curves = [run.curves.get(name, {}) for run in self.runs(variant, trained)]
        seeds = np.array([np.mean(list(curve.values())) if curve else np.nan for curve in curves])
        return np.concatenate([seeds[None], seeds[self.drawn_seeds]])


def cell(trained: Role, role: Role) -> str:
    """``M`` for the family trained on, ``G|L`` for G after training on L."""
    return LETTER[role] if trained == role else f"{LETTER[role]}|{LETTER[trained]}"
