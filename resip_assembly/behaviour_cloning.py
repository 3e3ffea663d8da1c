"""Behaviour cloning of chunk policies (sheet §2.6): windows, the MLP baselines, one resumable training loop.

MLP-C predicts 8 steps and executes them, MLP-S predicts 1; `DiffusionPolicy` trains in the same loop.
Everything random is a function of (seed, update), so a resumed run on CPU is bit-identical.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from resip_assembly import checkpoints
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import ChunkPolicy, ConditionalUnet1D, DiffusionPolicy, MLPDenoiser
from resip_assembly.normalization import Normalizer
from resip_assembly.progress import Progress
from shared.config import from_dict, to_dict
from shared.seeding import derive_seed

Episodes = Sequence[tuple[np.ndarray, np.ndarray]]  # raw obs (L, D) and actions (L, A) of each demonstration


@dataclass(frozen=True)
class BaseConfig:
    """Architecture of the base policy; the defaults are the paper's diffusion policy (§2.6)."""

    kind: Literal["unet", "mlp_denoiser", "mlp"] = "unet"  # "mlp" is MLP-C, or MLP-S with predict=execute=1
    predict: int = 32  # T_p; peg-in-hole 8, bimanual 64, MLP-C 8
    execute: int = 8  # T_a; peg-in-hole 4, bimanual 16, MLP-C 8
    prediction: Literal["epsilon", "sample"] = "epsilon"
    loss: Literal["mse", "l1"] = "mse"
    widths: tuple[int, ...] = (256, 512, 1024)  # U-Net levels; of an MLP the first one (the paper's: 1024)
    layers: int = 5  # residual layers of an MLP
    dropout: float = 0.1  # of "mlp"
    inference_steps: int = 4  # forced by the authors in RL and evaluation
    warm_start: bool = True  # authors' sampler start


@dataclass(frozen=True)
class CloneConfig:
    """Training of the base policy; the defaults are the paper's (§2.6)."""

    updates: int = 1_000_000  # "0.2-1 M usually suffice" (§8); the authors' limit is 5 M
    batch_size: int = 256
    lr: float = 1e-4
    warmup: int = 10_000  # updates, then cosine to 0
    weight_decay: float = 1e-6
    ema_decay: float | None = None  # the authors use none; 0.9995 in the CPU preset
    obs_noise: float = 0.0  # standard deviation of Gaussian noise on normalised observations
    pad_after: int = 7  # T_a - 1 repeats of the last step; T_p - 1 lets every step start a window
    held_out: float = 0.05  # share of windows for the test loss
    test_every: int = 10_000  # updates between test losses and roll-outs of `select`
    save_every: int = 10_000


@dataclass(frozen=True)
class Samples:
    """What `train` draws from: row k is an observation, normalised, and the chunk that follows it."""

    obs: Any  # indexed by rows (B,): a tensor (n, D), or whatever else the policy takes
    chunks: Tensor  # (n, T_p, A) normalised


