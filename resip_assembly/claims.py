"""The paper's claims as statistics and fixed decision rules (sheet §7.6).

The rules were written down before any run was looked at and are not to be changed afterwards. Per task a
claim is confirmed, refuted or inconclusive *at this scale*; where neither rule applies, or with fewer than
512 episodes or 3 training seeds per cell, it is inconclusive. Where the table says only "clear" or "no", the
numbers below do; they are ours.

Rates pool the training seeds. Differences are paired: every policy is judged on the same held-out episodes,
and a bootstrap resample draws episodes, all seeds of one together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from resip_assembly.arms import residual_config
from resip_assembly.corrections import BINS_MM, median
from resip_assembly.evidence import Evidence
from shared import stats

Word = Literal["confirmed", "refuted", "inconclusive"]
MIN_EPISODES, MIN_SEEDS = 512, 3  # per cell
ENOUGH_STEPS = 3_000_000  # before then a small gain may be a short training (claims 2, 3)
CLEAR, NONE = 0.10, 0.05  # "clear drop": at least; "no drop", "no change": the interval lies below
SLOPE = 0.05  # success per decade of demonstrations at which data has saturated (claim 6)
FEW_MM, MUCH_MM, RARE, OFTEN = 5.0, 10.0, 0.01, 0.10  # median |αμ|; share of steps beyond 20 mm (claim 11)
SAME_BUDGET = 1.02  # ratio of environment steps that still counts as equal


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


@dataclass(frozen=True)
class Verdict:
    claim: str
    task: str
    statement: str
    statistics: tuple[Statistic, ...]
    verdict: Word
    episodes: int  # per cell, all seeds
    seeds: int


def judge(evidence: Evidence) -> list[Verdict]:
    """Every claim that there are runs for, claim by claim."""
    verdicts = [
        rule(evidence, task)
        for rule, needs in RULES.items()
        for task in evidence.tasks()
        if evidence.seeds(task, *needs) and (rule is not _small_and_local or evidence.corrections_of(task))
    ]
    return [
        v if v.episodes >= MIN_EPISODES and v.seeds >= MIN_SEEDS else replace(v, verdict="inconclusive")
        for v in verdicts
    ]


def rate(e: Evidence, task: str, policy: str) -> float:
    """Success rate, seeds pooled."""
    return float(e.success(task, policy, e.seeds(task, policy)).mean())


def difference(e: Evidence, task: str, a: str, b: str, seeds: list[int] | None = None) -> Statistic:
    """SR(a) - SR(b) on the same episodes and seeds, by default all that both have."""
    seeds = seeds or e.seeds(task, a, b)
    first, second = (e.success(task, policy, seeds) for policy in (a, b))
    estimate, low, high = stats.paired_bootstrap(first, second)
    return Statistic(f"{a} - {b}", round(estimate, 9), low, high)  # 0.6 - 0.5 is 0.1


def _verdict(
    e: Evidence,
    task: str,
    claim: str,
    statement: str,
    statistics: Sequence[Statistic],
    confirmed: bool,
    refuted: bool,
    policies: Sequence[str],
) -> Verdict:
    """Both at once, which the table does not exclude, is inconclusive."""
    word: Word = "inconclusive"
    if confirmed != refuted:
        word = "confirmed" if confirmed else "refuted"
    seeds = e.seeds(task, *policies)
    episodes = e.success(task, policies[0], seeds).size
    return Verdict(claim, task, statement, tuple(statistics), word, episodes, len(seeds))


# ---- the rules, in the table's order


def _chunks(e: Evidence, task: str) -> Verdict:
    """Confirmed: > 0 with its interval in at least 3 seeds. Refuted: MLP-S >= MLP-C."""
    d = difference(e, task, "mlp_c", "mlp_s")
    clear = sum(difference(e, task, "mlp_c", "mlp_s", [s]).low > 0 for s in e.seeds(task, "mlp_c", "mlp_s"))
    shorter = [difference(e, task, "dp", f"dp_{k}") for k in (4, 2, 1) if e.seeds(task, "dp", f"dp_{k}")]
    statement = "a policy that predicts chunks beats one that predicts steps; the base, re-planning sooner"
    found = (d, Statistic("seeds clearly above 0", clear), *shorter)
    return _verdict(e, task, "1", statement, found, clear >= 3, d.estimate <= 0, ("mlp_c", "mlp_s"))


def _gain(e: Evidence, task: str) -> Verdict:
    """Confirmed: at least +25 points to at least 88 %. Refuted: less than 10 points after 3 M steps, or not
    above MLP-C + PPO."""
    gain = difference(e, task, "resip", "dp")
    reached = rate(e, task, "resip")
    steps = min(e.env_steps[task, "resip", s] for s in e.seeds(task, "resip"))
    against = [difference(e, task, "resip", "mlp_c_ppo")] if e.seeds(task, "resip", "mlp_c_ppo") else []
    small = gain.estimate < 0.10 and steps >= ENOUGH_STEPS
    refuted = small or any(d.estimate <= 0 for d in against)
    statement = "the residual lifts the frozen base by a wide margin"
    found = (gain, Statistic("resip", reached), *against, Statistic("M steps", steps / 1e6))
    confirmed = gain.estimate >= 0.25 and reached >= 0.88
    return _verdict(e, task, "2, 3", statement, found, confirmed, refuted, ("resip", "dp"))


def _against_fine_tuning(e: Evidence, task: str) -> Verdict:
    """At equal steps. Confirmed: > 0, the interval excludes 0. Refuted: <= 0."""
    d = difference(e, task, "resip", "mlp_c_ppo")
    seeds = e.seeds(task, "resip", "mlp_c_ppo")
    ours, theirs = (sum(e.env_steps[task, p, s] for s in seeds) for p in ("resip", "mlp_c_ppo"))
    ratio = ours / theirs
    # an unequal budget decides only against the side that had more
    confirmed, refuted = d.low > 0 and ratio <= SAME_BUDGET, d.estimate <= 0 and ratio >= 1 / SAME_BUDGET
    statement = "the residual beats PPO on the chunked policy at equal environment steps"
    found = (d, Statistic("ratio of steps", ratio))
    return _verdict(e, task, "4", statement, found, confirmed, refuted, ("resip", "mlp_c_ppo"))


def _against_reranking(e: Evidence, task: str) -> Verdict:
    """Confirmed: within 8 points of the base. Refuted: closes more than half of the gap to ResiP."""
    d, gap = difference(e, task, "rerank", "dp"), difference(e, task, "resip", "dp")
    closes = gap.estimate > 0 and d.estimate > gap.estimate / 2
    statement = "re-ranking the frozen base's own samples by value does not help"
    needs = ("rerank", "dp", "resip")
    return _verdict(e, task, "5", statement, (d, gap), abs(d.estimate) <= 0.08, closes, needs)


def _saturation(e: Evidence, task: str) -> Verdict:
    """Confirmed: the last slope per decade is below 5 points, and 5,000 demonstrations stay below ResiP.
    Refuted: they do not."""
    cloned = {residual_config(task).demos.episodes: "dp"}
    cloned |= {n: f"student_demos_{n}" for n in (200, 1000, 5000)}
    sizes = [n for n in sorted(cloned) if e.seeds(task, cloned[n])]
    rates = [rate(e, task, cloned[n]) for n in sizes]
    short = difference(e, task, "resip", cloned[sizes[-1]])
    slope = float(np.diff(rates)[-1] / np.diff(np.log10(sizes))[-1])
    confirmed = sizes[-1] >= 5000 and slope < SLOPE and short.low > 0
    statement = "cloning saturates with data below ResiP"
    found = (short, Statistic("last slope per decade", slope))
    found += tuple(Statistic(f"{n} demos", r) for n, r in zip(sizes, rates, strict=True))
    needs = ("resip", cloned[sizes[-1]])
    return _verdict(e, task, "6", statement, found, confirmed, short.estimate <= 0, needs)


def _dagger(e: Evidence, task: str) -> Verdict:
    """Confirmed: between base and ResiP. Refuted: >= ResiP."""
    above, below = difference(e, task, "dagger", "dp"), difference(e, task, "resip", "dagger")
    statement = "DAgger with ResiP as teacher helps but does not close the gap"
    confirmed, needs = above.low > 0 and below.low > 0, ("dagger", "dp", "resip")
    return _verdict(e, task, "7", statement, (above, below), confirmed, below.estimate <= 0, needs)


def _source(e: Evidence, task: str) -> Verdict:
    """Confirmed: ResiP > demos > BC rollouts, of equal numbers. Refuted: the order is broken."""
    statement = "rollouts of ResiP teach better than demonstrations, those better than the base's rollouts"
    return _order(e, task, "8, 9", statement, RULES[_source])


def _source_seeing(e: Evidence, task: str) -> Verdict:
    """The same rule for students that see; the paper's numbers (73, 50, 23 to 32 %) are theirs."""
    statement = "the same for students that see"
    return _order(e, task, "8, 9 images", statement, RULES[_source_seeing])


