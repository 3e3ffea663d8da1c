"""Run folders: written, refused, resumed, emptied; and the records that tables are made from."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shared import checkpoint, config, runs, tables
from shared.runs import RunConfig

RUN = RunConfig(trackers=())


@dataclass(frozen=True)
class Algo:
    lr: float = 0.1
    clip: tuple[float, float] = (0.2, 0.28)


@dataclass(frozen=True)
class Config:
    preset: str = "small"
    algo: Algo = Algo()
    run: RunConfig = RUN


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A git repository with one commit in place of ours, and a process that is not under accelerate."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("runs/\n")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "-m", "one")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True
    ).stdout


def with_run(cfg: Config, **fields) -> Config:
    return dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, **fields))


def lines(run: runs.Run) -> list[dict]:
    return [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]


def refused(cfg: Config, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        runs.start(cfg, "paper")
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def test_a_new_run_writes_config_environment_and_code(root, capsys):
    (root / "code.py").write_text("a = 2\n")
    run = runs.start(Config(), "paper")
    assert run.dir == root / "paper" / "runs" / "small-seed0"
    assert not run.resumed
    assert not run.finished
    assert config.from_dict(Config, json.loads((run.dir / "config.json").read_text())) == Config()
    assert "-a = 1\n+a = 2" in (run.dir / "code.diff").read_text()
    environment = json.loads((run.dir / "environment.json").read_text())
    assert environment["commit"] == git(root, "rev-parse", "HEAD").strip()
    assert environment["dirty"] is True
    assert run.resume_command() in capsys.readouterr().out


def test_name_and_output_dir_choose_the_folder(root, tmp_path):
    assert runs.start(with_run(Config(), name="x"), "paper").dir == root / "paper" / "runs" / "x"
    assert runs.start(with_run(Config(), output_dir=str(root / "runs" / "y")), "paper").dir == root / "runs/y"


def test_metrics_are_on_disk_at_once_and_nan_is_null(root):
    run = runs.start(Config(), "paper")
    run.log({"loss": np.float32(0.5), "bad": math.nan}, step=1)
    run.log({"loss": 0.25}, step=2)
    assert lines(run) == [{"step": 1, "loss": 0.5, "bad": None}, {"step": 2, "loss": 0.25}]


def test_finish_writes_the_manifest_last(root):
    run = runs.start(Config(), "paper")
    run.log({"loss": 1.0}, step=1)
    assert not run.finished
    run.finish({"accuracy": np.float64(0.75), "broken": math.inf})
    assert run.finished
    manifest = json.loads((run.dir / "manifest.json").read_text())
    assert manifest["metrics"] == {"accuracy": 0.75, "broken": None}
    assert manifest["config_hash"] == config.config_hash(Config())
    assert manifest["commit"] == git(root, "rev-parse", "HEAD").strip()
    assert manifest["dirty"] is False


def test_an_existing_folder_in_a_pipe_is_refused_with_the_two_flags(root, capsys):
    runs.start(Config(), "paper")
    capsys.readouterr()
    message = refused(Config(), capsys)
    assert "--run.resume" in message
    assert "--run.overwrite" in message


@pytest.mark.parametrize(("answer", "resumed"), [("r", True), ("Overwrite", False)])
def test_a_person_at_a_terminal_is_asked(root, monkeypatch, answer: str, resumed: bool):
    old = runs.start(Config(), "paper")
    old.log({"loss": 1.0}, step=1)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    assert runs.start(Config(), "paper").resumed is resumed
    assert (old.dir / "metrics.jsonl").exists() is resumed


def test_a_person_may_abort(root, monkeypatch, capsys):
    old = runs.start(Config(), "paper")
    old.log({"loss": 1.0}, step=1)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    capsys.readouterr()
    assert "nothing was changed" in refused(Config(), capsys)
    assert lines(old) == [{"step": 1, "loss": 1.0}]


def test_resume_goes_on_and_cuts_metrics_beyond_the_checkpoint(root, capsys):
    first = runs.start(Config(), "paper")
    for step in (1, 2, 3):
        first.log({"loss": float(step)}, step)
    with open(first.dir / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # SIGKILL in the middle of a line
    for step in (2, 3):
        folder = first.dir / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model").write_text("m")
    checkpoint.mark_complete(first.dir / "checkpoint-2")
    second = runs.start(with_run(Config(), resume=True), "paper")
    assert second.resumed
    capsys.readouterr()
    assert second.last_checkpoint() == first.dir / "checkpoint-2"
    assert capsys.readouterr().out.startswith("skipped checkpoint-3: no COMPLETE.json")
    second.truncate_after(2)
    second.log({"loss": 30.0}, 3)
    assert [(line["step"], line["loss"]) for line in lines(second)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert (second.dir / "environment.1.json").exists()
    assert (second.dir / "code.1.diff").exists()


def test_resume_of_nothing_is_a_new_run(root):
    run = runs.start(with_run(Config(), resume=True), "paper")
    assert not run.resumed
    assert run.last_checkpoint() is None


def test_resume_refuses_another_config_and_names_the_fields(root, capsys):
    runs.start(with_run(Config(), name="x"), "paper")
    capsys.readouterr()
    other = Config(algo=Algo(lr=0.2), run=RunConfig(name="x", resume=True, seed=3, trackers=()))
    message = refused(other, capsys)
    assert "algo.lr (0.1 there, 0.2 now), run.seed (0 there, 3 now)" in message
    assert "clip" not in message
    assert "run.resume" not in message


def test_the_resume_command_resumes(root, monkeypatch):
    monkeypatch.chdir(root)
    cfg = with_run(Config(algo=Algo(lr=0.3)), output_dir="runs/a b", seed=4)
    words = shlex.split(runs.start(cfg, "paper").resume_command())
    assert words[:3] == ["python", "-m", "paper.train"]
    again = config.parse(Config, {"small": Config()}, args=words[3:])
    assert again == with_run(cfg, resume=True)
    assert runs.start(again, "paper").resumed
    assert runs.start(again, "paper", "baseline").resume_command().startswith("python -m paper.baseline ")


def test_overwrite_empties_a_run_folder(root):
    old = runs.start(Config(), "paper")
    old.finish({})
    (old.dir / "checkpoint-1").mkdir()
    new = runs.start(with_run(Config(algo=Algo(lr=9.0)), overwrite=True), "paper")
    assert not new.finished
    assert sorted(p.name for p in new.dir.iterdir()) == ["code.diff", "config.json", "environment.json"]
    assert json.loads((new.dir / "config.json").read_text())["algo"]["lr"] == 9.0


@pytest.mark.parametrize("content", [None, "{", '{"model": "some other program"}', "[1]"])
@pytest.mark.parametrize("flag", ["overwrite", "resume"])
def test_a_folder_of_somebody_else_is_never_touched(root, capsys, content: str | None, flag: str):
    folder = root / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    if content is not None:
        (folder / "config.json").write_text(content)
    cfg = with_run(Config(), output_dir=str(folder), **{flag: True})
    assert "holds no config.json of a run" in refused(cfg, capsys)
    assert (folder / "chapter.tex").read_text() == "years of work"


def test_overwriting_does_not_follow_links(root):
    outside = root / "data"
    outside.mkdir()
    (outside / "precious").write_text("x")
    run = runs.start(Config(), "paper")
    (run.dir / "link").symlink_to(outside)
    runs.start(with_run(Config(), overwrite=True), "paper")
    assert (outside / "precious").exists()
    assert not (run.dir / "link").exists()


def test_a_run_killed_before_its_config_was_written_can_start_again(root):
    folder = root / "paper" / "runs" / "small-seed0"
    folder.mkdir(parents=True)
    (folder / ".config.json.123.tmp").write_text("{")
    assert not runs.start(Config(), "paper").resumed


def test_resume_and_overwrite_exclude_each_other(root, capsys):
    assert "exclude each other" in refused(with_run(Config(), resume=True, overwrite=True), capsys)


def test_a_missing_tracker_is_one_sentence_with_the_command(root, capsys, monkeypatch):
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    assert "pip install wandb" in refused(with_run(Config(), trackers=("wandb",)), capsys)
    assert not (root / "paper").exists()


@pytest.mark.slow
def test_tensorboard_gets_the_numbers(root):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runs.start(with_run(Config(), trackers=("tensorboard",)), "paper")
    run.log({"loss": 0.5, "bad": math.nan}, step=7)
    run.finish({})
    events = EventAccumulator(str(run.dir / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 0.5)]


def test_only_the_main_process_writes(root, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run = runs.start(Config(), "paper")
    run.log({"loss": 1.0}, 1)
    run.truncate_after(0)
    run.finish({})
    assert not (root / "paper").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run.resume_command().startswith("accelerate launch ")


@pytest.mark.parametrize(
    ("path", "dirty"),
    [
        ("paper/results/runs.jsonl", False),
        ("paper/RESULTS.md", False),
        ("README.md", False),
        ("paper/figures/curve.png", False),
        ("paper/runs/x/config.json", False),  # ignored by git
        ("paper/train.py", True),
        ("paper/figures/plot.py", True),
        ("paper/logo.png", True),
        ("with space/é.py", True),
    ],
)
def test_dirty_means_code_not_results(root, path: str, dirty: bool):
    assert runs.environment()["dirty"] is False
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("x")
    assert runs.environment()["dirty"] is dirty


def test_without_git_everything_is_dirty(root, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    environment = runs.environment()
    assert (environment["commit"], environment["dirty"]) == ("unknown", True)


def test_environment_names_versions_and_hides_this_machines_paths(root, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/x/python", "-u", f"{root}/paper/train.py", "--algo.lr", "1 e"])
    environment = runs.environment()
    assert environment["command"] == "python paper/train.py --algo.lr '1 e'"
    assert environment["versions"]["python"].startswith("3.")
    assert environment["versions"]["torch"].startswith("2.")
    assert set(environment["versions"]) == {"python", *runs.PACKAGES}
    (root / "paper").mkdir()
    monkeypatch.chdir(root / "paper")
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py"])
    assert runs.environment()["command"] == "cd paper && python train.py"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runs.environment()["command"] == "cd paper && accelerate launch --num_processes 2 train.py"


def append(path: Path, row: str = "T1/r1", **more) -> dict:
    return runs.append_record(
        path,
        row=row,
        preset="small",
        scale="small",
        seed=0,
        config_hash="0" * 12,
        wall_s=1.5,
        n=10,
        metrics={"accuracy": np.float64(0.5), "auc": math.nan},
        command="python train.py",
        **more,
    )


def test_records_survive_the_round_trip(root):
    path = root / "paper" / "results" / "runs.jsonl"
    given = [append(path), append(path, "T1/é", supersedes="T1/r1", file="a.jsonl")]
    assert tables.load_records(path) == given
    assert given[0]["metrics"] == {"accuracy": 0.5, "auc": None}
    assert given[0]["commit"] == git(root, "rev-parse", "HEAD").strip()
    assert given[1]["file"] == "a.jsonl"
    tables.refuse_dirty(given)
    for line in path.read_text().splitlines():
        assert list(json.loads(line)) == sorted(json.loads(line))


def test_a_record_of_dirty_code_says_so(root):
    (root / "code.py").write_text("a = 3\n")
    with pytest.raises(tables.DirtyRecord, match="T1/r1"):
        tables.refuse_dirty([append(root / "paper" / "results" / "runs.jsonl", dirty=False)])


def test_a_record_after_a_half_written_line_stays_whole(root):
    path = root / "runs.jsonl"
    path.write_text('{"row": "cut')
    append(path)
    with pytest.raises(tables.BadRecord, match="line 1"):
        tables.load_records(path)
    assert json.loads(path.read_text().splitlines()[1])["row"] == "T1/r1"


def test_a_record_without_its_fields_is_refused_and_not_written(root):
    with pytest.raises(ValueError, match="lacks scale, config_hash, wall_s, n"):
        runs.append_record(root / "runs.jsonl", row="r", preset="small", seed=0, metrics={}, command="x")
    assert not (root / "runs.jsonl").exists()
