"""tau-bench: load tasks and score episodes (arXiv 2508.08791, §4.3; authors' `evaluation_taubench.py`).

Two domains, retail (115 tasks) and airline (50). An episode earns 1 iff the final database equals the one
after the gold actions, and every required output was said. The table holds Pass^1: the mean of the two
domains' percentages. At most 30 agent turns with one tool call each; the user is played by a model
(gpt-4o-2024-08-06 at temperature 0).

Fields read, as the authors' harness does: `instruction`, `actions`, `outputs`, `data_source`
("tau-bench/retail"). An action is a tool call ({"function": {"name", "arguments"}}) or upstream's {"name",
"kwargs"}. Tools change the database they are given, so replaying them takes a `step` function of the caller;
none is provided here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tool_env_rl.benchmark_files import BadTask, field, load_tasks
from tool_env_rl.protocol import ToolCall

DOMAINS = {"retail": ("orders", "products", "users"), "airline": ("flights", "reservations", "users")}
MAX_TURNS = 30
USER_STOP = "###STOP###"
TRANSFER = "transfer_to_human_agents"
OFFICIAL_TRANSFER = (
    "transform_to_user_agent"  # what the authors look for; no shipped tool has this name (§6.2-8a)
)

Step = Callable[[ToolCall, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class TauTask:
    """One task: what the user wants, the gold actions in order, and what the agent must say."""

    domain: str
    instruction: str
    actions: tuple[ToolCall, ...]
    outputs: tuple[str, ...]


def load(source: str | Path, *, split: str = "test") -> tuple[list[TauTask], list[str]]:
    """Tasks of a local file or hub data set, and one sentence per row left out."""
    return load_tasks(source, parse_task, split=split)


def parse_task(row: dict[str, Any]) -> TauTask:
    """A task of one row; BadTask names the field."""
    domain = field(row, "data_source", str).rpartition("/")[2]
    if domain not in DOMAINS:
        raise BadTask(f"field data_source ends in {domain!r}; it must end in {' or '.join(DOMAINS)}")
    outputs = field(row, "outputs", list)
    if not all(isinstance(output, str) for output in outputs):
        raise BadTask("field outputs must be a list of texts")
    actions = tuple(_action(action) for action in field(row, "actions", list))
    return TauTask(domain, field(row, "instruction", str), actions, tuple(outputs))


def _action(action: Any) -> ToolCall:
    body = action.get("function", action) if isinstance(action, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise BadTask("field actions: an action lacks its name")
    arguments = body.get("arguments", body.get("kwargs", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise BadTask(
                f"field actions: arguments of {body['name']} are not valid JSON ({error})"
            ) from None
    if not isinstance(arguments, dict):
        raise BadTask(f"field actions: arguments of {body['name']} must be an object")
    return ToolCall(body["name"], arguments)


def load_database(folder: str | Path, domain: str) -> dict[str, Any]:
    """The domain's tables from FOLDER/DOMAIN/<table>.json; OSError names a missing one."""
    if domain not in DOMAINS:
        raise ValueError(f"domain={domain!r} is not one of {', '.join(DOMAINS)}")
    paths = {table: Path(folder) / domain / f"{table}.json" for table in DOMAINS[domain]}
    return {table: json.loads(path.read_text(encoding="utf-8")) for table, path in paths.items()}


def database_hash(database: Any) -> str:
    """SHA-256 of a database, whatever the order of its keys."""
    return hashlib.sha256(str(_hashable(database)).encode()).hexdigest()


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in sorted(value.items()))
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def gold_hash(task: TauTask, database: Mapping[str, Any], step: Step) -> str:
    """Hash after the gold actions on a copy of the database; `step` returns the database after a call."""
    state = deepcopy(dict(database))
    for action in task.actions:
        state = step(action, state)
    return database_hash(state)


def ends_episode(message: Mapping[str, Any], *, official: bool = True) -> bool:
    """Does this message end the episode: the user's stop word, or a transfer to a human?

    official=True looks for a tool name that does not exist, so that a transfer never ends it (§6.2-8a).
    """
    if message.get("role") == "user":
        return USER_STOP in (message.get("content") or "")
    calls = message.get("tool_calls") or []
    return bool(calls) and calls[0]["function"]["name"] == (OFFICIAL_TRANSFER if official else TRANSFER)


def reward(
    task: TauTask,
    messages: Sequence[Mapping[str, Any]],
    *,
    final_hash: str,
    expected_hash: str,
    official: bool = True,
    needs_stop: bool = True,
) -> float:
    """1.0 or 0.0 of one finished episode.

    Args:
        task: its required outputs count; each must occur, without case, in a message (commas removed there
            only).
        messages: the agent's conversation.
        final_hash, expected_hash: of the agent's database and of `gold_hash`.
        official: search outputs in assistant turns *with* tool calls, like the authors (§6.2-8b); else in
            those without, the replies to the user, as upstream does.
        needs_stop: nothing without an end of the episode; the authors' open models. False: their closed ones
            (§6.2-8c).
    """
    if needs_stop and not any(ends_episode(message, official=official) for message in messages):
        return 0.0
    if final_hash != expected_hash:
        return 0.0
    said = [
        (message.get("content") or "").lower().replace(",", "")
        for message in messages
        if message.get("role") == "assistant" and bool(message.get("tool_calls")) is official
    ]
    return float(all(any(output.lower() in text for text in said) for output in task.outputs))


def pass_hat_k(successes: int, trials: int, k: int) -> float:
    """C(c, k) / C(n, k): the chance that k trials drawn without replacement all succeed.

    Raises:
        ValueError: k outside 1..n, or c outside 0..n.
    """
    if not 1 <= k <= trials or not 0 <= successes <= trials:
        raise ValueError(
            f"need 1 <= k <= trials and 0 <= successes <= trials; got {k=}, {trials=}, {successes=}"
        )
    return math.comb(successes, k) / math.comb(trials, k)


def summarize(rewards: Mapping[str, Sequence[Sequence[float]]], k: int = 1) -> dict[str, float]:
    """Pass^k in percent per domain, and under "all" the mean of the domains if both are there.

    Args:
        rewards: domain → task → reward of each trial; a trial succeeds with 1.0.
    """
    if unknown := [domain for domain in rewards if domain not in DOMAINS]:
        raise ValueError(f"domain {unknown[0]!r} is not one of {', '.join(DOMAINS)}")
    table = {
        domain: 100 * fmean(pass_hat_k(sum(r == 1.0 for r in trials), len(trials), k) for trials in tasks)
        for domain, tasks in rewards.items()
    }
    if len(table) == len(DOMAINS):
        table["all"] = fmean(table.values())
    return table
