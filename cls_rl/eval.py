"""Evaluate a checkpoint: greedy answers, three matchers side by side, one record per image; never trains.

    python -m cls_rl.eval runs/small-seed0              # the run's own data set and method
    python -m cls_rl.eval shipped --data.set food       # a checkpoint on another set (transfer)

`substring` is the paper's rule; a reply that lists every option is right under it: these are counted.
H is the harmonic mean of base and new accuracy (CoCoOp).
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import transformers
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cls_rl import data, rollouts
from cls_rl.config import PRESETS, SHIPPED, Config
from cls_rl.data import Prompts, Task
from cls_rl.grading import Consistency, Grade, grade, harmonic_mean, summarise
from cls_rl.model import SHIPPED as SHIPPED_FOLDER
from cls_rl.model import Bundle, load
from cls_rl.prompts import EMPTY_THOUGHT
from shared import config, gpu, stats
from shared.decoding import unwrap
from shared.rollouts import Sampling

BATCH = 128  # images encoded and answered at once


@dataclass(frozen=True)
class Record:
    """One test image's reply under every matcher; `length` counts tokens, the end token included."""

    test: str  # "base", "new" or a data set's name
    image: str
    label: str
    answer: str
    exact: bool
    substring: bool
    in_list: bool
    lists_all: bool
    consistency: Consistency
    length: int
    truncated: bool
    text: str


def evaluate(bundle: Bundle, task: Task, cfg: Config, count: int | None = None) -> list[Record]:
    """Greedy replies to every test set of the task (`count` images of each, default `eval.images`)."""
    records: list[Record] = []
    for name, queries in task.tests.items():
        chosen = data.evenly(queries, count or cfg.eval.images)
        prompts = Prompts(
            chosen, task.picture, bundle, cfg.algo.method, cfg.eval.wording, cfg.max_prompt_tokens
        )
        starts = range(0, len(chosen), BATCH)
        bar = Console(stderr=True)
        for first in track(starts, f"{name}", console=bar, disable=not sys.stderr.isatty()):
            rows = range(first, min(first + BATCH, len(chosen)))
            records += _answer(bundle, prompts, name, rows, cfg)
    return records


def _answer(bundle: Bundle, prompts: Prompts, test: str, rows: range, cfg: Config) -> list[Record]:
    prefix = EMPTY_THOUGHT if cfg.eval.empty_thought else ""
    drawn = rollouts.generate(
        bundle.model,
        bundle.tokenizer,
        prompts.encode(rows),
        sampling=Sampling(cfg.algo.max_completion_tokens, temperature=0),
        forced_prefix=prefix,
    )
    texts = bundle.tokenizer.batch_decode(drawn.completion_ids, skip_special_tokens=True)
    records = []
    for row, text, ids, ended in zip(rows, texts, drawn.completion_ids, drawn.finished, strict=True):
        query = prompts.queries[row]
        found = grade(prefix + text, query.label, query.options)
        records.append(
            Record(
                test,
                query.image,
                query.label,
                **asdict(found),
                length=len(ids),
                truncated=not ended,
                text=text,
            )
        )
    return records


def summary(records: Sequence[Record]) -> dict[str, float]:
    """Flat metrics `<test>/<name>`: the shares of `grading.summarise`, length, truncation, and `H/<rule>`."""
    found: dict[str, float] = {}
    for test, cell in by_test(records).items():
        grades = [Grade(**{field.name: getattr(r, field.name) for field in fields(Grade)}) for r in cell]
        shares = summarise(grades)
        shares["length"] = sum(r.length for r in cell) / len(cell)
        shares["truncated"] = sum(r.truncated for r in cell) / len(cell)
        shares["exact_low"], shares["exact_high"] = stats.wilson(sum(r.exact for r in cell), len(cell))
        found |= {f"{test}/{name}": value for name, value in shares.items()}
    if {"base", "new"} <= by_test(records).keys():
        for rule in ("exact", "substring"):
            found[f"H/{rule}"] = harmonic_mean(found[f"base/{rule}"], found[f"new/{rule}"])
    return found


