"""What the claims rest on: every test image's outcome, kept in results/ (a few kB per run).

results/runs.jsonl    one record per run: name, configuration hash, commit, metrics, command
results/images/*.gz   set, test, image and what the reply was, under every matcher
results/curves/*.gz   what training logged per update: reward, length, time, held-out accuracy
results/sweep.jsonl   one record per learning rate tried
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cls_rl.eval import Record
from cls_rl.grading import match, thought_answer
from shared import tables

FLAGS = ("exact", "substring", "in_list", "lists_all", "named", "inconsistent", "thought", "thought_exact")
COLUMNS = ("set", "test", "image", *FLAGS, "length")
REWARDS = {"reward/accuracy": "accuracy", "reward/equality": "accuracy", "reward/format": "format"}
LOGGED = {  # of metrics.jsonl -> as kept
    **REWARDS,
    "rollout/length": "length",
    "rollout/in_list": "in_list",
    "tokens/completion": "tokens",
    "step_time": "seconds",
    "kl": "kl",
}
Curves = dict[str, dict[int, float]]  # by name and update


class Key(NamedTuple):
    """`tuned` is the set tuned on; of an untuned model the set asked about."""

    setting: str
    arm: str
    tuned: str
    test: str  # a set's name, "base" or "new"
    seed: int


class RunKey(NamedTuple):
    setting: str
    arm: str
    tuned: str
    seed: int


@dataclass(frozen=True)
class Cell:
    """I test images in the order of their names; `thought_exact`: the option that the thought names last is
    right."""

    images: tuple[str, ...]
    flags: Mapping[str, NDArray[np.bool_]]  # (I,) by name of FLAGS
    length: NDArray[np.int64]  # (I,) tokens

    def values(self, name: str) -> NDArray[np.float64]:
        """(I,) of a flag or the length; `a & b` is the product of two flags."""
        parts = name.split(" & ")
        found = [self.length if part == "length" else self.flags[part] for part in parts]
        return np.prod([part.astype(float) for part in found], axis=0)

    @cached_property
    def clusters(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Sorted drawings and (I,) which of them an image shows: renderings `vendor/code.png#copy` of one
        drawing are one cluster."""
        shown = [image.partition("#")[0] for image in self.images]
        names, rows = np.unique(shown, return_inverse=True)
        return tuple(map(str, names)), rows


@dataclass
class Evidence:
    cells: dict[Key, Cell] = field(default_factory=dict)
    curves: dict[RunKey, Curves] = field(default_factory=dict)
    wall_s: dict[RunKey, float] = field(default_factory=dict)

    def seeds(self, setting: str, tuned: str, test: str, *arms: str) -> list[int]:
        """Seeds that all of `arms` have this cell of."""
        found = [{k.seed for k in self.cells if k[:4] == (setting, arm, tuned, test)} for arm in arms]
        return sorted(set.intersection(*found))

    def runs(self, setting: str, arm: str, tuned: str) -> list[int]:
        """Seeds with curves."""
        return sorted(k.seed for k in self.curves if k[:3] == (setting, arm, tuned))


# ---- one row per image


def key_of(image: str) -> str:
    """The drawing's key without this machine's folders: `noto-v1/1f41c.png#3`."""
    path = Path(image)
    name = path.name
    if "#" in name:  # a rendering, or the file that list_lengths.py made of it
        return f"{path.parent.name}/{name.partition('#')[0]}#{name.partition('#')[2].removesuffix('.png')}"
    return f"{path.parent.name}/{name}" if path.parent.name else name


def rows_of(data_set: str, records: Sequence[Record]) -> list[list[Any]]:
    """Rows of COLUMNS. The options of a test set are its classes, as every small-scale list holds them all
    (the short lists of claim 3 are answered without a thought)."""
    names: dict[str, list[str]] = {}
    for test in dict.fromkeys(r.test for r in records):
        names[test] = sorted({r.label for r in records if r.test == test})
    rows: list[list[Any]] = []
    for r in records:
        guess = thought_answer(r.text, names[r.test])
        flags = {
            "exact": r.exact,
            "substring": r.substring,
            "in_list": r.in_list,
            "lists_all": r.lists_all,
            "named": r.consistency != "none",
            "inconsistent": r.consistency == "inconsistent",
            "thought": "<think>" in r.text,
            "thought_exact": guess is not None and match(guess, r.label, "exact"),
        }
        rows.append([data_set, r.test, key_of(r.image), *(int(flags[name]) for name in FLAGS), r.length])
    return rows


