"""What is kept of a run: one row per image, curves, and the checks on reading them back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cls_rl import evidence
from cls_rl.eval import Record
from cls_rl.evidence import Evidence, Key, RunKey
from cls_rl.grading import grade
from shared.tables import DirtyRecord

NAMES = ("owl", "sloth", "anchor")


def record(image: str, label: str, text: str, test: str = "animals") -> Record:
    found = grade(text, label, NAMES)
    return Record(test, image, label, **vars(found), length=len(text), truncated=False, text=text)


REPLIES = [
    record("noto-v1/a.png#1", "owl", "<think>an owl</think><answer>owl</answer>"),
    record("noto-v1/a.png#0", "owl", "<think>a sloth or an owl</think><answer>sloth</answer>"),
    record("noto-v1/b.png#0", "sloth", "anchor"),
    record("noto-v1/b.png#1", "anchor", "owl, sloth, anchor"),
]


def write(path: Path, rows: list[list[Any]]) -> evidence.Cell:
    evidence.write_images(rows, path)
    return evidence.read_images(path)["animals", "animals"]


def test_every_flag_of_every_image_comes_back_in_the_order_of_the_images(tmp_path: Path) -> None:
    cell = write(tmp_path / "a" / "x.csv.gz", evidence.rows_of("animals", REPLIES))
    assert cell.images == tuple(f"noto-v1/{c}.png#{i}" for c in "ab" for i in (0, 1))
    expected = {
        "exact": [0, 1, 0, 0],
        "substring": [0, 1, 0, 1],
        "in_list": [1, 1, 1, 0],
        "lists_all": [0, 0, 0, 1],
        "named": [1, 1, 0, 0],
        "inconsistent": [1, 0, 0, 0],
        "thought": [1, 1, 0, 0],
        "thought_exact": [1, 1, 0, 0],
    }
    assert {name: flags.astype(int).tolist() for name, flags in cell.flags.items()} == expected
    assert cell.length.tolist() == [len(REPLIES[i].text) for i in (1, 0, 2, 3)]
    assert cell.values("exact & in_list").tolist() == [0, 1, 0, 0]
    assert cell.values("length & inconsistent").tolist() == [len(REPLIES[1].text), 0, 0, 0]
    names, rows = cell.clusters
    assert (names, rows.tolist()) == (("noto-v1/a.png", "noto-v1/b.png"), [0, 0, 1, 1])


def test_the_same_rows_give_the_same_bytes_and_hold_no_folder_of_a_machine(tmp_path: Path) -> None:
    rows = evidence.rows_of("animals", REPLIES)
    evidence.write_images(rows, tmp_path / "x")
    evidence.write_images(rows[::-1], tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    for image, key in (
        (f"{tmp_path}/pictures/noto-v1/1f41c.png#3.png", "noto-v1/1f41c.png#3"),
        ("noto-v1/1f41c.png#3", "noto-v1/1f41c.png#3"),
        ("digits/12", "digits/12"),
        (f"{tmp_path}/cats/1.jpg", "cats/1.jpg"),
    ):
        assert evidence.key_of(image) == key


def test_an_image_twice_is_refused(tmp_path: Path) -> None:
    rows = evidence.rows_of("animals", [*REPLIES, REPLIES[2]])
    with pytest.raises(ValueError, match=r"x\.csv\.gz, animals/animals: image noto-v1/b\.png#0 stands"):
        write(tmp_path / "x.csv.gz", rows)


def test_curves_keep_one_name_for_either_methods_accuracy(tmp_path: Path) -> None:
    lines = [
        {"step": 0, "test/animals/exact": 0.5},
        {"step": 1, "reward/equality": 0.25, "rollout/length": 3.123456, "grad_norm": 1.0, "kl": None},
        {"step": 2, "reward/accuracy": 0.5, "reward/format": 1.0, "step_time": 2.0, "tokens/completion": 640},
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = evidence.curves_of(metrics)
    assert found == {
        "animals/exact": {0: 0.5},
        "accuracy": {1: 0.25, 2: 0.5},
        "length": {1: 3.1235},
        "format": {2: 1.0},
        "seconds": {2: 2.0},
        "tokens": {2: 640.0},
    }
    evidence.write_curves(found, tmp_path / "c.gz")
    assert evidence.read_curves(tmp_path / "c.gz") == found
    assert evidence.curves_of(tmp_path / "none.jsonl") == {}


# ---- a results folder


def results(folder: Path, dirty: bool = False, other_images: bool = False) -> Path:
    """An untuned model asked about two sets, and one tuned run with curves."""
    lines = []
    for arm, data_set in (("zero_thinking", "all"), ("thinking", "animals")):
        name = f"{arm}.csv.gz"
        sets = ("animals", "food") if data_set == "all" else ("animals",)
        replies = REPLIES[1:] if other_images and data_set != "all" else REPLIES
        asked = [(s, [record(r.image, r.label, r.text, s) for r in replies]) for s in sets]
        rows = [row for s, of in asked for row in evidence.rows_of(s, of)]
        evidence.write_images(rows, folder / "images" / name)
        line = {"row": f"cls_rl/few_shot/{data_set}/{arm}", "preset": "small", "scale": "small", "seed": 1}
        line |= {"commit": "0" * 40, "dirty": dirty, "config_hash": "x", "versions": {}, "hardware": "h"}
        line |= {"wall_s": 90.0, "n": 4, "metrics": {}, "command": "c", "name": arm, "setting": "few_shot"}
        line |= {"set": data_set, "arm": arm, "images": f"images/{name}", "curves": None}
        if arm == "thinking":
            evidence.write_curves({"accuracy": {1: 0.5}}, folder / "curves" / "t.json.gz")
            line["curves"] = "curves/t.json.gz"
        lines.append(line)
    (folder / "runs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_load_files_an_untuned_answer_under_the_set_it_was_asked_about(tmp_path: Path) -> None:
    records, found = evidence.load(results(tmp_path))
    assert len(records) == 2
    assert set(found.cells) == {
        Key("few_shot", "zero_thinking", "animals", "animals", 1),
        Key("few_shot", "zero_thinking", "food", "food", 1),
        Key("few_shot", "thinking", "animals", "animals", 1),
    }
    run = RunKey("few_shot", "thinking", "animals", 1)
    assert found.curves == {run: {"accuracy": {1: 0.5}}}
    assert found.wall_s == {run: 90.0}
    assert found.seeds("few_shot", "animals", "animals", "thinking", "zero_thinking") == [1]
    assert found.seeds("few_shot", "food", "food", "thinking", "zero_thinking") == []
    assert found.runs("few_shot", "thinking", "animals") == [1]


def test_no_results_are_no_evidence(tmp_path: Path) -> None:
    assert evidence.load(tmp_path) == ([], Evidence())


def test_a_dirty_record_and_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DirtyRecord, match="zero_thinking"):
        evidence.load(results(tmp_path / "dirty", dirty=True))
    with pytest.raises(ValueError, match="few_shot/thinking/animals/animals/1 was answered on other images"):
        evidence.load(results(tmp_path / "other", other_images=True))


def test_a_run_of_480_images_is_a_few_kilobytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(480):
        flags = rng.integers(0, 2, len(evidence.FLAGS)).tolist()
        rows.append(["animals", "animals", f"noto-v1/{i // 10:05x}.png#{i % 10}", *flags, i % 30])
    evidence.write_images(rows, path := tmp_path / "x.csv.gz")
    assert path.stat().st_size < 5_000
    assert gzip.decompress(path.read_bytes()).startswith(b"set,test,image,exact,")
