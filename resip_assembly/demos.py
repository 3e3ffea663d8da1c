"""Demonstrations: record them with the scripted experts, look at them, export them (sheet §2.2).

    python -m resip_assembly.demos record runs/demos/one_leg --task one_leg     # 50 successful episodes
    python -m resip_assembly.demos inspect runs/demos/one_leg                   # card, lengths, paths.png
    python -m resip_assembly.demos export runs/demos/one_leg --out one_leg.parquet

A folder holds card.json, arrays.npz (all episodes' steps end to end) and a marker that it is complete.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env import make_vector
from resip_assembly.env.simulation import Threads
from resip_assembly.env.vector import ARM_ACTION_DIM, ARM_STATE_DIM, AssemblyVectorEnv
from resip_assembly.evaluation import Agent
from resip_assembly.experts import ScriptedExpert, to_delta
from resip_assembly.progress import Progress
from shared import checkpoint
from shared.seeding import derive_seed

Episode = tuple[NDArray[np.float32], NDArray[np.float32]]  # observations (L, D) and actions (L, A)
HOLD_STEPS = 8  # recorded after success: without them a chunked policy drifts away when it misses (§7.1)
Robot = Literal["floating", "panda"]
Randomness = Literal["low", "med", "high"]
ActionMode = Literal["absolute", "delta"]


class Hopeless(RuntimeError):
    """Episodes are recorded until enough succeed, and hardly any does."""


@dataclass(frozen=True)
class Card:
    """Where demonstrations come from."""

    task: str
    randomness: str
    robot: str
    action_mode: str
    seed: int
    episodes: int
    attempts: int  # episodes the expert needed; those that failed are not kept
    steps: int
    expert: str = "scripted, with human-like noise (resip_assembly/experts.py)"
    licence: str = "Apache-2.0"


@dataclass(frozen=True)
class Demonstrations:
    """Successful episodes: raw observations (L, D) and actions (L, A) each, float32."""

    card: Card
    episodes: list[Episode]

    @property
    def observations(self) -> NDArray[np.float32]:
        """All steps, (sum of L, D)."""
        return np.concatenate([obs for obs, _ in self.episodes])

    @property
    def actions(self) -> NDArray[np.float32]:
        """All steps, (sum of L, A)."""
        return np.concatenate([actions for _, actions in self.episodes])

    @property
    def lengths(self) -> list[int]:
        return [len(obs) for obs, _ in self.episodes]


def record(
    task: str,
    episodes: int = 50,
    *,
    randomness: str = "low",
    robot: Robot = "floating",
    action_mode: ActionMode = "absolute",
    seed: int = 0,
    num_envs: int = 16,
    threads: Threads = None,
) -> Demonstrations:
    """`episodes` successful episodes of the scripted expert, each with a few steps of holding at its end.

    A function of (task, randomness, robot, seed, num_envs): initial states and the expert's noise are seeded.

    Raises:
        ValueError: fewer than one episode, an unknown task, robot or level.
        Hopeless: the expert succeeds in less than a fifth of its attempts.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes} must be at least 1; the paper has 50 per task")
    env = make_vector(task, num_envs, randomness, threads=threads, robot=robot, autoreset="disabled")
    found: list[Episode] = []
    attempts = 0
    with Progress("demonstrations", episodes) as progress:
        while len(found) < episodes:
            if attempts >= 5 * max(episodes, num_envs):
                raise Hopeless(
                    f"{len(found)} of {attempts} attempts at {task} succeeded; is it solvable? "
                    "no demonstrations were saved"
                )
            round_seed = derive_seed(seed, "demonstrations", attempts) % 2**31
            played = play(env, ExpertAgent(env, round_seed), round_seed)
            found += [episode for episode in played if episode is not None]
            attempts += num_envs
            progress.show(min(len(found), episodes), f"{attempts} attempts")
    env.close()
    kept = found[:episodes]
    if action_mode == "delta":
        kept = [(obs, as_delta(obs, actions)) for obs, actions in kept]
    steps = sum(len(obs) for obs, _ in kept)
    return Demonstrations(Card(task, randomness, robot, action_mode, seed, episodes, attempts, steps), kept)


def play(env: AssemblyVectorEnv, agent: Agent, seed: int) -> list[Episode | None]:
    """An episode per environment, HOLD_STEPS beyond success; None for a failed one. What is kept of a step is
    the action, or the agent's `labels`."""
    n = env.num_envs
    obs, _ = env.reset(seed=seed)
    agent.reset(np.ones(n, bool))
    history: list[Episode] = []
    since, last = np.full(n, -1), np.zeros(n, int)  # steps since success; length of the episode to keep
    failed = np.zeros(n, bool)
    while not (failed | (since >= HOLD_STEPS)).all():
        actions = agent.act(obs)
        history.append((obs, getattr(agent, "labels", actions)))
        obs, _, terminated, truncated, _ = env.step(actions)
        since[since >= 0] += 1
        since[(since < 0) & terminated & ~failed] = 0
        failed |= truncated & (since < 0)
        last[since == HOLD_STEPS] = len(history)
    states, acts = (np.stack([step[k] for step in history], axis=1) for k in (0, 1))
    return [None if failed[i] else (states[i, : last[i]], acts[i, : last[i]]) for i in range(n)]


