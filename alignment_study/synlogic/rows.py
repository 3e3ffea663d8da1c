"""Rows of the hub's MiniMaxAI/SynLogic (arXiv 2505.19641), as its parquet files have them:

data_source   the task's name, with or without val/ before it
prompt        [{"role": "user", "content": what the model is asked, the instruction about the tags included}]
extra_info    {"game_data_str": JSON of question, answer, difficulty, metadata, or null, and then
               "original_question" and "original_answer"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignment_study.synlogic.games import GAMES, grade
from alignment_study.synlogic.reading import Puzzle

ALIASES = {"arc_agi_2": "arc_agi"}  # the authors verify both alike


class Row(NamedTuple):
    """One problem. `gold` is a right answer in the asked form, empty where the row has none."""

    id: str
    task: str
    question: str
    prompt: str
    gold: str
    puzzle: Puzzle

    def verify(self, answer: str) -> bool:
        """Right or not; an answer that has not the asked form is wrong, as in the authors' reward."""
        return grade(self.task, answer, self.puzzle) is True


def parse(at: str, row: Any) -> Row:
    """A hub's row.

    Args:
        at: where it stands, for messages.

    Raises:
        ValueError: a task without a verifier, a missing field, JSON that is none; names `at` and the fix.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{at}: {str(row)[:40]!r} is no row; give an object with data_source and extra_info")
    source = str(row.get("data_source") or "").removeprefix("val/")
    task = ALIASES.get(source, source)
    if task not in GAMES:
        raise ValueError(
            f"{at}: no verifier for data_source {source!r}; SynLogic-Easy has {', '.join(GAMES)}; "
            "remove the rows of other tasks"
        )
    puzzle = _puzzle(f"{at} ({task})", row.get("extra_info"))
    if missing := [name for name in GAMES[task].fields if name not in puzzle.metadata]:
        raise ValueError(
            f"{at} ({task}): its metadata lacks {', '.join(missing)}, which the rules need; it has "
            f"{', '.join(puzzle.metadata) or 'nothing'}; restore or remove the row"
        )
    messages = row.get("prompt")
    if not messages or not isinstance(messages[0], Mapping) or not messages[0].get("content"):
        raise ValueError(f"{at} ({task}): no prompt; give a list with one user message")
    return Row(at, task, puzzle.question, str(messages[0]["content"]), GAMES[task].gold(puzzle), puzzle)


def _puzzle(at: str, info: Any) -> Puzzle:
    if not isinstance(info, Mapping):
        raise ValueError(f"{at}: no extra_info; give the hub's field with game_data_str")
    if (text := info.get("game_data_str")) is None:
        if info.get("original_answer") is None:
            raise ValueError(f"{at}: neither game_data_str nor original_answer in extra_info; give one")
        return Puzzle(info["original_answer"], {}, str(info.get("original_question") or ""))
    try:
        data = json.loads(text)
        metadata = data.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise ValueError(f"metadata is a {type(metadata).__name__}")
        return Puzzle(data["answer"], metadata, str(data.get("question") or ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{at}: game_data_str is not an object with question, answer and metadata ({error!r}); "
            "restore or remove the row"
        ) from error
