"""The paper's seven claims as statistics and fixed decision rules.

The rules were written down before any run was looked at and are not to be changed afterwards. Each claim is
confirmed, refuted or inconclusive *at this scale*; where neither rule applies it is inconclusive. If a
cold-started policy did not pass the gate (`adactrl/gate.py`), every claim is inconclusive.

Intervals are 95 % percentile bootstraps over problems with 1,000 resamples; a problem's samples of all seeds
stay together, and two arms are always compared on the same problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from adactrl.eval import Probe, Sample, agreement
from adactrl.tags import Mode
from shared import stats

Word = Literal["confirmed", "refuted", "inconclusive"]
TIERS = ("T1", "T2", "T3")


@dataclass(frozen=True)
class Statistic:
    """A named number with its 95 % interval (NaN bounds: a plain share without one)."""

    name: str
    estimate: float
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        interval = "" if np.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name} = {self.estimate:.3f}{interval}"


@dataclass(frozen=True)
class Verdict:
    claim: int
    statement: str
    statistics: tuple[Statistic, ...]
    verdict: Word
    n: int


@dataclass
class Evidence:
    """Everything the claims rest on: samples and probes per (arm, seed), and whether each seed passed the
    gate."""

    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    probes: dict[tuple[str, int], list[Probe]] = field(default_factory=dict)
    gate: dict[int, bool] = field(default_factory=dict)

    def matrix(self, arm: str, tier: str, mode: Mode, name: Literal["correct", "length"]) -> np.ndarray:
        """(problems, seeds x samples) values of one cell, problems in a fixed order.

        Where the grader failed, the mean of the problem's graded samples stands in: nothing is scored.
        """
        values: dict[str, list[float]] = {}
        for (of, _), rows in sorted(self.samples.items()):
            if of == arm:
                for row in rows:
                    if row.set == tier and row.mode == mode:
                        value = getattr(row, name)
                        values.setdefault(row.problem, []).append(np.nan if value is None else float(value))
        cell = np.array([values[problem] for problem in sorted(values)])
        return np.where(np.isnan(cell), np.nanmean(cell, axis=1, keepdims=True), cell)

    def arm_probes(self, arm: str, tier: str | None = None) -> list[Probe]:
        """Probes of all seeds; of one tier if given."""
        found = [p for (of, _), probes in sorted(self.probes.items()) if of == arm for p in probes]
        return [p for p in found if tier in (None, p.set)]


def _paired(
    name: str, a: np.ndarray, b: np.ndarray, of: Callable[[np.ndarray, np.ndarray], float]
) -> Statistic:
    return Statistic(name, *stats.paired_bootstrap(a, b, statistic=of))


def _saving(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - a.mean() / b.mean()


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    return a.mean() / b.mean()


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return a.mean() - b.mean()


def _decide(confirmed: bool, refuted: bool) -> Word:
    return "confirmed" if confirmed else "refuted" if refuted else "inconclusive"


def judge(evidence: Evidence) -> list[Verdict]:
    """All seven verdicts, in order."""
    rules = (_savings, _no_accuracy_loss, _ordering, _control, _difficulty, _two_stages, _evolving_labels)
    verdicts = [rule(evidence) for rule in rules]
    if evidence.gate and all(evidence.gate.values()):
        return verdicts
    return [Verdict(v.claim, v.statement, v.statistics, "inconclusive", v.n) for v in verdicts]


def _tier_savings(e: Evidence) -> dict[str, Statistic]:
    return {
        tier: _paired(
            f"s_{tier}",
            e.matrix("D", tier, "adaptive", "length"),
            e.matrix("B", tier, "adaptive", "length"),
            _saving,
        )
        for tier in TIERS
    }


def _savings(e: Evidence) -> Verdict:
    s = _tier_savings(e)
    confirmed = s["T1"].estimate >= 0.5 and s["T1"].low > 0 and s["T2"].low > 0
    refuted = s["T1"].estimate <= 0.1 or s["T1"].low <= 0 <= s["T1"].high
    statement = "responses get shorter than R1-SFT-RL's: s = 1 - length(D) / length(B)"
    return Verdict(1, statement, tuple(s.values()), _decide(confirmed, refuted), _size(e, "D"))


def _no_accuracy_loss(e: Evidence) -> Verdict:
    d = {
        tier: _paired(
            f"d_{tier}",
            e.matrix("D", tier, "adaptive", "correct"),
            e.matrix("B", tier, "adaptive", "correct"),
            _difference,
        )
        for tier in TIERS
    }
    judged = (d["T1"], d["T3"])  # T2 may trade accuracy for length: reported, not judged
    confirmed = all(x.estimate >= -0.03 and x.high >= 0 for x in judged)
    refuted = any(x.high < -0.03 for x in judged)
    statement = "no accuracy is lost on T1 and T3: d = accuracy(D) - accuracy(B)"
    return Verdict(2, statement, tuple(d.values()), _decide(confirmed, refuted), _size(e, "D"))


def _ordering(e: Evidence) -> Verdict:
    s = _tier_savings(e)
    gaps = []
    for easier, harder in (("T1", "T2"), ("T2", "T3")):
        # The tiers' problems differ, so each resample draws both tiers' problems by the same indices, arms
        # paired.
        cells = [e.matrix(arm, tier, "adaptive", "length") for tier in (easier, harder) for arm in ("D", "B")]
        width = cells[0].shape[1]

        def gap(a: np.ndarray, b: np.ndarray, width: int = width) -> float:
            return _saving(a[:, :width], a[:, width:]) - _saving(b[:, :width], b[:, width:])

        gaps.append(_paired(f"s_{easier} - s_{harder}", np.hstack(cells[:2]), np.hstack(cells[2:]), gap))
    confirmed = all(g.low > 0 for g in gaps) and s["T3"].estimate < 0.25
    refuted = s["T3"].estimate >= s["T1"].estimate
    statement = "the easier the tier, the larger the saving"
    return Verdict(3, statement, (*gaps, s["T3"]), _decide(confirmed, refuted), _size(e, "D"))


def _control(e: Evidence) -> Verdict:
    length = {(t, m): e.matrix("D", t, m, "length") for t in TIERS for m in ("adaptive", "easy", "hard")}
    ratios = [_paired(f"hard/easy {t}", length[t, "hard"], length[t, "easy"], _ratio) for t in TIERS]
    gain = _paired(
        "accuracy gain T3",
        e.matrix("D", "T3", "hard", "correct"),
        e.matrix("D", "T3", "easy", "correct"),
        _difference,
    )
    mean = {m: np.mean([length[t, m].mean() for t in TIERS]) for m in ("adaptive", "easy", "hard")}
    between = mean["easy"] <= mean["adaptive"] <= mean["hard"]
    confirmed = all(r.estimate >= 2 for r in ratios) and bool(between) and gain.estimate >= 0.10
    refuted = any(r.estimate < 1.3 for r in ratios)
    statement = "the user's tag sets the budget: length and accuracy in force-hard against force-easy mode"
    means = tuple(Statistic(f"mean length {m}", float(mean[m])) for m in ("easy", "adaptive", "hard"))
    return Verdict(4, statement, (*ratios, gain, *means), _decide(confirmed, refuted), _size(e, "D"))


def _agreement(name: str, probes: Sequence[Probe], key: str = "agreement") -> Statistic:
    def of(rows: np.ndarray) -> float:
        return agreement([probes[int(i)] for i in rows.ravel()])[key]

    return Statistic(name, *stats.bootstrap(_by_problem(probes), statistic=of))


def _by_problem(probes: Sequence[Probe]) -> np.ndarray:
    """(problems, seeds) positions in `probes`: a problem's probes of all seeds are resampled together."""
    rows: dict[tuple[str, str], list[int]] = {}
    for i, p in enumerate(probes):
        rows.setdefault((p.set, p.problem), []).append(i)
    return np.array(list(rows.values()))


