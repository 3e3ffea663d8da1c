"""DP + value re-ranking, "VAS" in the authors' code, "IDQL" in their table (sheet §2.9).

The base stays frozen. Q(s, chunk) in (0, 1) is regressed on the λ-returns of the base's own rollouts; at
evaluation the best of k = 20 sampled chunks is executed. It is not IDQL's expectile regression.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resip_assembly.baselines.chunk_rollouts import ChunkLoopConfig, ChunkRollout, Learner, batch
from resip_assembly.diffusion_policy import ChunkAgent, ChunkPolicy, DiffusionPolicy
from resip_assembly.residual_ppo import Collapse


@dataclass(frozen=True)
class RerankingConfig:
    """The authors' values."""

    samples: int = 20  # k
    width: int = 512
    lr: float = 1e-4
    weight_decay: float = 1e-5
    epochs: int = 5
    minibatch_size: int | None = None  # None: the full batch


class ValueReranking(Learner):
    """Frozen diffusion policy and a learned Q; ValueError for a base that samples nothing (MLP)."""

    def __init__(self, cloned: ChunkPolicy, cfg: RerankingConfig) -> None:
        super().__init__()
        if not isinstance(cloned, DiffusionPolicy):
            raise ValueError(f"{type(cloned).__name__} gives one chunk per state; re-rank a DiffusionPolicy")
        self.cfg = cfg
        self.base = copy.deepcopy(cloned).freeze()
        inputs = cloned.obs_dim + cloned.execute * cloned.action_dim
        last = nn.Linear(cfg.width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        hidden = [nn.Linear(inputs, cfg.width), nn.Tanh(), nn.Linear(cfg.width, cfg.width), nn.Tanh()]
        self.q = nn.Sequential(*hidden, last, nn.Sigmoid()).to(cloned.normalizer.obs.middle.device)
        parameters = [*self.q.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, weight_decay=cfg.weight_decay)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def value(self, obs: Tensor, chunk: Tensor) -> Tensor:
        """Q (…,) of the executed part of chunks (…, T_p, A) at obs (…, D)."""
        return self.q(torch.cat([obs, chunk[..., : self.base.execute, :].flatten(-2)], dim=-1)).squeeze(-1)

    def decide(self, obs: Tensor, previous: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.base.predict_chunk(obs, previous), {}

    def agent(self, num_envs: int) -> ChunkAgent:
        """Executes the best of k chunks."""
        return ChunkAgent(BestOf(self), num_envs)

    def update(self, rollout: ChunkRollout, cfg: ChunkLoopConfig) -> dict[str, float]:
        with torch.no_grad():
            values = self.value(rollout.obs, rollout.chunks)
            # The next decision is the next row, but for the last one and where an episode was cut.
            next_values = values.roll(-1, 0)
            fresh = rollout.truncated.clone()
            fresh[-1] = True
            obs, previous = rollout.next_obs[fresh], rollout.chunks[fresh]
            next_values[fresh] = self.value(obs, self.base.predict_chunk(obs, previous))
        data = batch(rollout, values, next_values, cfg)
        n = len(data["obs"])
        size = min(self.cfg.minibatch_size or n, n)
        for _ in range(self.cfg.epochs):
            for rows in torch.randperm(n, device=values.device)[: n // size * size].split(size):
                predicted = self.value(data["obs"][rows], data["chunks"][rows])
                loss = 0.5 * (predicted - data["returns"][rows]).square().mean()
                self._optimizer.zero_grad()
                loss.backward()
                self._optimizer.step()
        if not torch.isfinite(loss):
            raise Collapse(f"loss={loss.item()}")
        return {"loss/value": loss.item(), "value/mean": values.mean().item()}


class BestOf(ChunkPolicy):
    """The frozen base with arg-max over k samples per state."""

    def __init__(self, learner: ValueReranking) -> None:
        base = learner.base
        super().__init__(base.normalizer, base.predict, base.execute)
        self.learner = learner

    @torch.no_grad()
    def predict_chunk(self, obs: Tensor, previous: Tensor | None = None) -> Tensor:
        k = self.learner.cfg.samples
        many = obs.repeat_interleave(k, 0)
        tails = previous.repeat_interleave(k, 0) if previous is not None else None
        chunks = self.learner.base.predict_chunk(many, tails)
        best = self.learner.value(many, chunks).view(-1, k).argmax(1)
        return chunks.unflatten(0, (-1, k))[torch.arange(len(obs), device=obs.device), best]
