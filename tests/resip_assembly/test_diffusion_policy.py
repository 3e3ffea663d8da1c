"""Diffusion policy: the sheet's sizes, the sampler's steps and start, queues."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resip_assembly.diffusion_policy import (
    ChunkAgent,
    ChunkQueue,
    ConditionalUnet1D,
    DiffusionPolicy,
    MLPDenoiser,
)
from resip_assembly.normalization import Normalizer


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class Oracle(torch.nn.Module):
    """Knows the clean chunk, and answers in the policy's prediction type."""

    def __init__(self, clean: torch.Tensor, epsilon: bool) -> None:
        super().__init__()
        self.clean, self.epsilon, self.asked = clean, epsilon, []

    def forward(self, chunk: torch.Tensor, step: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        self.asked.append((int(step[0]), chunk.clone()))
        if not self.epsilon:
            return self.clean.expand_as(chunk)
        alpha = self.alphas[step][:, None, None]
        return (chunk - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()


def policy(denoiser: torch.nn.Module, obs_dim: int = 4, **options) -> DiffusionPolicy:
    return DiffusionPolicy(denoiser, Normalizer.empty(obs_dim, 2), predict=8, execute=4, **options)


@pytest.mark.parametrize(("obs_dim", "millions"), [(58, 66.06), (37, 65.75)])
def test_the_unet_has_the_papers_size(obs_dim: int, millions: float) -> None:
    with torch.device("meta"):
        assert count(ConditionalUnet1D(obs_dim, 10)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_the_mlp_denoiser_has_the_measured_size_and_starts_at_zero() -> None:
    net = MLPDenoiser(30, 10, 16)
    assert count(net) == pytest.approx(0.23e6, rel=0.01)
    assert not net(torch.randn(3, 16, 10), torch.tensor([0, 5, 99]), torch.randn(3, 30)).any()


def test_unet_shapes_conditioning_and_divisibility() -> None:
    torch.manual_seed(0)
    net = ConditionalUnet1D(4, 2, widths=(16, 32, 64))
    chunk, obs, step = torch.randn(3, 8, 2), torch.randn(3, 4), torch.tensor([1, 2, 3])
    out = net(chunk, step, obs)
    assert out.shape == chunk.shape
    assert not torch.allclose(out, net(chunk, step + 50, obs))
    assert not torch.allclose(out, net(chunk, step, obs + 1))
    moved = chunk.clone()
    moved[:, -1] += 1
    assert not torch.allclose(out[:, 0], net(moved, step, obs)[:, 0])  # the first step sees the last
    with pytest.raises(ValueError, match="predict=6 steps: the U-Net needs a multiple of 4"):
        net(torch.randn(3, 6, 2), step, obs)
    with pytest.raises(ValueError, match=r"widths \[12\] do not divide into 8 groups"):
        ConditionalUnet1D(4, 2, widths=(12, 32))


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_four_ddim_steps_reach_what_the_denoiser_knows(prediction: str) -> None:
    torch.manual_seed(0)
    clean = torch.rand(1, 8, 2) * 1.6 - 0.8
    oracle = Oracle(clean, epsilon=prediction == "epsilon")
    made = policy(oracle, prediction=prediction)
    oracle.alphas = made.ddim.alphas_cumprod
    found = made.predict_chunk(torch.zeros(3, 4))
    assert [step for step, _ in oracle.asked] == [75, 50, 25, 0]  # §2.6
    torch.testing.assert_close(found, clean.expand(3, -1, -1), atol=1e-4, rtol=0)


def test_warm_start_is_the_shifted_tail_noised_to_step_50() -> None:
    oracle = Oracle(torch.zeros(1, 8, 2), epsilon=False)
    made = policy(oracle, prediction="sample", warm_start=True)
    assert made.ddpm.alphas_cumprod[50].item() == pytest.approx(0.478, abs=5e-4)  # §2.6
    previous = torch.arange(16.0).view(1, 8, 2).expand(4000, -1, -1)
    start = made.initial_sample(4000, previous)
    expected = torch.cat([previous[0, 4:], torch.zeros(4, 2)]) * 0.478**0.5
    torch.testing.assert_close(start.mean(0), expected, atol=0.05, rtol=0)
    assert start.std(0).mean().item() == pytest.approx((1 - 0.478) ** 0.5, abs=0.01)
    first = made.initial_sample(4000)  # no previous chunk: zeros
    assert first.mean().abs() < 0.02
    assert first.std().item() == pytest.approx((1 - 0.478) ** 0.5, abs=0.01)
    made.warm_start = False
    assert made.initial_sample(4000, previous).std().item() == pytest.approx(1, abs=0.01)


def test_the_loss_compares_with_the_noise_or_the_chunk() -> None:
    torch.manual_seed(0)
    chunk = torch.full((256, 8, 2), 0.5)
    zero = MLPDenoiser(4, 2, 8)
    obs = torch.zeros(256, 4)
    assert policy(zero, prediction="epsilon").loss(obs, chunk).item() == pytest.approx(1.0, abs=0.1)
    assert policy(zero, prediction="sample").loss(obs, chunk).item() == pytest.approx(0.25)
    assert policy(zero, prediction="sample", loss="l1").loss(obs, chunk).item() == pytest.approx(0.5)


def test_freeze_leaves_nothing_to_train() -> None:
    frozen = policy(MLPDenoiser(4, 2, 8)).freeze()
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())


def test_horizons_are_checked() -> None:
    with pytest.raises(ValueError, match="execute=9 of predict=8 steps"):
        DiffusionPolicy(MLPDenoiser(4, 2, 8), Normalizer.empty(4, 2), predict=8, execute=9)


def test_queue_replans_only_what_ran_out_and_peeks_without_consuming(toy) -> None:
    base = toy.BiasedBase(bias=0.0, predict=6, execute=3)
    queue = ChunkQueue(base, 4)
    obs = torch.arange(16.0).view(4, 4)
    first = queue.current(obs)
    assert torch.equal(first, obs[:, 2:])
    assert torch.equal(queue.current(obs + 9), first)  # open loop, and asking does not consume
    queue.advance()
    queue.clear(np.array([False, True, False, False]))
    now = queue.current(obs + 1)
    assert torch.equal(now[1], obs[1, 2:] + 1)
    assert torch.equal(now[0], first[0])
    queue.advance()
    queue.advance()  # three executed in env 0, two in env 1
    peeked = queue.peek(obs[[0, 1]] + 5, torch.tensor([0, 1]))
    assert torch.equal(peeked[0], obs[0, 2:] + 5)
    assert torch.equal(peeked[1], now[1])
    assert base.rows == [4, 1, 1]
    queue.current(obs)
    assert base.rows == [4, 1, 1, 3]


def test_queue_state_restores_plans(toy) -> None:
    base = toy.BiasedBase()
    queue, other = ChunkQueue(base, 2), ChunkQueue(base, 2)
    queue.current(torch.randn(2, 4))
    queue.advance()
    other.load_state_dict(queue.state_dict())
    obs = torch.randn(2, 4)
    assert torch.equal(queue.current(obs), other.current(obs))


def test_chunk_agent_reaches_the_goal(toy) -> None:
    env, agent = toy.PointReach(8, "disabled"), ChunkAgent(toy.BiasedBase(bias=0.0), 8)
    obs, _ = env.reset(seed=0)
    agent.reset(np.ones(8, bool))
    for _ in range(20):
        obs, _, terminated, _, _ = env.step(agent.act(obs))
    assert terminated.all()
