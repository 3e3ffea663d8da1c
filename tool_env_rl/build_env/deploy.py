"""Stage 5, localized deployment: every document becomes one Python function, and the record is complete.

The functions look like the authors': a block that validates the arguments, a mapping of preset answers with
decoy facts, a message where nothing is found. `echo_arguments` lets that message repeat the arguments, as
261 of their 781 answer-bearing functions do somewhere (defect 2 of the sheet's §6.2).
"""

from __future__ import annotations

import random
from typing import Any

from shared.seeding import derive_seed
from tool_env_rl.build_env.stage import Backend, Json, ask
from tool_env_rl.document_checks import signature_findings
from tool_env_rl.knowledge_base import OPERATIONS, World
from tool_env_rl.records import Environment, EnvRecord, GoldStep, user_message

NAME = "deploy"
DECOYS = 3  # other entities a tool knows, per relation (§7.3)
NOT_FOUND = "No matching record found."
INSTRUCTIONS = """Write the Python function of the tool: one function of the tool's name whose parameters
are those of the document, required ones without a default, all others with one. It validates its arguments
(missing, wrong type, not in the enum, out of range) and returns a clear message that starts with "Error:";
for the arguments in `facts` it returns the answer, alone or in a sentence; it also knows three invented
facts about other entities; for all other arguments it returns a message that nothing was found. Compare
texts as a whole, in lower case. Messages never repeat an argument's value. Changing any argument of a
fact's call must not give that answer. Built-in functions and the modules re, math, json, datetime only,
imported inside the function; no files, no network, no clock, no chance, no print, no eval. Return a string
or something json can write."""
SCHEMA: Json = {
    "type": "object",
    "properties": {"analysis": {"type": "string"}, "code": {"type": "string", "minLength": 1}},
    "required": ["code"],
}


def run(data: Json, backend: Backend, world: World, feedback: dict[str, list[str]] | None = None) -> Json:
    """Add `codes`: tool name → source, for gold tools and distractors.

    With `feedback` (tool name → what the validator found), only those tools are written again.
    """
    codes: dict[str, str] = dict(data.get("codes", {}))
    answers = {str(step["id"]): step["answer"] for step in data["steps"]}
    for entry in data["tools"]:
        name = entry["document"]["function"]["name"]
        if feedback is not None and name not in feedback:
            continue
        payload = {
            "tool": entry["document"],
            "facts": [{"arguments": call, "answer": answers[i]} for i, call in entry["calls"].items()],
            "decoys": _decoys(entry, data, world),
            "echo_arguments": data["echo_arguments"],
        }
        operations = {a["relation"] for a in entry.get("asks", {}).values()} & set(OPERATIONS)
        payload |= {"operation": min(operations), "limit": data["limit"]} if operations else {}
        if feedback is not None:
            payload |= {"previous": {"code": codes[name]}, "feedback": feedback[name]}

        def check(result: Json, document: Json = entry["document"]) -> list[tuple[str, str]]:
            return [(f.check, f.message) for f in signature_findings(document, result["code"])]

        codes[name] = ask(backend, NAME, payload, SCHEMA, check)["code"]
    for entry in data["distractors"]:
        name = entry["document"]["function"]["name"]
        codes[name] = (
            entry.get("code")
            or write(
                {
                    "tool": entry["document"],
                    "facts": [],
                    "decoys": _facts(entry, entry["relations"], data, world),
                    "echo_arguments": data["echo_arguments"],
                }
            )["code"]
        )
    return data | {"codes": codes}


def _decoys(entry: Json, data: Json, world: World) -> list[Json]:
    """Facts about other entities, where the tool's parameters are those of the knowledge base."""
    asks = [a for a in entry.get("asks", {}).values() if a["relation"] not in OPERATIONS]
    properties = entry["document"]["function"]["parameters"]["properties"]
    if not asks or asks[0]["source"] not in properties:
        return []
    relations = properties.get("relation", {}).get("enum") or [asks[0]["relation"]]
    return _facts(entry, relations, data, world)


def _facts(entry: Json, relations: list[str], data: Json, world: World) -> list[Json]:
    answers = {step["answer"] for step in data["steps"]}
    subjects = {step.get("subject") for step in data["steps"]}
    properties = entry["document"]["function"]["parameters"]["properties"]
    found: list[Json] = []
    for relation in filter(None, map(world.kb.by_name.get, relations)):
        decoys = world.decoys(relation, DECOYS, not_about=answers | subjects, not_saying=answers)
        for subject, value in decoys.items():
            named = {"relation": relation.name} if "relation" in properties else {}
            found.append({"arguments": {relation.source: subject} | named, "answer": value})
    return found


