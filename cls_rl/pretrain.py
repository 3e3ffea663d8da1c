"""Make the small Qwen2.5-VL that RL starts from: `python -m cls_rl.pretrain --out DIR`.

1. vision: the tower and its merger learn the names of all concepts that the pretraining vendors drew.
2. naming: the language model, on cached picture features, answers short prompts and repeats short lists.
3. lists: prompts of all methods with 2 to 40 names, told apart by picture and list together.
4. choosing: as 3, but most pictures resemble a near name that the list lacks, as pictures of new families do.

The tower is frozen after 1. A killed run goes on where it saved last, with the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cls_rl import data_sets, drawings, pretrain_language, pretrain_text
from cls_rl.model import Bundle, ModelConfig, build_model, save
from cls_rl.pretrain_images import Pictures, augment, colours, load_pictures, patches
from cls_rl.pretrain_language import Corpus
from cls_rl.pretrain_vision import NameHead, image_features
from cls_rl.processor import build_processor, build_tokenizer
from shared import checkpoint, gpu, runs
from shared.seeding import derive_seed

EVERY = 50  # steps between lines of metrics.jsonl


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on, beside the drawings and the package versions."""

    seed: int = 0
    vision_steps: int = 3000
    vision_batch: int = 64
    vision_lr: float = 1.5e-3
    class_weight: float = 8.0  # a drawing of a data set's class is seen so often as one of another concept
    views: int = 8  # augmented pictures per drawing whose features are cached
    language_steps: int = 3600
    language_batch: int = 32
    language_lr: float = 2e-3
    choosing_steps: int = 700
    choosing_lr: float = 7e-4
    save_every: int = 200
    sets: tuple[str, ...] = tuple(data_sets.SETS)
    only_sets: bool = False  # leave out the concepts of no data set
    model: ModelConfig = field(default_factory=ModelConfig)


_SMALLEST = ModelConfig(
    hidden=64, layers=2, heads=2, kv_heads=2, intermediate=128, vision_hidden=64, vision_layers=1,
    vision_heads=2, vision_intermediate=128, vocabulary=1200,
)  # fmt: skip
PRESETS = {
    "full": Recipe(),
    "smoke": Recipe(
        vision_steps=60, vision_batch=32, views=2, language_steps=160, language_batch=16,
        choosing_steps=20, save_every=50,
        sets=("animals", "food"), only_sets=True, model=_SMALLEST,
    ),
}  # fmt: skip


