"""The seven decision rules (sheet §7.6) on constructed worlds that confirm, refute or decide nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from adactrl import claims
from adactrl.claims import TIERS, Evidence, Statistic
from adactrl.eval import Probe, Sample
from adactrl.tags import MODES

PROBLEMS, SEEDS = 40, (1, 2)
# tier -> mode -> (mean length, accuracy)
BASELINE = {"T1": (50, 0.95), "T2": (60, 0.80), "T3": (70, 0.40)}
OURS = {
    "T1": {"adaptive": (10, 0.95), "easy": (9, 0.94), "hard": (50, 0.96)},
    "T2": {"adaptive": (30, 0.75), "easy": (15, 0.50), "hard": (60, 0.80)},
    "T3": {"adaptive": (66, 0.40), "easy": (20, 0.05), "hard": (70, 0.40)},
}
# tier -> (easy label share, share of prompts whose majority tag is easy)
PROBES = {
    "C": {"T1": (1.0, 0.7), "T2": (0.4, 0.5), "T3": (0.0, 0.3)},
    "D": {"T1": (1.0, 1.0), "T2": (0.6, 0.6), "T3": (0.0, 0.0)},
    "F": {"T1": (1.0, 1.0), "T2": (0.6, 0.1), "T3": (0.0, 0.0)},
}


def cell(tier: str, mode: str, length: float, accuracy: float, seed: int, samples: int = 2) -> list[Sample]:
    rng = np.random.default_rng([seed, TIERS.index(tier), MODES.index(mode)])
    rows = []
    for i in range(PROBLEMS):
        for _ in range(samples):
            jitter = int(rng.integers(-3, 4))
            tag = None if mode == "adaptive" else mode
            correct = bool(i < round(accuracy * PROBLEMS))
            rows.append(Sample(tier, f"{tier}/test/{i}", mode, tag, correct, int(length) + jitter, False, ""))
    return rows


def probes(shares: dict[str, tuple[float, float]], count: int = 20) -> list[Probe]:
    """Of each tier's prompts the first ones have the easy label, and the first ones get the easy tag."""
    found = []
    for tier, (labels, tags) in shares.items():
        for i in range(count):
            label = "easy" if i < round(labels * count) else "hard"
            easy = i < round(tags * count)
            accuracy = 0.9 if label == "easy" else 0.3
            found.append(Probe(tier, f"{tier}/{i}", accuracy, label, float(easy), 0.99 * easy))
    return found


def world(
    ours: dict | None = None,
    baseline: dict | None = None,
    e_length: float = 40,
    probe_shares: dict | None = None,
    gate: bool = True,
) -> Evidence:
    ours, baseline = {**OURS, **(ours or {})}, {**BASELINE, **(baseline or {})}
    evidence = Evidence()
    for seed in SEEDS:
        evidence.samples["B", seed] = [r for t in TIERS for r in cell(t, "adaptive", *baseline[t], seed)]
        evidence.samples["D", seed] = [r for t in TIERS for m in MODES for r in cell(t, m, *ours[t][m], seed)]
        evidence.samples["E", seed] = cell("T1", "adaptive", e_length, 0.95, seed)
        for arm, shares in {**PROBES, **(probe_shares or {})}.items():
            evidence.probes[arm, seed] = probes(shares)
        evidence.gate[seed] = gate
    return evidence


def mode(tier: str, **changes: tuple[float, float]) -> dict:
    return {tier: {**OURS[tier], **changes}}


@pytest.fixture(scope="module")
def confirmed() -> list[claims.Verdict]:
    return claims.judge(world())


@pytest.mark.slow
def test_a_world_like_the_papers_confirms_all_seven(confirmed: list[claims.Verdict]) -> None:
    assert [(v.claim, v.verdict) for v in confirmed] == [(i, "confirmed") for i in range(1, 8)]


