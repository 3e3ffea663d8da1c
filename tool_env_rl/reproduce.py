"""Run every row of RESULTS.md and render it: the arms of `arms.py` x seeds, then the claims.

    python reproduce.py              # base models, gate, all rows that claims need, two workers; resumable
    python reproduce.py grpo layers  # base models, gate, and only these rows; `arms.OPTIONAL` must be named
    python reproduce.py --dry-run    # the plan: every command, time, and what is done already
    python reproduce.py --tables     # only render the tables and figures from results/

The test environments, the seeds and the rules of `claims.py` are fixed; everything was tuned on seed 0. A
seed whose base model does not meet the gate gets no RL and is replaced by the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from shared import checkpoint, config, runs, tables
from tool_env_rl import evaluation, evidence, gate, report
from tool_env_rl.arms import (
    HERE,
    OPTIONAL,
    SCALE,
    SEEDS,
    SPARE_SEEDS,
    Job,
    base_jobs,
    compared,
    jobs,
    layer_jobs,
)

RESULTS = HERE / "results"
WORKERS = 2
Status = dict[Job, str]
Children = list[subprocess.Popen[bytes]]


def run_child(job: Job, status: Status, children: Children) -> int:
    """One script in a process of its own with one thread; its last line is the status. The exit code."""
    log = job.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    if job.stale():
        shutil.rmtree(job.folder)
    resume = ["--run.resume"] if job.kind == "train" and (job.folder / "config.json").exists() else []
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, *job.arguments, *resume],
            cwd=HERE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C reaches it once, from here
        )
        children.append(child)
        while child.poll() is None:
            status[job] = last_line(log) or "starting"
            time.sleep(0.5)
    status.pop(job, None)
    return child.returncode


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][:90] if lines else ""


def run_job(job: Job, status: Status, children: Children) -> None:
    """Run one job, going on with what is there; then record it.

    A base model that the gate refused is recorded in gates.jsonl alone; anything else that stops is an error.
    """
    started, code = time.monotonic(), 0
    if not job.done():
        code = run_child(job, status, children)
    wall_s = round(time.monotonic() - started, 1)
    if job.kind == "base" and (job.done() or code == gate.CLOSED):
        record_gate(job, wall_s)
    if job.done():
        record(job, wall_s)
    elif code != gate.CLOSED or job.row != "base":
        raise RuntimeError(f"{job.name} stopped with exit code {code}; see {job.folder.with_suffix('.log')}")


def record_gate(job: Job, wall_s: float) -> None:
    """What the gate measured, and what it has against it."""
    found = json.loads((job.folder / gate.REPORT_FILE).read_text(encoding="utf-8"))
    _append(job, RESULTS / "gates.jsonl", wall_s=wall_s, n=0, metrics={}, gate=found)


def record(job: Job, wall_s: float) -> None:
    """One line in runs.jsonl, and the episodes, curves or layers beside it."""
    metrics: dict[str, Any] = {}
    count = 0
    if job.kind == "layers":
        kept = Path("layers") / f"{job.name}.json"
        evidence.write_layers(evidence.read_layers(job.output), RESULTS / kept)
    elif job.kind == "controls":
        kept = Path("episodes") / f"{job.name}.jsonl.gz"
        evidence.write_controls(job.output, RESULTS / kept)
        count = sum(map(len, evidence.read_controls(RESULTS / kept).values()))
    else:
        kept = Path("episodes") / f"{job.name}.jsonl.gz"
        found = evaluation.load(job.episodes)
        evaluation.save(found, RESULTS / kept)
        metrics, count = evaluation.summary(found), len(found.test)
        if lines := evidence.curve_lines(job.folder / "metrics.jsonl"):
            (RESULTS / "curves").mkdir(parents=True, exist_ok=True)
            text = "".join(f"{line}\n" for line in lines)
            checkpoint.write_text_atomic(RESULTS / "curves" / f"{job.name}.jsonl", text)
    _append(job, RESULTS / "runs.jsonl", wall_s=wall_s, n=count, metrics=metrics, data=str(kept))


def _append(job: Job, path: Path, **fields: Any) -> None:
    runs.append_record(
        path,
        row=f"tool_env_rl/{job.row}",
        preset=SCALE,
        scale=SCALE,
        seed=job.seed,
        config_hash=config.config_hash(job.config),
        command=job.command,
        arm=job.row,
        **fields,
    )


def waiting_of(planned: Sequence[Job], recorded_in: str = "runs.jsonl") -> list[Job]:
    """Those that are not recorded yet with their present configuration."""
    records = tables.load_records(RESULTS / recorded_in)
    recorded = {(r["arm"], r["seed"], r["config_hash"]) for r in records}
    return [j for j in planned if (j.row, j.seed, config.config_hash(j.config)) not in recorded]


def choose_seeds() -> tuple[int, ...]:
    """Trains base models until three seeds have met the gate. A seed that does not is left out before
    anything is known about its RL."""
    candidates = iter((*SEEDS, *SPARE_SEEDS))
    chosen: list[int] = []
    while len(chosen) < len(SEEDS):
        batch = base_jobs(tuple(islice(candidates, len(SEEDS) - len(chosen))))
        if not batch:
            sys.exit(f"{len(chosen)} seeds met the gate, {len(SEEDS)} are needed; retune it on seed 0")
        run_all(waiting_of(batch, "gates.jsonl"), run_job, "base models")
        passed = [job.seed for job in batch if met_gate(job.seed)]
        print(f"gate met by seeds {passed} of {[job.seed for job in batch]}", flush=True)
        chosen += passed
    return tuple(chosen)


def met_gate(seed: int) -> bool:
    """As recorded."""
    records = tables.current(tables.load_records(RESULTS / "gates.jsonl"))
    found = [r for r in records if (r["arm"], r["seed"]) == ("base", seed)]
    return bool(found) and not found[-1]["gate"]["failures"]


def run_all(waiting: Sequence[Job], run: Callable[[Job, Status, Children], None], title: str) -> None:
    """`run` each on two workers, with a live line for each running one."""
    print(f"{title}: {len(waiting)} to do; resume at any time with the same command", flush=True)
    status: Status = {}
    children: Children = []
    finished, started = 0, time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = {job: pool.submit(run, job, status, children) for job in waiting}
        try:
            with Live(console=Console(stderr=True), refresh_per_second=2) as live:
                while not all(future.done() for future in futures.values()):
                    done = [f for f in futures.values() if f.done() and not f.exception()]
                    lines = [f"{len(done)}/{len(waiting)} done, {time.monotonic() - started:.0f} s"]
                    live.update("\n".join(lines + [f"{j.name}: {said}" for j, said in dict(status).items()]))
                    if len(done) > finished:
                        finished = len(done)
                        print(lines[0], flush=True)
                    time.sleep(0.5)
        except KeyboardInterrupt:  # a training saves itself
            for future in futures.values():
                future.cancel()
            for child in children:
                child.send_signal(signal.SIGINT) if child.poll() is None else None
            sys.exit("stopped. To go on: make -C tool_env_rl reproduce")
    if failures := [str(f.exception()) for f in futures.values() if f.exception()]:
        sys.exit("\n".join(failures))


def reproduce(rows: Collection[str]) -> None:
    """Base models first; then the jobs of `rows` (none named: all); then the comparison of weights."""
    seeds = choose_seeds()
    waiting, layers = (waiting_of(chosen(planned(seeds), rows)) for planned in (jobs, layer_jobs))
    read = [job for one in layers for job in compared(one)]  # recorded ones too, if their weights are gone
    waiting += [job for job in read if job not in waiting and not job.done()]
    run_all(waiting, run_job, "arms and controls")
    run_all(layers, run_job, "layers")


def chosen(planned: Sequence[Job], rows: Collection[str]) -> list[Job]:
    """Those of `rows`; where none is named, all but the optional ones."""
    return [job for job in planned if (job.row in rows if rows else job.row not in OPTIONAL)]


def plan(todo: Sequence[Job]) -> None:
    """Print every command, and what all of them need."""
    for job in todo:
        print(f"{job.name}{' (done)' if job.done() else ''}: {job.command}")
    seconds = sum(job.seconds for job in todo if not job.done())
    print(
        f"{len(todo)} jobs, {sum(job.done() for job in todo)} of them done; about "
        f"{seconds / WORKERS / 60:.0f} minutes for the others on {WORKERS} idle cores, guessed"
    )


def main() -> None:
    flags = {word for word in sys.argv[1:] if word.startswith("-")}
    rows = set(sys.argv[1:]) - flags
    planned = [*base_jobs(SEEDS), *jobs(SEEDS), *layer_jobs(SEEDS)]
    known = dict.fromkeys(job.row for job in planned)
    if unknown := flags - {"--dry-run", "--tables"} | rows - set(known):
        sys.exit(
            f"unknown {', '.join(sorted(unknown))}; use --dry-run, --tables, neither, "
            f"or rows: {', '.join(known)}"
        )
    if "--dry-run" in flags:
        return plan(chosen(planned, rows))
    if "--tables" not in flags:
        reproduce(rows)
    report.render()


if __name__ == "__main__":
    main()
