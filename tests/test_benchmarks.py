"""The benchmarks' records: the README's block is what they render to, and every figure has its commit."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shared import tables

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
README = FOLDER.parent / "README.md"


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_records", FOLDER / "_records.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "_records", module)
    spec.loader.exec_module(module)
    return module


def test_the_readme_block_is_generated(records: ModuleType) -> None:
    rows = tables.load_records(records.RESULTS)
    tables.refuse_dirty(rows)
    block = README.read_text().split("<!-- benchmarks:begin -->")[1].split("<!-- benchmarks:end -->")[0]
    assert block.strip() == records.table(tables.current(rows)).strip()


def test_save_and_table(records: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path / "runs.jsonl")
    sides = [2000.0, 3000.0, 1000.0], [1000.0, 1000.0, 1000.0], [2.0, 3.0, 1.0]
    records.save("a/b", "a | b", "tokens/s", *sides, threads=2, wall_s=1.23, goal=1.5, memory_mib=(10.4, 20))
    records.save("a/c", "c", "s", [0.5], [1.0], [2.0], threads=1, wall_s=1)
    found = tables.load_records(records.RESULTS)
    assert [r["n"] for r in found] == [3, 1]
    assert found[0]["metrics"]["ratios"] == [2.0, 3.0, 1.0]
    text = records.table(found)
    assert text.count("Measured on ") == 2  # one table per machine and thread count
    line = next(line for line in text.splitlines() if "a \\| b" in line)
    cells = [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
    assert cells[1:5] == ["2,000 tokens/s, 10 MiB", "1,000 tokens/s, 20 MiB", "2.00 (1.00 to 3.00)", "1.5"]
    assert "0.50 s" in text


def test_figures_of_uncommitted_code_are_refused(
    records: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path / "runs.jsonl")
    records.save("a/b", "a", "s", [1.0], [1.0], [1.0], threads=1, wall_s=1)
    record = json.loads(records.RESULTS.read_text()) | {"dirty": True}
    records.RESULTS.write_text(json.dumps(record) + "\n")
    with pytest.raises(tables.DirtyRecord, match="a/b"):
        records.render()
