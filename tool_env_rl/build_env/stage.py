"""What the five stages share: asking a backend, with feedback, and rejecting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

STAGES = ("decompose", "document", "integrate", "scale", "deploy")
Json = dict[str, Any]

# The shape of a tool document (§2.3); what its `parameters` may hold is for jsonschema to say.
TOOL_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z_][a-z0-9_]*$", "maxLength": 64},
                "description": {"type": "string", "minLength": 1},
                "parameters": {
                    "type": "object",
                    "properties": {
                        "type": {"const": "object"},
                        "properties": {"type": "object", "additionalProperties": {"type": "object"}},
                        "required": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["type", "properties", "required"],
                },
            },
            "required": ["name", "description", "parameters"],
        },
    },
    "required": ["type", "function"],
}
ARGUMENTS_SCHEMA: Json = {"type": "object"}
CALLS_SCHEMA: Json = {"type": "object", "additionalProperties": ARGUMENTS_SCHEMA}  # step id → arguments


class Rejected(Exception):
    """A stage gives this environment up; `reasons` are (short name that is counted, sentence)."""

    def __init__(self, reasons: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(text for _, text in reasons))
        self.reasons = reasons


class Backend(Protocol):
    """Writes the JSON object that a stage asks for."""

    rounds: int  # how often a stage may ask again, with what was wrong; 1: once

    def generate(self, stage: str, payload: Json, schema: Json) -> Json:
        """An object that fulfils `schema`. Rejected if none came; Stopped if the backend cannot go on."""
        ...


class Stopped(Exception):
    """The backend cannot go on now (endpoint down, budget spent); what is built stays built."""


def ask(
    backend: Backend,
    stage: str,
    payload: Json,
    schema: Json,
    check: Callable[[Json], list[tuple[str, str]]],
) -> Json:
    """What the backend generates and `check` lets pass; Rejected after `backend.rounds` tries."""
    reasons: list[tuple[str, str]] = []
    for _ in range(backend.rounds):
        result = backend.generate(stage, payload, schema)
        reasons = check(result)
        if not reasons:
            return result
        payload = payload | {"previous": result, "feedback": [text for _, text in reasons]}
    raise Rejected(reasons)
