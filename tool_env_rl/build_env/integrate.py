"""Stage 3, function integration: tools that overlap become one with a parameter that tells them apart."""

from __future__ import annotations

import random
from typing import Any

from shared.seeding import derive_seed
from tool_env_rl.build_env.document import free_name, function_document, tool_problems
from tool_env_rl.build_env.stage import CALLS_SCHEMA, TOOL_SCHEMA, Backend, Json, ask
from tool_env_rl.knowledge_base import OPERATIONS

NAME = "integrate"
INSTRUCTIONS = """Merge tools whose functions overlap into one parameterised tool; leave the others as they
are. Return all resulting tools; each has `calls`, which maps the id of every sub-question it answers to the
arguments of its call. Every sub-question belongs to exactly one tool, calls of one tool must differ, and
each call passes only what identifies the sub-question. Documents must not mention names, dates or numbers
of the sub-questions."""
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string"},
        "tools": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"document": TOOL_SCHEMA, "calls": CALLS_SCHEMA},
                "required": ["document", "calls"],
            },
        },
    },
    "required": ["tools"],
}
MERGE_SHARE = 0.5  # of the pairs of relations with the same source type; the same relation is always merged
GENERAL_NAMES = ("records", "archive", "directory", "index")  # person_records(person, relation)


def run(data: Json, backend: Backend) -> Json:
    """Replace `tools` by m ≤ n entries whose `calls` cover every step once."""
    steps = {str(step["id"]): step for step in data["steps"]}
    if len(data["tools"]) == 1:
        return data
    entries = [entry | {"questions": _questions(entry, steps)} for entry in data["tools"]]

    def check(result: Json) -> list[tuple[str, str]]:
        covered = [i for entry in result["tools"] for i in entry["calls"]]
        if sorted(covered) != sorted(steps) or len(result["tools"]) > len(entries):
            return [
                ("integrate", f"calls cover {sorted(covered)}; each of {sorted(steps)} needs exactly one")
            ]
        problems: list[tuple[str, str]] = []
        taken: list[str] = []
        for entry in result["tools"]:
            calls = list(entry["calls"].values())
            name = entry["document"]["function"]["name"]
            if any(call in calls[:i] for i, call in enumerate(calls)):
                problems.append(("integrate", f"{name} cannot tell its sub-questions apart: {calls}"))
            answers = [step["answer"] for step in data["steps"]]
            problems += tool_problems(entry["document"], calls, answers, taken)
            taken.append(name)
        return problems

    result = ask(backend, NAME, {"tools": entries, "seed": data["seed"]}, SCHEMA, check)
    asks = {i: ask for entry in data["tools"] for i, ask in entry.get("asks", {}).items()}
    return data | {"tools": [_with_asks(entry, asks) for entry in result["tools"]]}


def _questions(entry: Json, steps: dict[str, Json]) -> dict[str, str]:
    return {i: steps[i]["question"] for i in entry["calls"]}


def _with_asks(entry: Json, asks: dict[str, Any]) -> Json:
    kept = {"document": entry["document"], "calls": entry["calls"]}
    known = {i: asks[i] for i in entry["calls"] if i in asks}
    return kept | ({"asks": known} if known else {})


# --- the deterministic backend's rule ---------------------------------------------------------------------


def write(payload: Json) -> Json:
    """Merge the same relation always, relations of one source type by the toss of a coin."""
    rng = random.Random(derive_seed(payload["seed"], NAME))
    groups: list[list[Json]] = []
    for entry in payload["tools"]:
        (ask,) = entry["asks"].values()
        for group in groups:
            other = next(iter(group[0]["asks"].values()))
            same = any(ask["relation"] == a["relation"] for e in group for a in e["asks"].values())
            mergeable = ask["source"] == other["source"] and ask["relation"] not in OPERATIONS
            if same or (mergeable and other["relation"] not in OPERATIONS and rng.random() < MERGE_SHARE):
                group.append(entry)
                break
        else:
            groups.append([entry])
    tools: list[Json] = []
    for group in groups:
        taken = [tool["document"]["function"]["name"] for tool in tools]
        tools.append(_merge(group, taken, rng))
    return {"tools": tools}


def _merge(group: list[Json], taken: list[str], rng: random.Random) -> Json:
    asks = {i: ask for entry in group for i, ask in entry["asks"].items()}
    calls = {i: call for entry in group for i, call in entry["calls"].items()}
    relations = list(dict.fromkeys(ask["relation"] for ask in asks.values()))
    if len(relations) == 1:
        return {"document": group[0]["document"], "calls": calls}
    source = next(iter(asks.values()))["source"]
    name = free_name(f"{source}_{rng.choice(GENERAL_NAMES)}", taken)
    calls = {i: call | {"relation": asks[i]["relation"]} for i, call in calls.items()}
    return {"document": relation_document(name, source, relations, None), "calls": calls}


def relation_document(name: str, source: str, relations: list[str], default: str | None) -> Json:
    """A tool that looks up one of several relations; without a default the relation is required."""
    words = source.replace("_", " ")
    relation: Json = {"type": "string", "enum": relations, "description": "What to look up."}
    relation |= {} if default is None else {"default": default}
    properties = {source: {"type": "string", "description": f"Name of the {words}."}, "relation": relation}
    required = [source, "relation"] if default is None else [source]
    return function_document(name, f"Looks up facts about a {words}.", properties, required)
