"""Killed at any moment, resumed, and bit for bit the run that was never interrupted (CPU).

The runs are real `train.py` runs in processes of their own, forked from a server that has done the imports
once (8 s), not from this process: a fork of a process that has trained already may hang in autograd.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from shared import checkpoint

pytestmark = pytest.mark.slow
PACKAGE = Path(__file__).resolve().parents[2] / "adactrl"
OPTIONS = ["--preset", "smoke", "--algo.steps", "4", "--run.trackers", "tensorboard"]
PROGRAM = """
import os, runpy, sys
log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1), os.dup2(log, 2)
sys.argv = [path, *arguments]
os.chdir(os.path.dirname(path))
runpy.run_path(path, run_name="__main__")
"""

servers = multiprocessing.get_context("forkserver")
servers.set_forkserver_preload(["adactrl.train", "torch.utils.tensorboard"])


class TrainingRun:
    """`cd adactrl && python train.py OPTIONS --run.output-dir FOLDER`, with its output in `text`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.log = folder, folder.parent / f"{folder.name}.log"
        arguments = [*OPTIONS, *options, "--run.output-dir", str(folder)]
        names = {"log": str(self.log), "path": str(PACKAGE / "train.py"), "arguments": arguments}
        self.start = self.log.stat().st_size if self.log.exists() else 0
        self.process = servers.Process(target=exec, args=(PROGRAM, {"__name__": "run", **names}))
        self.process.start()

    @property
    def text(self) -> str:
        return self.log.read_bytes()[self.start :].decode()

    def wait_for(self, pattern: str, limit_s: float = 180) -> None:
        """Until a file matching `pattern` is in the folder; it must come before the run ends."""
        deadline = time.monotonic() + limit_s
        while not any(self.folder.glob(pattern)):
            assert self.process.is_alive(), f"ended without {pattern}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {pattern} after {limit_s} s:\n{self.text}"
            self.process.join(0.005)

    def send(self, number: signal.Signals) -> None:
        assert self.process.is_alive(), self.text
        os.kill(self.process.pid or 0, number)
        self.process.join(60)
        assert not self.process.is_alive()

    def finish(self) -> TrainingRun:
        self.process.join(240)
        assert self.process.exitcode == 0, self.text
        assert (self.folder / "manifest.json").is_file()
        return self


def same_results(one: Path, other: Path) -> None:
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]
    for name in ("samples-before.jsonl", "samples-after.jsonl", "probes-after.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert measured(one) == measured(other)


def measured(folder: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and "second" not in k} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "uninterrupted"
    return TrainingRun(folder).finish().folder


def test_uninterrupted_run_is_complete(uninterrupted: Path) -> None:
    assert checkpoint.problem(uninterrupted / "model") is None
    assert len(measured(uninterrupted)) == 4
    kept = sorted(int(p.name.split("-")[1]) for p in uninterrupted.glob("checkpoint-*"))
    assert kept == [4, 6, 8]  # two updates per step, a checkpoint per step, three kept


def test_killed_twice_and_resumed_is_bit_identical(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    first = TrainingRun(folder)
    first.wait_for("cold_start/model/COMPLETE.json")
    first.send(signal.SIGKILL)  # between the stages
    second = TrainingRun(folder, "--run.resume")
    second.wait_for("checkpoint-*/COMPLETE.json")
    second.send(signal.SIGKILL)  # in the middle of RL
    assert not (folder / "manifest.json").exists()
    third = TrainingRun(folder, "--run.resume").finish()
    assert "using checkpoint-" in third.text
    same_results(uninterrupted, folder)


@pytest.mark.parametrize("damage", ["truncated", "half-written"])
def test_a_bad_newest_checkpoint_is_passed_over_and_named(
    uninterrupted: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(uninterrupted, folder)
    for name in ("model", "manifest.json", "samples-after.jsonl", "probes-after.jsonl"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    newest = folder / "checkpoint-8"
    if damage == "truncated":
        weights = newest / "model.safetensors"
        os.truncate(weights, weights.stat().st_size - 100)
        reason = "skipped checkpoint-8: model.safetensors has"
    else:
        (newest / "COMPLETE.json").unlink()
        reason = "skipped checkpoint-8: no COMPLETE.json"
    run = TrainingRun(folder, "--run.resume").finish()
    assert reason in run.text
    assert "using checkpoint-6" in run.text
    assert run.text.index(reason) < run.text.index("using checkpoint-6")
    same_results(uninterrupted, folder)
    assert checkpoint.problem(newest) is None  # written again


def test_ctrl_c_saves_and_prints_the_command_that_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "interrupted"
    start = str(uninterrupted / "cold_start" / "model")
    options = ["--cold-start", start, "--algo.steps", "200", "--algo.save-every", "50", "--eval.no-before"]
    run = TrainingRun(folder, *options)
    run.wait_for("metrics.jsonl")  # a step is done; the next checkpoint would be 49 steps away
    run.send(signal.SIGINT)
    assert run.process.exitcode == 1
    assert "Ctrl-C: saving at the end of this step" in run.text
    (saved,) = folder.glob("checkpoint-*")
    assert checkpoint.problem(saved) is None
    steps = int(saved.name.split("-")[1])
    assert steps % 2 == 0  # never in the middle of a generated batch
    assert steps < 400
    command = run.text.strip().splitlines()[-1]
    assert command.startswith("stopped by Ctrl-C; to go on: python -m adactrl.train --config ")
    assert "--run.resume" in command
    assert f"--run.output-dir {os.path.relpath(folder, PACKAGE)}" in command
    assert not (folder / "manifest.json").exists()
    assert "Traceback" not in run.text
