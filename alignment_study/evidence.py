"""What the claims rest on: every item's successes at every evaluated step, kept in results/ (kB per run).

results/runs.jsonl      one record per run: configuration hash, commit, metrics, command
results/items/*.gz      role, step, item, subtask, n, and how many were right, formatted, leniently right
results/curves/*.jsonl  what training logged per step: entropy, effective groups, gradient norm, ...
results/gates.jsonl     one record per base model: did it meet the gate, with which numbers?
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alignment_study.pass_at_k import pass_at_k
from shared import tables

Role = Literal["aligned", "transfer", "weak"]  # M, G and L of the sheet
ROLES: tuple[Role, ...] = ("aligned", "transfer", "weak")
EVALUATED = ("item", "subtask", "n", "strict", "formatted", "lenient")  # columns of `eval.py`
COLUMNS = ("role", "step", *EVALUATED)
LOGGED = (  # of metrics.jsonl, what claims and tables need
    "rollout/accuracy",
    "rollout/format",
    "rollout/entropy",
    "rollout/majority_accuracy",
    "sampling/effective_groups",
    "grad_norm",
)


@dataclass(frozen=True)
class Items:
    """I test items: how many of `n` samples each were right, in the right form, leniently right."""

    ids: tuple[str, ...]
    subtasks: tuple[str, ...]
    n: NDArray[np.int64]
    strict: NDArray[np.int64]
    formatted: NDArray[np.int64]
    lenient: NDArray[np.int64]

    def share(self, what: str = "strict") -> NDArray[np.float64]:
        """(I,) of an item's samples; `pass16` is the unbiased pass@16."""
        if what == "pass16":
            counts = zip(self.n.tolist(), self.strict.tolist(), strict=True)
            return np.array([pass_at_k(n, c, 16) for n, c in counts])
        return getattr(self, what) / self.n


class Example(NamedTuple):
    """The item of a one-shot run."""

    id: str
    subtask: str
    accuracy: float  # the base model's, over the groups of the first step


@dataclass(frozen=True)
class Run:
    items: dict[tuple[Role, int], Items]  # by role and step
    curves: dict[str, dict[int, float]] = field(default_factory=dict)  # by name and step
    example: Example | None = None

    @property
    def last(self) -> int:
        """The step that is judged."""
        return max(step for _, step in self.items)

    def steps(self, role: Role) -> list[int]:
        return sorted(step for of, step in self.items if of == role)


class Key(NamedTuple):
    world: str
    trained: Role  # on the family of this role
    variant: str
    seed: int


@dataclass
class Evidence:
    runs: dict[Key, Run] = field(default_factory=dict)
    gates: dict[tuple[str, int], dict[str, Any] | None] = field(default_factory=dict)  # None: not met
    trained: tuple[Role, ...] = ("aligned", "weak")  # families that a seed must have ground truth of

    def worlds(self) -> list[str]:
        """Those with seeds to judge."""
        return [world for world in sorted({key.world for key in self.runs}) if self.seeds(world)]

    def seeds(self, world: str) -> list[int]:
        """Seeds that have the ground-truth run of all `trained`, without which nothing can be judged."""
        found = [
            {k.seed for k in self.runs if k[:3] == (world, trained, "ground_truth")}
            for trained in self.trained
        ]
        return sorted(set.intersection(*found))

    def has(self, world: str, trained: Role, variant: str) -> bool:
        """Whether this row has a run of every seed that is judged."""
        return all(Key(world, trained, variant, seed) in self.runs for seed in self.seeds(world))

    def run(self, world: str, trained: Role, variant: str, seed: int) -> Run:
        return self.runs[Key(world, trained, variant, seed)]


