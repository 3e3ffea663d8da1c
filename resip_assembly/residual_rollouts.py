"""Experience of base plus residual (sheet §2.8): kept apart from the update that learns from it.

Symbols: T steps per iteration, N envs, D residual observation, A action, U residual dimensions.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from resip_assembly.diffusion_policy import ChunkPolicy, ChunkQueue
from resip_assembly.evaluation import broken, broken_stats, final_observations
from resip_assembly.residual_policy import Features, ResidualPolicy, residual_features


@dataclass
class Rollout:
    """One iteration's experience; torch, on the policy's device."""

    z: Tensor  # (T, N, D + A)
    u: Tensor  # (T, N, U)
    logprobs: Tensor  # (T, N)
    rewards: Tensor  # (T, N) raw
    values: Tensor  # (T, N)
    next_values: Tensor  # (T, N) of the state after the step, before any reset
    terminated: Tensor  # (T, N) bool; stays true after success in an env that is not reset
    truncated: Tensor  # (T, N) bool
    valid: Tensor  # (T, N) bool: the env's episode had not ended before this step
    decided: Tensor  # (T, N) bool: u was drawn here; all true but with held residuals
    stats: dict[str, float]


class Collector:
    """Steps the environments with base and residual; keeps observations and queues between iterations.

    Args:
        env: same-step autoreset or none.
        base: frozen.
        steps: T.
        extra: features for the residual.
        hold: ablation: one residual per base chunk, drawn at its first step.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv,
        base: ChunkPolicy,
        steps: int,
        extra: Features | None = None,
        hold: bool = False,
    ) -> None:
        self.env, self.base, self.steps, self.extra, self.hold = env, base, steps, extra, hold
        self.held: Tensor | None = None  # (N, U), with `hold`
        self.autoreset = env.metadata.get("autoreset_mode") == gym.vector.AutoresetMode.SAME_STEP
        self.queue = ChunkQueue(base, env.num_envs)
        self.obs = np.zeros((env.num_envs, base.obs_dim), np.float32)

    def reset(self, seed: int) -> None:
        """All envs start an episode."""
        self.obs = self.env.reset(seed=seed)[0]
        self.queue.clear(np.ones(self.env.num_envs, bool))

    def _features(self, obs: np.ndarray) -> Tensor:
        return residual_features(obs, self.base.normalizer, self.extra)

    def collect(self, policy: ResidualPolicy) -> Rollout:
        """T steps of every env with exploration noise."""
        steps, n, device = self.steps, self.env.num_envs, policy.logstd.device
        z = torch.empty(steps, n, policy.obs_dim + policy.action_dim, device=device)
        u = torch.empty(steps, n, policy.residual_dim, device=device)
        logprobs, values, next_values = (torch.empty(steps, n, device=device) for _ in range(3))
        rewards = np.zeros((steps, n), np.float32)
        terminated, truncated, valid = (np.zeros((steps, n), bool) for _ in range(3))
        decided = torch.ones(steps, n, dtype=torch.bool, device=device)
        finished, failures = np.zeros(n, bool), Counter[str]()
        with torch.inference_mode():
            features = self._features(self.obs)
            base_action = self.queue.current(features[:, : self.base.obs_dim])
            z_now = torch.cat([features, base_action], dim=-1)
            value_now = policy.value(z_now)
            for t in range(steps):
                distribution = policy.distribution(z_now)
                z[t], u[t], values[t] = z_now, distribution.sample(), value_now
                if self.hold:
                    decided[t] = self.queue.step == 0
                    if self.held is not None:
                        u[t] = torch.where(decided[t][:, None], u[t], self.held)
                    self.held = u[t].clone()
                logprobs[t] = distribution.log_prob(u[t]).sum(-1)
                action = self.base.normalizer.denormalize_action(policy.combine(base_action, u[t]))
                obs, reward, ended, cut, info = self.env.step(action)
                self.queue.advance()
                valid[t] = ~finished
                rewards[t] = np.where(finished, 0.0, reward)
                terminated[t] = ended | finished
                truncated[t] = cut & ~terminated[t]
                if truncated[t].any():
                    failures += broken(info, truncated[t])
                final = None
                if self.autoreset and (done := ended | cut).any():
                    if truncated[t].any():
                        final = self._value_of_final(policy, info, truncated[t])
                    self.queue.clear(done)
                elif not self.autoreset:
                    finished |= ended | cut
                self.obs = obs
                features = self._features(obs)
                base_action = self.queue.current(features[:, : self.base.obs_dim])
                z_now = torch.cat([features, base_action], dim=-1)
                value_now = policy.value(z_now)
                next_values[t] = value_now
                if final is not None:
                    next_values[t, torch.from_numpy(truncated[t]).to(device)] = final
        first_done = valid & (terminated | truncated)
        count = max(int(first_done.sum()), 1)
        stats = {
            "rollout/finished": float(first_done.sum()),
            # Of finished episodes: successes finish first, so compare deterministic evaluations instead.
            "rollout/success": float((first_done & terminated).sum() / count),
            "rollout/reward": float(rewards.sum()),
        } | broken_stats(failures)
        ended, cut, kept = (torch.from_numpy(x).to(device) for x in (terminated, truncated, valid))
        reward = torch.from_numpy(rewards).to(device)
        return Rollout(z, u, logprobs, reward, values, next_values, ended, cut, kept, decided, stats)

    def _value_of_final(self, policy: ResidualPolicy, info: dict[str, Any], mask: np.ndarray) -> Tensor:
        """V of the states that the autoreset replaced, with the base action that would have come next."""
        features = self._features(final_observations(info, mask))
        rows = torch.from_numpy(np.flatnonzero(mask)).to(features.device)
        base_action = self.queue.peek(features[:, : self.base.obs_dim], rows)
        return policy.value(torch.cat([features, base_action], dim=-1))


@dataclass
class RewardScale:
    """Running standard deviation of raw rewards (authors' `normalize_reward`); no mean is subtracted."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations

    def __call__(self, rewards: Tensor) -> Tensor:
        """rewards / std of everything seen, clipped ±5."""
        n, mean = rewards.numel(), rewards.mean().item()
        squares, shift, total = (rewards - mean).square().sum().item(), mean - self.mean, self.count + n
        self.squares += squares + shift**2 * self.count * n / total
        self.mean += shift * n / total
        self.count = total
        return (rewards / math.sqrt(self.squares / total + 1e-8)).clamp(-5, 5)
