"""The runner: what it plans, what it skips, what it keeps of a finished run, and how it stops."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from cls_rl import arms, evidence, list_lengths, reproduce, transfer
from cls_rl.arms import ABLATED, Job
from cls_rl.config import PRESETS
from cls_rl.eval import Record, save_records
from cls_rl.splits import Example, Item

TRAIN = Job("train", "no_thinking", "few_shot", ABLATED, 1)
ONE_IMAGE = Record("t", "noto-v1/a.png#0", "owl", "owl", True, True, True, False, "none", 2, False, "owl")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(arms, "HERE", tmp_path)
    monkeypatch.setattr(reproduce, "HERE", tmp_path)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    return tmp_path


def finish(job: Job) -> None:
    """What a run leaves behind."""
    job.folder.mkdir(parents=True)
    (job.folder / "manifest.json").write_text(json.dumps({"config_hash": "abc", "metrics": {"x": 1.0}}))
    (job.folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "reward/equality": 0.5}) + "\n")
    names = ["after"] if job.kind == "train" else job.tested
    for name in names:
        save_records([ONE_IMAGE], job.folder / f"records-{name}.csv.gz")
    (job.folder / "checkpoint-40").mkdir()
    (job.folder / "model").mkdir()
    Image.new("RGB", (4, 4)).save(job.folder / "contact-sheet.png")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_finished_run_is_recorded_with_images_curves_and_pictures(here: Path) -> None:
    finish(TRAIN)
    reproduce.run_job(TRAIN, {}, [])
    (record,) = lines(here / "results" / "runs.jsonl")
    assert (record["name"], record["row"], record["arm"]) == (TRAIN.name, TRAIN.row, "no_thinking")
    assert (record["set"], record["setting"], record["n"]) == (ABLATED, "few_shot", 1)
    assert record["config_hash"] == "abc"
    assert record["command"].startswith("cd cls_rl && python train.py --run.seed 1 ")
    cells = evidence.read_images(here / "results" / record["images"])
    assert list(cells) == [(ABLATED, "t")]
    assert evidence.read_curves(here / "results" / record["curves"]) == {"accuracy": {1: 0.5}}
    assert (here / "figures" / "contact-sheet.png").exists()
    assert (TRAIN.folder / "model").exists()
    assert not (TRAIN.folder / "checkpoint-40").exists()
    assert reproduce.waiting_of([TRAIN], [record]) == []


def test_an_evaluation_is_recorded_under_every_set_it_answered(here: Path) -> None:
    job = Job("transfer", "thinking", "few_shot", "food", 1)
    finish(job)
    reproduce.run_job(job, {}, [])
    (record,) = lines(here / "results" / "runs.jsonl")
    assert record["curves"] is None
    cells = evidence.read_images(here / "results" / record["images"])
    assert [name for name, _ in cells] == sorted(job.tested)
    assert not (here / "figures").exists()


def test_a_run_of_the_sweep_has_a_file_of_its_own(here: Path) -> None:
    job = arms.sweep()[0]
    finish(job)
    reproduce.run_job(job, {}, [])
    (record,) = lines(here / "results" / "sweep.jsonl")
    assert (record["rate"], record["images"], record["metrics"]) == (job.rate, None, {"x": 1.0})
    assert not (here / "results" / "runs.jsonl").exists()


def test_a_start_that_is_made_again_is_not_recorded_again(here: Path) -> None:
    finish(TRAIN)
    reproduce.run_job(TRAIN, {}, [])
    reproduce.run_job(TRAIN, {}, [])
    assert len(lines(here / "results" / "runs.jsonl")) == 1


def test_what_waits_brings_the_starts_that_are_not_there(here: Path) -> None:
    lists = Job("train", "sft_full_text", "lists_5", ABLATED, 1)
    moved = Job("transfer", "no_thinking", "few_shot", ABLATED, 1)
    assert reproduce.waiting_of([lists, moved], []) == [lists.start, lists, TRAIN, moved]
    finish(TRAIN)
    assert reproduce.waiting_of([lists, moved], [{"name": lists.name}]) == [moved]
    assert reproduce.waiting_of([TRAIN], []) == [TRAIN]  # done, not recorded


def test_a_failing_script_is_named_and_what_starts_from_it_is_not_run(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    """There is no train.py in the temporary folder: its start fails, and so does nothing else."""
    moved = Job("transfer", "no_thinking", "few_shot", ABLATED, 1)
    other = Job("transfer", "thinking", "few_shot", "food", 1)
    finish(other)
    with pytest.raises(SystemExit) as stop:
        reproduce.run_all([TRAIN, moved, other], "runs")
    assert f"{TRAIN.name} stopped with exit code 2; see " in str(stop.value)
    assert f"{moved.name} was not run: the run that it starts from failed" in str(stop.value)
    assert "can't open file" in TRAIN.folder.with_suffix(".log").read_text()
    assert [r["name"] for r in lines(here / "results" / "runs.jsonl")] == [other.name]
    assert "runs: 3 to do; resume at any time" in capsys.readouterr().out


def test_a_stopped_run_goes_on_and_ctrl_c_reaches_the_child(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script waits for SIGINT, says what it was started with, and leaves."""
    (here / "train.py").write_text(
        "import sys, time\n"
        "try:\n    print('running', sys.argv[1], flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('saved', flush=True)\n"
    )
    TRAIN.folder.mkdir(parents=True)
    (TRAIN.folder / "config.json").write_text("{}")
    log = TRAIN.folder.with_suffix(".log")

    def sleep(seconds: float, real: Any = reproduce.time.sleep) -> None:
        real(0.02)
        if log.exists() and "running" in log.read_text() and sys._getframe(1).f_code.co_name == "run_all":
            raise KeyboardInterrupt

    monkeypatch.setattr(reproduce.time, "sleep", sleep)
    with pytest.raises(SystemExit, match=r"stopped\. To go on: make -C cls_rl reproduce"):
        reproduce.run_all([TRAIN], "runs")
    assert log.read_text().split() == ["running", "--run.resume", "saved"]


