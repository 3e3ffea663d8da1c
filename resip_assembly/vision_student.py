"""The diffusion policy that sees: robot state and camera features instead of the parts' poses (sheet §2.10).

Observation: the robot's own state (16 per arm, normalised) and F features of each camera; the chunk and its
denoiser are the state policy's. It trains in `behaviour_cloning.train`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resip_assembly import checkpoints
from resip_assembly.behaviour_cloning import BaseConfig, Samples, windows
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import ChunkQueue, ConditionalUnet1D, DiffusionPolicy, MLPDenoiser
from resip_assembly.env.vector import AssemblyVectorEnv
from resip_assembly.env.vision import Cameras, poses
from resip_assembly.image_data import ImageData
from resip_assembly.normalization import Normalizer
from resip_assembly.vision_encoder import ImageEncoder, VisionConfig
from shared.config import from_dict, to_dict


@dataclass(frozen=True)
class Views:
    """B observations: state (B, D) normalised, and images, (B, C, H, W, 3) uint8 as they were taken or
    (B, C, 3, S, S) float as the encoder takes them."""

    state: Tensor
    images: Tensor


class VisionPolicy(DiffusionPolicy):
    """A `DiffusionPolicy` of `Views`; the encoder trains with it.

    Args:
        encoder: of the images.
        denoiser: conditioned on D + C F numbers.
        normalizer: of robot state and actions.
        horizons: predict, execute, and `DiffusionPolicy`'s other arguments.
    """

    def __init__(
        self, encoder: ImageEncoder, denoiser: nn.Module, normalizer: Normalizer, *horizons: Any
    ) -> None:
        super().__init__(denoiser, normalizer, *horizons)
        self.encoder = encoder

    def condition(self, views: Views) -> Tensor:
        """(B, D + C F)."""
        images = views.images if views.images.is_floating_point() else self.encoder.crop(views.images)
        return torch.cat([views.state, self.encoder(images)], dim=-1)

    def corrupt(self, obs: Views, noise: float) -> Views:
        """Noise on the state, augmentation of the images."""
        return Views(super().corrupt(obs.state, noise), self.encoder.crop(obs.images, augment=True))

    def loss(self, obs: Views, chunk: Tensor) -> Tensor:  # type: ignore[override]
        return super().loss(self.condition(obs), chunk)

    @torch.no_grad()
    def predict_chunk(self, obs: Views, previous: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().predict_chunk(self.condition(obs), previous)


def build_student(
    base: BaseConfig, vision: VisionConfig, cameras: tuple[str, ...], normalizer: Normalizer
) -> VisionPolicy:
    """An untrained student; its weights come from torch's global generator, or from the hub.

    Raises:
        ValueError: `base` is not a diffusion policy.
    """
    if base.kind == "mlp":
        raise ValueError(
            "policy.kind='mlp': the student of images is a diffusion policy (unet, mlp_denoiser)"
        )
    encoder = ImageEncoder(vision, cameras)
    condition, action_dim = len(normalizer.obs.middle) + encoder.features, len(normalizer.action.middle)
    if base.kind == "unet":
        denoiser: nn.Module = ConditionalUnet1D(condition, action_dim, base.widths)
    else:
        denoiser = MLPDenoiser(condition, action_dim, base.predict, base.widths[0], base.layers)
    sampler = (base.prediction, base.loss, base.inference_steps, base.warm_start)
    return VisionPolicy(encoder, denoiser, normalizer, base.predict, base.execute, *sampler)


def save_student(policy: VisionPolicy, base: BaseConfig, folder: Path, identity: Identity) -> Path:
    """Weights and normalizer as a complete checkpoint folder."""
    config = {"obs_dim": policy.obs_dim, "action_dim": policy.action_dim, "base": to_dict(base)}
    config |= {"vision": to_dict(policy.encoder.cfg), "cameras": policy.encoder.cameras}
    return checkpoints.save(folder, identity, config, {"policy": policy.state_dict()})


def load_student(
    folder: Path | str, identity: Identity | None = None, device: torch.device | str = "cpu"
) -> VisionPolicy:
    """A trained student; ValueError names both sides when it is for another task, robot or action space."""
    config = checkpoints.load_config(folder, identity)
    normalizer = Normalizer.empty(config["obs_dim"], config["action_dim"])
    parts = from_dict(BaseConfig, config["base"]), from_dict(VisionConfig, config["vision"])
    policy = build_student(*parts, tuple(config["cameras"]), normalizer).to(device)
    policy.load_state_dict(checkpoints.load_state(folder, "policy", device))
    return policy


class StoredViews:
    """The frames of a data set as observations of windows: indexing by rows gives `Views`. Images stay in
    main memory and go to the policy's device batch by batch."""

    def __init__(self, state: Tensor, images: np.ndarray, frame: np.ndarray) -> None:
        self.state, self.images, self.frame = state, torch.from_numpy(images), torch.from_numpy(frame)

    def __getitem__(self, rows: Tensor) -> Views:
        frame = self.frame[rows.cpu()]
        device = self.state.device
        return Views(self.state[frame.to(device)], self.images[frame].to(device, non_blocking=True))


def image_samples(policy: VisionPolicy, data: ImageData, pad_after: int) -> Samples:
    """Every window of the data set, for `behaviour_cloning.train`."""
    ends = np.cumsum(data.lengths)
    numbered = [
        (np.arange(end - n, end), data.actions[end - n : end])
        for end, n in zip(ends, data.lengths, strict=True)
    ]
    frame, chunks = windows(numbered, policy.predict, pad_after)
    state = policy.normalizer.normalize_obs(data.obs[:, : policy.obs_dim])
    return Samples(StoredViews(state, data.images, frame), policy.normalizer.normalize_action(chunks))


class VisionAgent:
    """A student in an environment (`evaluation.Agent`). Only worlds whose plan has run out are rendered.

    Args:
        policy: trained.
        env: whose worlds the cameras see; of its observation only the robot's own state is used.
        cameras: None: of the size the student was trained with, without randomisation.

    Raises:
        NoRendering: this machine has no OpenGL.
    """

    def __init__(self, policy: VisionPolicy, env: AssemblyVectorEnv, cameras: Cameras | None = None) -> None:
        size = policy.encoder.cfg.height, policy.encoder.cfg.width
        self.policy, self.env = policy, env
        self.cameras = cameras or Cameras(env.scene, *size)
        self.queue = ChunkQueue(policy, env.num_envs)

    def reset(self, mask: np.ndarray) -> None:
        self.queue.clear(mask)

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        normalizer = self.policy.normalizer
        state = normalizer.normalize_obs(obs[:, : self.policy.obs_dim])
        action = self.queue.current(_LiveViews(state, self.env, self.cameras))
        self.queue.advance()
        return normalizer.denormalize_action(action)

    def close(self) -> None:
        self.cameras.close()


class _LiveViews:
    """What the cameras see now, rendered when it is asked for."""

    def __init__(self, state: Tensor, env: AssemblyVectorEnv, cameras: Cameras) -> None:
        self.state, self.env, self.cameras = state, env, cameras

    def __getitem__(self, rows: Tensor) -> Views:
        now = poses(self.env.simulator)
        images = np.stack([self.cameras.images(now[i]) for i in rows.tolist()])
        return Views(self.state[rows], torch.from_numpy(images).to(self.state.device))
