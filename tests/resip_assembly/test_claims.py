"""The decision rules (sheet §7.6) on constructed outcomes, at their bounds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from resip_assembly import claims
from resip_assembly.claims import Verdict
from resip_assembly.corrections import BINS_MM, Corrections
from resip_assembly.evidence import Episodes, Evidence
from shared import stats

EPISODES, TASK = 200, "peg_in_hole"


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times faster; no outcome here hangs on the third digit of an interval."""
    monkeypatch.setattr(stats, "paired_bootstrap", partial(stats.paired_bootstrap, resamples=100))


def world(seeds: int = 3, episodes: int = EPISODES, steps: dict[str, int] | None = None, **rates) -> Evidence:
    """Of every policy the first episodes succeed, a share of `rates[policy]` (of all seeds, or of each)."""
    e = Evidence()
    for policy, rate in rates.items():
        for k in range(seeds):
            share = rate[k] if isinstance(rate, tuple) else rate
            won = np.arange(episodes) < round(share * episodes)
            e.episodes[TASK, policy, k + 1] = Episodes(won, ("success",) * episodes)
            e.env_steps[TASK, policy, k + 1] = (steps or {}).get(policy, 400_000)
    return e


def verdict(claim: str, e: Evidence) -> Verdict:
    (found,) = [v for v in claims.judge(e) if v.claim == claim]
    assert found.task == TASK
    return found


def word(claim: str, **options) -> str:
    return verdict(claim, world(**options)).verdict


@pytest.mark.parametrize(
    ("mlp_c", "expected"),
    [
        (0.45, "confirmed"),
        ((0.45, 0.45, 0.30), "inconclusive"),  # only two seeds are clearly above
        (0.30, "refuted"),  # equal is refuted
        ((0.1, 0.1, 0.6), "refuted"),
    ],
)
def test_chunks_beat_steps(mlp_c, expected: str) -> None:
    assert word("1", mlp_c=mlp_c, mlp_s=0.30) == expected


def test_shorter_execution_is_reported_not_judged() -> None:
    found = verdict("1", world(mlp_c=0.5, mlp_s=0.1, dp=0.5, dp_1=0.2, dp_4=0.4))
    assert [s.name for s in found.statistics] == [
        "mlp_c - mlp_s",
        "seeds clearly above 0",
        "dp - dp_4",
        "dp - dp_1",
    ]
    assert found.statistics[3].estimate == pytest.approx(0.3)
    assert found.verdict == "confirmed"


@pytest.mark.parametrize(
    ("dp", "resip", "steps", "expected"),
    [
        (0.63, 0.88, 400_000, "confirmed"),  # +25 points, 88 %
        (0.64, 0.88, 400_000, "inconclusive"),
        (0.62, 0.87, 400_000, "inconclusive"),
        (0.50, 0.59, 400_000, "inconclusive"),  # a small gain, but hardly trained
        (0.50, 0.59, 3_000_000, "refuted"),
        (0.50, 0.60, 3_000_000, "inconclusive"),
    ],
)
def test_residual_gain(dp: float, resip: float, steps: int, expected: str) -> None:
    assert word("2, 3", dp=dp, resip=resip, steps={"resip": steps}) == expected


def test_no_gain_over_fine_tuning_refutes_the_gain() -> None:
    assert word("2, 3", dp=0.2, resip=0.8, mlp_c_ppo=0.8) == "refuted"
    # the table does not exclude both
    assert word("2, 3", dp=0.2, resip=0.9, mlp_c_ppo=0.9) == "inconclusive"


@pytest.mark.parametrize(
    ("ppo", "steps", "expected"),
    [
        (0.70, 400_000, "confirmed"),
        (0.90, 400_000, "refuted"),
        (0.95, 400_000, "refuted"),
        (0.895, 400_000, "inconclusive"),  # 1 of 200 episodes
        (0.70, 300_000, "inconclusive"),  # ResiP had more steps
        (0.70, 500_000, "confirmed"),  # it had fewer
        (0.95, 500_000, "inconclusive"),
        (0.95, 300_000, "refuted"),
    ],
)
def test_against_fine_tuning(ppo: float, steps: int, expected: str) -> None:
    assert word("4", resip=0.9, mlp_c_ppo=ppo, steps={"mlp_c_ppo": steps}) == expected


@pytest.mark.parametrize(
    ("rerank", "expected"),
    [
        (0.58, "confirmed"),  # within 8 points
        (0.42, "confirmed"),
        (0.59, "inconclusive"),
        (0.41, "inconclusive"),
        (0.70, "inconclusive"),  # half of the gap
        (0.705, "refuted"),
    ],
)
def test_against_reranking(rerank: float, expected: str) -> None:
    assert word("5", dp=0.5, rerank=rerank, resip=0.9) == expected


def test_half_of_a_small_gap_decides_nothing() -> None:
    assert word("5", dp=0.5, rerank=0.56, resip=0.6) == "inconclusive"


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0.70, "confirmed"), (0.735, "inconclusive"), (0.90, "refuted"), (0.95, "refuted")],
)
def test_saturation(last: float, expected: str) -> None:
    rates = {"dp": 0.5, "student_demos_200": 0.65, "student_demos_1000": 0.70, "student_demos_5000": last}
    found = verdict("6", world(resip=0.9, **rates))
    assert found.verdict == expected
    slope = {s.name: s.estimate for s in found.statistics}["last slope per decade"]
    assert slope == pytest.approx((last - 0.70) / np.log10(5), abs=1e-6)


