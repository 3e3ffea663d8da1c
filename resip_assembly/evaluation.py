"""Success rates: one episode per environment and round, on fixed episode seeds (sheet §4).

Any `Agent` can be judged: base policy, residual, re-ranking, scripted expert.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch

from shared.seeding import derive_seed
from shared.stats import wilson


class Agent(Protocol):
    """A policy with per-env memory."""

    def reset(self, mask: np.ndarray) -> None:
        """Forget the memory (action queues) of the envs in `mask` (N,) bool: their episode starts now."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """Raw observations (N, D) to raw actions (N, A)."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """E episodes, in the order of (round, env)."""

    success: np.ndarray  # (E,) bool: all pairs were assembled at some time
    length: np.ndarray  # (E,) control steps until the first done
    reward: np.ndarray  # (E,) sum, i.e. assembled pairs
    reason: tuple[str, ...]  # why an episode was truncated; "" for a success
    seed: tuple[int, ...]  # with which its round was reset
    env: tuple[int, ...]  # index in the vector
    final_obs: np.ndarray  # (E, D) state at the first done, for a failure taxonomy

    @property
    def rate(self) -> float:
        """Success rate, 0 … 1."""
        return float(self.success.mean())

    def summary(self) -> dict[str, Any]:
        """successes, episodes, success with its Wilson 95 % interval, median length, reasons of failure."""
        k, n = int(self.success.sum()), len(self.success)
        low, high = wilson(k, n)
        lengths = self.length[self.success].tolist()
        return {
            "successes": k,
            "episodes": n,
            "success": k / n,
            "success_low": low,
            "success_high": high,
            "success_length_median": statistics.median(lengths) if lengths else None,
            "reward_mean": float(self.reward.mean()),
            "failures": dict(Counter(r for r, s in zip(self.reason, self.success, strict=True) if not s)),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-ready dict per episode, without the observation."""
        return [
            {
                "seed": seed,
                "env": env,
                "success": bool(s),
                "length": int(n),
                "reward": float(r),
                "reason": why,
            }
            for seed, env, s, n, r, why in zip(
                self.seed, self.env, self.success, self.length, self.reward, self.reason, strict=True
            )
        ]


def evaluate(
    env: gym.vector.VectorEnv,
    agent: Agent,
    episodes: int,
    seed: int = 0,
    on_round: Callable[[int], object] | None = None,
) -> Evaluation:
    """Run `episodes` episodes; the same (seed, num_envs) gives the same initial states to every agent.

    Args:
        env: same-step autoreset or none; what follows an env's first episode in a round is not counted.
        agent: judged as it is; its randomness (the sampler's start noise) is seeded per round too.
        episodes: at least 1; of the last round only as many envs count as are needed, the first ones.
        seed: of the episode set. Choose checkpoints with one, measure with another (§6 item 17).
        on_round: called with the number of finished episodes.

    Raises:
        ValueError: `episodes` < 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: need at least 1 (256 or more for a result)")
    n, parts = env.num_envs, []
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):  # an evaluation does not disturb the training around it
        for first in range(0, episodes, n):
            round_seed = derive_seed(seed, "episodes", first // n) % 2**31
            torch.manual_seed(round_seed)
            parts.append(_round(env, agent, round_seed, min(n, episodes - first)))
            if on_round is not None:
                on_round(first + len(parts[-1].seed))
    return Evaluation(
        success=np.concatenate([p.success for p in parts]),
        length=np.concatenate([p.length for p in parts]),
        reward=np.concatenate([p.reward for p in parts]),
        reason=tuple(itertools.chain(*(p.reason for p in parts))),
        seed=tuple(itertools.chain(*(p.seed for p in parts))),
        env=tuple(itertools.chain(*(p.env for p in parts))),
        final_obs=np.concatenate([p.final_obs for p in parts]),
    )


def _round(env: gym.vector.VectorEnv, agent: Agent, seed: int, count: int) -> Evaluation:
    """One episode of each env; the first `count` are returned."""
    n = env.num_envs
    autoreset = env.metadata.get("autoreset_mode") == gym.vector.AutoresetMode.SAME_STEP
    obs, _ = env.reset(seed=seed)
    agent.reset(np.ones(n, bool))
    running, success = np.ones(n, bool), np.zeros(n, bool)
    length, total = np.zeros(n, np.int64), np.zeros(n)
    final_obs, reason = np.array(obs, np.float32), np.full(n, "", object)
    while running[:count].any():
        obs, reward, terminated, truncated, info = env.step(agent.act(obs))
        length += running
        total += np.where(running, reward, 0)
        done = terminated | truncated
        if (first := running & done).any():
            success[first] = terminated[first]
            final_obs[first] = final_observations(info, first) if autoreset else obs[first]
            why = info.get("truncation_reason", np.full(n, "truncated", object))
            reason[first] = np.where(terminated[first], "", why[first])
            running &= ~done
        # No agent.reset here: what an env does after its first episode is not counted, and while all plan in
        # lock-step the sampler's noise is the same for every agent that is compared.
    ids = tuple(range(count))
    arrays = (success[:count], length[:count], total[:count], tuple(reason[:count].tolist()))
    return Evaluation(*arrays, (seed,) * count, ids, final_obs[:count])


BROKEN = ("nan", "blow-up", "out of workspace", "nan action")  # reasons of the simulator, not the time limit


def broken(info: dict[str, Any], ended: np.ndarray) -> Counter[str]:
    """How many of the episodes that ended in this step, `ended` (N,), the simulator cut short, by reason."""
    return Counter(reason for reason in np.asarray(info["truncation_reason"])[ended] if reason in BROKEN)


def broken_stats(counts: Counter[str]) -> dict[str, float]:
    """`rollout/nan`, `/blow_up`, `/out_of_workspace` and `/nan_action`, zeros included."""
    names = {reason: reason.replace(" ", "_").replace("-", "_") for reason in BROKEN}
    return {f"rollout/{name}": float(counts[reason]) for reason, name in names.items()}


def final_observations(info: dict[str, Any], mask: np.ndarray) -> np.ndarray:
    """(k, D) last observations of the k envs in `mask` that a same-step autoreset replaced."""
    return np.stack(list(info["final_obs"][mask])).astype(np.float32)
