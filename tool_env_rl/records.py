"""Environment records: the authors' JSONL rows, read and written byte for byte (sheet §3.3).

A row has eight fields; `tools`, `codes` and `unsolved_set` are JSON inside a JSON string. A collected RL
state is the same row with more messages, fewer unsolved sub-answers and a `solve_rate` above 0.

The authors' rows hold no gold calls. Ours are in a second file beside the records, `gold.jsonl`, in the same
order: `read_environments` joins the two.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from shared import checkpoint
from tool_env_rl.texts import to_json

Row = TypeVar("Row")
SCENARIOS = ("single_hop", "parallel_single_hop", "multi_hop", "parallel_multi_hop")
ENVIRONMENTS_FILE, GOLD_FILE = "environments.jsonl", "gold.jsonl"
# The user message of all 200 test rows, up to the question.
PREAMBLE = (
    "Please call given tools to answer the question. Please note that all your information must be obtained "
    "by calling tools and not by answering the question directly.\nIf the call fails, you need to try to "
    "correct it and continue until you arrive at an answer.\nQuestion: "
)


@dataclass(frozen=True)
class EnvRecord:
    """One environment, or one RL state of it; nested JSON strings are decoded."""

    messages: list[dict[str, Any]]  # a fresh environment has one user message
    tools: list[dict[str, Any]]  # OpenAI function-calling documents, gold and distractors
    codes: dict[str, str]  # tool name → Python source of one function
    unsolved_set: dict[str, list[str]]  # tool name → sub-answers not yet obtained; answer-bearing tools only
    solve_rate: float  # 1 − unsolved / total, in [0, 1]
    data_source: str  # "self/" + scenario
    split: str  # "train" or "test"; the authors' reward refuses "test"
    answer: str  # final answer

    @property
    def scenario(self) -> str:
        return self.data_source.rpartition("/")[2]

    @property
    def question(self) -> str:
        """The first user message without the preamble."""
        text = next((m["content"] for m in self.messages if m["role"] == "user"), "")
        return text.partition("\nQuestion: ")[2] or text

    @property
    def tool_names(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def unsolved_count(self) -> int:
        return sum(map(len, self.unsolved_set.values()))


@dataclass(frozen=True)
class RowProblem:
    """Why one row could not be read; `line` counts from 1, `field` is "row" if the row itself is broken."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, field {self.field}: {self.message}"


@dataclass(frozen=True)
class GoldStep:
    """One sub-question with its sub-answer and the call that obtains it."""

    id: int
    question: str
    answer: str
    tool: str
    arguments: dict[str, Any]
    depends_on: tuple[int, ...]  # ids of steps whose answers the arguments need
    old_arguments: dict[str, Any]  # the call before complexity scaling; still valid (§2.2, stage 4)


@dataclass(frozen=True)
class Environment:
    """A built environment: the record that is trained on, and the gold that only builder and checker see."""

    id: str
    level: int  # complexity, 0 … 4
    record: EnvRecord
    steps: tuple[GoldStep, ...]
    final: dict[str, Any]  # how the answer follows from the sub-answers; see plan_checks.derive

    @property
    def gold_row(self) -> dict[str, Any]:
        """The row of gold.jsonl."""
        steps = [{field.name: getattr(step, field.name) for field in fields(GoldStep)} for step in self.steps]
        return {"id": self.id, "level": self.level, "steps": steps, "final": self.final}

    @classmethod
    def join(cls, record: EnvRecord, gold: dict[str, Any]) -> Environment:
        """A record and its row of gold.jsonl, as `parse_gold` reads it."""
        steps = [GoldStep(**step | {"depends_on": tuple(step["depends_on"])}) for step in gold["steps"]]
        return cls(gold["id"], gold["level"], record, tuple(steps), gold["final"])


def user_message(question: str) -> dict[str, str]:
    """The prompt of a fresh environment."""
    return {"role": "user", "content": PREAMBLE + question}


def to_line(record: EnvRecord) -> str:
    r"""One JSONL row, without line end, as pandas wrote the authors' files: compact, "/" escaped as "\/"."""
    row = {field.name: getattr(record, field.name) for field in fields(EnvRecord)}
    row |= {name: json.dumps(row[name], ensure_ascii=False) for name in ("tools", "codes", "unsolved_set")}
    return to_json(row, separators=(",", ":")).replace("/", "\\/")


def write_records(path: Path | str, records: Iterable[EnvRecord]) -> None:
    """Write `records` atomically."""
    checkpoint.write_text_atomic(path, "".join(to_line(record) + "\n" for record in records))


