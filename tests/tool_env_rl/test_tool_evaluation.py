"""Rows of an evaluation, what is made of them, and the comparison of two evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tool_env_rl import controls, environment_sets, eval, evaluation, repeatability, resampling
from tool_env_rl.config import PRESETS
from tool_env_rl.episodes import Transcript, of_environments, play
from tool_env_rl.metrics import EpisodeScore, solve_scores
from tool_env_rl.progress import StageBar
from tool_env_rl.records import Environment
from tool_env_rl.resampling import Statistic, difference, holm, mean, of_arm, statistic
from tool_env_rl.sandbox import Sandbox

SMALL = PRESETS["small"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_evaluations_survive_their_file(ftrl: SimpleNamespace, tmp_path: Path, name: str) -> None:
    found = ftrl.world(seeds=1, base={}).runs["base", 1]
    found.repeat = {"environments": 120, "feedback": ["a", "a"]}
    evaluation.save(found, tmp_path / name)
    assert evaluation.load(tmp_path / name) == found
    first = (tmp_path / name).read_bytes()
    evaluation.save(found, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_summary(ftrl: SimpleNamespace) -> None:
    flat = evaluation.summary(ftrl.world(seeds=1, base={"levels": (0.8, 0.2)}).runs["base", 1])
    expected = {"test/all/solve_f1": 0.5, "chains/Direct": 0.0, "chains/Mandatory": 0.2, "chains/AC": 0.4 / 3}
    expected |= {"noisy/CF": 50.0, "tables/right": 0.1, "general/copy": 0.9, "levels/0": 0.8, "levels/1": 0.2}
    for name, value in expected.items():
        assert flat[name] == pytest.approx(value), name


@pytest.mark.parametrize(
    ("free", "calls", "direct", "expected"),
    [
        (True, 2, False, [False, True, True]),
        (True, 0, True, [True, False, True]),  # right, but not by way of a tool
        (False, 2, True, [True, False, False]),
    ],
)
def test_toolhops_scenarios(free: bool, calls: int, direct: bool, expected: list[bool]) -> None:
    scores = [
        EpisodeScore("e", "multi_hop", 2, n, 0, 0, 0, 1, answer_correct=a)
        for n, a in ((calls, free), (0, direct))
    ]
    found = evaluation.chain_answers(*scores)
    assert [found[name] for name in ("Direct", "Mandatory", "Free")] == expected


# ---- intervals


def test_differences_are_paired_and_seeds_are_drawn(ftrl: SimpleNamespace) -> None:
    nested = ftrl.world(base={"right": 0.5}, grpo={"right": 0.6})
    d = statistic("", difference(nested, "grpo", "base", "solve_f1"))
    alone = statistic("", of_arm(nested, "grpo", "solve_f1"))
    assert d.estimate == pytest.approx(0.1)
    assert d.high - d.low < 0.8 * (alone.high - alone.low)
    spread = ftrl.world(base={"right": 0.5}, grpo={"right": (0.4, 0.6, 0.8)})
    wide = statistic("", difference(spread, "grpo", "base", "solve_f1"))
    assert wide.high - wide.low > 2 * (d.high - d.low)


def test_interval_covers_the_known_standard_error(ftrl: SimpleNamespace) -> None:
    """Without spread over seeds it is the binomial one."""
    s = statistic("", of_arm(ftrl.world(base={"right": 0.5}), "base", "solve_f1"))
    assert s.high - s.low == pytest.approx(2 * 1.96 * (0.25 / 120) ** 0.5, rel=0.15)


def test_mask_keeps_scenarios(ftrl: SimpleNamespace) -> None:
    kinds = {"single_hop": 1.0, "parallel_single_hop": 0.0, "multi_hop": 0.5, "parallel_multi_hop": 0.5}
    found = ftrl.world(base={"right": kinds})
    assert of_arm(found, "base", "solve_f1", scenarios=["single_hop"])[0] == 1.0
    assert of_arm(found, "base", "solve_f1", scenarios=["single_hop", "multi_hop"])[0] == pytest.approx(0.75)
    assert mean(np.ones((2, 120)), "test", (np.arange(120) < 3) * 1.0)[0] == 1.0


def test_holm() -> None:
    family = [Statistic(name, 1.0, 0.1, 2.0, p) for name, p in (("a", 0.04), ("b", 0.01), ("c", 0.03))]
    assert [s.p for s in holm(family)] == pytest.approx([0.06, 0.03, 0.06])
    assert [s.above for s in holm(family)] == [False, True, False]


def test_rank_correlation_matches_scipy() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (2, 5, 30)) / 3
    level = np.broadcast_to(np.arange(5)[:, None], (2, 5, 30))
    expected = spearmanr(level.ravel(), scores.ravel()).statistic
    assert resampling._rank_correlation(scores) == pytest.approx(expected)


# ---- two evaluations, and the scripted policies


def test_two_evaluations_of_the_oracle_are_the_same(toy_environments: list[Environment]) -> None:
    found = repeatability.measure(controls.oracle, SMALL, toy_environments)
    assert found["environments"] == found["validated"] == len(toy_environments)
    assert found["refused_codes"] == found["killed_calls"] == 0
    for digests in (found["feedback"], found["rewards"]):
        assert len(digests) == 2
        assert len(set(digests)) == 1


def test_a_difference_and_a_bad_environment_are_seen(toy_environments: list[Environment]) -> None:
    calls = 0

    def changes_its_mind(transcripts: Sequence[Transcript]) -> list[str]:
        nonlocal calls
        calls += 1
        return controls.oracle(transcripts) if calls == 1 else controls.silent(transcripts)

    env = toy_environments[0]
    name = env.steps[0].tool
    codes = env.record.codes | {name: "import socket\n" + env.record.codes[name]}
    bad = replace(env, record=replace(env.record, codes=codes))
    cfg = replace(SMALL, algo=replace(SMALL.algo, max_turns=1))
    found = repeatability.measure(changes_its_mind, cfg, [bad, toy_environments[1]])
    assert len(set(found["feedback"])) == 2
    assert found["validated"] == 1
    assert found["refused_codes"] == 1


def test_turn_rewards_of_the_oracle(toy_environments: list[Environment], tools_sandbox: Sandbox) -> None:
    env = next(e for e in toy_environments if e.record.scenario == "multi_hop")
    (played,) = play(of_environments([env]), controls.oracle, tools_sandbox, max_turns=8)
    assert repeatability.turn_rewards(played, SMALL) == [1.0] * len(env.steps) + [1.0]


def test_controls_play_the_echo_attack_on_leaky_tools(
    toy_environments: list[Environment],
    tools_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FIVE_RL_CACHE", str(tmp_path))
    cfg = replace(SMALL, data=replace(SMALL.data, dev=4))
    sets = environment_sets.Sets([], [], [], toy_environments, [], {})
    with StageBar() as bar:
        found = eval.run_controls(cfg, sets, tools_sandbox, bar)
    assert list(found) == ["oracle", "silent", "shotgun", "echo", evaluation.LEAKY]
    leaky = found[evaluation.LEAKY]
    assert len(leaky) == cfg.data.dev
    assert sum(score.solved for score in leaky) == 0
    assert sum(score.solved_unguarded for score in leaky) > 0
    assert all(solve_scores(s.total, s.calls, s.solved)[2] == 1 for s in found["oracle"])
