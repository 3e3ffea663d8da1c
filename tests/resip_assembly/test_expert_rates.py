"""`python -m resip_assembly.expert_rates`: a record per task and robot, and its section of RESULTS.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resip_assembly import expert_rates, result_tables
from shared import tables


@pytest.mark.slow
def test_a_record_per_cell_becomes_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "experts.jsonl"
    assert result_tables.experts_section(path) == ""
    options = ["--tasks", "peg_in_hole", "bimanual", "--episodes", "2"]
    expert_rates.main([*options, "--robots", "floating", "panda"], path)
    printed = capsys.readouterr().out
    records = tables.load_records(path)
    cells = [("peg_in_hole", "floating"), ("peg_in_hole", "panda")]
    assert [(r["task"], r["robot"]) for r in records[:2]] == cells
    assert len({r["config_hash"] for r in records}) == len({r["row"] for r in records}) == 4
    for record in records:
        metrics = record["metrics"]
        assert record["n"] == 2
        assert metrics["success"] == metrics["successes"] / 2
        assert metrics["success_low"] < metrics["success"] or not metrics["successes"]
        assert 10 < metrics["length_median"] < 120
        assert metrics["steps_per_cpu_s"] > 50
        assert f"| {record['task']}" in printed
    lines = [json.dumps(record | {"dirty": False}) for record in records]
    path.write_text("\n".join(lines) + "\n")
    text = result_tables.experts_section(path)
    assert "## Scripted experts" in text
    assert "`python -m resip_assembly.expert_rates --tasks peg_in_hole bimanual " in text
    assert f"{result_tables.percent(records[0]['metrics']['successes'], 2)}, n = 2" in text
    assert text.count("| panda ") == 2
    path.write_text(lines[0].replace('"dirty": false', '"dirty": true') + "\n")
    with pytest.raises(tables.DirtyRecord, match="experts/peg_in_hole/floating"):
        result_tables.experts_section(path)


def test_it_covers_the_six_tasks_and_says_what_is_wrong(tmp_path: Path) -> None:
    assert len(expert_rates.SIX) == 6
    assert len(expert_rates.Rates().robots) == 2
    for options, said in (
        (["--episodes", "0"], "--episodes 0 must be at least 1"),
        (["--tasks", "two_leg"], "unknown task 'two_leg'"),
    ):
        with pytest.raises(SystemExit, match=f"error: {said}"):
            expert_rates.main(options, tmp_path / "experts.jsonl")
    assert not (tmp_path / "experts.jsonl").exists()
