"""Checkpoints that are either complete or passed over: a marker with sizes and hashes is written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKER = "COMPLETE.json"


def write_text_atomic(path: Path | str, text: str) -> None:
    """Write `text` so that `path` holds the old or the new content, never a part, also after a power cut."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    part.write_text(text, encoding="utf-8", newline="")
    _sync(part)
    os.replace(part, path)
    _sync(path.parent)


def write_json_atomic(path: Path | str, obj: Any) -> None:
    """`write_text_atomic` of indented JSON."""
    write_text_atomic(path, json.dumps(obj, indent=2) + "\n")


def plain(value: Any) -> Any:
    """`value` for JSON: scalars of NumPy and torch become numbers, tuples lists, NaN and infinity None."""
    text = json.dumps(value, default=lambda scalar: scalar.item())
    return json.loads(text, parse_constant=lambda name: None)


def mark_complete(folder: Path | str) -> None:
    """Declare a folder finished: files to disk, then size and SHA-256 of each. ValueError if it is empty."""
    folder, files = Path(folder), {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MARKER and path.suffix != ".tmp":
            _sync(path)
            listed = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            files[path.relative_to(folder).as_posix()] = listed
    if not files:
        raise ValueError(f"{folder} holds no files to mark as a complete checkpoint; save into it first")
    write_json_atomic(folder / MARKER, {"files": files})


def problem(folder: Path | str) -> str | None:
    """Why the checkpoint cannot be used, or None. Files written after the marker do not matter."""
    try:
        files = json.loads(Path(folder, MARKER).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"no {MARKER}, so it was not written to the end"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MARKER} is unreadable"
    for name, expected in files.items():
        path = Path(folder, name)
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != expected["bytes"]:
            return f"{name} has {size} bytes instead of {expected['bytes']}"
        if _sha256(path) != expected["sha256"]:
            return f"{name} does not match its SHA-256"
    return None


def last_complete(
    root: Path | str, pattern: str = "checkpoint-*", on_skip: Callable[[str], object] = print
) -> Path | None:
    """The usable checkpoint of the highest step, or None; `on_skip` hears of those passed over and used."""
    found = [p for p in Path(root).glob(pattern) if p.is_dir() and p.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        if (reason := problem(path)) is None:
            on_skip(f"using {path.name}")
            return path
        on_skip(f"skipped {path.name}: {reason}")
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
