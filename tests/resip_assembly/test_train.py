"""`train.py` for real at smoke size: what it leaves behind, and a killed run that resumes bit for bit."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from resip_assembly import demos, videos, watch
from resip_assembly.env.rendering import NoRendering
from resip_assembly.report import Results
from shared import checkpoint

pytestmark = pytest.mark.slow
PACKAGE = Path(__file__).resolve().parents[2] / "resip_assembly"
OPTIONS = ["--preset", "smoke", "--ppo.iterations", "4", "--eval.no-video"]


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "train.py", *OPTIONS, *options, "--run.output-dir", str(folder)]
    return subprocess.Popen(command, cwd=PACKAGE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing disturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, finished(start(folder))


def test_what_a_run_leaves_behind(whole: tuple[Path, str]) -> None:
    folder, text = whole
    for words in ("scripted expert", "base policy", "base + residual", "95 % interval", "paired bootstrap"):
        assert words in text
    assert "watch it: python -m resip_assembly.watch " in text
    manifest = json.loads((folder / "manifest.json").read_text())["metrics"]
    results = Results(folder / "evaluations")
    assert list(results) == ["expert", "base", "residual"]
    for name in results:
        assert manifest[f"{name}/episodes"] == 8
        assert manifest[f"{name}/success"] == results[name].rate
    # the same episodes for all
    assert results["base"].seed == results["residual"].seed == results["expert"].seed
    assert manifest["env_steps"] == 4 * 16 * 8
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["rollout/env_steps"] for line in lines if "update/kl" in line] == [128, 256, 384, 512]
    assert (folder / "curves.png").stat().st_size > 5_000
    assert checkpoint.problem(folder / "demonstrations") is None
    assert checkpoint.problem(folder / "base" / "policy") is None
    assert checkpoint.problem(folder / "checkpoint-4") is None


def test_killed_and_resumed_it_is_the_same_run(whole: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = start(folder)
    deadline = time.monotonic() + 200
    while not (folder / "checkpoint-2").is_dir():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "manifest.json").exists()
    text = finished(start(folder, "--run.resume"))
    assert "resumed" in text
    one, two = (torch.load(f / "checkpoint-4" / "policy.pt", weights_only=True) for f in (whole[0], folder))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(value.abs().sum() > 0 for name, value in one.items() if name.startswith("actor.4"))
    metrics = []
    for f in (whole[0], folder):
        lines = [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()]
        metrics.append([{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines])
    assert metrics[0] == metrics[1]
    after = [Results(f / "evaluations")["residual"] for f in (whole[0], folder)]
    assert np.array_equal(after[0].final_obs, after[1].final_obs)


def test_a_diverged_clone_is_one_sentence(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--clone.lr", "1e30", "--clone.save-every", "2")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1, text
    assert re.search(
        r"error: cloning stopped: loss=(nan|inf) in update \d+; lower lr=1e\+30; .*(kept|yet)$", text
    )
    assert "Traceback" not in text


@pytest.mark.parametrize("module", ["train", "imitation"])
def test_no_demonstrations_are_one_sentence(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setattr(demos, "play", lambda env, agent, seed: [None] * env.num_envs)
    options = {
        "train": OPTIONS,
        "imitation": ["--preset", "smoke", "--data", "demos", "--start", str(whole[0])],
    }
    words = [*options[module], "--run.output-dir", str(tmp_path / "run"), "--run.trackers"]
    monkeypatch.setattr(sys, "argv", [f"{module}.py", *words])
    with pytest.raises(SystemExit, match=r"error: 0 of 80 attempts at peg_in_hole succeeded; .* were saved"):
        runpy.run_path(str(PACKAGE / f"{module}.py"), run_name="__main__")


def test_watch_films_what_was_judged(whole: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "film.gif"
    try:
        watch.main([str(whole[0]), "--policy", "expert", "--episodes", "1", "--out", str(out)])
    except SystemExit as stop:
        if "no OpenGL" in str(stop.code):
            pytest.skip(str(stop.code))
        raise
    assert out.read_bytes()[:3] == b"GIF"
    assert 5_000 < out.stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("inside", "named"),
    [
        (".", ["base", "base + residual"]),
        ("checkpoint-3", ["base", "base + checkpoint-3"]),
        ("best", ["base", "base + best"]),
        ("base/policy", ["base"]),
    ],
)
def test_watch_films_a_checkpoint(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, named: list[str]
) -> None:
    filmed = []

    def film(env: object, agent: object, *_: object) -> list[tuple[list[np.ndarray], bool]]:
        filmed.append(agent)
        return [([np.zeros((8, 8, 3), np.uint8)], True)]

    titles = []
    monkeypatch.setattr(videos, "film", film)
    monkeypatch.setattr(videos, "titled", lambda frames, title, success: titles.append(title) or frames)
    monkeypatch.chdir(whole[0] / inside)  # as a path that does not spell the run's name
    watch.main([".", "--episodes", "1", "--out", str(tmp_path / "film.gif")])
    assert titles == [f"{name}, episode 0" for name in named]
    if len(named) > 1:
        there = whole[0] / ("checkpoint-4" if inside == "." else inside)
        stored = torch.load(there / "policy.pt", weights_only=True)
        shown = filmed[1].residual.state_dict()
        assert all(torch.equal(shown[name], value) for name, value in stored.items())


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("base/checkpoint-40", "base/checkpoint-40 of the run .* is a checkpoint of cloning"),
        ("demonstrations", "is demonstrations or images, which cannot be filmed"),
        (
            "checkpoint-9",
            "is no checkpoint, .*: the run folder, best, checkpoint-3, checkpoint-4, base/policy",
        ),
    ],
)
def test_watch_says_what_a_folder_is(whole: tuple[Path, str], inside: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        watch.main([str(whole[0] / inside)])
    with pytest.raises(SystemExit, match=r"base is the base alone; for --policy residual give "):
        watch.main([str(whole[0] / "base"), "--policy", "residual"])


def test_watch_names_the_runs_of_other_scripts(tmp_path: Path) -> None:
    for key, script in (("kind", "baseline.py"), ("dagger_envs", "imitation.py")):
        (tmp_path / "config.json").write_text(json.dumps({"run": {}, "start": "runs/dp", key: 1}))
        with pytest.raises(SystemExit, match=f"is a run of {script}, .* starts from can: runs/dp"):
            watch.main([str(tmp_path)])


def test_watch_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"is not a run folder of train\.py"):
        watch.main([str(tmp_path)])
    with pytest.raises(SystemExit, match=r"films end in \.mp4 or \.gif"):
        watch.main([str(tmp_path), "--out", "film.avi"])
    with pytest.raises(SystemExit, match="--episodes 0 must be at least 1"):
        watch.main([str(tmp_path), "--episodes", "0"])


def test_students_are_not_looked_for_in_a_run_of_train(whole: tuple[Path, str]) -> None:
    with pytest.raises(
        SystemExit, match=r"is a run of train\.py; --policy student and --rollouts are distill"
    ):
        watch.main([str(whole[0]), "--policy", "student"])


def test_without_opengl_there_is_no_film_but_a_sentence(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise NoRendering("no OpenGL for images; install libegl1")

    monkeypatch.setattr(videos, "film", refuse)
    results = Results(whole[0] / "evaluations")
    results._found["residual"].success[:] = True
    results._found["base"].success[:] = False
    cfg = watch.from_dict(watch.Config, json.loads((whole[0] / "config.json").read_text()))
    base = watch.load_policy(whole[0] / "base" / "policy")
    residual = watch.load_residual(whole[0] / "checkpoint-4", base.normalizer)
    extra = watch.RelativePoses(watch.task_named(cfg.sim.task))
    assert videos.before_and_after(cfg, base, residual, extra, results, tmp_path) == []
    assert "no film: no OpenGL" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sim.task", "two_leg"], "unknown task 'two_leg'"),
        (["--sim.num-envs", "0"], "sim.num_envs=0 must be at least 1"),
        (["--sim.randomness", "medium"], "medium"),
        (["--sim.action-mode", "delta"], "corrects absolute poses"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, options: list[str], said: str) -> None:
    process = start(tmp_path / "run", *options)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2, text
    assert said in " ".join(text.replace("│", " ").split())
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()
