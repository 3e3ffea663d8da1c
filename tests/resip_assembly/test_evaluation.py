"""Evaluation: fixed episode seeds, what counts, autoreset or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resip_assembly.diffusion_policy import ChunkAgent
from resip_assembly.evaluation import evaluate


@pytest.mark.parametrize("bias", [0.0, 0.13])
def test_autoreset_changes_nothing(toy, bias: float) -> None:
    found = [
        evaluate(toy.PointReach(16, mode), ChunkAgent(toy.BiasedBase(bias), 16), 40, seed=1)
        for mode in ("same_step", "disabled")
    ]
    for name in ("success", "length", "reward", "final_obs"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
    assert found[0].rows() == found[1].rows()
    assert len(found[0].success) == 40
    assert len(set(found[0].seed)) == 3  # rounds of 16, 16, 8


def test_summary_and_rows_say_what_happened(toy) -> None:
    found = evaluate(toy.PointReach(16), ChunkAgent(toy.BiasedBase(0.13), 16), 16, seed=1)
    summary = found.summary()
    assert summary["episodes"] == 16
    assert summary["successes"] == found.success.sum() == found.reward.sum()
    assert summary["success_low"] < summary["success"] == found.rate < summary["success_high"]
    assert summary["failures"] == {"time limit": 16 - summary["successes"]}
    failed = ~found.success
    assert (found.length[failed] == 20).all()
    offset = found.final_obs[failed, :2] - found.final_obs[failed, 2:]
    np.testing.assert_allclose(offset, np.tile([0.13, 0], (failed.sum(), 1)), atol=1e-3)
    assert {row["reason"] for row in found.rows() if row["success"]} <= {""}


def test_episodes_are_fixed_by_the_seed_and_training_noise_is_untouched(toy) -> None:
    env, agent = toy.PointReach(8), ChunkAgent(toy.BiasedBase(0.1), 8)
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    first = evaluate(env, agent, 16, seed=4)
    assert torch.equal(torch.randn(3), expected)
    again = evaluate(env, agent, 16, seed=4)
    other = evaluate(env, agent, 16, seed=5)
    np.testing.assert_array_equal(first.final_obs, again.final_obs)
    assert not np.array_equal(first.final_obs, other.final_obs)


def test_no_episode_is_refused(toy) -> None:
    with pytest.raises(ValueError, match="episodes=0: need at least 1"):
        evaluate(toy.PointReach(2), ChunkAgent(toy.BiasedBase(), 2), 0)