def test_statistics_are_those_of_the_sheet(confirmed: list[claims.Verdict]) -> None:
    found = {s.name: s.estimate for v in confirmed for s in v.statistics}
    assert found["s_T1"] == pytest.approx(0.8, abs=0.03)
    assert found["s_T2"] == pytest.approx(0.5, abs=0.03)
    assert found["s_T3"] == pytest.approx(4 / 70, abs=0.03)
    assert found["d_T2"] == pytest.approx(-0.05)
    assert found["s_T1 - s_T2"] == pytest.approx(0.3, abs=0.03)
    assert found["hard/easy T2"] == pytest.approx(4, abs=0.2)
    assert found["accuracy gain T3"] == pytest.approx(0.35)
    assert found["balanced agreement"] == 1.0
    assert found["length E / D on T1"] == pytest.approx(4, abs=0.2)
    assert found["T2 agreement D - F"] == pytest.approx(0.5)
    assert found["label T2"] == pytest.approx(0.2)
    assert found["tag T2"] == pytest.approx(0.1)
    for statistic in (s for v in confirmed[:3] for s in v.statistics):
        assert statistic.low <= statistic.estimate <= statistic.high


def test_sizes(confirmed: list[claims.Verdict]) -> None:
    assert [v.n for v in confirmed[:4]] == [3 * PROBLEMS] * 4
    assert confirmed[4].n == 60 * len(SEEDS)


Rule = Callable[[Evidence], claims.Verdict]


@pytest.mark.parametrize(
    ("rule", "changes", "verdict"),
    [
        # 1: s_T1 >= .5, intervals of s_T1 and s_T2 exclude 0; refuted at s_T1 <= .1 or an interval with 0
        (claims._savings, {"ours": mode("T1", adaptive=(24, 0.95))}, "confirmed"),
        (claims._savings, {"ours": mode("T1", adaptive=(26, 0.95))}, "inconclusive"),
        (claims._savings, {"ours": mode("T1", adaptive=(46, 0.95))}, "refuted"),
        (claims._savings, {"ours": mode("T1", adaptive=(60, 0.95))}, "refuted"),
        (claims._savings, {"ours": mode("T2", adaptive=(60, 0.75))}, "inconclusive"),
        # 2: point >= -.03 on T1 and T3 and the interval reaches 0; refuted below -.03 for sure; T2 is free
        (claims._no_accuracy_loss, {"ours": mode("T2", adaptive=(30, 0.10))}, "confirmed"),
        (claims._no_accuracy_loss, {"ours": mode("T3", adaptive=(66, 0.05))}, "refuted"),
        (claims._no_accuracy_loss, {"ours": mode("T1", adaptive=(10, 0.40))}, "refuted"),
        (claims._no_accuracy_loss, {"ours": mode("T1", adaptive=(10, 0.90))}, "inconclusive"),
        (claims._no_accuracy_loss, {"ours": mode("T3", adaptive=(66, 0.90))}, "confirmed"),
        # 3: both gaps positive and s_T3 < .25; refuted when T3 saves at least as much as T1
        (claims._ordering, {"ours": mode("T3", adaptive=(50, 0.4))}, "inconclusive"),
        (claims._ordering, {"ours": mode("T3", adaptive=(10, 0.4))}, "refuted"),
        (claims._ordering, {"ours": mode("T2", adaptive=(6, 0.75))}, "inconclusive"),
        # 4: ratios >= 2, adaptive in between, gain >= .10 on T3; refuted by a ratio < 1.3
        (claims._control, {"ours": mode("T1", hard=(17, 0.96))}, "inconclusive"),
        (claims._control, {"ours": mode("T1", hard=(10, 0.96))}, "refuted"),
        (claims._control, {"ours": mode("T3", easy=(20, 0.35))}, "inconclusive"),
        (claims._control, {"ours": mode("T3", adaptive=(200, 0.40))}, "inconclusive"),
    ],
)
def test_sample_rules(rule: Rule, changes: dict, verdict: str) -> None:
    assert rule(world(**changes)).verdict == verdict


def shares(arm: str, **tiers: tuple[float, float]) -> dict:
    return {"probe_shares": {arm: {**PROBES[arm], **tiers}}}


