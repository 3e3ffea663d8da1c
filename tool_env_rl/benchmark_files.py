"""Rows of a benchmark from a local .json or .jsonl file, or from a data set on the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Task = TypeVar("Task")


class BadTask(ValueError):
    """A row that is no task of the benchmark; the message names the field and what was expected."""


def load_tasks(
    source: str | Path, parse: Callable[[dict[str, Any]], Task], *, split: str = "test"
) -> tuple[list[Task], list[str]]:
    """Tasks in file order and one sentence per row that could not be used (file, line or row, field).

    Args:
        source: a .jsonl file, a .json file with a list, or a hub id such as "owner/name".
        parse: makes a task of one row; raises BadTask.
        split: of a hub data set; local files have none.

    Raises:
        OSError: neither such a file nor a data set that can be fetched.
    """
    tasks: list[Task] = []
    problems: list[str] = []
    for where, row in _rows(source, split):
        try:
            tasks.append(parse(json_object(row)))
        except ValueError as error:  # JSONDecodeError and BadTask
            problems.append(f"{source}, {where}: {error}")
        except RecursionError:
            problems.append(f"{source}, {where}: is nested too deeply to be read")
    return tasks, problems


def _rows(source: str | Path, split: str) -> list[tuple[str, Any]]:
    path = Path(source)
    if path.suffix == ".jsonl":
        lines = path.read_bytes().split(b"\n")
        return [(f"line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".json":
        rows = json.loads(path.read_bytes())
        if not isinstance(rows, list):
            raise OSError(f"{source} holds a JSON {type(rows).__name__}; give a list of tasks")
        return [(f"row {number}", row) for number, row in enumerate(rows, 1)]
    from datasets import load_dataset

    try:
        rows = load_dataset(str(source), split=split)
    except Exception as error:  # the hub client raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"{source} is no .json or .jsonl file and no data set that can be fetched ({reason})"
        ) from error
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def json_object(row: Any) -> dict[str, Any]:
    """A row as a dict; bytes and strings are decoded."""
    value = json.loads(row) if isinstance(row, bytes | str) else row
    if not isinstance(value, dict):
        raise BadTask(f"is a JSON {type(value).__name__}; write one object per row")
    return value


def field(row: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """`row[name]`, decoded if it is JSON inside a string where an object or list is wanted.

    Raises:
        BadTask: missing, or of another type.
    """
    if name not in row:
        raise BadTask(f"field {name} is missing")
    value = row[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, str) and str not in kinds:
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadTask(f"field {name} is not valid JSON ({error})") from None
    if not isinstance(value, kinds):
        names = " or ".join(k.__name__ for k in kinds)
        raise BadTask(f"field {name} is a {type(value).__name__}; it must be a {names}")
    return value
