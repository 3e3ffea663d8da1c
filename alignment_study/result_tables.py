"""The tables of RESULTS.md as Markdown, from evidence alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from alignment_study import dose_response
from alignment_study.arms import TITLES
from alignment_study.claims import Verdict
from alignment_study.dose_response import Relation
from alignment_study.evidence import Evidence, Role
from alignment_study.interaction import Contrary, Interaction
from alignment_study.resampling import Array, Statistic, World, cell, over_seeds, statistic
from alignment_study.update_ratio import EDGES, Bin
from shared import tables

# Trained on, evaluated: the paper's three settings first.
CELLS: tuple[tuple[Role, Role], ...] = (
    ("aligned", "aligned"),
    ("weak", "transfer"),
    ("weak", "weak"),
    ("aligned", "transfer"),
    ("weak", "aligned"),
    ("aligned", "weak"),
)


def number(s: Statistic, sign: str = "") -> str | None:
    """``0.312 [0.280, 0.344]``; nothing where the value is not defined."""
    if math.isnan(s.estimate):
        return None
    interval = "" if math.isnan(s.low) else f" [{s.low:{sign}.3f}, {s.high:{sign}.3f}]"
    return f"{s.estimate:{sign}.3f}{interval}"


def _draws(draws: Array, sign: str = "") -> str | None:
    return number(statistic("", draws), sign)


def claims_table(verdicts: list[Verdict], short: bool = False) -> str:
    rows = []
    for v in verdicts:
        shown = v.statistics[:1] if short else v.statistics
        cells: list[Any] = [v.claim, v.world, v.statement, "; ".join(map(str, shown))]
        rows.append([*cells, *([] if short else [f"{v.n:,}, {v.seeds}"]), f"**{v.verdict}**"])
    headers = ["claim", "world", "what is measured", "statistic [95 % interval]"]
    return tables.markdown([*headers, *([] if short else ["n per seed, seeds"]), "verdict"], rows)


def interaction_table(found: list[Interaction], pooled_only: bool = False) -> str:
    """The central statistic: GR where aligned, where weak, and the difference."""
    rows = []
    for i in found:
        if pooled_only and i.variant in TITLES:
            continue
        cells = [i.world, TITLES.get(i.variant, i.variant), number(i.aligned), number(i.weak)]
        p = None if math.isnan(i.p) else f"{i.p:.4f}"
        word = f"**{i.verdict}**" if p else "not predicted"
        rows.append([*cells, number(i.difference, "+"), p, i.seeds, word])
    headers = ["world", "variant", "GR on M", "GR on L", "D", "p (Holm)", "seeds", "D > 0"]
    return tables.markdown(headers, rows)


def accuracy_table(w: World) -> str:
    """Strict accuracy of every variant and cell at the last step, the base model's first."""
    rows: list[list[Any]] = [["base model", *(_draws(over_seeds(w.base(role))) for _, role in CELLS)]]
    for v, title in TITLES.items():
        cells = [_cell(w, v, trained, role, "accuracy") for trained, role in CELLS]
        if any(cells):
            rows.append([title, *cells])
    return tables.markdown(["variant", *(cell(*c) for c in CELLS)], rows)


def recovery_table(w: World) -> str:
    """Gain recovery of every variant and cell at the last step."""
    rows = []
    for v, title in TITLES.items():
        cells = [_cell(w, v, trained, role, "recovery") for trained, role in CELLS]
        if v != "ground_truth" and any(cells):
            rows.append([title, *cells])
    return tables.markdown(["variant", *(cell(*c) for c in CELLS)], rows)


def form_table(w: World) -> str:
    """Format rate, and accuracy where an answer is found leniently: how much of a gain is form."""
    rows: list[list[Any]] = []
    base: list[Any] = ["base model"]
    for _, role in CELLS[:3]:
        base += [f"{_mean(w.base(role, what)):.3f}" for what in ("formatted", "lenient")]
        base.append(f"{_ratio(w.base(role), w.base(role, 'formatted')):.3f}")
    rows.append(base)
    for v, title in TITLES.items():
        cells: list[Any] = []
        for trained, role in CELLS[:3]:
            if not w.has(v, trained):
                cells += [None, None, None]
                continue
            strict, form, lenient = (
                w.accuracy(v, trained, role, what) for what in ("strict", "formatted", "lenient")
            )
            cells += [f"{_mean(form):.3f}", f"{_mean(lenient):.3f}", f"{_ratio(strict, form):.3f}"]
        if any(cells):
            rows.append([title, *cells])
    heads = [f"{what} {cell(*c)}" for c in CELLS[:3] for what in ("format", "lenient", "right / format")]
    return tables.markdown(["variant", *heads], rows)


def seeds_table(w: World) -> str:
    """Accuracy of each seed alone in the paper's three settings."""
    rows: list[list[Any]] = []
    bases = [f"{x:.3f}" for _, role in CELLS[:3] for x in w.base(role)[0]]
    rows.append(["base model", *bases])
    for v, title in TITLES.items():
        cells: list[Any] = []
        for trained, role in CELLS[:3]:
            known = w.has(v, trained)
            cells += [f"{x:.3f}" for x in w.accuracy(v, trained, role)[0]] if known else [None] * len(w.seeds)
        if any(cells):
            rows.append([title, *cells])
    return tables.markdown(["variant", *(f"{cell(*c)} seed {s}" for c in CELLS[:3] for s in w.seeds)], rows)


