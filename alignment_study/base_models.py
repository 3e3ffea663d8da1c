"""The model a run starts from: pre-trained here, a folder, a hub id, or the offline SmolLM2.

A base of the generated worlds is a function of world and seed. It is pre-trained once, by the first run that
needs it, into runs/base-WORLD-seedN (`pretrain.py`, gate included), and read back by all others.

A pretrained model that hardly ever writes the tags is taught the form first (`WarmUp`, §7.8b): a short
supervised run on questions of another task, the loss on

    <think> last sentence of the question </think> <answer> its right answer </answer>
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from alignment_study import pretrain, sampling
from alignment_study.config import Config
from alignment_study.pretrain import Pretraining, Settings
from alignment_study.tasks import Problem, load_task
from shared import checkpoint, gpu, runs
from shared.pretrained import smollm2
from shared.seeding import derive_seed

BASES = runs.ROOT / "alignment_study" / "runs"


def prepare(cfg: Config, run_dir: Path) -> str:
    """Folder or hub id of the base, made first where it is not there yet.

    Raises:
        GateError: no checkpoint of the pre-training met the gate. ValueError: another base is in its folder.
    """
    if cfg.base is None:
        folder = _quick(cfg, run_dir) if cfg.pretrain_steps is not None else _gated(cfg)
        return str(folder)
    name = str(smollm2()) if cfg.base == "smollm2" else cfg.base
    if not cfg.warm_up.examples:
        return name
    folder = run_dir / "base"
    if checkpoint.problem(folder):
        model, tokenizer = load(cfg, name)
        warm_up(model, tokenizer, cfg)
        _save(model, tokenizer, folder)
    return str(folder)


def load(cfg: Config, name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of `prepare`'s answer, on the device, in float32: RL trains these weights."""
    local = Path(name).expanduser().is_dir()
    model, tokenizer = gpu.load_causal_lm(
        Path(name).expanduser().resolve() if local else name, revision=None if local else cfg.revision
    )
    return model.to(gpu.device()), tokenizer


def _gated(cfg: Config) -> Path:
    folder = BASES / f"base-{cfg.world}-seed{cfg.run.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if checkpoint.problem(folder / "model"):
            print(f"no base model yet: pre-training world {cfg.world}, 1-3 minutes, once", flush=True)
        pretrain.run(Settings(cfg.world, cfg.run.seed), folder)
    return folder / "model"


def _quick(cfg: Config, run_dir: Path) -> Path:
    """A base after `pretrain_steps` steps, whatever it knows by then."""
    folder, steps = run_dir / "base", cfg.pretrain_steps or 0
    if checkpoint.problem(folder):
        training = Pretraining(Settings(cfg.world, cfg.run.seed, steps=steps))
        for _ in _bar(range(steps), f"pre-training world {cfg.world}"):
            training.train_step()
        _save(training.model, training.tokenizer, folder)
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs that need the same base: the second waits until the first has made it."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    checkpoint.mark_complete(folder)


# ---- the warm-up of a pretrained model


def example(problem: Problem) -> str:
    """The completion that a warm-up question is taught: form, and nothing to copy but the right answer."""
    last = re.split(r"(?<=[.?!])\s+", problem.question.strip())[-1]
    return f"<think> {last} </think> <answer> {problem.answer} </answer>"


def warm_up(model: Any, tokenizer: Any, cfg: Config) -> float:
    """Fine-tune `model` in place on the form; returns the last epoch's mean loss.

    Raises:
        ValueError: the warm-up task is trained or tested on too. FloatingPointError: the loss is not finite.
    """
    settings = cfg.warm_up
    if settings.task in {*cfg.cells.values(), *cfg.tasks}:
        raise ValueError(
            f"warm_up.task={settings.task!r} is also trained or tested on; use another, or no examples"
        )
    found = load_task(
        settings.task, split="train", n=settings.examples, seed=cfg.run.seed, data_dir=cfg.data.data_dir
    )
    prompts = sampling.prompt_ids(tokenizer, [p.prompt for p in found.problems])
    texts = [example(p) + tokenizer.eos_token for p in found.problems]
    pairs = list(zip(prompts, tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    model.train()
    mean = float("nan")
    for epoch in range(settings.epochs):
        order = random.Random(derive_seed(cfg.run.seed, "warm-up", epoch)).sample(pairs, len(pairs))
        losses: list[float] = []
        starts = range(0, len(order), settings.batch_size)
        for start in _bar(starts, f"teaching the form, epoch {epoch + 1} of {settings.epochs}"):
            losses.append(_update(model, optimizer, order[start : start + settings.batch_size]))
        mean = sum(losses) / len(losses)
    print(
        f"warm-up: {len(pairs)} questions of {settings.task}, loss {mean:.3f} in the last epoch", flush=True
    )
    model.eval()
    return mean


def _update(model: Any, optimizer: torch.optim.Optimizer, batch: list[tuple[list[int], list[int]]]) -> float:
    """One step on (prompt, completion) ids; the loss is on completions only."""
    width = max(len(p) + len(c) for p, c in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    for row, (prompt, completion) in enumerate(batch):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
        mask[row, :end] = 1
    place = model.device
    loss = model(input_ids=ids.to(place), attention_mask=mask.to(place), labels=labels.to(place)).loss
    if not torch.isfinite(loss):
        raise FloatingPointError(f"warm-up loss {loss.item()}; lower --warm-up.lr")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _bar(rows: range, title: str) -> Iterator[int]:
    yield from track(rows, title, console=Console(stderr=True), disable=not sys.stderr.isatty())
