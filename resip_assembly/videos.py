"""Films: episodes of a policy, and one initial state in which the base fails and the residual succeeds.

An episode is filmed inside the same vector of environments in which it was judged: the film shows that very
episode, the sampler's noise included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from resip_assembly import pipeline
from resip_assembly.config import Config
from resip_assembly.diffusion_policy import ChunkAgent, ChunkPolicy
from resip_assembly.env.rendering import NoRendering, make_renderer, render
from resip_assembly.env.vector import AssemblyVectorEnv
from resip_assembly.evaluation import Agent
from resip_assembly.report import Results
from resip_assembly.residual_policy import Features, ResidualAgent, ResidualPolicy

Frames = list[NDArray[np.uint8]]  # (height, width, 3) each
FPS = 20  # the film runs at twice the speed of the robot (10 Hz)
AFTERWARDS = 10  # frames on which the last image stays
CAMERAS = {"peg_in_hole": ("close", "detail")}  # one above the other; other tasks: "close"
GREEN, RED, GREY = (40, 150, 60), (200, 40, 40), (90, 90, 90)


def film(
    env: AssemblyVectorEnv, agent: Agent, seed: int, envs: Sequence[int], camera: str | None = None
) -> list[tuple[Frames, bool]]:
    """Run one episode of every environment after `reset(seed)`; the frames of the chosen ones, and success.

    `camera` is one of the scene's; None: those of `CAMERAS` for the task. NoRendering if this machine has no
    OpenGL, ValueError for a camera that the scene lacks.
    """
    cameras = (camera,) if camera else CAMERAS.get(env.task.name, ("close",))
    known = [env.scene.model.camera(k).name for k in range(env.scene.model.ncam)]
    if unknown := set(cameras) - set(known):
        raise ValueError(f"unknown camera {unknown.pop()!r} of {env.task.name}; there are {', '.join(known)}")
    renderer = make_renderer(env.scene.model)

    def shot(i: int) -> NDArray[np.uint8]:
        data = env.simulator.data[i]
        return np.concatenate([render(renderer, env.scene.model, data, name) for name in cameras])

    torch.manual_seed(seed)  # as `evaluation.evaluate` does per round
    obs, _ = env.reset(seed=seed)
    agent.reset(np.ones(env.num_envs, bool))
    frames: list[Frames] = [[] for _ in envs]
    running, success = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool)
    while running[list(envs)].any():
        for shots, i in zip(frames, envs, strict=True):
            if running[i]:
                shots.append(shot(i))
        obs, _, terminated, truncated, _ = env.step(agent.act(obs))
        success |= running & terminated
        running &= ~(terminated | truncated)
    for shots, i in zip(frames, envs, strict=True):
        shots.append(shot(i))
    renderer.close()
    return [(shots, bool(success[i])) for shots, i in zip(frames, envs, strict=True)]


def titled(frames: Frames, title: str, success: bool) -> Frames:
    """Each frame under a line of text; the last ones say how it ended."""
    done = []
    for k, frame in enumerate(frames):
        last = k == len(frames) - 1
        image = Image.new("RGB", (frame.shape[1], frame.shape[0] + 20), "white")
        image.paste(Image.fromarray(frame), (0, 20))
        colour = (GREEN if success else RED) if last else GREY
        ending = (": assembled" if success else ": failed") if last else ""
        ImageDraw.Draw(image).text((4, 4), f"{title}{ending}", fill=colour)
        done.append(np.asarray(image))
    return done


def side_by_side(films: Sequence[Frames]) -> Frames:
    """One film of several; a shorter one stays at its last frame."""
    longest = max(map(len, films)) + AFTERWARDS
    padded = [frames + [frames[-1]] * (longest - len(frames)) for frames in films]
    return [np.concatenate(row, axis=1) for row in zip(*padded, strict=True)]


def write(path: Path, frames: Frames) -> Path:
    """An mp4, or a GIF at half the frame rate, as `path` ends; ValueError for another ending."""
    if path.suffix == ".mp4":
        imageio.mimwrite(path, [*frames], fps=FPS, codec="libx264", quality=6, macro_block_size=4)
    elif path.suffix == ".gif":
        images = [
            Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames[::2]
        ]
        images[0].save(path, save_all=True, append_images=images[1:], duration=2000 // FPS, loop=0)
    else:
        raise ValueError(f"{path.name}: films end in .mp4 or .gif")
    return path


def before_and_after(
    cfg: Config,
    base: ChunkPolicy,
    residual: ResidualPolicy,
    extra: Features | None,
    results: Results,
    folder: Path,
) -> list[Path]:
    """before_after.mp4 and .gif: the first held-out episode that the base fails and the residual solves.

    Without such an episode, or without OpenGL, says so and writes nothing: training does not depend on it.
    """
    rescued = np.flatnonzero(results["residual"].success & ~results["base"].success)
    if not len(rescued):
        print("no film: no held-out episode failed with the base and succeeded with the residual")
        return []
    episode = int(rescued[0])
    seed, i = results["base"].seed[episode], results["base"].env[episode]
    env = pipeline.environments(cfg, cfg.eval.num_envs)
    agents = {
        "base": ChunkAgent(base, cfg.eval.num_envs),
        "base + residual": ResidualAgent(
            base, residual, cfg.eval.num_envs, extra, hold=cfg.ppo.hold_residual
        ),
    }
    try:
        shots = {name: film(env, agent, seed, [i])[0] for name, agent in agents.items()}
    except NoRendering as error:
        print(f"no film: {error}")
        return []
    finally:
        env.close()
    both = side_by_side([titled(frames, name, success) for name, (frames, success) in shots.items()])
    paths = [write(folder / f"before_after.{kind}", both) for kind in ("mp4", "gif")]
    print(f"film: {paths[0]}")
    return paths
