"""Records in, tables out: what is refused, what counts, and the exact bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared import tables


def record(row: str = "T1/r1", seed: int = 0, preset: str = "small", **more) -> dict:
    base = dict.fromkeys(tables.REQUIRED, "x")
    numbers = {"dirty": False, "metrics": {"accuracy": 0.5}, "n": 10, "wall_s": 1.5}
    return {**base, **numbers, "row": row, "seed": seed, "preset": preset, **more}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_records_come_back_in_file_order_and_no_file_is_no_records(tmp_path):
    given = [record(), record("T1/r2", seed=1)]
    assert tables.load_records(write(tmp_path / "r", *map(json.dumps, given))) == given
    assert tables.load_records(tmp_path / "none") == []


@pytest.mark.parametrize("field", tables.REQUIRED)
def test_a_missing_field_is_named_with_its_line(tmp_path, field: str):
    bad = record()
    del bad[field]
    path = write(tmp_path / "r", json.dumps(record()), json.dumps(bad))
    with pytest.raises(tables.BadRecord, match=f"r line 2 lacks the field '{field}'"):
        tables.load_records(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"row": ', "line 1 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ("", "line 1 is not JSON"),
        (json.dumps(record(dirty="false")), "line 1: dirty='false' is not a bool"),
        (json.dumps(record(metrics=0.5)), "line 1: metrics=0.5 is not a dict"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line: str, message: str):
    with pytest.raises(tables.BadRecord, match=message):
        tables.load_records(write(tmp_path / "r", line))


def test_dirty_records_are_refused_by_row():
    tables.refuse_dirty([record()])
    with pytest.raises(tables.DirtyRecord, match=r"T1/r2 \(seed 3\)"):
        tables.refuse_dirty([record(), record("T1/r2", seed=3, dirty=True)])


def test_the_last_record_of_row_seed_and_preset_counts():
    old, other_seed, other_preset = record(n=1), record(seed=1), record(preset="smoke")
    new = record(n=2)
    assert tables.current([old, other_seed, other_preset, new]) == [other_seed, other_preset, new]


def test_supersedes_drops_earlier_records_of_another_row_with_the_same_seed():
    renamed = record("T1/new", supersedes="T1/r1")
    kept = tables.current([record(), record(seed=1), renamed, record("T1/r1", n=5)])
    assert kept == [record(seed=1), renamed, record("T1/r1", n=5)]
    both = record("T1/all", supersedes=["T1/r1", "T1/r2"])
    assert tables.current([record(), record("T1/r2"), both]) == [both]


def test_markdown_is_aligned_and_exact():
    text = tables.markdown(["Tier", "n", "Δ"], [["easy|1", 100, None], ["hard", 2, -0.25]])
    assert text == (
        "| Tier    |   n |     Δ |\n"
        "| ------- | --: | ----: |\n"
        "| easy\\|1 | 100 |       |\n"
        "| hard    |   2 | -0.25 |"
    )
    assert tables.markdown(["a"], []) == "| a   |\n| --- |"
    assert tables.markdown(["a"], [[True], ["x\ny"]]) == "| a    |\n| ---- |\n| True |\n| x y  |"


def test_markdown_refuses_a_ragged_row():
    with pytest.raises(ValueError, match="has 1 cells for 2 headers"):
        tables.markdown(["a", "b"], [[1]])


def test_replace_block_changes_nothing_else_and_is_stable(tmp_path):
    path = tmp_path / "README.md"
    path.write_bytes("é\r\n<!-- t:begin -->\nold\n<!-- t:end -->\r\ntail".encode())
    tables.replace_block(path, "t", "\n| new |\n")
    expected = "é\r\n<!-- t:begin -->\n| new |\n<!-- t:end -->\r\ntail".encode()
    assert path.read_bytes() == expected
    tables.replace_block(path, "t", "| new |")
    assert path.read_bytes() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- t:end -->", "t:begin --> 0 times"),
        ("<!-- t:begin -->", "t:end --> 0 times"),
        ("<!-- t:begin --><!-- t:begin --><!-- t:end -->", "t:begin --> 2 times"),
        ("<!-- t:end --><!-- t:begin -->", "stands before"),
    ],
)
def test_replace_block_needs_both_markers_once(tmp_path, text: str, message: str):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        tables.replace_block(path, "t", "x")
    assert path.read_text() == text


HEADER = "row,column,value,arxiv_version,table,page,note"


def test_the_papers_numbers_stay_as_printed(tmp_path):
    path = write(tmp_path / "paper.csv", HEADER, 'T1/r1,GSM8K,90.10,v2,1,7,"a, b"')
    (cell,) = tables.load_paper(path)
    assert cell == dict(
        zip(HEADER.split(","), ["T1/r1", "GSM8K", "90.10", "v2", "1", "7", "a, b"], strict=True)
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["row,column"], "has the columns row, column; need row, column, value"),
        ([], "has the columns ; need"),
        ([HEADER, "T1,c,1"], "line 2 has 3 cells instead of 7"),
        ([HEADER, "T1,c,1,v1,1,2,", "T1,c,2,v1,1,2,"], "line 3 repeats row 'T1', column 'c'"),
    ],
)
def test_a_bad_paper_file_is_named(tmp_path, lines: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        tables.load_paper(write(tmp_path / "paper.csv", *lines))
