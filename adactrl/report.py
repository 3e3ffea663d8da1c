"""Render RESULTS.md, the README's results block and the figures from results/; nobody types a number.

Inputs, all committed: results/runs.jsonl (one record per run), results/samples/*.csv.gz (one row per sample),
results/probes/*.jsonl, results/curves/*.jsonl, results/paper.csv. The same inputs give the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

from adactrl import claims, result_figures
from adactrl.claims import TIERS, Evidence, Verdict
from adactrl.eval import Probe, Sample, agreement
from adactrl.gate import Check
from adactrl.tags import MODES
from shared import stats, tables
from shared.checkpoint import write_text_atomic

HERE = Path(__file__).resolve().parent
SAMPLE_COLUMNS = ("set", "problem", "mode", "tag", "correct", "length")
SEEDS_NEEDED = 3  # that passed the gate


def read_samples(path: Path) -> list[Sample]:
    """Per-sample outcomes as written by reproduce.py; the text was not kept."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return [
            Sample(
                r["set"],
                r["problem"],
                r["mode"],  # type: ignore[arg-type]
                r["tag"] or None,  # type: ignore[arg-type]
                {"1": True, "0": False}.get(r["correct"]),
                int(r["length"]),
                False,
                "",
            )
            for r in csv.DictReader(lines)
        ]


def load_evidence(results: Path) -> tuple[list[dict[str, Any]], Evidence]:
    """The records that count, and what they point to. Records of a dirty tree are refused.

    Seeds that failed the gate are left out where enough others passed; else every claim is inconclusive.
    """
    records = tables.current(tables.load_records(results / "runs.jsonl"))
    tables.refuse_dirty(records)
    evidence = Evidence()
    for record in records:
        arm, seed = record["row"].split("/")[1], record["seed"]
        evidence.samples[arm, seed] = read_samples(results / record["samples"])
        probes = results / "probes" / f"{arm}-seed{seed}.jsonl"
        if probes.exists():
            evidence.probes[arm, seed] = [
                Probe(**json.loads(line)) for line in probes.read_text().splitlines()
            ]
        if record.get("gate"):
            evidence.gate[seed] = all(Check(**check).passed for check in record["gate"])
    passed = {seed for seed, ok in evidence.gate.items() if ok}
    if len(passed) >= SEEDS_NEEDED:
        evidence.samples = {key: rows for key, rows in evidence.samples.items() if key[1] in passed}
        evidence.probes = {key: rows for key, rows in evidence.probes.items() if key[1] in passed}
        evidence.gate = dict.fromkeys(sorted(passed), True)
    return records, evidence


def arms_table(records: list[dict[str, Any]], evidence: Evidence) -> str:
    """Accuracy and length per tier in adaptive mode, pooled over seeds, interval over problems."""
    rows = []
    for arm, title in sorted({(r["row"].split("/")[1], r["title"]) for r in records}):
        cells: list[Any] = [f"adactrl/{arm}", title]
        for tier in TIERS:
            right = evidence.matrix(arm, tier, "adaptive", "correct")
            mean, low, high = stats.bootstrap(right)
            length = evidence.matrix(arm, tier, "adaptive", "length").mean()
            cells += [f"{mean:.3f} [{low:.3f}, {high:.3f}]", f"{length:.1f}"]
        rows.append([*cells, sum(1 for a, _ in evidence.samples if a == arm)])
    headers = ["row", "arm", *(f"{what} {t}" for t in TIERS for what in ("accuracy", "length")), "seeds"]
    return tables.markdown(headers, rows)


def modes_table(evidence: Evidence) -> str:
    """Arms C (before RL) and D (after) in the three user modes."""
    rows = []
    for tier in TIERS:
        for mode in MODES:
            cells: list[Any] = [tier, mode]
            for arm in ("C", "D"):
                mean, low, high = stats.bootstrap(evidence.matrix(arm, tier, mode, "correct"))
                length = evidence.matrix(arm, tier, mode, "length").mean()
                cells += [f"{mean:.3f} [{low:.3f}, {high:.3f}]", f"{length:.1f}"]
            rows.append(cells)
    headers = ["tier", "mode", "accuracy before RL", "length before", "accuracy after RL", "length after"]
    return tables.markdown(headers, rows)


