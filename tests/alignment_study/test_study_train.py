"""train.py end to end on a base that has barely been trained: both families, resume, Ctrl-C, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment_study import data, eval, pretrain, sampling, train
from alignment_study.config import PRESETS, Config
from alignment_study.trainer import AlignmentGRPO, NonFiniteLoss
from shared import checkpoint, config, gpu, pretrained
from shared.runs import RunConfig

PACKAGE = Path(train.__file__).parent
DATA = Path(os.environ.get("ADACTRL_DATA_DIR") or PACKAGE.parents[1] / "shared" / "data" / "math")
SMOKE = PRESETS["smoke"]
TINY = replace(  # the coin always has effective groups, whatever the model answers
    SMOKE,
    families="aligned",
    algo=replace(
        SMOKE.algo,
        reward="random_ungated",
        group_size=4,
        micro_batch_size=8,
        steps=3,
        max_completion_tokens=6,
    ),
    eval=replace(SMOKE.eval, problems=3, samples=4, every=1),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    training = pretrain.Pretraining(pretrain.Settings(hidden=16, layers=1, heads=2, steps=10, batch_size=8))
    training.train_step()
    training.model.save_pretrained(folder)
    training.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def few_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.story, "draw", lambda cfg, found, path: path.write_bytes(b"drawn"))


def settings(base: Path, folder: Path, cfg: Config = TINY, *, resume: bool = False, **algo: Any) -> Config:
    run = RunConfig(output_dir=str(folder), resume=resume, trackers=())
    return replace(cfg, base=str(base), pretrain_steps=None, algo=replace(cfg.algo, **algo), run=run)


def measured(folder: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and "second" not in k} for line in lines]


def results(folder: Path) -> dict[str, Any]:
    files = [*sorted((folder / "evaluations").iterdir()), folder / "model" / "model.safetensors"]
    return {path.name: path.read_bytes() for path in files} | {"metrics": measured(folder)}


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on the aligned family alone."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.story, "draw", lambda *args: None)
        train.main(settings(base, folder))
    return folder


def test_both_families_run_one_after_the_other_and_are_told_together(
    base: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[list[int]] = []
    real = AlignmentGRPO._sample
    monkeypatch.setattr(
        AlignmentGRPO,
        "_sample",
        lambda self, positions: [asked.append(g.prompt_ids) or g for g in real(self, positions)],
    )
    folder = tmp_path / "both"
    train.main(settings(base, folder, replace(TINY, families="both")))
    assert results(folder / "aligned") == results(whole)  # what runs before or after it changes nothing
    assert results(folder / "weak")["metrics"] != results(whole)["metrics"]
    names = {path.name for path in (folder / "weak" / "evaluations").iterdir()}
    assert names == {
        f"{task}-step{k}.csv.gz" for task in ("perm", "perm_transfer", "caesar") for k in range(4)
    }
    metrics = json.loads((folder / "manifest.json").read_text())["metrics"]
    assert metrics.keys() == {"aligned", "weak"}
    assert metrics["weak"]["caesar"].keys() == {"0", "1", "2", "3"}
    assert metrics["weak"]["caesar"]["3"].keys() == {"strict", "format", "lenient", "pass16"}
    assert checkpoint.problem(folder / "weak" / "model") is None
    text = capsys.readouterr().out
    assert text.count("has no chat template") <= 1
    assert "trained on perm (aligned), its accuracy" in text
    # RL asks exactly what the evaluation asks, token by token
    _, tokenizer = gpu.load_causal_lm(base)
    prompts = {p.prompt for name in ("perm", "caesar") for p in data.training_task(TINY, name).problems}
    known = set(map(tuple, sampling.prompt_ids(tokenizer, sorted(prompts))))
    assert asked
    assert set(map(tuple, asked)) <= known


def test_updates_move_the_weights_and_rows_cover_every_item(base: Path, whole: Path) -> None:
    before, after = (gpu.load_causal_lm(folder)[0].state_dict() for folder in (base, whole / "model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    rows = eval.read_all(whole, TINY.tasks)["perm"][3]
    assert [row.n for row in rows] == [4, 4, 4]
    assert [line["step"] for line in measured(whole)] == [1, 2, 3]
    assert all(line["sampling/effective_groups"] > 0 for line in measured(whole))


@pytest.mark.parametrize("when", [1, 2])
def test_killed_and_resumed_is_bit_identical(
    base: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    folder, real = tmp_path / "killed", AlignmentGRPO.sample_step

    def killed(self: AlignmentGRPO) -> Any:
        if self.state.global_step == 2 * when:  # a step and its checkpoint are done
            raise MemoryError("killed")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(AlignmentGRPO, "sample_step", killed)
        with pytest.raises(MemoryError):
            train.main(settings(base, folder))
    assert not (folder / "manifest.json").exists()
    torch.manual_seed(99)  # what the process did before does not matter
    train.main(settings(base, folder, resume=True))
    assert results(folder) == results(whole)


def test_ctrl_c_saves_and_says_how_to_go_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, handler = AlignmentGRPO.sample_step, signal.getsignal(signal.SIGINT)

    def interrupted(self: AlignmentGRPO) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(AlignmentGRPO, "sample_step", interrupted)
    with pytest.raises(SystemExit, match=r"stopped by Ctrl-C; to go on: .*--run\.resume"):
        train.main(settings(base, tmp_path / "run", save_every=50))
    assert "Ctrl-C: saving at the end of this step" in capsys.readouterr().out
    assert checkpoint.problem(tmp_path / "run" / "checkpoint-2") is None  # after one whole step
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_lost_loss_stops_and_keeps_the_last_good_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AlignmentGRPO._compute_loss

    def lost(self: AlignmentGRPO, *args: Any, **kwargs: Any) -> Any:
        return real(self, *args, **kwargs) * (float("nan") if self.state.global_step >= 2 else 1)

    monkeypatch.setattr(AlignmentGRPO, "_compute_loss", lost)
    with pytest.raises(SystemExit, match=r"is not finite; .*\nto go on from the last good checkpoint"):
        train.main(settings(base, tmp_path / "run"))
    assert [p.name for p in tmp_path.glob("run/checkpoint-*")] == ["checkpoint-2"]
    assert checkpoint.problem(tmp_path / "run" / "checkpoint-2") is None


def test_a_gradient_that_is_not_finite_is_not_saved() -> None:
    callback = train.RunCallback(None, "", 0, print)  # type: ignore[arg-type]
    args, state = (type("", (), {"learning_rate": 1.0})(), type("", (), {"global_step": 2})())
    with pytest.raises(NonFiniteLoss, match="grad_norm=nan in update 2"):
        callback.on_log(args, state, None, logs={"grad_norm": float("nan"), "loss": 0.0})


def test_one_shot_trains_on_the_problem_it_chose(base: Path, tmp_path: Path) -> None:
    one = {"samples": "one_shot", "selection": "random", "candidates": 3, "steps": 1}
    cfg = settings(base, tmp_path / "run", **one)
    train.main(cfg)
    chosen = json.loads((tmp_path / "run" / data.EXAMPLE_FILE).read_text())
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert set(history) == {chosen["id"]}
    assert chosen["how"] == "random"
    assert 0 <= chosen["accuracy"] <= 1
    assert checkpoint.problem(tmp_path / "run" / "model") is None


def test_bad_tasks_are_refused_before_anything_is_trained(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(settings(base, tmp_path / "run", replace(TINY, train_family="nothing")))
    assert stop.value.code == 2
    assert "error: no task 'nothing'; choose from perm" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_the_configuration_in_the_folder_is_the_runs(base: Path, whole: Path) -> None:
    stored = config.from_dict(Config, json.loads((whole / "config.json").read_text()))
    assert stored == settings(base, whole)


@pytest.mark.slow
def test_smoke_by_script(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    command = [sys.executable, "train.py", "--preset", "smoke", "--run.output-dir", str(folder)]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    for words in ("trained on perm (aligned)", "trained on caesar (weak)", "base pass@16", "One seed proves"):
        assert words in done.stdout
    assert done.stdout.count("has no chat template") == 1
    assert (folder / "learning-curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "manifest.json").read_text())["metrics"].keys() == {"aligned", "weak"}


@pytest.mark.pretrained
def test_the_pretrained_preset_takes_real_steps(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct: warm-up, base measured, one step on word problems, one on sums."""
    if not (pretrained.cache_root() / pretrained.FOLDER).exists():
        pytest.skip("no offline model; fetch it with: make pretrained-model")
    if not DATA.is_dir():
        pytest.skip(f"no local word problems in {DATA}")
    pytest.importorskip("reasoning_gym")
    sizes = {"warm-up.examples": 8, "warm-up.epochs": 1, "algo.steps": 1, "algo.group-size": 2}
    sizes |= {"algo.prompts-per-step": 2, "algo.micro-batch-size": 2, "algo.max-completion-tokens": 24}
    sizes |= {"eval.problems": 2, "eval.samples": 2, "algo.reward": "random_ungated"}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    words += ["--data.data-dir", str(DATA), "--run.output-dir", str(tmp_path / "run")]
    command = [sys.executable, "train.py", "--preset", "pretrained", *words]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    for role in ("aligned", "weak"):
        assert [line["step"] for line in measured(tmp_path / "run" / role)] == [1]
        assert checkpoint.problem(tmp_path / "run" / role / "model") is None
    assert "warm-up: 8 questions of gsm8k" in done.stdout
