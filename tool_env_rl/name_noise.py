"""OOD-2: one turn under perturbed tool and parameter names, scored by TS, PI and CF (§4.4, §7.7; D12).

clean    as built
slight   a character-level variant of every name (city_index → cty_index)
medium   opaque names (tool_a, key_b)
heavy    the names of the toolset, shuffled among its tools
union    one of the three for each tool

Nothing is executed; the gold calls are those that the question asks first, renamed alike.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.seeding import derive_seed
from tool_env_rl import rotbench
from tool_env_rl.episodes import Policy, Transcript
from tool_env_rl.protocol import parse_response
from tool_env_rl.records import Environment, EnvRecord
from tool_env_rl.toy_language import OPAQUE_KEYS, OPAQUE_TOOLS, variant

LEVELS = rotbench.LEVELS
Gold = list[tuple[str, dict[str, Any]]]


def perturb(env: Environment, level: str, seed: int) -> tuple[EnvRecord, Gold]:
    """The record with its documents renamed, and the gold calls of the first turn renamed alike.

    Raises:
        ValueError: unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r} is not one of {', '.join(LEVELS)}")
    rng = random.Random(derive_seed(seed, "noise", level, env.id))
    names = env.record.tool_names
    kinds = [rng.choice(LEVELS[1:4]) if level == "union" else level for _ in names]
    opaque = rng.sample(OPAQUE_TOOLS, len(names))
    new_names: dict[str, str] = {}
    new_keys: dict[str, dict[str, str]] = {}
    shuffled = [name for name, kind in zip(names, kinds, strict=True) if kind == "heavy"]
    targets = shuffled[1:] + shuffled[:1]  # a rotation: with two tools or more every one changes
    moved = dict(zip(shuffled, targets, strict=True))
    tools = copy.deepcopy(env.record.tools)
    for tool, kind, hidden in zip(tools, kinds, opaque, strict=True):
        function = tool["function"]
        old, keys = function["name"], list(function["parameters"]["properties"])
        new_names[old] = {"slight": variant(old), "medium": hidden, "heavy": moved.get(old, old)}.get(
            kind, old
        )
        new_keys[old] = _renamed_keys(keys, kind, rng)
        parameters = function["parameters"]
        function["name"] = new_names[old]
        parameters["properties"] = {new_keys[old][k]: v for k, v in parameters["properties"].items()}
        parameters["required"] = [new_keys[old][k] for k in parameters["required"]]
    gold = [
        (new_names[step.tool], {new_keys[step.tool][k]: v for k, v in step.arguments.items()})
        for step in env.steps
        if not step.depends_on
    ]
    return replace(env.record, tools=tools), gold


def _renamed_keys(keys: list[str], kind: str, rng: random.Random) -> dict[str, str]:
    if kind == "slight":
        return {key: variant(key) for key in keys}
    if kind == "medium":
        return dict(zip(keys, rng.sample(OPAQUE_KEYS, len(keys)), strict=True))
    if kind == "heavy":
        return dict(zip(keys, keys[1:] + keys[:1], strict=True))
    return {key: key for key in keys}


def evaluate(
    policy: Policy, environments: Sequence[Environment], seed: int = 0
) -> list[tuple[str, dict[str, float]]]:
    """(level, {TS, PI, CF}) for every environment at every level; the first call of the turn counts."""
    tasks = [(level, *perturb(env, level, seed)) for level in LEVELS for env in environments]
    texts = policy([Transcript(record) for _, record, _ in tasks])
    scored = []
    for (level, _, gold), text in zip(tasks, texts, strict=True):
        calls = parse_response(text or "", drop_thoughts=True).calls
        said = f"Action: {calls[0].name}\nAction Input: {json.dumps(calls[0].arguments)}" if calls else ""
        scored.append((level, rotbench.score(said, gold, official=False)))
    return scored
