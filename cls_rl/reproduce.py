"""Run every row of RESULTS.md and render it: the blocks of `arms.py`, then the claims.

    python reproduce.py                    # all blocks, two one-thread workers; finished runs are skipped
    python reproduce.py few_shot matrix    # only these blocks
    python reproduce.py --sweep            # learning rates on the set kept for it; then edit arms.py
    python reproduce.py --dry-run          # the plan: every command, time, and what is done already
    python reproduce.py --tables           # only render the tables and figures from results/

The splits, the test images, the seeds and the rules of `claims.py` are fixed; everything was tuned on seed 0.
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
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.live import Live

from cls_rl import eval, evidence, result_page
from cls_rl.arms import ABLATED, HERE, SCALE, SEEDS, STEPS, TEST_IMAGES, Block, Job, jobs, sweep
from shared import runs, tables

RESULTS = HERE / "results"
WORKERS = 2
# Seconds on one thread beside another worker, from recorded runs; only for the plan.
START_S = 15.0  # until a script trains or answers
UPDATE_S = {"thinking": 1.75, "no_thinking": 0.6, "sft": 0.3}  # by prompt, or SFT
ANSWER_S = 0.014  # per test image


# ---- one run


def run_job(job: Job, status: dict[Job, str], children: list[subprocess.Popen[bytes]]) -> None:
    """Run one script in a process of its own with one thread, resuming what is there; then record it."""
    log = log_of(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    resume = ["--run.resume"] if (job.folder / "config.json").exists() else []
    started = time.monotonic()
    if not job.done():
        with log.open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, job.script, *resume, *job.options],
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
        if not job.done():
            raise RuntimeError(f"{job.name} stopped with exit code {child.returncode}; see {log}")
    if job.kind != "lists":
        if not recorded(job):  # else it was made again for what starts from it
            record(job, time.monotonic() - started)
        for folder in job.folder.glob("checkpoint-*"):  # a finished run needs its model only
            shutil.rmtree(folder)


def log_of(job: Job) -> Path:
    """Beside the run folder; `with_suffix` would cut a name at the dot of its learning rate."""
    return job.folder.with_name(f"{job.name}.log")


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1][:90] if lines else ""


def records_file(job: Job) -> Path:
    return RESULTS / ("runs.jsonl" if job.rate is None else "sweep.jsonl")


def recorded(job: Job) -> bool:
    """Whether its file has the run with its present settings."""
    return any(r["name"] == job.name for r in tables.current(tables.load_records(records_file(job))))


def record(job: Job, wall_s: float) -> None:
    """One line in `records_file`, and images and curves beside it."""
    manifest = json.loads((job.folder / "manifest.json").read_text(encoding="utf-8"))
    images, curves, n = None, None, TEST_IMAGES
    if job.rate is None:
        rows = image_rows(job)
        images, n = Path("images") / f"{job.stem}.csv.gz", len(rows)
        evidence.write_images(rows, RESULTS / images)
        if job.kind == "train":
            curves = Path("curves") / f"{job.stem}.json.gz"
            evidence.write_curves(evidence.curves_of(job.folder / "metrics.jsonl"), RESULTS / curves)
            keep_contact_sheet(job)
    runs.append_record(
        records_file(job),
        row=job.row,
        preset=SCALE,
        scale=SCALE,
        seed=job.seed,
        config_hash=manifest["config_hash"],
        wall_s=round(wall_s, 1),
        n=n,
        metrics=manifest["metrics"],
        command=job.command,
        name=job.name,
        setting=job.setting,
        set=job.data_set,
        arm=job.arm,
        rate=job.rate,
        images=images and str(images),
        curves=curves and str(curves),
    )


def image_rows(job: Job) -> list[list[Any]]:
    """Rows of `evidence.COLUMNS` of every set that the run answered."""
    if job.kind == "train":
        files = {job.data_set: job.folder / "records-after.csv.gz"}
    else:
        files = {name: job.folder / f"records-{name}.csv.gz" for name in job.tested}
    return [row for name, path in files.items() for row in evidence.rows_of(name, eval.load_records(path))]


def keep_contact_sheet(job: Job) -> None:
    """figures/contact-sheet.png: test pictures, predicted and true names, of one No-Thinking run."""
    sheet = job.folder / "contact-sheet.png"
    if sheet.exists() and (job.arm, job.setting, job.data_set, job.seed) == SHOWN:
        (HERE / "figures").mkdir(exist_ok=True)
        shutil.copyfile(sheet, HERE / "figures" / "contact-sheet.png")


SHOWN = ("no_thinking", "few_shot", ABLATED, SEEDS[0])


# ---- many


def waiting_of(planned: Sequence[Job], records: Sequence[dict[str, Any]]) -> list[Job]:
    """Those that are not recorded with their present settings, after the starts that they need."""
    recorded = {r["name"] for r in records}
    wanted = [j for j in planned if j.kind != "lists" and j.name not in recorded]
    found: dict[Job, None] = {}
    for job in wanted:
        before = job.start
        if before is not None and not before.done():
            if before.start is not None and not before.start.done():
                found[before.start] = None
            found[before] = None
        found[job] = None
    return sorted(found, key=lambda job: job.kind != "lists")  # they take seconds, and others wait for them


def run_all(waiting: Sequence[Job], title: str) -> None:
    """All jobs on two workers, with a live line for each running one."""
    print(f"{title}: {len(waiting)} to do; resume at any time with the same command", flush=True)
    status: dict[Job, str] = {}
    children: list[subprocess.Popen[bytes]] = []
    futures: dict[Job, Future[None]] = {}
    finished, started = 0, time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        for job in waiting:  # starts come first, so no worker waits for a run that has none
            before = futures.get(job.start) if job.start else None
            futures[job] = pool.submit(_after, before, job, status, children)
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
        except KeyboardInterrupt:  # each child saves itself
            for future in futures.values():
                future.cancel()
            for child in children:
                child.send_signal(signal.SIGINT) if child.poll() is None else None
            sys.exit("stopped. To go on: make -C cls_rl reproduce")
    if failures := [str(f.exception()) for f in futures.values() if f.exception()]:
        sys.exit("\n".join(failures))


def _after(
    before: Future[None] | None, job: Job, status: dict[Job, str], children: list[subprocess.Popen[bytes]]
) -> None:
    """Wait for the run that this one starts from, then run."""
    if before is not None and before.exception() is not None:
        raise RuntimeError(f"{job.name} was not run: the run that it starts from failed")
    run_job(job, status, children)


# ---- commands


def plan(planned: Sequence[Job]) -> None:
    """Print every command, and what all of them need."""
    for job in planned:
        print(f"{job.name}{' (done)' if job.done() else ''}: {job.command}")
    trained = [job for job in planned if job.kind == "train"]
    answers = sum(TEST_IMAGES * tests(job) for job in planned)
    seconds = sum(seconds_of(job) for job in planned)
    print(
        f"{len(planned)} jobs, {sum(job.done() for job in planned)} of them done: {len(trained)} runs of "
        f"{sum(map(updates, trained)):,} updates, {answers:,} test answers; about "
        f"{seconds / WORKERS / 60:.0f} minutes on {WORKERS} workers"
    )


def updates(job: Job) -> int:
    """Of a training run: the last `--algo.steps` of its options."""
    words = job.arguments
    places = [i for i, word in enumerate(words) if word == "--algo.steps"]
    return int(words[places[-1] + 1]) if places else STEPS


def tests(job: Job) -> int:
    """Test sets that a job answers."""
    halves = 2 if job.setting == "base_to_new" else 1
    return 0 if job.kind == "lists" else halves * len(job.tested)


def seconds_of(job: Job) -> float:
    """On one thread."""
    seconds = START_S + ANSWER_S * TEST_IMAGES * tests(job)
    if job.kind != "train":
        return seconds
    prompt = "no_thinking" if "no_thinking" in job.arm else "thinking"
    return seconds + UPDATE_S["sft" if job.arm.startswith("sft_") else prompt] * updates(job)


def main() -> None:
    flags = [word for word in sys.argv[1:] if word.startswith("-")]
    wanted = [word for word in sys.argv[1:] if word not in flags]
    known = get_args(Block)
    if unknown := set(flags) - {"--dry-run", "--tables", "--sweep"} | set(wanted) - set(known):
        sys.exit(
            f"unknown {', '.join(sorted(unknown))}; use --sweep, --dry-run, --tables, or blocks: "
            f"{', '.join(known)}"
        )
    planned = sweep() if "--sweep" in flags else jobs(wanted)  # type: ignore[arg-type]
    if "--dry-run" in flags:
        return plan(planned)
    if "--tables" not in flags:
        file = "sweep.jsonl" if "--sweep" in flags else "runs.jsonl"
        records = tables.current(tables.load_records(RESULTS / file))
        run_all(waiting_of(planned, records), "learning rates" if "--sweep" in flags else "runs")
    result_page.render()


if __name__ == "__main__":
    main()
