"""The decision rules (sheet §7.4) on constructed outcomes, at their bounds, and the central statistic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alignment_study import claims, interaction, resampling
from alignment_study.arms import TITLES, TRICKS
from alignment_study.claims import Verdict
from alignment_study.evidence import Evidence
from alignment_study.resampling import World


def verdict(claim: str, e: Evidence) -> Verdict:
    (found,) = [v for v in claims.judge(e) if v.claim == claim]
    return found


def word(claim: str, e: Evidence) -> str:
    return verdict(claim, e).verdict


# ---- gain recovery


def test_gain_recovery_of_the_sheets_own_numbers(study: SimpleNamespace) -> None:
    """Qwen on MATH500 (§1): random 0.55, TTRL 0.71, one-shot 0.81, NSR 0.92."""
    base, full = {"M": 0.408, "G": 0.3, "L": 0.02}, {"M": 0.710, "L": 0.5}
    paper = {
        "random": (0.575, 0.55),
        "majority": (0.621, 0.71),
        "one_shot": (0.652, 0.81),
        "negative": (0.687, 0.92),
    }
    rates = {v: {"M": accuracy} for v, (accuracy, _) in paper.items()}
    w = World(study.world(base=base, ground_truth=full, **rates, size={"count": 500, "samples": 20}), "one")
    for v, (_, recovered) in paper.items():
        assert w.gr(v, "aligned", "aligned").estimate == pytest.approx(recovered, abs=0.006)
    assert w.gr("ground_truth", "aligned", "aligned").estimate == 1


def test_gain_recovery_is_per_seed_then_averaged(study: SimpleNamespace) -> None:
    e = study.world(ground_truth={"M": (0.82, 0.52, 0.42), "L": 0.5}, random={"M": (0.57, 0.52, 0.32)})
    w = World(e, "one")
    each = w.recoveries("random", "aligned", "aligned")[0]
    np.testing.assert_allclose(each, [0.5, 1.0, 0.0], atol=0.01)
    found = w.gr("random", "aligned", "aligned")
    assert found.estimate == pytest.approx(0.5, abs=0.01)  # the ratio of mean gains would be 0.56
    assert found.low < 0.2  # the seeds disagree, and the interval says so
    assert found.high > 0.8


def test_a_seed_without_ground_truth_gain_has_no_recovery(study: SimpleNamespace) -> None:
    e = study.world(ground_truth={"M": (0.92, 0.92, 0.33), "L": 0.5}, random={"M": (0.62, 0.62, 0.9)})
    w = World(e, "one")
    assert np.isnan(w.recoveries("random", "aligned", "aligned")[0, 2])
    assert w.gr("random", "aligned", "aligned").estimate == pytest.approx(0.5, abs=0.01)


def test_differences_are_paired_over_items_and_seeds(study: SimpleNamespace) -> None:
    """A variant that is one step better on every item has an interval without width, however seeds differ."""
    e = study.world(random={"M": (0.25, 0.5, 0.75)}, format={"M": (0.375, 0.625, 0.875)})
    w = World(e, "one")
    gap = w.gains("format", "aligned", "aligned") - w.gains("random", "aligned", "aligned")
    assert np.ptp(gap) == pytest.approx(0, abs=1e-9)
    assert gap[0] == pytest.approx(0.125)
    assert np.ptp(w.gains("random", "aligned", "aligned")) > 0.1


def test_holm() -> None:
    """By hand: 3 x 0.01, 2 x 0.02, and the last not below the one before."""
    assert resampling.holm({"a": 0.02, "b": 0.01, "c": 0.03}) == {"a": 0.04, "b": 0.03, "c": 0.04}
    assert resampling.holm({"a": 0.9, "b": 0.6}) == {"a": 1.0, "b": 1.0}


def test_rank_correlation() -> None:
    """By hand: in order, reversed, constant; with ties ranks 1.5, 1.5, 3 against 1, 2, 3 give sqrt(3) / 2."""
    x = np.array([[1.0, 1.0, 1.0, 5.0], [2.0, 2.0, 2.0, 5.0], [3.0, 3.0, 3.0, 7.0]])
    y = np.array([[10.0, 9.0, 4.0, 1.0], [20.0, 8.0, 4.0, 2.0], [90.0, 1.0, 4.0, 3.0]])
    expected = [1, -1, np.nan, np.sqrt(3) / 2]
    np.testing.assert_allclose(claims.rank_correlation(x, y), expected)


# ---- the rules


@pytest.mark.parametrize(
    ("base", "gates", "expected"),
    [
        ({"M": 0.32, "G": 0.31, "L": 0.02}, True, "confirmed"),
        ({"M": 0.32, "G": 0.05, "L": 0.02}, True, "inconclusive"),  # G is not known well enough
        ({"M": 0.32, "G": 0.31, "L": 0.025}, True, "inconclusive"),  # pass@16 of L 0.4
        ({"M": 0.32, "G": 0.05, "L": 0.02}, False, "refuted"),
    ],
)
def test_pass_at_k_separates(study: SimpleNamespace, base: dict, gates: bool, expected: str) -> None:
    e = study.world(base=base)
    e.gates = {("one", seed): study.gate() if gates else None for seed in (1, 2, 3)}
    found = verdict("1", e)
    assert found.verdict == expected
    assert found.statistics[2].estimate == pytest.approx(16 * base["L"], abs=0.01)


@pytest.mark.parametrize(
    ("full", "other", "expected"),
    [
        ({"M": 0.9, "L": 0.5}, 0.4, "confirmed"),
        ({"M": 0.9, "L": 0.5}, 0.5, "confirmed"),  # as good is not better
        ({"M": 0.9, "L": 0.5}, 0.55, "inconclusive"),
        ({"M": 0.3, "L": 0.5}, 0.4, "inconclusive"),
        ({"M": 0.9, "L": 0.02}, 0.02, "refuted"),
    ],
)
def test_ground_truth(study: SimpleNamespace, full: dict, other: float, expected: str) -> None:
    assert word("2", study.world(ground_truth=full, positive={"L": other}, no_dynamic={"L": 0.9})) == expected


RANDOM = {"M": 0.44, "G|L": 0.39}  # GR 0.2 on both


@pytest.mark.parametrize(
    ("rates", "middle", "expected"),
    [
        ({**RANDOM, "L": 0.02}, {}, "confirmed"),
        ({"M": 0.32, "G|L": 0.31, "L": 0.02}, RANDOM, "confirmed"),  # gained and lost again
        ({**RANDOM, "L": 0.05}, {}, "inconclusive"),
        ({**RANDOM, "L": 0.28}, {}, "refuted"),  # half of ground truth's gain on L
        ({"M": 0.40, "G|L": 0.39, "L": 0.02}, {}, "inconclusive"),
        ({"M": 0.30, "G|L": 0.30, "L": 0.02}, {}, "refuted"),
    ],
)
def test_random(study: SimpleNamespace, rates: dict, middle: dict, expected: str) -> None:
    found = verdict("3", study.world(random=rates, middle={"random": middle}))
    assert found.verdict == expected
    assert found.statistics[0].name == "GR random G|L, best of the curve"
    last = {s.name: s.estimate for s in found.statistics}["GR random M"]
    assert last == pytest.approx((rates["M"] - 0.32) / 0.6, abs=0.01)  # the last step is shown beside it


@pytest.mark.parametrize(
    ("left", "rise", "expected"),
    [
        (0.01, 0.39, "confirmed"),
        (0.015, 0.39, "inconclusive"),
        (0.0, 0.35, "inconclusive"),
        (0.0, 0.31, "refuted"),
    ],
)
def test_incorrect(study: SimpleNamespace, left: float, rise: float, expected: str) -> None:
    found = verdict("4", study.world(incorrect={"L": left, "G|L": rise, "M": 0.0}))
    assert found.verdict == expected
    assert found.statistics[-1].name == "gain incorrect M"  # shown although it goes against the paper
    assert found.statistics[-1].estimate == pytest.approx(-0.32, abs=0.001)


@pytest.mark.parametrize(
    ("form", "ungated", "expected"),
    [
        (0.47, 0.33, "confirmed"),  # 80 % of 0.2
        (0.46, 0.33, "inconclusive"),
        (0.47, 0.34, "inconclusive"),  # above 0.02
        (0.47, 0.47, "refuted"),
    ],
)
def test_mechanism(study: SimpleNamespace, form: float, ungated: float, expected: str) -> None:
    rates = {"random": 0.51, "incorrect": 0.45, "format": form, "random_ungated": ungated}
    size = {"count": 200, "samples": 100}
    assert word("3, 4 why", study.world(size=size, **{v: {"G|L": r} for v, r in rates.items()})) == expected


@pytest.mark.parametrize(
    ("m", "weak", "expected"),
    [
        (0.75, 0.02, "confirmed"),
        (0.73, 0.02, "inconclusive"),
        (0.75, 0.2, "refuted"),
        (0.75, (0.02, 0.02, 0.2), "inconclusive"),
    ],
)
def test_majority(study: SimpleNamespace, m: float, weak: float, expected: str) -> None:
    e = study.world(majority={"M": m, "L": weak})
    study.change(e, "majority", "aligned", curves=study.curve("rollout/majority_accuracy", 0.9, 1.0))
    found = verdict("5", e)
    assert found.verdict == expected
    votes = {s.name: s.estimate for s in found.statistics}
    assert votes["vote right M"] == pytest.approx(0.95)
    assert np.isnan(votes["vote right L"])


@pytest.mark.parametrize(
    ("m", "weak", "expected"),
    [(0.57, 0.03, "confirmed"), (0.5, 0.03, "inconclusive"), (0.57, 0.2, "refuted")],
)
def test_one_shot(study: SimpleNamespace, m: float, weak: float, expected: str) -> None:
    e = study.world(one_shot={"M": m, "L": weak})
    study.change(e, "one_shot", example=study.example(0.5))
    assert word("6", e) == expected


def test_one_shot_on_its_own_subtask_alone_refutes_nothing(study: SimpleNamespace) -> None:
    e = study.world(one_shot={"M": 0.57})
    for key, run in e.runs.items():
        if key.variant == "one_shot":
            strict = np.where(np.array(run.items["weak", 20].subtasks) == "+0", 16, 0)
            run.items["weak", 20].strict[:] = strict
    study.change(e, "one_shot", example=study.example(0.5))
    found = verdict("6", e)
    assert found.statistics[1].estimate == pytest.approx(0.183, abs=0.005)
    assert found.statistics[2].estimate < 0
    assert found.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("selected", "other", "m", "expected"),
    [
        (0.02, 0.02, 0.5, "confirmed"),
        (0.02, 0.02, 0.4, "inconclusive"),  # worse than random on M
        (0.2, 0.02, 0.5, "refuted"),
        (0.1, 0.02, 0.5, "inconclusive"),  # clear, but not large
    ],
)
def test_selection(study: SimpleNamespace, selected: float, other: float, m: float, expected: str) -> None:
    e = study.world(one_shot={"L": selected, "M": m}, one_shot_random={"L": other, "M": 0.45})
    assert word("7", e) == expected


@pytest.mark.parametrize(
    ("m", "nsr", "psr", "expected"),
    [
        (0.87, 0.1, 0.4, "confirmed"),
        (0.8, 0.1, 0.4, "inconclusive"),
        (0.87, 0.4, 0.4, "refuted"),
        (0.87, (0.1, 0.1, 0.5), 0.4, "inconclusive"),  # one seed the other way
    ],
)
def test_signs(study: SimpleNamespace, m: float, nsr: float, psr: float, expected: str) -> None:
    assert word("9", study.world(negative={"M": m, "L": nsr}, positive={"M": 0.9, "L": psr})) == expected


@pytest.mark.parametrize(("nsr", "expected"), [(0.9, "confirmed"), (0.5, "inconclusive"), (0.1, "refuted")])
def test_entropy(study: SimpleNamespace, nsr: float, expected: str) -> None:
    e = study.world(negative={"L": 0.1}, positive={"L": 0.4})
    for variant, level in (("ground_truth", 0.2), ("positive", 0.5), ("negative", nsr)):
        study.change(e, variant, curves=study.curve("rollout/entropy", level, level))
    assert word("10", e) == expected


def test_entropy_must_go_against_accuracy(study: SimpleNamespace) -> None:
    e = study.world(negative={"L": 0.6}, positive={"L": 0.55})
    for variant, level in (("ground_truth", 0.2), ("positive", 0.5), ("negative", 0.9)):
        study.change(e, variant, curves=study.curve("rollout/entropy", level, level))
    assert word("10", e) == "inconclusive"


def one_shots(study: SimpleNamespace, norm: float, gains: tuple[float, ...]) -> Evidence:
    e = study.world(one_shot={"L": gains}, one_shot_random={"L": 0.02})
    zero = {"rollout/accuracy": {1: 0.0, 2: 0.2}, "grad_norm": {1: norm, 2: 0.7}}
    study.change(e, "one_shot", "weak", curves=zero, example=lambda s: study.example(0.02 * s))
    study.change(e, "one_shot_random", "weak", curves=zero, example=study.example(0.0))
    return e


@pytest.mark.parametrize(
    ("norm", "gains", "expected"),
    [
        (0.0, (0.05, 0.1, 0.2), "confirmed"),
        (0.3, (0.05, 0.1, 0.2), "refuted"),
        (0.0, (0.0, 0.0, 0.0), "inconclusive"),
    ],
)
def test_zero_gradient(study: SimpleNamespace, norm: float, gains: tuple, expected: str) -> None:
    found = verdict("12", one_shots(study, norm, gains))
    assert found.verdict == expected
    assert found.statistics[0].estimate == 6
    assert found.statistics[1].estimate == norm  # 0.7 is at a step with right rollouts


@pytest.mark.parametrize(
    ("seeds", "size", "expected"),
    [
        (3, {"count": 128}, "confirmed"),
        (2, {"count": 128}, "inconclusive"),
        (3, {"count": 127}, "inconclusive"),
        (3, {"count": 256, "samples": 8}, "inconclusive"),
    ],
)
def test_too_little_is_inconclusive(study: SimpleNamespace, seeds: int, size: dict, expected: str) -> None:
    if size.get("samples", 16) < 16:  # pass@16 needs 16 samples
        e = study.world(seeds=seeds, size=size, negative={"M": 0.87, "L": 0.1}, positive={"L": 0.4})
        with pytest.raises(ValueError, match="k=16 needs at least k samples"):
            claims.judge(e)
        return
    found = verdict("2", study.world(seeds=seeds, size=size))
    assert (found.verdict, found.seeds) == (expected, seeds)
    assert found.n == size["count"] * 16


def test_only_rows_with_every_seed_are_judged(study: SimpleNamespace) -> None:
    e = study.world(random=RANDOM)
    assert {v.claim for v in claims.judge(e)} == {"1", "2", "3"}
    del e.runs[next(k for k in e.runs if k.variant == "random" and k.seed == 3)]
    assert {v.claim for v in claims.judge(e)} == {"1", "2"}
    assert claims.judge(Evidence()) == []


def test_both_rules_at_once_decide_nothing() -> None:
    assert claims.decide(True, True) == "inconclusive"
    assert claims.decide(False, False) == "inconclusive"


# ---- variant x alignment


def test_interaction_is_positive_where_tricks_need_alignment(study: SimpleNamespace) -> None:
    e = study.world(
        random={"M": 0.62, "L": 0.02}, majority={"M": 0.92, "L": 0.12}, positive={"M": 0.8, "L": 0.42}
    )
    found = {i.variant: i for i in interaction.interactions(e)}
    assert found["random"].difference.estimate == pytest.approx(0.5, abs=0.01)
    assert found["majority"].difference.estimate == pytest.approx(0.8, abs=0.01)
    assert found["positive"].difference.estimate == pytest.approx(0.0, abs=0.01)
    pooled = found["tricks pooled"]
    assert pooled.difference.estimate == pytest.approx(0.65, abs=0.01)  # without PSR
    assert (pooled.aligned.estimate, pooled.weak.estimate) == (
        pytest.approx(0.75, abs=0.01),
        pytest.approx(0.1, abs=0.01),
    )
    assert pooled.verdict == "confirmed"
    assert np.isnan(found["positive"].p)


def test_interaction_the_other_way_is_refuted(study: SimpleNamespace) -> None:
    e = study.world(random={"M": 0.0, "L": 0.2}, majority={"M": 0.32, "L": 0.3})
    assert {i.verdict for i in interaction.interactions(e)} == {"refuted"}


def test_seeds_that_disagree_leave_it_open(study: SimpleNamespace) -> None:
    e = study.world(random={"M": (0.82, 0.12, 0.5), "L": 0.02})
    (one, pooled) = interaction.interactions(e)
    assert (one.verdict, pooled.verdict) == ("inconclusive", "inconclusive")
    assert one.difference.low < 0 < one.difference.high
    assert one.p == pytest.approx(pooled.p)  # a family of one test


def test_worlds_are_pooled_once_there_are_two(study: SimpleNamespace) -> None:
    e = study.world(random={"M": 0.62, "L": 0.02})
    assert interaction.both_worlds(e) is None
    e.runs |= study.world("two", random={"M": 0.50, "L": 0.02}).runs
    found = interaction.both_worlds(e)
    assert found is not None
    assert found.estimate == pytest.approx(0.4, abs=0.01)
    assert {i.world for i in interaction.interactions(e)} == {"one", "two"}


def test_cells_against_the_paper_are_listed(study: SimpleNamespace) -> None:
    e = study.world(
        random={"M": 0.62, "G|L": 0.5, "L": 0.02},  # as the paper says
        incorrect={"M": 0.0, "G|L": 0.5, "L": 0.0},
        majority={"M": 0.92, "G|L": 0.06, "L": 0.3},
        positive={"M": 0.9, "L": 0.02},
    )
    found = {(c.variant, c.cell): c.found.estimate for c in interaction.against_the_paper(e)}
    assert set(found) == {("incorrect", "M"), ("majority", "G|L"), ("majority", "L"), ("positive", "L")}
    assert found["incorrect", "M"] == pytest.approx(-0.533, abs=0.01)
    assert found["majority", "L"] == pytest.approx(0.28, abs=0.01)


def test_tricks_are_the_papers() -> None:
    controls = {"ground_truth", "positive", "random_ungated", "no_dynamic"}
    assert set(TITLES) - set(TRICKS) == controls
