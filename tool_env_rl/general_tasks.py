"""General capability of the toy model: copy, reverse and add, greedily, on held-out examples (§7.5, §7.7)."""

from __future__ import annotations

import random
from typing import Any

from shared import rollouts
from shared.seeding import derive_seed
from tool_env_rl.demonstrations import GENERAL_TASKS, general_example
from tool_env_rl.episodes import stop_ids

MAX_ANSWER_TOKENS = 8


def examples(task: str, count: int, seed: int) -> list[tuple[str, str]]:
    """(question, answer) pairs, drawn apart from those of the training."""
    rng = random.Random(derive_seed(seed, "general", task))
    return [general_example(task, rng) for _ in range(count)]


def answers(model: Any, tokenizer: Any, questions: list[str]) -> list[str]:
    """Greedy answers."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in questions
    ]
    sampled = rollouts.generate(
        model,
        tokenizer(prompts, add_special_tokens=False)["input_ids"],
        sampling=rollouts.Sampling(MAX_ANSWER_TOKENS, 0.0),
        stop_ids=stop_ids(model, tokenizer),
    )
    return tokenizer.batch_decode(sampled.completion_ids, skip_special_tokens=True)


def right(model: Any, tokenizer: Any, count: int, seed: int) -> dict[str, list[bool]]:
    """Which of `count` examples per task are answered exactly."""
    found: dict[str, list[bool]] = {}
    for task in GENERAL_TASKS:
        pairs = examples(task, count, seed)
        given = answers(model, tokenizer, [question for question, _ in pairs])
        found[task] = [a.split() == gold.split() for a, (_, gold) in zip(given, pairs, strict=True)]
    return found