def probes_table(evidence: Evidence) -> str:
    """Tag against label on held-out prompts, 16 rollouts each at temperature 1."""
    rows = []
    for arm in sorted({arm for arm, _ in evidence.probes}):
        found = agreement(evidence.arm_probes(arm))
        rows.append(
            [f"adactrl/{arm}", f"{found['agreement']:.3f}", f"{found['auc']:.3f}"]
            + [f"{found[f'{t}/easy_tag']:.2f} / {found[f'{t}/easy_label']:.2f}" for t in TIERS]
            + [len(evidence.arm_probes(arm))]
        )
    headers = [
        "row",
        "balanced agreement",
        "AUC of P([Easy])",
        *(f"{t} tag / label" for t in TIERS),
        "prompts",
    ]
    return tables.markdown(headers, rows)


def claims_table(verdicts: list[Verdict], evidence: Evidence) -> str:
    seeds = len({seed for _, seed in evidence.samples})
    rows = [
        [v.claim, v.statement, "; ".join(map(str, v.statistics)), f"{v.n}, {seeds}", f"**{v.verdict}**"]
        for v in verdicts
    ]
    return tables.markdown(
        ["claim", "what is measured", "statistic [95 % interval]", "n, seeds", "verdict"], rows
    )


def per_seed_table(evidence: Evidence) -> str:
    """Savings and accuracy changes of D against B for each seed alone: how far seeds disagree."""
    rows = []
    for seed in sorted({seed for _, seed in evidence.samples}):
        one = Evidence({k: v for k, v in evidence.samples.items() if k[1] == seed})
        cells: list[Any] = [seed]
        for tier in TIERS:
            d, b = (one.matrix(arm, tier, "adaptive", "length") for arm in "DB")
            right_d, right_b = (one.matrix(arm, tier, "adaptive", "correct") for arm in "DB")
            cells += [f"{1 - d.mean() / b.mean():.3f}", f"{right_d.mean() - right_b.mean():+.3f}"]
        rows.append(cells)
    return tables.markdown(
        ["seed", *(f"{w} {t}" for t in TIERS for w in ("saving", "accuracy change"))], rows
    )


def gate_sentence(records: list[dict[str, Any]]) -> str:
    """Which cold starts passed; those that failed got no RL."""
    gates = {r["seed"]: all(Check(**c).passed for c in r["gate"]) for r in records if r.get("gate")}
    text = f"{sum(gates.values())} of {len(gates)} seeds"
    failed = [str(seed) for seed, ok in sorted(gates.items()) if not ok]
    if failed and sum(gates.values()) >= SEEDS_NEEDED:
        text += f" (seed {', '.join(failed)} did not: no RL, and only in the gate's table)"
    return text


def gate_table(records: list[dict[str, Any]]) -> str:
    gates = {r["seed"]: [Check(**c) for c in r["gate"]] for r in records if r.get("gate")}
    first = next(iter(gates.values()))
    rows = []
    for i, check in enumerate(first):
        values = [f"{gates[s][i].value:.3f}{'' if gates[s][i].passed else ' FAIL'}" for s in sorted(gates)]
        rows.append([check.name, f"{check.low:.2f} to {check.high:.2f}", *values])
    return tables.markdown(["condition", "needs", *(f"seed {s}" for s in sorted(gates))], rows)


def kept_shares(results: Path) -> str:
    """Share of arm D's groups that dynamic sampling kept, per tier, over all steps and seeds."""
    kept: dict[str, list[float]] = {tier: [] for tier in TIERS}
    for path in sorted((results / "curves").glob("D-seed*.jsonl")):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            for tier in TIERS:
                if (share := line.get(f"rollout/{tier}/kept")) is not None:
                    kept[tier].append(share)
    means = [f"{tier} {sum(shares) / len(shares):.0%}" for tier, shares in kept.items() if shares]
    return ", ".join(means) or "not recorded"