def test_dry_run_prints_every_command_and_what_they_need(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "zero", "empty", "--dry-run"])
    reproduce.main()
    *commands, total = capsys.readouterr().out.splitlines()
    planned = arms.jobs(["zero", "empty"])
    assert len(commands) == len(planned) == 18
    assert all(": cd cls_rl && python transfer.py " in line for line in commands)
    answers = 480 * (2 * 3 * (11 + 2 * 2) + 6)
    assert total.startswith(f"18 jobs, 0 of them done: 0 runs of 0 updates, {answers:,} test answers; ")
    monkeypatch.setattr("sys.argv", ["reproduce.py", "zeros", "--dry-run"])
    with pytest.raises(SystemExit, match="unknown zeros; use --sweep, --dry-run, --tables, or blocks: "):
        reproduce.main()


def test_updates_and_time_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Job("train", "no_thinking_long", "few_shot", ABLATED, 1)
    assert (reproduce.updates(TRAIN), reproduce.updates(long)) == (arms.STEPS, arms.LONGER * arms.STEPS)
    assert reproduce.tests(Job("train", "thinking", "base_to_new", ABLATED, 1)) == 2
    monkeypatch.setattr(reproduce, "START_S", 20.0)
    monkeypatch.setattr(reproduce, "ANSWER_S", 0.01)
    monkeypatch.setattr(reproduce, "UPDATE_S", {"thinking": 3.0, "no_thinking": 2.0, "sft": 0.5})
    assert reproduce.seconds_of(TRAIN) == 20 + 4.8 + 2 * arms.STEPS
    assert (
        reproduce.seconds_of(Job("train", "sft_full_text", "few_shot", ABLATED, 1)) == 24.8 + 0.5 * arms.STEPS
    )
    assert reproduce.seconds_of(Job("train", "adaptive", "few_shot", ABLATED, 1)) == 24.8 + 3 * arms.STEPS


# ---- transfer.py and list_lengths.py


def test_sets_are_taken_out_of_the_command_line(capsys: pytest.CaptureFixture) -> None:
    rest = ["--preset", "small", "--algo.method", "thinking"]
    words = [*rest[:2], "--sets", "food", "flags", *rest[2:]]
    assert transfer.split_sets(words) == (["food", "flags"], rest)
    assert transfer.split_sets(rest) == ([], rest)
    with pytest.raises(SystemExit):
        transfer.evaluate_sets(PRESETS["small"], [])
    assert "--sets is missing; name one or more of animals, " in capsys.readouterr().err
    for bad, said in (
        (["--sets"], "--sets names no set"),
        (["--sets", "cars"], "--sets cars: not one of animals, "),
    ):
        with pytest.raises(SystemExit):
            transfer.split_sets(bad)
        assert said in capsys.readouterr().err