def training_table(w: World) -> str:
    """Means over training: entropy, effective groups, how often the majority is right."""
    names = ("rollout/entropy", "sampling/effective_groups", "rollout/majority_accuracy")
    rows = []
    for v, title in TITLES.items():
        cells: list[Any] = []
        for trained in ("aligned", "weak"):
            for name in names:
                known = w.has(v, trained)  # type: ignore[arg-type]
                value = _mean(w.logged(v, trained, name)) if known else math.nan  # type: ignore[arg-type]
                cells.append(None if math.isnan(value) else f"{value:.3f}")
        if any(cells):
            rows.append([title, *cells])
    heads = [f"{what}, RL on {f}" for f in "ML" for what in ("entropy", "effective groups", "vote right")]
    return tables.markdown(["variant", *heads], rows)


def contrary_table(found: list[Contrary]) -> str:
    rows = [[c.world, TITLES[c.variant], c.cell, c.paper, number(c.found, "+")] for c in found]
    headers = ["world", "variant", "cell", "the paper", "here"]
    return tables.markdown(headers, rows) if rows else "None so far."


def gates_table(found: Evidence) -> str:
    """Every base model tried; those that did not meet the gate got no RL."""
    rows = []
    for (world, seed), gate in sorted(found.gates.items()):
        if gate is None:
            rows.append([world, seed, *[None] * 5, "not met: no RL"])
            continue
        spread = sum(p > 0.005 for p in gate["weak_subtasks"].values())
        shares = [gate["aligned_pass16"], gate["transfer"]["pass16"], gate["weak_pass1"], gate["weak_pass16"]]
        above = f"{spread} of {len(gate['weak_subtasks'])}"
        rows.append([world, seed, gate["step"], *(f"{x:.3f}" for x in shares), above])
    headers = ["world", "seed", "step", "M pass@16", "G pass@16", "L pass@1", "L pass@16"]
    return tables.markdown([*headers, "L sub-tasks above 0.005"], rows)


def dose_table(levels: list[World]) -> str:
    """A row per checkpoint level: the base, ground truth's gain, and what the variants recover."""
    rows = []
    for w in levels:
        base = [_draws(over_seeds(w.base("weak", what))) for what in ("strict", "pass16")]
        gain = _draws(w.gains("ground_truth", "weak", "weak"), "+")
        names = (*dose_response.VARIANTS[1:], dose_response.RATIO)
        rows.append(
            [w.name, *base, gain, *(_draws(over_seeds(dose_response.recovered(w, n))) for n in names)]
        )
    headers = ["base", "L pass@1", "L pass@16", "ground truth's gain"]
    headers += [f"GR {TITLES[v]}" for v in dose_response.VARIANTS[1:]] + [dose_response.RATIO]
    return tables.markdown(headers, rows)


def relations_table(found: list[Relation]) -> str:
    rows = [
        [r.variant, number(r.correlation, "+"), f"**{r.verdict}**" if r.predicted else "not predicted"]
        for r in found
    ]
    return tables.markdown(["GR of", "rank correlation with pass@16", "at least 0.8"], rows)


def ratio_table(bins: list[Bin]) -> str:
    """Measured NSR / PSR by success probability, checkpoints and seeds together, beside the law."""
    rows = []
    for low, high in itertools.pairwise(EDGES):
        if not (of := [b for b in bins if low < b.p <= high]):
            continue
        inside = sum(b.low <= b.law <= b.high for b in of)
        means = [float(np.mean([getattr(b, name) for b in of])) for name in ("p", "law", "ratio", "norm")]
        rows.append([f"{low:g} to {high:g}", *(f"{x:.3f}" for x in means), f"{inside} of {len(of)}"])
    headers = ["p", "mean p", "p / (1 - p)", "measured NSR / PSR", "norm, with noise", "law in the interval"]
    return tables.markdown(headers, rows)


def runs_table(records: list[dict[str, Any]]) -> str:
    rows = [
        [f"`{r['row']}`", r["seed"], r["scale"], r["n"], r["wall_s"], r["commit"][:10], f"`{r['command']}`"]
        for r in sorted(records, key=lambda r: (r["row"], r["seed"]))
    ]
    return tables.markdown(["row", "seed", "scale", "n", "wall s", "commit", "command"], rows)


def paper_tables(path: Path) -> str:
    """Every table of paper.csv with its source and notes; what was not found is left out."""
    cells = tables.load_paper(path)
    parts = []
    for name in dict.fromkeys(c["table"] for c in cells):
        of = [c for c in cells if c["table"] == name]
        columns = list(dict.fromkeys(c["column"] for c in of))
        value = {(c["row"], c["column"]): c["value"] for c in of}
        rows = [[row, *(value.get((row, c)) for c in columns)] for row in dict.fromkeys(c["row"] for c in of)]
        notes = "; ".join(dict.fromkeys(c["note"] for c in of if c["note"]))
        parts.append(
            f"**{name}.** {notes[:1].upper()}{notes[1:]}.\n\n{tables.markdown(['', *columns], rows)}"
        )
    return "\n\n".join(parts)


def _cell(w: World, v: str, trained: Role, role: Role, what: str) -> str | None:
    if not w.has(v, trained):
        return None
    draws = w.recovery(v, trained, role) if what == "recovery" else over_seeds(w.accuracy(v, trained, role))
    return _draws(draws)


def _mean(values: Array) -> float:
    return float(over_seeds(values)[0])


def _ratio(part: Array, whole: Array) -> float:
    return _mean(part) / _mean(whole) if _mean(whole) else math.nan
