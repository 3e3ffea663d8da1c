"""The tables of RESULTS.md as Markdown, from evidence alone."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from shared import tables
from tool_env_rl import gate
from tool_env_rl.arms import ARMS, OPTIONAL, SEEDS, TITLES, TRAINED, arm, jobs, layer_jobs
from tool_env_rl.evidence import Evidence
from tool_env_rl.layer_claims import graft_draws, graft_groups
from tool_env_rl.metrics import summarize
from tool_env_rl.records import SCENARIOS
from tool_env_rl.resampling import (
    Array,
    Statistic,
    calls_per_turn,
    difference,
    mean,
    of_arm,
    statistic,
    values,
)
from tool_env_rl.verdicts import Verdict

COLUMNS = {  # measure → heading; per cent
    "solve_p": "Solve-P",
    "solve_r": "Solve-R",
    "solve_f1": "Solve-F1",
    "answer": "answer",
    "chains": "OOD-1 AC",
    "noisy_TS": "OOD-2 TS",
    "noisy_PI": "PI",
    "noisy_CF": "CF",
    "tables": "OOD-3",
    "general": "general",
}
GAINS = {
    "solve_p": "Solve-P",
    "solve_r": "Solve-R",
    "solve_f1": "Solve-F1",
    "chains": "OOD-1",
    "noisy": "OOD-2",
}
GAINS |= {"tables": "OOD-3", "general": "general"}
READINGS = {
    "solve_f1": "substring, echo guard",
    "solve_f1_strict": "whole tokens, echo guard",
    "solve_f1_unguarded": "substring, no guard (the authors')",
}


def percent(draws: Array, sign: str = "") -> str:
    """``41.2 [38.0, 44.5]``"""
    s = statistic("", draws)
    if math.isnan(s.low):
        return f"{100 * s.estimate:{sign}.1f}"
    return f"{100 * s.estimate:{sign}.1f} [{100 * s.low:{sign}.1f}, {100 * s.high:{sign}.1f}]"


def _known(e: Evidence, row: str, measure: str) -> bool:
    return bool(e.seeds(row)) and values(e, row, e.seeds(row)[:1], measure).size > 0


def arms_table(e: Evidence, columns: tuple[str, ...] = tuple(COLUMNS)) -> str:
    """Every row's means, in per cent, over seeds and environments."""
    rows = []
    for a in ARMS:
        if seeds := e.seeds(a.row):
            cells = [percent(of_arm(e, a.row, m)) if _known(e, a.row, m) else None for m in columns]
            calls = f"{calls_per_turn(e, a.row, seeds)[0]:.2f}"
            rows.append([a.title, f"`{a.row}`", len(seeds), *cells, calls])
    return tables.markdown(["model", "row", "seeds", *(COLUMNS[m] for m in columns), "calls per turn"], rows)


def gains_table(
    e: Evidence, rows: tuple[str, ...] = TRAINED, measures: tuple[str, ...] = tuple(GAINS)
) -> str:
    """Points over the base model that a row starts from, paired over seeds and environments."""
    found = []
    for row in rows:
        base = arm(row).base
        if base and e.seeds(row, base):
            cells = [
                percent(difference(e, row, base, m), "+")
                if _known(e, row, m) and _known(e, base, m)
                else None
                for m in measures
            ]
            found.append([TITLES[row], *cells])
    return tables.markdown(["gain over its base", *(GAINS[m] for m in measures)], found)


def seeds_table(e: Evidence) -> str:
    """Solve-F1 of each seed alone, per cent, with the interval over environments."""
    seeds = sorted({seed for _, seed in e.runs})
    rows = []
    for a in ARMS:
        if e.seeds(a.row):
            mine = set(e.seeds(a.row))
            cells = [percent(of_arm(e, a.row, "solve_f1", [s])) if s in mine else None for s in seeds]
            rows.append([a.title, *cells])
    return tables.markdown(["model", *(f"seed {seed}" for seed in seeds)], rows)


def scenarios_table(e: Evidence) -> str:
    """Solve-F1 per scenario, per cent."""
    rows = []
    for a in ARMS:
        if e.seeds(a.row):
            rows.append([a.title, *(percent(of_arm(e, a.row, "solve_f1", scenarios=[s])) for s in SCENARIOS)])
    return tables.markdown(["model", *(s.replace("_", " ") for s in SCENARIOS)], rows)


