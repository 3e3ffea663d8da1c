"""The stand-in for an instruct model: a 1 M Llama trained on noisy demonstrations (sheet §7.4, §7.5).

One model per seed (D8) and settings is kept in the cache folder and shared by all runs; that of preset
small's seed 0 is in `checkpoint/`. The loss is on the assistant's tokens only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared import checkpoint, tiny
from shared.pretrained import cache_root
from shared.seeding import derive_seed
from tool_env_rl import demonstrations, environment_sets, toy_language
from tool_env_rl.config import Config
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox
from tool_env_rl.variation import Variation

VERSION = 2  # of language and demonstrations: raise it when a cached model no longer fits the code
Progress = Callable[[str, float], None]  # (stage, done in [0, 1])
Example = tuple[list[int], list[bool]]  # token ids, which of them are the assistant's
REPORT_FILE = "base.json"
SHIPPED = Path(__file__).resolve().parent / "checkpoint"  # of preset small, seed 0
POOL = 8  # batches that are sorted by length together
GENERAL_ROWS = 8  # tasks without tools for each demonstration of a batch: about as many tokens
GENERAL_TOKENS = 13  # of such a task, about


def folder_of(cfg: Config) -> Path:
    """Where the base model of this config is kept."""
    sizes = asdict(cfg.model) | asdict(cfg.base)
    sizes |= {"seed": cfg.run.seed, "version": VERSION, "words": toy_language.words()}
    sizes |= {"template": toy_language.CHAT_TEMPLATE}
    sizes.pop("gate")
    digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()[:12]
    return cache_root() / "tool_env_rl" / f"base-{digest}"


def load_or_train(cfg: Config, sandbox: Sandbox, on_progress: Progress) -> Path:
    """The folder of the trained base model; made where neither the repository nor the cache has it."""
    folder = folder_of(cfg)
    for kept in (SHIPPED / folder.name, folder):
        if checkpoint.problem(kept) is None:
            return kept
    folder.parent.mkdir(parents=True, exist_ok=True)
    environments = environment_sets.for_base(cfg, sandbox, on_progress)
    model, tokenizer, losses = train(cfg, environments, sandbox, on_progress)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        checkpoint.write_json_atomic(part / REPORT_FILE, {"loss": losses})
        checkpoint.mark_complete(part)
        if checkpoint.problem(folder) is not None:  # else another process was first, with the same model
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def train(
    cfg: Config, environments: Sequence[Environment], sandbox: Sandbox, on_progress: Progress
) -> tuple[Any, Any, list[float]]:
    """(model, tokenizer, mean loss of each tenth of the training)."""
    tokenizer: Any = toy_language.tokenizer()
    examples = tool_examples(cfg, tokenizer, environments, sandbox, on_progress)
    model = tiny.tiny_causal_lm(
        tokenizer,
        hidden=cfg.model.hidden,
        layers=cfg.model.layers,
        heads=cfg.model.heads,
        intermediate=4 * cfg.model.hidden,
        seed=derive_seed(cfg.run.seed, "base"),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.base.lr, betas=(0.9, 0.98), weight_decay=0.01)
    steps = _steps(cfg, sum(len(ids) for ids, _ in examples) / len(examples))
    losses: list[float] = []
    model.train()
    for step, batch in zip(range(steps), _batches(cfg, tokenizer, examples), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = cfg.base.lr * _schedule(step, steps, cfg.base.warmup)
        ids_BT, labels_BT = padded(batch, tokenizer.pad_token_id)
        loss = _loss(model, ids_BT, labels_BT)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"loss={losses[-1]} at step {step} of the base model; lower --base.lr")
        on_progress(f"base model, loss {sum(losses[-20:]) / len(losses[-20:]):.2f}", (step + 1) / steps)
    model.eval()
    size = max(1, len(losses) // 10)
    return model, tokenizer, [sum(part) / len(part) for part in _parts(losses, size)]


def tool_examples(
    cfg: Config, tokenizer: Any, environments: Sequence[Environment], sandbox: Sandbox, on_progress: Progress
) -> list[Example]:
    """Rendered demonstrations of all environments, `base.demonstrations` of each, executed."""
    known = demonstrations.habits(cfg.run.seed)
    planned = [
        demonstrations.plan(
            env,
            known,
            random.Random(derive_seed(cfg.run.seed, "demo", env.id, k)),
            thinking=bool(cfg.model.thinking),
        )
        for env in environments
        for k in range(cfg.base.demonstrations)
    ]
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_progress("demonstrations", done / len(planned))

    demonstrations.execute(planned, sandbox, count)
    return [demonstrations.render(tokenizer, demo) for demo in planned]


def _batches(cfg: Config, tokenizer: Any, examples: list[Example]) -> Iterator[list[Example]]:
    """Endless batches, either of demonstrations of similar length or of tasks without tools: little padding.

    The first `base.general_first` are of the latter. Demonstrations are varied anew each time.
    """
    rng = random.Random(derive_seed(cfg.run.seed, "base batches"))
    vary = Variation(tokenizer)
    size, general_every = cfg.base.batch_size, round(1 / cfg.base.general_share)
    order: list[Example] = []
    pending: list[list[Example]] = []
    for number in itertools.count(1):
        if number <= cfg.base.general_first or number % general_every == 0:
            yield [general_example(tokenizer, rng) for _ in range(GENERAL_ROWS * size)]
            continue
        if not pending:
            while len(order) < POOL * size:
                order += rng.sample(examples, len(examples))
            taken = sorted((order.pop() for _ in range(POOL * size)), key=lambda example: len(example[0]))
            pending = [taken[i : i + size] for i in range(0, len(taken), size)]
            rng.shuffle(pending)
        yield [(vary(ids, rng), mask) for ids, mask in pending.pop()]


def general_example(tokenizer: Any, rng: random.Random) -> Example:
    """One task without tools, as a conversation."""
    question, answer = demonstrations.general_example(rng.choice(demonstrations.GENERAL_TASKS), rng)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids, [i >= start for i in range(len(ids))]


def padded(batch: Sequence[Example], pad: int) -> tuple[Tensor, Tensor]:
    """(ids, labels), both (B, T), padded on the right; labels are -100 outside the assistant's tokens."""
    width = max(len(ids) for ids, _ in batch)
    ids_BT = torch.full((len(batch), width), pad)
    labels_BT = torch.full((len(batch), width), -100)
    for row, (ids, mask) in enumerate(batch):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        spoken = torch.tensor(mask)
        labels_BT[row, : len(ids)][spoken] = torch.tensor(ids)[spoken]
    return ids_BT, labels_BT


def _loss(model: Any, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    # Padding is on the right, so causal attention never sees it: no mask is needed. Logits are made for the
    # labelled tokens only.
    hidden_BTH = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
    targets_BT = labels_BT[:, 1:]
    kept = targets_BT != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden_BTH[kept]), targets_BT[kept])


def _steps(cfg: Config, mean_tokens: float) -> int:
    """Optimizer steps for `base.tokens` tokens, with demonstrations of `mean_tokens` tokens."""
    base = cfg.base
    general = GENERAL_ROWS * GENERAL_TOKENS * base.batch_size
    mixed = base.general_share * general + (1 - base.general_share) * mean_tokens * base.batch_size
    return base.general_first + max(1, round((base.tokens - base.general_first * general) / mixed))


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _parts(values: list[float], size: int) -> list[list[float]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
