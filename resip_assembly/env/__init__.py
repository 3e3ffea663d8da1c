"""MuJoCo assembly simulator: the paper's tasks with primitives (sheet §3), as vector and single environments.

Importing `resip_assembly` registers `resip_assembly/OneLeg-v0`, `RoundTable-v0`, `Lamp-v0`, `MugRack-v0`,
`PegInHole-v0`, `BimanualInsertion-v0` and `OneLegInsert-v0` with gymnasium.
"""

from __future__ import annotations

from typing import Any

from resip_assembly.env import opengl  # noqa: F401, first: it imports MuJoCo in the way that always works
from resip_assembly.env.simulation import Threads
from resip_assembly.env.single import AssemblyEnv
from resip_assembly.env.tasks import TASKS, Task, task_named
from resip_assembly.env.vector import AssemblyVectorEnv

__all__ = ["TASKS", "AssemblyEnv", "AssemblyVectorEnv", "Task", "make_vector", "task_named"]


def make_vector(
    task: str,
    num_envs: int,
    randomness: str = "low",
    seed: int = 0,
    threads: Threads = None,
    **options: Any,
) -> AssemblyVectorEnv:
    """N environments of `task`, stepped in native threads (None: one per core) or, `threads` being "warp", by
    MuJoCo Warp on CUDA. `options` are `AssemblyVectorEnv`'s robot, action_mode, max_episode_steps and
    autoreset. ValueError names what there is for an unknown task, level, robot or mode."""
    return AssemblyVectorEnv(task, num_envs, randomness, seed, threads, **options)
