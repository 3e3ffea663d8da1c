"""A checkpoint counts only if every byte that was there at the end is still there."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from shared import checkpoint


def make(root: Path, step: int) -> Path:
    folder = root / f"checkpoint-{step}"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "model.bin").write_bytes(bytes(range(200)))
    (folder / "optimizer" / "state.bin").write_bytes(b"state")
    checkpoint.mark_complete(folder)
    return folder


def test_marker_lists_sizes_and_hashes_and_the_folder_is_usable(tmp_path):
    folder = make(tmp_path, 1)
    files = json.loads((folder / "COMPLETE.json").read_text())["files"]
    assert list(files) == ["model.bin", "optimizer/state.bin"]
    assert files["optimizer/state.bin"] == {
        "bytes": 5,  # sha256sum of the five letters "state"
        "sha256": "4ba69735ca53765ed6a709edb56c6ea236b7193a3b29a6b390c346f0f4340e4e",
    }
    assert checkpoint.problem(folder) is None


def test_marking_again_replaces_the_marker(tmp_path):
    folder = make(tmp_path, 1)
    (folder / "model.bin").write_bytes(b"new")
    assert checkpoint.problem(folder) == "model.bin has 3 bytes instead of 200"
    checkpoint.mark_complete(folder)
    assert checkpoint.problem(folder) is None


def test_an_empty_folder_is_not_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="holds no files"):
        checkpoint.mark_complete(tmp_path)


def half_written(folder: Path) -> None:
    (folder / "COMPLETE.json").unlink()


def marker_cut(folder: Path) -> None:
    whole = (folder / "COMPLETE.json").read_text()
    (folder / "COMPLETE.json").write_text(whole[: len(whole) // 2])


def marker_of_another_kind(folder: Path) -> None:
    (folder / "COMPLETE.json").write_text("[]")


def file_lost(folder: Path) -> None:
    (folder / "optimizer" / "state.bin").unlink()


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.bin", 150)


def bit_flipped(folder: Path) -> None:
    (folder / "model.bin").write_bytes(bytes([1, *range(1, 200)]))


DAMAGE = [
    (half_written, "no COMPLETE.json, so it was not written to the end"),
    (marker_cut, "COMPLETE.json is unreadable"),
    (marker_of_another_kind, "COMPLETE.json is unreadable"),
    (file_lost, "optimizer/state.bin is missing"),
    (truncated, "model.bin has 150 bytes instead of 200"),
    (bit_flipped, "model.bin does not match its SHA-256"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_a_damaged_checkpoint_is_skipped_and_named_and_the_one_before_used(tmp_path, damage, reason):
    good = make(tmp_path, 9)
    damage(make(tmp_path, 10))  # numerically newer, alphabetically older
    said: list[str] = []
    assert checkpoint.last_complete(tmp_path, on_skip=said.append) == good
    assert said == [f"skipped checkpoint-10: {reason}", "using checkpoint-9"]


def test_the_lines_go_to_stdout_by_default(tmp_path, capsys):
    make(tmp_path, 2)
    assert checkpoint.last_complete(tmp_path) == tmp_path / "checkpoint-2"
    assert capsys.readouterr().out == "using checkpoint-2\n"


def test_none_without_a_usable_one_and_other_names_do_not_count(tmp_path):
    said: list[str] = []
    assert checkpoint.last_complete(tmp_path / "missing", on_skip=said.append) is None
    half_written(make(tmp_path, 3))
    make(tmp_path, 4).rename(tmp_path / "checkpoint-4.tmp")
    (tmp_path / "checkpoint-5").write_text("a file")
    assert checkpoint.last_complete(tmp_path, on_skip=said.append) is None
    assert said == ["skipped checkpoint-3: no COMPLETE.json, so it was not written to the end"]
    assert checkpoint.last_complete(tmp_path, pattern="other-*", on_skip=said.append) is None


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    checkpoint.write_json_atomic(path, {"a": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        checkpoint.write_json_atomic(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}


def test_plain_makes_json_of_scalars_and_nothing_of_nan():
    given = {"a": np.float32(0.5), "b": (np.int64(1), math.nan), 3: [math.inf, True, None, "x"]}
    assert checkpoint.plain(given) == {"a": 0.5, "b": [1, None], "3": [None, True, None, "x"]}
    json.dumps(checkpoint.plain(given), allow_nan=False)
