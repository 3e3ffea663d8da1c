"""DPPO: fine-tune the diffusion policy itself (arXiv 2409.00588; sheet §2.9, not in ResiP's tables).

The last K' DDIM steps with η = 1 are K' Gaussian decisions of one inner MDP: π(x^{k-1} | x^k, s). Each gets
the environment's advantage of its chunk, discounted by γ_denoise per step still to come, and PPO's clipping.

Symbols: B decisions, K' denoising steps (index 0 is the noisiest), T_p, T_a, A as in `diffusion_policy`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from resip_assembly.baselines.chunk_rollouts import ChunkLoopConfig, ChunkRollout, Learner, batch
from resip_assembly.diffusion_policy import TRAIN_STEPS, ChunkAgent, DiffusionPolicy
from resip_assembly.residual_ppo import Collapse


@dataclass(frozen=True)
class DPPOConfig:
    """DPPO's own values for one_leg."""

    lr: float = 1e-5
    critic_lr: float = 1e-3
    epochs: int = 5
    minibatch_size: int | None = 30_000  # (decision, denoising step) pairs
    gamma_denoise: float = 0.9
    clip_eps: float = 1e-3  # of the last, cleanest step
    clip_eps_first: float = 1e-3  # of the noisiest; in between exponential
    min_std: float = 0.04  # of every denoising step, also the last, whose own is 0
    # Of the log-probability, which would exceed its clamp at `min_std`; DPPO's other presets, not the sheet.
    min_logprob_std: float = 0.1
    critic_width: int = 512
    value_coef: float = 0.5
    target_kl: float = 1.0
    critic_only_iterations: int = 1
    max_grad_norm: float = 25.0  # [ours] as other DPPO presets; furniture's was not found


class DPPO(Learner):
    """Fine-tuned copy of the cloned diffusion policy and a critic on the observation (3 x 512 Mish)."""

    base: DiffusionPolicy

    def __init__(self, cloned: DiffusionPolicy, cfg: DPPOConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.base = copy.deepcopy(cloned).requires_grad_(True).eval()
        self.base.normalizer.requires_grad_(False)
        self.base.warm_start = False  # the inner MDP starts at N(0, I)
        width = cfg.critic_width
        layers: list[nn.Module] = [nn.Linear(cloned.obs_dim, width), nn.Mish()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.Mish()]
        self.critic = nn.Sequential(*layers, nn.Linear(width, 1)).to(cloned.normalizer.obs.middle.device)
        self.iteration = 0
        actor = {"params": [*self.base.denoiser.parameters()], "lr": cfg.lr}
        critic = {"params": [*self.critic.parameters()], "lr": cfg.critic_lr}
        self._optimizer = torch.optim.AdamW([actor, critic], eps=1e-5)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def get_extra_state(self) -> int:
        return self.iteration

    def set_extra_state(self, state: int) -> None:
        self.iteration = state

    def agent(self, num_envs: int) -> ChunkAgent:
        """The usual sampler, η = 0."""
        return ChunkAgent(self.base, num_envs)

    def denoising_step(self, x: Tensor, index: Tensor, obs: Tensor) -> Normal:
        """π(x^{k-1} | x^k, s): DDIM with η = 1 (x (B, T_p, A), index (B,) 0 … K'-1, obs (B, D))."""
        ddim = self.base.ddim
        step = ddim.timesteps.to(x.device)[index]
        previous = step - TRAIN_STEPS // len(ddim.timesteps)
        alphas = ddim.alphas_cumprod.to(x.device)
        now = alphas[step][:, None, None]
        before = torch.where(previous >= 0, alphas[previous.clamp(min=0)], 1.0)[:, None, None]
        out = self.base.denoiser(x, step, obs)
        clean = out if self.base.prediction == "sample" else (x - (1 - now).sqrt() * out) / now.sqrt()
        clean = clean.clamp(-1, 1)
        noise = (x - now.sqrt() * clean) / (1 - now).sqrt()
        variance = (1 - before) / (1 - now) * (1 - now / before)
        mean = before.sqrt() * clean + (1 - before - variance).clamp(min=0).sqrt() * noise
        return Normal(mean, variance.sqrt().clamp(min=self.cfg.min_std).expand_as(mean), validate_args=False)

    def logprob(self, policy: Normal, x: Tensor) -> Tensor:
        """(B,) of x^{k-1}: mean over the executed part of values clamped to [-5, 2], hence the small ε."""
        wide = Normal(policy.mean, policy.stddev.clamp(min=self.cfg.min_logprob_std), validate_args=False)
        return wide.log_prob(x)[:, : self.base.execute].clamp(-5, 2).mean((-1, -2))

    def decide(self, obs: Tensor, previous: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.base.initial_sample(len(obs))
        chain, logprobs = [x], []
        for index in range(len(self.base.ddim.timesteps)):
            policy = self.denoising_step(x, torch.full((len(obs),), index, device=obs.device), obs)
            x = policy.sample()
            logprobs.append(self.logprob(policy, x))
            chain.append(x)
        extra = {"chain": torch.stack(chain, 1), "logprobs": torch.stack(logprobs, 1)}
        return x.clamp(-1, 1), extra

    def update(self, rollout: ChunkRollout, cfg: ChunkLoopConfig) -> dict[str, float]:
        algo, steps = self.cfg, len(self.base.ddim.timesteps)
        with torch.no_grad():
            values, next_values = (self.critic(x).squeeze(-1) for x in (rollout.obs, rollout.next_obs))
        data = batch(rollout, values, next_values, cfg)
        n = len(data["obs"]) * steps
        size = min(algo.minibatch_size or n, n)
        train_actor = self.iteration >= algo.critic_only_iterations
        epochs = 0
        for _ in range(algo.epochs):
            epochs += 1
            kls = []
            for pairs in torch.randperm(n, device=values.device)[: n // size * size].split(size):
                rows, index = pairs // steps, pairs % steps
                obs, chain = data["obs"][rows], data["chain"][rows]
                pick = torch.arange(len(rows), device=rows.device)
                policy = self.denoising_step(chain[pick, index], index, obs)
                logratio = self.logprob(policy, chain[pick, index + 1]) - data["logprobs"][rows, index]
                ratio = logratio.exp()
                a = data["advantages"][rows] * algo.gamma_denoise ** (steps - 1 - index)
                eps = self._clip(index, steps)
                policy_loss = torch.max(-a * ratio, -a * ratio.clamp(1 - eps, 1 + eps)).mean()
                value_loss = 0.5 * (self.critic(obs).squeeze(-1) - data["returns"][rows]).square().mean()
                loss = algo.value_coef * value_loss + (policy_loss if train_actor else 0.0)
                self._optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters(), algo.max_grad_norm)
                self._optimizer.step()
                kls.append(((ratio - 1) - logratio).detach().mean())
            kl = torch.stack(kls).mean().item()
            if not torch.isfinite(loss):
                raise Collapse(f"loss={loss.item()}")
            if kl > algo.target_kl:
                break
        self.iteration += 1
        return {
            "loss/policy": policy_loss.item(),
            "loss/value": value_loss.item(),
            "update/kl": kl,
            "update/epochs": epochs,
        }

    def _clip(self, index: Tensor, steps: int) -> Tensor:
        """ε per denoising step, exponential (rate 3) from the noisiest to the last; the last's if K' = 1."""
        last, first = self.cfg.clip_eps, self.cfg.clip_eps_first
        share = index / (steps - 1) if steps > 1 else torch.ones_like(index, dtype=torch.float32)
        return first + (last - first) * torch.expm1(3 * share) / math.expm1(3)