def readings_table(e: Evidence) -> str:
    """Solve-F1 under the three ways to match, and turns that did not parse."""
    rows = []
    for a in ARMS:
        if seeds := e.seeds(a.row):
            malformed = np.mean(
                [summarize(run.test)["all"]["malformed_turn_rate"] for run in e.of(a.row, seeds)]
            )
            cells = [percent(of_arm(e, a.row, measure)) for measure in READINGS]
            rows.append([a.title, *cells, f"{100 * malformed:.1f}"])
    return tables.markdown(["model", *READINGS.values(), "turns that did not parse"], rows)


def chains_table(e: Evidence) -> str:
    """OOD-1 in ToolHop's three scenarios."""
    names = {"direct": "Direct", "mandatory": "Mandatory", "free": "Free", "chains": "mean (AC)"}
    rows = []
    for a in ARMS:
        if _known(e, a.row, "chains"):
            rows.append([a.title, *(percent(of_arm(e, a.row, measure)) for measure in names)])
    return tables.markdown(["model", *names.values()], rows)


def levels_table(e: Evidence) -> str:
    """The base model's Solve-F1 by complexity level, per cent."""
    seeds = [seed for seed in e.seeds("base") if e.runs["base", seed].levels]
    if not seeds:
        return "Not recorded yet."
    cells = []
    for level in sorted({level for level, _ in e.runs["base", seeds[0]].levels}):
        of = [
            [2 * s.solved / (s.calls + s.total) for at, s in run.levels if at == level]
            for run in e.of("base", seeds)
        ]
        cells.append([f"L{level}", percent(mean(np.array(of), "levels"))])
    return tables.markdown(["level", "Solve-F1 of the base model"], cells)


def controls_table(e: Evidence) -> str:
    """What the scripted policies score."""
    if not e.controls:
        return "Not recorded yet."
    keys = {"solve_p": "Solve-P", "solve_r": "Solve-R", "solve_f1": "Solve-F1"}
    keys |= {"solve_f1_unguarded": "Solve-F1, no echo guard"}
    rows = []
    for policy, scores in e.controls.items():
        means = summarize(scores)["all"]
        rows.append([policy, len(scores), *(f"{means[key]:.3f}" for key in keys)])
    return tables.markdown(["policy", "environments", *keys.values()], rows)


def oracle_section(path: Path) -> str:
    """What the oracle reached on the authors' environments; empty where it was not run.

    DirtyRecord if it ran with uncommitted code.
    """
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["dirty"]:
        raise tables.DirtyRecord(f"{path} was made with uncommitted code; commit it and run the oracle again")
    heads = [
        "scenario",
        "environments",
        "sub-answers",
        "substring",
        "whole tokens",
        "no echo guard (authors')",
    ]
    rows = [[row.pop("scenario").replace("_", " "), *row.values()] for row in found["counts"]]
    refused = tables.markdown(["reason", "tools"], [[text, n] for text, n in found["reasons"].items()])
    return (
        "## The authors' environments\n\n"
        f"Sub-answers of `{found['file']}` (SHA-256 {found['sha256'][:12]}, {found['unreadable_rows']} "
        "unreadable rows) that an oracle without gold calls obtains in our sandbox: a lower bound. Complete: "
        "all sub-answers of an environment, by substring. "
        "`python -m tool_env_rl.oracle FILE.jsonl --summary results/oracle.json` at "
        f"{found['commit'][:10]}.\n\n"
        f"{tables.markdown([*heads, 'complete'], rows)}\n\n"
        f"The static gate refuses {found['tools_refused']} of {found['tools']} tools:\n\n{refused}"
    )


def layers_table(e: Evidence) -> str:
    """Primary measure by group, seed by seed; then what exchanging a group does to Solve-F1."""
    if not e.layers:
        return "Not recorded yet."
    seeds = sorted(e.layers)
    groups = list(e.layers[seeds[0]].groups)
    rows: list[list[Any]] = [[g, *(f"{e.layers[s].groups[g]:.3f}" for s in seeds)] for g in groups]
    rows.append(["S: low MLP over all others", *(f"{e.layers[s].s:.3f}" for s in seeds)])
    text = tables.markdown(["change over the random-reward run's", *(f"seed {s}" for s in seeds)], rows)
    judged = [s for s in e.seeds("grpo", "base") if s in e.layers]
    if judged:
        grafts = []
        for group in graft_groups(e.layers[judged[0]]):
            draws = graft_draws(e, judged, group)
            grafts.append([group, percent(draws["reset"], "+"), percent(draws["only"], "+")])
        heads = ["weights", "lost if reset to the base", "gained if only they are trained"]
        text += "\n\nPoints of Solve-F1:\n\n" + tables.markdown(heads, grafts)
    return text


