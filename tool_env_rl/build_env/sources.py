"""What is built from: facts drawn from a knowledge base, or a file with one's own questions.

A question file is JSONL, one question a line:

    {"question": "In which city was the founder of Orvane Mills born?", "answer": "Belmar",
     "scenario": "multi_hop",
     "steps": [{"relation": "founder", "subject": "Orvane Mills", "answer": "Tela Brandt"},
               {"relation": "birthplace", "answer": "Belmar", "depends_on": [1]}]}

`scenario` may be left out. `steps` may be left out where a model builds; the deterministic backend needs
them. A step has `answer`, `relation` (snake_case; sum and difference calculate), `subject` (the entity
asked about; left out where the step depends on one other step, whose answer it then is), and optionally
`id` (counted from 1), `depends_on` (ids), `question`, `source` (what kind of thing the subject is; default
"entity").
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tool_env_rl.build_env.stage import Json
from tool_env_rl.knowledge_base import NUMBER, OPERATIONS, usable_name
from tool_env_rl.records import SCENARIOS, RowProblem


class _Bad(ValueError):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def read_questions(path: Path | str) -> tuple[list[Json], list[RowProblem]]:
    """Questions of a file, and the rows that are none; OSError if there is no such file."""
    items: list[Json] = []
    problems: list[RowProblem] = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            items.append(_question(line))
        except _Bad as error:
            problems.append(RowProblem(str(path), number, error.field, str(error)))
    return items, problems


def _question(line: bytes) -> Json:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Bad("row", f"is not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise _Bad("row", f"is a JSON {type(row).__name__}; write one object per line")
    if unknown := set(row) - {"question", "answer", "scenario", "steps"}:
        raise _Bad(min(unknown), "is unknown; a row has question, answer, scenario, steps")
    item: Json = {"question": _text(row, "question"), "answer": _text(row, "answer")}
    if row.get("scenario") is not None:
        if row["scenario"] not in SCENARIOS:
            raise _Bad("scenario", f"is {row['scenario']!r}; use one of {', '.join(SCENARIOS)}")
        item["scenario"] = row["scenario"]
    if row.get("steps") is not None:
        item["steps"] = _steps(row["steps"])
    return item


def _steps(rows: Any) -> list[Json]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _Bad("steps", "must be a list of at least one object")
    steps: list[Json] = []
    for number, row in enumerate(rows, 1):
        where = f"steps[{number - 1}]"
        depends_on = row.get("depends_on", [])
        if not isinstance(depends_on, list) or not all(type(i) is int for i in depends_on):
            raise _Bad(f"{where}.depends_on", "must be a list of step ids")
        relation, source = _name(row, "relation", where), _name(row, "source", where, "entity")
        step_id = row.get("id", number)
        if type(step_id) is not int:
            raise _Bad(f"{where}.id", f"is {step_id!r}; write a whole number")
        step = {"id": step_id, "relation": relation, "source": source, "target": "entity"}
        step |= {
            "answer": _text(row, "answer", where),
            "depends_on": depends_on,
            "subject": row.get("subject"),
        }
        if "question" in row:
            step["question"] = _text(row, "question", where)
        steps.append(step)
    by_id = {step["id"]: step for step in steps}
    for number, step in enumerate(steps):
        _complete(step, by_id, f"steps[{number}]")
    return steps


def _complete(step: Json, by_id: dict[int, Json], where: str) -> None:
    """Fill in the subject of a dependent step, and refuse a step that asks about nothing."""
    if unknown := [i for i in step["depends_on"] if i not in by_id]:
        raise _Bad(f"{where}.depends_on", f"names step {unknown[0]}; ids are {', '.join(map(str, by_id))}")
    if step["relation"] in OPERATIONS:
        operands = [by_id[i]["answer"] for i in step["depends_on"]]
        if len(operands) != 2 or not all(text.removeprefix("-").isdecimal() for text in operands):
            raise _Bad(
                where, f"{step['relation']} needs two steps whose answers are integers, not {operands}"
            )
        step.update(source=NUMBER, target=NUMBER, subject=None)
    elif step["subject"] is None and len(step["depends_on"]) == 1:
        step["subject"] = by_id[step["depends_on"][0]]["answer"]
    elif not isinstance(step["subject"], str) or not step["subject"].strip():
        raise _Bad(f"{where}.subject", "must say what the step asks about; only a step on one other has none")


def _text(row: Json, field: str, where: str = "") -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise _Bad(f"{where}.{field}".lstrip("."), f"is {value!r}; write a non-empty string")
    return value


def _name(row: Json, field: str, where: str, default: str | None = None) -> str:
    value = row.get(field, default)
    if not usable_name(value) and value not in OPERATIONS:
        raise _Bad(
            f"{where}.{field}", f"is {value!r}; write a lower-case name such as birth_year, no builtin"
        )
    return str(value)
