"""Tokens per second of `shared.rollouts.generate` against `model.generate` as TRL calls it.

First the policy of AdaCtrl's `small` preset, 16 prompts x 16 samples; with --pretrained also SmolLM2-135M, 4
prompts x 8. Both sides take turns in one process, on the same prompts, 64 tokens each with nothing stopping
early; the small policy also with its natural ends. Prints `ratio: X` (the median of the rounds' ratios) and
each side's peak memory above what the process held before.

    python benchmarks/rollouts.py [--rounds 7] [--threads 2] [--pretrained] [--record] [--profile]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import _records
import torch
from _memory import peak_mib
from transformers import GenerationConfig

from adactrl import chains
from adactrl.cold_start import SHIPPED, load_policy
from adactrl.config import PRESETS
from adactrl.data import messages
from shared import gpu, rollouts
from shared.pretrained import smollm2

NEW_TOKENS = 64


def our_side(model: Any, prompts: list[list[int]], samples: int, stop_ids: list[int]) -> int:
    """Samples once; returns the number of tokens up to the ends."""
    sampling = rollouts.Sampling(NEW_TOKENS)
    out = rollouts.generate(model, prompts, samples=samples, sampling=sampling, stop_ids=stop_ids)
    return sum(map(len, out.completion_ids))


def stock_side(model: Any, prompts: list[list[int]], samples: int, stop_ids: list[int]) -> int:
    """What TRL 1.16's `GRPOTrainer._generate_single_turn` does, with its generation settings."""
    rows = [prompt for prompt in prompts for _ in range(samples)]
    width, device = max(map(len, rows)), model.device
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, min_p=None,
        repetition_penalty=1.0, pad_token_id=0, eos_token_id=stop_ids, disable_compile=True,
    )  # fmt: skip
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[:, width:]
    stops = torch.isin(out, torch.tensor(stop_ids, device=device)).int()
    return int((stops.cumsum(1) - stops == 0).sum())  # up to and with the first stop


SIDES = {"ours": our_side, "model.generate": stock_side}


def compare(
    row: str, name: str, options: argparse.Namespace, *inputs: Any, goal: float | None = None
) -> None:
    """Alternates the two sides and prints tokens per second, their ratio and the peak memory."""
    began, rounds = time.monotonic(), options.rounds
    speed: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(rounds + 1):  # the first turn warms up
        for side in list(SIDES)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            tokens = SIDES[side](*inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                speed[side].append(tokens / (time.perf_counter() - start))
    ratios = [ours / stock for ours, stock in zip(*speed.values(), strict=True)]
    print(
        f"{name}: " + ", ".join(f"{side} {statistics.median(v):,.0f} tokens/s" for side, v in speed.items())
    )
    print(
        f"ratio: {statistics.median(ratios):.2f}   (rounds: {' '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )
    memory = {side: peak_mib(lambda run=run: run(*inputs)) for side, run in SIDES.items()}
    print("peak memory: " + ", ".join(f"{side} {mib:,.0f} MiB" for side, mib in memory.items()), flush=True)
    if options.record:
        title, wall_s = f"`rollouts.py`: {name} tokens", time.monotonic() - began
        ours, stock = speed.values()
        common: Any = {"threads": options.threads, "wall_s": wall_s, "goal": goal}
        common["memory_mib"] = tuple(memory.values())
        _records.save(f"rollouts/{row}", title, "tokens/s", ours, stock, ratios, **common)


def profile(*inputs: Any) -> None:
    """The operations that take most of our side's time, share of the total on one thread."""
    torch.set_num_threads(1)
    our_side(*inputs)
    with torch.profiler.profile() as found:
        our_side(*inputs)
    events = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    for event in events[:12]:
        print(f"{event.self_cpu_time_total / total:5.0%}  {event.key}  ({event.count} calls)")


def encode(tokenizer: Any, questions: list[list[dict[str, str]]]) -> list[list[int]]:
    return tokenizer.apply_chat_template(questions, add_generation_prompt=True, return_dict=True)["input_ids"]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pretrained", action="store_true", help="also SmolLM2-135M (0.6 GB, minutes)")
    parser.add_argument("--policy", type=Path, default=SHIPPED, help="checkpoint of the small policy")
    parser.add_argument("--record", action="store_true", help="append the figures to benchmarks/results")
    parser.add_argument("--profile", action="store_true", help="only show where our side's time goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{gpu.hardware()}, {options.threads} threads")

    cfg = PRESETS["small"]
    model, tokenizer = load_policy(options.policy, cfg)
    asked = [messages(chain.question, cfg.data) for _, chain in chains.rl_problems(16, seed=0)]
    prompts, never = encode(tokenizer, asked), [len(tokenizer)]  # an id that cannot be sampled
    ends = [tokenizer.eos_token_id]
    if options.profile:
        return profile(model, prompts, 16, never)
    compare("small", "small model, 256 x 64", options, model, prompts, 16, never, goal=3.0)
    compare("small-ends", "small model, 256 x up to 64", options, model, prompts, 16, ends)
    if options.pretrained:
        model, tokenizer = gpu.load_causal_lm(smollm2())
        model = model.to(gpu.device())
        words = ["apples", "trains of seven cars", "boxes", "very long walks along the river"]
        asked = [
            [{"role": "user", "content": f"Ann has 12 {word} and gives 5 away. How many stay?"}]
            for word in words
        ]
        inputs = model, encode(tokenizer, asked), 8, [len(tokenizer)]
        compare("smollm2", "SmolLM2-135M, 4 prompts x 8 samples x 64", options, *inputs, goal=1.5)


if __name__ == "__main__":
    main()
