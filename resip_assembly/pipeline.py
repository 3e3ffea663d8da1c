"""Stages that every script shares: demonstrations, the frozen base policy, held-out episodes."""

from __future__ import annotations

from pathlib import Path

import torch

from resip_assembly import behaviour_cloning, demos
from resip_assembly.checkpoints import Identity
from resip_assembly.config import Config
from resip_assembly.demos import Demonstrations
from resip_assembly.diffusion_policy import ChunkPolicy
from resip_assembly.env import make_vector
from resip_assembly.env.vector import AssemblyVectorEnv, Autoreset
from resip_assembly.normalization import Normalizer
from shared import checkpoint, gpu
from shared.runs import Run
from shared.seeding import derive_seed

HELD_OUT = 20_240_716  # seed of the evaluation episodes: the same for every arm and training seed


def identity(cfg: Config) -> Identity:
    """What the policies of this run are for."""
    return Identity(cfg.sim.task, cfg.sim.action_mode, cfg.sim.robot)


def environments(cfg: Config, num_envs: int, autoreset: Autoreset = "disabled") -> AssemblyVectorEnv:
    """`num_envs` environments of the run's task."""
    sim = cfg.sim
    return make_vector(
        sim.task,
        num_envs,
        sim.randomness,
        threads=sim.threads,
        robot=sim.robot,
        action_mode=sim.action_mode,
        max_episode_steps=sim.max_episode_steps,
        autoreset=autoreset,
    )


def demonstrations(cfg: Config, run: Run) -> Demonstrations:
    """Those of `demos.folder`, or recorded once per run. ValueError if they are of another task or robot."""
    sim, folder = cfg.sim, Path(cfg.demos.folder or run.dir / "demonstrations")
    if cfg.demos.folder is None and checkpoint.problem(folder):
        recorded = demos.record(
            sim.task,
            cfg.demos.episodes,
            randomness=sim.randomness,
            robot=sim.robot,
            action_mode=sim.action_mode,
            seed=cfg.run.seed,
            threads=sim.threads,
        )
        demos.save(recorded, folder)
    found = demos.load(folder)
    demos.check(found, sim.task, sim.robot, sim.action_mode)
    return found


def base_policy(cfg: Config, run: Run) -> ChunkPolicy:
    """The frozen base: that of the run `start`, or cloned from demonstrations once per run."""
    device, name = gpu.device(), identity(cfg)
    if cfg.start is not None:
        return behaviour_cloning.load_policy(Path(cfg.start) / "base" / "policy", name, device).freeze()
    folder = run.dir / "base"
    if checkpoint.problem(folder / "policy"):
        taught = demonstrations(cfg, run)
        torch.manual_seed(derive_seed(cfg.run.seed, "base"))
        normalizer = Normalizer.fit(taught.observations, taught.actions)
        policy = behaviour_cloning.build_policy(cfg.base, normalizer).to(device)
        last = checkpoint.last_complete(folder) if run.resumed else None
        where = {"folder": folder, "resume_from": last, "identity": name}
        behaviour_cloning.train(policy, taught.episodes, cfg.clone, cfg.run.seed, **where)
        behaviour_cloning.save_policy(policy, cfg.base, folder / "policy", name)
    return behaviour_cloning.load_policy(folder / "policy", name, device).freeze()
