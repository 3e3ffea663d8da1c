"""`train.py` on a folder of coloured squares: what it writes, what it refuses, and killed runs that go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared import checkpoint

PACKAGE = Path(__file__).resolve().parents[2] / "cls_rl"
COLOURS = {
    "red apple": (220, 30, 30),
    "owl": (120, 80, 30),
    "anchor": (30, 30, 200),
    "maple leaf": (30, 180, 40),
}
FAST = [
    "--preset",
    "smoke",
    "--algo.max-completion-tokens",
    "5",
    "--data.source",
    "folder",
    "--algo.lr",
    "1e-3",
]
PROGRAM = """
import os, runpy, sys
log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1), os.dup2(log, 2)
sys.argv = [path, *arguments]
os.chdir(os.path.dirname(path))
runpy.run_path(path, run_name="__main__")
"""

servers = multiprocessing.get_context("forkserver")
servers.set_forkserver_preload(["cls_rl.train", "torch.utils.tensorboard"])


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base-to-new split of four classes, made by the user's command."""
    from cls_rl import folders

    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / "photos" / name).mkdir(parents=True)
        for i in range(6):
            noise = rng.integers(-20, 21, (16, 16, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    arguments = ["--out", str(root / "split"), "--setting", "base_to_new", "--shots", "2"]
    folders.main([str(root / "photos"), *arguments])
    return root / "split"


@pytest.fixture(scope="module")
def schooled(tiny: Any, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after a few supervised updates: it answers with names, so that rewards vary."""
    from cls_rl.config import PRESETS, to_sft_config
    from cls_rl.data import Prompts, load_task
    from cls_rl.model import load, save
    from cls_rl.sft import ClassificationSFT

    folder = tmp_path_factory.mktemp("schooled")
    cfg = PRESETS["smoke"]
    algo = replace(cfg.algo, objective="sft_completion", lr=5e-3, prompts_per_step=4, micro_prompts=4)
    cfg = replace(cfg, algo=algo, data=replace(cfg.data, source="folder", set=str(squares)))
    task = load_task(cfg.data, 0)
    bundle = load(tiny.folder)
    source = Prompts(task.train, task.picture, bundle, "no_thinking")
    ClassificationSFT(source, algo, to_sft_config(cfg, folder / "run", 40)).train()
    save(bundle, folder / "model")
    return folder / "model"


class TrainingRun:
    """`cd cls_rl && python train.py OPTIONS --run.output-dir FOLDER`, with its output in `text`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.log = folder, folder.parent / f"{folder.name}.log"
        arguments = [*FAST, *options, "--run.output-dir", str(folder)]
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


def measured(folder: Path) -> list[dict]:
    """metrics.jsonl without the times and TRL's token counter, which a resumed run starts anew."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if "time" not in k and "second" not in k and k != "num_tokens"}
        for line in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["rl", "sft_full_text"])
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(
    squares: Path, schooled: Path, tmp_path: Path, objective: str
) -> None:
    options = ["--data.set", str(squares), "--model.name", str(schooled), "--algo.objective", objective]
    options += ["--algo.steps", "4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    TrainingRun(whole, *options).finish()
    run = TrainingRun(killed, *options)
    run.wait_for("checkpoint-2/COMPLETE.json")
    run.send(signal.SIGKILL)
    assert not (killed / "manifest.json").exists()
    again = TrainingRun(killed, *options, "--run.resume").finish()
    assert "using checkpoint-" in again.text
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]
    assert weights[0] != (schooled / "model.safetensors").read_bytes()  # it did learn something
    assert measured(whole) == measured(killed)
    for name in ("records-before.csv.gz", "records-after.csv.gz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    if objective == "rl":
        assert any(line.get("reward/equality", 0) > 0 for line in measured(whole))


@pytest.mark.slow
def test_a_run_shows_everything_and_its_model_can_be_used(
    squares: Path, schooled: Path, tmp_path: Path, capsys: Any
) -> None:
    options = ["--data.set", str(squares), "--model.name", str(schooled), "--eval.every", "2"]
    run = TrainingRun(tmp_path / "run", *options, "--model.lora-rank", "2").finish()
    for word in (
        "4 training images",
        "harmonic mean of base and new",
        "before",
        "after",
        "contact-sheet.png",
    ):
        assert word in run.text
    for name in ("config.json", "environment.json", "records-before.csv.gz", "learning-curves.png"):
        assert (run.folder / name).is_file()
    assert checkpoint.problem(run.folder / "model") is None
    lines = measured(run.folder)
    assert [line["step"] for line in lines if "test/base/exact" in line] == [0, 2]
    last = next(line for line in reversed(lines) if "reward/equality" in line)
    assert {"kl", "rollout/in_list", "rollout/length", "tokens/image", "reward/zero_std_share"} <= last.keys()

    from cls_rl import classify, eval

    eval.main([str(run.folder)])
    said = capsys.readouterr().out
    assert "per second" in said
    assert list((run.folder / "model").glob("records-*.csv.gz"))
    photo = next((squares.parent / "photos").rglob("*.png"))
    assert classify.main([str(run.folder / "model"), str(photo), "--names", "owl,anchor"]) == 0


@pytest.mark.slow
def test_two_processes_train_on_different_prompts(squares: Path, schooled: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    from cls_rl.model import load

    folder = tmp_path / "two"
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    words += ["--config_file", str(PACKAGE / "accelerate" / "cpu2.yaml"), "train.py", *FAST]
    words += ["--data.set", str(squares), "--model.name", str(schooled), "--run.output-dir", str(folder)]
    done = subprocess.run(words, cwd=PACKAGE, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("run folder: ") == 1  # rank 0 alone speaks
    assert load(folder / "model").side == 64
    assert [line["step"] for line in measured(folder)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data.set", "nowhere", "--model.name", "x"], "nowhere holds no split.json"),
        (["--data.source", "drawings", "--data.set", "animal"], "is not one of animals"),
        (["--algo.group-size", "1"], "2 samples to compare"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    options: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    from cls_rl import train
    from cls_rl.config import PRESETS, Config
    from shared import config

    arguments = [*FAST, *options, "--run.output-dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stopped:
        train.main(config.parse(Config, PRESETS, args=arguments))
    assert stopped.value.code == 2
    flat = " ".join(capsys.readouterr().err.replace("\u2502", " ").split())
    assert said in flat


def test_a_missing_model_names_the_fix(squares: Path, tmp_path: Path, capsys: Any) -> None:
    from cls_rl import train
    from cls_rl.config import PRESETS, Config
    from shared import config

    options = ["--data.set", str(squares), "--model.name", "Qwen/Qwen2-VL-2B-Instruct"]
    cfg = config.parse(Config, PRESETS, args=[*FAST, *options, "--run.output-dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        train.main(cfg)
    assert "hf download Qwen/Qwen2-VL-2B-Instruct" in capsys.readouterr().err


def test_the_split_of_a_task_is_the_folders(squares: Path) -> None:
    from cls_rl.config import Data
    from cls_rl.data import load_task

    task = load_task(Data(source="folder", set=str(squares)), seed=5)
    assert {name: len(rows) for name, rows in task.tests.items()} == {"base": 8, "new": 12}
    assert len(task.train) == 4
    assert {q.label for q in task.train} == {"anchor", "maple leaf"}
    assert task.picture(task.train[0].image, 64).size == (64, 64)
    broken = squares.parent / "photos" / "owl" / "0.png"
    kept = broken.read_bytes()
    try:
        broken.write_bytes(kept[:40])
        with pytest.raises(ValueError, match=r"owl/0\.png: .*fetch the file again|owl/0\.png: not an image"):
            task.picture(str(broken), 64)
    finally:
        broken.write_bytes(kept)
        shutil.rmtree(squares.parent / "none", ignore_errors=True)
