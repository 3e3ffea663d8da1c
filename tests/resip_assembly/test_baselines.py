"""Baselines: whole chunks as decisions, PPO on the MLP, DPPO's inner MDP, value re-ranking."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers import DDIMScheduler

from resip_assembly.baselines import chunk_rollouts
from resip_assembly.baselines.chunk_rollouts import ChunkCollector, ChunkLoopConfig
from resip_assembly.baselines.dppo import DPPO, DPPOConfig
from resip_assembly.baselines.mlp_ppo import MlpPPO, MlpPPOConfig
from resip_assembly.baselines.value_reranking import BestOf, RerankingConfig, ValueReranking
from resip_assembly.behaviour_cloning import MlpPolicy
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import DiffusionPolicy
from resip_assembly.normalization import Normalizer

LOOP = ChunkLoopConfig(
    decisions=10,
    iterations=3,
    reset_every_iteration=False,
    keep_post_success=False,
    truncation_is_terminal=False,
    gamma=0.99,
    eval_every=100,
    eval_episodes=64,
    save_every=2,
)


class CloseMlp(MlpPolicy):
    """An MLP whose chunk is goal + bias at the start, and which can learn."""

    def __init__(self, bias: float) -> None:
        super().__init__(Normalizer.empty(4, 2), 4, 4, width=32, layers=1, dropout=0.0)
        torch.nn.init.zeros_(self.output.weight)
        with torch.no_grad():
            self.output.bias.copy_(torch.tensor([bias, 0.0]).repeat(4))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return super().forward(obs) + obs[:, None, 2:]


class NoisyGoal(torch.nn.Module):
    """A denoiser that aims at the goal plus an error drawn with the chunk's start noise."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor([bias, 0.0]))

    def forward(self, chunk: torch.Tensor, step: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        return obs[:, None, 2:] + self.bias + 0.05 * chunk.mean(1, keepdim=True).expand_as(chunk)


def diffusion(bias: float = 0.0, prediction: str = "sample") -> DiffusionPolicy:
    torch.manual_seed(0)
    options = {"prediction": prediction, "warm_start": False}
    return DiffusionPolicy(NoisyGoal(bias), Normalizer.empty(4, 2), 4, 4, **options)


def state(learner: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


# ---- chunk rollouts


@pytest.mark.parametrize("reset_every_iteration", [True, False])
def test_a_chunk_is_one_decision_and_stops_at_the_episodes_end(toy, reset_every_iteration: bool) -> None:
    cfg = dataclasses.replace(LOOP, reset_every_iteration=reset_every_iteration)
    env = toy.PointReach(32, "disabled")
    learner = MlpPPO(CloseMlp(0.0), MlpPPOConfig(init_logstd=-3.0))
    torch.manual_seed(0)
    collector = ChunkCollector(env, learner.base, cfg)
    collector.reset(0)
    found = collector.collect(learner.decide)
    assert env.calls == 10 * 4
    assert found.chunks.shape == (10, 32, 4, 2)
    assert found.rewards[~found.valid].sum() == 0
    assert torch.equal(found.rewards[found.valid] > 0, found.terminated[found.valid])
    distance = (found.next_obs[..., :2] - found.next_obs[..., 2:]).norm(dim=-1)
    ended = found.valid & found.terminated
    assert (distance[ended] < 0.05).all()  # the state in which it ended, not four steps later
    if reset_every_iteration:
        assert found.terminated[~found.valid].all()
        assert found.terminated[-1].all()
    else:
        assert found.valid.all()
        assert env.episode.min() > 1
        new = torch.roll(ended, 1, 0)[1:]
        assert (found.obs[1:][new][:, :2] - found.next_obs[:-1][new][:, :2]).norm(dim=-1).max() > 0.05


def test_what_the_simulator_breaks_is_counted(toy) -> None:
    env = toy.PointReach(8, "disabled")
    env.breaks = {
        (2, 0): "nan",
        (2, 1): "blow-up",
        (3, 5): "nan",
        (4, 6): "nan action",
        (5, 7): "out of workspace",
    }
    learner = MlpPPO(CloseMlp(0.3), MlpPPOConfig(init_logstd=-3.0))
    collector = ChunkCollector(env, learner.base, dataclasses.replace(LOOP, reset_every_iteration=True))
    collector.reset(0)
    stats = collector.collect(learner.decide).stats
    found = {name: stats[f"rollout/{name}"] for name in ("nan", "blow_up", "nan_action", "out_of_workspace")}
    assert found == {"nan": 2, "blow_up": 1, "nan_action": 1, "out_of_workspace": 1}


def test_an_env_that_resets_by_itself_is_refused(toy) -> None:
    with pytest.raises(ValueError, match="autoreset='disabled'"):
        ChunkCollector(toy.PointReach(2), CloseMlp(0.0), LOOP)


# ---- MLP-C + PPO


def test_chunk_logprob_sums_over_steps_and_dimensions() -> None:
    learner = MlpPPO(CloseMlp(0.0), MlpPPOConfig())
    chunk, extra = learner.decide(torch.zeros(5, 4), torch.zeros(5, 4, 2))
    z = chunk / math.exp(-5)
    expected = (-0.5 * z**2 + 5 - 0.5 * math.log(2 * math.pi)).sum((1, 2))
    torch.testing.assert_close(extra["logprobs"], expected, rtol=1e-4, atol=1e-3)


def test_cross_entropy_is_of_the_clone_with_its_first_std() -> None:
    """-E[log N(a; m, s)] with a ~ N(m + d, s'): 0.5 (d² + s'²) / s² + log s + 0.5 log 2π per dimension."""
    torch.manual_seed(0)
    learner = MlpPPO(CloseMlp(0.0), MlpPPOConfig(init_logstd=-2.0))
    with torch.no_grad():
        learner.base.output.bias += 0.1
        learner.logstd += 0.3
    obs = torch.zeros(100_000, 4)
    found = learner._cross_entropy(learner.distribution(obs), obs).item()
    s2 = math.exp(-4)
    one = 0.5 * (0.01 + s2 * math.exp(0.6)) / s2 - 2 + 0.5 * math.log(2 * math.pi)
    assert found == pytest.approx(8 * one, abs=0.05)


@pytest.mark.slow
def test_ppo_on_the_chunk_policy_improves_a_biased_clone(toy, tmp_path: Path) -> None:
    cfg = MlpPPOConfig(init_logstd=-3.0, lr=2e-3, critic_lr=3e-3, kl_coef=0.001, minibatch_size=160)
    learner = MlpPPO(CloseMlp(0.09), cfg)
    loop = dataclasses.replace(LOOP, iterations=9)
    env = toy.PointReach(64, "disabled")
    result = chunk_rollouts.train(learner, env, loop, 0, tmp_path, eval_env=toy.PointReach(64, "disabled"))
    rates = [rate for _, rate in result.evaluations]
    assert result.stopped is None
    assert rates[-1] > rates[0] + 0.3
    assert result.env_steps == 9 * 10 * 4 * 64
    assert not learner.reference.training
    assert torch.equal(learner.reference.output.bias, CloseMlp(0.09).output.bias)


def test_the_regulariser_holds_the_policy_at_the_clone(toy, tmp_path: Path) -> None:
    moved = []
    for coefficient in (0.0, 1.0):
        cfg = MlpPPOConfig(init_logstd=-3.0, lr=3e-3, kl_coef=coefficient, target_kl=10.0, collapse_kl=1e9)
        learner = MlpPPO(CloseMlp(0.09), cfg)
        chunk_rollouts.train(learner, toy.PointReach(32, "disabled"), LOOP, 0, tmp_path / str(coefficient))
        moved.append((learner.base(torch.zeros(1, 4)) - learner.reference(torch.zeros(1, 4))).norm().item())
    assert moved[1] < 0.5 * moved[0]


# ---- DPPO


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_the_inner_step_is_diffusers_ddim_with_eta_one(prediction: str) -> None:
    torch.manual_seed(0)
    learner = DPPO(diffusion(0.1, prediction), DPPOConfig(min_std=1e-6))
    scheduler: DDIMScheduler = learner.base.ddim
    x, obs = 0.3 * torch.randn(5, 4, 2), 0.3 * torch.randn(5, 4)
    for index, step in enumerate(scheduler.timesteps.tolist()):
        policy = learner.denoising_step(x, torch.full((5,), index), obs)
        out = learner.base.denoiser(x, torch.full((5,), step), obs)
        noise = torch.randn_like(x)
        options = {"eta": 1.0, "variance_noise": noise, "use_clipped_model_output": True}
        expected = scheduler.step(out, step, x, **options).prev_sample
        torch.testing.assert_close(policy.mean + policy.stddev * noise, expected, atol=1e-5, rtol=1e-4)


def test_every_denoising_step_keeps_some_noise_and_ratios_start_at_one() -> None:
    learner = DPPO(diffusion(), DPPOConfig())
    obs = torch.zeros(6, 4)
    chunk, extra = learner.decide(obs, torch.zeros(6, 4, 2))
    assert extra["chain"].shape == (6, 5, 4, 2)
    assert torch.equal(chunk, extra["chain"][:, -1].clamp(-1, 1))
    for index in range(4):
        policy = learner.denoising_step(extra["chain"][:, index], torch.full((6,), index), obs)
        assert policy.stddev.min() >= 0.04
        again = learner.logprob(policy, extra["chain"][:, index + 1])
        torch.testing.assert_close(again, extra["logprobs"][:, index])


def test_the_clip_grows_exponentially_to_the_last_step() -> None:
    learner = DPPO(diffusion(), DPPOConfig(clip_eps=0.01, clip_eps_first=0.001))
    eps = learner._clip(torch.arange(4), 4)
    assert eps[0].item() == pytest.approx(0.001)
    assert eps[-1].item() == pytest.approx(0.01)
    assert eps[1].item() == pytest.approx(0.001 + 0.009 * (math.e - 1) / (math.e**3 - 1))
    assert learner._clip(torch.zeros(1, dtype=torch.long), 1).item() == pytest.approx(0.01)  # not 0/0


@pytest.mark.slow
def test_dppo_improves_a_biased_diffusion_policy(toy, tmp_path: Path) -> None:
    cfg = DPPOConfig(
        lr=3e-3, critic_lr=3e-3, critic_width=64, clip_eps=0.02, clip_eps_first=0.02, minibatch_size=640
    )
    learner = DPPO(diffusion(0.09), cfg)
    loop = dataclasses.replace(LOOP, iterations=8)
    result = chunk_rollouts.train(
        learner, toy.PointReach(64, "disabled"), loop, 0, tmp_path, eval_env=toy.PointReach(64, "disabled")
    )
    rates = [rate for _, rate in result.evaluations]
    assert rates[-1] > rates[0] + 0.3
    assert learner.iteration == 8


# ---- value re-ranking


@pytest.mark.slow
def test_q_starts_at_one_half_and_learns_the_returns(toy, tmp_path: Path) -> None:
    learner = ValueReranking(diffusion(0.08), RerankingConfig(lr=3e-3, width=64, minibatch_size=160))
    obs, chunk = torch.randn(3, 4), torch.randn(3, 4, 2)
    assert learner.value(obs, chunk).tolist() == [0.5] * 3
    losses = []
    chunk_rollouts.train(
        learner, toy.PointReach(64, "disabled"), dataclasses.replace(LOOP, iterations=10), 0, tmp_path,
        on_log=lambda metrics, step: losses.append(metrics["loss/value"]),
    )  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]
    goal = torch.tensor([[0.5, 0.0, 0.5, 0.3]])
    good, bad = (goal[:, None, 2:].expand(1, 4, 2) + shift for shift in (0.0, 0.5))
    assert learner.value(goal, good) > learner.value(goal, bad)


def test_the_best_of_k_is_executed(toy) -> None:
    learner = ValueReranking(diffusion(), RerankingConfig(samples=20))
    learner.value = lambda obs, chunk: chunk[..., 0, 0]
    obs = torch.zeros(500, 4)
    best = BestOf(learner).predict_chunk(obs)[:, 0, 0]
    single = learner.base.predict_chunk(obs)[:, 0, 0]
    # mean of the largest of 20 normal draws: 1.87 standard deviations
    assert ((best.mean() - single.mean()) / single.std()).item() == pytest.approx(1.87, abs=0.15)


def test_reranking_needs_a_policy_that_samples() -> None:
    with pytest.raises(ValueError, match="CloseMlp gives one chunk per state"):
        ValueReranking(CloseMlp(0.0), RerankingConfig())


# ---- the shared loop


def learners():
    mlp = MlpPPOConfig(init_logstd=-3.0, epochs=2, collapse_kl=1e9)
    yield lambda: MlpPPO(CloseMlp(0.1), mlp)
    yield lambda: DPPO(diffusion(0.1), DPPOConfig(epochs=2, minibatch_size=300, critic_width=32))
    yield lambda: ValueReranking(diffusion(0.1), RerankingConfig(width=32, epochs=2))


@pytest.mark.parametrize("make", list(learners()), ids=["mlp_ppo", "dppo", "reranking"])
@pytest.mark.parametrize("reset_every_iteration", [True, False])
def test_kill_and_resume_is_bit_identical(toy, tmp_path: Path, make, reset_every_iteration: bool) -> None:
    cfg = dataclasses.replace(LOOP, iterations=4, reset_every_iteration=reset_every_iteration)

    def run(learner, folder, **options):
        torch.manual_seed(3)
        env = toy.PointReach(16, "disabled")
        options |= {"eval_env": toy.PointReach(16, "disabled"), "identity": Identity("toy")}
        return chunk_rollouts.train(learner, env, cfg, 0, tmp_path / folder, **options)

    def kill(metrics, step):
        if step == 2:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    whole = make()
    result = run(whole, "whole")
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        run(make(), "cut", on_log=kill)
    resumed = make()
    again = run(resumed, "cut", resume_from=tmp_path / "cut" / "checkpoint-2")
    assert torch.equal(state(whole), state(resumed))
    assert result == again


def test_a_non_finite_update_keeps_the_last_good_policy(toy, tmp_path: Path) -> None:
    learner = MlpPPO(CloseMlp(0.0), MlpPPOConfig(init_logstd=-3.0, lr=1e6))
    before = state(learner)
    result = chunk_rollouts.train(learner, toy.PointReach(8, "disabled"), LOOP, 0, tmp_path)
    assert "last good policy is kept" in result.stopped
    assert torch.equal(state(learner), before)
    assert np.isfinite(before.numpy()).all()
