"""Residual PPO on a frozen chunk policy (sheet §2.1, §2.7, §2.8): the paper's method.

The base plans T_a steps ahead, the residual corrects every step. PPO sees the log-probability of the residual
u_t, never of the executed action; only the residual and its critic get gradients.

Symbols: T rollout steps, N envs. `residual_policy` holds the networks, `residual_rollouts` the sampling.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from resip_assembly import checkpoints
from resip_assembly.behaviour_cloning import warmup_cosine
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import ChunkPolicy
from resip_assembly.evaluation import evaluate
from resip_assembly.progress import Progress
from resip_assembly.residual_policy import (
    Features,
    ResidualAgent,
    ResidualConfig,
    ResidualPolicy,
    build_residual,
    load_residual,
    residual_features,
)
from resip_assembly.residual_rollouts import Collector, RewardScale, Rollout
from shared.config import to_dict
from shared.seeding import derive_seed

__all__ = ["PPOConfig", "ResidualAgent", "ResidualConfig", "ResidualPolicy", "Trained", "build_residual"]
__all__ += ["gae", "load_residual", "residual_features", "train", "update"]

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class PPOConfig:
    """Residual PPO; the defaults are the authors' run for one_leg (§2.8)."""

    rollout_steps: int = 700  # T; one whole episode: 700, lamp and round_table 1000, mug 400, peg 200
    iterations: int = 1000
    # The authors' rollouts. The CPU preset turns all four off: autoreset on success, bootstrap, raw rewards.
    reset_every_iteration: bool = True
    keep_post_success: bool = True  # steps after success stay in the batch, with value target 0
    truncation_is_terminal: bool = True
    normalize_reward: bool = True  # divide by the running standard deviation, clip ±5
    gamma: float = 0.999
    gae_lambda: float = 0.95
    epochs: int = 50
    minibatch_size: int | None = None  # None: the full batch; a partial last minibatch is dropped
    clip_eps: float = 0.2
    entropy_coef: float = 0.0
    value_coef: float = 1.0
    max_grad_norm: float = 1.0
    joint_clip: bool = True  # one norm over actor and critic; False: each its own
    target_kl: float = 0.1  # ends the whole update
    collapse_kl: float = 1.0  # [ours] of a whole update: KL runaway, training stops at the state before it
    critic_only_iterations: int = 0
    hold_residual: bool = False  # [ours] ablation: one residual per base chunk instead of one per step
    actor_lr: float = 3e-4
    critic_lr: float = 5e-3
    schedule: Literal["cosine", "constant"] = "cosine"  # over iterations
    warmup_iterations: int = 5  # of the actor, so its first iteration has lr 0
    eval_every: int = 4  # training iterations between evaluations (the authors': every 5th one evaluates)
    eval_episodes: int = 1024
    save_every: int = 10

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations} must be at least 0 (0 trains no residual)")
        for name in ("rollout_steps", "epochs", "eval_every", "eval_episodes", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.minibatch_size is not None and self.minibatch_size < 2:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} must be at least 2, or None for the batch"
            )
        for name in ("gamma", "gae_lambda"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is outside (0, 1]")

    def learning_rates(self, iteration: int) -> tuple[float, float]:
        """Of actor and critic; only the actor warms up."""
        if self.schedule == "constant":
            return self.actor_lr, self.critic_lr
        actor = warmup_cosine(iteration, self.iterations, self.warmup_iterations)
        return self.actor_lr * actor, self.critic_lr * warmup_cosine(iteration, self.iterations)


class Collapse(RuntimeError):
    """The update made the policy unusable: non-finite loss, or KL runaway."""


# ---- the paper's equations


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    gamma: float,
    lam: float,
) -> tuple[Array, Array]:
    """Generalised advantage estimation (§2.1), each array (T, N), torch in and out or NumPy (lists too).

    δ_t = r_t + γ (1 - terminated_t) V(s_{t+1}) - V(s_t)
    Â_t = δ_t + γλ (1 - done_t) Â_{t+1},   R_t = Â_t + V(s_t)

    | step t   | bootstraps with next_values[t] | trace goes on |
    | -------- | ------------------------------ | ------------- |
    | running  | yes                            | yes           |
    | truncated | yes: V of the state after step t, before any reset | no |
    | terminated (also if truncated too) | no   | no            |

    "Truncation is terminal", as the authors have it, is ``terminated | truncated`` passed as `terminated`.

    Returns:
        (advantages, returns), each (T, N).

    Raises:
        ValueError: the shapes differ.
    """
    # copied, because torch takes no lists of arrays, no negative strides and no read-only memory
    r, v, v_next, ended, cut = (
        x if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
        for x in (rewards, values, next_values, terminated, truncated)
    )
    named = {"values": v, "next_values": v_next, "terminated": ended, "truncated": cut}
    for name, array in named.items():
        if array.shape != r.shape:
            raise ValueError(f"{name} has shape {tuple(array.shape)}, rewards {tuple(r.shape)}; need one")
    ended = ended.bool()
    cut = ended | cut.bool()
    delta = r + gamma * torch.where(ended, 0.0, v_next) - v
    advantages, trace = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        trace = delta[t] + gamma * lam * torch.where(cut[t], 0.0, trace)
        advantages[t] = trace
    returns = advantages + v
    if isinstance(rewards, Tensor):
        return advantages, returns
    return advantages.numpy(), returns.numpy()


