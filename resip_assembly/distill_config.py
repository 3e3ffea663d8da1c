"""Configuration of `distill.py`. The `paper` preset holds the sheet's values (§2.10)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from resip_assembly.behaviour_cloning import BaseConfig, CloneConfig
from resip_assembly.config import PRESETS as TEACHERS
from resip_assembly.config import Eval
from resip_assembly.env.vision import Looks
from resip_assembly.vision_encoder import VisionConfig
from shared.runs import RunConfig


@dataclass(frozen=True)
class DistillConfig:
    preset: str = "paper"
    start: str = ""  # run folder of train.py: task, simulator and teacher
    teacher: Literal["residual", "base", "expert"] = "residual"
    episodes: tuple[int, ...] = (250, 500, 1000)  # successful rollouts: a student each, fewer within more
    demonstrations: int = 50  # of the scripted expert, added to every student's data
    looks: Looks = "base"  # visual domain randomisation of the training images
    data: str | None = None  # a folder that this script recorded before (<run>/images); None records
    num_envs: int = 64  # while recording
    vision: VisionConfig = field(default_factory=VisionConfig)
    policy: BaseConfig = field(default_factory=BaseConfig)
    clone: CloneConfig = field(default_factory=lambda: CloneConfig(updates=500_000))  # 5000 x 100
    eval: Eval = field(default_factory=lambda: Eval(episodes=1024, num_envs=128, video=False))
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if not self.episodes or min(self.episodes) < 1:
            raise ValueError(f"episodes={self.episodes}: need one or more numbers of at least 1")
        for name, least in (("demonstrations", 0), ("num_envs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.policy.kind == "mlp":
            raise ValueError("policy.kind='mlp' cannot see: the student of images is unet or mlp_denoiser")


_PAPER = DistillConfig()

# Two cores: small images and encoder, the denoiser of train.py's preset.
_SMALL = DistillConfig(
    preset="small",
    episodes=(50, 100, 200),
    demonstrations=0,
    num_envs=16,
    # the front camera's crop of the paper's proportions would cut off one_leg's leg in half of the images
    vision=VisionConfig("cnn", feature_dim=32, height=96, width=128, front_width=96, input_size=92),
    policy=TEACHERS["small"].base,
    clone=replace(TEACHERS["small"].clone, updates=3000, batch_size=64, test_every=1000),
    eval=Eval(episodes=128, num_envs=32, video=False),
)

_SMOKE = replace(
    _SMALL,
    preset="smoke",
    teacher="expert",  # a residual of three iterations hardly ever succeeds
    episodes=(2, 3),
    demonstrations=1,
    num_envs=4,
    vision=VisionConfig("cnn", feature_dim=8, height=32, width=40, front_width=36, input_size=28),
    policy=TEACHERS["smoke"].base,
    clone=replace(TEACHERS["smoke"].clone, updates=10, batch_size=8, test_every=5, save_every=5),
    eval=Eval(episodes=2, num_envs=2, video=False),
)

DISTILL_PRESETS: dict[str, DistillConfig] = {"smoke": _SMOKE, "small": _SMALL, "paper": _PAPER}
