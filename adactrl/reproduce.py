"""Run every row of RESULTS.md and render it: arms A-H x seeds at small scale, then the claims.

    python reproduce.py              # all rows, two one-thread workers; finished rows are skipped
    python reproduce.py --dry-run    # the plan: every command, and what is done already
    python reproduce.py --tables     # only render the tables and figures from results/

The test problems, the seeds and the rules of `claims.py` are fixed; everything was tuned on seeds 0 and 100.
A seed whose cold start fails the gate gets no RL and is replaced by the next one.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.live import Live

from adactrl import eval, report, result_figures
from adactrl.config import PRESETS, Config
from adactrl.gate import Check
from shared import checkpoint, config, runs, tables

HERE = Path(__file__).resolve().parent
SEEDS = (1, 2, 3)
SPARE_SEEDS = (4, 5, 6)  # take the place, in order, of seeds whose cold start does not pass the gate


@dataclass(frozen=True)
class Arm:
    """One row of the table: what differs from arm D."""

    row: str
    title: str
    options: tuple[str, ...]
    start: str | None = None  # the arm whose cold start it continues

    @property
    def rl(self) -> bool:
        return self.start is not None


R1 = ("--sft.style", "r1")
ARMS = (
    Arm("A", "R1-SFT", (*R1, "--algo.steps", "0", "--gate", "off")),
    Arm("C", "AdaCtrl cold start", ("--algo.steps", "0", "--gate", "report")),
    Arm("B", "R1-SFT-RL (outcome only)", (*R1, "--algo.alpha", "0", "--algo.beta", "0"), "A"),
    Arm("D", "AdaCtrl", (), "C"),
    Arm("E", "w/o length reward", ("--algo.beta", "0"), "C"),
    Arm("F", "w/o calibration reward", ("--algo.no-calibrate",), "C"),
    Arm("G", "length gate: tag only (paper's wording)", ("--algo.length-gate", "tag"), "C"),
    Arm("H", "no accuracy filter", ("--algo.filter", "none"), "C"),
)


@dataclass(frozen=True)
class Job:
    """One training run."""

    arm: Arm
    seed: int
    scale: str

    @property
    def row(self) -> str:
        return f"adactrl/{self.arm.row}"

    @property
    def folder(self) -> Path:
        return HERE / "runs" / f"reproduce-{self.scale}" / f"{self.arm.row}-seed{self.seed}"

    @property
    def options(self) -> list[str]:
        """Arguments of train.py, relative to the package folder."""
        words = ["--preset", self.scale, *self.arm.options, "--run.seed", str(self.seed)]
        if self.arm.start:
            start = replace(self, arm=next(a for a in ARMS if a.row == self.arm.start)).folder
            words += [
                "--cold-start",
                str((start / "cold_start" / "model").relative_to(HERE)),
                "--gate",
                "off",
            ]
            words += ["--eval.no-before"]
        else:
            words += ["--cold-start", "fresh"]
        return [*words, "--run.output-dir", str(self.folder.relative_to(HERE))]

    @property
    def command(self) -> str:
        return " ".join(["cd adactrl && python train.py", *self.options])

    @property
    def config(self) -> Config:
        return config.parse(Config, PRESETS, args=self.options)

    def done(self) -> bool:
        return (self.folder / "manifest.json").is_file()


def jobs(scale: str, seeds: Sequence[int] = SEEDS) -> list[Job]:
    """Cold starts first: the other arms need theirs."""
    return [Job(arm, seed, scale) for rl in (False, True) for seed in seeds for arm in ARMS if arm.rl == rl]


def passed_gate(scale: str, seed: int) -> bool:
    """Whether RL may go on from this seed's cold start; scales without a gate always may."""
    cold = next(job for job in jobs(scale, [seed]) if job.arm.row == "C")
    path = cold.folder / "gate.json"
    return not path.exists() or all(Check(**check).passed for check in json.loads(path.read_text()))


def results_of(scale: str) -> Path:
    """Committed results are the small scale's; other scales keep to a folder of their own."""
    return HERE / "results" if scale == "small" else HERE / "results" / scale


def run_job(job: Job, status: dict[Job, str], children: list[subprocess.Popen[bytes]]) -> None:
    """Train one arm in a process of its own with one thread, resuming what is there; then record it."""
    log = job.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    resume = ["--run.resume"] if (job.folder / "config.json").exists() else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "train.py", *job.options, *resume],
            cwd=HERE,
            env=environment,
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
        raise RuntimeError(f"{job.row} seed {job.seed} stopped with exit code {child.returncode}; see {log}")
    record(job, time.monotonic() - started)


