"""How often the scripted experts succeed, and what each robot costs: six tasks x two robots (sheet §2.2).

    python -m resip_assembly.expert_rates            # 64 episodes each, records in results/experts.jsonl
    python -m resip_assembly.expert_rates --no-keep  # prints the table only

Low randomness, one thread. Commit the code first: tables refuse records of a dirty tree.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from resip_assembly.config import Simulation
from resip_assembly.demos import ExpertAgent
from resip_assembly.env import TASKS, make_vector, task_named
from resip_assembly.env.robots import ROBOTS, RobotName
from resip_assembly.evaluation import evaluate
from shared import config, runs, seeding, tables

PRESET = "experts"  # of the records: no preset of config.py
SIX = tuple(name for name in TASKS if name != "one_leg_insert")
RECORDS = Path(__file__).resolve().parent / "results" / "experts.jsonl"


@dataclass(frozen=True)
class Rates:
    """Evaluate the scripted experts."""

    tasks: tuple[str, ...] = SIX
    robots: tuple[RobotName, ...] = ROBOTS
    episodes: int = 64  # per task and robot, all at once
    seed: int = 0  # of initial states and of the expert's noise
    keep: bool = True  # append to results/experts.jsonl


@dataclass(frozen=True)
class Cell:
    """What the hash of a record is over."""

    sim: Simulation
    episodes: int
    run: runs.RunConfig
    preset: str = PRESET


def measure(cell: Cell) -> dict[str, Any]:
    """Successes with their Wilson interval, median length, and control steps per second of CPU time."""
    sim, seed = cell.sim, cell.run.seed
    env = make_vector(
        sim.task, sim.num_envs, sim.randomness, threads=1, robot=sim.robot, autoreset="disabled"
    )
    started = time.process_time()
    found = evaluate(env, ExpertAgent(env, seed), cell.episodes, seeding.derive_seed(seed, "expert rates"))
    spent = time.process_time() - started
    stepped = int(found.length.max()) * env.num_envs  # one round, in which all step until the last has ended
    env.close()
    summary = found.summary()
    kept = ("successes", "success", "success_low", "success_high", "failures")
    metrics = {name: summary[name] for name in kept} | {"length_median": summary["success_length_median"]}
    return metrics | {"steps_per_cpu_s": stepped / spent}


def main(arguments: list[str] | None = None, records: Path = RECORDS) -> None:
    try:
        words = sys.argv[1:] if arguments is None else arguments
        options = tyro.cli(Rates, args=words, description=__doc__)
        command = shlex.join(["python", "-m", "resip_assembly.expert_rates", *words])
        simulated = [Simulation(task, "low", robot) for task in options.tasks for robot in options.robots]
        if options.episodes < 1:
            raise ValueError(f"--episodes {options.episodes} must be at least 1")
        for task in options.tasks:
            task_named(task)  # names the known ones
        rows = []
        for sim in simulated:
            sim = dataclasses.replace(sim, num_envs=options.episodes, threads=1)
            cell = Cell(sim, options.episodes, runs.RunConfig(seed=options.seed))
            started = time.monotonic()
            metrics = measure(cell)
            if options.keep:
                runs.append_record(
                    records,
                    row=f"experts/{sim.task}/{sim.robot}",
                    preset=PRESET,
                    scale="small",
                    seed=options.seed,
                    config_hash=config.config_hash(cell),
                    wall_s=round(time.monotonic() - started, 1),
                    n=options.episodes,
                    metrics=metrics,
                    command=command,
                    task=sim.task,
                    robot=sim.robot,
                )
            interval = (
                f"{metrics['success']:.3f} [{metrics['success_low']:.3f}, {metrics['success_high']:.3f}]"
            )
            cells = [sim.task, sim.robot, interval, options.episodes, metrics["length_median"]]
            rows.append([*cells, round(metrics["steps_per_cpu_s"])])
            print(f"{sim.task} {sim.robot}: {interval}", flush=True)
    except ValueError as error:  # an unknown task, no episodes
        sys.exit(f"error: {error}")
    headers = ["task", "robot", "success [95 % interval]", "episodes", "median steps", "steps per CPU s"]
    print(f"\n{tables.markdown(headers, rows)}")
    if options.keep:
        print(f"recorded: {records}")


if __name__ == "__main__":
    main()