def claims_table(verdicts: list[Verdict], short: bool = False) -> str:
    rows = []
    for v in verdicts:
        shown = v.statistics[:1] if short else v.statistics
        cells: list[Any] = [v.claim, f"`{v.arm}`", v.statement, "; ".join(map(_said, shown))]
        rows.append([*cells, *([] if short else [f"{v.n}, {v.seeds}"]), f"**{v.verdict}**"])
    headers = ["claim", "row", "what is measured", "statistic [95 % interval]"]
    return tables.markdown([*headers, *([] if short else ["n, seeds"]), "verdict"], rows)


def _said(s: Statistic) -> str:
    return str(s) if math.isnan(s.p) else f"{s} (p = {s.p:.4f})"


def gates_table(e: Evidence) -> str:
    """Every base model tried; those that did not meet the gate got no RL."""
    if not e.gates:
        return "Not recorded yet."
    keys = ("parsable", "solve_f1", "best_of_8", "general")
    rows = []
    for (row, seed), found in sorted(e.gates.items()):
        said = "; ".join(found["failures"]) or "met"
        rows.append([f"`{row}`", seed, *(f"{found[key]:.3f}" for key in keys), said])
    low, high = gate.F1_RANGE
    heads = [f"parsable (>= {gate.PARSABLE})", f"Solve-F1 ({low} to {high})"]
    heads += [f"best of {gate.SAMPLES} (+ {gate.HEADROOM})", f"general (>= {gate.GENERAL})", "gate"]
    return tables.markdown(["row", "seed", *heads], rows)


def missing_rows(records: list[dict[str, Any]]) -> str:
    """Which rows of the plan have no or too few runs; empty if all have. Optional rows count once begun."""
    seeds = tuple(sorted({r["seed"] for r in records if r["arm"] == "base"})) or SEEDS
    seeds = seeds if len(seeds) >= len(SEEDS) else SEEDS
    planned = [("base", seed) for seed in seeds]
    planned += [(job.row, job.seed) for job in (*jobs(seeds), *layer_jobs(seeds))]
    recorded = {(r["arm"], r["seed"]) for r in records}
    begun = {arm for arm, _ in recorded}
    planned = [(row, seed) for row, seed in planned if row not in OPTIONAL or row in begun]
    found = Counter(f"`{row}`" for row, seed in planned if (row, seed) not in recorded)
    rows = ", ".join(f"{row} ({count} runs)" for row, count in found.items())
    return f"Not recorded yet: {rows}." if rows else ""


def runs_table(records: list[dict[str, Any]]) -> str:
    rows = [
        [f"`{r['row']}`", r["seed"], r["scale"], r["n"], r["wall_s"], r["commit"][:10], f"`{r['command']}`"]
        for r in sorted(records, key=lambda r: (r["row"], r["seed"]))
    ]
    return tables.markdown(["row", "seed", "scale", "n", "wall s", "commit", "command"], rows)


def paper_tables(path: Path) -> str:
    """Every table of paper.csv with its source and notes."""
    cells = tables.load_paper(path)
    parts = []
    for name in dict.fromkeys(c["table"] for c in cells):
        of = [c for c in cells if c["table"] == name]
        columns = list(dict.fromkeys(c["column"] for c in of))
        value = {(c["row"], c["column"]): c["value"] for c in of}
        rows = [[row, *(value.get((row, c)) for c in columns)] for row in dict.fromkeys(c["row"] for c in of)]
        source = ", ".join(dict.fromkeys(c["arxiv_version"] for c in of))
        notes = "; ".join(dict.fromkeys(c["note"] for c in of if c["note"]))
        text = f"**{name}** ({source}). {notes[:1].upper()}{notes[1:]}."
        parts.append(f"{text}\n\n{tables.markdown(['', *columns], rows)}")
    return "\n\n".join(parts)
