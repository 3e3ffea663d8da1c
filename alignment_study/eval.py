"""Evaluate a model on every task of a config; never trains.

    python eval.py runs/small-seed0/aligned                     # the final model of a run, its own settings
    python eval.py MODEL --preset paper --data.data-dir DIR     # any folder or hub id

One row per item goes to evaluations/TASK-stepK.csv.gz, from here in reevaluated/: everything in tables and
figures is made of these rows. A failed grading counts nowhere: `n` is how many samples of the item were
graded.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from alignment_study import base_models, data, sampling
from alignment_study.config import PRESETS, Config
from alignment_study.pass_at_k import VERDICT_K, pass_at_k
from alignment_study.sampling import Sample
from alignment_study.tasks import Task
from shared import config, rollouts, stats
from shared.seeding import derive_seed

FOLDER = "evaluations"
COLUMNS = ("item", "subtask", "n", "strict", "formatted", "lenient")


@dataclass(frozen=True)
class Row:
    """One item: of `n` graded samples, how many were right, in the right form, leniently right."""

    item: str
    subtask: str
    n: int
    strict: int
    formatted: int
    lenient: int


Evaluations = dict[str, dict[int, list[Row]]]  # task -> step -> rows


def evaluate(model: Any, tokenizer: Any, task: Task, cfg: Config, title: str | None = None) -> list[Row]:
    """Every item of `task`, `eval.samples` answers each; the same random numbers at every step."""
    groups = sampling.sample(
        rollouts.unwrap(model),
        tokenizer,
        task,
        samples=cfg.eval.samples,
        temperature=cfg.eval.temperature,
        top_p=cfg.eval.top_p,
        seed=derive_seed(cfg.run.seed, "evaluate"),
        title=title,
    )
    return [row_of(group) for group in groups]


def row_of(group: Sequence[Sample]) -> Row:
    """The counts of one item's samples."""
    graded = [s for s in group if s.strict is not None]
    counts = (sum(bool(getattr(s, name)) for s in graded) for name in ("strict", "formatted", "lenient"))
    return Row(group[0].problem, group[0].subtask, len(graded), *counts)


def evaluate_at(
    model: Any, tokenizer: Any, tasks: Mapping[str, Task], cfg: Config, folder: Path, step: int
) -> None:
    """Every task at a step into `folder`/evaluations; what an earlier start of the run has written stays."""
    for name, task in tasks.items():
        path = path_of(folder, name, step)
        if not path.exists():
            write_rows(evaluate(model, tokenizer, task, cfg, f"evaluating {name} at step {step}"), path)


def path_of(folder: Path, task: str, step: int) -> Path:
    return folder / FOLDER / f"{data.slug(task)}-step{step}.csv.gz"


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Compressed, whole or not at all, the same bytes for the same rows."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.tmp")
    part.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    os.replace(part, path)


def read_rows(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return [
            Row(r["item"], r["subtask"], *(int(r[name]) for name in COLUMNS[2:]))
            for r in csv.DictReader(lines)
        ]


def read_all(folder: Path, tasks: Sequence[str]) -> Evaluations:
    """What was measured in a run, by task and step in increasing order."""
    found: Evaluations = {}
    for name in tasks:
        paths = (folder / FOLDER).glob(f"{data.slug(name)}-step*.csv.gz")
        steps = {int(path.name.removesuffix(".csv.gz").rpartition("-step")[2]): path for path in paths}
        found[name] = {step: read_rows(steps[step]) for step in sorted(steps)}
    return found


# ---- numbers

Bounds = tuple[float, float, float]  # estimate, low, high: 95 % over items
UNKNOWN: Bounds = (float("nan"), float("nan"), float("nan"))


def shares(rows: Sequence[Row], what: str = "strict") -> np.ndarray:
    """(items,) share of each item's samples; `pass16` is the unbiased pass@16. NaN: too few graded."""
    if what == "pass16":
        return np.array([pass_at_k(r.n, r.strict, VERDICT_K) if r.n >= VERDICT_K else np.nan for r in rows])
    return np.array([getattr(r, what) / r.n if r.n else np.nan for r in rows])


def bounds(rows: Sequence[Row], what: str = "strict") -> Bounds:
    """Mean over items with its bootstrap interval; NaN if no item has the samples it needs."""
    values = shares(rows, what)
    known = values[~np.isnan(values)]
    return stats.bootstrap(known) if len(known) else UNKNOWN


def gain(before: Sequence[Row], after: Sequence[Row]) -> Bounds:
    """Change of the strict accuracy, items paired."""
    by_item = {r.item: r for r in before if r.n}
    pairs = [(by_item[r.item], r) for r in after if r.n and r.item in by_item]
    old, new = (shares([pair[i] for pair in pairs]) for i in (0, 1))
    return stats.paired_bootstrap(new, old) if len(pairs) else UNKNOWN


def metrics(found: Evaluations) -> dict[str, dict[str, dict[str, float]]]:
    """For the manifest: {task: {step: {strict, formatted, lenient, pass16}}}."""
    names = {"strict": "strict", "format": "formatted", "lenient": "lenient", "pass16": "pass16"}
    return {
        task: {
            str(step): {name: bounds(rows, what)[0] for name, what in names.items()}
            for step, rows in steps.items()
        }
        for task, steps in found.items()
    }


def print_table(found: Evaluations) -> None:
    """Each task's last measurement."""
    table = Table(title="[95 % over problems]")
    for column in ("task", "step", "pass@1", "pass@16", "right form", "lenient"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, steps in found.items():
        step = max(steps)
        cells = [show(bounds(steps[step], what)) for what in ("strict", "pass16", "formatted", "lenient")]
        table.add_row(task, str(step), *cells)
    Console(width=None if Console().is_terminal else 110).print(table)


def show(value: Bounds, sign: str = "") -> str:
    """`0.312 [0.280, 0.344]`, or a dash where there is no value."""
    if value[0] != value[0]:
        return "-"
    return f"{value[0]:{sign}.3f} [{value[1]:{sign}.3f}, {value[2]:{sign}.3f}]"


def main(args: Sequence[str]) -> None:
    """Evaluate `args[0]`, a model or a run's folder; further words are config fields."""
    place = Path(args[0]).expanduser()
    model_at = str(place / "model") if (place / "model").is_dir() else args[0]
    own = next((f / "config.json" for f in (place, place.parent) if (f / "config.json").is_file()), None)
    settings = json.loads(own.read_text(encoding="utf-8")) if own else {}
    front = [] if "algo" not in settings or {"--preset", "--config"} & {*args} else ["--config", str(own)]
    cfg = config.parse(Config, PRESETS, default="small", args=[*front, *args[1:]])
    try:
        tasks = data.evaluation_tasks(cfg)
        model, tokenizer = base_models.load(cfg, model_at)
    except (ValueError, OSError) as error:
        config.refuse(str(error))
    out = (place if place.is_dir() else base_models.BASES / f"eval-{place.name}") / "reevaluated"
    found: Evaluations = {}
    for name, task in tasks.items():
        rows = evaluate(model, tokenizer, task, cfg, f"evaluating {name}")
        write_rows(rows, path_of(out, name, cfg.algo.steps))
        found[name] = {cfg.algo.steps: rows}
    print_table(found)
    print(f"one row per item: {out / FOLDER}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m alignment_study.eval MODEL_OR_RUN [--preset NAME] [--eval.samples N]")
    main(sys.argv[1:])