def record(job: Job, wall_s: float) -> None:
    """One line in results/runs.jsonl, and the per-sample outcomes beside it."""
    manifest = json.loads((job.folder / "manifest.json").read_text())
    rows = eval.load_samples(job.folder / "samples-after.jsonl")
    name = f"{job.arm.row}-seed{job.seed}.csv.gz"
    folder = results_of(job.scale)
    write_samples(rows, folder / "samples" / name)
    probes = job.folder / "probes-after.jsonl"
    if probes.exists():
        checkpoint.write_text_atomic(
            _made(folder / "probes") / f"{job.arm.row}-seed{job.seed}.jsonl", probes.read_text()
        )
    curves = "\n".join(result_figures.curve_rows(job.folder / "metrics.jsonl"))
    checkpoint.write_text_atomic(
        _made(folder / "curves") / f"{job.arm.row}-seed{job.seed}.jsonl", curves + "\n"
    )
    gate = job.folder / "gate.json"
    runs.append_record(
        folder / "runs.jsonl",
        row=job.row,
        preset=job.scale,
        scale=job.scale,
        seed=job.seed,
        config_hash=manifest["config_hash"],
        wall_s=round(wall_s, 1),
        n=len(rows),
        metrics=manifest["metrics"],
        command=job.command,
        title=job.arm.title,
        samples=f"samples/{name}",
        gate=json.loads(gate.read_text()) if gate.exists() else None,
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_samples(rows: list[eval.Sample], path: Path) -> None:
    """Per-sample outcomes without the text, compressed to the same bytes every time."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(report.SAMPLE_COLUMNS)
    graded = {True: "1", False: "0", None: ""}
    writer.writerows([r.set, r.problem, r.mode, r.tag or "", graded[r.correct], r.length] for r in rows)
    _made(path.parent)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def reproduce(scale: str) -> None:
    """Cold starts, until three of them have passed the gate; then the other arms of these seeds.

    A seed that fails is in the records and the gate's table, but gets no RL: it is left out before anything
    is known about its outcome.
    """
    candidates = iter((*SEEDS, *SPARE_SEEDS))
    chosen: list[int] = []
    while len(chosen) < len(SEEDS):
        batch = list(islice(candidates, len(SEEDS) - len(chosen)))
        if not batch:
            sys.exit(f"seeds {chosen} passed the gate, {len(SEEDS)} are needed; retune the cold start")
        run_all([job for job in jobs(scale, batch) if not job.arm.rl])
        passed = [seed for seed in batch if passed_gate(scale, seed)]
        print(f"gate passed by seeds {passed} of {batch}", flush=True)
        chosen += passed
    run_all([job for job in jobs(scale, chosen) if job.arm.rl])


def run_all(planned: list[Job]) -> None:
    """Those of the jobs that are not recorded yet, on two workers, with a live line for each running one."""
    records = tables.load_records(results_of(planned[0].scale) / "runs.jsonl")
    recorded = {(r["row"], r["seed"], r["config_hash"]) for r in records}
    waiting = [
        job
        for job in planned
        if (job.row, job.seed, config.config_hash(job.config)) not in recorded or not job.done()
    ]
    print(
        f"{len(waiting)} of {len(planned)} runs to do; resume at any time with the same command", flush=True
    )
    status: dict[Job, str] = {}
    children: list[subprocess.Popen[bytes]] = []
    finished = 0
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        running = {job: pool.submit(run_job, job, status, children) for job in waiting}
        try:
            with Live(console=Console(stderr=True), refresh_per_second=2) as live:
                while not all(future.done() for future in running.values()):
                    done = [f for f in running.values() if f.done() and not f.exception()]
                    spent = f"{time.monotonic() - started:.0f} s"
                    lines = [f"{job.row} seed {job.seed}: {said}" for job, said in dict(status).items()]
                    live.update("\n".join([f"{len(done)}/{len(waiting)} runs, {spent}", *lines]))
                    if len(done) > finished:
                        finished = len(done)
                        print(f"{finished}/{len(waiting)} runs done after {spent}", flush=True)
                    time.sleep(0.5)
        except KeyboardInterrupt:  # each child saves at the end of its step
            for future in running.values():
                future.cancel()
            for child in children:
                child.send_signal(signal.SIGINT) if child.poll() is None else None
            sys.exit("stopped; the running arms save themselves. To go on: make -C adactrl reproduce")
    if failures := [str(f.exception()) for f in running.values() if f.exception()]:
        sys.exit("\n".join(failures))


def main() -> None:
    arguments = sys.argv[1:]
    scale = os.environ.get("SCALE", "small")
    if scale not in PRESETS:
        sys.exit(f"SCALE={scale} is not one of {', '.join(PRESETS)}")
    if unknown := set(arguments) - {"--dry-run", "--tables"}:
        sys.exit(f"unknown {', '.join(sorted(unknown))}; use --dry-run, --tables or neither")
    if "--dry-run" in arguments:
        for job in jobs(scale):
            print(f"{job.row} seed {job.seed}{' (done)' if job.done() else ''}: {job.command}")
        return
    if "--tables" not in arguments:
        reproduce(scale)
    if scale == "small":
        report.render()


if __name__ == "__main__":
    main()