@dataclass
class Run:
    """One stage's parameters and optimizer with what is saved of them."""

    folder: Path
    stage: str
    model: Any
    head: NameHead
    optimizer: torch.optim.Optimizer
    steps: int
    step: int = 0
    cpu_s: float = 0.0

    def save(self) -> None:
        """State of the stage, replaced as a whole."""
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "cpu_s": self.cpu_s,
        }
        part = self.folder / f".{self.stage}.tmp"
        torch.save(state, part)
        part.replace(self.folder / f"{self.stage}.pt")

    def restore(self) -> None:
        """Back to the last `save`, if there was one, and cut later lines off metrics.jsonl."""
        path = self.folder / f"{self.stage}.pt"
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.cpu_s = state["step"], state["cpu_s"]
        log = self.folder / "metrics.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
        kept = [line for line in lines if line.endswith("\n") and self._is_past(json.loads(line))]
        checkpoint.write_text_atomic(log, "".join(kept))

    def _is_past(self, row: dict[str, Any]) -> bool:
        return row["stage"] != self.stage or row["step"] <= self.step


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m cls_rl.pretrain", description="Make the small model.")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an unfinished run there goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", choices=PRESETS, default="full", help="full: about an hour on one core")
    args = parser.parse_args(argv)
    recipe = PRESETS[args.preset]
    gpu.keep_buffers()
    try:
        pretrain(Recipe(**{**vars(recipe), "seed": args.seed}), args.out)
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def pretrain(recipe: Recipe, out: Path) -> Path:
    """All stages; the model's folder, `out`/model.

    ValueError if `out` holds a run of another recipe; RuntimeError with the command if there are no drawings.
    """
    _claim(out, recipe)
    if checkpoint.problem(out / "model") is None:
        print(f"{out / 'model'} is finished")
        return out / "model"
    sets = {name: data_sets.class_names(name) for name in recipe.sets}
    classes = sorted({name for names in sets.values() for name in names})
    chosen = [d for d in drawings.drawings() if d.use == "pretrain"]
    if recipe.only_sets:
        chosen = [d for d in chosen if d.name in classes]
    pictures = load_pictures(recipe.model.side, chosen)
    print(f"to resume after a stop: the same command, with --out {out}")
    print(
        f"{len(chosen)} drawings of {len(pictures.names)} concepts, {len(classes)} of them classes",
        flush=True,
    )
    tokenizer = build_tokenizer(
        pretrain_text.tokenizer_texts(pictures.names, classes), recipe.model.vocabulary
    )
    processor = build_processor(tokenizer, recipe.model.patch, recipe.model.merge, recipe.model.side)
    model: Any = build_model(recipe.model, tokenizer, derive_seed(recipe.seed, "weights"))
    bundle = Bundle(model, processor, recipe.model.side)
    name_ids: list[list[int]] = tokenizer(pictures.names)["input_ids"]
    head = NameHead(name_ids, model.get_input_embeddings())
    names = set(classes)
    weights = [recipe.class_weight if d.name in names else 1.0 for d in chosen]
    learn_to_see(recipe, out, model, head, pictures, torch.tensor(weights))
    if (share := held_out_accuracy(recipe, model, head, pictures.names)) is not None:
        print(f"few-shot families, the best of the set's names: {share:.3f} right", flush=True)
    groups = {d.name: d.group for d in chosen}
    known = pretrain_text.concepts(groups, sets)
    features, seen = cached_features(recipe, model, pictures)
    cumulative = torch.tensor(weights).cumsum(0).tolist()
    corpus = Corpus([known[d.name] for d in chosen], seen, features, cumulative, pictures.names)
    learn_to_read(recipe, out, bundle, head, corpus, "language")
    learn_to_read(recipe, out, bundle, head, corpus, "choosing")
    save(bundle, out / "model")
    shutil.rmtree(out / "unfinished", ignore_errors=True)
    print(f"wrote {out / 'model'}; next: python -m cls_rl.gate {out / 'model'}")
    return out / "model"


def learn_to_see(
    recipe: Recipe, out: Path, model: Any, head: NameHead, pictures: Pictures, weights: Tensor
) -> None:
    """Stage 1: cross-entropy over all concepts' names, and of the words in them."""
    visual, size = model.model.visual, recipe.model
    parameters = [*visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, recipe.vision_lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    run = Run(out, "vision", model, head, optimizer, recipe.vision_steps)

    def loss(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "vision", step))
        index = torch.multinomial(weights, recipe.vision_batch, replacement=True, generator=generator)
        picture = patches(augment(pictures.rgba[index], generator), size.patch, size.merge)
        features, concepts = image_features(visual, picture), pictures.concepts[index]
        logits = head(features)
        named = F.cross_entropy(logits, concepts, label_smoothing=0.05)
        accuracy = (logits.argmax(-1) == concepts).float().mean()
        return named + 0.5 * head.word_loss(features, concepts), accuracy

    _train(run, recipe, recipe.vision_lr, parameters, loss)


@torch.no_grad()
def held_out_accuracy(recipe: Recipe, model: Any, head: NameHead, names: list[str]) -> float | None:
    """Share of the few-shot families' drawings whose own name is the nearest of their set's names: how far
    the tower carries over to other vendors. None where the store has none."""
    number = {name: i for i, name in enumerate(names)}
    hits: list[bool] = []
    for data_set in recipe.sets:
        items = [i for i in data_sets.load(data_set, copies=2) if i.side == "train"]
        classes = sorted({number[item.label] for item in items})
        for first in range(0, len(items), 128):
            part = items[first : first + 128]
            shown = [np.asarray(data_sets.picture(i.image, recipe.model.side)) for i in part]
            picture = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2) / 255
            patched = patches(picture, recipe.model.patch, recipe.model.merge)
            nearest = head(image_features(model.model.visual, patched))[:, classes].argmax(-1)
            hits += [classes[n] == number[i.label] for n, i in zip(nearest.tolist(), part, strict=True)]
    return sum(hits) / len(hits) if hits else None


