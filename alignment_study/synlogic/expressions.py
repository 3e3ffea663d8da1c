"""Arithmetic to write down. Expressions are parsed and computed with exact fractions (`reading.arithmetic`);
the authors call eval on them."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from alignment_study.synlogic import reading
from alignment_study.synlogic.reading import Puzzle

_EQUATION = re.compile(r"\d{1,30}(?:\s{0,9}[-+*]\s{0,9}\d{1,30}){1,9}\s{0,9}=\s{0,9}-?\d{1,30}")
_FRACTION = (
    r"\\d?frac\{(\d{1,30})\}\{(\d{1,30})\}|(\d{1,30}(?:\.\d{1,30})?(?:e[-+]?\d{1,3})?)(?:/(\d{1,30}))?"
)
_NUMBER = re.compile(rf"([-+]?)\s*+(?:{_FRACTION})")
TOLERANCE = Fraction(1, 10**6)  # golds are Python floats; the authors' math-verify rounds to 6 places


def mathador(answer: str, puzzle: Puzzle) -> bool | None:
    """A code block with an expression: every number once, the listed operators, the wanted result.

    The authors compare the result with itself, so that any value is right.
    """
    if (text := reading.block(answer)) is None:
        return None
    if (value := reading.arithmetic(text)) is None:
        return None
    numbers = Counter(int(number) for number in re.findall(r"[0-9]+", text))
    operators = set(re.findall(r"[-+*/%]", text))
    return (
        value == puzzle.metadata["result"]
        and numbers == Counter(puzzle.metadata["numbers"])
        and operators <= set(puzzle.metadata["operators"])
    )


def math_path(answer: str, puzzle: Puzzle) -> bool | None:
    """[[2 + 4 = 6]]: the question with a digit for every ?, and both sides equal.

    The authors do not mind where the parentheses are.
    """
    if (text := reading.double_brackets(answer)) is None or len(text) > reading.MAX_EXPRESSION:
        return None
    text, asked = "".join(text.split()), "".join(puzzle.metadata["query_expr"].split())
    if not re.fullmatch(re.escape(asked).replace(r"\?", "[0-9]"), text):
        return False
    left, right = (reading.arithmetic(side) for side in text.split("="))
    return left is not None and left == right


def cryptarithm(answer: str, puzzle: Puzzle) -> bool | None:
    """The last equation of the answer, spaces aside; puzzles have one solution."""
    if len(answer) > reading.MAX_CHARS or not (found := _EQUATION.findall(answer)):
        return None
    return "".join(found[-1].split()) == "".join(str(puzzle.answer).split())


def operation(answer: str, puzzle: Puzzle) -> bool | None:
    r"""A number, as a rule in \boxed{}: an integer, a decimal, 2/3 or \frac{2}{3}."""
    content = reading.box(answer)
    number, gold = _number(answer if content is None else content), _number(str(puzzle.answer))
    if number is None or gold is None:
        return None
    return number == gold if gold.denominator == 1 else abs(number - gold) <= TOLERANCE * min(1, abs(gold))


def _number(text: str) -> Fraction | None:
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.strip(" $\n").replace("\u2212", "-"))
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, top, bottom, plain, below = found.groups()
    divisor = int(bottom or below or 1)
    return Fraction(sign + (top or plain)) / divisor if divisor else None
