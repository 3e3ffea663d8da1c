"""Scripted policies that know the gold: what the measures must say about them (sheet §7.8, sanity controls).

oracle    all gold calls that are ready, then the answer: Solve-P = R = F1 = 1
silent    never calls: Solve-P 1, R 0, F1 0
shotgun   the oracle's first turn, and every other tool too: below the oracle
echo      each answer-bearing tool asked about its own answer, as a value and as the name of an argument: 0
          with the echo guard. Python repeats a name that it does not know; values are only repeated by some
          tools, so it is played on such ones too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from tool_env_rl.episodes import Transcript
from tool_env_rl.protocol import CALL_END, CALL_START
from tool_env_rl.records import Environment, GoldStep


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """One call in Hermes form."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{CALL_START}{body}{CALL_END}"


def oracle(transcripts: Sequence[Transcript]) -> list[str]:
    return [_oracle_turn(transcript) for transcript in transcripts]


def silent(transcripts: Sequence[Transcript]) -> list[str]:
    return ["I do not know."] * len(transcripts)


def shotgun(transcripts: Sequence[Transcript]) -> list[str]:
    return [_shotgun_turn(transcript) for transcript in transcripts]


def echo(transcripts: Sequence[Transcript]) -> list[str]:
    return [_echo_turn(transcript) for transcript in transcripts]


CONTROLS: dict[str, Callable[[Sequence[Transcript]], list[str]]] = {
    "oracle": oracle,
    "silent": silent,
    "shotgun": shotgun,
    "echo": echo,
}


def _gold(transcript: Transcript) -> Environment:
    if transcript.gold is None:
        raise ValueError(
            f"environment {transcript.name!r} has no gold calls; controls need built environments"
        )
    return transcript.gold


def _ready(env: Environment, turn: int) -> list[GoldStep]:
    """Steps whose dependencies were solved in the turns before, and not earlier."""
    depth: dict[int, int] = {}
    for step in env.steps:
        depth[step.id] = 1 + max((depth[i] for i in step.depends_on), default=-1)
    return [step for step in env.steps if depth[step.id] == turn]


def _oracle_turn(transcript: Transcript) -> str:
    steps = _ready(_gold(transcript), len(transcript.outputs))
    calls = "\n".join(call_text(step.tool, step.arguments) for step in steps)
    return calls or transcript.record.answer


def _shotgun_turn(transcript: Transcript) -> str:
    if transcript.outputs:
        return transcript.record.answer
    steps = _ready(_gold(transcript), 0)
    asked = {step.tool for step in steps}
    calls = [call_text(step.tool, step.arguments) for step in steps]
    for tool in transcript.record.tools:
        if tool["function"]["name"] not in asked:
            calls.append(call_text(tool["function"]["name"], _required(tool, "unknown")))
    return "\n".join(calls)


def _echo_turn(transcript: Transcript) -> str:
    if transcript.outputs:
        return "I do not know."
    tools = {tool["function"]["name"]: tool for tool in transcript.record.tools}
    calls = []
    for name, answers in transcript.record.unsolved_set.items():
        for answer in answers:
            calls.append(call_text(name, _required(tools[name], answer)))
            calls.append(call_text(name, _required(tools[name], "unknown") | {answer: 1}))
    return "\n".join(calls)


def _required(tool: dict[str, Any], text: str) -> dict[str, Any]:
    """Valid arguments for the required parameters, texts being `text`."""
    parameters = tool["function"]["parameters"]
    given: dict[str, Any] = {}
    for key in parameters.get("required", []):
        schema = parameters["properties"][key]
        given[key] = schema["enum"][0] if "enum" in schema else 1 if schema["type"] == "integer" else text
    return given
