"""State diffusion policy that predicts action chunks (sheet §2.6), and the queue that executes them.

Symbols: B batch, N envs, D obs, A action, T_p predicted and T_a executed steps. Observations and actions are
normalised here (`resip_assembly.normalization`); the observation horizon T_o is 1, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from resip_assembly.normalization import Normalizer

TRAIN_STEPS = 100  # §2.6
WARM_START_STEP = 50  # §2.6: the previous chunk's tail is noised to this step, alpha_bar 0.478


class ChunkPolicy(nn.Module):
    """What diffusion and MLP policies share: horizons, the frozen normalizer, `loss` and `predict_chunk`.

    Raises:
        ValueError: horizons other than 1 <= execute <= predict.
    """

    def __init__(self, normalizer: Normalizer, predict: int, execute: int) -> None:
        super().__init__()
        if not 1 <= execute <= predict:
            raise ValueError(f"execute={execute} of predict={predict} steps: need 1 <= execute <= predict")
        self.normalizer, self.predict, self.execute = normalizer, predict, execute
        self.obs_dim, self.action_dim = len(normalizer.obs.middle), len(normalizer.action.middle)

    def corrupt(self, obs: Any, noise: float) -> Any:
        """Observations (B, D) as training sees them: with Gaussian noise of this standard deviation."""
        return obs + noise * torch.randn_like(obs)

    def loss(self, obs: Any, chunk: Tensor) -> Tensor:
        """Imitation loss of chunks (B, T_p, A) given observations (B, D)."""
        raise NotImplementedError

    def predict_chunk(self, obs: Any, previous: Tensor | None = None) -> Tensor:
        """(N, D) to actions (N, T_p, A); `previous` is the chunk predicted T_a steps ago, or zeros."""
        raise NotImplementedError

    def freeze(self) -> ChunkPolicy:
        """Evaluation mode, no gradients: the base of the residual."""
        return self.eval().requires_grad_(False)


class DiffusionPolicy(ChunkPolicy):
    """DDPM training, DDIM sampling.

    Args:
        denoiser: (noisy chunk (B, T_p, A), step (B,), obs (B, D)) -> (B, T_p, A).
        normalizer: fitted on the demonstrations.
        predict: T_p.
        execute: T_a.
        prediction: of the noise (paper) or of the clean chunk, which a small MLP learns much faster.
        loss: mean squared (paper) or absolute error.
        inference_steps: DDIM steps; the authors force 4 in RL and evaluation (steps 75, 50, 25, 0).
        warm_start: sample from the un-executed tail of the previous chunk instead of N(0, I), as the
            authors. Unlike theirs the tail is forgotten at an episode's start (pitfall 9).
    """

    def __init__(
        self,
        denoiser: nn.Module,
        normalizer: Normalizer,
        predict: int = 32,
        execute: int = 8,
        prediction: Literal["epsilon", "sample"] = "epsilon",
        loss: Literal["mse", "l1"] = "mse",
        inference_steps: int = 4,
        warm_start: bool = True,
    ) -> None:
        super().__init__(normalizer, predict, execute)
        self.denoiser, self.prediction, self.warm_start = denoiser, prediction, warm_start
        self.error = {"mse": F.mse_loss, "l1": F.l1_loss}[loss]
        noise = {"num_train_timesteps": TRAIN_STEPS, "beta_schedule": "squaredcos_cap_v2"}
        noise |= {"clip_sample": True, "prediction_type": prediction}
        self.ddpm = DDPMScheduler(**noise)
        # "leading": starts at 75, not at 99, where alpha_bar is about 0 and a predicted noise says nothing.
        self.ddim = DDIMScheduler(**noise, timestep_spacing="leading")
        self.ddim.set_timesteps(inference_steps)

    def loss(self, obs: Tensor, chunk: Tensor) -> Tensor:
        noise = torch.randn_like(chunk)
        step = torch.randint(TRAIN_STEPS, (len(chunk),), device=chunk.device)
        noisy = self.ddpm.add_noise(chunk, noise, cast(torch.IntTensor, step))
        target = noise if self.prediction == "epsilon" else chunk
        return self.error(self.denoiser(noisy, step, obs), target)

    @torch.no_grad()
    def predict_chunk(self, obs: Tensor, previous: Tensor | None = None) -> Tensor:
        """(N, D) normalised to (N, T_p, A) normalised, from fresh noise (global generator), η = 0."""
        x = self.initial_sample(len(obs), previous)
        for step in self.ddim.timesteps.tolist():
            out = self.denoiser(x, torch.full((len(obs),), step, device=obs.device), obs)
            # With the clean chunk predicted, the noise has to be derived from the clipped one.
            clipped = self.prediction == "sample"
            x = self.ddim.step(out, step, x, use_clipped_model_output=clipped, return_dict=False)[0]
        return x

    def initial_sample(self, n: int, previous: Tensor | None = None) -> Tensor:
        """(n, T_p, A): N(0, I), or the shifted previous chunk (zeros at its end) at noise step 50 (§2.6)."""
        noise = torch.randn(n, self.predict, self.action_dim, device=self.normalizer.obs.middle.device)
        if not self.warm_start:
            return noise
        tail = torch.zeros_like(noise)
        if previous is not None:
            tail[:, : self.predict - self.execute] = previous[:, self.execute :]
        step = torch.tensor([WARM_START_STEP], device=noise.device)
        return self.ddpm.add_noise(tail, noise, cast(torch.IntTensor, step))


class StepEmbedding(nn.Module):
    """Sinusoidal embedding of the diffusion step, (B,) to (B, width)."""

    rates: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(width // 2) * (-math.log(10_000) / (width // 2 - 1)))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, step: Tensor) -> Tensor:
        angle = step[:, None] * self.rates
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class MLPDenoiser(nn.Module):
    """[noisy chunk, obs, step] -> width, residual SiLU layers, zero-initialised output: the CPU denoiser.

    0.23 M parameters at obs 30, T_p 16, A 10; our measured replacement for the U-Net on two cores.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, predict: int, width: int = 256, layers: int = 2
    ) -> None:
        super().__init__()
        self.step = StepEmbedding(32)
        self.inputs = nn.Linear(predict * action_dim + obs_dim + 32, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.output = nn.Linear(width, predict * action_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, chunk: Tensor, step: Tensor, obs: Tensor) -> Tensor:
        x = F.silu(self.inputs(torch.cat([chunk.flatten(1), obs, self.step(step)], dim=-1)))
        for layer in self.layers:
            x = x + F.silu(layer(x))
        return self.output(x).view_as(chunk)


class ConditionalUnet1D(nn.Module):
    """The paper's 1-D U-Net over time, conditioned by FiLM with scale and bias (§2.6).

    66.06 M parameters at obs 58, 65.75 M at obs 37, with the default widths.

    Raises:
        ValueError: T_p is not a multiple of 2 ** (levels - 1) (at the first call), or a width not of 8.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        widths: Sequence[int] = (256, 512, 1024),
        kernel: int = 5,
        groups: int = 8,
        step_width: int = 256,
    ) -> None:
        super().__init__()
        if bad := [w for w in widths if w % groups]:
            raise ValueError(f"widths {bad} do not divide into {groups} groups; use multiples of {groups}")
        self.step = nn.Sequential(
            StepEmbedding(step_width),
            nn.Linear(step_width, 4 * step_width),
            nn.Mish(),
            nn.Linear(4 * step_width, step_width),
        )
        cond = step_width + obs_dim

        def block(ins: int, outs: int) -> FilmBlock:
            return FilmBlock(ins, outs, cond, kernel, groups)

        pairs = list(zip([action_dim, *widths[:-1]], widths, strict=True))
        self.down = nn.ModuleList(
            nn.ModuleList([block(ins, outs), block(outs, outs), self._down(outs, i < len(widths) - 1)])
            for i, (ins, outs) in enumerate(pairs)
        )
        self.middle = nn.ModuleList([block(widths[-1], widths[-1]), block(widths[-1], widths[-1])])
        self.up = nn.ModuleList(
            nn.ModuleList([block(2 * outs, ins), block(ins, ins), nn.ConvTranspose1d(ins, ins, 4, 2, 1)])
            for ins, outs in reversed(pairs[1:])
        )
        self.output = nn.Sequential(
            conv_block(widths[0], widths[0], kernel, groups), nn.Conv1d(widths[0], action_dim, 1)
        )
        self.divisor = 2 ** (len(widths) - 1)

    @staticmethod
    def _down(width: int, halve: bool) -> nn.Module:
        return nn.Conv1d(width, width, 3, 2, 1) if halve else nn.Identity()

    def forward(self, chunk: Tensor, step: Tensor, obs: Tensor) -> Tensor:
        if chunk.shape[1] % self.divisor:
            raise ValueError(f"predict={chunk.shape[1]} steps: the U-Net needs a multiple of {self.divisor}")
        cond = torch.cat([self.step(step), obs], dim=-1)
        x, skips = chunk.mT, []  # time last
        for first, second, down in self.down:  # type: ignore[misc]
            x = second(first(x, cond), cond)
            skips.append(x)
            x = down(x)
        for layer in self.middle:
            x = layer(x, cond)
        for first, second, up in self.up:  # type: ignore[misc]
            x = up(second(first(torch.cat([x, skips.pop()], dim=1), cond), cond))
        return self.output(x).mT


class FilmBlock(nn.Module):
    """Two convolutions with a residual; in between, scale and bias per channel from the condition."""

    def __init__(self, ins: int, outs: int, cond: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = conv_block(ins, outs, kernel, groups)
        self.second = conv_block(outs, outs, kernel, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(cond, 2 * outs))
        self.skip = nn.Conv1d(ins, outs, 1) if ins != outs else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        scale, bias = self.film(cond)[..., None].chunk(2, dim=1)
        return self.second(scale * self.first(x) + bias) + self.skip(x)


def conv_block(ins: int, outs: int, kernel: int, groups: int) -> nn.Sequential:
    """Convolution, GroupNorm, Mish."""
    return nn.Sequential(
        nn.Conv1d(ins, outs, kernel, padding=kernel // 2), nn.GroupNorm(groups, outs), nn.Mish()
    )


class ChunkQueue:
    """Per-env queues of base actions: one inference per step for those envs that have run out.

    Envs that start together stay in lock-step, so that this is one batched call every T_a steps; after an
    autoreset an env has its own phase.
    """

    def __init__(self, policy: ChunkPolicy, num_envs: int) -> None:
        device = policy.normalizer.obs.middle.device
        self.policy = policy
        self.chunk = torch.zeros(num_envs, policy.predict, policy.action_dim, device=device)
        self.step = torch.full((num_envs,), policy.execute, device=device)  # all have run out
        self._rows = torch.arange(num_envs, device=device)

    def current(self, obs: Any) -> Tensor:
        """a^b_t (N, A) for normalised observations (N, D); asking twice gives the same. Only the rows of envs
        that have run out are taken from `obs`, which may be made when it is asked (`vision_student.py`)."""
        if (empty := self.step >= self.policy.execute).any():
            rows = empty.nonzero().squeeze(1)
            self.chunk[rows] = self.policy.predict_chunk(obs[rows], self.chunk[rows])
            self.step[rows] = 0
        return self.chunk[self._rows, self.step]

    def advance(self) -> None:
        """The current action was executed."""
        self.step += 1

    def peek(self, obs: Tensor, rows: Tensor) -> Tensor:
        """(k, A): what `current` would give to the envs `rows` (k,), were they to go on from `obs` (k, D)."""
        chunk, step = self.chunk[rows], self.step[rows]
        if (empty := step >= self.policy.execute).any():
            chunk[empty] = self.policy.predict_chunk(obs[empty], chunk[empty])
            step[empty] = 0
        return chunk[torch.arange(len(rows), device=rows.device), step]

    def clear(self, mask: np.ndarray) -> None:
        """Forget the plans of the envs in `mask` (N,) bool, whose episode ended."""
        rows = torch.from_numpy(np.flatnonzero(mask)).to(self.step.device)
        self.chunk[rows] = 0.0
        self.step[rows] = self.policy.execute

    def state_dict(self) -> dict[str, Tensor]:
        """For a bit-identical resume."""
        return {"chunk": self.chunk, "step": self.step}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.chunk.copy_(state["chunk"])
        self.step.copy_(state["step"])


class ChunkAgent:
    """A chunk policy alone, T_a actions open loop: the base of every comparison (`evaluation.Agent`)."""

    def __init__(self, policy: ChunkPolicy, num_envs: int) -> None:
        self.policy, self.queue = policy, ChunkQueue(policy, num_envs)

    def reset(self, mask: np.ndarray) -> None:
        self.queue.clear(mask)

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        normalizer = self.policy.normalizer
        action = self.queue.current(normalizer.normalize_obs(obs))
        self.queue.advance()
        return normalizer.denormalize_action(action)
