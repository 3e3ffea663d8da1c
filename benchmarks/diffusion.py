"""Chunk inference and training step of our diffusion policy against a plain textbook implementation.

The textbook's networks have our weights and give the same chunks, which is checked first: one module per
sentence of the paper, diffusers' scheduler called as its documentation shows. Both sides take turns in one
process. Prints `ratio: X` (textbook seconds over ours, median of the rounds' ratios).

    python benchmarks/diffusion.py [--rounds 7] [--threads 2] [--paper] [--record]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import _records
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from resip_assembly.behaviour_cloning import BaseConfig, build_policy
from resip_assembly.config import PRESETS
from resip_assembly.diffusion_policy import TRAIN_STEPS, DiffusionPolicy
from resip_assembly.normalization import Normalizer
from shared import gpu

OBS, ACTION = 58, 10  # one_leg
ENVS, BATCH = 128, 256


class SinusoidalEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, step: Tensor) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, device=step.device) * -(math.log(10000) / (half - 1)))
        angles = step[:, None].float() * frequencies[None, :]
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class Mlp(nn.Module):
    """Residual MLP denoiser."""

    def __init__(self, predict: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = SinusoidalEmbedding(32)
        self.first = nn.Linear(predict * ACTION + OBS + 32, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.last = nn.Linear(width, predict * ACTION)
        self.activation = nn.SiLU()

    def forward(self, sample: Tensor, timestep: Tensor, obs: Tensor) -> Tensor:
        x = torch.cat([sample.flatten(start_dim=1), obs, self.embedding(timestep)], dim=1)
        x = self.activation(self.first(x))
        for layer in self.hidden:
            x = x + self.activation(layer(x))
        return self.last(x).reshape(sample.shape)


class ConvBlock(nn.Module):
    def __init__(self, ins: int, outs: int, kernel: int = 5, groups: int = 8) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(ins, outs, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(groups, outs)
        self.activation = nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.convolution(x)))


class ResidualBlock(nn.Module):
    """FiLM: scale and bias of every channel from the condition."""

    def __init__(self, ins: int, outs: int, condition: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ConvBlock(ins, outs), ConvBlock(outs, outs)])
        self.encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * outs), nn.Unflatten(-1, (-1, 1)))
        self.shortcut = nn.Conv1d(ins, outs, 1) if ins != outs else nn.Identity()
        self.outs = outs

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out = self.blocks[0](x)
        embedded = self.encoder(condition).reshape(len(x), 2, self.outs, 1)
        out = embedded[:, 0] * out + embedded[:, 1]
        return self.blocks[1](out) + self.shortcut(x)


class Unet(nn.Module):
    """Diffusion Policy's conditional 1-D U-Net."""

    def __init__(self, widths: tuple[int, ...], step_width: int = 256) -> None:
        super().__init__()
        self.step_encoder = nn.Sequential(
            SinusoidalEmbedding(step_width),
            nn.Linear(step_width, 4 * step_width),
            nn.Mish(),
            nn.Linear(4 * step_width, step_width),
        )
        condition, sizes = step_width + OBS, [ACTION, *widths]
        self.down = nn.ModuleList()
        for i in range(len(widths)):
            last = i == len(widths) - 1
            self.down.append(ResidualBlock(sizes[i], sizes[i + 1], condition))
            self.down.append(ResidualBlock(sizes[i + 1], sizes[i + 1], condition))
            self.down.append(nn.Identity() if last else nn.Conv1d(sizes[i + 1], sizes[i + 1], 3, 2, 1))
        self.middle = nn.ModuleList([ResidualBlock(widths[-1], widths[-1], condition) for _ in range(2)])
        self.up = nn.ModuleList()
        for i in reversed(range(1, len(widths))):
            self.up.append(ResidualBlock(2 * widths[i], widths[i - 1], condition))
            self.up.append(ResidualBlock(widths[i - 1], widths[i - 1], condition))
            self.up.append(nn.ConvTranspose1d(widths[i - 1], widths[i - 1], 4, 2, 1))
        self.final = nn.Sequential(ConvBlock(widths[0], widths[0]), nn.Conv1d(widths[0], ACTION, 1))

    def forward(self, sample: Tensor, timestep: Tensor, obs: Tensor) -> Tensor:
        condition = torch.cat([self.step_encoder(timestep), obs], dim=-1)
        x, skips = sample.moveaxis(-1, -2), []
        for i in range(0, len(self.down), 3):
            x = self.down[i + 1](self.down[i](x, condition), condition)
            skips.append(x)
            x = self.down[i + 2](x)
        for block in self.middle:
            x = block(x, condition)
        for i in range(0, len(self.up), 3):
            x = self.up[i](torch.cat((x, skips.pop()), dim=1), condition)
            x = self.up[i + 2](self.up[i + 1](x, condition))
        return self.final(x).moveaxis(-1, -2)


