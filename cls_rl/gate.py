"""The go / no-go gate between pretraining and RL: `python -m cls_rl.gate [FOLDER]`.

RL measures something only if the model starts where the paper's does: it reads the list (its answers are
options), is right often enough to be rewarded and wrong often enough to improve, mostly keeps the format, and
its thoughts vary. Pictures are of the few-shot families, which pretraining has not seen; those of the test
families are measured too, but decide nothing, so that no checkpoint is chosen by them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cls_rl import data_sets, rollouts
from cls_rl.data import Prompts, Query, evenly
from cls_rl.grading import extract_thought, grade, summarise
from cls_rl.model import SHIPPED, Bundle, load
from cls_rl.prompts import QUESTION
from cls_rl.rewards import REWARDS, Method
from cls_rl.splits import base_new, option_list
from shared import checkpoint
from shared.rollouts import Sampling
from shared.seeding import derive_seed

Lists = Literal["all", "halves"]  # options: every class of the set, or those of the picture's half
Side = Literal["train", "test"]
_LISTS: tuple[Lists, ...] = ("all", "halves")
MODES: tuple[Method, ...] = ("no_thinking", "thinking")  # the two the paper compares
OTHERS: tuple[Method, ...] = ("answer_first", "adaptive")
TOKENS = 64  # of a reply
BATCH = 128


@dataclass(frozen=True)
class Check:
    """One condition: low <= value <= high."""

    name: str
    value: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low <= round(self.value, 9) <= self.high


@dataclass(frozen=True)
class Reply:
    """One picture's reply; `scores` are the method's rewards in their order."""

    data_set: str
    query: Query
    text: str
    scores: tuple[float, ...]


def queries(data_set: str, lists: Lists, side: Side, count: int) -> list[Query]:
    """At most `count` pictures of one set, evenly over its classes, with their option lists."""
    items = sorted((i for i in data_sets.load(data_set, copies=2) if i.side == side), key=lambda i: i.image)
    items.sort(key=lambda item: item.label)
    halves = base_new({item.label for item in items})
    question = data_sets.QUESTIONS.get(data_set, QUESTION)
    found: list[Query] = []
    for item in items:
        half = halves[0] if item.label in halves[0] else halves[1]
        names = half if lists == "halves" else [*halves[0], *halves[1]]
        rng = random.Random(derive_seed("gate", lists, item.image))
        options = tuple(option_list(item.label, names, len(names), rng))
        found.append(Query(item.image, item.label, options, question))
    return evenly(found, count)


def answer(
    bundle: Bundle, method: Method, asked: dict[str, list[Query]], temperature: float, seed: int
) -> list[Reply]:
    """One reply per picture: greedy at temperature 0, else sampled as in RL (top-k 50)."""
    replies: list[Reply] = []
    sampling = Sampling(TOKENS, temperature, top_k=50 if temperature else 0)
    generator = torch.Generator().manual_seed(derive_seed(seed, "gate", method))
    for data_set, rows in asked.items():
        prompts = Prompts(rows, data_sets.picture, bundle, method)
        for first in range(0, len(rows), BATCH):
            part = range(first, min(first + BATCH, len(rows)))
            drawn = rollouts.generate(
                bundle.model, bundle.tokenizer, prompts.encode(part), sampling=sampling, generator=generator
            )
            texts = bundle.tokenizer.batch_decode(drawn.completion_ids, skip_special_tokens=True)
            for row, text in zip(part, texts, strict=True):
                scores = tuple(reward(text, rows[row].label) for reward in REWARDS[method])
                replies.append(Reply(data_set, rows[row], text, scores))
    return replies


def describe(replies: Sequence[Reply]) -> dict[str, float]:
    """Shares of `grading.summarise`, the mean of each reward, and the thoughts' lengths in words."""
    graded = [grade(reply.text, reply.query.label, reply.query.options) for reply in replies]
    found = summarise(graded)
    found["reward"] = float(np.mean([reply.scores[-1] for reply in replies]))
    found["format"] = float(np.mean([reply.scores[0] for reply in replies]))
    words = [len(thought.split()) for r in replies if (thought := extract_thought(r.text)) is not None]
    if words:
        low, high = np.percentile(words, [5, 95])
        found |= {"words_low": float(low), "words_high": float(high), "words_kinds": len(set(words))}
    for data_set in sorted({reply.data_set for reply in replies}):
        hits = [g.exact for g, r in zip(graded, replies, strict=True) if r.data_set == data_set]
        found[f"exact/{data_set}"] = float(np.mean(hits))
    return found


