"""Pretraining's pictures: all drawings of the pretraining families as one tensor, and their augmentation.

Three vendors drew most concepts; what has to carry over to the vendors held back is shape and rough colour.
So colours, outlines, size, tilt, paper and sharpness are drawn anew each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cls_rl import drawings
from cls_rl.drawings import Drawing

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)  # CLIP's, as Qwen's processor has them
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
PALETTE = {  # sRGB
    "red": (214, 48, 49), "orange": (240, 140, 40), "yellow": (250, 210, 70), "green": (90, 170, 70),
    "blue": (60, 120, 215), "light blue": (140, 200, 240), "purple": (140, 90, 190), "pink": (245, 150, 190),
    "brown": (140, 90, 55), "black": (35, 35, 40), "grey": (140, 145, 150), "white": (240, 240, 240),
}  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """`rgba`: (N, 4, side, side) uint8, alpha not multiplied in; `concepts`: (N,) index into `names`."""

    rgba: Tensor
    concepts: Tensor
    names: list[str]


def load_pictures(side: int, chosen: list[Drawing] | None = None) -> Pictures:
    """The drawings with use "pretrain" (or `chosen`), shrunk to `side` pixels, sorted by key.

    RuntimeError with the command to run if the store is empty; ValueError for a drawing of another use.
    """
    rows = chosen if chosen is not None else [d for d in drawings.drawings() if d.use == "pretrain"]
    if late := [d.key for d in rows if d.use != "pretrain"]:
        raise ValueError(f"{late[0]} is for downstream use; leave out all {len(late)} that are")
    names = sorted({d.name for d in rows})
    number = {name: i for i, name in enumerate(names)}
    small = [
        np.asarray(drawings.pixels(d.key).resize((side, side), Image.Resampling.BOX)).transpose(2, 0, 1)
        for d in rows
    ]
    return Pictures(torch.from_numpy(np.stack(small)), torch.tensor([number[d.name] for d in rows]), names)


def augment(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 4, S, S) uint8 drawings to (B, 3, S, S) float32 pictures in [0, 1]; fixed by the generator."""
    batch, side = rgba.shape[0], rgba.shape[-1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    drawn = rgba.float() / 255
    drawn[:, :3] *= drawn[:, 3:]
    drawn = F.grid_sample(drawn, _warp(uniform, side), mode="bilinear", align_corners=False)
    alpha = drawn[:, 3:]
    colour = _recoloured(drawn[:, :3], alpha, uniform)
    # A dark outline, thin or thick, as some vendors draw them.
    thick = uniform(0, 1, 1, 1, 1)
    wider = torch.where(thick < 0.15, F.max_pool2d(alpha, 5, 1, 2), F.max_pool2d(alpha, 3, 1, 1))
    rim = (wider - alpha) * (thick < 0.3)
    ink = uniform(0, 0.35, 1, 1, 1) * torch.ones(1, 3, 1, 1)
    paper = 1 - uniform(0, 0.4, 3, 1, 1) * (uniform(0, 1, 1, 1, 1) < 0.75)
    picture = colour + rim * ink + (1 - alpha - rim) * paper
    blurred = F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)
    picture = torch.where(uniform(0, 1, 1, 1, 1) < 0.25, blurred, picture)
    return picture.clamp(0, 1)


def _warp(uniform: Callable[..., Tensor], side: int) -> Tensor:
    """Sampling grid: turned up to 0.35 rad, zoomed 0.6 to 1.05, stretched, sheared, shifted."""
    angle, shear = uniform(-0.35, 0.35), uniform(-0.2, 0.2)
    zoom, stretch = uniform(0.6, 1.05), uniform(0.87, 1.15)
    wide, high = zoom * stretch, zoom / stretch
    room = (1 - zoom).clamp(min=0.08)
    cos, sin = angle.cos(), angle.sin()
    x, y = uniform(-1, 1) * room, uniform(-1, 1) * room
    rows = [
        torch.stack([cos / wide, (sin + shear) / wide, x], -1),
        torch.stack([-sin / high, cos / high, y], -1),
    ]
    theta = torch.stack(rows, 1)
    return F.affine_grid(theta, [len(theta), 4, side, side], align_corners=False)


def _recoloured(colour: Tensor, alpha: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
    """Hue turned up to 0.35 rad (and back for half), saturation 0.3 to 1.5 or none, gain, contrast."""
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (colour * luma).sum(1, keepdim=True)
    turn = uniform(-0.35, 0.35, 1, 1, 1)
    chroma = colour - grey
    # Rotation about the grey axis, by Rodrigues' formula with axis (1, 1, 1) / sqrt(3).
    across = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / math.sqrt(3)
    along = chroma.mean(1, keepdim=True)
    chroma = chroma * turn.cos() + across * turn.sin() + along * (1 - turn.cos())
    saturation = uniform(0.3, 1.5, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) > 0.12)
    gain, middle = uniform(0.75, 1.25, 1, 1, 1), uniform(-0.15, 0.15, 1, 1, 1)
    return ((grey + chroma * saturation) * gain + middle * alpha).clamp(min=0).minimum(alpha)


def patches(picture: Tensor, patch: int, merge: int) -> Tensor:
    """(B, 3, S, S) in [0, 1] to Qwen's (B, (S/patch)^2, 3 * patch^2), one moment in time, in merge order."""
    batch, _, side, _ = picture.shape
    grid = side // patch // merge
    split = ((picture - MEAN) / STD).reshape(batch, 3, grid, merge, patch, grid, merge, patch)
    return split.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, (side // patch) ** 2, 3 * patch**2)


def colours(pictures: Tensor) -> list[tuple[str, ...]]:
    """One or two commonest palette colours of each (B, 3, S, S) picture in [0, 1], without its paper.

    The paper is what looks like the upper left corner. A second colour needs a fifth of the rest.
    """
    small = pictures[:, :, 1::4, 1::4].flatten(2).transpose(1, 2)
    palette = torch.tensor(list(PALETTE.values())) / 255
    nearest = ((small[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
    drawn = (small - small[:, :1]).abs().amax(-1) > 0.12
    shares = (F.one_hot(nearest, len(palette)) * drawn[..., None]).sum(1) / drawn.sum(1, keepdim=True).clamp(
        1
    )
    words = list(PALETTE)
    best = shares.topk(2, dim=1)
    return [
        tuple(words[i] for i, share in zip(rows, row_shares, strict=True) if share >= 0.2)
        or (words[rows[0]],)
        for rows, row_shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
