"""Successful rollouts as lessons, and DAgger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from resip_assembly import demos, students
from resip_assembly.behaviour_cloning import CloneConfig, MlpPolicy
from resip_assembly.checkpoints import Identity
from resip_assembly.demos import HOLD_STEPS
from resip_assembly.diffusion_policy import ChunkAgent
from resip_assembly.normalization import Normalizer


class Named:
    name = "toy"


@pytest.fixture
def reach(toy):
    """The toy env with what a card asks for."""
    env = toy.PointReach(16, "disabled")
    env.task, env.randomness, env.robot, env.action_mode = Named, "low", "floating", "absolute"
    return env


def test_an_episode_is_kept_with_its_hold_steps_or_not_at_all(toy, reach) -> None:
    agent = ChunkAgent(toy.BiasedBase(0.047), 16)  # close to the 5 cm that count
    found = demos.play(reach, agent, seed=3)
    assert 0 < sum(e is None for e in found) < 16 or all(e is not None for e in found)
    for episode in found:
        if episode is None:
            continue
        obs, actions = episode
        distance = np.linalg.norm(obs[:, :2] - obs[:, 2:], axis=1)
        first = np.flatnonzero(distance < 0.05)[0]  # seen one step after the action that got there
        assert len(obs) == len(actions) == first + HOLD_STEPS
        np.testing.assert_allclose(actions, obs[:, 2:] + [0.047, 0], atol=1e-6)


def test_record_fills_up_and_is_a_function_of_the_seed(toy, reach) -> None:
    agent = ChunkAgent(toy.BiasedBase(0.0), 16)
    found = students.record(reach, agent, "base", 20, seed=1)
    assert (found.card.episodes, len(found.episodes), found.card.attempts) == (20, 20, 32)
    assert found.card.steps == len(found.observations)
    assert found.card.expert == "rollouts: base"
    again = students.record(reach, agent, "base", 20, seed=1)
    other = students.record(reach, agent, "base", 20, seed=2)
    np.testing.assert_array_equal(found.observations, again.observations)
    assert not np.array_equal(found.observations[:5], other.observations[:5])


def test_a_hopeless_policy_is_refused(toy, reach) -> None:
    class Still(ChunkAgent):
        def act(self, obs: np.ndarray) -> np.ndarray:
            return obs[:, :2]

    with pytest.raises(RuntimeError, match=r"\d of 320 base rollouts succeeded; 9 are asked for"):
        students.record(reach, Still(toy.BiasedBase(), 16), "base", 9, seed=1)


def test_the_mixture_labels_with_the_teacher(toy) -> None:
    agents = [ChunkAgent(toy.BiasedBase(bias), 1000) for bias in (0.0, 1.0)]
    mixture = students.Labeller(*agents, beta=0.7, seed=0)
    mixture.reset(np.ones(1000, bool))
    obs = np.zeros((1000, 4), np.float32)
    actions = mixture.act(obs)
    assert (mixture.labels == 0).all()
    assert 0.65 < (actions[:, 0] == 0).mean() < 0.75
    assert actions.dtype == np.float32


def dagger(toy, env, folder: Path, episodes: int = 40) -> MlpPolicy:
    torch.manual_seed(0)
    student = MlpPolicy(Normalizer.empty(4, 2), 4, 4, width=32, layers=1, dropout=0.0)
    clone = CloneConfig(updates=240, batch_size=64, lr=5e-3, warmup=10, pad_after=3, save_every=10_000)
    teacher = ChunkAgent(toy.BiasedBase(0.0), 16)
    students.dagger(env, teacher, student, clone, episodes, 1, folder, Identity("toy"))
    return student


def test_dagger_teaches_and_goes_on_where_it_was_killed(toy, reach, tmp_path: Path) -> None:
    student = dagger(toy, reach, tmp_path / "whole")
    obs = torch.rand(256, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    error = (student.predict_chunk(obs)[:, 0] - obs[:, 2:]).abs().mean()
    assert error < 0.2
    dagger(toy, reach, tmp_path / "cut", episodes=16)  # one round
    dagger(toy, reach, tmp_path / "cut")
    first, last = (demos.load(tmp_path / "cut" / f"labelled-{k}").episodes for k in (1, 3))
    assert len(last) >= 40 > len(first)
    for one, other in zip(first, last, strict=False):
        np.testing.assert_array_equal(one[0], other[0])
