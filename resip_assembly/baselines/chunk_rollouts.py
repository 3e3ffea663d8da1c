"""Shared by the baselines: one decision is a whole chunk, and one loop collects, updates, logs and saves.

Symbols: K decisions per iteration, N envs, T_a executed steps per decision. Equal budgets are counted in
environment steps, K · N · T_a per iteration, as for the residual.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from resip_assembly import checkpoints
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import ChunkPolicy
from resip_assembly.evaluation import Agent, broken, broken_stats, evaluate
from resip_assembly.progress import Progress
from resip_assembly.residual_ppo import Collapse, Trained, gae
from shared.seeding import derive_seed


@dataclass(frozen=True)
class ChunkLoopConfig:
    """Sampling of a baseline; the defaults are the authors' for one_leg (§2.9)."""

    decisions: int = 88  # K: episode length / T_a, 700 / 8
    iterations: int = 700
    reset_every_iteration: bool = True  # False: finished envs restart at the next chunk boundary
    keep_post_success: bool = True
    truncation_is_terminal: bool = True
    gamma: float = 0.999  # per decision
    gae_lambda: float = 0.95
    eval_every: int = 4
    eval_episodes: int = 1024
    save_every: int = 10


@dataclass
class ChunkRollout:
    """K decisions of N envs; what the learner added to a decision is in `extra`, (K, N, …)."""

    obs: Tensor  # (K, N, D) normalised
    chunks: Tensor  # (K, N, T_p, A) normalised
    rewards: Tensor  # (K, N) sum over the chunk, nothing after the episode's end
    next_obs: Tensor  # (K, N, D) after the chunk, or where the episode ended within it
    terminated: Tensor  # (K, N) bool, within the chunk
    truncated: Tensor  # (K, N) bool
    valid: Tensor  # (K, N) bool: the episode had not ended before
    extra: dict[str, Tensor]
    stats: dict[str, float]


class Learner(nn.Module, ABC):
    """A baseline: how it decides, how it learns, how it is judged."""

    base: ChunkPolicy  # horizons and normalizer

    @abstractmethod
    def decide(self, obs: Tensor, previous: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Chunks (N, T_p, A) for obs (N, D), with noise, and what the update has to know of them."""

    @abstractmethod
    def update(self, rollout: ChunkRollout, cfg: ChunkLoopConfig) -> dict[str, float]:
        """Learn from an iteration; Collapse when the update made the policy unusable."""

    @abstractmethod
    def agent(self, num_envs: int) -> Agent:
        """The policy to evaluate."""

    @property
    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Holds every trained parameter."""


class ChunkCollector:
    """Executes whole chunks in an env without autoreset, so that no chunk leaks into the next episode."""

    def __init__(self, env: gym.vector.VectorEnv, base: ChunkPolicy, cfg: ChunkLoopConfig) -> None:
        if env.metadata.get("autoreset_mode") != gym.vector.AutoresetMode.DISABLED:
            raise ValueError("chunk decisions need an env with autoreset='disabled'; make it so")
        self.env, self.base, self.cfg = env, base, cfg
        self.obs = np.zeros((env.num_envs, base.obs_dim), np.float32)
        self.previous = torch.zeros(env.num_envs, base.predict, base.action_dim)

    def reset(self, seed: int) -> None:
        """All envs start an episode."""
        self.obs = self.env.reset(seed=seed)[0]
        self.previous.zero_()

    def collect(self, decide: Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]) -> ChunkRollout:
        """K decisions of every env."""
        n, k = self.env.num_envs, self.cfg.decisions
        normalizer = self.base.normalizer
        device = normalizer.obs.middle.device
        obs_K, chunks_K, next_K, extra_K = [], [], [], []
        rewards = np.zeros((k, n), np.float32)
        terminated, truncated, valid = (np.zeros((k, n), bool) for _ in range(3))
        finished, failures = np.zeros(n, bool), Counter[str]()
        for decision in range(k):
            obs = normalizer.normalize_obs(self.obs)
            with torch.no_grad():
                chunk, extra = decide(obs, self.previous.to(device))
            actions = normalizer.denormalize_action(chunk[:, : self.base.execute])
            valid[decision], terminated[decision] = ~finished, finished
            after = np.array(self.obs)
            for step in range(self.base.execute):
                raw, reward, ended, cut, info = self.env.step(actions[:, step])
                live = ~finished
                after[live] = raw[live]  # stops at the state in which the episode ended
                rewards[decision] += np.where(live, reward, 0)
                terminated[decision] |= ended & live
                truncated[decision] |= (failed := cut & ~ended & live)
                if failed.any():
                    failures += broken(info, failed)
                finished |= ended | cut
            obs_K.append(obs)
            chunks_K.append(chunk)
            extra_K.append(extra)
            next_K.append(normalizer.normalize_obs(after))
            self.obs, self.previous = raw, chunk.to("cpu", copy=True)
            if not self.cfg.reset_every_iteration and finished.any():
                self.obs = self.env.reset(options={"reset_mask": finished})[0]
                self.previous[torch.from_numpy(finished)] = 0.0
                finished = np.zeros(n, bool)
        done = valid & (terminated | truncated)
        stats = {
            "rollout/finished": float(done.sum()),
            "rollout/success": float((done & terminated).sum() / max(done.sum(), 1)),
            "rollout/reward": float(rewards.sum()),
        } | broken_stats(failures)
        ended_T, cut_T, kept_T = (torch.from_numpy(x).to(device) for x in (terminated, truncated, valid))
        obs_T, chunks_T, next_T = (torch.stack(xs) for xs in (obs_K, chunks_K, next_K))
        extra_T = {name: torch.stack([x[name] for x in extra_K]) for name in extra_K[0]}
        reward_T = torch.from_numpy(rewards).to(device)
        return ChunkRollout(obs_T, chunks_T, reward_T, next_T, ended_T, cut_T, kept_T, extra_T, stats)


