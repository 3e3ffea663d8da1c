"""Means, differences and their hierarchical bootstrap intervals (sheet §7.8).

A resample draws seeds, then environments. All arms and seeds are judged on the same environments, and the run
of a seed starts from that seed's base model, so both draws are common to all arms: differences are paired.
Arrays of draws have shape (1 + RESAMPLES,); the first entry is what was observed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from shared.seeding import derive_seed
from tool_env_rl.evaluation import Evaluation, chain_answers
from tool_env_rl.evidence import Evidence
from tool_env_rl.metrics import EpisodeScore, solve_scores

RESAMPLES = 10_000
Array = NDArray[np.float64]
Measure = Callable[[Evaluation], list[float]]  # a value per environment, in a fixed order


@dataclass(frozen=True)
class Statistic:
    """A named number with its 95 % interval and the p-value of "it is 0" (NaN: a plain number without)."""

    name: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")

    @property
    def above(self) -> bool:
        """Clearly above 0, the family's adjustment included."""
        return self.low > 0 and self.p < 0.05

    @property
    def below(self) -> bool:
        """Clearly below 0, likewise."""
        return self.high < 0 and self.p < 0.05

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name} = {self.estimate:.3f}{interval}"


def statistic(name: str, draws: Array) -> Statistic:
    """Observed value, percentiles and two-sided bootstrap p; NaN where a resample has no value."""
    if not np.isfinite(draws).all():
        return Statistic(name, float(draws[0]))
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    tail = min((draws[1:] <= 0).sum(), (draws[1:] >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / len(draws))
    return Statistic(name, round(float(draws[0]), 9), float(low), float(high), float(p))


def holm(family: Sequence[Statistic]) -> list[Statistic]:
    """The same statistics with Holm's step-down adjusted p-values."""
    adjusted, running = list(family), 0.0
    for rank, index in enumerate(sorted(range(len(family)), key=lambda i: family[i].p)):
        running = max(running, min(1.0, (len(family) - rank) * family[index].p))
        adjusted[index] = replace(family[index], p=running)
    return adjusted


@cache
def _seed_draws(seeds: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(derive_seed("resampling", "seeds"))
    return rng.integers(0, seeds, (RESAMPLES, seeds))


@cache
def _counts(stream: str, environments: int) -> NDArray[np.float32]:
    """(environments, RESAMPLES): how often each one is drawn."""
    if not environments:
        return np.zeros((0, RESAMPLES), np.float32)  # a set that was not evaluated: all means are NaN
    rng = np.random.default_rng(derive_seed("resampling", stream))
    shares = np.full(environments, 1 / environments)
    return rng.multinomial(environments, shares, RESAMPLES).T.astype(np.float32)


def totals(values: Array, stream: str) -> Array:
    """(1 + RESAMPLES,) sums over environments of (seeds, environments), averaged over seeds."""
    drawn = (values @ _counts(stream, values.shape[1]))[
        _seed_draws(len(values)), np.arange(RESAMPLES)[:, None]
    ]
    return np.concatenate([[values.sum(axis=1).mean()], drawn.mean(axis=1)])


def mean(values: Array, stream: str, mask: Array | None = None) -> Array:
    """(1 + RESAMPLES,) mean over environments, of those with mask 1 where one is given, and over seeds."""
    mask = np.ones(values.shape[1]) if mask is None else mask
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals(values * mask, stream) / totals(np.tile(mask, (len(values), 1)), stream)


# ---- what is measured on one environment


def _solve(index: int, count: str = "solved") -> Measure:
    return lambda run: [solve_scores(s.total, s.calls, getattr(s, count))[index] for s in run.test]


def _answers(run: Evaluation, *scenarios: str) -> list[float]:
    pairs = zip(run.chains, run.direct, strict=True)
    found = [chain_answers(*pair) for pair in pairs]
    return [float(np.mean([answer[s] for s in scenarios])) for answer in found]  # type: ignore[index]


def _noisy(*names: str) -> Measure:
    return lambda run: [float(np.mean([flags[name] for name in names])) for _, flags in run.noisy]


# name → (the draws' stream, the measure)
MEASURES: dict[str, tuple[str, Measure]] = {
    "solve_p": ("test", _solve(0)),
    "solve_r": ("test", _solve(1)),
    "solve_f1": ("test", _solve(2)),
    "solve_f1_strict": ("test", _solve(2, "solved_strict")),
    "solve_f1_unguarded": ("test", _solve(2, "solved_unguarded")),
    "answer": ("test", lambda run: [float(bool(s.answer_correct)) for s in run.test]),
    "chains": ("chains", lambda run: _answers(run, "Direct", "Mandatory", "Free")),
    "direct": ("chains", lambda run: _answers(run, "Direct")),
    "mandatory": ("chains", lambda run: _answers(run, "Mandatory")),
    "free": ("chains", lambda run: _answers(run, "Free")),
    "noisy": ("noisy", _noisy("TS", "PI", "CF")),
    "noisy_TS": ("noisy", _noisy("TS")),
    "noisy_PI": ("noisy", _noisy("PI")),
    "noisy_CF": ("noisy", _noisy("CF")),
    "tables": ("tables", lambda run: [float(s.right) for s in run.tables]),
    "general": ("general", lambda run: [float(r) for flags in run.general.values() for r in flags]),
}


def values(evidence: Evidence, arm: str, seeds: Sequence[int], measure: str) -> Array:
    """(seeds, environments)."""
    of = MEASURES[measure][1]
    return np.array([of(run) for run in evidence.of(arm, seeds)], dtype=float)


def scenario_mask(evidence: Evidence, arm: str, seed: int, scenarios: Sequence[str]) -> Array:
    """(environments,) of the test set: 1 for those of the given scenarios."""
    return np.array([float(s.scenario in scenarios) for s in evidence.runs[arm, seed].test])


def of_arm(
    evidence: Evidence,
    arm: str,
    measure: str,
    seeds: Sequence[int] | None = None,
    scenarios: Sequence[str] | None = None,
) -> Array:
    """Draws of an arm's mean, by default over all its seeds and scenarios."""
    seeds = list(seeds or evidence.seeds(arm))
    mask = scenario_mask(evidence, arm, seeds[0], scenarios) if scenarios else None
    return mean(values(evidence, arm, seeds, measure), MEASURES[measure][0], mask)


def difference(
    evidence: Evidence, first: str, second: str, measure: str, scenarios: Sequence[str] | None = None
) -> Array:
    """Draws of first minus second, on the seeds that both have."""
    seeds = evidence.seeds(first, second)
    a, b = (of_arm(evidence, arm, measure, seeds, scenarios) for arm in (first, second))
    return a - b


def calls_per_turn(evidence: Evidence, arm: str, seeds: Sequence[int]) -> Array:
    """Draws of all calls over all turns of the test set."""

    def counted(of: Callable[[EpisodeScore], int]) -> Array:
        rows = [[float(of(score)) for score in run.test] for run in evidence.of(arm, seeds)]
        return totals(np.array(rows), "test")

    with np.errstate(invalid="ignore", divide="ignore"):
        return counted(lambda s: s.calls) / counted(lambda s: s.turns)


def level_correlation(evidence: Evidence, arm: str) -> Array:
    """Draws of Spearman's correlation between complexity level and Solve-F1 over environments and levels.

    Question i is drawn at all levels together. A set without any difference has no correlation: 0.
    """
    seeds = evidence.seeds(arm)
    by_level = np.array([_level_rows(run) for run in evidence.of(arm, seeds)])  # (S, L, E)
    drawn_seeds, rng = _seed_draws(len(seeds)), np.random.default_rng(derive_seed("resampling", "levels"))
    found = [_rank_correlation(by_level)]
    for draw in drawn_seeds:
        chosen = rng.integers(0, by_level.shape[2], by_level.shape[2])
        found.append(_rank_correlation(by_level[draw][:, :, chosen]))
    return np.array(found)


def _level_rows(run: Evaluation) -> list[list[float]]:
    levels = sorted({level for level, _ in run.levels})
    return [
        [solve_scores(s.total, s.calls, s.solved)[2] for of, s in run.levels if of == level]
        for level in levels
    ]


def _rank_correlation(by_level: Array) -> float:
    """Spearman's of (seeds, levels, environments) against the level."""
    ranks = rankdata(by_level).reshape(by_level.shape)
    levels = np.arange(by_level.shape[1], dtype=float)
    mean_ranks = ranks.mean(axis=(0, 2))
    spread = ranks.std() * levels.std()
    covariance = ((mean_ranks - ranks.mean()) * (levels - levels.mean())).mean()
    return float(covariance / spread) if spread > 0 else 0.0
