"""Demonstrations: recorded from successes only, stored whole, refused for another task, exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from resip_assembly import demos, rotations
from resip_assembly.env import make_vector
from resip_assembly.env.vector import DELTA_POSITION_M

HOLD = demos.HOLD_STEPS


@pytest.fixture(scope="module")
def recorded() -> demos.Demonstrations:
    return demos.record("peg_in_hole", 3, num_envs=4, threads=1, seed=5)


def test_every_episode_succeeds_and_goes_on_holding(recorded: demos.Demonstrations) -> None:
    card = recorded.card
    assert (card.task, card.randomness, card.robot, card.action_mode) == (
        "peg_in_hole",
        "low",
        "floating",
        "absolute",
    )
    assert card.episodes == len(recorded.episodes) == 3
    assert card.attempts >= 3
    assert card.steps == sum(recorded.lengths) == len(recorded.observations) == len(recorded.actions)
    env = make_vector("peg_in_hole", 1, threads=1, autoreset="disabled")
    rule_m = 0.005
    for obs, actions in recorded.episodes:
        assert obs.dtype == actions.dtype == np.float32
        assert obs.shape[1:] == env.single_observation_space.shape
        assert actions.shape == (len(obs), 10)
        peg, hole = obs[-1, 16:19], obs[-1, 23:26]
        assert np.linalg.norm(peg - hole) < 2 * rule_m  # still in after the holding steps
        assert np.linalg.norm(obs[0, 16:19] - obs[0, 23:26]) > 0.05
    env.close()


def test_targets_are_at_most_a_step_ahead(recorded: demos.Demonstrations) -> None:
    ahead = np.abs(recorded.actions[:, :3] - recorded.observations[:, :3])
    moving = ahead.max(1)
    assert np.quantile(moving, 0.95) <= DELTA_POSITION_M + 1e-6
    assert moving.max() <= 2 * DELTA_POSITION_M  # a pause repeats the last target while the hand still moves


def test_recording_is_a_function_of_its_seed(recorded: demos.Demonstrations) -> None:
    again = demos.record("peg_in_hole", 3, num_envs=4, threads=2, seed=5)
    assert np.array_equal(again.observations, recorded.observations)
    assert np.array_equal(again.actions, recorded.actions)
    other = demos.record("peg_in_hole", 1, num_envs=4, threads=1, seed=6)
    assert not np.array_equal(other.episodes[0][0][0], recorded.episodes[0][0][0])


def test_save_and_load(recorded: demos.Demonstrations, tmp_path: Path) -> None:
    demos.save(recorded, tmp_path / "d")
    back = demos.load(tmp_path / "d")
    assert back.card == recorded.card
    assert back.lengths == recorded.lengths
    assert all(
        np.array_equal(a, b)
        for one, two in zip(back.episodes, recorded.episodes, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    (tmp_path / "d" / "arrays.npz").write_bytes(b"cut")
    with pytest.raises(
        ValueError, match=r"demonstrations .*d cannot be used: .*arrays\.npz.*record them again"
    ):
        demos.load(tmp_path / "d")


def test_other_tasks_robots_and_actions_are_refused(recorded: demos.Demonstrations) -> None:
    demos.check(recorded, "peg_in_hole", "floating", "absolute")
    for wrong in (
        ("lamp", "floating", "absolute"),
        ("peg_in_hole", "panda", "absolute"),
        ("peg_in_hole", "floating", "delta"),
    ):
        named = next(
            (here, there)
            for here, there in zip(wrong, ("peg_in_hole", "floating", "absolute"), strict=True)
            if here != there
        )
        with pytest.raises(ValueError, match=f"'{named[1]}', this run '{named[0]}'"):
            demos.check(recorded, *wrong)


def test_deltas_lead_to_the_same_targets(recorded: demos.Demonstrations) -> None:
    obs, actions = recorded.episodes[0]
    delta = demos.as_delta(obs, actions)
    assert np.allclose(obs[:, :3] + delta[:, :3], actions[:, :3], atol=1e-6)
    measured = rotations.rot6d_to_matrix(obs[:, 3:9])
    target = measured @ rotations.rot6d_to_matrix(delta[:, 3:9])
    assert np.allclose(target, rotations.rot6d_to_matrix(actions[:, 3:9]), atol=1e-5)
    assert np.array_equal(delta[:, 9], actions[:, 9])


def test_no_episodes_is_an_error() -> None:
    with pytest.raises(ValueError, match="episodes=0 must be at least 1"):
        demos.record("peg_in_hole", 0)


def test_an_expert_that_fails_ends_with_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demos, "play", lambda env, agent, seed: [None] * env.num_envs)
    with pytest.raises(RuntimeError, match="0 of 80 attempts at peg_in_hole succeeded"):
        demos.record("peg_in_hole", 4, num_envs=16, threads=1)


def test_inspect_and_export(
    recorded: demos.Demonstrations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import Dataset

    folder = tmp_path / "d"
    demos.save(recorded, folder)
    demos.main(["inspect", str(folder)])
    said = capsys.readouterr().out
    assert "peg_in_hole" in said
    assert f"3 kept of {recorded.card.attempts} attempts" in said
    assert (folder / "paths.png").stat().st_size > 5_000
    out = tmp_path / "steps.parquet"
    demos.main(["export", str(folder), "--out", str(out)])
    table = Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))
    assert len(table) == recorded.card.steps
    assert np.allclose(table[1]["action"], recorded.episodes[0][1][1])
    assert table["episode"][-1] == 2
    with pytest.raises(SystemExit, match=r"must end in \.parquet or \.csv"):
        demos.main(["export", str(folder), "--out", str(tmp_path / "steps.xls")])
    with pytest.raises(SystemExit, match="cannot be used"):
        demos.main(["inspect", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match="is not empty"):
        demos.main(["record", str(folder)])


def test_the_card_says_where_they_come_from(recorded: demos.Demonstrations) -> None:
    named = dataclasses.asdict(recorded.card)
    assert named["seed"] == 5
    assert "scripted" in named["expert"]
    assert named["licence"] == "Apache-2.0"