def _order(e: Evidence, task: str, claim: str, statement: str, needs: tuple[str, ...]) -> Verdict:
    pairs = [difference(e, task, a, b) for a, b in itertools.pairwise(needs)]
    confirmed, refuted = all(d.low > 0 for d in pairs), any(d.estimate <= 0 for d in pairs)
    return _verdict(e, task, claim, statement, pairs, confirmed, refuted, needs)


def _closed_loop(e: Evidence, task: str) -> Verdict:
    """One residual per chunk instead of per step. Confirmed: a clear drop. Refuted: none."""
    drop = difference(e, task, "resip", "resip_held")
    statement = "correcting every step matters: the residual held for a chunk is worse"
    confirmed = drop.estimate >= CLEAR and drop.low > 0
    needs = ("resip", "resip_held")
    return _verdict(e, task, "closed loop", statement, (drop,), confirmed, drop.high < NONE, needs)


def _small_and_local(e: Evidence, task: str) -> Verdict:
    """Confirmed: larger near contact (within 10 mm of the goal against beyond 100 mm), a median of a few mm,
    beyond 2 cm hardly ever. Refuted: uniform, or large everywhere."""
    found = e.corrections_of(task)
    near, far = (np.stack([c.median_mm[:, b] for c in found], axis=1) for b in (0, -1))
    typical = np.median(np.concatenate([c.median_mm[c.steps > 0] for c in found]))
    large = sum(c.large.sum() for c in found) / sum(c.steps.sum() for c in found)
    statement = f"corrections are small and local: |αμ| within {BINS_MM[1]:g} mm of the goal and beyond 10 cm"
    ratio = Statistic("near / far", *_bootstrap_ratio(near, far))
    statistics = (
        ratio,
        Statistic("median near, mm", median(near)),
        Statistic("median far, mm", median(far)),
        Statistic("median, mm", float(typical)),
        Statistic("share beyond 20 mm", float(large)),
    )
    confirmed = bool(ratio.low > 1 and typical <= FEW_MM and large <= RARE)
    refuted = bool(ratio.high <= 1 or typical > MUCH_MM or large > OFTEN)
    episodes = sum(len(c.steps) for c in found)
    word: Word = "refuted" if refuted else "confirmed" if confirmed else "inconclusive"
    return Verdict("11", task, statement, statistics, word, episodes, len(found))


