"""Grade a response: extraction, three matchers side by side, harmonic mean, thinking/answer consistency.

`substring` is the paper's rule (authors' `test_qwen2vl_*.py`); a response that lists every option is right
under it, which is why `exact` and `in_list` stand beside it and such responses are counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Rule = Literal["substring", "exact"]
Consistency = Literal["consistent", "inconsistent", "none"]

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THOUGHT = re.compile(r"<(think|reason)>(.*?)</\1>", re.DOTALL)


def extract_answer(text: str) -> str:
    """Content of the first complete answer block, over several lines too; the whole text if there is none."""
    found = _ANSWER.search(text)
    return (found.group(1) if found else text).strip()


def extract_thought(text: str) -> str | None:
    """Content of the first complete think or reason block, or None."""
    found = _THOUGHT.search(text)
    return found.group(2).strip() if found else None


@lru_cache(maxsize=100_000)
def normalise(name: str) -> str:
    """Composed characters, folded case, underscores as spaces, single spaces; punctuation is kept."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").casefold().split())


def match(answer: str, label: str, rule: Rule = "substring") -> bool:
    """Whether `answer` (see `extract_answer`) names the class.

    substring: the lower-cased label, or the same with `_` as spaces, is anywhere in the lower-cased answer,
    even inside a longer word. exact: equal after `normalise`. ValueError for an empty label or another rule.
    """
    if not label.strip():
        raise ValueError(f"label={label!r} is empty and would match any answer; give a class name")
    if rule == "exact":
        return normalise(answer) == normalise(label)
    if rule != "substring":
        raise ValueError(f"rule={rule!r} is not one of substring, exact")
    low_answer, low_label = answer.lower(), label.strip().lower()
    spaced = low_label.replace("_", " ")
    return low_label in low_answer or (bool(spaced.strip()) and spaced in low_answer)


def in_list(answer: str, options: Iterable[str]) -> bool:
    """Whether the answer *is* one of the options (normalised equality): does the model obey the list?"""
    wanted = normalise(answer)
    return any(normalise(option) == wanted for option in options)


def named_options(text: str, options: Iterable[str]) -> list[str]:
    """Options that stand in `text` as whole words, in order of their last appearance.

    A name inside a longer named option ("cat" in "cat, domestic") counts only where it also stands alone.
    """
    low = normalise(text)
    spans: list[tuple[int, int, str]] = []
    for option in dict.fromkeys(options):
        name = normalise(option)
        if not name or name not in low:
            continue
        spans += [(m.start(), m.end(), option) for m in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", low)]
    spans.sort(key=lambda span: (span[0], -span[1]))
    alone: list[tuple[int, int, str]] = []
    for span in spans:
        if not alone or span[1] > alone[-1][1]:
            alone.append(span)
    last = {option: start for start, _, option in alone}
    return sorted(last, key=last.__getitem__)


@dataclass(frozen=True)
class Grade:
    """One response under every matcher; at most one test image's worth of each count."""

    answer: str
    substring: bool
    exact: bool
    in_list: bool
    lists_all: bool  # names every one of two or more options
    consistency: Consistency


def grade(text: str, label: str, options: Sequence[str]) -> Grade:
    """Grade one response against the label and the options of its own prompt (empty: an open-set prompt)."""
    answer = extract_answer(text)
    return Grade(
        answer,
        substring=match(answer, label, "substring"),
        exact=match(answer, label, "exact"),
        in_list=in_list(answer, options),
        lists_all=lists_every_option(answer, options),
        consistency=consistency(text, options),
    )


def lists_every_option(answer: str, options: Sequence[str]) -> bool:
    """Whether the answer names every one of at least two different options; `substring` rewards that.

    As in `named_options`, "hot dog" does not name "dog" too.
    """
    names = {normalise(option) for option in options}
    return len(names) > 1 and len({normalise(name) for name in named_options(answer, options)}) == len(names)


def consistency(text: str, options: Iterable[str]) -> Consistency:
    """Whether thinking and answer name the same option; "none" if there is no thought or it names none.

    The paper asks GPT-4o for the thought's answer; here it is the option named last in the thought (D2).
    """
    thought = thought_answer(text, options)
    if thought is None:
        return "none"
    return "consistent" if normalise(extract_answer(text)) == normalise(thought) else "inconsistent"


def thought_answer(text: str, options: Iterable[str]) -> str | None:
    """The option that the think or reason block names last, or None."""
    thought = extract_thought(text)
    named = named_options(thought, options) if thought else []
    return named[-1] if named else None


def harmonic_mean(base: float, new: float) -> float:
    """H = 2BN / (B + N) of two accuracies >= 0 in one unit; 0 where both are 0."""
    if base < 0 or new < 0:
        raise ValueError(f"accuracies must be >= 0; got base={base}, new={new}")
    return 0.0 if base + new == 0 else 2 * base * new / (base + new)


def average_harmonic_mean(cells: Sequence[tuple[float, float]]) -> float:
    """H of the average base and the average new accuracy (CoCoOp), *not* the mean of the data sets' H."""
    if not cells:
        raise ValueError("average_harmonic_mean needs at least one (base, new) pair; got none")
    return harmonic_mean(*(sum(column) / len(cells) for column in zip(*cells, strict=True)))


def summarise(grades: Sequence[Grade]) -> dict[str, float]:
    """Shares in [0, 1] of all grades and their number `n`; `exact_in_list` is exact given in_list."""
    if not grades:
        raise ValueError("no responses to summarise; evaluate at least one image")
    n, obeyed = len(grades), sum(g.in_list for g in grades)
    named = [g for g in grades if g.consistency != "none"]
    return {
        "n": n,
        "substring": sum(g.substring for g in grades) / n,
        "exact": sum(g.exact for g in grades) / n,
        "in_list": obeyed / n,
        "exact_in_list": sum(g.exact for g in grades) / obeyed if obeyed else 0.0,
        "lists_all": sum(g.lists_all for g in grades) / n,
        "thought_named": len(named) / n,
        "inconsistent": sum(g.consistency == "inconsistent" for g in named) / len(named) if named else 0.0,
    }
