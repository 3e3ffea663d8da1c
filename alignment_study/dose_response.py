"""The alignment dial (sheet §7.5): successive checkpoints of one pre-training as bases of RL on one family.

Task, format and model stay fixed; only pass@k of the base changes. From each of the checkpoints ground truth,
random, majority, one-shot, NSR and PSR are trained, and what they recover is set against pass@16. The paper's
two bins predict a rising curve. `python reproduce.py --dose` runs it; level 0 is the grid's own base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment_study import evidence
from alignment_study.arms import SEEDS, Base, Job, variant
from alignment_study.claims import MIN_SEEDS, Verdict, Word, decide, rank_correlation
from alignment_study.evidence import Evidence, Key, Role
from alignment_study.families import WorldName
from alignment_study.resampling import MIN_GAIN, Statistic, World, over_seeds, statistic
from alignment_study.update_ratio import Bin
from shared import tables

WORLD: WorldName = "one"
WEAK: Role = "weak"
TARGETS = (0.5, 0.8, 0.95)  # pass@16 of the weak family that the later checkpoints should be near
VARIANTS = ("ground_truth", "random", "majority", "one_shot", "negative", "positive")
RUNS = len(SEEDS) * len(TARGETS) * len(VARIANTS)
STRONG_RELATION = 0.8  # rank correlation that the hypothesis predicts
EXAMPLE = 0.1  # accuracy from which a one-shot example tests claim 8
RATIO = "NSR / PSR"


def checkpoints(card: Mapping[str, Any]) -> list[str]:
    """The dial's checkpoints nearest to TARGETS, each once, in the order of training.

    Raises:
        ValueError: the card has fewer than there are targets.
    """
    dial = list(card.get("dial", []))
    if len(dial) < len(TARGETS):
        raise ValueError(
            f"the card lists {len(dial)} later checkpoints, {len(TARGETS)} are needed; pre-train on"
        )
    chosen: list[Mapping[str, Any]] = []
    for target in TARGETS:
        left = [entry for entry in dial if entry not in chosen]
        chosen.append(min(left, key=lambda entry: (abs(entry["weak_pass16"] - target), entry["step"])))
    return [entry["folder"] for entry in sorted(chosen, key=lambda entry: entry["step"])]


def jobs(base: Base, card: Mapping[str, Any]) -> list[Job]:
    """The runs from one base's later checkpoints."""
    starts = checkpoints(card)
    return [Job(variant(v), base.world, WEAK, base.seed, start) for start in starts for v in VARIANTS]


# ---- evidence


def load(results: Path, grid: Evidence) -> tuple[list[dict[str, Any]], list[World]]:
    """The dial's records, and one World per level whose runs are all there; level 0 comes from the grid.

    The levels draw the same seeds and items in a resample.
    """
    records = evidence.records_of(results)
    starts: dict[int, list[str]] = {}
    for seed in sorted({r["seed"] for r in records}):
        of = {r["start"] for r in records if r["seed"] == seed}
        starts[seed] = sorted(of, key=lambda start: int(start.rpartition("-")[2]))
    dial = Evidence(trained=(WEAK,))
    for record in records:
        level = 1 + starts[record["seed"]].index(record["start"])
        key = Key(f"level {level}", WEAK, record["variant"], record["seed"])
        dial.runs[key] = evidence.run_of(record, results)
    for key, run in grid.runs.items():
        if key.world == WORLD and key.trained == WEAK and key.variant in VARIANTS and key.seed in starts:
            dial.runs[key._replace(world="level 0")] = run
    levels = [World(dial, name, stream="dial") for name in dial.worlds()]
    whole = [w for w in levels if w.has_all(VARIANTS, WEAK) and w.seeds == sorted(starts)]
    return records, whole if len(whole) == len(levels) else []


def load_bins(results: Path) -> list[Bin]:
    """The measured update ratios of all checkpoints and seeds."""
    records = tables.current(tables.load_records(results / "ratios.jsonl"))
    tables.refuse_dirty(records)
    ordered = sorted(records, key=lambda r: (r["seed"], r["row"]))
    return [Bin(**found) for record in ordered for found in record["metrics"]["bins"]]


# ---- statistics


@dataclass(frozen=True)
class Relation:
    """Rank correlation of what a variant recovers with the base's pass@16, over levels and seeds."""

    variant: str
    correlation: Statistic
    predicted: bool  # to rise with pass@16
    verdict: Word


def recovered(w: World, name: str) -> np.ndarray:
    """(1 + RESAMPLES, seeds) GR on the weak family; of RATIO, NSR's gain over PSR's."""
    if name != RATIO:
        return w.recoveries(name, WEAK, WEAK)
    base = w.base(WEAK)
    nsr, psr = (w.accuracy(v, WEAK, WEAK) - base for v in ("negative", "positive"))
    return np.where(psr >= MIN_GAIN, nsr / np.where(psr >= MIN_GAIN, psr, 1), np.nan)


def relations(levels: list[World]) -> list[Relation]:
    """Of every variant but ground truth, and of RATIO. Confirmed: at least 0.8 with its interval above 0.
    Refuted: not above 0. Random and PSR are shown; of them nothing is predicted."""
    if not levels:
        return []
    x = np.concatenate([w.base(WEAK, "pass16") for w in levels], axis=1)
    found = []
    for name in (*VARIANTS[1:], RATIO):
        y = np.concatenate([recovered(w, name) for w in levels], axis=1)
        r = statistic(
            f"rank correlation {name}", np.array([_correlation(a, b) for a, b in zip(x, y, strict=True)])
        )
        predicted = name in ("majority", "one_shot", RATIO)
        word: Word = "inconclusive"
        if predicted and len(levels[0].seeds) >= MIN_SEEDS:
            word = decide(r.estimate >= STRONG_RELATION and r.low > 0, r.estimate <= 0)
        found.append(Relation(name, r, predicted, word))
    return found


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3:
        return float("nan")
    return float(rank_correlation(x[known, None], y[known, None])[0])


def within_subtask(levels: list[World]) -> Verdict | None:
    """Claim 8: one example lifts its own sub-task more than the others, at the first level where the base
    solves it at least one time in ten; seeds without such a level are left out.

    Confirmed: within minus others > 0, the interval excludes 0. Refuted: not above 0.
    """
    if not levels:
        return None
    gaps, seeds = [], levels[0].seeds
    for at in range(len(seeds)):
        for w in levels:
            example = w.runs("one_shot", WEAK)[at].example
            if example is not None and example.accuracy >= EXAMPLE:
                gaps.append((w, at))
                break
    if not gaps:
        return None
    draws = np.stack([_gap(w)[:, at] for w, at in gaps], axis=1)
    d = statistic("gain within - others", over_seeds(draws))
    word = decide(d.low > 0, d.estimate <= 0) if len(gaps) >= MIN_SEEDS else "inconclusive"
    statement = "one example generalises within its sub-task, not to the others (later checkpoints)"
    n = min(int(items.n.sum()) for items in levels[0].base_items(WEAK))
    return Verdict("8", WORLD, statement, (d,), word, n, len(gaps))


def _gap(w: World) -> np.ndarray:
    """(1 + RESAMPLES, seeds) gain on the example's sub-task minus gain on the others."""
    mask = w.subtask_mask("one_shot", WEAK, WEAK)
    inside, outside = (w.subtask_gains("one_shot", WEAK, WEAK, m) for m in (mask, 1 - mask))
    return inside - outside