def by_test(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records per test set, in the order they came."""
    cells: dict[str, list[Record]] = {}
    for record in records:
        cells.setdefault(record.test, []).append(record)
    return cells


def evaluate_once(bundle: Bundle, task: Task, cfg: Config, path: Path) -> list[Record]:
    """`evaluate`, or what an earlier start of the same run has already written to `path`."""
    if not path.exists():
        save_records(evaluate(bundle, task, cfg), path)
    return load_records(path)


def save_records(records: Sequence[Record], path: Path) -> None:
    """A row per image as gzipped CSV, the same bytes for the same records; all of it or nothing."""
    text = io.StringIO()
    names = [field.name for field in fields(Record)]
    # quotes everywhere: a reply may hold a bare carriage return
    writer = csv.DictWriter(text, names, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({k: int(v) if isinstance(v, bool) else v for k, v in asdict(r).items()} for r in records)
    part = path.with_name(f".{path.name}.tmp")
    part.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    os.replace(part, path)


def load_records(path: Path) -> list[Record]:
    """What `save_records` wrote."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return [
            Record(**{name: _typed(name, value) for name, value in row.items()})
            for row in csv.DictReader(lines)
        ]


def _typed(name: str, value: str) -> Any:
    if name in ("exact", "substring", "in_list", "lists_all", "truncated"):
        return value == "1"
    return int(value) if name == "length" else value


def curve_point(bundle: Bundle, task: Task, cfg: Config) -> dict[str, float]:
    """`test/<name>/...` of a few images per test set, for the learning curve."""
    policy = replace(bundle, model=unwrap(bundle.model))
    found = summary(evaluate(policy, task, cfg, count=cfg.eval.curve_images))
    kept = ("exact", "substring", "in_list", "length")
    return {f"test/{name}": value for name, value in found.items() if name.rpartition("/")[2] in kept}


def print_table(before: Sequence[Record] | None, after: Sequence[Record]) -> None:
    """Every matcher per test set in per cent, before and after, and the harmonic mean of base and new."""
    table = Table(title="greedy accuracy, % [95 % interval]; H: harmonic mean of base and new", box=SIMPLE)
    for column in ("test set", "images", "tuning", "exact", "substring", "in list", "length"):
        table.add_column(column, justify="left" if column in ("test set", "tuning") else "right")
    stages = {"before": summary(before), "after": summary(after)} if before else {"": summary(after)}
    for test in by_test(after):
        for stage, found in stages.items():
            exact, low, high = (
                100 * found[f"{test}/{name}"] for name in ("exact", "exact_low", "exact_high")
            )
            rest = [f"{100 * found[f'{test}/{rule}']:.1f}" for rule in ("substring", "in_list")]
            cells = [f"{exact:.1f} [{low:.1f}, {high:.1f}]", *rest, f"{found[f'{test}/length']:.1f}"]
            table.add_row(test, f"{found[f'{test}/n']:.0f}", stage, *cells)
    for stage, found in stages.items():
        if "H/exact" in found:
            cells = [f"{100 * found[f'H/{rule}']:.1f}" for rule in ("exact", "substring")]
            table.add_row("H", "", stage, *cells, "", "")
    Console().print(table)
    listed = sum(r.lists_all for r in after)
    print(f"replies that list every option: {listed} of {len(after)}")


def load_bundle(cfg: Config) -> Bundle:
    """The policy of the config, on this process's device."""
    name = SHIPPED_FOLDER if cfg.model.name == SHIPPED else cfg.model.name
    revision = None if Path(name).is_dir() else cfg.model.revision
    limits = cfg.model.min_pixels, cfg.model.max_pixels
    bundle = load(name, cfg.model.side, *limits, revision=revision)
    return replace(bundle, model=bundle.model.to(gpu.device()))


def main(arguments: Sequence[str]) -> None:
    """Evaluate a run folder, a checkpoint or `shipped`; prints the table and writes the records into it."""
    name, *options = arguments
    run = Path(name, "model").is_dir() and Path(name, "config.json").is_file()
    if run and not any(word.split("=")[0] in ("--preset", "--config") for word in options):
        options = ["--config", str(Path(name, "config.json")), *options]
    cfg = config.parse(Config, PRESETS, default="small", args=options)
    cfg = replace(cfg, model=replace(cfg.model, name=str(Path(name, "model")) if run else name))
    transformers.utils.logging.disable_progress_bar()  # one per file
    task = data.load_task(cfg.data, cfg.run.seed)
    bundle = load_bundle(cfg)
    began = time.perf_counter()
    records = evaluate(bundle, task, cfg)
    seconds = time.perf_counter() - began
    print_table(None, records)
    print(f"{len(records)} images in {seconds:.1f} s, {len(records) / seconds:.0f} per second")
    if Path(cfg.model.name).is_dir():
        path = Path(cfg.model.name, f"records-{task.name}-{cfg.data.setting}-{cfg.algo.method}.csv.gz")
        save_records(records, path)
        print(f"one row per image: {path}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m cls_rl.eval FOLDER|shipped|HUB_ID [--preset NAME] [--data.set NAME]")
    try:
        main(sys.argv[1:])
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
