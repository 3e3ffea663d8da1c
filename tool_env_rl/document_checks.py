"""Checks of documents and code that run nothing: schema, signature, arguments, leak; see validate.py."""

from __future__ import annotations

import ast
import json
import keyword
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from tool_env_rl.plan_checks import Finding
from tool_env_rl.protocol import answer_matches
from tool_env_rl.records import EnvRecord


def _schema_problem(parameters: Mapping[str, Any]) -> str | None:
    """Why `parameters` is no valid JSON Schema, or None; property by property, because those repeat."""
    properties = parameters.get("properties", {})
    if not isinstance(properties, dict):
        return "at properties: must be an object"
    for path, schema in (("", {**parameters, "properties": {}}), *properties.items()):
        if problem := _part_problem(json.dumps(schema)):
            return f"at {f'properties.{path}' if path else 'the top'}{problem}"
    return _reference_problem(json.dumps(parameters))


@lru_cache(maxsize=16384)
def _part_problem(schema: str) -> str | None:
    try:
        Draft202012Validator.check_schema(json.loads(schema))
    except SchemaError as error:
        return f"{''.join(f'.{part}' for part in error.absolute_path)}: {error.message}"
    except RecursionError:
        return ": is nested too deeply"
    return None


@lru_cache(maxsize=4096)
def _reference_problem(schema: str) -> str | None:
    """The first reference that leads nowhere, or None; nothing outside the document is looked up."""
    if '"$ref"' not in schema and '"$dynamicRef"' not in schema:
        return None
    root = DRAFT202012.create_resource(json.loads(schema))
    waiting = [(root, REGISTRY.resolver_with_root(root))]
    while waiting:
        resource, resolver = waiting.pop()
        contents: Any = resource.contents
        for key in ("$ref", "$dynamicRef") if isinstance(contents, dict) else ():
            try:
                resolver.lookup(contents.get(key, "#"))
            except (Unresolvable, ValueError):  # ValueError: no URI
                return f"{key} {contents[key]!r} leads to nothing inside the document"
        waiting += [(part, resolver.in_subresource(part)) for part in resource.subresources()]
    return None


@lru_cache(maxsize=4096)
def _compiled(parameters: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(parameters), registry=REGISTRY)  # the default one would download


def document_findings(tool: Mapping[str, Any]) -> list[Finding]:
    """Check schema of one tool document."""
    function = tool["function"]
    name = function["name"]
    problems = []
    if not name.isidentifier() or keyword.iskeyword(name):
        problems.append(f"tool name {name!r} is no Python identifier")
    if not isinstance(function.get("description", ""), str):
        problems.append(f"tool {name}: description must be text")
    parameters = function.get("parameters")
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        problems.append(f'tool {name}: parameters must be {{"type": "object", …}}')
    elif problem := _schema_problem(parameters):
        problems.append(f"tool {name}: parameters are no valid JSON Schema, {problem}")
    else:
        properties, required = parameters.get("properties", {}), parameters.get("required", [])
        problems += [
            f"tool {name}: required {key!r} is no property" for key in required if key not in properties
        ]
        problems += [
            f"tool {name}: parameter {key!r} is no Python identifier"
            for key in properties
            if not key.isidentifier() or keyword.iskeyword(key)
        ]
    return [Finding("schema", problem, name) for problem in problems]


def argument_findings(tool: Mapping[str, Any], arguments: Mapping[str, Any], what: str) -> list[Finding]:
    """Check arguments of one call against the tool's schema; a parameter that is not declared is refused."""
    name, parameters = tool["function"]["name"], tool["function"]["parameters"]
    unknown = [key for key in arguments if key not in parameters.get("properties", {})]
    if unknown:
        return [Finding("arguments", f"{what} passes {unknown[0]!r}, which {name} does not have", name)]
    try:
        error = best_match(_compiled(json.dumps(parameters)).iter_errors(dict(arguments)))
    except RecursionError:  # the schema refers to itself without end, or the arguments are that deep
        message = f"{what} cannot be checked against the schema of {name}: it is nested too deeply"
        return [Finding("arguments", message, name)]
    if error is not None:
        return [Finding("arguments", f"{what} does not fit the schema of {name}: {error.message}", name)]
    return []