def runs_table(records: list[dict[str, Any]]) -> str:
    ordered = sorted(records, key=lambda r: (r["row"], r["seed"]))
    rows = [
        [r["row"], r["seed"], r["scale"], r["n"], r["wall_s"], r["commit"][:10], f"`{r['command']}`"]
        for r in ordered
    ]
    return tables.markdown(["row", "seed", "scale", "samples", "wall s", "commit", "command"], rows)


def paper_table() -> str:
    cells = tables.load_paper(HERE / "results" / "paper.csv")
    rows = [[c["column"], c["value"], f"arXiv {c['arxiv_version']}, {c['table']}", c["note"]] for c in cells]
    return tables.markdown(["paper: AdaCtrl against R1-SFT-RL", "value", "where", "note"], rows)


TEXT = """# AdaCtrl: results

Generated by `make -C adactrl tables` from `results/`; do not edit. Scale: **{scale}** (a 0.26 M-parameter
Llama on generated problems), measured on {hardware}. At this scale a row is compared with the paper's
*direction*, never with its numbers. Intervals: 95 % bootstrap over problems, samples of all seeds pooled.

## Claims

Rules fixed beforehand in `claims.py`; gate passed by {gates}.

{claims}

## Arms, adaptive mode

{arms}

## User modes before and after RL (arms C and D)

{modes}

## Difficulty estimation on held-out prompts

Share of [Easy] tags / share of prompts whose online label is easy, per tier.

{probes}

## Seeds apart: D against B

{per_seed}

## Gate after cold start

{gate}

Groups that dynamic sampling kept in arm D (both right and wrong answers among the 16): {kept}.

## The paper's numbers

{paper}

## Commands

{runs}
"""


def render() -> None:
    """Write RESULTS.md, the README's blocks and the figures."""
    records, evidence = load_evidence(HERE / "results")
    if not records:
        text = "# AdaCtrl: results\n\nNo runs recorded yet: `make -C adactrl reproduce`.\n"
        write_text_atomic(HERE / "RESULTS.md", text)
        return
    verdicts = claims.judge(evidence)
    gates = evidence.gate
    blocks = {
        "claims": claims_table(verdicts, evidence),
        "arms": arms_table(records, evidence),
        "modes": modes_table(evidence),
        "probes": probes_table(evidence),
        "per_seed": per_seed_table(evidence),
        "gate": gate_table(records),
        "kept": kept_shares(HERE / "results"),
        "paper": paper_table(),
        "runs": runs_table(records),
    }
    text = TEXT.format(
        scale=records[0]["scale"],
        hardware=", ".join(sorted({r["hardware"] for r in records})),
        gates=gate_sentence(records),
        **blocks,
    )
    write_text_atomic(HERE / "RESULTS.md", text)
    short = [[v.claim, v.statement, str(v.statistics[0]), f"**{v.verdict}**"] for v in verdicts]
    summary = tables.markdown(
        ["claim", "what is measured", "first statistic [95 % interval]", "verdict"], short
    )
    tables.replace_block(HERE / "README.md", "results", f"{summary}\n\n{blocks['modes']}")
    saved = ", ".join(f"{s.estimate:.0%} [{s.low:.0%}, {s.high:.0%}]" for s in verdicts[0].statistics)
    words = ", ".join(f"{v.claim} {v.verdict}" for v in verdicts)
    headline = (
        f"AdaCtrl at small scale ({len(gates)} seeds): responses are shorter than R1-SFT-RL by {saved} "
        f"on the easy, middle and hard tier (95 % intervals). Claims: {words}."
    )
    tables.replace_block(HERE.parent / "README.md", "adactrl-headline", headline)
    result_figures.draw_results(evidence, HERE / "results", HERE / "figures")