def assemble(data: Json) -> Environment:
    """The environment that the five stages built; gold tools and distractors in an order that is drawn."""
    documents = [entry["document"] for entry in (*data["tools"], *data["distractors"])]
    random.Random(derive_seed(data["seed"], "order")).shuffle(documents)
    names = [document["function"]["name"] for document in documents]
    unsolved: dict[str, list[str]] = {}
    steps = []
    for step in data["steps"]:
        key = str(step["id"])
        entry = next(entry for entry in data["tools"] if key in entry["calls"])
        name = entry["document"]["function"]["name"]
        unsolved.setdefault(name, []).append(step["answer"])
        calls = (entry["calls"][key], entry["old_calls"][key])
        depends_on = tuple(step["depends_on"])
        steps.append(
            GoldStep(step["id"], step["question"], step["answer"], name, calls[0], depends_on, calls[1])
        )
    record = EnvRecord(
        messages=[user_message(data["question"])],
        tools=documents,
        codes={name: data["codes"][name] for name in names},
        unsolved_set=unsolved,
        solve_rate=0.0,
        data_source=f"self/{data['scenario']}",
        split=data["split"],
        answer=data["answer"],
    )
    return Environment(data["id"], data["level"], record, tuple(steps), data["final"])


# --- the deterministic backend's rule ---------------------------------------------------------------------


def write(payload: Json) -> Json:
    """The source of one tool."""
    function = payload["tool"]["function"]
    properties: Json = function["parameters"]["properties"]
    required: list[str] = function["parameters"]["required"]
    ordered = [*required, *(key for key in properties if key not in required)]
    signature = [key if key in required else f"{key}={properties[key].get('default')!r}" for key in ordered]
    lines = [f"def {function['name']}({', '.join(signature)}):", f'    """{function["description"]}"""']
    for key in ordered:
        optional = key not in required and "default" not in properties[key]
        lines += _validation(key, properties[key], optional)
    lines += _calculation(payload, properties) if "operation" in payload else _lookup(payload, properties)
    return {"code": "\n".join(lines) + "\n"}


def _validation(key: str, schema: Json, optional: bool) -> list[str]:
    kind = schema.get("type")
    if "enum" in schema:
        wrong, hint = f"{key} not in {schema['enum']!r}", f"one of {', '.join(map(str, schema['enum']))}"
    elif kind == "string":
        wrong, hint = f"not isinstance({key}, str) or not {key}.strip()", "a non-empty string"
    elif kind == "integer":
        wrong, hint = f"not isinstance({key}, int) or isinstance({key}, bool)", "an integer"
        if "minimum" in schema:
            low, high = schema["minimum"], schema["maximum"]
            wrong, hint = f"{wrong} or not {low} <= {key} <= {high}", f"an integer from {low} to {high}"
    else:
        python, hint = {
            "boolean": ("bool", "true or false"),
            "array": ("list", "a list"),
            "object": ("dict", "an object"),
        }[str(kind)]
        wrong = f"not isinstance({key}, {python})"
    condition = f"{key} is not None and ({wrong})" if optional else wrong
    return [f"    if {condition}:", f"        return {f'Error: {key} must be {hint}.'!r}"]


def _calculation(payload: Json, properties: Json) -> list[str]:
    plain = {"sum": "first + second", "difference": "first - second"}
    if "operation" in properties:
        formula = f"{plain['sum']} if operation == 'sum' else {plain['difference']}"
    else:
        formula = plain[payload["operation"]]
    lines = [f"    result = {formula}"]
    if payload["limit"] is not None:
        lines += [f"    if not 0 <= result <= {payload['limit']}:"]
        lines += ["        return 'Error: the result is out of range.'"]
    return [*lines, "    return str(result)"]


def _lookup(payload: Json, properties: Json) -> list[str]:
    facts = [*payload["facts"], *payload["decoys"]]
    asked = {key for fact in facts for key in fact["arguments"]}
    keys = [key for key in properties if key in asked]
    lines = ["    known = {"]
    for fact in facts:
        row = tuple(_comparable(fact["arguments"].get(k, properties[k].get("default"))) for k in keys)
        lines.append(f"        {row!r}: {fact['answer']!r},")
    lines.append("    }")
    texts = {key for key in keys if properties[key]["type"] == "string"}
    compared = "".join(f"{key}.strip().lower(), " if key in texts else f"{key}, " for key in keys)
    lines.append(f"    answer = known.get(({compared.strip()}))")
    lines.append("    if answer is None:")
    if payload["echo_arguments"]:
        shown = " and ".join(f"{key} {{{key}}}" for key in keys)
        lines.append(f"        return f'No matching record found for {shown}.'")
    else:
        lines.append(f"        return {NOT_FOUND!r}")
    return [*lines, "    return answer"]


def _comparable(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value
