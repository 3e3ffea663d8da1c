"""Shares, differences and transfer changes with hierarchical bootstrap intervals.

A resample draws training seeds within each data set, then test drawings; all renderings of a drawing go
together. Both draws are common to all arms, so that differences are paired on the same prompts. The sets are
fixed. The transfer matrix has one seed: there a resample draws the sets tuned on, then test drawings.

Every array is (1 + RESAMPLES,); the first value is what was observed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_rl.evidence import Cell, Evidence, Key
from shared.seeding import derive_seed

RESAMPLES = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistic:
    """A named number with its 95 % interval (NaN bounds: a plain number without one; all NaN: nothing to
    measure)."""

    name: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        if np.isnan(self.estimate):
            return f"{self.name}: no such reply"
        interval = "" if np.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name} = {self.estimate:.3f}{interval}"

    @property
    def above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    @property
    def below(self) -> bool:
        return self.high < 0


def statistic(name: str, draws: Array) -> Statistic:
    """Observed value and percentiles; NaN where nothing is defined."""
    known = draws[1:][np.isfinite(draws[1:])]
    low, high = np.quantile(known, [0.025, 0.975]) if known.size else (np.nan, np.nan)
    return Statistic(name, round(float(draws[0]), 9), round(float(low), 9), round(float(high), 9))


def harmonic(base: Array, new: Array) -> Array:
    """H = 2BN / (B + N), elementwise; 0 where both are 0."""
    total = base + new
    return np.where(total > 0, 2 * base * new / np.where(total > 0, total, 1), 0.0)


def average(draws: Sequence[Array]) -> Array:
    """Mean over data sets, seeds or columns, those without a value left out; NaN of none."""
    if not draws:
        return np.full(1 + RESAMPLES, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample in which none has one
        return np.nanmean(np.stack(draws), axis=0)


class Draws:
    """All resamples of the evidence, the same for every arm."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._counts: dict[tuple[str, int], Array] = {}

    # ---- what is drawn

    def drawn_seeds(self, setting: str, tuned: str, count: int) -> NDArray[np.int64]:
        """(1 + RESAMPLES, count) positions; the first row is all seeds once."""
        rng = np.random.default_rng(derive_seed("seeds", setting, tuned, count))
        drawn = rng.integers(0, count, (RESAMPLES, count))
        return np.concatenate([np.arange(count)[None], drawn])

    def drawing_counts(self, stream: str, drawings: int) -> Array:
        """(drawings, 1 + RESAMPLES): how often each is drawn; the first column is once each."""
        if (stream, drawings) not in self._counts:
            rng = np.random.default_rng(derive_seed("drawings", stream))
            drawn = rng.multinomial(drawings, np.full(drawings, 1 / drawings), RESAMPLES).T.astype(float)
            self._counts[stream, drawings] = np.concatenate([np.ones((drawings, 1)), drawn], axis=1)
        return self._counts[stream, drawings]

    # ---- shares of one cell

    def share(
        self, setting: str, arm: str, tuned: str, test: str, seeds: Sequence[int], what: str = "exact",
        given: str = "",
    ) -> Array:  # fmt: skip
        """Mean over seeds of the mean of `what` (see `Cell.values`), of the images that are `given`."""
        cells = [self.evidence.cells[Key(setting, arm, tuned, test, seed)] for seed in seeds]
        names, _ = cells[0].clusters
        stream = f"{tuned}/{test}" if setting == "base_to_new" else test
        counts = self.drawing_counts(stream, len(names))

        def sums(name: str) -> Array:  # (seeds, 1 + RESAMPLES)
            return np.stack([_per_drawing(cell, name) for cell in cells]) @ counts

        with np.errstate(invalid="ignore", divide="ignore"):
            shares = sums(f"{what} & {given}" if given else what) / (sums(given) if given else sums(""))
        rows = self.drawn_seeds(setting, tuned, len(seeds))
        return average(list(shares[rows.T, np.arange(1 + RESAMPLES)]))

    def over_runs(self, setting: str, tuned: str, values: Sequence[float]) -> Array:
        """Mean of a number per seed (of `curves`); only seeds are drawn, as `share` draws them."""
        rows = self.drawn_seeds(setting, tuned, len(values))
        return average(list(np.asarray(values, dtype=float)[rows].T))

    # ---- the transfer matrix

    def change(
        self, arm: str, zero: str, tuned: str, test: str, seeds: Sequence[int], part: str = "exact"
    ) -> Array:
        """Accuracy on `test` after tuning on `tuned`, minus before.

        part: "exact", or one of its two summands: "in_list" (the share of answers in the list changed, at the
        mean accuracy given the list) and "given" (accuracy given the list changed, at the mean share).
        """
        after = ("few_shot", arm, tuned, test, seeds)
        before = ("few_shot", zero, test, test, seeds)
        if part == "exact":
            return self.share(*after) - self.share(*before)
        rates = [self.share(*where, what="in_list") for where in (after, before)]
        accuracies = [_known(self.share(*where, given="in_list")) for where in (after, before)]
        if part == "in_list":
            return (rates[0] - rates[1]) * (accuracies[0] + accuracies[1]) / 2
        return (accuracies[0] - accuracies[1]) * (rates[0] + rates[1]) / 2

    def over_rows(self, cell: Callable[[str, str], Array], names: Sequence[str]) -> Array:
        """Mean over rows of the mean off-diagonal `cell(tuned, test)`; a resample draws rows."""
        rows = np.stack([average([cell(row, test) for test in names if test != row]) for row in names])
        rng = np.random.default_rng(derive_seed("rows", len(names)))
        drawn = rng.integers(0, len(names), (RESAMPLES, len(names)))
        chosen = np.concatenate([np.arange(len(names))[None], drawn])
        return rows[chosen.T, np.arange(1 + RESAMPLES)].mean(axis=0)


def _known(values: Array) -> Array:
    """0 for the accuracy of answers of which there are none: it then has no weight."""
    return np.nan_to_num(values)


def _per_drawing(cell: Cell, name: str) -> Array:
    """(drawings,) sums of a value; of "" the number of images."""
    names, rows = cell.clusters
    values = cell.values(name) if name else np.ones(len(rows))
    return np.bincount(rows, values, minlength=len(names)).astype(float)