def write_images(rows: Sequence[Sequence[Any]], path: Path) -> None:
    """Compressed to the same bytes every time."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted(rows, key=_place))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def _place(row: Sequence[Any]) -> tuple[str, ...]:
    return tuple(row[:3])


def read_images(path: Path) -> dict[tuple[str, str], Cell]:
    """Cells by set and test; ValueError names an image that stands there twice."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    grouped: dict[tuple[str, str], list[list[str]]] = {}
    for row in rows:
        grouped.setdefault((row[0], row[1]), []).append(row[2:])
    return {key: cell_of(part, f"{path.name}, {'/'.join(key)}") for key, part in grouped.items()}


def cell_of(rows: Sequence[Sequence[Any]], where: str) -> Cell:
    """Rows of COLUMNS without set and test, in any order."""
    ordered = sorted(rows, key=lambda row: row[0])
    images = tuple(row[0] for row in ordered)
    if len(set(images)) < len(images):
        double = next(a for a, b in itertools.pairwise(images) if a == b)
        raise ValueError(f"{where}: image {double} stands there twice; record the run again")
    numbers = np.array([[int(value) for value in row[1:]] for row in ordered])
    flags = {name: numbers[:, i].astype(bool) for i, name in enumerate(FLAGS)}
    return Cell(images, flags, numbers[:, len(FLAGS)])


# ---- one row per update


def curves_of(metrics: Path) -> Curves:
    """What is kept of a run's metrics.jsonl, to 5 digits; of the tests `<test>/exact` and so on."""
    found: Curves = {}
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []:
        row = json.loads(line)
        for name, value in row.items():
            kept = name.removeprefix("test/") if name.startswith("test/") else LOGGED.get(name)
            if kept is not None and value is not None:
                found.setdefault(kept, {})[row["step"]] = float(f"{value:.5g}")
    return found


def write_curves(curves: Curves, path: Path) -> None:
    """Compressed to the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: curves[name] for name in sorted(curves)})
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_curves(path: Path) -> Curves:
    found = json.loads(gzip.decompress(path.read_bytes()))
    return {name: {int(step): value for step, value in curve.items()} for name, curve in found.items()}


# ---- all


def load(results: Path) -> tuple[list[dict[str, Any]], Evidence]:
    """The records that count, and what they point to. Records of a dirty tree are refused, and ValueError
    names a cell that was answered on other images than the same cell of another run."""
    records = tables.current(tables.load_records(results / "runs.jsonl"))
    tables.refuse_dirty(records)
    evidence = Evidence()
    for r in records:
        run = RunKey(r["setting"], r["arm"], r["set"], r["seed"])
        for (data_set, test), cell in read_images(results / r["images"]).items():
            tuned = data_set if r["set"] == "all" else r["set"]
            evidence.cells[Key(run.setting, run.arm, tuned, test, run.seed)] = cell
        if r["curves"]:
            evidence.curves[run] = read_curves(results / r["curves"])
            evidence.wall_s[run] = r["wall_s"]
    check_same_images(evidence)
    return records, evidence


def check_same_images(evidence: Evidence) -> None:
    """ValueError where two cells that claims compare hold different images."""
    first: dict[tuple[str, str], tuple[str, ...]] = {}
    for key, cell in evidence.cells.items():
        where = (key.tuned if key.setting == "base_to_new" else "", key.test)
        if first.setdefault(where, cell.images) != cell.images:
            raise ValueError(
                f"{'/'.join(map(str, key))} was answered on other images than the runs before it;"
                " run it again"
            )
