"""The decision rules (sheet §7.8) on constructed outcomes: every verdict can be flipped."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tool_env_rl import claims
from tool_env_rl.evaluation import LEAKY
from tool_env_rl.evidence import Evidence, Layers
from tool_env_rl.layer_claims import t_interval
from tool_env_rl.verdicts import Verdict


def verdict(found: Evidence, claim: str, arm: str = "grpo") -> Verdict:
    (one,) = [v for v in claims.judge(found) if (v.claim, v.arm) == (claim, arm)]
    return one


def word(found: Evidence, claim: str, arm: str = "grpo") -> str:
    return verdict(found, claim, arm).verdict


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.30, 0.50, "confirmed"),
        (0.30, 0.34, "inconclusive"),  # clearly above 0, less than 5 points, perhaps not
        (0.30, 0.31, "refuted"),  # the interval ends below 5 points
        (0.30, 0.30, "refuted"),
        (0.50, 0.30, "refuted"),
        (0.30, 0.37, "confirmed"),  # nested outcomes: a narrow interval
        (0.30, (0.20, 0.37, 0.60), "inconclusive"),  # the seeds differ too much
    ],
)
def test_gain_in_domain(ftrl: SimpleNamespace, before: float, after: object, expected: str) -> None:
    assert word(ftrl.world(base={"right": before}, grpo={"right": after}), "1, 2") == expected


def test_too_few_seeds_or_environments_decide_nothing(ftrl: SimpleNamespace) -> None:
    sizes = {"base": {"right": 0.3}, "grpo": {"right": 0.6}}
    found = verdict(ftrl.world(seeds=2, **sizes), "1, 2")
    assert (found.verdict, found.seeds) == ("inconclusive", 2)
    found = verdict(ftrl.world(environments=96, **sizes), "1, 2")
    assert (found.verdict, found.n) == ("inconclusive", 96)


def test_both_algorithms_are_one_family(ftrl: SimpleNamespace) -> None:
    found = ftrl.world(base={"right": 0.3}, grpo={"right": 0.5}, reinforce_pp={"right": 0.3})
    assert word(found, "1, 2", "grpo") == "confirmed"
    assert word(found, "1, 2", "reinforce_pp") == "refuted"
    alone = verdict(ftrl.world(base={"right": 0.3}, grpo={"right": 0.5}), "1, 2").statistics[0].p
    assert verdict(found, "1, 2").statistics[0].p == pytest.approx(2 * alone)


@pytest.mark.parametrize(
    ("chains", "noisy", "expected"),
    [
        (0.4, 0.7, "confirmed"),
        (0.2, 0.7, "inconclusive"),
        (0.4, 0.5, "inconclusive"),
        (0.1, 0.7, "refuted"),
        (0.4, 0.3, "refuted"),
    ],
)
def test_out_of_domain(ftrl: SimpleNamespace, chains: float, noisy: float, expected: str) -> None:
    found = ftrl.world(
        base={"chains": 0.2, "noisy": 0.5, "tables": 0.1},
        grpo={"chains": chains, "noisy": noisy, "tables": 0.3},
    )
    one = verdict(found, "3")
    assert one.verdict == expected
    # Mandatory and Free, but not Direct: two thirds of the gain.
    assert one.statistics[0].estimate == pytest.approx(2 / 3 * (chains - 0.2), abs=0.01)
    assert one.statistics[2].estimate == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0.90, "confirmed"),
        (0.91, "inconclusive"),  # the interval reaches 2 points
        (0.80, "refuted"),
        (0.95, "inconclusive"),
        (0.87, "inconclusive"),
    ],
)
def test_general_ability_is_equivalent_or_not(ftrl: SimpleNamespace, after: float, expected: str) -> None:
    assert word(ftrl.world(base={"general": 0.90}, grpo={"general": after}), "5") == expected


def rewards(ftrl: SimpleNamespace, **changes: dict) -> Evidence:
    """Right shares and calls as the paper has them: P falls and R rises with the calls."""
    arms = {
        "grpo": {"right": 0.7, "calls": 3},
        "precision": {"right": 0.4, "calls": 2},
        "rate": {"right": 0.7, "calls": 6},
        "pr": {"right": 0.6, "calls": 4},
    }
    return ftrl.world(**{arm: options | changes.get(arm, {}) for arm, options in arms.items()})


def test_the_reward_balances(ftrl: SimpleNamespace) -> None:
    found = verdict(rewards(ftrl), "6a")
    assert found.verdict == "confirmed"
    by_name = {s.name: s for s in found.statistics}
    assert by_name["draws with calls per turn in the predicted order"].estimate == 1.0
    assert by_name["calls per turn, q"].estimate == 3.0
    assert by_name["Solve-R, over q / p"].estimate == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precision": {"right": 0.9}}, "refuted"),  # q / p has the larger Solve-R
        ({"rate": {"calls": 2}}, "refuted"),  # q has the larger Solve-P
        ({"pr": {"calls": 8}}, "inconclusive"),  # not in the predicted order
        ({"precision": {"right": 0.7}}, "inconclusive"),
    ],
)
def test_the_balance_can_fail(ftrl: SimpleNamespace, changes: dict, expected: str) -> None:
    assert word(rewards(ftrl, **changes), "6a") == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "confirmed"),
        ({"pr": {"reward": (0.5, 0.6)}}, "inconclusive"),  # PR is not the less steady one
        ({"rate": {"right": 0.95, "calls": 2}}, "refuted"),
    ],
)
def test_the_best_reward(ftrl: SimpleNamespace, changes: dict, expected: str) -> None:
    steady, unsteady = {"reward": (0.5, 0.6)}, {"reward": (0.1, 0.9)}
    merged = {"grpo": steady, "pr": unsteady}
    for arm, options in changes.items():
        merged[arm] = merged.get(arm, {}) | options
    found = verdict(rewards(ftrl, **merged), "6b")
    assert found.verdict == expected
    if not changes:
        spreads = [s.estimate for s in found.statistics[1:]]
        assert spreads == pytest.approx([0.05, 0.4])


def layers(s: float, rank: int, f1: dict[tuple[str, str], list[float]] | None = None) -> Layers:
    groups = {"high attention": 1.0, "high mlp": 1.0, "low attention": 1.0, "low mlp": s}
    return Layers(groups, s, rank, [], f1 or {})


@pytest.mark.parametrize(
    ("s", "ranks", "expected"),
    [
        ((1.5, 1.6, 1.4), (1, 1, 1), "confirmed"),
        ((1.5, 1.6, 1.4), (1, 2, 1), "inconclusive"),
        ((0.9, 2.5, 1.2), (1, 1, 1), "inconclusive"),  # the interval over seeds holds 1
        ((0.8, 0.7, 0.9), (3, 4, 3), "refuted"),
        ((1.5, 1.6), (1, 1), "inconclusive"),
    ],
)
def test_where_the_change_sits(ftrl: SimpleNamespace, s: tuple, ranks: tuple, expected: str) -> None:
    found = Evidence(layers={i: layers(x, r) for i, (x, r) in enumerate(zip(s, ranks, strict=True), start=1)})
    assert word(found, "7 where") == expected


def test_t_interval() -> None:
    found = t_interval("", [1.0, 2.0, 3.0])
    assert (found.estimate, found.low, found.high) == pytest.approx((2.0, -0.484, 4.484), abs=1e-3)


@pytest.mark.parametrize(
    ("reset", "only", "expected"),
    [
        ({"low mlp": 0.3, "high mlp": 0.6}, {"low mlp": 0.5, "high mlp": 0.3}, "confirmed"),
        ({"low mlp": 0.6, "high mlp": 0.3}, {"low mlp": 0.5, "high mlp": 0.3}, "refuted"),
        ({"low mlp": 0.3, "high mlp": 0.6}, {"low mlp": 0.4, "high mlp": 0.4}, "inconclusive"),
    ],
)
def test_what_the_gain_needs(ftrl: SimpleNamespace, reset: dict, only: dict, expected: str) -> None:
    found = ftrl.world(base={"right": 0.3}, grpo={"right": 0.6})
    n = len(found.runs["base", 1].test)

    def scores(right: float) -> list[float]:
        return [float(i < round(right * n)) for i in range(n)]

    grafts = {("reset", g): scores(right) for g, right in reset.items()}
    grafts |= {("only", g): scores(right) for g, right in only.items()}
    found.layers = {seed: layers(1.5, 1, grafts) for seed in (1, 2, 3)}
    one = verdict(found, "7 why")
    assert one.verdict == expected
    shown = {s.name: s.estimate for s in one.statistics}
    assert shown["low mlp: loss if reset"] == pytest.approx(0.6 - reset["low mlp"])
    assert shown["low mlp: gain alone"] == pytest.approx(only["low mlp"] - 0.3)


@pytest.mark.parametrize(
    ("single", "multi", "expected"),
    [(0.3, 0.7, "confirmed"), (0.7, 0.3, "refuted"), (0.7, 0.7, "inconclusive"), (0.5, 0.7, "inconclusive")],
)
def test_thinking(ftrl: SimpleNamespace, single: float, multi: float, expected: str) -> None:
    kinds = {
        "single_hop": single,
        "parallel_single_hop": single,
        "multi_hop": multi,
        "parallel_multi_hop": multi,
    }
    found = ftrl.world(base={"right": 0.5}, thinking_base={"right": kinds})
    assert word(found, "8", "thinking_base") == expected


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"feedback": ["a", "b"]},
        {"rewards": ["a", "b"]},
        {"validated": 119},
        {"refused_codes": 1},
        {"killed_calls": 1},
    ],
)
def test_feedback_is_the_same_each_time(ftrl: SimpleNamespace, change: dict) -> None:
    found = ftrl.world(base={})
    same = {"environments": 120, "validated": 120, "feedback": ["a", "a"], "rewards": ["r", "r"]}
    same |= {"refused_codes": 0, "killed_calls": 0}
    for seed in (1, 2, 3):
        found.runs["base", seed].repeat = dict(same)
    found.runs["base", 2].repeat |= change
    assert word(found, "9", "base") == ("refuted" if change else "confirmed")


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((0.8, 0.7, 0.6, 0.5, 0.4), "confirmed"),
        ((0.4, 0.5, 0.6, 0.7, 0.8), "refuted"),
        ((0.5, 0.5, 0.5, 0.5, 0.5), "inconclusive"),
    ],
)
def test_complexity_levels(ftrl: SimpleNamespace, levels: tuple, expected: str) -> None:
    assert word(ftrl.world(base={"levels": levels}), "scaling", "base") == expected


@pytest.mark.parametrize(("after", "expected"), [(0.30, "confirmed"), (0.25, "confirmed"), (0.50, "refuted")])
def test_a_random_reward_must_not_improve(ftrl: SimpleNamespace, after: float, expected: str) -> None:
    found = ftrl.world(base={"right": 0.3}, random={"right": after})
    assert word(found, "control i", "random") == expected


def test_scripted_policies(ftrl: SimpleNamespace) -> None:
    found = Evidence(controls=ftrl.controls())
    assert [v.verdict for v in claims.judge(found)] == ["confirmed"] * 4
    found.controls["shotgun"] = found.controls["oracle"]
    found.controls["oracle"] = ftrl.scores(0.9)
    found.controls["silent"] = ftrl.scores(0.1)
    found.controls[LEAKY] = ftrl.scores(0.5)
    assert [v.verdict for v in claims.judge(found)] == ["refuted"] * 4


def test_only_what_was_run_is_judged(ftrl: SimpleNamespace) -> None:
    assert claims.judge(Evidence()) == []
    assert {v.claim for v in claims.judge(ftrl.world(base={}, grpo={}))} == {"1, 2", "3", "5", "scaling"}
