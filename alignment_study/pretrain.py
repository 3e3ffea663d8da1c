"""Pre-train the base model of a world and stop where the study needs it (sheet §7.1-7.2).

    python -m alignment_study.pretrain --world one --seed 1 --out DIR        # a minute on one thread

A real Llama learns `families.PretrainingText`. Every 25 steps it answers 64 validation items of the aligned
and of the weak family 16 times; the base is the first checkpoint that meets the gate:

    aligned pass@16 >= 0.95,  weak strict pass@1 in [0.015, 0.05],  at least 3 weak sub-tasks above 0.005

Learning the weak family is a sharp transition. When the gate is jumped over, the steps since the last look
are gone through again with finer ones (every 5, then every step). The training then goes on: later
checkpoints are the dial of §7.5. DIR gets model/ (the base) and checkpoint-STEP/ (the dial), for transformers
to load, and card.json with their numbers. A stopped run goes on from its last checkpoint when started again.
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import Progress
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment_study import families
from alignment_study.families import WORLDS, WorldName
from alignment_study.gate import ITEMS, SAMPLES, WEAK_PASS1, Look, answer, look
from alignment_study.pass_at_k import curve
from shared import checkpoint, gpu
from shared.config import refuse
from shared.seeding import derive_seed

LOOKS = (25, 5, 1)  # steps between two looks; the finer ones where the gate was jumped over
# transformers' 0.02 leaves attention at 64 dimensions flat for hundreds of steps (1/sqrt(64) is 0.125)
INIT_STD = 0.1
WARMUP, WEIGHT_DECAY, FLOOR = 50, 0.01, 0.1  # §7.2: AdamW, cosine to 10 %


class GateError(ValueError):
    """No checkpoint met the gate; the message holds the numbers and what to change."""


@dataclass(frozen=True)
class Settings:
    """What is trained; every number of §7.2."""

    world: WorldName = "one"
    seed: int = 0
    weak_share: float | None = None  # of the text from the weak family; None: the world's own
    steps: int = 1200
    batch_size: int = 128
    lr: float = 3e-3
    hidden: int = 64
    layers: int = 2
    heads: int = 4

    @property
    def share(self) -> float:
        return WORLDS[self.world].weak_share if self.weak_share is None else self.weak_share


def new_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama with tied embeddings and intermediate = 3 x hidden, fixed by the seed.

    With biases in attention it is the Qwen2 of §7.2 (plus one on the output). Not Qwen2 itself: beside one,
    AutoTokenizer ignores the saved tokenizer's class and loads Qwen2's, which splits the tags.
    """
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=3 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        attention_bias=True,
        initializer_range=INIT_STD,
        dtype=torch.float32,
        **ids,
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(settings.seed, "pretrain", "weights"))
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    return model


class Pretraining:
    """The training state: model, optimizer, step. What a step does depends on (settings, step) alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.step = settings, 0
        self.text = families.PretrainingText(WORLDS[settings.world], settings.share)
        self.tokenizer: Any = self.text.tokenizer
        self.model: Any = new_model(settings, self.tokenizer)
        self.model.to(gpu.device())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, weight_decay=WEIGHT_DECAY, fused=True
        )

    def learning_rate(self) -> float:
        """Linear warm-up, then cosine to FLOOR of the peak at the last step."""
        rise = min(1.0, (self.step + 1) / WARMUP)
        done = max(0, self.step - WARMUP) / max(1, self.settings.steps - WARMUP)
        return self.settings.lr * rise * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * min(1.0, done))) / 2)

    def train_step(self) -> float:
        """One update on fresh text, the loss on every token but padding; returns it.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        rng = np.random.default_rng(derive_seed(self.settings.seed, "pretrain", "text", self.step))
        rows = torch.from_numpy(self.text.batch(rng, self.settings.batch_size)).to(self.model.device)
        padding = rows.eq(self.tokenizer.pad_token_id)
        labels = rows.masked_fill(padding, -100)
        self.model.train()
        loss = self.model(input_ids=rows, attention_mask=~padding, labels=labels).loss
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss {loss.item()} at step {self.step}; lower --lr")
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def look(self, items: int = ITEMS) -> Look:
        settings = self.settings
        return look(self.model, self.tokenizer, settings.world, settings.seed, self.step, items)

    def state(self) -> dict[str, Any]:
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        return copy.deepcopy(parts)

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.step = state["step"]


