"""The files that the stages write and read: one JSONL per stage, appended as environments pass or fail.

    stages/1_decompose.jsonl … 5_deploy.jsonl, 6_validate.jsonl {"id": "00012-0", "accepted": true, "data":
    {…}}   or   {"id": …, "accepted": false, "reasons": [[check, text]]}

An id is slot and attempt. A row that is there is not made again, so a build goes on where it was stopped;
half a line, left by a kill, is cut off.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tool_env_rl.build_env.stage import STAGES, Json
from tool_env_rl.texts import to_json

CHECKED = "validate"
FILES = {name: f"{number}_{name}.jsonl" for number, name in enumerate((*STAGES, CHECKED), 1)}


@dataclass
class StageCounts:
    """How many environments passed one stage, how many did not, and why (first reason of each)."""

    accepted: int = 0
    rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Artefacts:
    """The stage files of one build folder, opened for going on."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[str, dict[str, Json]] = {}
        self._files: dict[str, TextIO] = {}
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        for name, file in FILES.items():
            path = folder / "stages" / file
            self.rows[name] = _read(path)
            self._files[name] = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)

    def add(self, stage: str, env_id: str, *, data: Json | None = None, reasons: Any = ()) -> Json:
        """Append a row: accepted with `data`, or rejected for `reasons` [(check, sentence)]."""
        row: Json = {"id": env_id, "accepted": not reasons}
        row |= {"reasons": [list(reason) for reason in reasons]} if reasons else {}
        row |= {"data": data} if data is not None else {}
        self.rows[stage][env_id] = row
        self._files[stage].write(to_json(row) + "\n")
        self._files[stage].flush()  # with the operating system: it survives a kill
        return row

    def counts(self) -> dict[str, StageCounts]:
        counted = {name: StageCounts() for name in FILES}
        for name, rows in self.rows.items():
            for row in rows.values():
                if row["accepted"]:
                    counted[name].accepted += 1
                else:
                    counted[name].rejected += 1
                    counted[name].reasons[row["reasons"][0][0]] += 1
        return counted

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _read(path: Path) -> dict[str, Json]:
    """Rows by id; a torn last line is removed from the file, any other broken line is a ValueError."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with open(path, "r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    rows: dict[str, Json] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["id"]] = row
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number} is no artefact row; remove the line and build again"
            ) from None
    return rows
