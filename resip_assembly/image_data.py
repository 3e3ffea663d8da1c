"""Image data sets: a teacher's successful rollouts, rendered with visual domain randomisation (sheet §2.10).

A folder holds card.json, shard-<round>.npz (images uint8, observations, actions, poses of successful
episodes end to end) and a marker that it is complete. Shards are written one by one, and each is a function
of the seed and its number, so an interrupted recording goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from resip_assembly import demos, students
from resip_assembly.config import Simulation
from resip_assembly.demos import HOLD_STEPS
from resip_assembly.env.vector import AssemblyVectorEnv
from resip_assembly.env.vision import Cameras, Looks, camera_names, poses
from resip_assembly.evaluation import Agent
from resip_assembly.progress import Progress
from resip_assembly.vision_encoder import VisionConfig
from shared import checkpoint
from shared.seeding import derive_seed


@dataclass(frozen=True)
class Card:
    """Where the images come from."""

    task: str
    randomness: str
    robot: str
    action_mode: str
    teacher: str
    looks: Looks
    cameras: tuple[str, ...]  # the order of the images' second axis
    height: int
    width: int
    seed: int
    episodes: int
    attempts: int  # episodes the teacher needed; those that failed are not kept
    steps: int
    hold_steps: int = HOLD_STEPS  # kept after success
    licence: str = "Apache-2.0"


@dataclass(frozen=True)
class ImageData:
    """Successful episodes end to end; F frames, C cameras, D observation, A action, E episodes."""

    card: Card
    images: NDArray[np.uint8]  # (F, C, H, W, 3)
    obs: NDArray[np.float32]  # (F, D) the simulator's whole observation; a student sees its robot state only
    actions: NDArray[np.float32]  # (F, A)
    lengths: NDArray[np.int64]  # (E,)

    def first(self, episodes: int) -> ImageData:
        """The first `episodes` of them: a smaller data set lies in every larger one."""
        if not 1 <= episodes <= len(self.lengths):
            raise ValueError(f"episodes={episodes}: the data set has {len(self.lengths)}; need 1 or more")
        end = int(self.lengths[:episodes].sum())
        card = dataclasses.replace(self.card, episodes=episodes, steps=end)
        return ImageData(card, self.images[:end], self.obs[:end], self.actions[:end], self.lengths[:episodes])

    def episodes(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Whole observations and actions of each episode, as a student of the state is cloned from."""
        ends = np.cumsum(self.lengths)[:-1]
        return list(zip(np.split(self.obs, ends), np.split(self.actions, ends), strict=True))


