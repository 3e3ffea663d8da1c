"""Trajectories → RL states (arXiv 2508.08791, §2.5; authors' `data_sample.py`).

Every environment is played once by the current model at temperature 1. Its start and the situation after each
tool turn are one state each: the message prefix, the unsolved sub-answers that remain, and the share solved.
The answer turn is no state of its own, so an environment gives 1 + (number of tool turns) states.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from shared.seeding import derive_seed
from tool_env_rl.episodes import Policy, Transcript, play
from tool_env_rl.protocol import render_prompt
from tool_env_rl.records import EnvRecord
from tool_env_rl.sandbox import Sandbox


def collect(
    records: Sequence[EnvRecord],
    policy: Policy,
    sandbox: Sandbox,
    *,
    max_turns: int,
    drop_thoughts: bool = False,
    on_turn: Callable[[int, int], None] = lambda turn, still_open: None,
) -> list[EnvRecord]:
    """The states of one trajectory per environment, in the order of the environments."""
    transcripts = [Transcript(record, str(i)) for i, record in enumerate(records)]
    play(transcripts, policy, sandbox, max_turns=max_turns, drop_thoughts=drop_thoughts, on_turn=on_turn)
    return [state for transcript in transcripts for state in states_of(transcript)]


def states_of(transcript: Transcript) -> list[EnvRecord]:
    """The start, and one state per tool turn; records like the environment's own."""
    later = [
        replace(
            transcript.record,
            messages=snapshot.messages,
            unsolved_set=snapshot.unsolved,
            solve_rate=snapshot.solve_rate,
        )
        for snapshot in transcript.snapshots
    ]
    return [transcript.record, *later]


def chosen_environments(
    records: Sequence[EnvRecord], count: int, seed: int, iteration: int
) -> list[EnvRecord]:
    """`count` environments for one iteration, or all where there are fewer."""
    rng = random.Random(derive_seed(seed, "iteration", iteration))
    return rng.sample(list(records), min(count, len(records)))


def prompts(
    states: Sequence[EnvRecord], tokenizer: Any, *, thinking: bool | None, max_prompt_tokens: int
) -> tuple[list[EnvRecord], list[str], int]:
    """(states whose prompt fits, their prompts, how many were left out)."""
    texts = [render_prompt(tokenizer, s.messages, s.tools, thinking=thinking) for s in states]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    fits = [i for i, length in enumerate(lengths) if length <= max_prompt_tokens]
    return [states[i] for i in fits], [texts[i] for i in fits], len(states) - len(fits)
