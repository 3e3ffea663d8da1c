"""Film episodes of a run: base and residual, or teacher and student of images, side by side.

python -m resip_assembly.watch runs/small-seed0                       # 4 held-out episodes to film.mp4
python -m resip_assembly.watch runs/small-seed0 --out film.gif --episodes 2 --seed 7
python -m resip_assembly.watch runs/small-seed0 --policy expert       # what it was taught
python -m resip_assembly.watch runs/small-seed0/best                  # or checkpoint-40: that residual
python -m resip_assembly.watch runs/small-seed0/base/policy           # the base alone
python -m resip_assembly.watch runs/small-distilled-residual-seed0    # a run of distill.py
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

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

# What a checkpoint is, by a key of its config.json; and which script's run, by a key of the run's.
KINDS = {
    "baseline": "a baseline's checkpoint",
    "update": "a checkpoint of cloning",
    "done": "a checkpoint of DAgger",
    "base": "a cloned policy",
}
OTHERS = {"kind": "baseline.py", "dagger_envs": "imitation.py"}


@dataclass(frozen=True)
class Watch:
    """Film episodes of a run folder of train.py or distill.py, or of a checkpoint in one."""

    run: Annotated[Path, tyro.conf.Positional]
    # both: base and base + residual, or teacher and student (whose base and residual are its start's)
    policy: Literal["both", "base", "residual", "student", "expert"] = "both"
    rollouts: int | None = None  # the student of distill.py that saw so many; None: the most
    out: Path = Path("film.mp4")  # or .gif
    episodes: int = 4
    seed: int = 1  # of the initial states
    camera: str | None = None  # close or detail (of the assembly place), front, arm0_wrist; None: by the task


def stored_config(folder: Path) -> dict[str, Any]:
    """config.json of a run or of a checkpoint; empty where there is none."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def located(options: Watch) -> tuple[Watch, Path | None]:
    """The options with the run folder that `options.run` is or lies in, and what a checkpoint implies: the
    folder of its residual, the base alone, or a student. ValueError says what a folder is otherwise."""
    given = options.run.absolute()
    run = next((folder for folder in (given, *given.parents[:3]) if "run" in stored_config(folder)), None)
    if run is None:
        holds = "demonstrations or images" if (given / "card.json").is_file() else "no config.json of a run"
        raise ValueError(
            f"{options.run} is not a run folder of train.py or distill.py, nor in one: it holds {holds}"
        )
    options = replace(options, run=Path(os.path.relpath(run)))
    inside = given.relative_to(run).as_posix()
    if inside == ".":
        return options, None
    if inside in ("base", "base/policy"):
        if options.policy not in ("both", "base"):
            raise ValueError(f"{inside} is the base alone; for --policy {options.policy} give {options.run}")
        return replace(options, policy="base"), None
    if student := re.fullmatch(r"student-(\d+)(/policy)?", inside):
        return replace(options, rollouts=options.rollouts or int(student[1])), None
    if "residual" in stored_config(given):
        return options, given
    what = next((what for key, what in KINDS.items() if key in stored_config(given)), None)
    if what is None and (given / "card.json").is_file():
        what = "demonstrations or images"
    films = [f.name for f in sorted(run.iterdir()) if "residual" in stored_config(f)]
    raise ValueError(
        f"{inside} of the run {options.run} is {what or 'no checkpoint'}, which cannot be filmed; "
        f"these can be: {', '.join(['the run folder', *films, 'base/policy'])}"
    )


def agents(
    options: Watch, cfg: Config, env: AssemblyVectorEnv, chosen_residual: Path | None = None
) -> dict[str, Agent]:
    """The policies of a run of train.py to film, by name; the last residual, unless one is chosen."""
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
        last = chosen_residual or checkpoint.last_complete(options.run)
        if last is None:
            raise ValueError(f"{options.run} holds no complete checkpoint of a residual; use --policy base")
        residual = load_residual(last, base.normalizer, identity)
        extra = RelativePoses(task_named(cfg.sim.task)) if cfg.features else None
        name = "base + residual" if chosen_residual is None else f"base + {last.name}"
        chosen[name] = ResidualAgent(base, residual, env.num_envs, extra, hold=cfg.ppo.hold_residual)
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
        options, residual = located(options)
        stored = stored_config(options.run)
        if script := next((name for key, name in OTHERS.items() if key in stored), None):
            raise ValueError(
                f"{options.run} is a run of {script}, whose policies cannot be filmed; "
                f"the run that it starts from can: {stored.get('start')}"
            )
        if "teacher" in stored:
            cfg = from_dict(DistillConfig, stored)
            start = starts.start_config(cfg.start)
            env = pipeline.environments(start, options.episodes)
            chosen = distilled(options, cfg, start, env)
        else:
            cfg = from_dict(Config, stored)
            env = pipeline.environments(cfg, options.episodes)
            chosen = agents(options, cfg, env, residual)
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
