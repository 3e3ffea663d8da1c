"""The central statistic: does what a variant recovers depend on alignment?

    D(variant) = GR on M - GR on L        each after training on that family, per seed, then the mean

positive if the variant works where the model is aligned and not where it is weak. The paper's thesis is D > 0
for its tricks; ground truth has D = 0 by definition. In the swapped world the same algorithms meet the same
families in exchanged roles, so a D > 0 in both worlds is due to alignment and not to the families.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignment_study.arms import TITLES, TRICKS
from alignment_study.claims import MIN_SEEDS, NOTHING, RECOVERS, Word, decide
from alignment_study.evidence import Evidence, Role
from alignment_study.resampling import Statistic, World, holm, over_seeds, p_value, statistic


@dataclass(frozen=True)
class Interaction:
    """D of one variant in one world, or of all tricks together."""

    world: str
    variant: str
    aligned: Statistic  # GR on M
    weak: Statistic  # GR on L
    difference: Statistic
    p: float  # adjusted by Holm among the tricks of the world; NaN where not tested
    verdict: Word  # on D > 0, which is predicted of tricks only
    seeds: int


def differences(w: World, variant: str) -> np.ndarray:
    """(1 + RESAMPLES, seeds) GR on M minus GR on L."""
    return w.recoveries(variant, "aligned", "aligned") - w.recoveries(variant, "weak", "weak")


def interactions(evidence: Evidence) -> list[Interaction]:
    """Per world: every variant with runs on both families, then its tricks pooled."""
    found = []
    for w in (World(evidence, name) for name in evidence.worlds()):
        shown = [v for v in TITLES if v != "ground_truth" and w.has(v, "aligned", "weak")]
        draws = {v: over_seeds(differences(w, v)) for v in shown}
        tested = [v for v in shown if v in TRICKS]
        adjusted = holm({v: p_value(draws[v]) for v in tested})
        for v in shown:
            found.append(_one(w, v, [v], draws[v], adjusted.get(v, float("nan"))))
        if tested:
            pooled = np.mean([draws[v] for v in tested], axis=0)
            found.append(_one(w, "tricks pooled", tested, pooled, p_value(pooled)))
    return found


def both_worlds(evidence: Evidence) -> Statistic | None:
    """Mean of the pooled D over the worlds; None before there are two."""
    worlds = [World(evidence, name) for name in evidence.worlds()]
    common = [v for v in TRICKS if all(w.has(v, "aligned", "weak") for w in worlds)]
    if len(worlds) < 2 or not common:
        return None
    draws = [over_seeds(differences(w, v)) for w in worlds for v in common]
    return statistic("D, tricks and worlds pooled", np.mean(draws, axis=0))


def _one(w: World, name: str, variants: list[str], d: np.ndarray, p: float) -> Interaction:
    def pooled(role: Role) -> Statistic:
        return statistic("GR", np.mean([w.recovery(v, role, role) for v in variants], axis=0))

    difference = statistic(f"D {name}", d)
    word: Word = "inconclusive"
    if len(w.seeds) >= MIN_SEEDS and p < 0.05:
        word = decide(difference.low > 0, difference.high < 0)
    return Interaction(w.name, name, pooled("aligned"), pooled("weak"), difference, p, word, len(w.seeds))


@dataclass(frozen=True)
class Contrary:
    """A cell whose interval lies against the paper."""

    world: str
    variant: str
    cell: str
    paper: str
    found: Statistic


def against_the_paper(evidence: Evidence) -> list[Contrary]:
    """Cells whose gain clearly contradicts what the paper says of the tricks, listed whatever the verdicts.

    Where aligned (M, and G after training on L) it reports a gain: contrary if the interval of GR lies below
    RECOVERS. On L it reports none: contrary if the interval of the gain lies above NOTHING. NSR on L is one
    of its tricks; PSR, which the paper says does learn L, is contrary if its gain lies below NOTHING.
    """
    found = []
    for w in (World(evidence, name) for name in evidence.worlds()):
        for v in TRICKS:
            aligned: tuple[tuple[Role, Role, str], ...] = (
                ("aligned", "aligned", "M"),
                ("weak", "transfer", "G|L"),
            )
            for trained, role, cell in aligned:
                if w.has(v, trained) and (gr := w.gr(v, trained, role)).high < RECOVERS:
                    found.append(Contrary(w.name, v, cell, f"GR of at least {RECOVERS:g}", gr))
            if w.has(v, "weak") and (gain := w.gain(v, "weak", "weak")).low > NOTHING:
                found.append(Contrary(w.name, v, "L", "no gain", gain))
        if w.has("positive", "weak") and (gain := w.gain("positive", "weak", "weak")).high < NOTHING:
            found.append(Contrary(w.name, "positive", "L", "a gain", gain))
    return found
