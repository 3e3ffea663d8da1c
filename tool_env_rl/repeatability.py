"""Claim 9: the same calls get the same bytes and rewards each time, and no tool could reach a network.

The test set is played twice by a greedy policy, each time in a fresh sandbox: nothing comes from the other's
cache. Every environment is validated again. A tool that passes the static gate imports nothing that opens a
connection, so what the gate refuses, and calls that the sandbox killed, bound the attempts (D17).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from tool_env_rl.config import Config
from tool_env_rl.episodes import Policy, Transcript, of_environments, play
from tool_env_rl.records import Environment
from tool_env_rl.rewards import turn_reward
from tool_env_rl.sandbox import Sandbox, check
from tool_env_rl.validate import validate


def measure(policy: Policy, cfg: Config, environments: Sequence[Environment]) -> dict[str, Any]:
    """environments, validated: counts; feedback, rewards: both digests; refused_codes, killed_calls."""
    feedback, rewards = [], []
    killed = 0
    for _ in range(2):
        with Sandbox(unsafe_exec=cfg.data.unsafe_exec) as sandbox:
            played = play(
                of_environments(environments),
                policy,
                sandbox,
                max_turns=cfg.algo.max_turns,
                drop_thoughts=cfg.algo.drop_thoughts,
            )
            findings = validate(environments, sandbox)
            killed += sandbox.counts["killed"]
        feedback.append(_digest([transcript.outputs for transcript in played]))
        rewards.append(_digest([turn_rewards(transcript, cfg) for transcript in played]))
    codes = [item for env in environments for item in env.record.codes.items()]
    return {
        "environments": len(environments),
        "validated": sum(not found for found in findings),
        "feedback": feedback,
        "rewards": rewards,
        "refused_codes": sum(not check(code, name).passed for name, code in codes),
        "killed_calls": killed,
    }


def turn_rewards(transcript: Transcript, cfg: Config) -> list[float]:
    """The reward of every turn of a finished episode, each against the state before it."""
    algo, found = cfg.algo, []
    unsolved, rate = transcript.record.unsolved_set, transcript.record.solve_rate
    for number, text in enumerate(transcript.responses):
        if number:
            before = transcript.snapshots[number - 1]
            unsolved, rate = before.unsolved, before.solve_rate
        reward = turn_reward(
            text,
            executed=transcript.outputs[number] if number < len(transcript.outputs) else [],
            unsolved=unsolved,
            solve_rate=rate,
            answer=transcript.record.answer,
            kind=algo.reward,
            strict=algo.strict,
            echo_guard=algo.echo_guard,
            drop_thoughts=algo.drop_thoughts,
        )
        found.append(reward)
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
