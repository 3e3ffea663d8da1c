"""Per-dimension min-max maps to [-1, 1], fitted once on the demonstrations and frozen (sheet §2.5).

The base policy, the residual and every baseline share one `Normalizer`; there are no running statistics.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

OBS_CLIP = 3.0  # normalised observations are clamped to ±3 for base and residual (§2.5; not 5, §2.11 item 7)
RANGE_FLOOR = 0.06  # D17: of almost constant dimensions (m, quaternion units): below it jitter becomes input


class MinMax(nn.Module):
    """x_n = (x - middle) / half_range, per dimension.

    Args:
        middle: (D,) centre of the data.
        half_range: (D,) half of its range, > 0.
    """

    middle: Tensor
    half_range: Tensor

    def __init__(self, middle: Tensor, half_range: Tensor) -> None:
        super().__init__()
        if middle.ndim != 1 or middle.shape != half_range.shape:
            raise ValueError(f"middle {tuple(middle.shape)}, half_range {tuple(half_range.shape)}: need (D,)")
        self.register_buffer("middle", middle.float())
        self.register_buffer("half_range", half_range.float())

    @classmethod
    def fit(cls, data: np.ndarray, floor: float = RANGE_FLOOR) -> MinMax:
        """The map of `data` (n, D); a constant dimension gets a margin of ±1, a smaller range than `floor`
        is widened to it (§2.5, pitfall 15). ValueError for empty or non-finite data."""
        data = np.asarray(data, np.float64)
        if data.ndim != 2 or not len(data):
            raise ValueError(f"data has shape {data.shape}; need (samples, dimensions), at least one sample")
        if bad := np.flatnonzero(~np.isfinite(data).all(0)).tolist():
            raise ValueError(f"dimensions {bad} of the data are not finite; drop those demonstrations")
        low, high = data.min(0), data.max(0)
        half = np.where(high == low, 1.0, np.maximum(high - low, floor) / 2)
        return cls(torch.from_numpy((low + high) / 2), torch.from_numpy(half))

    def normalize(self, x: Tensor) -> Tensor:
        """(..., D) raw to normalised, unclipped."""
        return (x - self.middle) / self.half_range

    def denormalize(self, x: Tensor) -> Tensor:
        """(..., D) normalised to raw."""
        return x * self.half_range + self.middle


class Normalizer(nn.Module):
    """N_o and N_a of §2.1."""

    def __init__(self, obs: MinMax, action: MinMax) -> None:
        super().__init__()
        self.obs, self.action = obs, action

    @classmethod
    def fit(cls, obs: np.ndarray, actions: np.ndarray, floor: float = RANGE_FLOOR) -> Normalizer:
        """Fit on all steps of the demonstrations, obs (n, D) and actions (n, A)."""
        return cls(MinMax.fit(obs, floor), MinMax.fit(actions, floor))

    @classmethod
    def empty(cls, obs_dim: int, action_dim: int) -> Normalizer:
        """The identity; `load_state_dict` fills it."""
        pairs = [(torch.zeros(n), torch.ones(n)) for n in (obs_dim, action_dim)]
        return cls(*(MinMax(*pair) for pair in pairs))

    def normalize_obs(self, obs: np.ndarray | Tensor) -> Tensor:
        """clip(N_o(s), -3, 3), float32 on the normalizer's device; a NaN of a blown-up state becomes 0."""
        raw = torch.as_tensor(obs, dtype=torch.float32, device=self.obs.middle.device)
        if raw.shape[-1] != len(self.obs.middle):
            raise ValueError(f"obs has {raw.shape[-1]} dimensions, the demonstrations {len(self.obs.middle)}")
        return torch.nan_to_num(self.obs.normalize(raw), nan=0.0).clamp_(-OBS_CLIP, OBS_CLIP)

    def normalize_action(self, action: np.ndarray) -> Tensor:
        """N_a: raw (..., A) to normalised, float32 on the normalizer's device."""
        return self.action.normalize(torch.from_numpy(action).to(self.action.middle.device))

    def denormalize_action(self, action: Tensor) -> np.ndarray:
        """N_a^{-1}: normalised (..., A) to the raw float32 action that the simulator takes."""
        return self.action.denormalize(action).cpu().numpy()
