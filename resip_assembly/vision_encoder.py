"""From camera images to features: encoders, the crops of each camera, training augmentation (sheet §2.10).

Symbols: B batch, C cameras, H x W stored pixels, S x S pixels that an encoder sees, F features per camera.
Everything is torch, on whole batches with parameters drawn per image, so that it runs where the policy runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

JITTER = 0.3  # brightness, contrast, saturation, hue
BLUR_KERNEL, BLUR_SIGMA = 5, (0.01, 2.0)
LUMA = (0.299, 0.587, 0.114)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VisionConfig:
    """Images and their encoder; the defaults are the paper's sizes (§2.10)."""

    encoder: str = "resnet18"  # or cnn, or an image backbone by hub id or folder (facebook/dinov2-small)
    feature_dim: int = 128  # per camera; the policy sees 16 + 2 x 128 numbers
    height: int = 240  # stored
    width: int = 320
    front_width: int = 280  # the middle of the front image, of which a window of `input_size` is cropped
    input_size: int = 224  # S

    def __post_init__(self) -> None:
        if not 1 <= self.input_size <= min(self.height, self.front_width) <= self.front_width <= self.width:
            raise ValueError(
                f"input_size={self.input_size}, front_width={self.front_width} do not fit images of "
                f"{self.height} x {self.width}: need input_size <= height, input_size <= front_width <= width"
            )


class ImageEncoder(nn.Module):
    """One encoder per camera, each followed by a linear map to F features, as the authors'."""

    def __init__(self, cfg: VisionConfig, cameras: tuple[str, ...]) -> None:
        super().__init__()
        self.cfg, self.cameras = cfg, cameras
        backbones = [_backbone(cfg.encoder) for _ in cameras]
        self.backbones = nn.ModuleList(backbones)
        self.projections = nn.ModuleList(nn.Linear(b.features, cfg.feature_dim) for b in backbones)

    @property
    def features(self) -> int:
        return len(self.cameras) * self.cfg.feature_dim

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, 3, S, S) in [0, 1], of `crop`, to (B, C F)."""
        statistics = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=images.device)[..., None, None]
        images = (images - statistics[0]) / statistics[1]
        pairs = zip(self.backbones, self.projections, strict=True)
        return torch.cat([project(see(images[:, k])) for k, (see, project) in enumerate(pairs)], dim=-1)

    def crop(self, images: Tensor, augment: bool = False) -> Tensor:
        """(B, C, H, W, 3) uint8 to (B, C, 3, S, S) in [0, 1].

        The front image is cropped, at random with `augment` and else in its middle; a wrist image, at the
        edge of which the parts may be, is resized. `augment` also jitters colours and blurs.
        """
        cfg, done = self.cfg, []
        for k, name in enumerate(self.cameras):
            image = images[:, k].movedim(-1, 1).float() / 255
            if name == "front":
                margin = (cfg.width - cfg.front_width) // 2
                image = image[..., margin : margin + cfg.front_width]
                image = random_crop(image, cfg.input_size) if augment else centre_crop(image, cfg.input_size)
            else:
                size = (cfg.input_size, cfg.input_size)
                image = F.interpolate(image, size, mode="bilinear", antialias=True)
            done.append(blur(colour_jitter(image)) if augment else image)
        return torch.stack(done, dim=1)


# ---- augmentation: each takes and gives (B, 3, H, W) in [0, 1]


def centre_crop(images: Tensor, size: int) -> Tensor:
    top, left = ((length - size) // 2 for length in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def random_crop(images: Tensor, size: int) -> Tensor:
    """A window of its own for every image."""
    batch, _, height, width = images.shape
    top, left = (torch.randint(n - size + 1, (batch, 1), device=images.device) for n in (height, width))
    steps = torch.arange(size, device=images.device)
    rows, columns = (top + steps)[:, None, :, None], (left + steps)[:, None, None, :]
    every = torch.arange(batch, device=images.device)[:, None, None, None]
    return images[every, torch.arange(3, device=images.device)[:, None, None], rows, columns]


def colour_jitter(images: Tensor, strength: float = JITTER) -> Tensor:
    """Brightness, contrast, saturation times U(1 ± strength), and the hue turned by up to ± strength of the
    circle, in that order. The hue turns in YIQ, which keeps the brightness, instead of HSV."""
    batch, device = len(images), images.device

    def factor() -> Tensor:
        return 1 + strength * (2 * torch.rand(batch, 1, 1, 1, device=device) - 1)

    luma = torch.tensor(LUMA, device=device)[:, None, None]
    images = (factor() * images).clamp(0, 1)
    mean = (images * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    images = torch.lerp(mean, images, factor()).clamp(0, 1)
    images = torch.lerp((images * luma).sum(1, keepdim=True), images, factor()).clamp(0, 1)
    angle = 2 * math.pi * (factor()[:, 0, 0, 0] - 1)
    return torch.einsum("bij,bjhw->bihw", hue_rotation(angle), images).clamp(0, 1)


def hue_rotation(angle: Tensor) -> Tensor:
    """(B,) rad to (B, 3, 3): RGB with its chroma turned and its luma kept."""
    to_yiq = torch.tensor([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], device=angle.device)
    turn = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def blur(images: Tensor) -> Tensor:
    """Gaussian, sigma drawn per image."""
    batch, channels, height, _ = images.shape
    low, high = BLUR_SIGMA
    sigma = low + (high - low) * torch.rand(batch, 1, device=images.device)
    offsets = torch.arange(BLUR_KERNEL, device=images.device) - BLUR_KERNEL // 2
    weights = torch.softmax(-0.5 * (offsets / sigma).square(), dim=-1).repeat_interleave(channels, 0)
    padded = F.pad(images, [BLUR_KERNEL // 2] * 4, mode="replicate").view(
        1, batch * channels, height + BLUR_KERNEL - 1, -1
    )
    vertical = F.conv2d(padded, weights[:, None, :, None], groups=batch * channels)
    return F.conv2d(vertical, weights[:, None, None, :], groups=batch * channels).view_as(images)


# ---- backbones: (B, 3, S, S) to (B, features)


class Backbone(nn.Module):
    """What encoders share: how many `features` they give."""

    features: int


def _backbone(name: str) -> Backbone:
    return OURS[name]() if name in OURS else HubBackbone(name)


class SmallCNN(Backbone):
    """Three convolutions and where each channel is brightest: for two cores. 15 thousand parameters."""

    features = 64

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(3, 16, 5, 2), nn.ReLU(), _convolution(16, 32, 3, 2), nn.ReLU(),
            _convolution(32, 32, 3, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return spatial_softmax(self.layers(images))


def spatial_softmax(maps: Tensor) -> Tensor:
    """(B, K, h, w) to (B, 2 K): the expected column and row, -1 … 1, of each map's softmax."""
    batch, channels, height, width = maps.shape
    weights = maps.flatten(2).softmax(-1).view(batch, channels, height, width)
    row, column = (torch.linspace(-1, 1, n, device=maps.device) for n in (height, width))
    return torch.cat([(weights.sum(2) * column).sum(-1), (weights.sum(3) * row).sum(-1)], dim=1)