def _bootstrap_ratio(near: np.ndarray, far: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the medians over episodes (E, seeds), NaN where an episode was never there or without any
    correction; resamples draw episodes."""

    def ratio(rows: np.ndarray, _: np.ndarray) -> float:
        i = rows.astype(int)
        return median(near[i]) / (median(far[i]) or float("nan"))

    return stats.paired_bootstrap(np.arange(len(near)), np.arange(len(near)), statistic=ratio)


def _randomness(e: Evidence, task: str) -> Verdict:
    """Doubled initial spread. Confirmed: the gain shrinks and ResiP falls by 10 to 25 points. Refuted: no
    change."""
    fall = difference(e, task, "resip", "resip_med")  # other initial states: paired in name only
    gains = [difference(e, task, a, b) for a, b in (("resip", "dp"), ("resip_med", "dp_med"))]
    confirmed = gains[1].estimate < gains[0].estimate and 0.10 <= fall.estimate <= 0.25
    statement = "the gain is smaller when the initial states spread twice as wide"
    needs = ("resip", "dp", "resip_med", "dp_med")
    return _verdict(e, task, "14", statement, (fall, *gains), confirmed, fall.high < NONE, needs)


RULES: dict[Callable[[Evidence, str], Verdict], tuple[str, ...]] = {
    _chunks: ("mlp_c", "mlp_s"),
    _gain: ("resip", "dp"),
    _against_fine_tuning: ("resip", "mlp_c_ppo"),
    _against_reranking: ("rerank", "dp", "resip"),
    _saturation: ("dp", "resip", "student_demos_200"),
    _dagger: ("dagger", "dp", "resip"),
    _source: ("student_residual", "student_demos_200", "student_base"),
    _source_seeing: ("vision_residual_200", "vision_demos_200", "vision_base_200"),
    _closed_loop: ("resip", "resip_held"),
    _small_and_local: ("resip",),
    _randomness: ("resip", "dp", "resip_med", "dp_med"),
}
