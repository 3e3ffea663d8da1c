"""The three tasks on Dyck languages, sequences of brackets that close each other."""

from __future__ import annotations

import re

from alignment_study.synlogic import reading
from alignment_study.synlogic.reading import Puzzle

_QUOTES = ('""', "''", "“”")


def dyck_language(answer: str, puzzle: Puzzle) -> bool | None:
    """The whole sequence, closed in the only shortest way; white space and quotes around it do not count."""
    text = _unquoted("".join(answer.split()))
    return text == puzzle.metadata["full_sequence"] if text else None


def dyck_language_errors(answer: str, puzzle: Puzzle) -> bool | None:
    """The position of the first error, counted from 1, or -1. The authors read "invalid" as -1, too."""
    if (position := reading.integer(answer)) is None:
        return None
    return position == (-1 if puzzle.metadata["is_valid"] else puzzle.metadata["first_error_pos"])


def dyck_language_reasoning_errors(answer: str, puzzle: Puzzle) -> bool | None:
    """The numbers of the wrong thoughts, 7,9,12, or an empty string. The authors drop everything else first:
    the numbers of any sentence count."""
    text = _unquoted(answer.strip()).replace("，", ",").strip()
    if len(text) > reading.MAX_CHARS or not re.fullmatch(r"(?:[0-9]{1,6}(?:\s*+,\s*+[0-9]{1,6})*+)?", text):
        return None
    return {int(number) for number in re.findall(r"[0-9]+", text)} == set(puzzle.metadata["error_indices"])


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] + text[-1] in _QUOTES else text