def read_records(
    path: Path | str, on_problem: Callable[[RowProblem], None] | None = None
) -> tuple[list[EnvRecord], list[RowProblem]]:
    """Records of a JSONL file and the rows that could not be read, in file order; blank lines do not count.

    Fields beyond the eight are dropped. `on_problem` hears of each bad row at once. OSError without a file.
    """
    found, problems = read_rows(path, parse_line, on_problem)
    return list(found.values()), problems


def read_rows(
    path: Path | str, parse: Callable[[bytes], Row], on_problem: Callable[[RowProblem], None] | None = None
) -> tuple[dict[int, Row], list[RowProblem]]:
    """What `parse` makes of each line, by row (its line, from 0), and the lines that gave a RowError."""
    rows: dict[int, Row] = {}
    problems: list[RowProblem] = []
    for row, line in enumerate(Path(path).read_bytes().split(b"\n")):
        if not line.strip():
            continue
        try:
            rows[row] = parse(line)
        except RowError as error:
            problems.append(RowProblem(str(path), row + 1, error.field, error.message))
            if on_problem:
                on_problem(problems[-1])
    return rows, problems


def write_environments(folder: Path | str, environments: Iterable[Environment]) -> None:
    """environments.jsonl in the authors' format, and gold.jsonl."""
    environments = list(environments)
    folder = Path(folder)
    gold = "".join(to_json(env.gold_row) + "\n" for env in environments)
    checkpoint.write_text_atomic(folder / GOLD_FILE, gold)
    write_records(folder / ENVIRONMENTS_FILE, [env.record for env in environments])


def read_environments(folder: Path | str) -> list[Environment]:
    """What `write_environments` wrote; ValueError if a row is malformed or the two files do not match."""
    found, problems = environments_by_row(folder)
    if problems:
        others = f" (and {len(problems) - 1} more malformed rows)"
        raise ValueError(f"{problems[0]}{others}; repeat the build command to rewrite both files")
    return list(found.values())


def environments_by_row(folder: Path | str) -> tuple[dict[int, Environment], list[RowProblem]]:
    """Environments by row (line of environments.jsonl, from 0), and the malformed rows of both files.

    ValueError if one file has more rows than the other: they could not be paired.
    """
    records, problems = read_rows(Path(folder, ENVIRONMENTS_FILE), parse_line)
    golds, gold_problems = read_rows(Path(folder, GOLD_FILE), parse_gold)
    rows = sorted([*records, *(problem.line - 1 for problem in problems)])
    gold_rows = sorted([*golds, *(problem.line - 1 for problem in gold_problems)])
    if len(rows) != len(gold_rows):
        counts = f"{len(gold_rows)} rows for {len(rows)} environments"
        path = Path(folder, GOLD_FILE)
        raise ValueError(f"{path} has {counts}; repeat the build command to rewrite both")
    pairs = [(r, g) for r, g in zip(rows, gold_rows, strict=True) if r in records and g in golds]
    return {r: Environment.join(records[r], golds[g]) for r, g in pairs}, problems + gold_problems


def choose(names: Sequence[str], wanted: str, rows: Sequence[int] | None = None) -> int:
    """Position of the environment called `wanted`, or else of that row; ValueError if there is none.

    rows: the row of each, where some rows of the file were left out.
    """
    rows = range(len(names)) if rows is None else rows
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) in rows:
        return rows.index(int(wanted))
    there = f"rows are {min(rows)} … {max(rows)}" if rows else "there is none"
    raise ValueError(f"there is no environment {wanted!r}; {there}")


