"""benchmarks/diffusion.py: both sides give the same, and --record leaves the rows of the README's table."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from shared import tables

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_it_compares_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    records, diffusion = (importlib.import_module(name) for name in ("_records", "diffusion"))
    monkeypatch.setattr(records, "RESULTS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(diffusion, "ENVS", 3)
    monkeypatch.setattr(diffusion, "BATCH", 4)
    words = ["diffusion.py", "--rounds", "2", "--calls", "1", "--threads", "1", "--record"]
    monkeypatch.setattr(sys, "argv", words)
    diffusion.main()  # raises where ours and the textbook's chunks or losses differ
    assert capsys.readouterr().out.count("ratio: ") == 4
    found = tables.load_records(records.RESULTS)
    names = [f"diffusion/{net}-{what}" for net in ("mlp", "unet-small") for what in ("inference", "training")]
    assert [record["row"] for record in found] == names
    for record in found:
        metrics = record["metrics"]
        assert metrics["ratios"] == [s / o for s, o in zip(metrics["stock"], metrics["ours"], strict=True)]
    table = records.table(found)
    assert table.count("`diffusion.py`: ") == 4
    for name in ("_records", "diffusion"):
        sys.modules.pop(name)