@pytest.mark.parametrize(
    ("rule", "changes", "verdict"),
    [
        # 5: share T1 >= .8, T3 <= .2, monotone, agreement >= .8, AUC >= .85; refuted at agreement <= .6
        (claims._difficulty, shares("D", T1=(1.0, 0.75)), "inconclusive"),
        (claims._difficulty, shares("D", T3=(0.0, 0.25)), "inconclusive"),
        (claims._difficulty, shares("D", T1=(1.0, 0.8), T3=(0.0, 0.2)), "confirmed"),
        (claims._difficulty, shares("D", T1=(0.5, 1.0), T2=(0.5, 1.0), T3=(0.5, 1.0)), "refuted"),
        (claims._difficulty, shares("D", T1=(1.0, 0.0), T2=(0.5, 0.5), T3=(0.0, 1.0)), "refuted"),
        # only one class of labels: nothing to agree with
        (claims._difficulty, shares("D", T1=(1.0, 1.0), T2=(1.0, 1.0), T3=(1.0, 1.0)), "inconclusive"),
        # 6: D above C, E at least 1.5 times as long as D, D above F on T2; refuted when none differs
        (claims._two_stages, {"e_length": 14}, "inconclusive"),
        (claims._two_stages, {"probe_shares": {"F": PROBES["D"]}}, "inconclusive"),
        (claims._two_stages, {"probe_shares": {"C": PROBES["D"]}}, "inconclusive"),
        (
            claims._two_stages,
            {"e_length": 10, "probe_shares": {"C": PROBES["D"], "F": PROBES["D"]}},
            "refuted",
        ),
        # 7: a tier's labels move by >= .1 and the tags with them; constant labels are not testable
        (claims._evolving_labels, {"probe_shares": {"C": PROBES["D"]}}, "inconclusive"),
        (claims._evolving_labels, shares("C", T2=(0.55, 0.3)), "inconclusive"),
        (claims._evolving_labels, shares("C", T2=(0.5, 0.5)), "confirmed"),  # 0.6 - 0.5 in floating point
        (claims._evolving_labels, shares("C", T2=(0.4, 0.3)), "confirmed"),
        (claims._evolving_labels, shares("C", T2=(0.4, 0.9)), "refuted"),
        (claims._evolving_labels, shares("C", T2=(0.4, 0.6)), "refuted"),  # the tags stay where they were
    ],
)
def test_probe_rules(rule: Rule, changes: dict, verdict: str) -> None:
    assert rule(world(**changes)).verdict == verdict


@pytest.mark.slow
def test_a_failed_gate_makes_everything_inconclusive(confirmed: list[claims.Verdict]) -> None:
    evidence = world()
    evidence.gate[SEEDS[1]] = False
    verdicts = claims.judge(evidence)
    assert {v.verdict for v in verdicts} == {"inconclusive"}
    assert [v.statistics for v in verdicts] == [v.statistics for v in confirmed]


@pytest.mark.slow
def test_a_gate_that_was_never_measured_confirms_nothing() -> None:
    evidence = world()
    evidence.gate.clear()
    assert {v.verdict for v in claims.judge(evidence)} == {"inconclusive"}


def test_matrix_is_problems_by_seeds_and_samples_in_the_same_order_for_every_arm() -> None:
    evidence = world()
    d, b = (evidence.matrix(arm, "T2", "adaptive", "correct") for arm in "DB")
    assert d.shape == b.shape == (PROBLEMS, 2 * len(SEEDS))
    assert d.sum() == round(0.75 * PROBLEMS) * 2 * len(SEEDS)
    shuffled = world()
    for rows in shuffled.samples.values():
        rows.reverse()
    assert sorted(map(tuple, shuffled.matrix("D", "T2", "adaptive", "correct"))) == sorted(map(tuple, d))
    assert (shuffled.matrix("D", "T2", "adaptive", "correct") == d).all()


@pytest.mark.slow
def test_a_grader_failure_is_not_scored_and_does_not_stop_the_table() -> None:
    """The mean of the problem's graded samples stands in for it."""
    evidence = world()
    rows = evidence.samples["D", 1]
    rows[1] = replace(rows[1], correct=None)
    cell = evidence.matrix("D", rows[1].set, rows[1].mode, "correct")
    assert not np.isnan(cell).any()
    assert [v.verdict for v in claims.judge(evidence)[:2]] == ["confirmed", "confirmed"]


def test_statistic_as_text() -> None:
    assert str(Statistic("s_T1", 0.8, 0.75, 0.85)) == "s_T1 = 0.800 [0.750, 0.850]"
    assert str(Statistic("share", 0.8)) == "share = 0.800"
