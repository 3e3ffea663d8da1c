"""Checkpoints that are either complete or passed over: a marker with sizes and hashes is written last."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKER = "COMPLETE.json"


def write_text_atomic(path: Path | str, text: str) -> None:
    """Write `text` so that `path` holds the old or the new content, never a part, also after a power cut."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    _sync(path.parent)


def write_json_atomic(path: Path | str, obj: Any) -> None:
    """`write_text_atomic` of indented JSON."""
    write_text_atomic(path, json.dumps(obj, indent=2) + "\n")


def plain(value: Any) -> Any:
    """`value` for JSON: scalars of NumPy and torch become numbers, tuples lists, NaN and infinity None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mark_complete(folder: Path | str) -> None:
    """Declare a checkpoint folder finished: bring its files to disk, then write size and SHA-256 of each.

    Call it once, on the main process, after everything is written; a changed file makes the folder unusable.
    """
    folder = Path(folder)
    files = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in _files(folder)}
    if not files:
        raise ValueError(f"{folder} holds no files to mark as a complete checkpoint; save into it first")
    for name in files:
        _sync(folder / name)
    write_json_atomic(folder / MARKER, {"files": files})


def problem(folder: Path | str) -> str | None:
    """Why the checkpoint cannot be used, or None. Files written after the marker do not matter."""
    folder = Path(folder)
    try:
        listed = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"no {MARKER}, so it was not written to the end"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MARKER} is unreadable"
    for name, expected in listed.items():
        path = folder / name
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
    """The usable checkpoint with the highest step (the number its name ends in), or None.

    `on_skip` gets one line for each newer folder passed over, with the reason, and one naming that used.
    """
    found = {p: re.search(r"-(\d+)$", p.name) for p in Path(root).glob(pattern) if p.is_dir()}
    steps = {p: int(m[1]) for p, m in found.items() if m}
    for path in sorted(steps, key=steps.__getitem__, reverse=True):
        if reason := problem(path):
            on_skip(f"skipped {path.name}: {reason}")
        else:
            on_skip(f"using {path.name}")
            return path
    return None


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = [(p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file()]
    return sorted((name, p) for name, p in found if name != MARKER and not name.endswith(".tmp"))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
