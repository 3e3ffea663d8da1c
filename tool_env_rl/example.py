"""One environment on screen: question, tools, gold transcript, as `tool_env_rl.inspect` shows it."""

from __future__ import annotations

from collections.abc import Sequence

from tool_env_rl.commands.inspect import show, transcript
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox


def show_example(environments: Sequence[Environment], sandbox: Sandbox) -> None:
    """Show the first multi-hop environment, or the first of all."""
    chains = [env for env in environments if env.record.scenario == "multi_hop"]
    env = (chains or list(environments))[0]
    show(env.record, f"{env.id}, level L{env.level}")
    transcript(env, sandbox)
