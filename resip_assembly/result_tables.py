"""Render RESULTS.md, the README's results block and the figures from results/; nobody types a number.

Inputs, all committed: what `evidence.py` lists, and results/paper.csv. The same inputs give the same bytes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from resip_assembly import claims, evidence, result_figures
from resip_assembly.arms import POLICIES, jobs
from resip_assembly.claims import Statistic, Verdict
from resip_assembly.corrections import BINS_MM, median
from resip_assembly.evidence import Evidence
from resip_assembly.taxonomy import PHASES
from shared import stats, tables
from shared.checkpoint import write_text_atomic

HERE = Path(__file__).resolve().parent
COMPARED = (("resip", "dp"), ("resip", "mlp_c_ppo"), ("resip", "resip_held"), ("mlp_c", "mlp_s"))
DISSECTED = ("dp", "resip", "resip_held", "mlp_c_ppo")


def percent(successes: int, episodes: int) -> str:
    """``61.1 [54.9, 67.0]``: success in per cent with its Wilson interval."""
    low, high = stats.wilson(successes, episodes)
    return f"{100 * successes / episodes:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def arms_table(e: Evidence) -> str:
    """Success per policy and task, seeds pooled."""
    rows = []
    for policy, title in POLICIES.items():
        cells: list[Any] = []
        for task in e.tasks():
            won = e.success(task, policy, e.seeds(task, policy)) if e.seeds(task, policy) else np.empty(0)
            cells.append(f"{percent(int(won.sum()), won.size)}, n = {won.size}" if won.size else None)
        if any(cells):
            rows.append([title, f"`{policy}`", *cells])
    return tables.markdown(["method", "row", *e.tasks()], rows)


def seeds_table(e: Evidence) -> str:
    """Success of each training seed alone."""
    seeds = sorted({seed for _, _, seed in e.episodes})
    rows = []
    for task in e.tasks():
        for policy in POLICIES:
            cells: list[str | None] = []
            for seed in seeds:
                found = e.episodes.get((task, policy, seed))
                cells.append(percent(int(found.success.sum()), len(found.success)) if found else None)
            if any(cells):
                rows.append([task, f"`{policy}`", *cells])
    return tables.markdown(["task", "row", *(f"seed {s}" for s in seeds)], rows)


def differences_table(e: Evidence) -> str:
    """Points between two rows for each training seed, paired over episodes."""
    seeds = sorted({seed for _, _, seed in e.episodes})
    rows = []
    for task in e.tasks():
        for a, b in COMPARED:
            if both := e.seeds(task, a, b):
                pooled = points(claims.difference(e, task, a, b))
                alone = {seed: points(claims.difference(e, task, a, b, [seed])) for seed in both}
                rows.append([task, f"`{a}` - `{b}`", pooled, *(alone.get(seed) for seed in seeds)])
    return tables.markdown(["task", "difference", "all seeds", *(f"seed {s}" for s in seeds)], rows)


def points(d: Statistic) -> str:
    """``+32.4 [+28.1, +36.6]``"""
    return f"{100 * d.estimate:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"


def taxonomy_table(e: Evidence) -> str:
    """Share of all episodes lost in each phase, per cent."""
    rows = []
    for task in e.tasks():
        for policy in DISSECTED:
            if lost := e.lost(task, policy):
                shares = [f"{100 * lost.count(phase) / len(lost):.1f}" for phase in PHASES]
                rows.append([task, f"`{policy}`", len(lost), *shares])
    return tables.markdown(["task", "row", "episodes", *PHASES], rows)


def corrections_table(e: Evidence) -> str:
    """Median over episodes of the median correction, mm, by distance of the pair from its goal pose."""
    rows = []
    for task in e.tasks():
        if found := e.corrections_of(task):
            bins = np.concatenate([c.median_mm for c in found]).T
            rows.append([task, *("-" if np.isnan(m := median(b)) else f"{m:.2f}" for b in bins)])
    ends = [*(f"{low:g} to {high:g} mm" for low, high in itertools.pairwise(BINS_MM))]
    return tables.markdown(["task", *ends, f"beyond {BINS_MM[-1]:g} mm"], rows)


def claims_table(verdicts: list[Verdict], short: bool = False) -> str:
    rows = []
    for v in verdicts:
        shown = v.statistics[:1] if short else v.statistics
        cells: list[Any] = [v.claim, v.task, v.statement, "; ".join(map(str, shown))]
        rows.append([*cells, *([] if short else [f"{v.episodes}, {v.seeds}"]), f"**{v.verdict}**"])
    headers = ["claim", "task", "what is measured", "statistic [95 % interval]"]
    return tables.markdown([*headers, *([] if short else ["n, seeds"]), "verdict"], rows)


def missing_rows(records: list[dict[str, Any]]) -> str:
    """Which rows of the plan have no or too few runs; empty if all have."""
    recorded = {(r["row"], r["seed"]) for r in records}
    found = Counter(f"`{job.arm.row}`" for job in jobs() if (job.row, job.seed) not in recorded)
    rows = ", ".join(f"{row} ({count} runs)" for row, count in found.items())
    return f"Not recorded yet: {rows}." if rows else ""


def headline(e: Evidence, verdicts: list[Verdict]) -> str:
    """For the root README: base against ResiP, and every verdict."""
    parts = []
    for task in e.tasks():
        won = [e.success(task, policy, e.seeds(task, policy)) for policy in ("dp", "resip")]
        before, after = (percent(int(w.sum()), w.size) for w in won if w.size)
        parts.append(f"{task} {before} -> {after}")
    words = ", ".join(f"{v.claim} {v.verdict} ({v.task})" for v in verdicts)
    seeds = len({seed for _, _, seed in e.episodes})
    return (
        f"ResiP at small scale ({seeds} seeds), success of the frozen diffusion policy -> with the residual, "
        f"per cent with 95 % interval: {'; '.join(parts)}. Claims: {words}."
    )


def runs_table(records: list[dict[str, Any]]) -> str:
    rows = [
        [f"`{r['row']}`", r["seed"], r["scale"], r["n"], r["wall_s"], r["commit"][:10], f"`{r['command']}`"]
        for r in sorted(records, key=lambda r: (r["row"], r["seed"]))
    ]
    return tables.markdown(["row", "seed", "scale", "episodes", "wall s", "commit", "command"], rows)


def experts_section(path: Path) -> str:
    """Success and speed of the experts per task and robot (`expert_rates.py`); empty without any."""
    records = tables.current(tables.load_records(path))
    tables.refuse_dirty(records)
    if not records:
        return ""
    rows = []
    for r in sorted(records, key=lambda r: r["row"]):
        won = percent(r["metrics"]["successes"], r["n"])
        cells = [r["task"], r["robot"], f"{won}, n = {r['n']}", r["metrics"]["length_median"]]
        rows.append([*cells, round(r["metrics"]["steps_per_cpu_s"]), r["commit"][:10]])
    headers = ["task", "robot", "success [95 % interval]", "median steps", "steps per CPU s", "commit"]
    return (
        "\n## Scripted experts\n\nPer cent at the low level, on episodes of their own; control steps of one "
        "environment per second of CPU time, the\nexpert's included, on "
        f"{', '.join(sorted({r['hardware'] for r in records}))}: `{records[0]['command']}`.\n\n"
        f"{tables.markdown(headers, rows)}\n"
    )


def paper_tables(path: Path) -> str:
    """Every table of paper.csv, as printed, with its source and notes."""
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


TEXT = """# ResiP: results

