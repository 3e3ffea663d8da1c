"""Values an oracle may try for a parameter, and how they are written down before they are concrete."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORMATS = (
    "2024-01-01",
    "2000-01-01",
    "2000-2024",
    "2000-01-01 to 2024-12-31",
    "2024",
    "12:00",
    "USD",
    "en",
    "10",
)


@dataclass(frozen=True)
class Has:
    """A text that must contain these words; the shortest such text is the words themselves."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Guess:
    """A text that may pass a format check; it gives way to whatever else is known of the parameter."""

    text: str


Lead = dict[str, Any]


@dataclass(frozen=True)
class Hints:
    """What an agent could know: the question and the sub-answers of the environment."""

    question: str
    answers: tuple[str, ...]

    def texts(self) -> list[str]:
        """Free-text candidates: other sub-answers, names and quotations of the question, all of it."""
        names = re.findall(r"(?:[A-ZÀ-Þ][\w'’.-]*(?:\s+(?:of|the|de|von|and|&)\s+)?\s*){1,6}", self.question)
        quoted = re.findall(r"[\"'“‘]([^\"'”’]{2,80})[\"'”’]", self.question)
        found = [*self.answers, *quoted, *names, self.question, self.question.rstrip("?")]
        return list(
            dict.fromkeys(text.strip(" ,.?") if len(text) < 80 else text for text in found if text.strip())
        )

    def numbers(self) -> list[float]:
        """Numbers of the sub-answers, then of the question."""
        texts = (*self.answers, self.question)
        found = (m for text in texts for m in re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", "")))
        return list(dict.fromkeys(float(m) if "." in m else int(m) for m in found if len(m) < 18))


def fillers(param: str, schema: Mapping[str, Any], known: Sequence[Any], hints: Hints) -> list[Any]:
    """Plausible values of a parameter, best first: what the source compares it with, schema, hints."""
    kind = schema.get("type")
    fitting = [value for value in map(concrete, known) if _fits(value, kind)]
    enum = schema.get("enum")
    found: list[Any] = [*fitting, *(enum if isinstance(enum, list) else [])]
    found += [schema[key] for key in ("default", "example") if schema.get(key) is not None]
    numbers = hints.numbers()
    if kind in ("number", "integer"):
        found += [n for n in numbers if kind == "number" or isinstance(n, int)] + [1, 10, 2024]
    elif kind == "boolean":
        found += [True, False]
    elif kind == "array":
        items = schema.get("items")
        inner = items.get("type") if isinstance(items, dict) else None
        pool: list[Any] = numbers if inner in ("number", "integer", None) else list(hints.answers)
        whole = [float(a.replace(",", "")) for a in hints.answers if re.fullmatch(r"-?[\d,]+(\.\d+)?", a)]
        found += [_ints(whole)] if whole else []
        found += [list(pair) for pair in itertools.permutations(pool[:6], 2)] + [
            list(hints.answers),
            pool[:3],
        ]
        found += [[value] for value in fitting]
    elif kind == "object":
        found += [_object(schema, hints)]
    else:
        texts = [*hints.texts(), *_expressions(numbers), *FORMATS]
        if "date" in param.lower() or schema.get("format") == "date":
            texts = ["2024-12-31" if "end" in param.lower() else "2024-01-01", *texts]
        found += texts
    return unique(found)


def concrete(value: Any, kind: Any = None) -> Any:
    """A JSON value for what a lead holds: `Has` becomes its words, sets and tuples become lists.

    `kind` is the parameter's JSON Schema type: a scalar for an array becomes a list.
    """
    if isinstance(value, Has):
        return list(value.words) if kind == "array" else " ".join(value.words)
    if isinstance(value, Guess):
        return value.text
    if kind == "array" and isinstance(value, str | int | float):
        return [value]
    if isinstance(value, dict):
        return {str(key): concrete(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [concrete(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else str(value)


def _fits(value: Any, kind: Any) -> bool:
    kinds = {
        "string": str,
        "array": list,
        "object": dict,
        "boolean": bool,
        "number": int | float,
        "integer": int,
    }
    expected = kinds.get(kind) if isinstance(kind, str) else None
    return expected is None or (
        isinstance(value, expected) and (kind == "boolean" or not isinstance(value, bool))
    )


def _expressions(numbers: Sequence[float]) -> list[str]:
    pairs = itertools.permutations(numbers[:6], 2)
    return [f"{a} {operator} {b}" for a, b in pairs for operator in "-+/*"]


def _object(schema: Mapping[str, Any], hints: Hints) -> dict[str, Any]:
    properties = schema.get("properties")
    value: dict[str, Any] = {}
    for name, part in (properties if isinstance(properties, dict) else {}).items():
        enum = part.get("enum") if isinstance(part, dict) else None
        number = isinstance(part, dict) and part.get("type") in ("number", "integer")
        text = next(iter(hints.texts()), "x")
        value[name] = enum[0] if isinstance(enum, list) and enum else (1 if number else text)
    return value


def _ints(values: Iterable[float]) -> list[float]:
    return [int(v) if v.is_integer() else v for v in values]


def unique(values: Iterable[Any]) -> list[Any]:
    return list({f"{type(value).__name__} {value!r}": value for value in values}.values())