class MlpPolicy(ChunkPolicy):
    """Residual MLP from one observation to a chunk, 10.6 M parameters at width 1024 and 5 layers (§2.6)."""

    def __init__(
        self,
        normalizer: Normalizer,
        predict: int = 8,
        execute: int = 8,
        width: int = 1024,
        layers: int = 5,
        dropout: float = 0.1,
        loss: Literal["mse", "l1"] = "mse",
    ) -> None:
        super().__init__(normalizer, predict, execute)
        self.inputs = nn.Linear(self.obs_dim, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.output = nn.Linear(width, predict * self.action_dim)
        self.error = {"mse": F.mse_loss, "l1": F.l1_loss}[loss]

    def forward(self, obs: Tensor) -> Tensor:
        """(B, D) to (B, T_p, A), with gradients."""
        x = self.inputs(obs)
        for layer in self.layers:
            x = F.relu(x + layer(x))
        return self.output(x).view(len(obs), self.predict, self.action_dim)

    def loss(self, obs: Tensor, chunk: Tensor) -> Tensor:
        return self.error(self(obs), chunk)

    @torch.no_grad()
    def predict_chunk(self, obs: Tensor, previous: Tensor | None = None) -> Tensor:
        return self(obs)


def build_policy(cfg: BaseConfig, normalizer: Normalizer) -> ChunkPolicy:
    """An untrained policy; its initial weights come from torch's global generator."""
    if cfg.kind == "mlp":
        sizes = (cfg.predict, cfg.execute, cfg.widths[0], cfg.layers, cfg.dropout, cfg.loss)
        return MlpPolicy(normalizer, *sizes)
    obs_dim, action_dim = len(normalizer.obs.middle), len(normalizer.action.middle)
    if cfg.kind == "unet":
        denoiser: nn.Module = ConditionalUnet1D(obs_dim, action_dim, cfg.widths)
    else:
        denoiser = MLPDenoiser(obs_dim, action_dim, cfg.predict, cfg.widths[0], cfg.layers)
    sampler = (cfg.prediction, cfg.loss, cfg.inference_steps, cfg.warm_start)
    return DiffusionPolicy(denoiser, normalizer, cfg.predict, cfg.execute, *sampler)


def save_policy(policy: ChunkPolicy, cfg: BaseConfig, folder: Path, identity: Identity) -> Path:
    """Weights and normalizer as a complete checkpoint folder."""
    sizes = {"obs_dim": policy.obs_dim, "action_dim": policy.action_dim}
    return checkpoints.save(folder, identity, sizes | {"base": to_dict(cfg)}, {"policy": policy.state_dict()})


def load_policy(
    folder: Path | str, identity: Identity | None = None, device: torch.device | str = "cpu"
) -> ChunkPolicy:
    """A trained policy; ValueError names both sides when it was trained for another task or action space."""
    config = checkpoints.load_config(folder, identity)
    normalizer = Normalizer.empty(config["obs_dim"], config["action_dim"])
    policy = build_policy(from_dict(BaseConfig, config["base"]), normalizer).to(device)
    policy.load_state_dict(checkpoints.load_state(folder, "policy", device))
    return policy


def windows(episodes: Episodes, predict: int, pad_after: int) -> tuple[np.ndarray, np.ndarray]:
    """obs (n, D) and action chunks (n, T_p, A), stride 1; the tail repeats the last action (§2.6).

    An episode of L steps gives L - T_p + 1 + `pad_after` windows. ValueError if no episode is long enough,
    or if observations and actions differ in length.
    """
    obs, chunks = [], []
    for states, actions in episodes:
        if len(states) != len(actions):
            raise ValueError(f"an episode has {len(states)} observations and {len(actions)} actions")
        starts = np.arange(max(0, len(states) - predict + 1 + min(pad_after, predict - 1)))
        steps = np.minimum(starts[:, None] + np.arange(predict), len(states) - 1)
        obs.append(np.asarray(states)[starts])
        chunks.append(np.asarray(actions, np.float32)[steps])
    if not sum(map(len, obs)):
        longest = max((len(states) for states, _ in episodes), default=0)
        raise ValueError(f"the longest of {len(obs)} episodes has {longest} steps: too short for {predict=}")
    return np.concatenate(obs), np.concatenate(chunks)


def state_samples(policy: ChunkPolicy, episodes: Episodes, pad_after: int) -> Samples:
    """`windows` of the whole state, normalised, on the policy's device."""
    obs, chunks = windows(episodes, policy.predict, pad_after)
    return Samples(policy.normalizer.normalize_obs(obs), policy.normalizer.normalize_action(chunks))


def warmup_cosine(step: int, total: int, warmup: int = 0) -> float:
    """Factor of the learning rate: linear from 0 over `warmup`, then a half cosine to 0 at `total`."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


class Ema:
    """Exponential moving average of the weights; the decay grows as (1 + n) / (10 + n) up to its limit."""

    def __init__(self, policy: ChunkPolicy, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
            return torch.lerp(current, averaged, min(decay, (1 + int(n)) / (10 + int(n))))

        self.model = AveragedModel(policy, avg_fn=average)

    @property
    def policy(self) -> ChunkPolicy:
        return cast(ChunkPolicy, self.model.module)


@dataclass
class Cloned:
    """Result of `train`: the losses on train and held-out windows, and which update was kept."""

    train_loss: float = math.nan
    test_loss: float = math.nan
    kept_update: int = 0
    selection: list[tuple[int, float]] = field(default_factory=list)  # (update, success) of `select`


def train(
    policy: ChunkPolicy,
    data: Episodes | Samples,
    cfg: CloneConfig,
    seed: int = 0,
    *,
    folder: Path | None = None,
    resume_from: Path | None = None,
    identity: Identity | None = None,
    select: Callable[[ChunkPolicy], float] | None = None,
    on_log: Callable[[dict[str, float], int], object] = lambda metrics, update: None,
) -> Cloned:
    """Fit `policy` in place; at the end it holds the (averaged) weights, in evaluation mode.

    Args:
        policy: on the device to train on; its normalizer is fitted already.
        data: demonstrations, or samples made of them in another way (images: `vision_student.py`).
        cfg: see `CloneConfig`.
        seed: of batches, noise and dropout.
        folder: where ``checkpoint-<update>`` folders go; None writes nothing.
        resume_from: such a folder, to go on from.
        identity: stored in and checked against checkpoints.
        select: success rate of a policy; the best of those every `test_every` updates is kept, as the
            authors do (issue 31: imitation is not monotonic). None keeps the last.
        on_log: called with metrics and update.

    Raises:
        ValueError: no window fits; a batch larger than the data is no error (drawn with replacement).
        FloatingPointError: the loss is not finite.
    """
    identity = identity or Identity("unnamed")
    device = policy.normalizer.obs.middle.device
    samples = data if isinstance(data, Samples) else state_samples(policy, data, cfg.pad_after)
    n = len(samples.chunks)
    order = np.random.default_rng(derive_seed(seed, "held-out windows")).permutation(n)
    cut = min(round(cfg.held_out * n), n - 1)
    test, fit = (torch.from_numpy(part).to(device) for part in (order[:cut], order[cut:]))

    optimizer = torch.optim.AdamW(policy.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    ema = Ema(policy, cfg.ema_decay) if cfg.ema_decay is not None else None
    result, best, first = Cloned(), None, 0
    if resume_from is not None:
        first = checkpoints.load_config(resume_from, identity)["update"]
        state = checkpoints.load_state(resume_from, "training", device)
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        if ema is not None:
            ema.model.load_state_dict(state["ema"])
        result, best = Cloned(**state["result"]), state["best"]

    policy.train()
    averaged = ema.policy if ema is not None else policy
    with Progress("cloning", cfg.updates, first) as progress:
        for update in range(first, cfg.updates):
            torch.manual_seed(derive_seed(seed, "cloning", update))
            rows = fit[torch.randint(len(fit), (cfg.batch_size,), device=device)]
            loss = policy.loss(policy.corrupt(samples.obs[rows], cfg.obs_noise), samples.chunks[rows])
            optimizer.param_groups[0]["lr"] = cfg.lr * warmup_cosine(update, cfg.updates, cfg.warmup)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if ema is not None:
                ema.model.update_parameters(policy)

            done, result.train_loss = update + 1, loss.item()
            if not math.isfinite(result.train_loss):
                saved = f"; {checkpoints.kept(folder)}" if folder is not None else ""
                raise FloatingPointError(
                    f"cloning stopped: loss={result.train_loss} in update {done}; lower lr={cfg.lr}{saved}"
                )
            if done % cfg.test_every == 0 or done == cfg.updates:
                result.test_loss = _test_loss(
                    averaged, samples, test.split(cfg.batch_size), derive_seed(seed, "test")
                )
                metrics = {"loss/train": result.train_loss, "loss/test": result.test_loss}
                if select is not None:
                    success = select(averaged.eval())
                    if not result.selection or success > max(s for _, s in result.selection):
                        best = {name: value.clone() for name, value in averaged.state_dict().items()}
                        result.kept_update = done
                    result.selection.append((done, success))
                    metrics["eval/success"] = success
                averaged.train()
                on_log(metrics, done)
            if folder is not None and (done % cfg.save_every == 0 or done == cfg.updates):
                state = {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "best": best}
                state |= {"ema": ema.model.state_dict() if ema else None}
                state |= {"result": dataclasses.asdict(result)}
                saved = folder / f"checkpoint-{done}"
                checkpoints.save(saved, identity, {"update": done}, {"training": state})
                checkpoints.prune(folder)
            progress.show(done, f"loss {result.train_loss:.4f}")

    policy.load_state_dict(best if best is not None else averaged.state_dict())
    result.kept_update = result.kept_update or cfg.updates
    policy.eval()
    return result


@torch.inference_mode()
def _test_loss(policy: ChunkPolicy, samples: Samples, batches: Sequence[Tensor], seed: int) -> float:
    """Loss on the held-out windows with the same noise every time; NaN without held-out windows."""
    torch.manual_seed(seed)
    policy.eval()
    total = sum(policy.loss(samples.obs[rows], samples.chunks[rows]).item() * len(rows) for rows in batches)
    return total / count if (count := sum(map(len, batches))) else math.nan