def train(
    learner: Learner,
    env: gym.vector.VectorEnv,
    cfg: ChunkLoopConfig,
    seed: int,
    folder: Path,
    *,
    eval_env: gym.vector.VectorEnv | None = None,
    identity: Identity | None = None,
    resume_from: Path | None = None,
    on_log: Callable[[dict[str, float], int], object] = lambda metrics, iteration: None,
) -> Trained:
    """Train a baseline in place; arguments, checkpoints, ``best`` and resume as `residual_ppo.train`.

    Raises:
        ValueError: `env` resets by itself, or the checkpoint is of another task.
    """
    identity = identity or Identity("unnamed")
    collector = ChunkCollector(env, learner.base, cfg)
    result = Trained()
    stored = {"baseline": type(learner).__name__}
    agent = learner.agent(eval_env.num_envs) if eval_env is not None else None

    if resume_from is not None:
        checkpoints.load_config(resume_from, identity)
        learner.load_state_dict(checkpoints.load_state(resume_from, "policy"))
        state = checkpoints.load_state(resume_from, "training")
        learner.optimizer.load_state_dict(state["optimizer"])
        result, collector.previous = Trained(**state["result"]), state["previous"]
        if result.stopped is not None:
            return result
        arrays = checkpoints.load_arrays(resume_from)
        collector.obs = arrays.pop("obs")
        if arrays:
            cast(Any, env).set_state({name.removeprefix("env/"): value for name, value in arrays.items()})
    elif not cfg.reset_every_iteration:
        collector.reset(derive_seed(seed, "train") % 2**31)

    def save() -> None:
        tensors = {"optimizer": learner.optimizer.state_dict(), "result": dataclasses.asdict(result)}
        arrays = (
            {} if cfg.reset_every_iteration else {f"env/{k}": v for k, v in cast(Any, env).state().items()}
        )
        states = {"policy": learner.state_dict(), "training": tensors | {"previous": collector.previous}}
        path = folder / f"checkpoint-{result.iterations}"
        checkpoints.save(path, identity, stored, states, arrays | {"obs": collector.obs})
        checkpoints.prune(folder)

    def evaluation() -> dict[str, float]:
        assert eval_env is not None
        assert agent is not None
        found = evaluate(eval_env, agent, cfg.eval_episodes, derive_seed(seed, "selection"))
        if not result.evaluations or found.rate > max(rate for _, rate in result.evaluations):
            checkpoints.save(folder / "best", identity, stored, {"policy": learner.state_dict()})
        result.evaluations.append((result.env_steps, found.rate))
        summary = found.summary()
        return {f"eval/{name}": summary[name] for name in ("success", "success_low", "success_high")}

    with Progress(type(learner).__name__, cfg.iterations, result.iterations) as progress:
        for iteration in range(result.iterations, cfg.iterations):
            torch.manual_seed(derive_seed(seed, "iteration", iteration))
            metrics = evaluation() if agent is not None and iteration % cfg.eval_every == 0 else {}
            if cfg.reset_every_iteration:
                collector.reset(derive_seed(seed, "train", iteration) % 2**31)
            rollout = collector.collect(learner.decide)
            good = copy.deepcopy((learner.state_dict(), learner.optimizer.state_dict()))
            try:
                metrics |= learner.update(rollout, cfg)
            except Collapse as error:
                learner.load_state_dict(good[0])
                learner.optimizer.load_state_dict(good[1])
                result.stopped = f"stopped at iteration {iteration}: {error}; the last good policy is kept"
                print(f"\n{result.stopped}")
                break
            result.iterations = iteration + 1
            result.env_steps += rollout.rewards.numel() * learner.base.execute
            on_log(metrics | rollout.stats | {"rollout/env_steps": result.env_steps}, iteration)
            if result.iterations % cfg.save_every == 0 and result.iterations < cfg.iterations:
                save()
            shown = f"success {rollout.stats['rollout/success']:.2f}"
            if result.evaluations:
                shown += f"  evaluated {result.evaluations[-1][1]:.2f}"
            progress.show(iteration + 1, shown)
    if agent is not None and (not result.evaluations or result.evaluations[-1][0] != result.env_steps):
        on_log(evaluation(), result.iterations)
    save()
    return result


def batch(rollout: ChunkRollout, values: Tensor, next_values: Tensor, cfg: ChunkLoopConfig) -> dict[str, Any]:
    """Flat (B, …) tensors of the kept decisions: obs, chunks, advantages (standardised), returns, extra.

    Args:
        rollout: an iteration.
        values: (K, N) of the decisions' states.
        next_values: (K, N) of `rollout.next_obs`.
        cfg: discount, and the authors' switches.
    """
    ended = rollout.terminated | rollout.truncated if cfg.truncation_is_terminal else rollout.terminated
    advantages, returns = gae(
        rollout.rewards, values, next_values, ended, rollout.truncated, cfg.gamma, cfg.gae_lambda
    )
    keep = torch.ones_like(rollout.valid) if cfg.keep_post_success else rollout.valid
    a = advantages[keep]
    flat = {"obs": rollout.obs[keep], "chunks": rollout.chunks[keep], "returns": returns[keep]}
    flat["advantages"] = (a - a.mean()) / (a.std() + 1e-8)
    return flat | {name: value[keep] for name, value in rollout.extra.items()}
