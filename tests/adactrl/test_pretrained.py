"""The `pretrained` preset for real, a few steps: SmolLM2-135M-Instruct on GSM8K, cold start to user modes.

Marker `pretrained` (not in the default run: it needs `make pretrained-model` and minutes).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared import checkpoint, pretrained

PACKAGE = Path(__file__).resolve().parents[2] / "adactrl"
DATA = Path(os.environ.get("ADACTRL_DATA_DIR") or PACKAGE.parents[1] / "shared" / "data" / "math")
SIZES = {
    "sft.steps": 2, "sft.examples": 8, "sft.batch-size": 4, "sft.micro-batch-size": 2,
    "algo.steps": 2, "algo.group-size": 4, "algo.prompts-per-generation": 2, "algo.prompts-per-step": 2,
    "algo.updates-per-step": 2, "algo.micro-batch-size": 4, "algo.save-every": 1, "algo.filter": "none",
    "algo.max-completion-tokens": 96, "algo.overlong-buffer": 16, "eval.problems": 2,
}  # fmt: skip


@pytest.mark.pretrained
def test_the_preset_trains_saves_and_answers(tmp_path: Path) -> None:
    if not (pretrained.cache_root() / pretrained.FOLDER).exists():
        pytest.skip("no offline model; fetch it with: make pretrained-model")
    if not DATA.is_dir():
        pytest.skip(f"no local GSM8K in {DATA}")
    run = tmp_path / "run"
    words = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    words += ["--data.data-dir", str(DATA), "--run.output-dir", str(run)]
    command = [sys.executable, "train.py", "--preset", "pretrained", *words]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert checkpoint.problem(run / "model") is None
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(abs(line["loss"]) < 100 for line in steps)  # finite, and there
    assert json.loads((run / "manifest.json").read_text())["metrics"]
    # forced tag as the assistant's first characters
    ask = [sys.executable, "-m", "adactrl.generate", str(run), "--mode", "hard", "What is 2 + 3?"]
    answer = subprocess.run(ask, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "[Hard]" in answer.stdout