def _difficulty(e: Evidence) -> Verdict:
    probes = e.arm_probes("D")
    share = {t: float(np.mean([p.easy_share for p in e.arm_probes("D", t)])) for t in TIERS}
    agree, auc = _agreement("balanced agreement", probes), _agreement("AUC of P([Easy])", probes, "auc")
    monotone = share["T1"] >= share["T2"] >= share["T3"]
    confirmed = (
        share["T1"] >= 0.8
        and share["T3"] <= 0.2
        and monotone
        and agree.estimate >= 0.8
        and auc.estimate >= 0.85
    )
    shares = tuple(Statistic(f"[Easy] share {t}", share[t]) for t in TIERS)
    statement = "the tag is a good estimate of difficulty: it agrees with the label of 16 rollouts"
    return Verdict(
        5, statement, (*shares, agree, auc), _decide(confirmed, agree.estimate <= 0.6), len(probes)
    )


def _agreement_gap(name: str, a: Sequence[Probe], b: Sequence[Probe], statistic: str) -> Statistic:
    """Difference in agreement of two arms on the same probe problems, resampled jointly."""

    def gap(rows: np.ndarray) -> float:
        i = rows.ravel().astype(int)
        return _agree([a[k] for k in i], statistic) - _agree([b[k] for k in i], statistic)

    return Statistic(name, *stats.bootstrap(_by_problem(a), statistic=gap))