def record(
    folder: Path,
    env: AssemblyVectorEnv,
    agent: Agent,
    teacher: str,
    episodes: int,
    *,
    height: int,
    width: int,
    looks: Looks = "base",
    seed: int = 0,
) -> None:
    """Write `episodes` successful episodes of `agent`, each with a few steps beyond success, to `folder`.

    Args:
        folder: a finished data set is left as it is, an unfinished one goes on.
        env: without autoreset; the result depends on its number of environments.
        agent: the teacher, acting on the whole state.
        teacher: its name, for the card.
        episodes: at least 1.
        height: of the images.
        width: of the images.
        looks: redrawn in every frame; see `env.vision.Cameras`.
        seed: of initial states, the teacher's noise and looks.

    Raises:
        ValueError: `episodes` < 1, or the folder holds other data.
        NoRendering: this machine has no OpenGL.
        RuntimeError: the teacher hardly ever succeeds.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes} must be at least 1")
    names = camera_names(env.task)
    sim = (env.task.name, env.randomness, env.robot, env.action_mode)
    card = Card(*sim, teacher, looks, names, height, width, seed, episodes, 0, 0)
    if (folder / "card.json").is_file() and _wanted(read_card(folder)) != _wanted(card):
        raise ValueError(f"{folder} holds {_wanted(read_card(folder))}, this run wants {_wanted(card)}")
    if checkpoint.problem(folder) is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json_atomic(folder / "card.json", dataclasses.asdict(card))
    cameras = Cameras(env.scene, height, width, looks)
    found = steps = number = 0
    with Progress("images", episodes) as progress:
        while found < episodes:
            if number * env.num_envs >= students.PATIENCE * max(episodes, env.num_envs):
                raise RuntimeError(
                    f"{found} of {number * env.num_envs} attempts of the {teacher} succeeded; use another one"
                )
            shard = folder / f"shard-{number:05d}.npz"
            if not shard.is_file():
                _write_shard(shard, env, agent, cameras, derive_seed(seed, teacher, number), episodes - found)
            with np.load(shard, allow_pickle=False) as arrays:
                found, steps = found + len(arrays["lengths"]), steps + int(arrays["lengths"].sum())
            number += 1
            progress.show(min(found, episodes), f"{number * env.num_envs} attempts")
    cameras.close()
    card = dataclasses.replace(card, attempts=number * env.num_envs, steps=steps)
    checkpoint.write_json_atomic(folder / "card.json", dataclasses.asdict(card))
    checkpoint.mark_complete(folder)


def _write_shard(
    path: Path, env: AssemblyVectorEnv, agent: Agent, cameras: Cameras, seed: int, most: int
) -> None:
    """One round: roll out every environment once, keep at most `most` successes, render them."""
    seed %= 2**31
    torch.manual_seed(seed)  # of the teacher's sampler
    played = demos.play(env, _WithPoses(env, agent), seed)
    kept = [episode for episode in played if episode is not None][:most]
    arrays: dict[str, NDArray] = {"lengths": np.array([len(obs) for obs, _ in kept], np.int64)}
    if kept:
        arrays["obs"], labels = (np.concatenate(column) for column in zip(*kept, strict=True))
        arrays["actions"], arrays["poses"] = np.split(
            labels, [labels.shape[1] - poses(env.simulator).shape[1]], axis=1
        )
        arrays["images"] = np.stack(
            [cameras.images(pose, seed, frame) for frame, pose in enumerate(arrays["poses"])]
        )
    part = path.with_suffix(".part.tmp")
    with open(part, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    part.replace(path)


class _WithPoses:
    """The teacher, with the worlds' poses beside its actions in what `demos.play` keeps."""

    def __init__(self, env: AssemblyVectorEnv, agent: Agent) -> None:
        self.env, self.agent = env, agent
        self.reset = agent.reset

    def act(self, obs: np.ndarray) -> np.ndarray:
        actions = self.agent.act(obs)
        self.labels = np.concatenate([actions, poses(self.env.simulator)], axis=1)
        return actions


def _wanted(card: Card) -> dict[str, object]:
    """What must agree for a data set to be gone on with."""
    return {k: v for k, v in dataclasses.asdict(card).items() if k not in ("attempts", "steps")}


def read_card(folder: Path | str) -> Card:
    stored = json.loads((Path(folder) / "card.json").read_text(encoding="utf-8"))
    return Card(**stored | {"cameras": tuple(stored["cameras"])})


def load(folder: Path | str) -> ImageData:
    """All shards of a finished data set, in main memory (F x C x H x W x 3 bytes); ValueError says what is
    wrong with a folder."""
    folder = Path(folder)
    if reason := checkpoint.problem(folder):
        raise ValueError(f"images {folder} cannot be used: {reason}; record them again")
    card, at = read_card(folder), 0
    images = np.empty((card.steps, len(card.cameras), card.height, card.width, 3), np.uint8)
    others: dict[str, list[NDArray]] = {"obs": [], "actions": [], "lengths": []}
    for path in sorted(folder.glob("shard-*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            if not len(arrays["lengths"]):
                continue
            frames = arrays["images"]
            images[at : at + len(frames)] = frames
            at += len(frames)
            for name, found in others.items():
                found.append(arrays[name])
    obs, actions, lengths = (np.concatenate(others[name]) for name in ("obs", "actions", "lengths"))
    return ImageData(card, images, obs, actions, lengths)


def check(card: Card, sim: Simulation, vision: VisionConfig) -> None:
    """ValueError naming both sides if the images are not of this task, robot, action space or size."""
    for name, there, here in (
        ("task", card.task, sim.task),
        ("robot", card.robot, sim.robot),
        ("action mode", card.action_mode, sim.action_mode),
        ("size", (card.height, card.width), (vision.height, vision.width)),
    ):
        if there != here:
            raise ValueError(f"the images have {name} {there!r}, this run {here!r}; record others")


def joined(parts: list[ImageData]) -> ImageData:
    """Data sets of one task, one after the other (demonstrations and rollouts, §2.10)."""
    arrays = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("images", "obs", "actions", "lengths")
    )
    cards = [part.card for part in parts]
    totals = {k: sum(getattr(c, k) for c in cards) for k in ("episodes", "attempts", "steps")}
    card = dataclasses.replace(cards[0], teacher=" + ".join(c.teacher for c in cards), **totals)
    return ImageData(card, *arrays)
