"""MLP-C + PPO (sheet §2.9): fine-tune the whole chunk policy, kept near the cloned one by a KL term.

One PPO action is a chunk: log π(chunk | s) sums over T_a x A. The regulariser is the authors': the
cross-entropy -E[log π_BC(a)], a ~ π, with the reference standard deviation; not a full KL.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from resip_assembly.baselines.chunk_rollouts import ChunkLoopConfig, ChunkRollout, Learner, batch
from resip_assembly.behaviour_cloning import MlpPolicy
from resip_assembly.diffusion_policy import ChunkAgent
from resip_assembly.residual_policy import critic_mlp
from resip_assembly.residual_ppo import Collapse

ACTION_CLIP = 5.0  # of the sampled, normalised actions


@dataclass(frozen=True)
class MlpPPOConfig:
    """The authors' values for one_leg."""

    init_logstd: float = -5.0  # learnable, per action dimension; -4 for peg, mug, bimanual
    lr: float = 1e-4
    critic_lr: float = 1e-4
    epochs: int = 10
    minibatch_size: int | None = None  # None: the full batch
    clip_eps: float = 0.2
    value_coef: float = 0.5
    kl_coef: float = 1.0  # to the cloned policy; 0.5 for peg, mug, bimanual
    max_grad_norm: float = 1.0
    target_kl: float = 0.1
    # The authors leave the dropout on; at σ = e^-5 its noise alone moves log π far, and few epochs remain.
    dropout_in_update: bool = True
    collapse_kl: float = 10.0  # [ours] of a whole update, without dropout: training stops before it


class MlpPPO(Learner):
    """Actor (a copy of the cloned MLP-C), frozen reference, learnable logstd, critic on the observation."""

    base: MlpPolicy
    reference: MlpPolicy

    def __init__(self, cloned: MlpPolicy, cfg: MlpPPOConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.base = copy.deepcopy(cloned).requires_grad_(True).eval()
        self.base.normalizer.requires_grad_(False)
        self.reference = copy.deepcopy(cloned)
        self.reference.freeze()
        device = cloned.normalizer.obs.middle.device
        self.logstd = nn.Parameter(torch.full((cloned.action_dim,), cfg.init_logstd, device=device))
        self.critic = critic_mlp(cloned.obs_dim).to(device)
        actor = {"params": [*self.base.parameters(), self.logstd], "lr": cfg.lr}
        critic = {"params": [*self.critic.parameters()], "lr": cfg.critic_lr}
        self._optimizer = torch.optim.AdamW([actor, critic], eps=1e-5)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def agent(self, num_envs: int) -> ChunkAgent:
        """The mean chunk."""
        return ChunkAgent(self.base, num_envs)

    def distribution(self, obs: Tensor) -> Normal:
        """Of the executed part of the chunk, (B, T_a, A)."""
        mean = self.base(obs)[:, : self.base.execute]
        return Normal(mean, self.logstd.exp().expand_as(mean), validate_args=False)

    def decide(self, obs: Tensor, previous: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        policy = self.distribution(obs)
        chunk = policy.sample().clamp(-ACTION_CLIP, ACTION_CLIP)
        padded = torch.zeros_like(previous)
        padded[:, : self.base.execute] = chunk
        return padded, {"logprobs": policy.log_prob(chunk).sum((-1, -2))}

    def update(self, rollout: ChunkRollout, cfg: ChunkLoopConfig) -> dict[str, float]:
        algo = self.cfg
        with torch.no_grad():
            values, next_values = (self.critic(x).squeeze(-1) for x in (rollout.obs, rollout.next_obs))
        data = batch(rollout, values, next_values, cfg)
        n = len(data["obs"])
        size = min(algo.minibatch_size or n, n)
        self.base.train(algo.dropout_in_update)
        epochs = 0
        for _ in range(algo.epochs):
            epochs += 1
            kls = []
            for rows in torch.randperm(n, device=values.device)[: n // size * size].split(size):
                obs, a = data["obs"][rows], data["advantages"][rows]
                chunk = data["chunks"][rows][:, : self.base.execute]
                policy = self.distribution(obs)
                logratio = policy.log_prob(chunk).sum((-1, -2)) - data["logprobs"][rows]
                ratio = logratio.exp()
                clipped = ratio.clamp(1 - algo.clip_eps, 1 + algo.clip_eps)
                policy_loss = torch.max(-a * ratio, -a * clipped).mean()
                value_loss = 0.5 * (self.critic(obs).squeeze(-1) - data["returns"][rows]).square().mean()
                cross_entropy = self._cross_entropy(policy, obs)
                loss = policy_loss + algo.value_coef * value_loss + algo.kl_coef * cross_entropy
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
        self.base.eval()
        with torch.no_grad():
            executed = data["chunks"][:, : self.base.execute]
            logratio = self.distribution(data["obs"]).log_prob(executed).sum((-1, -2)) - data["logprobs"]
            kl = (
                0.5 * logratio.square().mean().item()
            )  # without exp(): over 80 dimensions one outlier explodes
        if not kl <= algo.collapse_kl:
            raise Collapse(f"KL {kl:.3g} in one update exceeds collapse_kl={algo.collapse_kl}")
        return {
            "loss/policy": policy_loss.item(),
            "loss/value": value_loss.item(),
            "loss/cross_entropy": cross_entropy.item(),
            "update/kl": kl,
            "update/epochs": epochs,
            "policy/std": self.logstd.exp().mean().item(),
        }

    def _cross_entropy(self, policy: Normal, obs: Tensor) -> Tensor:
        """-E[log π_BC(a)] of a chunk, a ~ π reparametrised, with the standard deviation of the start."""
        with torch.no_grad():
            mean = self.reference(obs)[:, : self.base.execute]
        std = torch.full_like(mean, self.cfg.init_logstd).exp()
        return -Normal(mean, std, validate_args=False).log_prob(policy.rsample()).sum((-1, -2)).mean()
