"""The residual policy (sheet §2.1, §2.7): a small Gaussian correction of every base action, and its critic.

    a_t = N_a^{-1}(a^b_t + α·u_t),   u_t ~ N(μ(z_t), σ²),   z_t = [clip(N_o(s_t), ±3); a^b_t]

Symbols: N envs, D residual observation (normalised, plus extra features), A action, U residual dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from resip_assembly import checkpoints
from resip_assembly.checkpoints import Identity
from resip_assembly.diffusion_policy import ChunkPolicy, ChunkQueue
from resip_assembly.normalization import OBS_CLIP, MinMax, Normalizer
from shared.config import from_dict

Features = Callable[[np.ndarray], np.ndarray]  # raw obs (N, D) -> extra features (N, F) of about unit size
POSE = 10  # action dimensions per arm: position 3, 6-D rotation 6, gripper 1


@dataclass(frozen=True)
class ResidualConfig:
    """The residual policy; the defaults are the paper's (§2.7)."""

    parametrisation: Literal["normalised", "delta6"] = "normalised"  # "delta6": metres and radians (ours)
    residual_scale: float = 0.1  # α; 1 for delta6, whose units are these:
    delta_position_m: float = 0.008
    delta_rotation_rad: float = 0.05
    max_units: float | None = None  # clamp of the executed u (not of its log-probability); delta6: 2
    init_logstd: float = -1.0
    learn_std: bool = False
    width: int = 256


