"""Run every row of RESULTS.md and render it: the arms of `arms.py` x tasks x seeds, then the claims.

    python reproduce.py              # all rows, two one-thread workers; finished rows are skipped
    python reproduce.py dppo rerank  # only these arms, and the runs that they start from where those are gone
    python reproduce.py --dry-run    # the plan: every command, environment steps, and what is done already
    python reproduce.py --tables     # only render the tables and figures from results/

The held-out episodes, the seeds and the rules of `claims.py` are fixed; everything was tuned on seed 0.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from resip_assembly import evidence, result_tables, starts, taxonomy, videos
from resip_assembly.arms import ARMS, HERE, SCALE, SEEDS, Job, jobs
from resip_assembly.config import PRESETS
from resip_assembly.env import task_named
from resip_assembly.report import Results
from shared import config, runs, tables

RESULTS = HERE / "results"


def run_job(job: Job, keep: bool, status: dict[Job, str], children: list[subprocess.Popen[bytes]]) -> None:
    """Run one script in a process of its own with one thread, resuming what is there; record it to `keep`."""
    log = job.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    resume = ["--run.resume"] if (job.folder / "config.json").exists() else []
    started = time.monotonic()
    if not job.done():
        with log.open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, f"{job.arm.script}.py", *job.options, *resume],
                cwd=HERE,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C reaches it once, from here
            )
            children.append(child)
            while child.poll() is None:
                lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
                status[job] = lines[-1][:90] if lines else "starting"
                time.sleep(0.5)
        status.pop(job, None)
        if not job.done():
            raise RuntimeError(f"{job.name} stopped with exit code {child.returncode}; see {log}")
    if keep:
        record(job, time.monotonic() - started)


def record(job: Job, wall_s: float) -> None:
    """One line in results/runs.jsonl, and the outcomes of the episodes beside it."""
    manifest = json.loads((job.folder / "manifest.json").read_text())
    results, folder = Results(job.folder / "evaluations"), RESULTS
    simulated = job
    while simulated.arm.script != "train":
        assert simulated.start is not None
        simulated = simulated.start
    sim = starts.start_config(simulated.folder).sim
    judged = {}
    for name, policy in job.arm.judged:
        found = results[name]
        judged[policy] = (found, taxonomy.phases(task_named(sim.task), sim.randomness, found))
    episodes = Path("episodes") / f"{job.name}.csv.gz"
    evidence.write_episodes(judged, folder / episodes)
    moved = None
    if job.arm.row == "resip":
        moved = Path("corrections") / f"{job.name}.csv.gz"
        (folder / moved).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(job.folder / "corrections.csv.gz", folder / moved)
        if job.seed == SEEDS[0]:
            film(job, results)
    runs.append_record(
        folder / "runs.jsonl",
        row=job.row,
        preset=SCALE,
        scale=SCALE,
        seed=job.seed,
        config_hash=manifest["config_hash"],
        wall_s=round(wall_s, 1),
        n=len(next(iter(judged.values()))[0].success),
        metrics=manifest["metrics"],
        command=job.command,
        task=job.task,
        arm=job.arm.row,
        trained=job.arm.trained,
        episodes=str(episodes),
        corrections=str(moved) if moved else None,
    )


def film(job: Job, results: Results) -> None:
    """figures/<task>.gif: an episode that the base fails and the residual solves."""
    assert job.start is not None
    cfg = replace(starts.start_config(job.folder), start=str(job.start.folder))
    agent = starts.start_residual(job.folder, cfg, 1)
    videos.before_and_after(cfg, agent.base, agent.residual, agent.extra, results, job.folder)
    if (made := job.folder / "before_after.gif").exists():
        (HERE / "figures").mkdir(exist_ok=True)
        shutil.copyfile(made, HERE / "figures" / f"{job.task}.gif")


def waiting_of(planned: Sequence[Job], records: Sequence[dict[str, Any]]) -> dict[Job, bool]:
    """The planned runs that are not recorded or whose folders are gone, each after what it starts from where
    that is gone too; and whether to record it, as a start that is recorded already is not recorded again."""
    recorded = {(r["row"], r["seed"], r["config_hash"]) for r in records}

    def known(job: Job) -> bool:
        return (job.row, job.seed, config.config_hash(job.config)) in recorded

    waiting: dict[Job, bool] = {}
    for job in planned:
        if known(job) and job.done():
            continue
        starts_from, start = [], job.start
        while start is not None and not start.done() and start not in waiting:
            starts_from.insert(0, start)
            start = start.start
        waiting |= {start: not known(start) for start in starts_from}
        waiting[job] = True
    return waiting


def reproduce(planned: Sequence[Job]) -> None:
    """All planned jobs on two workers, with a live line for each running one."""
    waiting = waiting_of(planned, tables.load_records(RESULTS / "runs.jsonl"))
    print(f"{len(waiting)} runs to do, {len(planned)} planned; resume at any time with the same command")
    status: dict[Job, str] = {}
    children: list[subprocess.Popen[bytes]] = []
    futures: dict[Job, Future[None]] = {}
    finished, started = 0, time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for job, keep in waiting.items():  # starts come first, so no worker waits for a run that has none
            before = futures.get(job.start) if job.start else None
            futures[job] = pool.submit(_after, before, job, keep, status, children)
        try:
            with Live(console=Console(stderr=True), refresh_per_second=2) as live:
                while not all(f.done() for f in futures.values()):
                    done = [f for f in futures.values() if f.done() and not f.exception()]
                    lines = [f"{len(done)}/{len(waiting)} runs, {time.monotonic() - started:.0f} s"]
                    live.update("\n".join(lines + [f"{j.name}: {s}" for j, s in dict(status).items()]))
                    if len(done) > finished:
                        finished = len(done)
                        print(lines[0], flush=True)
                    time.sleep(0.5)
        except KeyboardInterrupt:  # each child has saved its last iterations
            for future in futures.values():
                future.cancel()
            for child in children:
                child.send_signal(signal.SIGINT) if child.poll() is None else None
            sys.exit("stopped. To go on: make -C resip_assembly reproduce")
    if failures := [str(f.exception()) for f in futures.values() if f.exception()]:
        sys.exit("\n".join(failures))


def _after(
    before: Future[None] | None,
    job: Job,
    keep: bool,
    status: dict[Job, str],
    children: list[subprocess.Popen[bytes]],
) -> None:
    """Wait for the run that this one starts from, then run."""
    if before is not None and before.exception() is not None:
        raise RuntimeError(f"{job.name} was not run: the run that it starts from failed")
    run_job(job, keep, status, children)


def plan(todo: Sequence[Job]) -> None:
    """Print every command, and what all of them need."""
    for job in todo:
        print(f"{job.name}{' (done)' if job.done() else ''}: {job.command}")
    cfg = PRESETS[SCALE]
    judged = sum(len(job.arm.judged) for job in todo)
    print(
        f"{len(todo)} runs, {sum(j.done() for j in todo)} done; "
        f"{sum(job.env_steps for job in todo) / 1e6:,.1f} M environment steps of training, "
        f"{judged} evaluations of {cfg.eval.episodes:,} episodes"
    )


def main() -> None:
    flags = {word for word in sys.argv[1:] if word.startswith("-")}
    rows = set(sys.argv[1:]) - flags
    known = dict.fromkeys(arm.row for arm in ARMS)
    if unknown := flags - {"--dry-run", "--tables"} | rows - set(known):
        sys.exit(
            f"unknown {', '.join(sorted(unknown))}; use --dry-run, --tables, neither, "
            f"or arms: {', '.join(known)}"
        )
    planned = [job for job in jobs() if not rows or job.arm.row in rows]
    if "--dry-run" in flags:
        return plan(planned)
    if "--tables" not in flags:
        reproduce(planned)
    result_tables.render()


if __name__ == "__main__":
    main()