def measure(
    bundle: Bundle, sets: Sequence[str] = tuple(data_sets.SETS), count: int = 48, seed: int = 0
) -> dict[str, dict[str, float]]:
    """`describe` of every cell "side/method/lists/greedy or sampled"; `count` pictures per set."""
    cells: dict[str, dict[str, float]] = {}
    sides: tuple[Side, ...] = ("train", "test")
    for side in sides:
        asked = {lists: {name: queries(name, lists, side, count) for name in sets} for lists in _LISTS}
        for method in MODES:
            for lists in _LISTS:
                greedy = answer(bundle, method, asked[lists], 0.0, seed)
                cells[f"{side}/{method}/{lists}/greedy"] = describe(greedy)
                print(f"  {side} families, {method}, {lists}: done", flush=True)
            cells[f"{side}/{method}/all/sampled"] = describe(answer(bundle, method, asked["all"], 1.0, seed))
    few = {name: queries(name, "all", "train", max(4, count // 4)) for name in sets}
    for method in OTHERS:
        cells[f"train/{method}/all/sampled"] = describe(answer(bundle, method, few, 1.0, seed))
    return cells


def conditions(cells: dict[str, dict[str, float]]) -> list[Check]:
    """The conditions on the few-shot families' cells of `measure`."""
    checks: list[Check] = []
    for method in MODES:
        for lists in _LISTS:
            cell = cells[f"train/{method}/{lists}/greedy"]
            checks.append(Check(f"{method}, {lists}: accuracy", cell["exact"], 0.35, 0.60))
            checks.append(Check(f"{method}, {lists}: answer is an option", cell["in_list"], 0.95, 1.0))
        sampled = cells[f"train/{method}/all/sampled"]
        checks.append(Check(f"{method}, sampled: reward", sampled["reward"], 0.28, 0.60))
    thinking, sampled = cells["train/thinking/all/greedy"], cells["train/thinking/all/sampled"]
    checks += [
        Check("thinking: format", thinking["format"], 0.9, 1.0),
        Check("thinking, sampled: format", sampled["format"], 0.8, 0.98),  # RL must have something to gain
        Check("thinking, sampled: kinds of length", sampled.get("words_kinds", 0), 8, 40),
        Check("thinking, sampled: short thoughts, words", sampled.get("words_low", 0), 2, 6),
        Check("thinking, sampled: long thoughts, words", sampled.get("words_high", 0), 10, 25),
        Check("thinking, sampled: thought against answer", sampled["inconsistent"], 0.01, 0.35),
    ]
    for method in OTHERS:
        cell = cells[f"train/{method}/all/sampled"]
        checks.append(Check(f"{method}, sampled: format", cell["format"], 0.8, 1.0))
    return checks


def report(checks: Sequence[Check]) -> str:
    """One line per condition."""
    return "\n".join(
        f"  {'ok  ' if c.passed else 'FAIL'} {c.name:<44} {c.value:7.3f}  (needs {c.low:g} to {c.high:g})"
        for c in checks
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cls_rl.gate", description="Is the small model fit for RL?"
    )
    parser.add_argument("folder", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--count", type=int, default=48, help="pictures per data set and cell")
    parser.add_argument("--json", type=Path, help="write every cell there")
    args = parser.parse_args(argv)
    try:
        bundle = load(args.folder)
        cells = measure(bundle, count=args.count)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    checks = conditions(cells)
    print(report(checks))
    for lists in _LISTS:
        cell = cells[f"test/no_thinking/{lists}/greedy"], cells[f"test/thinking/{lists}/greedy"]
        print(f"  test families, {lists}: {cell[0]['exact']:.3f} direct, {cell[1]['exact']:.3f} thinking")
    if args.json:
        written = {"checks": [asdict(check) for check in checks], "cells": cells}
        checkpoint.write_json_atomic(args.json, checkpoint.plain(written))
    if not all(check.passed for check in checks):
        sys.exit("the gate failed: RL from this model would measure little; change the recipe")


if __name__ == "__main__":
    main()
