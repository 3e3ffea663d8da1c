"""Generated tables: records in, Markdown out, byte for byte the same every time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from shared import checkpoint

REQUIRED = ("row", "preset", "scale", "seed", "commit", "dirty", "config_hash", "versions", "hardware")
REQUIRED += ("wall_s", "n", "metrics", "command")
PAPER_COLUMNS = ("row", "column", "value", "arxiv_version", "table", "page", "note")


class BadRecord(ValueError):
    """A line of a results file that cannot be used; the message holds file, line and field."""


class DirtyRecord(ValueError):
    """A record made with uncommitted code; it must not enter a committed table."""


def load_records(path: Path | str, required: Sequence[str] = REQUIRED) -> list[dict[str, Any]]:
    """The records of a JSON-lines file in file order; no file means no records yet.

    A line that is not a JSON object, lacks a field or has one of the wrong type raises BadRecord.
    """
    path, records = Path(path), []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        at = f"{path} line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise BadRecord(f"{at} is not JSON: {error}; delete the line if a kill cut it") from error
        if not isinstance(record, dict):
            raise BadRecord(f"{at} is not a JSON object")
        for field in required:
            if field not in record:
                raise BadRecord(f"{at} lacks the field {field!r}")
        for field, kind in (("dirty", bool), ("metrics", dict)):
            if field in required and not isinstance(record[field], kind):
                raise BadRecord(f"{at}: {field}={record[field]!r} is not a {kind.__name__}")
        records.append(record)
    return records


def refuse_dirty(records: Iterable[dict[str, Any]]) -> None:
    """Raise DirtyRecord, naming the rows, if any record comes from a dirty tree."""
    if bad := sorted({f"{r['row']} (seed {r['seed']})" for r in records if r["dirty"]}):
        raise DirtyRecord(f"made with uncommitted code: {', '.join(bad)}; commit the code and run them again")


def current(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that count, in file order: of one (row, seed, preset) the last.

    A record may name in `supersedes` other row ids (one or a list) whose earlier records it replaces too.
    """
    kept: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record in records:
        older = record.get("supersedes") or []
        for row in [record["row"], *([older] if isinstance(older, str) else older)]:
            kept.pop((row, str(record["seed"]), record["preset"]), None)
        kept[record["row"], str(record["seed"]), record["preset"]] = record
    return list(kept.values())


def markdown(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns; None is an empty cell, columns of int and float go to the right.

    Numbers are written as `str` does: round them first. A row of another length raises ValueError.
    """
    table = [list(row) for row in rows]
    for row in table:
        if len(row) != len(headers):
            raise ValueError(f"row {row!r} has {len(row)} cells for {len(headers)} headers")
    right = [_numeric([row[i] for row in table]) for i in range(len(headers))]
    cells = [[_cell(value) for value in row] for row in [list(headers), *table]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(headers))]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]

    def line(row: Sequence[str]) -> str:
        pads = zip(row, widths, right, strict=True)
        return "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in pads) + " |"

    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def replace_block(path: Path | str, name: str, text: str) -> None:
    """Put `text` between ``<!-- name:begin -->`` and ``<!-- name:end -->``, leaving every other byte alone.

    Raises ValueError unless both markers are there once and in this order.
    """
    path = Path(path)
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = path.read_bytes().decode("utf-8")
    for marker in (begin, end):
        if (count := whole.count(marker)) != 1:
            raise ValueError(f"{path} holds {marker} {count} times; it must be there once")
    before, _, rest = whole.partition(begin)
    if end not in rest:
        raise ValueError(f"{path}: {end} stands before {begin}")
    after = rest.partition(end)[2]
    checkpoint.write_text_atomic(path, f"{before}{begin}\n{text.strip()}\n{end}{after}")


def load_paper(path: Path | str) -> list[dict[str, str]]:
    """The paper's numbers as printed (text): one dict per line of a CSV file with exactly PAPER_COLUMNS.

    Other columns, a line of another length or the same (row, column, table) twice raise ValueError.
    """
    with open(path, encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if tuple(header) != PAPER_COLUMNS:
        raise ValueError(f"{path} has the columns {', '.join(header)}; need {', '.join(PAPER_COLUMNS)}")
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"{path} line {number} has {len(line)} cells instead of {len(header)}")
        cell = dict(zip(header, line, strict=True))
        key = (cell["row"], cell["column"], cell["table"])
        if key in cells:
            raise ValueError(f"{path} line {number} repeats row {key[0]!r}, column {key[1]!r}")
        cells[key] = cell
    return list(cells.values())


def _numeric(values: list[Any]) -> bool:
    filled = [value for value in values if value is not None]
    return bool(filled) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in filled)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