class Textbook:
    """A diffusion policy as tutorials write it."""

    def __init__(self, cfg: BaseConfig, ours: DiffusionPolicy) -> None:
        if cfg.kind == "unet":
            self.network: nn.Module = Unet(cfg.widths)
        else:
            self.network = Mlp(cfg.predict, cfg.widths[0], cfg.layers)
        self.network.to(gpu.device())
        with torch.no_grad():  # our weights, in the order in which both define them
            for mine, theirs in zip(self.network.parameters(), ours.denoiser.parameters(), strict=True):
                mine.copy_(theirs)
        self.cfg = cfg
        self.noise = {"num_train_timesteps": TRAIN_STEPS, "beta_schedule": "squaredcos_cap_v2"}
        self.noise |= {"clip_sample": True, "prediction_type": cfg.prediction}
        self.training = DDPMScheduler(**self.noise)
        self.error = nn.L1Loss() if cfg.loss == "l1" else nn.MSELoss()

    def parameters(self) -> Any:
        return self.network.parameters()

    def loss(self, obs: Tensor, chunk: Tensor) -> Tensor:
        noise = torch.randn_like(chunk)
        timesteps = torch.randint(0, TRAIN_STEPS, (len(chunk),), device=chunk.device)
        noisy = self.training.add_noise(chunk, noise, timesteps)  # type: ignore[arg-type]
        predicted = self.network(noisy, timesteps, obs)
        return self.error(predicted, noise if self.cfg.prediction == "epsilon" else chunk)

    @torch.no_grad()
    def predict_chunk(self, obs: Tensor) -> Tensor:
        scheduler = DDIMScheduler(**self.noise)
        scheduler.set_timesteps(self.cfg.inference_steps)
        sample = torch.randn(len(obs), self.cfg.predict, ACTION, device=obs.device)
        for t in scheduler.timesteps:
            output = self.network(sample, t.expand(len(obs)).to(obs.device), obs)
            clipped = self.cfg.prediction == "sample"
            step: Any = scheduler.step(output, int(t), sample, use_clipped_model_output=clipped)
            sample = step.prev_sample
        return sample


def training_step(policy: Any, optimizer: torch.optim.Optimizer, obs: Tensor, chunk: Tensor) -> None:
    loss = policy.loss(obs, chunk)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def compare(row: str, name: str, sides: dict[str, Callable[[], Any]], options: argparse.Namespace) -> None:
    """Alternates the two sides and prints milliseconds and their ratio."""
    began = time.monotonic()
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(options.rounds + 1):  # the first turn warms up
        for side in list(sides)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            for _ in range(options.calls):
                sides[side]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[side].append(1000 * (time.perf_counter() - start) / options.calls)
    ratios = [textbook / ours for ours, textbook in zip(*times.values(), strict=True)]
    print(f"{name}: " + ", ".join(f"{side} {statistics.median(v):.1f} ms" for side, v in times.items()))
    print(
        f"ratio: {statistics.median(ratios):.2f}   (rounds: {' '.join(f'{r:.2f}' for r in ratios)})",
        flush=True,
    )
    if options.record:
        timing = {"threads": options.threads, "wall_s": time.monotonic() - began}
        title = f"`diffusion.py`: {name}"
        _records.save(f"diffusion/{row}", title, "ms", times["ours"], times["textbook"], ratios, **timing)


def compare_both(row: str, name: str, cfg: BaseConfig, options: argparse.Namespace) -> None:
    """Inference and training of one configuration; ours and the textbook's must give the same."""
    torch.manual_seed(0)
    device = gpu.device()
    ours = build_policy(cfg, Normalizer.empty(OBS, ACTION)).to(device)
    assert isinstance(ours, DiffusionPolicy)
    for weight in ours.parameters():  # not the zero-initialised output, whose chunk says nothing
        nn.init.normal_(weight, std=0.02)
    textbook = Textbook(cfg, ours)
    obs, batch = torch.randn(ENVS, OBS, device=device), torch.randn(BATCH, OBS, device=device)
    chunk = torch.rand(BATCH, cfg.predict, ACTION, device=device) * 2 - 1
    for mine, theirs in (
        (lambda: ours.predict_chunk(obs), lambda: textbook.predict_chunk(obs)),
        (lambda: ours.loss(batch, chunk), lambda: textbook.loss(batch, chunk)),
    ):
        torch.manual_seed(1)
        expected = theirs()
        torch.manual_seed(1)
        torch.testing.assert_close(mine(), expected, rtol=1e-4, atol=1e-4)

    sides: dict[str, Any] = {"ours": ours, "textbook": textbook}
    inference = {side: partial(policy.predict_chunk, obs) for side, policy in sides.items()}
    compare(f"{row}-inference", f"{name}, a chunk for {ENVS} environments", inference, options)
    training: dict[str, Callable[[], Any]] = {}
    for side, policy in sides.items():
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
        training[side] = partial(training_step, policy, optimizer, batch, chunk)
    compare(f"{row}-training", f"{name}, an update of {BATCH} chunks", training, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5, help="per round and side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--paper", action="store_true", help="also the paper's U-Net of 66 M parameters")
    parser.add_argument("--record", action="store_true", help="append the figures to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{gpu.hardware()}, {options.threads} threads")
    compare_both("mlp", "MLP denoiser of the small preset", PRESETS["small"].base, options)
    paper = replace(PRESETS["paper"].base, warm_start=False)
    compare_both("unet-small", "U-Net 32-64-128", replace(paper, predict=16, widths=(32, 64, 128)), options)
    if options.paper:
        compare_both("unet", "U-Net 256-512-1024", paper, options)


if __name__ == "__main__":
    main()