def test_sets_are_answered_one_by_one_and_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: what is asked of which set, and that a finished set is not asked again."""
    asked: list[tuple[str, str]] = []

    def evaluate(bundle: Any, task: str, cfg: Any) -> list[Record]:
        asked.append((cfg.data.set, cfg.data.setting))
        if cfg.data.set == "flags" and len(asked) == 2:
            raise KeyboardInterrupt
        return [ONE_IMAGE]

    monkeypatch.setattr(transfer.eval, "evaluate", evaluate)
    monkeypatch.setattr(transfer.eval, "load_bundle", lambda cfg: None)
    monkeypatch.setattr(transfer.data, "load_task", lambda cfg, seed: cfg.set)
    words = ["--run.output-dir", str(tmp_path / "run"), "--data.setting", "few_shot"]
    monkeypatch.setattr("sys.argv", ["transfer.py", *words, "--sets", "food", "flags"])
    with pytest.raises(KeyboardInterrupt):
        transfer.main()
    assert not (tmp_path / "run" / "manifest.json").exists()
    monkeypatch.setattr("sys.argv", ["transfer.py", "--run.resume", *words])  # the sets are remembered
    transfer.main()
    assert asked == [("food", "few_shot"), ("flags", "few_shot"), ("flags", "few_shot")]
    metrics = json.loads((tmp_path / "run" / "manifest.json").read_text())["metrics"]
    assert metrics["food/t/exact"] == metrics["flags/t/exact"] == 1.0


def test_a_shortened_list_keeps_the_label_once() -> None:
    names = tuple(f"name {i}" for i in range(24))
    for i in range(24):
        item = Item(f"noto-v1/{i}.png#0", names[i], "", 0)
        found = list_lengths.shortened(Example(item, names), 5, seed=1)
        assert len(set(found.options)) == 5
        assert found.options.count(names[i]) == 1
        assert found == list_lengths.shortened(Example(item, names), 5, seed=1)
    places = {
        list_lengths.shortened(Example(Item(f"a/{i}", "name 0", "", 0), names), 5, 1).options.index("name 0")
        for i in range(40)
    }
    assert places == set(range(5))  # the label's place tells nothing


def test_a_short_split_is_written_pixel_for_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With drawings of our own: 4 shots of 3 classes, and what `train.py` will read back."""
    from cls_rl import data_sets
    from cls_rl.config import Data
    from cls_rl.data import load_task

    def picture(key: str, side: int = 64) -> Image.Image:
        rng = random.Random(key)
        return Image.frombytes("RGB", (side, side), rng.randbytes(side * side * 3))

    sides: dict[Literal["train", "test"], str] = {"train": "emojione", "test": "noto-v1"}
    items = [
        Item(f"{vendor}/{label}{d}.png#{c}", label, f"{vendor}{label}{d}", 0, vendor, side)
        for side, vendor in sides.items()
        for label in ("owl", "sloth", "anchor") for d in range(2) for c in range(3)
    ]  # fmt: skip
    monkeypatch.setattr(data_sets, "load", lambda name, copies: items)
    monkeypatch.setattr(data_sets, "picture", picture)
    list_lengths.main(
        ["animals", "--names", "2", "--seed", "1", "--images", "9", "--out", str(tmp_path / "s")]
    )
    task = load_task(Data(source="folder", set=str(tmp_path / "s")), 1)
    assert (len(task.train), {k: len(v) for k, v in task.tests.items()}) == (12, {"animals": 9})
    for query in (*task.train, *task.tests["animals"]):
        assert len(query.options) == 2
        assert query.label in query.options
        assert task.picture(query.image, 64).tobytes() == picture(evidence.key_of(query.image)).tobytes()
    with pytest.raises(SystemExit, match="a list of one name holds the answer"):
        list_lengths.main(["animals", "--names", "1", "--out", str(tmp_path / "t")])


def test_every_run_has_a_log_of_its_own() -> None:
    planned = [*arms.sweep(), *arms.jobs()]
    assert len({reproduce.log_of(job) for job in planned}) == len(planned)