def as_delta(obs: NDArray[np.float32], actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Absolute targets (L, 10 per arm) as deltas from the measured hand poses in obs (L, D)."""
    arms = actions.shape[-1] // ARM_ACTION_DIM
    hands = obs[:, : arms * ARM_STATE_DIM].reshape(len(obs), arms, ARM_STATE_DIM)
    return to_delta(actions, hands[..., :3], rotations.rot6d_to_quat_wxyz(hands[..., 3:9]))


class ExpertAgent:
    """The scripted expert as an `evaluation.Agent`, in the action space of `env`."""

    def __init__(self, env: AssemblyVectorEnv, seed: int) -> None:
        self.expert = ScriptedExpert(env, seed)

    def reset(self, mask: np.ndarray) -> None:
        self.expert.reset(mask)

    def act(self, obs: np.ndarray) -> np.ndarray:
        return self.expert.act(obs, {})


def check(demonstrations: Demonstrations, task: str, robot: str, action_mode: str) -> None:
    """ValueError naming both sides if the demonstrations are of another task, robot or action space."""
    card = demonstrations.card
    for name, there, here in (
        ("task", card.task, task),
        ("robot", card.robot, robot),
        ("action mode", card.action_mode, action_mode),
    ):
        if there != here:
            raise ValueError(f"the demonstrations have {name} {there!r}, this run {here!r}; record others")


def save(demonstrations: Demonstrations, folder: Path) -> None:
    """Write the folder; an existing one is replaced only when the new one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json_atomic(folder / "card.json", dataclasses.asdict(demonstrations.card))
    part = folder / "arrays.part.npz"
    np.savez_compressed(
        part,
        obs=demonstrations.observations,
        actions=demonstrations.actions,
        lengths=np.array(demonstrations.lengths),
    )
    part.replace(folder / "arrays.npz")
    checkpoint.mark_complete(folder)


def load(folder: Path | str) -> Demonstrations:
    """Read a folder; ValueError says what is wrong with it."""
    folder = Path(folder)
    if reason := checkpoint.problem(folder):
        raise ValueError(f"demonstrations {folder} cannot be used: {reason}; record them again")
    card = Card(**json.loads((folder / "card.json").read_text(encoding="utf-8")))
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["lengths"])[:-1]
        pairs = zip(np.split(arrays["obs"], ends), np.split(arrays["actions"], ends), strict=True)
        return Demonstrations(card, list(pairs))


# ---- command line


@dataclass(frozen=True)
class Record:
    """Record successful episodes of the scripted expert."""

    folder: Annotated[Path, tyro.conf.Positional]
    task: str = "peg_in_hole"
    episodes: int = 50
    randomness: Randomness = "low"
    robot: Robot = "floating"
    action_mode: ActionMode = "absolute"
    seed: int = 0

    def run(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty; choose another folder")
        options = {"randomness": self.randomness, "robot": self.robot, "seed": self.seed}
        found = record(self.task, self.episodes, action_mode=self.action_mode, **options)
        save(found, self.folder)
        _describe(found)


@dataclass(frozen=True)
class Inspect:
    """Print the card and the lengths; draw the paths of hand and parts (paths.png)."""

    folder: Annotated[Path, tyro.conf.Positional]

    def run(self) -> None:
        found = load(self.folder)
        _describe(found)
        print(f"drawn: {draw(found, self.folder / 'paths.png')}")


@dataclass(frozen=True)
class Export:
    """One row per step to a Parquet or CSV file: episode, step, observation, action."""

    folder: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("demonstrations.parquet")

    def run(self) -> None:
        from datasets import Dataset

        if self.out.suffix not in (".parquet", ".csv"):
            raise ValueError(f"--out {self.out}: the name must end in .parquet or .csv")
        found = load(self.folder)
        rows = {
            "episode": np.repeat(np.arange(len(found.lengths)), found.lengths),
            "step": np.concatenate([np.arange(n) for n in found.lengths]),
            "observation": list(found.observations),
            "action": list(found.actions),
        }
        table = Dataset.from_dict(rows)
        table.to_parquet(self.out) if self.out.suffix == ".parquet" else table.to_csv(self.out)
        print(f"{len(table)} steps of {found.card.episodes} episodes: {self.out}")


def _describe(found: Demonstrations) -> None:
    card, lengths = found.card, found.lengths
    for name, value in dataclasses.asdict(card).items():
        print(f"{name:<12} {value}")
    print(f"expert       {card.episodes} kept of {card.attempts} attempts")
    print(f"length       {min(lengths)} to {max(lengths)} steps of 0.1 s, median {np.median(lengths):.0f}")


def draw(found: Demonstrations, path: Path) -> Path:
    """Top and side view of the hand's paths, m, robot-base frame."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for obs, _ in found.episodes:
        for axis, (a, b) in zip(axes, ((1, 0), (1, 2)), strict=True):
            axis.plot(obs[:, a], obs[:, b], lw=0.6, alpha=0.5, color="tab:blue")
            axis.plot(obs[-1, a], obs[-1, b], ".", ms=4, color="tab:red")
    for axis, title, height in zip(axes, ("from above", "from the side"), ("x", "z"), strict=True):
        axis.set(title=title, xlabel="y [m]", ylabel=f"{height} [m]", aspect="equal")
    figure.suptitle(f"{found.card.task}, {found.card.randomness}: {found.card.episodes} demonstrations")
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def main(arguments: list[str] | None = None) -> None:
    command = tyro.cli(Record | Inspect | Export, args=arguments, description=__doc__)  # type: ignore[arg-type]
    try:
        command.run()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
