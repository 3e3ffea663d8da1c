"""train.py from end to end at smoke scale, resumption, evaluation files, and the dry run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tool_env_rl import eval, train
from tool_env_rl.config import PRESETS, Config
from tool_env_rl.evaluation import Evaluation
from tool_env_rl.metrics import EpisodeScore

ROOT = Path(__file__).resolve().parents[2]


def score(scenario: str, calls: int, solved: int) -> EpisodeScore:
    return EpisodeScore("e", scenario, 2, calls, solved, solved, solved, turns=2, answer_correct=True)


def test_tables_print_every_scenario_and_both_stages(capsys: pytest.CaptureFixture[str]) -> None:
    before = Evaluation([score("single_hop", 2, 0), score("multi_hop", 2, 1)])
    after = Evaluation([score("single_hop", 2, 2), score("multi_hop", 2, 2)])
    eval.print_tables({"before RL": before, "after RL": after})
    shown = capsys.readouterr().out
    for word in ("single_hop", "multi_hop", "all", "before RL", "after RL", "100.0"):
        assert word in shown
    assert eval.interval(after.test, "solve_f1") == (1.0, 1.0, 1.0)


def test_dry_run_builds_nothing(tmp_path: Path) -> None:
    env = os.environ | {"FIVE_RL_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "train.py", "--preset", "paper", "--dry-run"],
        cwd=ROOT / "tool_env_rl",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Qwen/Qwen2.5-7B-Instruct" in done.stdout
    assert "512 states x 16" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("FIVE_RL_CACHE", str(tmp_path / "cache"))
    preset = PRESETS["smoke"]
    return replace(preset, run=replace(preset.run, output_dir=str(tmp_path / "run"), trackers=()))


@pytest.mark.slow
def test_smoke_runs_resumes_and_writes_everything(
    smoke: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(smoke)
    shown = capsys.readouterr().out
    run = tmp_path / "run"
    for word in ("gold transcript", "base model: parsable", "iteration 2", "Solve-F1", "evaluate:"):
        assert word in shown
    manifest = json.loads((run / "manifest.json").read_text())
    assert 0 <= manifest["metrics"]["test/all/solve_f1"] <= 1
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert (run / "iteration-2" / "states.jsonl").exists()

    # Stopped in the second iteration, after its first batch: the same weights come out.
    finished = (run / "iteration-2" / "model" / "model.safetensors").read_bytes()
    (run / "iteration-2" / "model" / "COMPLETE.json").unlink()
    (run / "manifest.json").unlink()
    (run / "episodes-after.jsonl").unlink()
    last = run / "iteration-2" / "checkpoint-4"
    assert last.is_dir()
    (last / "COMPLETE.json").unlink()
    train.main(replace(smoke, run=replace(smoke.run, resume=True)))
    assert (run / "iteration-2" / "model" / "model.safetensors").read_bytes() == finished
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
