"""Plays environments: prompt → turn → parse → execute → books, for many environments at once (§2.4, §4.1).

    transcripts = play([Transcript(record) for record in records], policy, sandbox, max_turns=20)

An episode ends with the first turn without a call that parsed, or after `max_turns`. A policy is any function
from open transcripts to their next turns; `ModelPolicy` samples them, the scripted ones of `controls.py` know
the gold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from shared import rollouts
from tool_env_rl.config import TOY, Config
from tool_env_rl.metrics import EpisodeCounter, EpisodeScore
from tool_env_rl.protocol import (
    ToolCall,
    answer_matches,
    assistant_message,
    parse_response,
    render_prompt,
    render_tool_results,
)
from tool_env_rl.records import Environment, EnvRecord
from tool_env_rl.sandbox import Sandbox, ToolResult


@dataclass
class Snapshot:
    """What is left after a tool turn: the state that RL starts from."""

    messages: list[dict[str, Any]]
    unsolved: dict[str, list[str]]
    solve_rate: float


@dataclass
class Transcript:
    """One episode, running or over.

    gold: the environment with its gold calls, which only scripted policies see.
    truncated: it ended because of the turn limit or because its prompt no longer fitted.
    """

    record: EnvRecord
    name: str = ""
    gold: Environment | None = None
    messages: list[dict[str, Any]] = field(init=False)
    responses: list[str] = field(default_factory=list, init=False)
    outputs: list[list[str]] = field(default_factory=list, init=False)
    snapshots: list[Snapshot] = field(default_factory=list, init=False)
    truncated: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.messages = list(self.record.messages)
        record = self.record
        self.counter = EpisodeCounter(self.name, record.scenario, record.unsolved_set, record.solve_rate)

    @property
    def score(self) -> EpisodeScore:
        """Counts, and whether the last turn holds the final answer in whole words."""
        last = self.responses[-1] if self.responses else ""
        text = parse_response(last, drop_thoughts=True)
        answered = not text.calls and answer_matches(text.content or "", self.record.answer, strict=True)
        return self.counter.score(answer_correct=answered)


Policy = Callable[[Sequence[Transcript]], Sequence[str | None]]  # None: the prompt does not fit, give up


def of_environments(environments: Sequence[Environment]) -> list[Transcript]:
    """A fresh transcript of each built environment."""
    return [Transcript(env.record, env.id, env) for env in environments]


def play(
    transcripts: Sequence[Transcript],
    policy: Policy,
    sandbox: Sandbox,
    *,
    max_turns: int,
    drop_thoughts: bool = False,
    on_turn: Callable[[int, int], None] = lambda turn, still_open: None,
) -> list[Transcript]:
    """Play all episodes to their end; the transcripts are filled in place and returned.

    `drop_thoughts` leaves <think> text out of the parsing (§6.2-4). `on_turn` hears the turn's number and how
    many episodes are open.
    """
    still_open = list(transcripts)
    for number in range(1, max_turns + 1):
        if not still_open:
            break
        on_turn(number, len(still_open))
        going: list[tuple[Transcript, Any]] = []
        for transcript, text in zip(still_open, policy(still_open), strict=True):
            if text is None:
                transcript.truncated = True
                continue
            turn = parse_response(text, drop_thoughts=drop_thoughts)
            transcript.responses.append(text)
            if turn.calls:
                going.append((transcript, turn))
            else:
                transcript.counter.add_turn(turn, [])
        results = run_calls([(t.record.codes, turn.calls) for t, turn in going], sandbox)
        for (transcript, turn), outputs in zip(going, results, strict=True):
            texts = [result.output for result in outputs]
            first_id = transcript.counter.calls
            transcript.counter.add_turn(turn, texts)
            transcript.outputs.append(texts)
            transcript.messages = [
                *transcript.messages,
                assistant_message(turn, first_id=first_id),
                *render_tool_results(texts, first_id=first_id),
            ]
            left, rate = transcript.counter.remaining, transcript.counter.solve_rate
            transcript.snapshots.append(Snapshot(transcript.messages, left, rate))
        still_open = [transcript for transcript, _ in going]
    for transcript in still_open:
        transcript.truncated = True
    return list(transcripts)


def run_calls(
    turns: Sequence[tuple[dict[str, str], Sequence[ToolCall]]], sandbox: Sandbox
) -> list[list[ToolResult]]:
    """Results per turn of (codes, calls), all executed together; an unknown tool is an error of its own."""
    known = [
        (codes[call.name], call.name, call.arguments)
        for codes, calls in turns
        for call in calls
        if call.name in codes
    ]
    results = iter(sandbox.call_many(known))
    return [
        [next(results) if call.name in codes else unknown_tool(call.name) for call in calls]
        for codes, calls in turns
    ]


def unknown_tool(name: str) -> ToolResult:
    """What a call of a tool that does not exist gets: the authors' KeyError."""
    return ToolResult(f"an error occured when call {name}: '{name}'", "error")


class ModelPolicy:
    """Samples the next turn of every open transcript from a language model.

    Args:
        sampling: temperature 0 is greedy.
        thinking: `enable_thinking` of the chat template; None leaves the template its default.
        max_prompt_tokens: an episode whose prompt is longer ends there.
        seed: of the sampling; the same policy object draws new numbers in each call.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: rollouts.Sampling,
        *,
        thinking: bool | None = None,
        max_prompt_tokens: int = 16_384,
        seed: int = 0,
        max_rows: int = 512,
    ) -> None:
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.thinking, self.max_prompt_tokens, self.max_rows = thinking, max_prompt_tokens, max_rows
        self.stop_ids = stop_ids(model, tokenizer)
        device = next(model.parameters()).device
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def __call__(self, transcripts: Sequence[Transcript]) -> list[str | None]:
        prompts = [
            render_prompt(self.tokenizer, t.messages, t.record.tools, thinking=self.thinking)
            for t in transcripts
        ]
        ids = self.tokenizer(prompts, add_special_tokens=False)["input_ids"]
        fits = [i for i, row in enumerate(ids) if len(row) <= self.max_prompt_tokens]
        texts: list[str | None] = [None] * len(prompts)
        if not fits:
            return texts
        sampled = rollouts.generate(
            self.model,
            [ids[i] for i in fits],
            sampling=self.sampling,
            stop_ids=self.stop_ids,
            generator=self.generator,
            max_rows=self.max_rows,
        )
        decoded = self.tokenizer.batch_decode(sampled.completion_ids, skip_special_tokens=True)
        for i, text in zip(fits, decoded, strict=True):
            texts[i] = text
        return texts


def model_policy(model: Any, tokenizer: Any, cfg: Config, temperature: float, seed: int = 0) -> ModelPolicy:
    """A run's model at `temperature`, within the limits of its config."""
    return ModelPolicy(
        model,
        tokenizer,
        rollouts.Sampling(cfg.algo.max_completion_tokens, temperature),
        thinking=cfg.model.thinking,
        max_prompt_tokens=cfg.data.max_prompt_tokens,
        seed=seed,
        max_rows=512 if cfg.model.name == TOY else 32,
    )


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """End-of-turn tokens: the tokenizer's, and those of the model's generation config."""
    more = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
    return list(dict.fromkeys(token for token in found if token is not None))
