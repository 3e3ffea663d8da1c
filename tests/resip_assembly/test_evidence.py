"""What is kept of a run: outcomes per episode, phases, corrections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from resip_assembly import corrections, evidence, taxonomy
from resip_assembly.corrections import BINS_MM, Corrections, Recorder
from resip_assembly.diffusion_policy import ChunkPolicy
from resip_assembly.env import make_vector, task_named
from resip_assembly.evaluation import Evaluation
from resip_assembly.experts import ScriptedExpert
from resip_assembly.normalization import Normalizer
from resip_assembly.residual_policy import ResidualAgent, ResidualPolicy


def evaluation(obs: np.ndarray, **changes) -> Evaluation:
    n = len(obs)
    columns = {"success": np.zeros(n, bool), "length": np.full(n, 120), "reward": np.zeros(n)}
    columns |= {"reason": ("time limit",) * n, "seed": (1,) * n, "env": tuple(range(n))}
    return Evaluation(**(columns | changes), final_obs=obs.astype(np.float32))


# ---- phases


@pytest.fixture(scope="module")
def lives() -> dict[str, np.ndarray]:
    """Observations of a peg that rests, is carried, and is let go in the air."""
    env = make_vector("peg_in_hole", 4, threads=1, autoreset="disabled")
    obs, info = env.reset(seed=3)
    found, expert = {"rest": obs}, ScriptedExpert(env, 3)
    peg = 16 + 2  # height in the tag frame, which points down
    for _ in range(60):
        obs, _, _, _, info = env.step(expert.act(obs, info))
        if (obs[:, peg] < found["rest"][:, peg] - 0.015).all():
            break
    found["carried"] = obs
    for _ in range(8):
        release = np.concatenate([obs[:, :3], obs[:, 3:9], np.full((4, 1), -1)], 1)
        obs, *_ = env.step(release.astype(np.float32))
    found["let go"] = obs
    env.close()
    return found


def test_phases_of_a_peg(lives: dict[str, np.ndarray]) -> None:
    task = task_named("peg_in_hole")
    for name, phase in (
        ("rest", "never grasped"),
        ("carried", "held, not inserted"),
        ("let go", "dropped"),
    ):
        assert taxonomy.phases(task, "low", evaluation(lives[name])) == [phase] * 4, name


def test_a_reset_is_never_a_drop() -> None:
    """At any randomness, for every free part, as it lies after the reset."""
    for name in ("peg_in_hole", "one_leg", "round_table", "lamp", "mug_rack"):
        env = make_vector(name, 4, "high", threads=1)
        obs, _ = env.reset(seed=1)
        env.close()
        assert set(taxonomy.phases(env.task, "high", evaluation(obs))) == {"never grasped"}, name


def test_phases_that_need_no_state() -> None:
    task = task_named("one_leg")
    obs = np.zeros((4, 58))
    reason = ("", "time limit", "nan", "blow-up")
    found = evaluation(
        obs, reason=reason, reward=np.array([2, 1, 0, 1]), success=np.array([1, 0, 0, 0], bool)
    )
    expected = ["success", "inserted, not screwed", "simulator", "simulator"]
    assert taxonomy.phases(task, "low", found) == expected
    assert taxonomy.phases(task_named("bimanual"), "low", evaluation(np.zeros((1, 46)))) == [
        "held, not inserted"
    ]


# ---- corrections


class Hover(ChunkPolicy):
    """Plans the same normalised target again and again."""

    def predict_chunk(self, obs, previous=None):
        return obs.new_zeros(len(obs), self.predict, self.action_dim)


class Fixed(ResidualPolicy):
    """Moves every target 12 mm along x, and 16 mm along y where the hand is left of the middle."""

    def act(self, obs, base_action, deterministic=False):
        moved = base_action.clone()
        moved[:, 0] += 0.012
        moved[:, 1] += 0.016 * (obs[:, 1] > 0)
        return moved


def test_recorder_measures_and_does_not_interfere() -> None:
    task = task_named("peg_in_hole")
    base = Hover(Normalizer.empty(37, 10), 2, 2)
    agents = [ResidualAgent(base, Fixed(37, 10), 2) for _ in range(2)]
    recorder = Recorder(agents[0], task)
    obs = np.zeros((2, 37), np.float32)
    obs[:, [19, 26, 33]] = 1.0  # quaternions: x of xyzw
    obs[1, 1] = 0.1
    obs[:, 16] = 0.05  # the peg 50 mm from the hole, then at 5 mm
    for _ in range(2):  # two rounds of two episodes
        recorder.reset(np.ones(2, bool))
        agents[1].reset(np.ones(2, bool))
        for step in range(4):
            obs[:, 16] = 0.005 if step == 3 else 0.05
            np.testing.assert_array_equal(recorder.act(obs), agents[1].act(obs))
    found = recorder.corrections(evaluation(obs[[0, 1, 0]], length=np.array([4, 4, 2]), env=(0, 1, 0)))
    np.testing.assert_array_equal(found.steps, [[1, 0, 3, 0], [1, 0, 3, 0], [0, 0, 2, 0]])
    np.testing.assert_allclose(found.median_mm[:, 2], [12, 20, 12], atol=1e-3)
    assert np.isnan(found.median_mm[2, 0])
    assert found.large.sum() == 0  # 20 mm is not beyond 20 mm


def test_corrections_survive_the_disk(tmp_path: Path) -> None:
    steps = np.array([[3, 0, 0, 7], [0, 2, 0, 0]])
    found = Corrections(steps, np.where(steps > 0, 1.234, np.nan), steps // 3)
    assert steps.shape[1] == len(BINS_MM)
    for name in ("a.gz", "b.gz"):
        corrections.write(found, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    again = corrections.read(tmp_path / "a.gz")
    for field in ("steps", "median_mm", "large"):
        np.testing.assert_array_equal(getattr(again, field), getattr(found, field))


# ---- episodes


def test_episodes_survive_the_disk(tmp_path: Path) -> None:
    won = np.array([True, False, True])
    found = evaluation(np.zeros((3, 37)), success=won, reason=("", "time limit", ""))
    phases = ["success", "dropped", "success"]
    for name in ("a.gz", "b.gz"):
        evidence.write_episodes({"dp": (found, phases), "expert": (found, phases)}, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    again = evidence.read_episodes(tmp_path / "a.gz")
    assert list(again) == ["dp", "expert"]
    np.testing.assert_array_equal(again["dp"].success, won)
    assert again["expert"].phase == tuple(phases)
