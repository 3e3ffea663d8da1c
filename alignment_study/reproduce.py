"""Run every row of RESULTS.md and render it: the grid of `arms.py`, then the claims.

    python reproduce.py              # base models, gate, all rows; finished ones are skipped
    python reproduce.py --dose       # the dose-response curve on the same base models (`dose_response.py`)
    python reproduce.py --dry-run    # the plan: every command, time, and what is done already
    python reproduce.py --tables     # only render the tables and figures from results/

The test items, the seeds and the rules of `claims.py` are fixed; everything was tuned on seed 0. A seed whose
base model does not meet the gate gets no RL and is replaced by the next one, in each world for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live

from alignment_study import data, dose_response, evidence, report, update_ratio
from alignment_study.arms import HERE, SCALE, SEEDS, SPARE_SEEDS, VARIANTS, Base, Job, family, jobs
from alignment_study.evidence import Items, Role
from alignment_study.families import WORLDS, WorldName
from shared import checkpoint, config, runs, tables

RESULTS = HERE / "results"
DOSE = RESULTS / "dose"
WORKERS = 2
GATE_NOT_MET = 2  # exit code of pretrain.py
# Seconds on one thread of the machine that the results were made on; only for the plan.
BASE_S, RUN_S, DIAL_RUN_S = 100, 30, 20
Task = Base | Job


def run_child(task: Task, status: dict[Task, str], children: list[subprocess.Popen[bytes]]) -> int:
    """One script in a process of its own with one thread; its last line is the status. The exit code."""
    log = task.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, *task.arguments],
            cwd=HERE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C reaches it once, from here
        )
        children.append(child)
        while child.poll() is None:
            status[task] = last_line(log) or "starting"
            time.sleep(0.5)
    status.pop(task, None)
    return child.returncode


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][:90] if lines else ""


# ---- base models


def card_of(base: Base) -> dict[str, Any] | None:
    """The card of a finished pre-training."""
    path = base.folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return card if card.get("finished") else None


def pretrain(base: Base, status: dict[Task, str], children: list[subprocess.Popen[bytes]]) -> None:
    """Pre-train and record whether the gate was met; a gate not met is a result, anything else an error."""
    started, code = time.monotonic(), 0
    log = base.folder.with_suffix(".log")
    if card_of(base) is None:
        code = run_child(base, status, children)
    card = card_of(base)
    words = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    missed = code == GATE_NOT_MET and ("met the gate" in words or "jumped over" in words)
    if card is None and not missed:
        raise RuntimeError(f"{base.name} stopped with exit code {code}; see {log}")
    runs.append_record(
        RESULTS / "gates.jsonl",
        row=f"alignment_study/{base.world}/base",
        preset=SCALE,
        scale=SCALE,
        seed=base.seed,
        config_hash=config_hash_of(card),
        wall_s=round(time.monotonic() - started, 1),
        n=0,
        metrics={},
        command=base.command,
        world=base.world,
        gate=card and card["gate"],
    )


def config_hash_of(card: dict[str, Any] | None) -> str:
    """Of the settings of a pre-training; "-" where none was finished."""
    if card is None:
        return "-"
    return hashlib.sha256(json.dumps(card["settings"], sort_keys=True).encode()).hexdigest()[:12]


def met_gate(base: Base) -> bool | None:
    """As recorded; None if it is not."""
    records = tables.current(tables.load_records(RESULTS / "gates.jsonl"))
    found = [r for r in records if (r["world"], r["seed"]) == (base.world, base.seed)]
    return found[-1]["gate"] is not None if found else None


def choose_seeds(world: WorldName) -> tuple[int, ...]:
    """Pre-trains until three seeds have met the gate. A seed that does not is left out before anything is
    known about its RL."""
    candidates = iter((*SEEDS, *SPARE_SEEDS))
    chosen: list[int] = []
    while len(chosen) < len(SEEDS):
        batch = [Base(world, seed) for seed in islice(candidates, len(SEEDS) - len(chosen))]
        if not batch:
            sys.exit(f"world {world}: {len(chosen)} seeds met the gate, {len(SEEDS)} are needed; retune it")
        waiting = [b for b in batch if met_gate(b) is None or (met_gate(b) and card_of(b) is None)]
        run_all(waiting, pretrain, f"base models of world {world}")
        passed = [base.seed for base in batch if met_gate(base)]
        print(f"world {world}: gate met by seeds {passed} of {[b.seed for b in batch]}", flush=True)
        chosen += passed
    return tuple(chosen)


# ---- RL


def run_job(job: Job, status: dict[Task, str], children: list[subprocess.Popen[bytes]]) -> None:
    """Train and evaluate one cell, resuming what is there; then record it."""
    started = time.monotonic()
    if not job.done():
        code = run_child(job, status, children)
        if not job.done():
            log = job.folder.with_suffix(".log")
            raise RuntimeError(f"{job.name} stopped with exit code {code}; see {log}")
    record(job, time.monotonic() - started)


def record(job: Job, wall_s: float) -> None:
    """One line in runs.jsonl, and the items and curves beside it."""
    folder = DOSE if job.dial else RESULTS
    manifest = json.loads((job.folder / "manifest.json").read_text(encoding="utf-8"))
    found = read_evaluations(job)
    items, curves = Path("items") / f"{job.name}.csv.gz", Path("curves") / f"{job.name}.jsonl"
    evidence.write_items(found, folder / items)
    (folder / curves).parent.mkdir(parents=True, exist_ok=True)
    lines = evidence.curve_lines(job.folder / "metrics.jsonl")
    checkpoint.write_text_atomic(folder / curves, "".join(f"{line}\n" for line in lines))
    last = max(step for _, step in found)
    runs.append_record(
        folder / "runs.jsonl",
        row=job.row,
        preset=SCALE,
        scale=SCALE,
        seed=job.seed,
        config_hash=manifest["config_hash"],
        wall_s=round(wall_s, 1),
        n=int(sum(found[job.trained, last].n)),
        metrics=manifest["metrics"],
        command=job.command,
        world=job.world,
        trained=job.trained,
        variant=job.variant.row,
        start=job.start,
        items=str(items),
        curves=str(curves),
        example=example_of(job),
    )


def read_evaluations(job: Job) -> dict[tuple[Role, int], Items]:
    """Every evaluation of a run folder, by role and step."""
    roles: dict[str, Role] = {data.slug(family(job.world, role)): role for role in job.roles}
    found = {}
    for path in sorted(job.folder.rglob("evaluations/*-step*.csv.gz")):
        task, _, step = path.name.removesuffix(".csv.gz").rpartition("-step")
        found[roles[task], int(step)] = evidence.items_of_file(path)
    if not found:
        raise RuntimeError(f"{job.folder} holds no evaluations; delete the folder and run again")
    return found


def example_of(job: Job) -> list[Any] | None:
    """Id, sub-task and base accuracy of a one-shot run's item, from its history: one entry per group."""
    path = job.folder / "history.json"
    if job.config.algo.samples != "one_shot" or not path.exists():
        return None
    ((id, visits),) = json.loads(path.read_text(encoding="utf-8")).items()
    first = visits[: job.config.algo.prompts_per_step]
    return [id, id.split("/")[1], round(float(np.mean(first)), 6)]