@torch.no_grad()
def cached_features(
    recipe: Recipe, model: Any, pictures: Pictures
) -> tuple[Tensor, list[list[tuple[str, ...]]]]:
    """(views, N, T, hidden) features of augmented drawings by the frozen tower, and the colours of each."""
    features: list[Tensor] = []
    seen: list[list[tuple[str, ...]]] = []
    for view in range(recipe.views):
        generator = torch.Generator().manual_seed(derive_seed(recipe.seed, "view", view))
        parts: list[Tensor] = []
        words: list[tuple[str, ...]] = []
        for first in range(0, len(pictures.rgba), 256):
            picture = augment(pictures.rgba[first : first + 256], generator)
            words += colours(picture)
            size = recipe.model
            parts.append(image_features(model.model.visual, patches(picture, size.patch, size.merge)))
        features.append(torch.cat(parts))
        seen.append(words)
    return torch.stack(features), seen


def learn_to_read(
    recipe: Recipe,
    out: Path,
    bundle: Bundle,
    head: NameHead,
    corpus: Corpus,
    stage: Literal["language", "choosing"],
) -> None:
    """Stages 2 and 3, or 4: the language model alone learns to reply; `out`/unfinished can be tried."""
    model, choosing = bundle.model, stage == "choosing"
    steps = recipe.choosing_steps if choosing else recipe.language_steps
    peak_lr = recipe.choosing_lr if choosing else recipe.language_lr
    parameters = list(model.model.language_model.parameters())
    optimizer = torch.optim.AdamW(parameters, peak_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    run = Run(out, stage, model, head, optimizer, steps)
    drawn: dict[int, list[pretrain_language.Batch]] = {}

    def loss(step: int) -> tuple[Tensor, Tensor]:
        number, place = divmod(step, pretrain_language.CHUNK)
        if step and step % recipe.save_every == 0:
            save(bundle, out / "unfinished")
        if number not in drawn:
            drawn.clear()
            progress = 1.0 if choosing else number * pretrain_language.CHUNK / steps
            drawn[number] = pretrain_language.chunk(
                bundle.processor, corpus, recipe.language_batch, progress, recipe.seed, number, choosing
            )
        return pretrain_language.reply_loss(model, drawn[number][place])

    _train(run, recipe, peak_lr, parameters, loss)


def _train(
    run: Run,
    recipe: Recipe,
    peak_lr: float,
    parameters: Sequence[Tensor],
    loss_at: Callable[[int], tuple[Tensor, Tensor]],
) -> None:
    """AdamW with warm-up and cosine decay to `run.steps`, gradient norm at most 1; saves and logs."""
    run.restore()
    if run.step:
        print(f"{run.stage}: going on at step {run.step} of {run.steps}", flush=True)
    first, started, cpu, recent = run.step, time.monotonic(), time.process_time() - run.cpu_s, []
    while run.step < run.steps:
        share = run.step / run.steps
        lr = peak_lr * min(1.0, (run.step + 1) / (0.03 * run.steps)) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        loss, accuracy = loss_at(run.step)
        if not torch.isfinite(loss):
            raise ValueError(
                f"{run.stage} step {run.step}: the loss is {loss.item()}; lower the learning rate"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        run.optimizer.step()
        run.optimizer.zero_grad()
        run.step += 1
        recent.append((loss.item(), accuracy.item()))
        run.cpu_s = time.process_time() - cpu
        if run.step % EVERY == 0 or run.step == run.steps:
            means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
            row = {"stage": run.stage, "step": run.step, "loss": means[0], "accuracy": means[1], "lr": lr}
            with open(run.folder / "metrics.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps({**row, "cpu_s": round(run.cpu_s, 1)}) + "\n")
            left = (time.monotonic() - started) / (run.step - first) * (run.steps - run.step) / 60
            print(
                f"{run.stage} {run.step}/{run.steps}  loss {means[0]:.3f}  accuracy {means[1]:.2f}  "
                f"{run.cpu_s:.0f} CPU s, {left:.1f} min left in this stage",
                flush=True,
            )
            recent = []
        if run.step % recipe.save_every == 0 or run.step == run.steps:
            run.save()


def _claim(out: Path, recipe: Recipe) -> None:
    """Write the recipe into `out`, or check that the one there is equal."""
    path, wanted = out / "recipe.json", checkpoint.plain(asdict(recipe))
    if path.is_file():
        if json.loads(path.read_text()) != wanted:
            raise ValueError(f"{out} holds a run of another recipe; choose another --out or delete it")
        return
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json_atomic(path, wanted)
    checkpoint.write_json_atomic(out / "environment.json", runs.environment())


if __name__ == "__main__":
    main()
