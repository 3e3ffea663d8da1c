"""`baseline.py` and `imitation.py` at smoke size, from a run of `train.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resip_assembly import baseline, imitation, starts, train
from resip_assembly.config import (
    BASELINE_PRESETS,
    IMITATION_PRESETS,
    PRESETS,
    BaselineConfig,
    Config,
    ImitationConfig,
)
from resip_assembly.report import Results
from shared import checkpoint, config

SMALLER = ["--ppo.iterations", "0", "--clone.updates", "20", "--eval.no-video", "--sim.threads", "1"]


def run(script: Any, config_type: Any, presets: Any, folder: Path, *options: str) -> dict[str, Any]:
    """The metrics of the manifest."""
    words = ["--preset", "smoke", *options, "--run.output-dir", str(folder), "--run.trackers"]
    script.main(config.parse(config_type, presets, args=words))
    return json.loads((folder / "manifest.json").read_text())["metrics"]


def imitate(folder: Path, *options: str) -> dict[str, Any]:
    return run(imitation, ImitationConfig, IMITATION_PRESETS, folder, *options)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dp"
    run(train, Config, PRESETS, folder, *SMALLER, "--eval.execute", "2")
    return folder


@pytest.mark.slow
def test_the_delta_action_space_trains(tmp_path: Path) -> None:
    """Demonstrations, base, expert and residual, all in deltas."""
    options = ("--sim.action-mode", "delta", "--residual.parametrisation", "normalised")
    smaller = [word.replace("0", "1") if word == "0" else word for word in SMALLER]
    metrics = run(train, Config, PRESETS, tmp_path / "delta", *smaller, *options)
    assert metrics["expert/success"] >= 0.75
    assert metrics["env_steps"] == 16 * 8
    lessons = imitation.demos.load(tmp_path / "delta" / "demonstrations")
    assert lessons.card.action_mode == "delta"
    assert np.abs(lessons.actions[:, :3]).max() < 0.06  # m


@pytest.mark.slow
def test_reranking_from_a_run(start: Path, tmp_path: Path) -> None:
    options = ("--kind", "rerank", "--start", str(start), "--loop.iterations", "1")
    metrics = run(baseline, BaselineConfig, BASELINE_PRESETS, tmp_path / "rerank", *options)
    assert metrics["env_steps"] == 1 * 2 * 8 * 8  # iterations, decisions, steps each, environments
    assert [steps for steps, _ in metrics["evaluations"]] == [0, 128]
    there, here = (Results(folder / "evaluations") for folder in (start, tmp_path / "rerank"))
    assert list(there) == ["expert", "base", "base_2"]
    assert list(here) == ["base", "rerank"]
    np.testing.assert_array_equal(there["base"].final_obs, here["base"].final_obs)  # taken over
    assert here["rerank"].seed == there["base"].seed  # the same episodes
    assert checkpoint.problem(tmp_path / "rerank" / "checkpoint-1") is None


@pytest.mark.slow
def test_a_student_of_demonstrations(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ("--data", "demos", "--start", str(start), "--updates", "10")
    metrics = imitate(tmp_path / "student", *options)
    assert metrics["student/episodes"] == 8
    lessons = imitation.demos.load(tmp_path / "student" / "demonstrations")
    assert lessons.card.episodes == 4
    first = imitation.demos.load(start / "demonstrations")
    assert not np.array_equal(lessons.observations[:5], first.observations[:5])  # fresh ones
    text = capsys.readouterr().out
    assert "to resume:  python -m resip_assembly.imitation --config " in text
    (tmp_path / "student" / "manifest.json").unlink()
    again = imitate(tmp_path / "student", *options, "--run.resume")
    assert "demonstrations 4/4" not in capsys.readouterr().out
    assert again == metrics


@pytest.mark.slow
def test_a_start_that_does_not_fit_is_refused(start: Path, tmp_path: Path) -> None:
    def refused(kind: str, folder: Path) -> None:
        baseline.main(
            config.parse(BaselineConfig, BASELINE_PRESETS, args=["--kind", kind, "--start", str(folder)])
        )

    with pytest.raises(ValueError, match=r"fine-tunes an MLP, the base of .* is a DiffusionPolicy"):
        refused("mlp_ppo", start)
    with pytest.raises(ValueError, match="holds no residual"):
        imitate(tmp_path / "none", "--data", "residual", "--start", str(start))
    assert not (tmp_path / "none").exists()
    (tmp_path / "config.json").write_text((start / "config.json").read_text())
    with pytest.raises(ValueError, match="is not finished"):
        refused("dppo", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["residual", "base", "dagger"])
def test_a_student_of_a_teacher(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    """With the scripted expert in the teacher's place, which at this size never succeeds; the run has no
    residual, which the base's rollouts do not need."""
    make, made = imitation.pipeline.environments, []

    def remember(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    class Teacher:
        base = starts.start_base(start, starts.start_config(start))

        def reset(self, mask: np.ndarray) -> None:
            self.expert = imitation.demos.ExpertAgent(made[-1], 1)

        def act(self, obs: np.ndarray) -> np.ndarray:
            return self.expert.act(obs)

    monkeypatch.setattr(imitation.pipeline, "environments", remember)
    if data == "base":
        agent = imitation.ChunkAgent
        monkeypatch.setattr(
            imitation, "ChunkAgent", lambda p, n: Teacher() if len(made) == 1 else agent(p, n)
        )
    else:
        monkeypatch.setattr(starts, "start_residual", lambda *_: Teacher())
    options = ("--data", data, "--start", str(start), "--updates", "10", "--episodes", "4")
    assert imitate(tmp_path / data, *options)["student/episodes"] == 8
    where = "student/labelled-1" if data == "dagger" else "demonstrations"
    lessons = imitation.demos.load(tmp_path / data / where)
    assert len(lessons.episodes) >= 4
    assert lessons.card.task == "peg_in_hole"
    assert 20 < min(lessons.lengths) < max(lessons.lengths) <= 120 + imitation.demos.HOLD_STEPS


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is not a run folder of train\.py"):
        starts.start_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"preset": "small"}')
    with pytest.raises(ValueError, match="missing key"):
        starts.start_config(tmp_path)


def test_run_folders_have_names_of_their_own() -> None:
    cfg = IMITATION_PRESETS["small"]
    assert starts.named(cfg, "residual-200").run.name == "small-residual-200-seed0"