def test_saturation_needs_5000_demonstrations() -> None:
    rates = {"dp": 0.5, "student_demos_200": 0.70, "student_demos_1000": 0.70}
    assert word("6", resip=0.9, **rates) == "inconclusive"
    rates["student_demos_1000"] = 0.9
    assert word("6", resip=0.9, **rates) == "refuted"


@pytest.mark.parametrize(
    ("dagger", "expected"),
    [(0.8, "confirmed"), (0.95, "refuted"), (0.5, "inconclusive"), (0.4, "inconclusive")],
)
def test_dagger(dagger: float, expected: str) -> None:
    assert word("7", dp=0.5, dagger=dagger, resip=0.95) == expected


@pytest.mark.parametrize(
    ("residual", "base", "expected"),
    [(0.8, 0.5, "confirmed"), (0.8, 0.7, "refuted"), (0.7, 0.5, "refuted"), (0.705, 0.5, "inconclusive")],
)
def test_source_of_the_lessons(residual: float, base: float, expected: str) -> None:
    rates = {"student_residual": residual, "student_demos_200": 0.7, "student_base": base}
    assert word("8, 9", **rates) == expected
    seen = {"vision_residual_200": residual, "vision_demos_200": 0.7, "vision_base_200": base}
    assert word("8, 9 images", **seen) == expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [(0.795, "confirmed"), (0.85, "inconclusive"), (0.885, "refuted"), (0.95, "refuted")],
)
def test_closed_loop(held: float, expected: str) -> None:
    assert word("closed loop", resip=0.9, resip_held=held) == expected


def moved(near: float, far: float, large: int = 0, episodes: int = EPISODES) -> Corrections:
    steps = np.full((episodes, len(BINS_MM)), 10)
    median = np.tile([near, (near + far) / 2, (near + far) / 2, far], (episodes, 1))
    beyond = np.zeros_like(steps)
    beyond[:, 0] = large
    return Corrections(steps, median, beyond)


@pytest.mark.parametrize(
    ("near", "far", "large", "expected"),
    [
        (4.0, 1.0, 0, "confirmed"),
        (7.0, 6.0, 0, "inconclusive"),  # local, but not a few mm
        (3.0, 3.0, 0, "refuted"),  # uniform
        (14.0, 9.0, 0, "refuted"),  # large everywhere
        (4.0, 1.0, 1, "inconclusive"),  # 2.5 % of all steps beyond 20 mm
        (4.0, 1.0, 5, "refuted"),  # 12.5 %
    ],
)
def test_corrections_are_small_and_local(near: float, far: float, large: int, expected: str) -> None:
    e = world(resip=0.9)
    for seed in (1, 2, 3):
        e.corrections[TASK, seed] = moved(near, far, large)
    found = verdict("11", e)
    assert found.verdict == expected
    assert found.statistics[0].estimate == pytest.approx(near / far)
    assert found.episodes == 3 * EPISODES


@pytest.mark.parametrize(
    ("resip_med", "dp_med", "expected"),
    [
        (0.86, 0.5, "confirmed"),  # -10 points
        (0.71, 0.35, "confirmed"),  # -25
        (0.70, 0.35, "inconclusive"),  # it falls further
        (0.80, 0.30, "inconclusive"),  # the gain does not shrink
        (0.96, 0.5, "refuted"),
    ],
)
def test_randomness(resip_med: float, dp_med: float, expected: str) -> None:
    assert word("14", resip=0.96, dp=0.5, resip_med=resip_med, dp_med=dp_med) == expected


@pytest.mark.parametrize(
    ("seeds", "episodes", "expected"),
    [(3, 171, "confirmed"), (3, 170, "inconclusive"), (2, 400, "inconclusive")],
)
def test_too_little_is_inconclusive(seeds: int, episodes: int, expected: str) -> None:
    found = verdict("2, 3", world(seeds, episodes, dp=0.3, resip=0.95))
    assert (found.verdict, found.episodes, found.seeds) == (expected, seeds * episodes, seeds)


def test_only_claims_with_runs_are_judged_and_only_common_seeds_count() -> None:
    e = world(dp=0.3, resip=0.95)
    del e.episodes[TASK, "dp", 3]
    (found,) = claims.judge(e)
    assert (found.claim, found.seeds, found.verdict) == ("2, 3", 2, "inconclusive")
    assert claims.judge(Evidence()) == []


def test_differences_are_paired_over_episodes() -> None:
    """The same two rates: nested outcomes leave a narrower interval than unrelated ones."""
    e = world(a=0.5, b=0.5)
    for seed in (1, 2, 3):
        won = np.arange(EPISODES) % 2 == 0
        e.episodes[TASK, "b", seed] = Episodes(won, ())
    nested, crossed = (
        claims.difference(world(a=0.6, b=0.5), TASK, "a", "b"),
        claims.difference(e, TASK, "a", "b"),
    )
    assert nested.low > 0.05
    assert nested.high - nested.low < crossed.high - crossed.low
    e.episodes[TASK, "a", 2].success[:] = False
    assert claims.difference(e, TASK, "a", "b", [2]).estimate == -0.5
