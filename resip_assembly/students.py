"""Data for students: successful rollouts of any policy, and DAgger with ResiP as the teacher (sheet §2.9)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from resip_assembly import behaviour_cloning, checkpoints, demos
from resip_assembly.behaviour_cloning import CloneConfig
from resip_assembly.checkpoints import Identity
from resip_assembly.demos import Card, Demonstrations, Episode, Hopeless, play
from resip_assembly.diffusion_policy import ChunkAgent, ChunkPolicy
from resip_assembly.env.vector import AssemblyVectorEnv
from resip_assembly.evaluation import Agent
from resip_assembly.progress import Progress
from resip_assembly.residual_policy import ResidualAgent
from shared import checkpoint
from shared.seeding import derive_seed

PATIENCE = 20  # attempts per wanted episode before a policy counts as hopeless
BETA_START, BETA_STEP, BETA_FLOOR = 0.95, 0.1, 0.5  # §2.9; the first two rounds are the teacher's alone
BETA_LOWERED_ABOVE = 0.8  # of the first round's success


def record(env: AssemblyVectorEnv, agent: Agent, what: str, episodes: int, seed: int) -> Demonstrations:
    """`episodes` successful episodes of `agent` with HOLD_STEPS after success; `env` without autoreset.

    A function of (env, agent, seed). Hopeless if fewer than one in PATIENCE attempts succeeds.
    """
    found: list[Episode] = []
    attempts = 0
    with Progress(f"{what} rollouts", episodes) as progress:
        while len(found) < episodes:
            if attempts >= PATIENCE * max(episodes, env.num_envs):
                raise Hopeless(
                    f"{len(found)} of {attempts} {what} rollouts succeeded; {episodes} are asked for: "
                    "train the policy better, or ask for fewer; none was saved"
                )
            round_seed = derive_seed(seed, "rollouts", attempts) % 2**31
            torch.manual_seed(round_seed)
            found += [episode for episode in play(env, agent, round_seed) if episode is not None]
            attempts += env.num_envs
            progress.show(min(len(found), episodes), f"{attempts} attempts")
    return as_demonstrations(env, found[:episodes], seed, attempts, what)


def as_demonstrations(
    env: AssemblyVectorEnv, episodes: list[Episode], seed: int, attempts: int, what: str
) -> Demonstrations:
    """With a card that says where they come from."""
    made = (env.task.name, env.randomness, env.robot, env.action_mode, seed, len(episodes), attempts)
    return Demonstrations(Card(*made, sum(len(obs) for obs, _ in episodes), f"rollouts: {what}"), episodes)


class Labeller:
    """Teacher and student at once (`evaluation.Agent`): in each environment and step the teacher's action is
    executed with probability `beta`, else the student's; `labels` (N, A) are the teacher's."""

    def __init__(self, teacher: Agent, student: Agent, beta: float, seed: int) -> None:
        self.teacher, self.student, self.beta = teacher, student, beta
        self._rng = np.random.default_rng(seed)

    def reset(self, mask: np.ndarray) -> None:
        self.teacher.reset(mask)
        self.student.reset(mask)

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.labels = self.teacher.act(obs)
        teach = self._rng.random((len(obs), 1)) < self.beta
        return np.where(teach, self.labels, self.student.act(obs))


def dagger(
    env: AssemblyVectorEnv,
    teacher: ResidualAgent,
    student: ChunkPolicy,
    clone: CloneConfig,
    episodes: int,
    seed: int,
    folder: Path,
    identity: Identity,
) -> None:
    """Train `student` in place until `episodes` successful episodes are labelled (§2.9).

    Rounds of one episode per environment; after each the student trains on all kept episodes, with `clone`'s
    updates shared out over the rounds that `episodes` needs. A killed run goes on from its last round.

    Raises:
        Hopeless: fewer than one in PATIENCE episodes succeeds.
        FloatingPointError: the student's loss is not finite.
    """
    n, rounds = env.num_envs, -(-episodes // env.num_envs)
    updates = max(1, clone.updates // rounds)
    each = replace(clone, updates=updates, warmup=min(clone.warmup, updates // 4), test_every=updates)
    kept: list[Episode] = []
    done, beta, reference = 0, BETA_START, 0.0
    if last := checkpoint.last_complete(folder):
        state = checkpoints.load_config(last, identity)
        done, beta, reference = (state[name] for name in ("done", "beta", "reference"))
        student.load_state_dict(checkpoints.load_state(last, "student"))
        kept = demos.load(last.with_name(f"labelled-{done}")).episodes
    while len(kept) < episodes:
        if done >= PATIENCE * rounds:
            raise Hopeless(
                f"{len(kept)} of {done * n} DAgger episodes succeeded; the teacher is too weak; "
                f"{checkpoints.kept(folder)}"
            )
        now = derive_seed(seed, "dagger", done) % 2**31
        torch.manual_seed(now)
        mixture = Labeller(teacher, ChunkAgent(student.eval(), n), 1.0 if done < 2 else beta, now)
        found = [episode for episode in play(env, mixture, now) if episode is not None]
        kept, done, reference = kept + found, done + 1, reference or len(found) / n
        if done > 2 and len(found) / n > BETA_LOWERED_ABOVE * reference:
            beta = max(BETA_FLOOR, beta - BETA_STEP)
        if not kept:
            continue
        try:
            behaviour_cloning.train(student, kept, each, now)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {checkpoints.kept(folder)}") from error
        demos.save(as_demonstrations(env, kept, now, done * n, "DAgger"), folder / f"labelled-{done}")
        state = {"done": done, "beta": beta, "reference": reference}
        checkpoints.save(folder / f"checkpoint-{done}", identity, state, {"student": student.state_dict()})
