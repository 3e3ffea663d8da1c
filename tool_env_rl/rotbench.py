"""RoTBench: load tasks and score single turns (arXiv 2508.08791, §4.4; authors' `evaluation_rotbench.py`).

A text protocol, no chat-template tools: `Action: TOOL` and `Action Input: {JSON}`. Per task against its gold
turns: TS, the tool's name is a gold one; PI, also the same argument names; CF, also the same multiset of
argument values.
The table holds macro means over five noise levels: Clean 105 tasks, Slight, Medium and Heavy 210 each, Union
105.

Fields read, as the authors' harness does: `messages` (the prompt), `answer` (list of gold turns as text),
`data_source`. How `data_source` names the level is not known to us; its last part, without case, is taken.
The layout of the original repository's files (Junjie-Ye/RoTBench) was not seen and is not read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tool_env_rl.benchmark_files import BadTask, field, load_tasks

LEVELS = ("clean", "slight", "medium", "heavy", "union")
MEASURES = ("TS", "PI", "CF")


@dataclass(frozen=True)
class RoTBenchTask:
    """One prompt, its noise level, and the gold turns as (tool, arguments)."""

    messages: tuple[dict[str, Any], ...]
    gold: tuple[tuple[str, dict[str, Any]], ...]
    level: str


def load(source: str | Path, *, split: str = "test") -> tuple[list[RoTBenchTask], list[str]]:
    """Tasks of a local file or hub data set, and one sentence per row left out."""
    return load_tasks(source, parse_task, split=split)


def parse_task(row: dict[str, Any]) -> RoTBenchTask:
    """A task of one row; BadTask names the field."""
    answers = field(row, "answer", list)
    gold = [_official_action(answer) if isinstance(answer, str) else None for answer in answers]
    if not gold or None in gold:
        raise BadTask("field answer must be a list of turns with Action: and Action Input: {...}")
    level = field(row, "data_source", str).rpartition("/")[2].lower()
    if level not in LEVELS:
        raise BadTask(f"field data_source ends in {level!r}; it must end in one of {', '.join(LEVELS)}")
    messages = field(row, "messages", list)
    return RoTBenchTask(tuple(messages), tuple(action for action in gold if action), level)


def score(
    response: str, gold: Sequence[tuple[str, dict[str, Any]]], *, official: bool = True
) -> dict[str, float]:
    """TS, PI and CF of one response, each 0.0 or 1.0; never raises.

    official=True, with the authors' quirks (§6.2-9): the first "Action: " counts, even inside thoughts; all
        that follows "Action Input: " must be JSON, so one trailing word gives 0; the flags may come from
        different gold turns; a list or object among the values ends the comparison, and CF stays 0.
    official=False: the last "Action:" after </think>, trailing text allowed, all flags from the one best
        gold turn, list and object values compared too.
    """
    action = _official_action(response) if official else _action(response)
    if action is None:
        return _flags(0)
    if official:
        return _official_flags(action, gold)
    return _flags(max((_matched(action, answer) for answer in gold), default=0))


def _flags(count: int) -> dict[str, float]:
    """The first `count` measures hold."""
    return {measure: float(count > index) for index, measure in enumerate(MEASURES)}


def _official_action(text: str) -> tuple[str, dict[str, Any]] | None:
    try:
        tool = text.split("Action: ")[1].split("Action Input: ")[0].strip()
        arguments = json.loads(text.split("Action Input: ")[1].strip())
    except (IndexError, ValueError, RecursionError):
        return None
    return (tool, arguments) if isinstance(arguments, dict) else None


def _action(text: str) -> tuple[str, dict[str, Any]] | None:
    before, _, after = text.rpartition("</think>")[2].rpartition("Action Input:")
    tool = before.rpartition("Action:")[2].strip()
    try:
        arguments, _ = json.JSONDecoder().raw_decode(after.strip())
    except (ValueError, RecursionError):
        return None
    return (tool, arguments) if tool and isinstance(arguments, dict) else None


def _official_flags(
    action: tuple[str, dict[str, Any]], gold: Sequence[tuple[str, dict[str, Any]]]
) -> dict[str, float]:
    tool, arguments = action
    flags = _flags(0)
    for gold_tool, gold_arguments in gold:
        if gold_tool != tool:
            continue
        flags["TS"] = 1.0
        if gold_arguments.keys() != arguments.keys():
            continue
        flags["PI"] = 1.0
        try:
            same = Counter(gold_arguments.values()) == Counter(arguments.values())
        except TypeError:  # an unhashable value: the authors' loop ends in its `except`
            break
        if same:
            flags["CF"] = 1.0
            break
    return flags


def _matched(action: tuple[str, dict[str, Any]], answer: tuple[str, dict[str, Any]]) -> int:
    """0 to 3: how many of TS, PI, CF hold against one gold turn."""
    if action[0] != answer[0]:
        return 0
    if action[1].keys() != answer[1].keys():
        return 1
    canonical = [
        Counter(json.dumps(v, sort_keys=True) for v in values.values()) for values in (action[1], answer[1])
    ]
    return 3 if canonical[0] == canonical[1] else 2


def summarize(scores: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Percent per noise level present, and under "all" the macro mean if all five are there.

    Args:
        scores: (level, result of `score`) per task.
    """
    table: dict[str, dict[str, float]] = {}
    for level in LEVELS:
        rows = [flags for name, flags in scores if name == level]
        if rows:
            table[level] = {measure: 100 * fmean(row[measure] for row in rows) for measure in MEASURES}
    if unknown := {name for name, _ in scores} - set(LEVELS):
        raise ValueError(f"level {min(unknown)!r} is not one of {', '.join(LEVELS)}")
    if len(table) == len(LEVELS):
        table["all"] = {measure: fmean(row[measure] for row in table.values()) for measure in MEASURES}
    return table