def until_gate(training: Pretraining, items: int = ITEMS) -> Iterator[Look]:
    """Train up to the gate; yields every look, the last of which meets it.

    Raises:
        GateError: the gate was never met, or jumped over even when looking at every step.
    """
    fine, before, limit = 0, training.state(), training.settings.steps
    share = training.settings.share
    while True:
        for _ in range(LOOKS[fine] - training.step % LOOKS[fine]):
            training.train_step()
        seen = training.look(items)
        yield seen
        if seen.passed:
            return
        if seen.weak_pass1 > WEAK_PASS1[1]:  # jumped over
            if fine + 1 == len(LOOKS):
                raise GateError(f"the gate was jumped over at {seen}; try --weak-share {0.7 * share:.3g}")
            fine += 1
            training.load(before)
        elif training.step >= limit:
            raise GateError(
                f"no checkpoint of {limit} steps met the gate, the last was {seen}; "
                f"try --steps {2 * limit} or --weak-share {min(0.5, 1.4 * share):.3g}"
            )
        else:
            before = training.state()


def run(settings: Settings, out: Path, items: int = ITEMS) -> dict[str, Any]:
    """Train, save the base in out/model and the dial in out/checkpoint-STEP; returns (and writes) the card.

    A finished folder is only read; an unfinished one goes on.

    Raises:
        GateError: see `until_gate`. ValueError: the folder holds a run with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = {**asdict(settings), "weak_share": settings.share}
    card = _card_of(out, wanted)
    if card.get("finished"):
        return card
    training, card = Pretraining(settings), card or {"settings": wanted, "finished": False}
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(
            f"pre-training world {settings.world}, seed {settings.seed}", total=settings.steps
        )
        if "gate" not in card:
            looks = []
            for seen in until_gate(training, items):
                looks.append(seen)
                progress.update(bar, completed=seen.step)
            card |= {"gate": asdict(looks[-1]), "looks": [asdict(x) for x in looks], "dial": []}
            card["gate"]["transfer"] = _transfer(training, items)
            _save(training, out / "model")
            _store(training, card, out)
        training.load(torch.load(out / "state.pt", weights_only=True))
        while training.step < settings.steps:
            for _ in range(LOOKS[0] - training.step % LOOKS[0]):
                training.train_step()
            seen = training.look(items)
            progress.update(bar, completed=seen.step)
            name = f"checkpoint-{training.step}"
            _save(training, out / name)
            card["dial"].append({"folder": name, **asdict(seen)})
            _store(training, card, out)
    card["finished"] = True
    checkpoint.write_json_atomic(out / "card.json", card)
    return card


def _transfer(training: Pretraining, items: int) -> dict[str, float]:
    """pass@1 and pass@16 of the transfer family, which the gate does not ask about."""
    family, seed = WORLDS[training.settings.world].transfer, training.settings.seed
    rows = answer(training.model, training.tokenizer, family, seed, training.step, items)
    one, sixteen = curve([[s.strict for s in group] for group in rows], [1, SAMPLES])
    return {"pass1": one.value, "pass16": sixteen.value}


def _card_of(out: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    path = out / "card.json"
    if not path.exists():
        return {}
    card = json.loads(path.read_text(encoding="utf-8"))
    if card["settings"] != wanted:
        other = {k: v for k, v in card["settings"].items() if wanted.get(k) != v}
        raise ValueError(f"{out} holds a run with {other}; give another --out")
    return card


def _save(training: Pretraining, folder: Path) -> None:
    training.model.save_pretrained(folder)
    training.tokenizer.save_pretrained(folder)
    checkpoint.mark_complete(folder)


def _store(training: Pretraining, card: dict[str, Any], out: Path) -> None:
    """State first, then the card that says so: a run stopped in between does the last steps again."""
    part = out / ".state.pt.tmp"
    torch.save(training.state(), part)
    os.replace(part, out / "state.pt")
    checkpoint.write_json_atomic(out / "card.json", card)


def main(settings: tyro.conf.OmitArgPrefixes[Settings], out: Path) -> None:
    """Pre-train a base model into OUT.

    Args:
        settings: What is trained.
        out: Folder for the base model, the dial's checkpoints and the card.
    """
    print(f"pre-training into {out}; a stopped run goes on with the same command", flush=True)
    try:
        card = run(settings, out)
    except (GateError, ValueError) as error:
        refuse(str(error))
    gate = card["gate"]
    print(
        f"gate met at step {gate['step']}: aligned pass@16 {gate['aligned_pass16']:.3f}, transfer pass@16 "
        f"{gate['transfer']['pass16']:.3f}, weak pass@1 {gate['weak_pass1']:.4f}, pass@16 "
        f"{gate['weak_pass16']:.3f}; {len(card['dial'])} later checkpoints\n"
        f"next: python -m alignment_study.measure {out / 'model'} {WORLDS[settings.world].weak}"
    )


if __name__ == "__main__":
    tyro.cli(main)
