"""Stage 4, complexity scaling: four operations, one more per level, and old calls stay valid.

L0 as integrated · L1 functional generalization: a general tool with the relation as an enum parameter · L2
parameter expansion: 1 to 4 optional parameters · L3 parameter type generalization: those become enum,
boolean, integer, array or object · L4 toolset extension: distractors, until the toolset has 5 to 8 tools
(sheet §7.3).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from shared.seeding import derive_seed
from tool_env_rl.build_env.document import free_name, function_document, tool_problems
from tool_env_rl.build_env.integrate import GENERAL_NAMES, relation_document
from tool_env_rl.build_env.stage import CALLS_SCHEMA, TOOL_SCHEMA, Backend, Json, ask
from tool_env_rl.document_checks import argument_findings
from tool_env_rl.knowledge_base import OPERATIONS, World

NAME = "scale"
LEVELS = (0, 1, 2, 3, 4)
# Operation by level; the fifth, toolset extension, is not the backend's.
OPERATION_NAMES = ("functional generalization", "parameter expansion", "parameter type generalization")
TOOLSET = (5, 8)  # tools at L4 (§7.3); the authors' data: 7.5 to 11 on average
INSTRUCTIONS = """Make the tool harder to use by the given operations, while every old call stays valid and
means the same. Functional generalization: a more general purpose and name. Parameter expansion: one to four
more parameters, all optional. Parameter type generalization: richer types (enum, boolean, integer, array,
object) for the new parameters. Never rename, remove, narrow or newly require a parameter. Return the tool
and its calls: the old ones, with new parameters only where they identify what is asked. Keep to the rules
of documents: no name, date or number of the sub-questions, and a tool name that is none of
`taken_names`."""
SCHEMA: Json = {
    "type": "object",
    "properties": {"analysis": {"type": "string"}, "tool": TOOL_SCHEMA, "calls": CALLS_SCHEMA},
    "required": ["tool", "calls"],
}
# name → (plain parameter of L2, the same with a richer type at L3)
OPTIONAL: dict[str, tuple[Json, Json]] = {
    "language": (
        {"type": "string", "description": "Language of the reply."},
        {"type": "string", "enum": ["english", "french", "spanish"], "default": "english"},
    ),
    "detail": (
        {"type": "string", "description": "How much to say."},
        {"type": "string", "enum": ["short", "full"], "default": "short"},
    ),
    "verified": (
        {"type": "string", "description": "Whether to use verified records only."},
        {"type": "boolean", "default": False},
    ),
    "limit": (
        {"type": "string", "description": "How many records to return."},
        {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
    ),
    "sources": (
        {"type": "string", "description": "Where to look."},
        {"type": "array", "items": {"type": "string"}},
    ),
    "filters": (
        {"type": "string", "description": "Further conditions."},
        {"type": "object", "properties": {"region": {"type": "string"}}},
    ),
}


def run(data: Json, backend: Backend, world: World, pool: Sequence[tuple[Json, str]] = ()) -> Json:
    """Scale every tool to `data["level"]` and, at L4, add `distractors`, from `pool` (tool, code) first."""
    answers = [step["answer"] for step in data["steps"]]
    taken_relations = {ask["relation"] for e in data["tools"] for ask in e.get("asks", {}).values()}
    scaled: list[Json] = []
    for index, entry in enumerate(data["tools"]):
        rest = [other["document"]["function"]["name"] for other in data["tools"][index + 1 :]]
        taken = [*rest, *(other["document"]["function"]["name"] for other in scaled)]
        new = {"document": entry["document"], "calls": entry["calls"]}
        if data["level"] > 0:
            asks = list(entry.get("asks", {}).values())
            spare = [r.name for r in world.kb.from_source(asks[0]["source"])] if asks else []
            payload = {
                "tool": entry["document"],
                "calls": entry["calls"],
                "operations": list(OPERATION_NAMES[: data["level"]]),
                "taken_names": taken,
                "seed": data["seed"],
            }
            if asks:
                payload |= {"asks": asks[0], "spare": [r for r in spare if r not in taken_relations]}

            def check(result: Json, old: Json = entry, taken: list[str] = taken) -> list[tuple[str, str]]:
                return _incompatible(old, result) or tool_problems(
                    result["tool"], list(result["calls"].values()), answers, taken
                )

            result = ask(backend, NAME, payload, SCHEMA, check)
            new = {"document": result["tool"], "calls": result["calls"]}
        taken_relations |= set(_relations(new["document"]))
        scaled.append(entry | new | {"old_calls": entry["calls"]})
    data = data | {"tools": scaled, "distractors": []}
    return data if data["level"] < 4 else data | {"distractors": _distractors(data, world, pool)}


def _incompatible(old: Json, new: Json) -> list[tuple[str, str]]:
    """Why the new tool does not take the old calls; empty if it does."""
    if sorted(old["calls"]) != sorted(new["calls"]):
        return [("scale", f"calls must answer {sorted(old['calls'])}, not {sorted(new['calls'])}")]
    before = old["document"]["function"]["parameters"]
    after = new["tool"]["function"]["parameters"]
    problems = []
    if lost := set(before["properties"]) - set(after["properties"]):
        problems.append(("scale", f"parameter {min(lost)!r} is gone; old calls must stay valid"))
    if newly := set(after["required"]) - set(before["required"]):
        problems.append(("scale", f"parameter {min(newly)!r} is newly required; make it optional"))
    for step_id, call in old["calls"].items():
        problems += [("scale", f.message) for f in argument_findings(new["tool"], call, "the old call")]
        if any(new["calls"][step_id].get(key) != value for key, value in call.items()):
            problems.append(("scale", f"the call of step {step_id} changed {call}; it may only add to it"))
    return problems


def _relations(document: Json) -> list[str]:
    return document["function"]["parameters"]["properties"].get("relation", {}).get("enum", [])


def _distractors(data: Json, world: World, pool: Sequence[tuple[Json, str]]) -> list[Json]:
    """Tools of other questions that could not answer this one: {"document", "code" or "relations"}."""
    rng = random.Random(derive_seed(data["seed"], "distractors"))
    count = max(rng.randint(*TOOLSET) - len(data["tools"]), 0)
    answers = [step["answer"] for step in data["steps"]]
    names = [entry["document"]["function"]["name"] for entry in data["tools"]]
    found: list[Json] = []
    for document, code in rng.sample(list(pool), len(pool)):
        name = document["function"]["name"]
        silent = not any(answer.lower() in code.lower() for answer in answers)
        if (
            len(found) < count
            and name not in names
            and silent
            and not tool_problems(document, [], answers, names)
        ):
            found.append({"document": document, "code": code})
            names.append(name)
    used = {ask["relation"] for entry in data["tools"] for ask in entry.get("asks", {}).values()}
    used |= {relation for entry in data["tools"] for relation in _relations(entry["document"])}
    sources = {ask["source"] for entry in data["tools"] for ask in entry.get("asks", {}).values()}
    free = [r for r in world.kb.relations if r.name not in used]
    rng.shuffle(free)
    free.sort(key=lambda relation: relation.source not in sources)  # those about the same types first
    while len(found) < count and free:
        relation = free.pop(0)
        spare = [r.name for r in free if r.source == relation.source]
        source = {"type": "string", "description": f"Name of the {relation.source.replace('_', ' ')}."}
        document = function_document(
            f"{relation.name}_finder", "", {relation.source: source}, [relation.source]
        )
        payload = {
            "tool": document,
            "calls": {},
            "operations": list(OPERATION_NAMES),
            "taken_names": names,
            "seed": data["seed"],
            "asks": {"relation": relation.name, "source": relation.source},
            "spare": spare,
        }
        document = write(payload)["tool"]
        names.append(document["function"]["name"])
        relations = _relations(document)
        free = [r for r in free if r.name not in relations]
        found.append({"document": document, "relations": relations})
    return found


# --- the deterministic backend's rule ---------------------------------------------------------------------


def write(payload: Json) -> Json:
    """Apply the operations to one tool; the seed and its name decide what is added."""
    tool, calls, asks = payload["tool"], payload["calls"], payload["asks"]
    rng = random.Random(derive_seed(payload["seed"], NAME, tool["function"]["name"]))
    operations = payload["operations"]
    if OPERATION_NAMES[0] in operations:
        if asks["relation"] in OPERATIONS:
            tool, calls = _general_calculator(tool, calls, asks["relation"], payload["taken_names"])
        else:
            tool, calls = _general_lookup(tool, calls, asks, payload["spare"], payload["taken_names"], rng)
    if OPERATION_NAMES[1] in operations:
        rich = OPERATION_NAMES[2] in operations
        function = tool["function"]
        added = {name: _optional(name, rich) for name in rng.sample(sorted(OPTIONAL), rng.randint(1, 4))}
        properties = function["parameters"]["properties"] | added
        required = function["parameters"]["required"]
        tool = function_document(function["name"], function["description"], properties, required)
    return {"tool": tool, "calls": calls}


def _optional(name: str, rich: bool) -> Json:
    plain, richer = OPTIONAL[name]
    return {"description": plain["description"]} | richer if rich else dict(plain)


def _general_lookup(
    tool: Json, calls: Json, asks: Json, spare: list[str], taken: list[str], rng: random.Random
) -> tuple[Json, Json]:
    properties = tool["function"]["parameters"]["properties"]
    named = "relation" in properties
    own = list(properties["relation"]["enum"]) if named else [asks["relation"]]
    relations = own + rng.sample(spare, min(len(spare), rng.randint(1, 2)))
    rng.shuffle(relations)
    free = [f"{asks['source']}_{ending}" for ending in GENERAL_NAMES]
    free = [name for name in free if name not in taken and name != tool["function"]["name"]]
    name = rng.choice(free) if free else free_name(f"{asks['source']}_{GENERAL_NAMES[0]}", taken)
    document = relation_document(name, asks["source"], relations, None if named else own[0])
    return document, {i: {"relation": own[0]} | call for i, call in calls.items()} if not named else calls


def _general_calculator(tool: Json, calls: Json, operation: str, taken: list[str]) -> tuple[Json, Json]:
    choice = {
        "type": "string",
        "enum": list(OPERATIONS),
        "default": operation,
        "description": "What to compute.",
    }
    parameters = tool["function"]["parameters"]
    properties = parameters["properties"] | {"operation": choice}
    name = free_name("number_calculator", taken)
    document = function_document(name, "Calculates with two numbers.", properties, parameters["required"])
    return document, {i: call | {"operation": operation} for i, call in calls.items()}
