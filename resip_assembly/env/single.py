"""One environment with the plain gymnasium interface: a vector environment of one."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from resip_assembly.env import rendering
from resip_assembly.env.scenes import CONTROL_STEP_S
from resip_assembly.env.vector import AssemblyVectorEnv


class AssemblyEnv(gymnasium.Env):
    """`options` are `AssemblyVectorEnv`'s randomness, seed, robot and action_mode.

    Episode e after `reset(seed=s)` starts exactly as environment 0 of `make_vector(task, n, seed=s)` does;
    without any seed the first reset draws one, so that copies differ. `episode_steps` replaces the task's
    time limit: `gymnasium.make` keeps `max_episode_steps` for a wrapper, which can only end episodes sooner,
    and without a truncation_reason.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": round(1 / CONTROL_STEP_S),
    }

    def __init__(
        self, task: str, render_mode: str | None = None, episode_steps: int | None = None, **options: Any
    ) -> None:
        if episode_steps is not None:
            if "max_episode_steps" in options:
                raise ValueError("episode_steps and max_episode_steps mean the same here; give episode_steps")
            if episode_steps < 1:
                raise ValueError(f"episode_steps={episode_steps} must be at least 1")
            options["max_episode_steps"] = episode_steps
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}; there is rgb_array")
        self.render_mode = render_mode
        self.vector = AssemblyVectorEnv(task, 1, threads=1, autoreset="disabled", **options)
        self.task = self.vector.task
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self._renderer = None
        self._seeded = "seed" in options

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        if options:
            raise ValueError(f"unknown reset option {next(iter(options))!r}; a single environment has none")
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**31))
        self._seeded = True
        obs, info = self.vector.reset(seed=seed)
        return obs[0], _first(info)

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def render(self) -> NDArray[np.uint8] | None:
        """(240, 320, 3) image of the front camera; None without render_mode="rgb_array"."""
        if self.render_mode is None:
            return None
        model = self.vector.scene.model
        if self._renderer is None:
            self._renderer = rendering.make_renderer(model)
        return rendering.render(self._renderer, model, self.vector.simulator.data[0])

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.vector.close()


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {name: value[0] for name, value in info.items()}
