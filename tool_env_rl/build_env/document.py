"""Stage 2, document generation: one tool document per sub-question, and the call that answers it."""

from __future__ import annotations

from tool_env_rl.build_env.stage import ARGUMENTS_SCHEMA, TOOL_SCHEMA, Backend, Json, ask
from tool_env_rl.document_checks import argument_findings, document_findings, document_leaks
from tool_env_rl.knowledge_base import OPERATIONS

NAME = "document"
INSTRUCTIONS = """Design one tool that answers the sub-question, as an OpenAI function-calling document, and
the call that answers it. The tool is dedicated to this kind of sub-question, not to this one: its document
must not mention any name, date or number of the sub-question, nor its answer, not even as an example.
Required parameters are exactly those that identify what is asked; the call passes those and nothing else.
Names are snake_case and the tool's name is none of `taken_names`."""
SCHEMA: Json = {
    "type": "object",
    "properties": {"analysis": {"type": "string"}, "tool": TOOL_SCHEMA, "arguments": ARGUMENTS_SCHEMA},
    "required": ["tool", "arguments"],
}


def run(data: Json, backend: Backend) -> Json:
    """Add `tools`: one entry {"document", "calls": {step id: arguments}} per step."""
    answers = [step["answer"] for step in data["steps"]]
    tools: list[Json] = []
    for step in data["steps"]:
        taken = [entry["document"]["function"]["name"] for entry in tools]
        payload = {"sub_question": step["question"], "taken_names": taken}
        payload |= {key: step[key] for key in ("relation", "subject", "source", "target") if key in step}
        if step.get("relation") in OPERATIONS:
            payload["operands"] = [_answer(data, i) for i in step["depends_on"]]

        def check(result: Json, taken: list[str] = taken) -> list[tuple[str, str]]:
            return tool_problems(result["tool"], [result["arguments"]], answers, taken)

        result = ask(backend, NAME, payload, SCHEMA, check)
        entry = {"document": result["tool"], "calls": {str(step["id"]): result["arguments"]}}
        known = {key: step[key] for key in ("relation", "source", "target") if key in step}
        tools.append(entry | ({"asks": {str(step["id"]): known}} if known else {}))
    return data | {"tools": tools}


def _answer(data: Json, step_id: int) -> str:
    return next(step["answer"] for step in data["steps"] if step["id"] == step_id)


def tool_problems(
    tool: Json, calls: list[Json], answers: list[str], taken: list[str]
) -> list[tuple[str, str]]:
    """(check, sentence) for a document and its gold calls; empty if it may be used."""
    found = document_findings(tool)
    name = tool["function"]["name"]
    problems = [(f.check, f.message) for f in found]
    if name in taken:
        problems.append(("schema", f"tool name {name!r} is taken; choose another"))
    if not problems:
        for call in calls:
            problems += [(f.check, f.message) for f in argument_findings(tool, call, "the call")]
        problems += [(f.check, f.message) for f in document_leaks(tool, answers, calls)]
    return problems


def function_document(name: str, description: str, properties: Json, required: list[str]) -> Json:
    """An OpenAI function-calling document."""
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


# --- the deterministic backend's rule ---------------------------------------------------------------------


def write(payload: Json) -> Json:
    """<relation>_finder(<source>), or a calculator of two integers."""
    relation = payload["relation"]
    if relation in OPERATIONS:
        return _calculator(relation, payload["operands"], payload["taken_names"])
    words, source = relation.replace("_", " "), payload["source"]
    properties = {source: {"type": "string", "description": f"Name of the {source.replace('_', ' ')}."}}
    name = free_name(f"{relation}_finder", payload["taken_names"])
    description = f"Finds the {words} of a {source.replace('_', ' ')}."
    tool = function_document(name, description, properties, [source])
    return {"tool": tool, "arguments": {source: payload["subject"]}}


def _calculator(operation: str, operands: list[str], taken: list[str]) -> Json:
    words = {"first": "First number.", "second": "Second number."}
    properties = {key: {"type": "integer", "description": text} for key, text in words.items()}
    description = f"Computes the {operation} of two numbers."
    name = free_name(f"{operation}_calculator", taken)
    tool = function_document(name, description, properties, list(words))
    return {"tool": tool, "arguments": dict(zip(words, map(int, operands), strict=True))}


def free_name(name: str, taken: list[str]) -> str:
    """`name`, with a number behind it where it is taken; like the `_v2` of the authors' data."""
    numbered = [name, *(f"{name}_v{i}" for i in range(2, 50))]
    return next(candidate for candidate in numbered if candidate not in taken)