# ---- update


def update(
    policy: ResidualPolicy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    cfg: PPOConfig,
    train_actor: bool = True,
) -> dict[str, float]:
    """PPO epochs over a rollout (§2.8); Collapse on a non-finite loss or a KL above `collapse_kl`."""
    keep = torch.ones_like(rollout.valid) if cfg.keep_post_success else rollout.valid
    z, u, logprobs = rollout.z[keep], rollout.u[keep], rollout.logprobs[keep]
    advantages, returns, values = advantages[keep], returns[keep], rollout.values[keep]
    decided = rollout.decided[keep]  # the actor learns where it drew u, the critic everywhere
    a = advantages[decided]
    advantages = (advantages - a.mean()) / (a.std() + 1e-8)  # over the whole batch
    size = min(cfg.minibatch_size or len(z), len(z))
    actor = [*policy.actor.parameters(), policy.logstd]
    groups = (
        [[*actor, *policy.critic.parameters()]] if cfg.joint_clip else [actor, [*policy.critic.parameters()]]
    )
    epochs = 0
    for _ in range(cfg.epochs):
        epochs += 1
        kls = []
        order = torch.randperm(len(z), device=z.device)
        for rows in order[: len(z) // size * size].split(size):
            distribution = policy.distribution(z[rows])
            logratio = distribution.log_prob(u[rows]).sum(-1) - logprobs[rows]
            logratio = torch.where(decided[rows], logratio, 0.0)
            ratio = logratio.exp()
            a, share = advantages[rows], decided[rows] / decided[rows].sum().clamp(min=1)
            clipped = ratio.clamp(1 - cfg.clip_eps, 1 + cfg.clip_eps)
            policy_loss = (torch.max(-a * ratio, -a * clipped) * share).sum()
            policy_loss = policy_loss - cfg.entropy_coef * distribution.entropy().sum(-1).mean()
            value_loss = 0.5 * (policy.value(z[rows]) - returns[rows]).square().mean()
            loss = cfg.value_coef * value_loss + (policy_loss if train_actor else 0.0)
            optimizer.zero_grad()
            loss.backward()
            for parameters in groups:
                nn.utils.clip_grad_norm_(parameters, cfg.max_grad_norm)
            optimizer.step()
            kls.append((((ratio - 1) - logratio) * share).detach().sum())
        if not torch.isfinite(loss):
            raise Collapse(f"loss={loss.item()}")
        if torch.stack(kls).mean() > cfg.target_kl:  # ends the whole update, after the epoch as the authors
            break

    with torch.no_grad():
        mean = policy.actor(z)
        logratio = (Normal(mean, policy.logstd.exp()).log_prob(u).sum(-1) - logprobs)[decided]
        kl = ((logratio.exp() - 1) - logratio).mean().item()
    if not kl <= cfg.collapse_kl:
        raise Collapse(f"KL {kl:.3g} in one update exceeds collapse_kl={cfg.collapse_kl}")
    variance = returns.var().item()
    return {
        "loss/policy": policy_loss.item(),
        "loss/value": value_loss.item(),
        "update/kl": kl,
        "update/clip_fraction": ((logratio.exp() - 1).abs() > cfg.clip_eps).float().mean().item(),
        "update/epochs": epochs,
        "value/explained_variance": 1 - (returns - values).var().item() / variance if variance else 0.0,
        "residual/mean_abs": mean.abs().mean().item(),
        "residual/std": policy.logstd.exp().mean().item(),
    }


# ---- the loop


@dataclass
class Trained:
    """What `train` returns; the residual itself was trained in place."""

    iterations: int = 0
    env_steps: int = 0
    stopped: str | None = None  # why training ended early; the residual is the last good one then
    evaluations: list[tuple[int, float]] = field(default_factory=list)  # (environment steps, success)


def train(
    env: gym.vector.VectorEnv,
    base: ChunkPolicy,
    residual: ResidualPolicy,
    cfg: PPOConfig,
    seed: int,
    folder: Path,
    *,
    eval_env: gym.vector.VectorEnv | None = None,
    extra: Features | None = None,
    identity: Identity | None = None,
    resume_from: Path | None = None,
    on_log: Callable[[dict[str, float], int], object] = lambda metrics, iteration: None,
) -> Trained:
    """Train `residual` in place; everything random is a function of (seed, iteration).

    Args:
        env: same-step autoreset; or without autoreset, as the authors', with `reset_every_iteration`.
        base: frozen chunk policy.
        residual: on the same device.
        cfg: see `PPOConfig`.
        seed: of the training episodes, the exploration and the minibatches.
        folder: gets ``checkpoint-<iteration>`` (everything for a bit-identical resume) and ``best``.
        eval_env: for deterministic evaluations on fixed episode seeds of their own, one before the first
            iteration and then every `eval_every`; ``best`` is the residual with the highest success there
            (optimistic: measure it again on other seeds). It may be `env` itself with
            `reset_every_iteration`. None evaluates nothing.
        extra: features appended to the residual's input, see `residual_features`.
        identity: stored in and checked against checkpoints.
        resume_from: a checkpoint folder of the same training.
        on_log: called with metrics and iteration.

    Raises:
        ValueError: `env` cannot be used with these settings, or the checkpoint is of another task.
    """
    identity = identity or Identity("unnamed")
    collector = Collector(env, base, cfg.rollout_steps, extra, cfg.hold_residual)
    if not (collector.autoreset or cfg.reset_every_iteration):
        raise ValueError("reset_every_iteration=False needs an env with autoreset='same_step'")
    if eval_env is env and not cfg.reset_every_iteration:
        raise ValueError("evaluating in the training env needs reset_every_iteration=True; give another env")
    actor = [p for p in (*residual.actor.parameters(), residual.logstd) if p.requires_grad]
    groups = [{"params": actor}, {"params": [*residual.critic.parameters()]}]
    optimizer = torch.optim.AdamW(groups, eps=1e-5, weight_decay=1e-6)
    result, scale = Trained(), RewardScale()
    stored = {"residual": to_dict(residual.config()), "obs_dim": residual.obs_dim}
    agent = None
    if eval_env is not None:
        agent = ResidualAgent(base, residual, eval_env.num_envs, extra, hold=cfg.hold_residual)

    if resume_from is not None:
        state = _restore(resume_from, identity, residual, optimizer, collector)
        result, scale = Trained(**state["result"]), RewardScale(**state["scale"])
        if result.stopped is not None:
            return result
    elif not cfg.reset_every_iteration:
        torch.manual_seed(derive_seed(seed, "start"))
        collector.reset(derive_seed(seed, "train") % 2**31)

    def save() -> None:
        tensors = {"optimizer": optimizer.state_dict(), "queue": collector.queue.state_dict()}
        tensors |= {
            "held": collector.held,
            "result": dataclasses.asdict(result),
            "scale": dataclasses.asdict(scale),
        }
        snapshot = cast(Any, env).state() if collector.autoreset else {}
        arrays = {f"env/{name}": value for name, value in snapshot.items()}
        states = {"policy": residual.state_dict(), "training": tensors}
        path = folder / f"checkpoint-{result.iterations}"
        checkpoints.save(path, identity, stored, states, arrays | {"obs": collector.obs})
        checkpoints.prune(folder)

    def evaluation() -> dict[str, float]:
        assert eval_env is not None
        assert agent is not None
        found = evaluate(eval_env, agent, cfg.eval_episodes, derive_seed(seed, "selection"))
        if not result.evaluations or found.rate > max(rate for _, rate in result.evaluations):
            checkpoints.save(folder / "best", identity, stored, {"policy": residual.state_dict()})
        result.evaluations.append((result.env_steps, found.rate))
        summary = found.summary()
        return {f"eval/{name}": summary[name] for name in ("success", "success_low", "success_high")}

    with Progress("residual PPO", cfg.iterations, result.iterations) as progress:
        for iteration in range(result.iterations, cfg.iterations):
            torch.manual_seed(derive_seed(seed, "iteration", iteration))
            metrics: dict[str, float] = {}
            if agent is not None and iteration % cfg.eval_every == 0:
                metrics |= evaluation()

            # rollout
            started = time.monotonic()
            if cfg.reset_every_iteration:
                collector.reset(derive_seed(seed, "train", iteration) % 2**31)
            rollout = collector.collect(residual)
            collected = time.monotonic()

            # reward, advantage: §2.1
            rewards = scale(rollout.rewards) if cfg.normalize_reward else rollout.rewards
            truncated = rollout.truncated
            ended = rollout.terminated | truncated if cfg.truncation_is_terminal else rollout.terminated
            values = (rollout.values, rollout.next_values)
            advantages, returns = gae(rewards, *values, ended, truncated, cfg.gamma, cfg.gae_lambda)

            # update
            for group, lr in zip(optimizer.param_groups, cfg.learning_rates(iteration), strict=True):
                group["lr"] = lr
            good = copy.deepcopy((residual.state_dict(), optimizer.state_dict()))
            try:
                train_actor = iteration >= cfg.critic_only_iterations
                metrics |= update(residual, optimizer, rollout, advantages, returns, cfg, train_actor)
            except Collapse as error:
                residual.load_state_dict(good[0])
                optimizer.load_state_dict(good[1])
                result.stopped = f"stopped at iteration {iteration}: {error}; the last good residual is kept"
                print(f"\n{result.stopped}")
                break
            result.iterations, result.env_steps = iteration + 1, result.env_steps + rollout.rewards.numel()

            # log, checkpoint
            metrics |= rollout.stats | {
                "time/collect_s": collected - started,
                "time/update_s": time.monotonic() - collected,
                "rollout/env_steps": result.env_steps,
                "lr/actor": optimizer.param_groups[0]["lr"],
            }
            on_log(metrics, iteration)
            if result.iterations % cfg.save_every == 0 and result.iterations < cfg.iterations:
                save()
            shown = f"success {metrics['rollout/success']:.2f}  kl {metrics['update/kl']:.3f}"
            if result.evaluations:
                shown += f"  evaluated {result.evaluations[-1][1]:.2f}"
            progress.show(iteration + 1, shown)
    if agent is not None and (not result.evaluations or result.evaluations[-1][0] != result.env_steps):
        on_log(evaluation(), result.iterations)
    save()
    return result


def _restore(
    folder: Path,
    identity: Identity,
    residual: ResidualPolicy,
    optimizer: torch.optim.Optimizer,
    collector: Collector,
) -> dict[str, Any]:
    """Load everything that `train` saved; returns its counters."""
    checkpoints.load_config(folder, identity)
    device = residual.logstd.device
    residual.load_state_dict(checkpoints.load_state(folder, "policy", device))
    state = checkpoints.load_state(folder, "training", device)
    optimizer.load_state_dict(state["optimizer"])
    collector.queue.load_state_dict(state["queue"])
    collector.held = state["held"]
    arrays = checkpoints.load_arrays(folder)
    collector.obs = arrays.pop("obs")
    if arrays:
        cast(Any, collector.env).set_state(
            {name.removeprefix("env/"): value for name, value in arrays.items()}
        )
    return state