def _agree(probes: Sequence[Probe], statistic: str) -> float:
    if statistic == "balanced":
        return agreement(probes)["agreement"]
    return float(np.mean([p.majority == p.label for p in probes]))


def _two_stages(e: Evidence) -> Verdict:
    calibrated = _agreement_gap("agreement D - C", e.arm_probes("D"), e.arm_probes("C"), "balanced")
    shorter = _paired(
        "length E / D on T1",
        e.matrix("E", "T1", "adaptive", "length"),
        e.matrix("D", "T1", "adaptive", "length"),
        _ratio,
    )
    # On one tier nearly all labels are equal, so the plain share of agreeing prompts is used there.
    without = _agreement_gap("T2 agreement D - F", e.arm_probes("D", "T2"), e.arm_probes("F", "T2"), "plain")
    shown = (calibrated.low > 0, shorter.estimate >= 1.5 and shorter.low > 1, without.low > 0)
    refuted = calibrated.low <= 0 and shorter.low <= 1 and without.low <= 0
    statement = "RL calibrates the cold start's estimate, and both reward terms matter (E: no r_l, F: no r_f)"
    return Verdict(
        6, statement, (calibrated, shorter, without), _decide(all(shown), refuted), len(e.arm_probes("D"))
    )


def _evolving_labels(e: Evidence) -> Verdict:
    statistics: list[Statistic] = []
    moved: list[bool] = []  # per tier whose labels moved: did the tags follow?
    for tier in TIERS:
        before, after = e.arm_probes("C", tier), e.arm_probes("D", tier)
        label = np.mean([p.label == "easy" for p in after]) - np.mean([p.label == "easy" for p in before])
        tag = np.mean([p.easy_share for p in after]) - np.mean([p.easy_share for p in before])
        statistics += [Statistic(f"label {tier}", float(label)), Statistic(f"tag {tier}", float(tag))]
        if round(abs(label), 9) >= 0.1:
            moved.append(bool(np.sign(tag) == np.sign(label)))
    statement = (
        "labels follow the policy: change of the easy-label share over RL, and of the [Easy]-tag share"
    )
    return Verdict(
        7,
        statement,
        tuple(statistics),
        _decide(any(moved), bool(moved) and not any(moved)),
        len(e.arm_probes("D")),
    )


def _size(e: Evidence, arm: str) -> int:
    """Problems of all tiers behind a comparison."""
    return sum(len(e.matrix(arm, tier, "adaptive", "length")) for tier in TIERS)
