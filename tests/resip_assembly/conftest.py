"""A small numpy vector env with the simulator's interface, so that the learners are tested without MuJoCo."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from resip_assembly.diffusion_policy import ChunkPolicy
from resip_assembly.normalization import MinMax, Normalizer

REACH = 0.05
MAX_STEP = 0.15


class PointReach(gym.vector.VectorEnv):
    """A point [x, y] follows absolute targets, at most 0.15 per step; +1 within 5 cm of a goal, 20 steps."""

    limit = 20

    def __init__(self, num_envs: int, autoreset: str = "same_step") -> None:
        self.num_envs = num_envs
        modes = {"same_step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}
        self.metadata = {"autoreset_mode": modes[autoreset]}
        self.single_observation_space = gym.spaces.Box(-2, 2, (4,), np.float32)
        self.single_action_space = gym.spaces.Box(-2, 2, (2,), np.float32)
        self.point, self.goal = np.zeros((num_envs, 2)), np.zeros((num_envs, 2))
        self.steps, self.episode = np.zeros(num_envs, int), np.zeros(num_envs, int)
        self.done, self.seed = np.zeros(num_envs, bool), 0
        self.calls = 0
        self.breaks: dict[tuple[int, int], str] = {}  # (call of step, env) -> truncation_reason

    def reset(self, *, seed=None, options=None):
        mask = np.ones(self.num_envs, bool)
        if options is not None:
            mask = options["reset_mask"]
        if seed is not None:
            self.seed, self.episode[:] = seed, 0
        self._start(mask)
        return self._obs(), {}

    def _start(self, mask):
        for i in np.flatnonzero(mask):
            rng = np.random.default_rng([self.seed, i, self.episode[i]])
            self.point[i], self.goal[i] = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2)
        self.episode[mask] += 1
        self.steps[mask], self.done[mask] = 0, False

    def _obs(self):
        return np.concatenate([self.point, self.goal], 1).astype(np.float32)

    def step(self, actions):
        self.calls += 1
        assert actions.dtype == np.float32
        assert actions.shape == (self.num_envs, 2)
        move = actions - self.point
        distance = np.linalg.norm(move, axis=1, keepdims=True)
        self.point += move * np.minimum(1, MAX_STEP / np.maximum(distance, 1e-9))
        self.steps += 1
        inside = np.linalg.norm(self.point - self.goal, axis=1) < REACH
        reward = (inside & ~self.done).astype(np.float32)
        self.done |= inside
        terminated, truncated = self.done.copy(), ~self.done & (self.steps >= self.limit)
        reason = np.where(truncated, "time limit", "").astype(object)
        for (
            call,
            i,
        ), why in self.breaks.items():  # the simulator gives up this world at this call, and stays
            stays = self.metadata["autoreset_mode"] == AutoresetMode.DISABLED and call < self.calls
            if call == self.calls or stays:
                terminated[i], truncated[i], reason[i] = False, True, why
        info = {"success": terminated.copy(), "truncation_reason": reason}
        if self.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP:
            info["final_obs"] = self._obs()
            self._start(terminated | truncated)
        return self._obs(), reward, terminated, truncated, info

    def state(self):
        names = ("point", "goal", "steps", "episode", "done", "seed")
        return {name: np.array(getattr(self, name)) for name in names}

    def set_state(self, state):
        for name, value in state.items():
            setattr(self, name, value.copy())
        self.seed = int(state["seed"])


class BiasedBase(ChunkPolicy):
    """Goes to the goal plus an offset that misses it."""

    def __init__(self, bias: float = 0.13, predict: int = 6, execute: int = 4) -> None:
        unit = [MinMax(torch.zeros(n), torch.ones(n)) for n in (4, 2)]
        super().__init__(Normalizer(*unit), predict, execute)
        self.bias = torch.tensor([bias, 0.0])
        self.rows: list[int] = []

    def predict_chunk(self, obs: Tensor, previous: Tensor | None = None) -> Tensor:
        self.rows.append(len(obs))
        return (obs[:, 2:] + self.bias)[:, None].expand(-1, self.predict, -1).clone()


def demonstrations(episodes: int, seed: int = 0, bias: float = 0.0):
    """(obs, actions) of a scripted expert that aims straight at the goal."""
    env, found = PointReach(1, "disabled"), []
    for e in range(episodes):
        obs, _ = env.reset(seed=seed + e)
        states, actions, done = [], [], False
        while not done:
            direction = obs[0, 2:] - obs[0, :2]
            near = obs[0, :2] + direction * min(1, MAX_STEP / np.linalg.norm(direction))
            action = (near + np.array([bias, 0])).astype(np.float32)
            states.append(obs[0])
            actions.append(action)
            obs, _, terminated, truncated, _ = env.step(action[None])
            done = terminated[0] or truncated[0]
        found.append((np.array(states), np.array(actions)))
    return found


@dataclasses.dataclass
class Toy:
    """What the tests of this folder share (test folders are no packages)."""

    PointReach = PointReach
    BiasedBase = BiasedBase
    demonstrations = staticmethod(demonstrations)


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
