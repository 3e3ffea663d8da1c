"""Verifiers: is this answer right? True, False, or None where the verifier itself failed.

An answer is untrusted text: nothing here evaluates it. Where a verifier of reasoning-gym would, `readable`
lets through only plain literals or plain arithmetic.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from shared import answers

Verify = Callable[[str, str], bool | None]

MAX_CHARS = 2_000  # longer than any gold
# reasoning-gym 0.1.25 hands the answer to eval ...
EVALUATED = {"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"}
# ... or to sympy's parser, which evaluates too.
PARSED = {"simple_integration", "intermediate_integration", "polynomial_multiplication"}
PARSED |= {"puzzle24", "countdown"}
_WORDS = re.compile(r"[\w\s]*")  # no operator, call or attribute: evaluating it can do nothing
_FUNCTION = "sin|cos|tan|asin|acos|atan|sinh|cosh|tanh|exp|log|sqrt|pi"
_ARITHMETIC = re.compile(  # possessive: linear time on any text
    rf"(?>\b(?:{_FUNCTION}|[A-Za-z])\b|\d+(?:\.\d+)?|\*\*(?=-?\d{{1,2}}\b|[a-z]\b)|\*(?!\*)|[-+/() ])*+"
)
_TOWER = re.compile(r"\*\*-?\w+\s*\*\*|\)\s*\*\*(?![1-9]\b)")  # 9**9**9, (9**99)**99: would not end
_NUMBER = re.compile(r"[-+]?[\d.,]*\d\s*%?|\\?[dt]?frac.*|.*\\[a-zA-Z].*|[-+]?\d+\s*/\s*\d+")


def text(answer: str, gold: str) -> bool | None:
    """Equal after Unicode normalisation (NFKC) and with white space collapsed; case counts."""
    return _plain(answer) == _plain(gold)


def mathematics(answer: str, gold: str) -> bool | None:
    r"""Equal as mathematics (`shared.answers`, math-verify), with or without a \boxed{} around the answer."""
    return answers.grade(boxed(answer), gold)


def boxed(answer: str) -> str:
    r"""The answer as `shared.answers` reads it; one with unbalanced braces is no answer (empty string)."""
    if answers.last_boxed(answer) is not None:
        return answer
    wrapped = f"\\boxed{{{answer}}}"
    return wrapped if answers.last_boxed(wrapped) == answer else ""


def any_kind(answer: str, gold: str) -> bool | None:
    """For questions of unknown kind: as mathematics where the gold is a number, a fraction or LaTeX, else
    equal as text or, where the gold is a Python container, as literals."""
    if _NUMBER.fullmatch(gold.strip()):
        return mathematics(answer, gold)
    if text(answer, gold):
        return True
    left, right = literal(answer), literal(gold)
    if isinstance(right, list | tuple | dict | set):
        return left is not None and _canonical(left) == _canonical(right)
    return False


def literal(source: str) -> Any:
    """The Python literal that `source` is, or None; never evaluates anything."""
    if len(source) > MAX_CHARS:
        return None
    try:
        return ast.literal_eval(source.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def readable(dataset: str, answer: str) -> bool:
    """Whether reasoning-gym's verifier of `dataset` may see the answer without evaluating foreign code."""
    if len(answer) > MAX_CHARS:
        return False
    if dataset in EVALUATED:
        return _WORDS.fullmatch(answer) is not None or literal(answer) is not None
    if dataset in PARSED:
        powers = _TOWER.search(answer) is None and answer.count(")**") <= 3
        return len(answer) <= 300 and powers and _ARITHMETIC.fullmatch(answer) is not None
    return True


def _plain(source: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", source).split())


def _canonical(value: Any) -> Any:
    """Tuples like lists, sets like sorted lists, numbers exact, strings as `text` compares them."""
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in value]
    if isinstance(value, set):
        return ["set", *sorted((_canonical(part) for part in value), key=repr)]
    if isinstance(value, dict):
        return {repr(_canonical(key)): _canonical(part) for key, part in value.items()}
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Fraction(str(value)) if abs(value) < float("inf") else repr(value)
    return repr(value)
