"""What a run takes over from the run folder it starts from: configuration, policies, evaluations."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from resip_assembly import behaviour_cloning, pipeline
from resip_assembly.config import BaselineConfig, Config, ImitationConfig
from resip_assembly.diffusion_policy import ChunkPolicy
from resip_assembly.env import task_named
from resip_assembly.relative_features import RelativePoses
from resip_assembly.report import Results
from resip_assembly.residual_policy import ResidualAgent, load_residual
from shared import checkpoint, gpu
from shared.config import ConfigError, from_dict

Started = TypeVar("Started", BaselineConfig, ImitationConfig)


def start_config(folder: Path | str) -> Config:
    """The configuration of a finished run of train.py; ValueError says what is wrong with the folder."""
    folder = Path(folder)
    try:
        cfg = from_dict(Config, json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ConfigError) as error:
        raise ValueError(f"--start {folder} is not a run folder of train.py: {error}") from error
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"the run {folder} is not finished; go on with its --run.resume first")
    return cfg


def start_base(folder: Path | str, cfg: Config) -> ChunkPolicy:
    """The frozen base of the run `folder` with configuration `cfg`."""
    where = Path(cfg.start or folder) / "base" / "policy"
    return behaviour_cloning.load_policy(where, pipeline.identity(cfg), gpu.device()).freeze()


def start_residual(folder: Path | str, cfg: Config, num_envs: int) -> ResidualAgent:
    """Base plus last residual, mean action; ValueError if the run trained none."""
    base, last = start_base(folder, cfg), checkpoint.last_complete(folder, on_skip=lambda line: None)
    if last is None:
        raise ValueError(f"{folder} holds no residual (ppo.iterations={cfg.ppo.iterations}); start elsewhere")
    residual = load_residual(last, base.normalizer, pipeline.identity(cfg))
    extra = RelativePoses(task_named(cfg.sim.task)) if cfg.features else None
    return ResidualAgent(base, residual, num_envs, extra, hold=cfg.ppo.hold_residual)


def adopt(results: Results, folder: Path | str, cfg: Config, names: tuple[str, ...]) -> None:
    """Take over evaluations `names` of the run `folder`, if they are of the episodes of `cfg`: evaluation is
    a function of policy and episode seeds, so nothing would come out differently."""
    there = start_config(folder)
    stepping = [c.sim.threads if isinstance(c.sim.threads, str) else None for c in (there, cfg)]
    sims = [replace(c.sim, num_envs=1, threads=how) for c, how in zip((there, cfg), stepping, strict=True)]
    counts = [(c.eval.episodes, c.eval.num_envs) for c in (there, cfg)]
    if sims[0] == sims[1] and counts[0] == counts[1]:
        found = Results(Path(folder) / "evaluations")
        for name in names:
            if name in found and name not in results:
                results[name] = found[name]


def named(cfg: Started, what: str) -> Started:
    """`cfg` with a run folder of its own by default: ``<preset>-<what>-seed<seed>``."""
    name = cfg.run.name or f"{cfg.preset}-{what}-seed{cfg.run.seed}"
    return replace(cfg, run=replace(cfg.run, name=name))


def executing(policy: ChunkPolicy, steps: int) -> ChunkPolicy:
    """The same policy, re-planning every `steps` steps; weights are shared."""
    short = copy.copy(policy)
    short.execute = steps
    return short
