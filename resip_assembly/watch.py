"""Film episodes of a run: base and residual, or teacher and student of images, side by side.

python -m resip_assembly.watch runs/small-seed0                       # 4 held-out episodes to film.mp4
python -m resip_assembly.watch runs/small-seed0 --out film.gif --episodes 2 --seed 7
python -m resip_assembly.watch runs/small-seed0 --policy expert       # what it was taught
python -m resip_assembly.watch runs/small-distilled-residual-seed0    # a run of distill.py
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from resip_assembly import pipeline, starts, videos
from resip_assembly.behaviour_cloning import load_policy
from resip_assembly.config import Config
from resip_assembly.demos import ExpertAgent
from resip_assembly.diffusion_policy import ChunkAgent
from resip_assembly.distill_config import DistillConfig
from resip_assembly.env import task_named
from resip_assembly.env.rendering import NoRendering
from resip_assembly.env.vector import AssemblyVectorEnv
from resip_assembly.evaluation import Agent
from resip_assembly.relative_features import RelativePoses
from resip_assembly.residual_policy import ResidualAgent, load_residual
from resip_assembly.vision_student import VisionAgent, load_student
from shared import checkpoint, gpu
from shared.config import ConfigError, from_dict


@dataclass(frozen=True)
class Watch:
    """Film episodes of a run folder of train.py or distill.py."""

    run: Annotated[Path, tyro.conf.Positional]
    # both: base and base + residual, or teacher and student (whose base and residual are its start's)
    policy: Literal["both", "base", "residual", "student", "expert"] = "both"
    rollouts: int | None = None  # the student of distill.py that saw so many; None: the most
    out: Path = Path("film.mp4")  # or .gif
    episodes: int = 4
    seed: int = 1  # of the initial states
    camera: str | None = None  # close or detail (of the assembly place), front, arm0_wrist; None: by the task


def agents(options: Watch, cfg: Config, env: AssemblyVectorEnv) -> dict[str, Agent]:
    """The policies of a run of train.py to film, by name."""
    if options.policy == "student" or options.rollouts is not None:
        raise ValueError(
            f"{options.run} is a run of train.py; --policy student and --rollouts are distill.py's"
        )
    if options.policy == "expert":
        return {"scripted expert": ExpertAgent(env, options.seed)}
    identity = pipeline.identity(cfg)
    base = load_policy(Path(cfg.start or options.run) / "base" / "policy", identity).freeze()
    chosen: dict[str, Agent] = {}
    if options.policy in ("both", "base"):
        chosen["base"] = ChunkAgent(base, env.num_envs)
    if options.policy in ("both", "residual"):
        last = checkpoint.last_complete(options.run)
        if last is None:
            raise ValueError(f"{options.run} holds no complete checkpoint of a residual; use --policy base")
        residual = load_residual(last, base.normalizer, identity)
        extra = RelativePoses(task_named(cfg.sim.task)) if cfg.features else None
        chosen["base + residual"] = ResidualAgent(
            base, residual, env.num_envs, extra, hold=cfg.ppo.hold_residual
        )
    return chosen


def distilled(options: Watch, cfg: DistillConfig, start: Config, env: AssemblyVectorEnv) -> dict[str, Agent]:
    """The policies of a run of distill.py to film, by name: its teacher, or another one of the state, and a
    student of images."""
    chosen: dict[str, Agent] = {}
    other = cfg.teacher if options.policy == "both" else options.policy
    if other == "base":
        chosen["base"] = ChunkAgent(starts.start_base(cfg.start, start), env.num_envs)
    elif other == "residual":
        chosen["base + residual"] = starts.start_residual(cfg.start, start, env.num_envs)
    elif other == "expert":
        chosen["scripted expert"] = ExpertAgent(env, options.seed)
    if options.policy in ("both", "student"):
        done = [n for n in cfg.episodes if not checkpoint.problem(options.run / f"student-{n}" / "policy")]
        wanted = options.rollouts or max(done, default=0)
        if wanted not in done:
            found = ", ".join(map(str, sorted(done))) or "none"
            raise ValueError(f"{options.run} holds no student of {wanted} rollouts; it holds: {found}")
        folder = options.run / f"student-{wanted}" / "policy"
        policy = load_student(folder, pipeline.identity(start), gpu.device())
        policy.freeze()
        chosen[f"student of images, {wanted} rollouts"] = VisionAgent(policy, env)
    return chosen


def main(arguments: list[str] | None = None) -> None:
    options = tyro.cli(Watch, args=arguments, description=__doc__)
    try:
        if options.episodes < 1:
            raise ValueError(f"--episodes {options.episodes} must be at least 1")
        if options.out.suffix not in (".mp4", ".gif"):
            raise ValueError(f"--out {options.out}: films end in .mp4 or .gif")
        if not (options.run / "config.json").is_file():
            raise ValueError(
                f"{options.run} is not a run folder of train.py or distill.py: it holds no config.json"
            )
        stored = json.loads((options.run / "config.json").read_text(encoding="utf-8"))
        if "teacher" in stored:
            cfg = from_dict(DistillConfig, stored)
            start = starts.start_config(cfg.start)
            env = pipeline.environments(start, options.episodes)
            chosen = distilled(options, cfg, start, env)
        else:
            cfg = from_dict(Config, stored)
            env = pipeline.environments(cfg, options.episodes)
            chosen = agents(options, cfg, env)
        shown = {
            name: videos.film(env, agent, options.seed, range(options.episodes), options.camera)
            for name, agent in chosen.items()
        }
    except (ValueError, ConfigError, NoRendering) as error:
        sys.exit(f"error: {error}")
    frames: videos.Frames = []
    for episode in range(options.episodes):
        row = [
            videos.titled(films[episode][0], f"{name}, episode {episode}", films[episode][1])
            for name, films in shown.items()
        ]
        frames += videos.side_by_side(row)
    for name, films in shown.items():
        print(f"{name}: {sum(success for _, success in films)} of {options.episodes} episodes assembled")
    print(f"film: {videos.write(options.out, frames)}")


if __name__ == "__main__":
    main()