class RowError(ValueError):
    """A row that is no environment: which field, and what was expected."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"field {field}: {message}")
        self.field, self.message = field, message


def parse_line(line: str | bytes) -> EnvRecord:
    """The record of one row; RowError names the first field that is missing or malformed."""
    row = _decode_row(line)
    if missing := [field.name for field in fields(EnvRecord) if field.name not in row]:
        raise RowError(missing[0], f"is missing; a row needs {', '.join(f.name for f in fields(EnvRecord))}")
    values = {field.name: row[field.name] for field in fields(EnvRecord)}
    for name in ("tools", "codes", "unsolved_set"):
        if not isinstance(values[name], str):
            raise RowError(name, f"is a JSON {type(values[name]).__name__}; write it as JSON inside a string")
        values[name] = _decode(name, values[name])
    for name, check in _CHECKS.items():
        if complaint := check(values[name]):
            raise RowError(name, complaint)
    if values["solve_rate"] < 1 and not any(values["unsolved_set"].values()):
        raise RowError(
            "unsolved_set",
            f"holds no sub-answer, but solve_rate is {values['solve_rate']}; nothing is left to solve",
        )
    values["solve_rate"] = float(values["solve_rate"])
    return EnvRecord(**values)


def parse_gold(line: str | bytes) -> dict[str, Any]:
    """A row of gold.jsonl, every field of the right type; RowError names the first that is not."""
    row = _decode_row(line)
    _typed(row, {"id": str, "level": int, "steps": list, "final": dict})
    if not row["steps"]:
        raise RowError("steps", "is empty; write at least one step")
    kinds = {"id": int, "question": str, "answer": str, "tool": str}
    kinds |= {"arguments": dict, "depends_on": list, "old_arguments": dict}
    for number, step in enumerate(row["steps"]):
        where = f"steps[{number}]"
        if not isinstance(step, dict):
            raise RowError(where, f"is a JSON {type(step).__name__}; write an object")
        _typed(step, kinds, f"{where}.")
        if unknown := sorted(step.keys() - kinds.keys()):
            raise RowError(f"{where}.{unknown[0]}", f"is unknown; a step has {', '.join(kinds)}")
        _ids(step["depends_on"], f"{where}.depends_on")
    _typed(row["final"], {"rule": str, "steps": list}, "final.")
    _ids(row["final"]["steps"], "final.steps")
    return row


def _typed(row: dict[str, Any], kinds: dict[str, type], where: str = "") -> None:
    for name, kind in kinds.items():
        if name not in row:
            raise RowError(f"{where}{name}", f"is missing; needed are {', '.join(kinds)}")
        if type(row[name]) is not kind:
            raise RowError(
                f"{where}{name}", f"is a JSON {type(row[name]).__name__}; write a JSON {kind.__name__}"
            )


def _ids(value: list[Any], field: str) -> None:
    if not all(type(i) is int for i in value):
        raise RowError(field, "must be a list of step ids, whole numbers")


def _decode_row(line: str | bytes) -> dict[str, Any]:
    """One object. NaN and infinities, which a model may write, stand in the calls of messages only."""
    try:
        row = _decode("row", line)
    except RowError:
        try:
            row = json.loads(line)
            calls_apart = [
                {k: v for k, v in message.items() if k != "tool_calls"} for message in row["messages"]
            ]
            json.dumps(row | {"messages": calls_apart}, allow_nan=False)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            row = None
        if row is None:
            raise
    if not isinstance(row, dict):
        raise RowError("row", f"is a JSON {type(row).__name__}; write one object per line")
    return row


def _decode(field: str, text: str | bytes) -> Any:
    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse_constant)
    except RecursionError:
        raise RowError(field, "is nested too deeply to be read") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RowError(field, f"is not valid JSON ({error})") from None


def _messages(value: Any) -> str | None:
    if not isinstance(value, list) or not value:
        return "must be a list of at least one {role, content}"
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"[{index}] must be an object with a string role"
        content_free = message["role"] == "assistant" and message.get("tool_calls")  # a turn of calls alone
        if not isinstance(message.get("content"), str) and not content_free:
            return f"[{index}] must have a string content"
    return None


def _tools(value: Any) -> str | None:
    if not isinstance(value, list):
        return "must be a list of tool documents"
    for index, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return f'[{index}] must be {{"type": "function", "function": {{"name": …}}}}'
        if not isinstance(function.get("parameters", {}), dict):
            return f"[{index}] ({function['name']}): parameters must be a JSON Schema object"
    if repeated := [name for name, n in Counter(t["function"]["name"] for t in value).items() if n > 1]:
        return f"names {repeated[0]!r} more than once; tool names must differ"
    return None


def _codes(value: Any) -> str | None:
    if not isinstance(value, dict) or not all(isinstance(code, str) for code in value.values()):
        return "must map each tool name to Python source"
    return None


def _unsolved(value: Any) -> str | None:
    good = isinstance(value, dict) and all(
        isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
        for answers in value.values()
    )
    return None if good else "must map tool names to lists of sub-answers, all strings"


def _solve_rate(value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return None if number else f"is {value!r}; write a number between 0 and 1"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"is a JSON {type(value).__name__}; write a string"


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "messages": _messages,
    "tools": _tools,
    "codes": _codes,
    "unsolved_set": _unsolved,
    "solve_rate": _solve_rate,
    "data_source": _text,
    "split": _text,
    "answer": _text,
}
