"""A run's data: training queries and test sets of one data set, whatever its source, and their encoding."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cls_rl import data_sets, encoding, folders, hub_sets, images
from cls_rl.config import Data
from cls_rl.encoding import Encoded
from cls_rl.model import Bundle
from cls_rl.prompts import QUESTION, Wording, user_text
from cls_rl.rewards import Method, class_name
from cls_rl.splits import BASE_NEW_SHARE, FEW_SHOT_SHARE, Example, base_new, split

KEPT_BYTES = 2**28  # encoded prompts that stay in memory, per set of queries


@dataclass(frozen=True)
class Query:
    """One image to classify; without options the question is the whole problem (hub's training rows)."""

    image: str
    label: str
    options: tuple[str, ...]
    question: str


@dataclass(frozen=True)
class Task:
    """A data set in one setting; `picture(image, side)` gives RGB pixels, side x side."""

    name: str
    train: list[Query]
    tests: dict[str, list[Query]]  # the set's name, or "base" and "new"
    picture: Callable[[str, int], Image.Image]


def load_task(cfg: Data, seed: int) -> Task:
    """The task of a config; the split and its lists are a function of the seed (hub: LIST_SEED).

    ValueError or RuntimeError, one sentence, for what `splits.split`, `folders` and `hub_sets` refuse.
    """
    if cfg.source == "folder":
        return _folder_task(Path(cfg.set))
    if cfg.source == "hub":
        return _hub_task(cfg)
    result = split({cfg.set: data_sets.load(cfg.set, cfg.copies)}, cfg.set, cfg.setting, cfg.shots, seed)
    ask = partial(_query, question=data_sets.QUESTIONS.get(cfg.set, QUESTION))
    tests = {name: [ask(e) for e in examples] for name, examples in result.tests.items()}
    return Task(cfg.set, [ask(e) for e in result.train], tests, data_sets.picture)


def _query(example: Example, question: str) -> Query:
    return Query(example.item.image, example.item.label, example.options, question)


def _folder_task(folder: Path) -> Task:
    card = folder / "split.json"
    if not card.is_file():
        raise ValueError(f"{folder} holds no split.json; make it with python -m cls_rl.folders")
    names = json.loads(card.read_text(encoding="utf-8"))["tests"]
    tests = {name: [_query(e, QUESTION) for e in folders.read_split(folder, name)] for name in names}
    train = [_query(e, QUESTION) for e in folders.read_split(folder, "train")]
    return Task(folder.name, train, tests, _file_picture)


def _hub_task(cfg: Data) -> Task:
    if not cfg.data_dir:
        raise ValueError(
            "data.data_dir is not set; it holds the raw test images and their listings, see the README"
        )
    listing = Path(cfg.data_dir) / f"{cfg.set}.jsonl"
    if not listing.is_file():
        raise ValueError(
            f"{listing}: no such file; it lists {{image, label, split}} per line, see the README"
        )
    with listing.open(encoding="utf-8") as lines:
        names = sorted({json.loads(line)["label"] for line in lines})
    rows = hub_sets.training_set(cfg.set, cfg.setting)
    train = [
        Query(f"{i}", class_name(row), (), problem)
        for i, (row, problem) in enumerate(zip(rows["solution"], rows["problem"], strict=True))
    ]
    cells, share = {cfg.set: names}, FEW_SHOT_SHARE
    if cfg.setting == "base_to_new":
        cells, share = _hub_halves(cfg.set, names, {query.label for query in train}), BASE_NEW_SHARE
    tests = {
        cell: [
            Query(str(e.image), e.label, e.options, hub_sets.question(cfg.set))
            for e in hub_sets.evaluation_examples(cfg.set, cfg.data_dir, half, share)
        ]
        for cell, half in cells.items()
    }

    def picture(image: str, side: int) -> Image.Image:
        if image.isdecimal():  # a row of the training set
            return images.fixed_size(rows[int(image)]["image"].convert("RGB"), side)
        return _file_picture(image, side)

    return Task(cfg.set, train, tests, picture)


def _hub_halves(name: str, names: Sequence[str], trained: set[str]) -> dict[str, list[str]]:
    """The base classes are those of the authors' training rows: they cut sorted label *numbers*, whose order
    need not be that of the names. ValueError where the rows are not half of the listing's classes."""
    if unknown := sorted(trained - set(names)):
        raise ValueError(
            f"{name}: the listing of test images lacks the training classes {', '.join(unknown[:5])}"
        )
    if len(trained) != (half := len(base_new(names)[0])):
        raise ValueError(
            f"{name}: {len(trained)} training classes are not the base half ({half}) of {len(names)} classes"
        )
    return {"base": sorted(trained), "new": sorted(set(names) - trained)}


def _file_picture(image: str, side: int) -> Image.Image:
    return images.fixed_size(images.load_rgb(image, side).image, side)


def evenly(queries: Sequence[Query], count: int | None) -> list[Query]:
    """`count` of the queries, evenly over their order; None is all of them."""
    if count is None or count >= len(queries):
        return list(queries)
    return [queries[int(i)] for i in np.linspace(0, len(queries) - 1, count)]


class Prompts:
    """Queries as encoded prompts of one method; small pictures are encoded once and kept."""

    def __init__(
        self,
        queries: Sequence[Query],
        picture: Callable[[str, int], Image.Image],
        bundle: Bundle,
        method: Method,
        wording: Wording = "training",
        max_tokens: int | None = None,
    ) -> None:
        self.queries, self.picture, self.bundle = list(queries), picture, bundle
        self.method: Method = method
        self.wording: Wording = wording
        self.max_tokens = max_tokens
        self._kept: dict[int, Encoded] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.queries)

    def encode(self, rows: Sequence[int]) -> list[Encoded]:
        """The prompts of these rows, in this order."""
        missing = [row for row in dict.fromkeys(rows) if row not in self._kept]
        found = dict(self._kept)
        if missing:
            queries = [self.queries[row] for row in missing]
            users = [user_text(self.method, q.options, q.question, self.wording) for q in queries]
            texts = [encoding.render(self.bundle.processor, user) for user in users]
            pictures = [self.picture(q.image, self.bundle.side) for q in queries]
            made = encoding.encode(self.bundle.processor, texts, pictures, self.max_tokens)
            found |= dict(zip(missing, made, strict=True))
            self._bytes += sum(prompt.pixels.nbytes for prompt in made)
            if self._bytes <= KEPT_BYTES:
                self._kept = found
        return [found[row] for row in rows]


def image_tokens(prompt: Encoded, processor: Any) -> int:
    """Language-model tokens of the prompt's picture."""
    return prompt.ids.count(processor.image_token_id)