Generated by `make -C resip_assembly tables` from `results/`; do not edit. Scale: **{scale}** (floating
gripper, primitive parts, scripted demonstrations), measured on {hardware}. At this scale a row is compared
with the paper's *direction*, never with its numbers. Success in per cent on held-out episodes, the same for
every policy of a task; rates pool the training seeds and have Wilson 95 % intervals, differences are paired
over episodes and have bootstrap intervals.

Limits: scripted, not human, demonstrations; a floating gripper instead of a Panda; boxes and capsules instead
of meshes with threads; 10^5 to 10^6 environment steps instead of 10^8 to 10^9; students that see are judged
in the renderer that taught them.

## Claims

Rules fixed beforehand in `claims.py`.

{claims}

{missing}

## Methods

![Success per method and task](figures/success.png)

{arms}

## Learning

![Success over environment steps](figures/curves.png)

Points: mean action (of the baselines: the mean or the sampler), on selection episodes of their own.

## Students

![Success over the number of lessons](figures/students.png)

## Differences, seed by seed

{differences}

## Where episodes are lost

![Where episodes are lost](figures/taxonomy.png)

Per cent of all episodes, from the last observation (`taxonomy.py`).

{taxonomy}

## How large the corrections are

{corrections}

## Seeds apart

{seeds}
{experts}
## The paper's numbers

{paper}

## Commands

{runs}
"""


def render(here: Path = HERE) -> None:
    """Write RESULTS.md, the README's block and the figures of the package folder `here`."""
    records, found = evidence.load(here / "results")
    if not records:
        paper = paper_tables(here / "results" / "paper.csv")
        text = "# ResiP: results\n\nNo runs recorded yet: `make -C resip_assembly reproduce`.\n"
        write_text_atomic(here / "RESULTS.md", f"{text}\n## The paper's numbers\n\n{paper}\n")
        return
    verdicts = claims.judge(found)
    text = TEXT.format(
        scale=records[0]["scale"],
        hardware=", ".join(sorted({r["hardware"] for r in records})),
        claims=claims_table(verdicts),
        missing=missing_rows(records),
        arms=arms_table(found),
        differences=differences_table(found),
        taxonomy=taxonomy_table(found),
        corrections=corrections_table(found),
        seeds=seeds_table(found),
        experts=experts_section(here / "results" / "experts.jsonl"),
        paper=paper_tables(here / "results" / "paper.csv"),
        runs=runs_table(records),
    )
    write_text_atomic(here / "RESULTS.md", text)
    block = f"{arms_table(found)}\n\n{claims_table(verdicts, short=True)}\n\n{missing_rows(records)}"
    tables.replace_block(here / "README.md", "results", block)
    tables.replace_block(here.parent / "README.md", "resip-headline", headline(found, verdicts))
    result_figures.draw_results(records, found, here / "figures")