def waiting_of(planned: Sequence[Job], results: Path) -> list[Job]:
    """Those that are not recorded yet with their present configuration."""
    records = tables.load_records(results / "runs.jsonl")
    recorded = {(r["row"], r["seed"], r["config_hash"]) for r in records}
    return [j for j in planned if (j.row, j.seed, config.config_hash(j.config)) not in recorded]


def run_all(waiting: Sequence[Any], run: Callable[..., None], title: str) -> None:
    """`run(task, status, children)` of each on two workers, with a live line for each running one."""
    print(f"{title}: {len(waiting)} to do; resume at any time with the same command", flush=True)
    status: dict[Task, str] = {}
    children: list[subprocess.Popen[bytes]] = []
    finished, started = 0, time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {task: pool.submit(run, task, status, children) for task in waiting}
        try:
            with Live(console=Console(stderr=True), refresh_per_second=2) as live:
                while not all(future.done() for future in futures.values()):
                    done = [f for f in futures.values() if f.done() and not f.exception()]
                    lines = [f"{len(done)}/{len(waiting)} done, {time.monotonic() - started:.0f} s"]
                    live.update("\n".join(lines + [f"{t.name}: {said}" for t, said in dict(status).items()]))
                    if len(done) > finished:
                        finished = len(done)
                        print(lines[0], flush=True)
                    time.sleep(0.5)
        except KeyboardInterrupt:  # each child saves itself
            for future in futures.values():
                future.cancel()
            for child in children:
                child.send_signal(signal.SIGINT) if child.poll() is None else None
            sys.exit("stopped. To go on: make -C alignment_study reproduce")
    if failures := [str(f.exception()) for f in futures.values() if f.exception()]:
        sys.exit("\n".join(failures))


# ---- commands


def reproduce() -> None:
    """Base models first; then all cells, variant by variant over both worlds."""
    planned = [job for world in WORLDS for job in jobs(world, choose_seeds(world))]
    planned.sort(key=lambda job: VARIANTS.index(job.variant))
    run_all(waiting_of(planned, RESULTS), run_job, "RL runs")


def dose() -> None:
    """The dial: RL from successive checkpoints of the same pre-training, and the ratio of their updates."""
    world = dose_response.WORLD
    bases = [Base(world, seed) for seed in choose_seeds(world)]
    planned = [job for base in bases for job in dose_response.jobs(base, card_of(base) or {})]
    run_all(waiting_of(planned, DOSE), run_job, "runs of the dial")
    measured = {(r["seed"], r["start"]) for r in tables.load_records(DOSE / "ratios.jsonl")}
    for seed, start in sorted({(job.seed, job.start) for job in planned} - measured):
        update_ratio.measure_and_record(Base(world, seed), start, DOSE / "ratios.jsonl")


def plan() -> None:
    """Print every command, and what all of them need."""
    grid = [job for world in WORLDS for job in jobs(world)]
    bases = list(dict.fromkeys(job.base for job in grid))
    for base in bases:
        print(f"{base.name}{' (done)' if card_of(base) else ''}: {base.command}")
    for job in grid:
        print(f"{job.name}{' (done)' if job.done() else ''}: {job.command}")
    done = sum(job.done() for job in grid)
    print(
        f"{len(bases)} base models and {len(grid)} RL runs, {done} of them done; about "
        f"{minutes(len(bases) * BASE_S + len(grid) * RUN_S):.0f} minutes on {WORKERS} workers "
        f"(--dose: {dose_response.RUNS} more runs, {minutes(dose_response.RUNS * DIAL_RUN_S):.0f} minutes)"
    )


def minutes(seconds: float) -> float:
    """Wall time of that much work on all workers."""
    return seconds / WORKERS / 60


def main() -> None:
    arguments = sys.argv[1:]
    if unknown := set(arguments) - {"--dry-run", "--tables", "--dose"}:
        sys.exit(f"unknown {', '.join(sorted(unknown))}; use --dose, --dry-run, --tables or none of them")
    if "--dry-run" in arguments:
        return plan()
    if "--tables" not in arguments:
        dose() if "--dose" in arguments else reproduce()
    report.render()


if __name__ == "__main__":
    main()
