"""Checks of a decomposition: plan, final, and the question's part of leak; see validate.py for the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from tool_env_rl.protocol import answer_matches
from tool_env_rl.records import SCENARIOS

RULES = ("last", "list", "max", "min", "sum", "difference", "argmax", "argmin")


@dataclass(frozen=True)
class Finding:
    """One failed check; `tool` where one tool is to blame."""

    check: str
    message: str
    tool: str | None = None


def plan_findings(
    scenario: str, question: str, steps: Sequence[Mapping[str, Any]], final: Mapping[str, Any], answer: str
) -> list[Finding]:
    """Checks plan, final and the question's part of leak. A step has id, answer and depends_on."""
    if problem := _plan_problem(scenario, steps):
        return [Finding("plan", problem)]
    found = []
    answers = {step["id"]: step["answer"] for step in steps}
    derived = derive(final, answers)
    if derived is None or _normal(derived) != _normal(answer):
        found.append(
            Finding("final", f"rule {dict(final)} gives {derived!r}, not the final answer {answer!r}")
        )
    found += [
        Finding("leak", f"sub-answer {text!r} stands in the question")
        for text in answers.values()
        if answer_matches(question, text, strict=True)
    ]
    return found


def _plan_problem(scenario: str, steps: Sequence[Mapping[str, Any]]) -> str | None:
    ids = [step["id"] for step in steps]
    if scenario not in SCENARIOS:
        return f"scenario {scenario!r} is none of {', '.join(SCENARIOS)}"
    if not ids or len(set(ids)) != len(ids):
        return f"step ids {ids} must differ and there must be one at least"
    for step in steps:
        if unknown := [i for i in step["depends_on"] if i not in ids]:
            return f"step {step['id']} depends on step {unknown[0]}, which does not exist"
        if not str(step["answer"]).strip():
            return f"step {step['id']} has an empty sub-answer"
    try:
        order = list(TopologicalSorter({step["id"]: step["depends_on"] for step in steps}).static_order())
    except CycleError as error:
        return f"steps {error.args[1]} depend on each other in a cycle"
    reached: dict[int, set[int]] = {}  # step → all steps it needs, directly or not
    needs = {step["id"]: set(step["depends_on"]) for step in steps}
    for i in order:
        reached[i] = needs[i].union(*(reached[j] for j in needs[i]))
    chained = all(len(reached[i]) == position for position, i in enumerate(order))
    independent = not any(needs.values())
    fits = {
        "single_hop": len(ids) == 1,
        "parallel_single_hop": len(ids) >= 2 and independent,
        "multi_hop": len(ids) >= 2 and chained,
        "parallel_multi_hop": len(ids) >= 3 and not chained and not independent,
    }
    if not fits[scenario]:
        shape = {i: sorted(n) for i, n in needs.items()}
        return f"{len(ids)} steps with dependencies {shape} are no {scenario}"
    return None


def derive(final: Mapping[str, Any], answers: Mapping[int, str]) -> str | None:
    """The final answer by `final` = {"rule", "steps", "labels"?} from sub-answers by id; None if it has none.

    last: the answer of the one step; list: answers joined by ", "; max, min, sum, difference (first minus
    second): of the numbers in the answers; argmax, argmin: the label of the step with that number.
    """
    rule, ids = final.get("rule"), final.get("steps")
    if rule not in RULES or not isinstance(ids, list) or not ids or any(i not in answers for i in ids):
        return None
    chosen = [answers[i] for i in ids]
    if rule == "last":
        return chosen[0] if len(chosen) == 1 else None
    if rule == "list":
        return ", ".join(chosen)
    numbers = [_number(text) for text in chosen]
    if any(number is None for number in numbers):
        return None
    values = [number for number in numbers if number is not None]
    if rule in ("argmax", "argmin"):
        labels = final.get("labels")
        best = max(values) if rule == "argmax" else min(values)
        if not isinstance(labels, list) or len(labels) != len(values) or values.count(best) > 1:
            return None
        return str(labels[values.index(best)])
    if rule == "difference" and len(values) != 2:
        return None
    reduce = {"max": max, "min": min, "sum": sum, "difference": lambda v: v[0] - v[1]}[rule]
    return f"{reduce(values):g}" if abs(reduce(values)) < 1e6 else f"{reduce(values):.0f}"


def _number(text: str) -> float | None:
    """The number a text starts with, e.g. of "450 million" or "1,931"."""
    words = text.replace(",", "").split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


def _normal(text: str) -> str:
    number = _number(text) if len(text.split()) == 1 else None
    return " ".join(text.lower().replace(",", "").split()) if number is None else f"{number:.12g}"
