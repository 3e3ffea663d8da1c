"""The tables of RESULTS.md as Markdown, from evidence alone; a table without runs says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls_rl import arms, data_sets
from cls_rl.arms import (
    ABLATED,
    ABLATIONS,
    EXPLAINING,
    LIST_LENGTHS,
    MAIN,
    MAIN_SETS,
    SWEPT,
    TITLES,
    TUNED,
    ZERO,
)
from cls_rl.claims import LONGEST, Verdict
from cls_rl.evidence import Curves, Evidence, Key
from cls_rl.resampling import Array, average, harmonic, statistic
from cls_rl.rewards import Method
from cls_rl.study import FEW, NEW, TRANSFERRED, Study
from shared import tables

METHODS: tuple[Method, ...] = ("thinking", "no_thinking")
MATCHERS = {  # column -> (flag, given)
    "exact": ("exact", ""),
    "substring (the paper's)": ("substring", ""),
    "answer is in the list": ("in_list", ""),
    "exact, of those": ("exact", "in_list"),
    "names every option": ("lists_all", ""),
    "has a thought": ("thought", ""),
    "thought names another option": ("inconsistent", "named"),
}


SHOWN = 3  # statistics of a claim in the README; RESULTS.md has all


def percent(draws: Array, sign: str = "") -> str | None:
    """``61.1 [54.9, 67.0]``; nothing where the value is not defined."""
    s = statistic("", 100 * draws)
    if np.isnan(s.estimate):
        return None
    return f"{s.estimate:{sign}.1f} [{s.low:{sign}.1f}, {s.high:{sign}.1f}]"


def claims_table(verdicts: Sequence[Verdict], short: bool = False) -> str:
    rows = []
    for v in verdicts:
        shown = v.statistics[:SHOWN] if short else v.statistics
        cells: list[Any] = [v.claim, v.statement, "; ".join(map(str, shown))]
        rows.append([*cells, *([] if short else [f"{v.images}, {v.seeds}"]), f"**{v.verdict}**"])
    headers = ["claim", "what is measured", "statistic [95 % interval]"]
    return tables.markdown([*headers, *([] if short else ["images, seeds"]), "verdict"], rows)


def headline(study: Study, verdicts: Sequence[Verdict]) -> str:
    """For the root README: the main arms before and after tuning, and every verdict."""
    tests = {"few-shot": (FEW, ""), "base": (NEW, "base"), "new": (NEW, "new")}
    parts = []
    for arm in [*ZERO.values(), *(arm.row for arm in MAIN)]:
        cells = [percent(study.accuracy(s, arm, (arm,), t)) for s, t in tests.values() if study.sets(s, arm)]
        if len(cells) == len(tests):
            parts.append(f"{TITLES[arm]} {' / '.join(map(str, cells))}")
    counted = Counter(f"{v.claim} {v.verdict}" for v in verdicts)
    words = ", ".join(text if count == 1 else f"{text} ({count} times)" for text, count in counted.items())
    return (
        f"CLS-RL at small scale ({len(arms.SEEDS)} seeds), accuracy on {' / '.join(tests)} classes, per "
        f"cent with 95 % interval: {'; '.join(parts) or 'no run yet'}. Claims: {words or 'none judged yet'}."
    )


def few_shot_table(study: Study) -> str:
    """Exact accuracy per arm and main set; the average over the sets that the arm has."""
    rows = []
    for arm in _main_arms():
        cells = [
            percent(study.draws.share(FEW, arm, name, name, seeds))
            if (seeds := study.seeds(FEW, name, arm))
            else None
            for name in MAIN_SETS
        ]
        if any(cells):
            rows.append([TITLES[arm], f"`{arm}`", *cells, percent(study.accuracy(FEW, arm, (arm,)))])
    return tables.markdown(["arm", "row", *MAIN_SETS, "average"], rows) if rows else "None recorded yet."


def _main_arms() -> list[str]:
    return [*ZERO.values(), *(arm.row for arm in MAIN), arms.EMPTY]


def matchers_table(study: Study) -> str:
    """Every matcher in per cent, few-shot, averaged over main sets; mean length of a reply."""
    rows = []
    for arm in _main_arms():
        if not study.sets(FEW, arm):
            continue
        shares = [
            study.accuracy(FEW, arm, (arm,), what=what, given=given) for what, given in MATCHERS.values()
        ]
        cells = [None if np.isnan(s[0]) else f"{100 * s[0]:.1f}" for s in shares]
        rows.append([f"`{arm}`", *cells, f"{study.accuracy(FEW, arm, (arm,), what='length')[0]:.1f}"])
    return tables.markdown(["row", *MATCHERS, "tokens"], rows) if rows else "None recorded yet."


def base_to_new_table(study: Study) -> str:
    """Base / new / H per set, and with intervals over the sets (H of the averages, as CoCoOp)."""
    rows = []
    for arm in _main_arms():
        names = study.sets(NEW, arm)
        if not names:
            continue
        cells: list[str | None] = []
        for name in MAIN_SETS:
            seeds = study.seeds(NEW, name, arm)
            halves = (
                [study.draws.share(NEW, arm, name, half, seeds) for half in ("base", "new")] if seeds else []
            )
            shown = [*halves, harmonic(*halves)] if halves else []
            cells.append(" / ".join(f"{100 * draws[0]:.1f}" for draws in shown) or None)
        whole = [study.accuracy(NEW, arm, (arm,), half) for half in ("base", "new")]
        rows.append([TITLES[arm], *cells, *(percent(draws) for draws in (*whole, harmonic(*whole)))])
    headers = ["arm", *MAIN_SETS, "base", "new", "H"]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def seeds_table(e: Evidence) -> str:
    """Exact accuracy of each seed alone."""
    seeds = sorted({key.seed for key in e.cells})
    rows = []
    for setting, halves in ((FEW, ("",)), (NEW, ("base", "new"))):
        for name in MAIN_SETS:
            for arm in _main_arms():
                for half in halves:
                    keys = [Key(setting, arm, name, half or name, seed) for seed in seeds]
                    found = [e.cells[key].values("exact").mean() if key in e.cells else None for key in keys]
                    if any(value is not None for value in found):
                        shown = [None if value is None else f"{100 * value:.1f}" for value in found]
                        rows.append([f"{name} {half}".strip(), f"`{arm}`", *shown])
    headers = ["test set", "row", *(f"seed {s}" for s in seeds)]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def time_table(study: Study) -> str:
    """What an update costs, few-shot: medians of a run, averaged over main sets and seeds."""
    rows = []
    for arm in TUNED:
        found = study.curves(FEW, (arm,), MAIN_SETS)
        if not found:
            continue
        cells = [
            plain(study.over_curves(FEW, (arm,), _median(name)) if _logged(found, name) else None)
            for name in ("seconds", "tokens")
        ]
        walls = [w for key, w in study.evidence.wall_s.items() if key.arm == arm and key.setting == FEW]
        rows.append([f"`{arm}`", *cells, f"{np.mean(walls) / 60:.1f}", len(walls)])
    headers = ["row", "seconds per update", "generated tokens per update", "whole run, minutes", "runs"]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def _logged(found: dict[str, list[list[Curves]]], name: str) -> bool:
    return all(name in curves for of in found.values() for curves in of[0])


def _median(what: str) -> Callable[..., float]:
    return lambda name, curves: float(np.median(list(curves[what].values())))


def plain(draws: Array | None) -> str | None:
    """``1.93 [1.90, 1.96]``, or nothing."""
    if draws is None:
        return None
    s = statistic("", draws)
    return f"{s.estimate:.2f} [{s.low:.2f}, {s.high:.2f}]"


def lists_table(study: Study) -> str:
    """SFT under lists of different lengths, on one set."""
    rows = []
    for arm in MAIN:
        if not arm.supervised:
            continue
        cells = []
        for setting in (*(f"lists_{n}" for n in LIST_LENGTHS), FEW):
            seeds = study.seeds(setting, ABLATED, arm.row)
            cells.append(
                percent(study.draws.share(setting, arm.row, ABLATED, ABLATED, seeds)) if seeds else None
            )
        if any(cells):
            rows.append([arm.title, *cells])
    headers = ["arm", *(f"{n} names" for n in (*LIST_LENGTHS, LONGEST))]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def ablations_table(study: Study) -> str:
    """On one set: every arm, and its difference to the arm that it is a variant of."""
    rows = []
    for arm in (TUNED["thinking"], TUNED["no_thinking"], *ABLATIONS):
        if not (seeds := study.seeds(FEW, ABLATED, arm.row)):
            continue
        shares = [
            study.draws.share(FEW, arm.row, ABLATED, ABLATED, seeds, what=what)
            for what in ("exact", "in_list", "thought", "length")
        ]
        of = arm.rate_of
        both = study.seeds(FEW, ABLATED, arm.row, of) if of else []
        pair = [study.draws.share(FEW, row, ABLATED, ABLATED, both) for row in (arm.row, of)] if both else []
        gap = percent(pair[0] - pair[1], "+") if pair else None
        cells = [percent(shares[0]), f"`{of}`" if gap else None, gap]
        rows.append([arm.title, *cells, *(f"{100 * s[0]:.1f}" for s in shares[1:3]), f"{shares[3][0]:.1f}"])
    headers = ["arm", "exact", "minus", "difference", "in the list", "has a thought", "tokens"]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def matrix_table(study: Study, method: Method) -> str:
    """Points of accuracy against before tuning; row: tuned on, column: tested on. The mean of the row is over
    the sets that are tuned on too."""
    names = list(data_sets.SETS)
    rows = []
    for tuned in names:
        found = [
            100 * study.change(method, tuned, test)[0] if study.has_cell(method, tuned, test) else None
            for test in data_sets.ALL
        ]
        known = [value for value in found[: len(names)] if value is not None]
        if len(known) > (found[names.index(tuned)] is not None):  # the diagonal alone is no transfer
            mean = f"{np.mean(known):+.1f}" if len(known) == len(names) else None
            shown = [None if v is None else f"{v:+.1f}" for v in found]
            rows.append([tuned, *shown[: len(names)], mean, *shown[len(names) :]])
    headers = ["tuned on \\ tested on", *names, "mean", *data_sets.FAR]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def split_table(study: Study) -> str:
    """The mean off-diagonal change and its two summands."""
    rows = []
    for method in METHODS:
        if study.has_matrix(method):
            parts = [percent(study.off_diagonal(method, part), "+") for part in ("exact", "in_list", "given")]
            rows.append([TITLES[method], *parts])
    headers = [
        "arm",
        "change on other sets",
        "by answering from the list",
        "by choosing better from the list",
    ]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def why_table(study: Study) -> str:
    """Tuned on one set: does the change on the others hang on KL, or on the number of updates?"""
    rows = []
    others = [name for name in TRANSFERRED if name != ABLATED]
    zero = ZERO["no_thinking"]
    for arm in EXPLAINING:
        seeds = _common_seeds(study, arm, zero, others)
        if not seeds:
            continue

        def change(test: str, part: str, arm: str = arm, seeds: Sequence[int] = seeds) -> Array:
            return study.draws.change(arm, zero, ABLATED, test, seeds, part)

        parts = [average([change(test, part) for test in others]) for part in ("exact", "in_list", "given")]
        own = percent(change(ABLATED, "exact"), "+")
        rows.append([TITLES[arm], own, *(percent(draws, "+") for draws in parts), len(seeds)])
    headers = [
        "arm",
        f"change on {ABLATED}",
        "change on the others",
        "from the list",
        "better in it",
        "seeds",
    ]
    return tables.markdown(headers, rows) if rows else "None recorded yet."


def _common_seeds(study: Study, arm: str, zero: str, others: Sequence[str]) -> list[int]:
    e = study.evidence
    found = [set(e.seeds(FEW, ABLATED, name, arm)) for name in (ABLATED, *others)]
    found += [set(e.seeds(FEW, name, name, zero)) for name in (ABLATED, *others)]
    return sorted(set.intersection(*found))


def sweep_table(records: Sequence[dict[str, Any]]) -> str:
    """Exact accuracy of every learning rate tried; the best of each arm, and what arms.py has."""
    rows = []
    for arm in MAIN:
        tried = sorted((r for r in records if r["arm"] == arm.row), key=lambda r: r["rate"])
        if not tried:
            continue
        accuracy = {r["rate"]: r["metrics"][f"{SWEPT}/exact"] for r in tried}
        best = max(accuracy, key=lambda rate: accuracy[rate])
        edge = len(accuracy) > 1 and best in (min(accuracy), max(accuracy))
        shown = "; ".join(f"{rate:g}: {100 * value:.1f}" for rate, value in accuracy.items())
        words = f"{best:g}{' (at the edge)' if edge else ''}"
        rows.append([arm.title, shown, words, f"{arm.learning_rate:g}"])
    headers = ["arm", "learning rate: exact accuracy, %", "best", "used (arms.py)"]
    return tables.markdown(headers, rows) if rows else "None recorded yet: `python reproduce.py --sweep`."


def missing_rows(records: Sequence[dict[str, Any]]) -> str:
    """Which blocks of the plan lack runs; empty if none does."""
    recorded = {(r["row"], r["seed"]) for r in records}
    counts: Counter[str] = Counter()
    for block, planned in arms.blocks().items():
        counts[block] = sum(j.kind != "lists" and (j.row, j.seed) not in recorded for j in planned)
    words = ", ".join(f"`{block}` ({count} runs)" for block, count in counts.items() if count)
    return f"Not recorded yet: {words}." if words else ""


def runs_table(records: Sequence[dict[str, Any]]) -> str:
    rows = [
        [f"`{r['row']}`", r["seed"], r["scale"], r["n"], r["wall_s"], r["commit"][:10], f"`{r['command']}`"]
        for r in sorted(records, key=lambda r: (r["row"], r["seed"]))
    ]
    return tables.markdown(["row", "seed", "scale", "images", "wall s", "commit", "command"], rows)


def paper_tables(path: Path) -> str:
    """Every table of paper.csv, as printed, with its source and notes."""
    cells = tables.load_paper(path)
    parts = []
    for name in dict.fromkeys(c["table"] for c in cells):
        of = [c for c in cells if c["table"] == name]
        columns = list(dict.fromkeys(c["column"] for c in of))
        value = {(c["row"], c["column"]): c["value"] for c in of}
        rows = [[row, *(value.get((row, c)) for c in columns)] for row in dict.fromkeys(c["row"] for c in of)]
        notes = "; ".join(dict.fromkeys(c["note"] for c in of if c["note"]))
        text = f" {notes[:1].upper()}{notes[1:]}." if notes else ""
        parts.append(f"**{name}.**{text}\n\n{tables.markdown(['', *columns], rows)}")
    return "\n\n".join(parts)
