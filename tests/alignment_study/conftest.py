"""Synthetic outcomes of the study: what every cell's accuracy is, is said; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignment_study import evidence, resampling
from alignment_study.arms import TRAINED, Job
from alignment_study.evidence import ROLES, Evidence, Example, Items, Key, Run

ROLE = {"M": "aligned", "G": "transfer", "L": "weak"}
BASE = {"M": 0.32, "G": 0.31, "L": 0.02}  # pass@16 1, 1 and 0.32
FULL = {"M": 0.92, "L": 0.52, "G|L": 0.71}  # of ground truth: gains of 0.6, 0.5 and 0.4
Rate = float | tuple[float, ...]  # of all seeds, or of each


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times faster; no outcome in the tests hangs on the third digit of an interval."""
    monkeypatch.setattr(resampling, "RESAMPLES", 200)


def items(rate: float, count: int = 128, samples: int = 16, form: float = 0.5) -> Items:
    """Right answers spread as evenly as can be: `rate` of all samples, the same for every draw of items but
    for the remainder, which the first items have."""
    total, index = round(rate * samples * count), np.arange(count)
    strict = total // count + (index < total % count)
    ids = tuple(f"item {i:03}" for i in range(count))
    formed = np.maximum(strict, round(form * samples))
    subtasks = tuple(f"+{i % 5}" for i in range(count))
    return Items(ids, subtasks, np.full(count, samples), strict, formed, strict)


def run(
    trained: str,
    found: Mapping[str, float],
    middle: Mapping[str, float],
    base: Mapping[str, float],
    **size: int,
) -> Run:
    """Steps 0, 10 and 20 of one run; `found` and `middle` by cell, those not named stay at the base."""
    measured = {}
    for letter, role in ROLE.items():
        cell = letter if role == trained else f"{letter}|{'M' if trained == 'aligned' else 'L'}"
        rates = [base[letter], middle.get(cell, found.get(cell, base[letter])), found.get(cell, base[letter])]
        for step, rate in zip((0, 10, 20), rates, strict=True):
            measured[role, step] = items(rate, **size)
    return Run(measured)  # type: ignore[arg-type]


def world(
    name: str = "one",
    seeds: int = 3,
    base: Mapping[str, float] = BASE,
    middle: Mapping[str, Mapping[str, float]] | None = None,
    size: Mapping[str, int] | None = None,
    **variants: Mapping[str, Rate],
) -> Evidence:
    """Evidence of one world: ground truth as FULL unless given, and what `variants` say by cell."""
    evidence = Evidence()
    for variant, cells in {"ground_truth": FULL, **variants}.items():
        for seed in range(1, seeds + 1):
            rates = {c: r[seed - 1] if isinstance(r, tuple) else r for c, r in cells.items()}
            for trained in TRAINED:
                made = run(trained, rates, (middle or {}).get(variant, {}), base, **(size or {}))
                evidence.runs[Key(name, trained, variant, seed)] = made
    return evidence


def change(e: Evidence, variant: str, trained: str | None = None, **fields: Any) -> None:
    """Replace fields of the runs of a variant; a callable gets the seed."""
    for key, found in e.runs.items():
        if key.variant == variant and trained in (None, key.trained):
            values = {k: v(key.seed) if callable(v) else v for k, v in fields.items()}
            e.runs[key] = replace(found, **values)


def curve(name: str, *values: float) -> dict[str, dict[int, float]]:
    return {name: {10 * i + 1: value for i, value in enumerate(values)}}


def example(accuracy: float, subtask: str = "+0") -> Example:
    return Example(f"caesar/{subtask}/abc", subtask, accuracy)


def gate() -> dict[str, Any]:
    shares = {"aligned_pass16": 0.99, "weak_pass1": 0.021, "weak_pass16": 0.28, "transfer": {"pass16": 0.98}}
    return {"step": 425, "weak_subtasks": {"+3": 0.02, "+7": 0.01, "+4": 0.03, "+6": 0.0, "+9": 0.0}} | shares


def record(folder: Path, file: str, dirty: bool = False, **fields: Any) -> None:
    """One line of a results file."""
    line = {"preset": "small", "scale": "small", "commit": "0123456789abcdef", "dirty": dirty, "n": 2048}
    line |= {"config_hash": "abc", "versions": {}, "hardware": "a machine, 2 cores", "wall_s": 12.3}
    line |= {"metrics": {}, "command": "cd alignment_study && python train.py"}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / file).open("a") as lines:
        lines.write(json.dumps(line | fields) + "\n")


def write(e: Evidence, results: Path, job_of: Callable[[Key], Job], dirty: bool = False) -> None:
    """Evidence as a results folder; gates too."""
    for key, found in e.runs.items():
        job = job_of(key)
        items_file, curves = f"items/{job.name}.csv.gz", f"curves/{job.name}.jsonl"
        evidence.write_items(found.items, results / items_file)
        (results / "curves").mkdir(exist_ok=True)
        steps = sorted({step for c in found.curves.values() for step in c})
        lines = [{"step": s} | {k: c[s] for k, c in found.curves.items() if s in c} for s in steps]
        (results / curves).write_text("".join(json.dumps(line) + "\n" for line in lines))
        where = {"world": job.world, "trained": key.trained, "variant": key.variant, "start": job.start}
        point = list(found.example) if found.example else None
        where |= {"items": items_file, "curves": curves, "example": point}
        record(results, "runs.jsonl", dirty, row=job.row, seed=key.seed, **where)
    for (of, seed), found_gate in e.gates.items():
        named = {"row": f"alignment_study/{of}/base", "seed": seed, "world": of, "gate": found_gate}
        record(results, "gates.jsonl", **named)


@pytest.fixture
def study() -> SimpleNamespace:
    """The functions of this file."""
    names = {"items": items, "run": run, "world": world, "change": change, "curve": curve, "example": example}
    names |= {"gate": gate, "record": record, "write": write, "BASE": BASE, "FULL": FULL, "ROLES": ROLES}
    return SimpleNamespace(**names)