def signature_findings(tool: Mapping[str, Any], code: str | None) -> list[Finding]:
    """Check signature: what the model is told is what the function takes."""
    name, parameters = tool["function"]["name"], tool["function"]["parameters"]
    if code is None:
        return [Finding("signature", f"tool {name} has no code", name)]
    signature = _signature(code)
    if isinstance(signature, str):
        return [Finding("signature", f"the code of {name} {signature}", name)]
    defined, names, without_default = signature
    if defined != name:
        return [Finding("signature", f"the code of {name} defines {defined!r}; use the tool's name", name)]
    declared, required = set(parameters.get("properties", {})), set(parameters.get("required", []))
    found = []
    if names != declared:
        found.append(
            f"{name} takes {sorted(names)}, its document says {sorted(declared)}; use the same parameters"
        )
    if without_default != required:
        found.append(
            f"{name} cannot do without {sorted(without_default)}, its document requires {sorted(required)}"
        )
    return [Finding("signature", message, name) for message in found]


@lru_cache(maxsize=1024)
def _signature(code: str) -> tuple[str, set[str], set[str]] | str:
    """(name, parameters, parameters without a default) of the one function of `code`, or what is wrong."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"does not parse ({error})"
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    if len(functions) != 1:
        return f"must define one function, not {[node.name for node in functions]}"
    arguments = functions[0].args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        return "must not take *args, **kwargs or positional-only parameters"
    positional = [argument.arg for argument in arguments.args]
    keywords = {
        a.arg: default for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }
    needed = {*positional[: len(positional) - len(arguments.defaults)]}
    needed |= {key for key, default in keywords.items() if default is None}
    return functions[0].name, {*positional, *keywords}, needed


def document_leaks(
    tool: Mapping[str, Any], answers: Sequence[str], calls: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Check leak of one document: no sub-answer, and no text that identifies what its gold calls ask for."""
    name, properties = tool["function"]["name"], tool["function"]["parameters"].get("properties", {})
    text = f"{name.replace('_', ' ')} {json.dumps(tool['function'], ensure_ascii=False)}"
    found = [
        Finding("leak", f"sub-answer {answer!r} stands in the document of {name}", name)
        for answer in answers
        if answer_matches(text, answer, strict=True)
    ]
    for arguments in calls:
        for key, value in arguments.items():
            chosen = "enum" in properties.get(key, {}) or "default" in properties.get(key, {})
            if isinstance(value, str) and not chosen and answer_matches(text, value, strict=True):
                message = f"{value!r}, which a gold call asks {name} about, stands in its document"
                found.append(Finding("leak", message, name))
    return found


def record_findings(record: EnvRecord) -> list[Finding]:
    """What can be said about a record alone, such as the authors': schema, signature, plan and leak."""
    found = [finding for tool in record.tools for finding in document_findings(tool)]
    broken = {finding.tool for finding in found}
    for tool in record.tools:
        if tool["function"]["name"] not in broken:
            found += signature_findings(tool, record.codes.get(tool["function"]["name"]))
    names = set(record.tool_names)
    found += [
        Finding("plan", f"unsolved_set names {name!r}, which is no tool of this environment", name)
        for name in record.unsolved_set
        if name not in names
    ]
    found += [
        Finding("plan", f"codes holds {name!r}, which has no document", name)
        for name in record.codes
        if name not in names
    ]
    answers = [answer for answers in record.unsolved_set.values() for answer in answers]
    found += [
        Finding("leak", f"sub-answer {answer!r} stands in the question")
        for answer in answers
        if answer_matches(record.question, answer, strict=True)
    ]
    return found
