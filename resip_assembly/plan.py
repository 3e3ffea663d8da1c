"""What a configuration will do, printed before anything runs: sizes, environment steps, memory."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from resip_assembly.behaviour_cloning import build_policy
from resip_assembly.config import Config
from resip_assembly.env import task_named
from resip_assembly.env.vector import ARM_ACTION_DIM, ARM_STATE_DIM
from resip_assembly.normalization import Normalizer
from resip_assembly.relative_features import RelativePoses
from resip_assembly.residual_policy import build_residual

EXPECTED_TIME = {
    "smoke": "under a minute",
    "small": "about 5 minutes on two idle cores",
}


def expected_time(cfg: Config) -> str:
    """How long the preset takes, in words; overridden fields are not taken into account."""
    return EXPECTED_TIME.get(cfg.preset, "not measured here")


def sizes(cfg: Config) -> dict[str, int]:
    """Dimensions, parameters and steps of a configuration; builds the networks without memory."""
    task = task_named(cfg.sim.task)
    obs_dim, action_dim = ARM_STATE_DIM * task.arms + 7 * len(task.parts), ARM_ACTION_DIM * task.arms
    extra = RelativePoses(task).size if cfg.features else 0
    with torch.device("meta"):
        normalizer = Normalizer.empty(obs_dim, action_dim)
        base = build_policy(cfg.base, normalizer)
        residual = build_residual(cfg.residual, obs_dim + extra, normalizer)
    transitions = cfg.sim.num_envs * cfg.ppo.rollout_steps
    row = 4 * (residual.obs_dim + action_dim + residual.residual_dim + 5) + 3  # bytes: z, u, scalars, flags
    return {
        "observation": obs_dim,
        "action": action_dim,
        "residual input": residual.obs_dim + action_dim,
        "base parameters": sum(p.numel() for p in base.parameters()),
        "residual parameters": sum(p.numel() for p in residual.parameters()),
        "transitions per iteration": transitions,
        "environment steps": transitions * cfg.ppo.iterations,
        "buffer MiB": round(transitions * row / 2**20),
    }


def show(cfg: Config) -> None:
    """Print the plan."""
    sim, ppo = cfg.sim, cfg.ppo
    table = Table(title=f"resip_assembly, preset {cfg.preset}", show_header=False)
    rows = {
        "task": f"{sim.task}, randomness {sim.randomness}, robot {sim.robot}, {sim.action_mode} actions",
        "demonstrations": f"{cfg.demos.episodes} from {cfg.demos.folder or 'the scripted expert'}",
        "base policy": f"{cfg.base.kind}, predicts {cfg.base.predict}, executes {cfg.base.execute}; "
        f"{cfg.clone.updates:,} updates x {cfg.clone.batch_size}",
        "residual": f"{cfg.residual.parametrisation}, scale {cfg.residual.residual_scale}, "
        f"log std {cfg.residual.init_logstd}",
        "residual PPO": f"{sim.num_envs:,} environments x {ppo.rollout_steps} steps x {ppo.iterations:,} "
        "iterations",
        "evaluation": f"{cfg.eval.episodes:,} held-out episodes per policy",
        "expected time": expected_time(cfg),
    }
    for name, value in {**rows, **{k: f"{v:,}" for k, v in sizes(cfg).items()}}.items():
        table.add_row(name, value)
    Console().print(table)
