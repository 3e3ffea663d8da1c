"""Control steps per second of our vector environment, of gymnasium's, and of bare `mj_step`.

64 environments of one_leg, from reset to the insertion, driven by what the scripted expert did there. The
ceiling is `mj_step` alone in native threads: the same initial states and the same recorded controls, nothing
observed. gymnasium's AsyncVectorEnv and SyncVectorEnv hold our single environment. All sides take turns in
one process. Then the memory of 256 environments (on a machine without a GPU), and the share of the base
policy's inference in the wall time of residual PPO's rollouts. Prints `ratio: X`, medians of the rounds'.

    python benchmarks/sim.py [--task one_leg] [--envs 64] [--steps 50] [--rounds 5] [--threads 2] [--record]
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import _records
import gymnasium
import mujoco
import numpy as np
import torch
from _memory import peak_mib
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from resip_assembly.behaviour_cloning import build_policy
from resip_assembly.config import PRESETS
from resip_assembly.demos import ExpertAgent
from resip_assembly.env import make_vector, task_named
from resip_assembly.env.scenes import SUBSTEPS
from resip_assembly.env.simulation import STATE
from resip_assembly.env.single import AssemblyEnv
from resip_assembly.env.vector import AssemblyVectorEnv
from resip_assembly.normalization import Normalizer
from resip_assembly.relative_features import RelativePoses
from resip_assembly.residual_policy import build_residual
from resip_assembly.residual_rollouts import Collector
from shared import gpu

SEED = 0
Step = Callable[[np.ndarray], Any]


def expert_actions(envs: list[AssemblyVectorEnv], seeds: list[int], steps: int) -> np.ndarray:
    """(T, N, A): what the expert does from `reset(seed)` in each of the vectors, side by side."""
    columns = []
    for env, seed in zip(envs, seeds, strict=True):
        obs, _ = env.reset(seed=seed)
        expert = ExpertAgent(env, seed)
        rows = []
        for _ in range(steps):
            rows.append(expert.act(obs))
            obs = env.step(rows[-1])[0]
        columns.append(np.stack(rows))
    return np.concatenate(columns, axis=1)


class Ceiling:
    """The recorded episode again: write mocap poses and controls, call `mj_step`, read nothing."""

    def __init__(self, env: AssemblyVectorEnv, actions: np.ndarray) -> None:
        simulator = env.simulator
        self.model, self.threads = env.scene.model, simulator.threads
        env.reset(seed=SEED)
        self.initial = simulator.get_state()
        self.controls: list[list[tuple[np.ndarray, ...]]] = []
        for action in actions:
            env.step(action)
            self.controls.append(
                [(d.ctrl.copy(), d.mocap_pos.copy(), d.mocap_quat.copy()) for d in simulator.data]
            )
        self.data = [mujoco.MjData(self.model) for _ in simulator.data]
        self.pool = ThreadPoolExecutor(self.threads)
        self.at = 0

    def reset(self) -> None:
        for data, state in zip(self.data, self.initial, strict=True):
            mujoco.mj_resetData(self.model, data)
            mujoco.mj_setState(self.model, data, state, STATE)
        self.at = 0

    def step(self, action: np.ndarray) -> None:
        blocks = np.array_split(np.arange(len(self.data)), min(len(self.data), 4 * self.threads))
        list(self.pool.map(self._advance, blocks))
        self.at += 1

    def _advance(self, worlds: np.ndarray) -> None:
        controls = self.controls[self.at]
        for i in worlds:
            data = self.data[i]
            data.ctrl[:], data.mocap_pos[:], data.mocap_quat[:] = controls[i]
            mujoco.mj_step(self.model, data, SUBSTEPS)


def seconds(reset: Callable[[], Any], step: Step, actions: np.ndarray) -> float:
    """Of all steps; the reset before them is not counted."""
    reset()
    began = time.perf_counter()
    for action in actions:
        step(action)
    return time.perf_counter() - began


def inference_share(cfg_name: str, env: AssemblyVectorEnv, steps: int) -> tuple[float, float]:
    """(seconds in `predict_chunk`, seconds of the whole rollout) of one iteration of residual PPO."""
    cfg = PRESETS[cfg_name]
    obs, _ = env.reset(seed=SEED)
    actions = ExpertAgent(env, SEED).act(obs)
    normalizer = Normalizer.fit(obs, actions)
    torch.manual_seed(SEED)
    base = build_policy(cfg.base, normalizer).to(gpu.device()).freeze()
    extra = RelativePoses(env.task)
    residual = build_residual(cfg.residual, base.obs_dim + extra.size, base.normalizer)
    spent, predict = [0.0], base.predict_chunk

    def timed(*inputs: Any) -> Any:
        began = time.perf_counter()
        found = predict(*inputs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent[0] += time.perf_counter() - began
        return found

    base.predict_chunk = timed  # type: ignore[method-assign]
    collector = Collector(env, base, steps, extra)
    collector.reset(SEED)
    began = time.perf_counter()
    collector.collect(residual)
    return spent[0], time.perf_counter() - began


def build_and_step(task: str, num_envs: int, threads: int) -> None:
    env = make_vector(task, num_envs, threads=threads)
    obs, _ = env.reset(seed=SEED)
    expert = ExpertAgent(env, SEED)
    for _ in range(3):
        obs = env.step(expert.act(obs))[0]
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--task", default="one_leg")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, default=50, help="control steps per round; no episode ends in 50"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--record", action="store_true", help="append the figures to benchmarks/results")
    options = parser.parse_args()
    began, n, threads = time.monotonic(), options.envs, options.threads
    torch.set_num_threads(threads)

    # processes first: a fork after threads have started would copy their locks
    single = partial(gymnasium.make, f"resip_assembly/{task_named(options.task).env_id}-v0")
    off = AutoresetMode.DISABLED
    vectors: dict[str, AsyncVectorEnv | SyncVectorEnv] = {
        "async": AsyncVectorEnv([single] * n, context="fork", autoreset_mode=off),
        "sync": SyncVectorEnv([single] * n, autoreset_mode=off),
    }
    ours = make_vector(options.task, n, threads=threads, autoreset="disabled")

    seeds: list[Any] = [SEED + i for i in range(n)]
    alone = AssemblyEnv(options.task)
    theirs = expert_actions([alone.vector] * n, seeds, options.steps)
    alone.close()
    actions = expert_actions([ours], [SEED], options.steps)
    ceiling = Ceiling(ours, actions)
    sides: dict[str, tuple[Callable[[], Any], Step, np.ndarray]] = {
        "ours": (partial(ours.reset, seed=SEED), ours.step, actions),
        "ceiling": (ceiling.reset, ceiling.step, actions),
        **{name: (partial(env.reset, seed=seeds), env.step, theirs) for name, env in vectors.items()},
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(options.rounds + 1):  # the first turn warms up
        for side in list(sides)[:: 1 if turn % 2 else -1]:
            rate = n * options.steps / seconds(*sides[side])
            if turn:
                rates[side].append(rate)
    for env in (*vectors.values(), ours):
        env.close()

    print(f"{options.task}, {n} environments, {gpu.hardware()}, {threads} threads")
    goals = {"ceiling": 0.85, "async": 2.0, "sync": None}
    for side, goal in goals.items():
        ratios = [a / b for a, b in zip(rates["ours"], rates[side], strict=True)]
        medians = [statistics.median(rates[name]) for name in ("ours", side)]
        print(f"ours {medians[0]:,.0f}, {side} {medians[1]:,.0f} control steps/s")
        print(
            f"ratio: {statistics.median(ratios):.2f}   (rounds: {' '.join(f'{r:.2f}' for r in ratios)}; "
            f"goal {'none' if goal is None else f'at least {goal}'})"
        )
        if options.record:
            title = f"`sim.py`: {options.task}, {n} environments, against {side}"
            values = rates["ours"], rates[side], ratios
            timing = {"threads": threads, "wall_s": time.monotonic() - began, "goal": goal}
            _records.save(f"sim/{side}", title, "control steps/s", *values, **timing)

    if not torch.cuda.is_available():  # there `peak_mib` is the GPU's
        mib = peak_mib(partial(build_and_step, options.task, 256, threads))
        print(f"256 environments: {mib:,.0f} MiB")
        print(f"ratio: {mib / 1024:.2f}   (of 1 GiB; goal at most 1)", flush=True)
        if options.record:
            title = "`sim.py`: memory of 256 environments, against 1 GiB (less is better)"
            timing = {"threads": threads, "wall_s": time.monotonic() - began, "goal": 1.0}
            _records.save("sim/memory", title, "MiB", [mib], [1024.0], [mib / 1024], **timing)

    env = make_vector(options.task, PRESETS["small"].sim.num_envs, threads=threads)
    pairs = [inference_share("small", env, options.steps) for _ in range(options.rounds)]
    env.close()
    shares = [inside / whole for inside, whole in pairs]
    print(f"the base policy's inference: {statistics.median(shares):.1%} of a rollout's wall time")
    print(f"ratio: {statistics.median(shares):.2f}   (goal at most 0.25)")
    if options.record:
        title = "`sim.py`: base-policy inference, in a rollout of the small preset (less is better)"
        timing = {"threads": threads, "wall_s": time.monotonic() - began, "goal": 0.25}
        inside, whole = zip(*pairs, strict=True)
        _records.save("sim/inference", title, "s", inside, whole, shares, **timing)


if __name__ == "__main__":
    main()
