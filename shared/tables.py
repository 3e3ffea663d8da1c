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


def load_records(path: Path | str) -> list[dict[str, Any]]:
    """The records of a JSON-lines file in its order, none without a file; BadRecord names a bad line."""
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
        if missing := [field for field in REQUIRED if field not in record]:
            raise BadRecord(f"{at} lacks the field {missing[0]!r}")
        for field, kind in (("dirty", bool), ("metrics", dict)):
            if not isinstance(record[field], kind):
                raise BadRecord(f"{at}: {field}={record[field]!r} is not a {kind.__name__}")
        records.append(record)
    return records


def refuse_dirty(records: Iterable[dict[str, Any]]) -> None:
    """Raise DirtyRecord, naming the rows, if any record comes from a dirty tree."""
    if bad := sorted({f"{r['row']} (seed {r['seed']})" for r in records if r["dirty"]}):
        raise DirtyRecord(f"made with uncommitted code: {', '.join(bad)}; commit the code and run them again")


def current(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last record of each (row, seed, preset); `supersedes` (a row or a list) drops other rows too."""
    kept: dict[tuple[str, int, str], dict[str, Any]] = {}
    for record in records:
        older = record.get("supersedes") or []
        for row in [record["row"], *([older] if isinstance(older, str) else older)]:
            kept.pop((row, record["seed"], record["preset"]), None)
        kept[record["row"], record["seed"], record["preset"]] = record
    return list(kept.values())


def markdown(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An aligned Markdown table; None is an empty cell, numbers (round them first) go to the right."""
    table = [list(row) for row in rows]
    for row in table:
        if len(row) != len(headers):
            raise ValueError(f"row {row!r} has {len(row)} cells for {len(headers)} headers")
    columns = [_column(header, [row[i] for row in table]) for i, header in enumerate(headers)]
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))


def _column(header: str, values: list[Any]) -> list[str]:
    """Header, rule and cells of one column, padded to one width."""
    filled = [v for v in values if v is not None]
    right = bool(filled) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in filled)
    cells = [str("" if v is None else v).replace("|", "\\|").replace("\n", " ") for v in [header, *values]]
    width = max(3, *map(len, cells))
    cells.insert(1, "-" * (width - 1) + (":" if right else "-"))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def replace_block(path: Path | str, name: str, text: str) -> None:
    """Put `text` between ``<!-- name:begin -->`` and ``<!-- name:end -->``; ValueError unless once there."""
    whole = Path(path).read_bytes().decode()
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    for marker in (begin, end):
        if (count := whole.count(marker)) != 1:
            raise ValueError(f"{path} holds {marker} {count} times; it must be there once")
    before, _, rest = whole.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{path}: {end} stands before {begin}")
    checkpoint.write_text_atomic(path, f"{before}{begin}\n{text.strip()}\n{end}{after}")


def load_paper(path: Path | str) -> list[dict[str, str]]:
    """The paper's numbers as printed, PAPER_COLUMNS of each CSV line; ValueError names a bad or double."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    if tuple(header) != PAPER_COLUMNS:
        raise ValueError(f"{path} has the columns {', '.join(header)}; need {', '.join(PAPER_COLUMNS)}")
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ValueError(f"{path} line {number} has {len(line)} cells instead of {len(header)}")
        cell = dict(zip(header, line, strict=True))
        if cells.setdefault((cell["row"], cell["column"], cell["table"]), cell) is not cell:
            raise ValueError(f"{path} line {number} repeats row {cell['row']!r}, column {cell['column']!r}")
    return list(cells.values())