def write_items(found: dict[tuple[Role, int], Items], path: Path) -> None:
    """Compressed to the same bytes every time."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (role, step), items in sorted(found.items()):
        counts = zip(items.n, items.strict, items.formatted, items.lenient, strict=True)
        for id, subtask, numbers in zip(items.ids, items.subtasks, counts, strict=True):
            writer.writerow([role, step, id, subtask, *map(int, numbers)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_items(path: Path) -> dict[tuple[Role, int], Items]:
    """By role and step, the items of each in the order of their ids.

    Raises:
        ValueError: a row without samples, or with more successes than samples.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    grouped: dict[Any, list[list[str]]] = {}
    for row in rows:
        grouped.setdefault((row["role"], int(row["step"])), []).append([row[name] for name in EVALUATED])
    return {key: items_of(part) for key, part in grouped.items()}


def items_of_file(path: Path) -> Items:
    """Of one evaluation, as `eval.py` writes it."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return items_of([row[name] for name in EVALUATED] for row in csv.DictReader(lines))


def items_of(rows: Iterable[Iterable[str]]) -> Items:
    """Items from rows of EVALUATED, in the order of their ids."""
    parts = sorted(tuple(row) for row in rows)
    counts = np.array([[int(value) for value in part[2:]] for part in parts]).reshape(-1, 4)
    for (id, *_), (n, *successes) in zip(parts, counts.tolist(), strict=True):
        if n < 1 or not all(0 <= count <= n for count in successes):
            raise ValueError(
                f"item {id} has n={n} samples and {successes} successes; need 0 <= successes <= n, n >= 1"
            )
    return Items(tuple(p[0] for p in parts), tuple(p[1] for p in parts), *counts.T)


def curve_lines(metrics: Path) -> list[str]:
    """What is kept of a run's metrics.jsonl: a JSON line per step with the LOGGED values, to 6 digits."""
    steps: dict[int, dict[str, float]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []:
        row = json.loads(line)
        kept = {name: row[name] for name in LOGGED if row.get(name) is not None}
        if kept:
            steps.setdefault(row["step"], {}).update(kept)
    rounded = {step: {k: float(f"{v:.6g}") for k, v in row.items()} for step, row in steps.items()}
    return [json.dumps({"step": step} | dict(sorted(rounded[step].items()))) for step in sorted(rounded)]


def read_curves(path: Path) -> dict[str, dict[int, float]]:
    """{name: {step: value}}; empty without a file."""
    curves: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        row = json.loads(line)
        for name in row.keys() - {"step"}:
            curves.setdefault(name, {})[row["step"]] = row[name]
    return curves


def records_of(results: Path) -> list[dict[str, Any]]:
    """The records that count; those of a dirty tree are refused."""
    records = tables.current(tables.load_records(results / "runs.jsonl"))
    tables.refuse_dirty(records)
    return records


def run_of(record: dict[str, Any], results: Path) -> Run:
    """What a record points to."""
    example = record.get("example")
    items = read_items(results / record["items"])
    return Run(items, read_curves(results / record["curves"]), Example(*example) if example else None)


def load(results: Path) -> tuple[list[dict[str, Any]], Evidence]:
    """The grid's records, and what they point to."""
    records, evidence = records_of(results), Evidence()
    for record in records:
        key = Key(record["world"], record["trained"], record["variant"], record["seed"])
        evidence.runs[key] = run_of(record, results)
    _same_items(evidence)
    gates = tables.current(tables.load_records(results / "gates.jsonl"))
    tables.refuse_dirty(gates)
    evidence.gates = {(r["world"], r["seed"]): r["gate"] for r in gates}
    return records, evidence


def _same_items(evidence: Evidence) -> None:
    """ValueError where two evaluations of a role in a world were made on different items."""
    first: dict[tuple[str, Role], tuple[str, ...]] = {}
    for key, run in evidence.runs.items():
        for (role, step), items in run.items.items():
            if first.setdefault((key.world, role), items.ids) != items.ids:
                raise ValueError(
                    f"{'/'.join(map(str, key))}: {role} at step {step} was evaluated on other items than in "
                    "the runs before it; run it again"
                )
