r"""What an answer says: boxes, code blocks, grids and arithmetic, read from untrusted text.

Nothing is evaluated. Every function gives None where the text does not have the form, takes linear time, and
raises on no text; a text longer than MAX_CHARS has no form.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from shared import answers

MAX_CHARS = 20_000  # a 30 x 30 grid of ARC has 2,800
MAX_EXPRESSION = 300

Grid = list[list[Any]]

_FENCE = re.compile(r"```[a-zA-Z]*")
_PYTHON = str.maketrans("()'", '[]"')
_TRAILING_COMMA = re.compile(r",(?=\s*+[\]}])")
_OPENING = re.compile(r"[\[(]\s*+[\[(]")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Puzzle:
    """A row's `game_data_str`, parsed: the answer of the row and whatever its generator kept."""

    answer: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    question: str = ""


Verify = Callable[[str, Puzzle], bool | None]  # right, wrong, or None: no answer of the asked form


def box(text: str) -> str | None:
    r"""Content of the last \boxed{...}, stripped."""
    content = answers.last_boxed(text) if len(text) <= MAX_CHARS else None
    return None if content is None else content.strip()


def block(text: str) -> str | None:
    """Content of the last complete ``` block, without the name of its language."""
    marks = list(_FENCE.finditer(text)) if len(text) <= MAX_CHARS else []
    if len(marks) < 2:
        return None
    start = marks[len(marks) // 2 * 2 - 2]
    return text[start.end() : text.index("```", start.end())].strip()


def unfenced(text: str) -> str:
    """The block, or the whole text if it has none."""
    content = block(text)
    return text.strip() if content is None else content


def double_brackets(text: str) -> str | None:
    """What stands between the last [[ and the ]] after it."""
    start = text.rfind("[[")
    end = text.find("]]", start)
    return None if start < 0 or end < 0 or len(text) > MAX_CHARS else text[start + 2 : end].strip()


def json_value(text: str) -> Any:
    """The value of a JSON text, or of Python's notation of lists, tuples, dictionaries, strings, numbers."""
    if len(text) > MAX_CHARS:
        return None
    python = _TRAILING_COMMA.sub("", text.translate(_PYTHON)) if _matched(text) else ""
    for source in (text, python):
        try:
            return json.loads(source)
        except (ValueError, RecursionError):
            continue
    return None


def _matched(text: str) -> bool:
    """Whether every bracket closes the last open one of its kind; also those inside strings."""
    opened: list[str] = []
    for bracket in re.findall(r"[()\[\]{}]", text):
        if bracket in "([{":
            opened.append(bracket)
        elif not opened or opened.pop() + bracket not in ("()", "[]", "{}"):
            return False
    return not opened


def grid(text: str) -> Grid | None:
    """The last list of lists in the text (or block), square brackets or round ones: rows of equal length."""
    source = unfenced(text)
    openings = list(_OPENING.finditer(source)) if len(source) <= MAX_CHARS else []
    if not openings:
        return None
    start = openings[-1].start()
    depth = 0
    for position, character in enumerate(source[start:], start=start):
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(character, 0)
        if depth == 0:
            return rectangle(json_value(source[start : position + 1]))
    return None


def rectangle(value: Any) -> Grid | None:
    """`value` if it is a list of non-empty lists of equal length."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        return None
    return value if len({len(row) for row in value}) == 1 else None


def number_grid(text: str) -> list[list[int]] | None:
    """A `grid` of integers."""
    return whole(grid(text))


def spaced_grid(text: str) -> list[list[int]] | None:
    """A grid written as [[1 2,2 1]]: integers apart by spaces, rows by commas."""
    inner = double_brackets(text)
    if inner is None or not re.fullmatch(r"[0-9\s,]*", inner) or re.search(r"[0-9]{6}", inner):
        return None
    return rectangle([[int(cell) for cell in row.split()] for row in inner.split(",")])


def whole(cells: Grid | None) -> list[list[int]] | None:
    """The grid if all cells are integers (a truth value is none)."""
    return cells if cells and all(type(cell) is int for row in cells for cell in row) else None


def integer(text: str) -> int | None:
    """An integer and nothing else."""
    return int(text) if re.fullmatch(r"\s*+-?[0-9]{1,18}\s*+", text) else None


def arithmetic(text: str) -> Fraction | None:
    """The exact value of + - * / % over non-negative integers and parentheses; None for anything else."""
    if len(text) > MAX_EXPRESSION or not re.fullmatch(r"[0-9+\-*/%() ]+", text):
        return None
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"{type(node).__name__} is no arithmetic")