class ResidualPolicy(nn.Module):
    """Gaussian residual μ(z), σ and its critic V(z), z = [obs, base action] (§2.7).

    The last actor layer has no bias and starts at zero, so that the untrained mean equals the base action bit
    for bit (pitfall 1).

    Args:
        obs_dim: D, normalised observation plus extra features.
        action_dim: A of the base action: 10 per arm for "delta6".
        residual_scale: α.
        init_logstd: of every dimension, state independent.
        learn_std: whether it trains.
        width: of the two hidden layers of actor and critic.
        parametrisation: "normalised" adds α·u, u (N, A), to the normalised base action, as the paper.
            "delta6" takes u (N, 6 per arm): α·u[:3] units of metres on the position, α·u[3:6] of radians as a
            rotation vector in the tool frame on the base's absolute pose; the gripper stays the base's.
        action_range: the demonstrations' action map, needed by "delta6".
        delta_units: (m, rad) of one unit.
        max_units: clamp of the executed u, or None.

    Raises:
        ValueError: "delta6" without `action_range`, or an `action_dim` that is not 10 per arm.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        *,
        residual_scale: float = 0.1,
        init_logstd: float = -1.0,
        learn_std: bool = False,
        width: int = 256,
        parametrisation: Literal["normalised", "delta6"] = "normalised",
        action_range: MinMax | None = None,
        delta_units: tuple[float, float] = (0.008, 0.05),
        max_units: float | None = None,
    ) -> None:
        super().__init__()
        self.residual_dim = action_dim
        if parametrisation == "delta6":
            if action_range is None or action_dim % POSE:
                raise ValueError(f"delta6 with {action_dim=}: need 10 dimensions per arm, and action_range")
            self.residual_dim = action_dim // POSE * 6
        self.obs_dim, self.action_dim = obs_dim, action_dim
        self.parametrisation: Literal["normalised", "delta6"] = parametrisation
        self.residual_scale, self.delta_units, self.max_units = residual_scale, delta_units, max_units
        self.action_range = action_range
        self.width, inputs = width, obs_dim + action_dim
        last = nn.Linear(width, self.residual_dim, bias=False)
        nn.init.zeros_(last.weight)
        self.actor = _mlp(inputs, width, last)
        self.critic = critic_mlp(inputs, width)
        self.logstd = nn.Parameter(torch.full((self.residual_dim,), init_logstd), requires_grad=learn_std)

    def config(self) -> ResidualConfig:
        """What `build_residual` needs to rebuild this policy; logstd itself is a weight."""
        return ResidualConfig(
            parametrisation=self.parametrisation,
            residual_scale=self.residual_scale,
            delta_position_m=self.delta_units[0],
            delta_rotation_rad=self.delta_units[1],
            max_units=self.max_units,
            learn_std=self.logstd.requires_grad,
            width=self.width,
        )

    def act(self, obs: Tensor, base_action: Tensor, deterministic: bool = False) -> Tensor:
        """The combined normalised action (N, A) for obs (N, D) and base_action (N, A); no gradients."""
        with torch.no_grad():
            z = torch.cat([obs, base_action], dim=-1)
            u = self.actor(z) if deterministic else self.distribution(z).sample()
            return self.combine(base_action, u)

    def distribution(self, z: Tensor) -> Normal:
        """Of u (…, U), given z (…, D + A)."""
        mean = self.actor(z)
        return Normal(mean, self.logstd.exp().expand_as(mean), validate_args=False)

    def value(self, z: Tensor) -> Tensor:
        """V(z), (…,)."""
        return self.critic(z).squeeze(-1)

    def combine(self, base_action: Tensor, u: Tensor) -> Tensor:
        """a^b + α·u (§2.1), in normalised actions; equal to the base action, bit for bit, where u is 0."""
        if self.max_units is not None:
            u = u.clamp(-self.max_units, self.max_units)
        scaled = self.residual_scale * u
        return base_action + (
            scaled if self.parametrisation == "normalised" else self._delta(base_action, scaled)
        )

    def _delta(self, base_action: Tensor, scaled: Tensor) -> Tensor:
        """Change of the normalised action (N, A) by pose deltas (N, 6 per arm): p + d, R·Exp(w).

        A 6-D rotation holds the first two rows b_i of R, and the rows of R·E are b_i·E. The Gram-Schmidt
        that the simulator applies commutes with it, so the rows need not be orthonormal here.
        """
        assert self.action_range is not None
        arms = scaled.view(*scaled.shape[:-1], -1, 6)
        position, rotation = self.delta_units[0] * arms[..., :3], self.delta_units[1] * arms[..., 3:]
        raw = self.action_range.denormalize(base_action).view(*base_action.shape[:-1], -1, POSE)
        rows = raw[..., 3:9].unflatten(-1, (2, 3))
        turned = rows @ _exp_minus_identity(rotation)
        change = torch.cat([position, turned.flatten(-2), torch.zeros_like(position[..., :1])], dim=-1)
        return change.flatten(-2) / self.action_range.half_range


def build_residual(cfg: ResidualConfig, obs_dim: int, normalizer: Normalizer) -> ResidualPolicy:
    """An untrained residual of `cfg` on the device of `normalizer`; obs_dim includes extra features."""
    policy = ResidualPolicy(
        obs_dim,
        len(normalizer.action.middle),
        residual_scale=cfg.residual_scale,
        init_logstd=cfg.init_logstd,
        learn_std=cfg.learn_std,
        width=cfg.width,
        parametrisation=cfg.parametrisation,
        action_range=normalizer.action if cfg.parametrisation == "delta6" else None,
        delta_units=(cfg.delta_position_m, cfg.delta_rotation_rad),
        max_units=cfg.max_units,
    )
    return policy.to(normalizer.obs.middle.device)


def residual_features(obs: np.ndarray, normalizer: Normalizer, extra: Features | None = None) -> Tensor:
    """Input (N, D) of the residual, without the base action: clip(N_o(s), ±3), then the extra features."""
    normalised = normalizer.normalize_obs(obs)
    if extra is None:
        return normalised
    features = torch.as_tensor(extra(obs), dtype=torch.float32, device=normalised.device)
    return torch.cat([normalised, torch.nan_to_num(features).clamp(-OBS_CLIP, OBS_CLIP)], dim=-1)


class ResidualAgent:
    """Base plus residual, for evaluation and videos (`evaluation.Agent`).

    Args:
        base: frozen.
        residual: trained.
        num_envs: N.
        extra: the features that the residual was trained with.
        deterministic: the mean residual (how the paper evaluates).
        hold: ablation: keep the residual of a chunk's first step until the next chunk.
    """

    def __init__(
        self,
        base: ChunkPolicy,
        residual: ResidualPolicy,
        num_envs: int,
        extra: Features | None = None,
        deterministic: bool = True,
        hold: bool = False,
    ) -> None:
        self.base, self.residual, self.extra = base, residual, extra
        self.deterministic, self.hold = deterministic, hold
        self.queue = ChunkQueue(base, num_envs)
        self._held = torch.zeros(num_envs, residual.residual_dim, device=base.normalizer.obs.middle.device)

    def reset(self, mask: np.ndarray) -> None:
        self.queue.clear(mask)

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> np.ndarray:
        features = residual_features(obs, self.base.normalizer, self.extra)
        base_action = self.queue.current(features[:, : self.base.obs_dim])
        if self.hold:
            new = (self.queue.step == 0)[:, None]
            policy = self.residual.distribution(torch.cat([features, base_action], dim=-1))
            u = policy.mean if self.deterministic else policy.sample()
            self._held = torch.where(new, u, self._held)
            action = self.residual.combine(base_action, self._held)
        else:
            action = self.residual.act(features, base_action, self.deterministic)
        self.queue.advance()
        return self.base.normalizer.denormalize_action(action)


def load_residual(
    folder: Path | str, normalizer: Normalizer, identity: Identity | None = None
) -> ResidualPolicy:
    """The residual of a checkpoint or of ``best``, on the normalizer's device, without gradients."""
    config = checkpoints.load_config(folder, identity)
    policy = build_residual(from_dict(ResidualConfig, config["residual"]), config["obs_dim"], normalizer)
    policy.load_state_dict(checkpoints.load_state(folder, "policy", normalizer.obs.middle.device))
    return policy.eval().requires_grad_(False)


def critic_mlp(inputs: int, width: int = 256) -> nn.Sequential:
    """V: (…, inputs) to (…, 1); the last layer starts orthogonal with gain 0.25 and bias 0.25 (§2.7)."""
    last = nn.Linear(width, 1)
    nn.init.orthogonal_(last.weight, gain=0.25)
    nn.init.constant_(last.bias, 0.25)
    return _mlp(inputs, width, last)


def _mlp(inputs: int, width: int, last: nn.Linear) -> nn.Sequential:
    """Two hidden ReLU layers, Kaiming-normal (fan-in) with zero bias (§2.7)."""
    hidden = [nn.Linear(inputs, width), nn.Linear(width, width)]
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(hidden[0], nn.ReLU(), hidden[1], nn.ReLU(), last)


def _exp_minus_identity(w: Tensor) -> Tensor:
    """Exp(w) - I (..., 3, 3) of rotation vectors (..., 3), Rodrigues; exactly 0 at w = 0."""
    angle = w.norm(dim=-1)[..., None, None]
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.sinc(angle / math.pi) * k + 0.5 * torch.sinc(angle / (2 * math.pi)).square() * (k @ k)