class ResNet18(Backbone):
    """ResNet-18 with group instead of batch normalisation, which an averaged policy and small batches need.
    The authors start from R3M's weights; ours is trained from scratch (a hub id loads trained ones)."""

    features = 512

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for ins, outs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
            blocks += [ResidualBlock(ins, outs, stride), ResidualBlock(outs, outs, 1)]
        self.layers = nn.Sequential(_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(ins, outs, 3, stride), _convolution(outs, outs, 3, 1)
        self.shortcut = _convolution(ins, outs, 1, stride) if stride > 1 or ins != outs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class HubBackbone(Backbone):
    """A vision model of transformers: the class token of a ViT (DINO), the mean of a CNN's last map.

    FileNotFoundError: the name is neither a folder nor in the hub cache, and the hub cannot be reached.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        from transformers import AutoModel

        try:
            self.model = AutoModel.from_pretrained(name)
        except OSError as error:
            raise FileNotFoundError(
                f"encoder {name!r} is not {' or '.join(OURS)}, no folder and not in the hub cache; run "
                f"`hf download {name}` on a machine with network"
            ) from error
        config = self.model.config
        self.features = config.hidden_size if hasattr(config, "hidden_size") else config.hidden_sizes[-1]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.model(pixel_values=images).last_hidden_state
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, 0]


OURS: dict[str, type[Backbone]] = {"cnn": SmallCNN, "resnet18": ResNet18}


def _convolution(ins: int, outs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, kernel, stride, kernel // 2, bias=False), nn.GroupNorm(outs // 16, outs)
    )
