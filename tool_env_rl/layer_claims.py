"""Claim 7: where RL changes the weights, and which of them the gain needs (sheet §7.9; D16)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tool_env_rl.evidence import Evidence, Layers
from tool_env_rl.resampling import Array, Statistic, holm, mean, statistic, values
from tool_env_rl.verdicts import MIN_SEEDS, Verdict, decide


def where(e: Evidence) -> list[Verdict]:
    """Primary measure: relative change of a matrix over that of the random-reward run (§7.9). Confirmed: S,
    low MLP over all others, has a t-interval over seeds above 1, and low MLP ranks first in all seeds.
    Refuted: its mean rank is below the median."""
    if not e.layers:
        return []
    found = list(e.layers.values())
    s = t_interval("S, low MLP over all others", [layers.s for layers in found])
    ranks = [layers.low_mlp_rank for layers in found]
    groups = len(found[0].groups)
    rank = Statistic(f"mean rank of low MLP among {groups}", float(np.mean(ranks)))
    confirmed = s.low > 1 and all(r == 1 for r in ranks)
    word = decide(confirmed, rank.estimate > (groups + 1) / 2)
    word = word if len(found) >= MIN_SEEDS else "inconclusive"
    statement = "RL changes the MLPs of the lowest layers most"
    return [Verdict("7 where", "grpo", statement, (s, rank), word, 0, len(found))]


def t_interval(name: str, sample: Sequence[float]) -> Statistic:
    """Mean over seeds with Student's 95 % interval; none with one seed."""
    from scipy.stats import t

    n, centre = len(sample), float(np.mean(sample))
    if n < 2:
        return Statistic(name, centre)
    half = float(t.ppf(0.975, n - 1) * np.std(sample, ddof=1) / math.sqrt(n))
    return Statistic(name, round(centre, 9), centre - half, centre + half)


def graft_draws(e: Evidence, seeds: Sequence[int], group: str) -> dict[str, Array]:
    """Solve-F1 that is lost when `group` is reset to the base ("reset"), and gained when only it is trained
    ("only")."""
    layers = [e.layers[seed] for seed in seeds]

    def of(how: str) -> Array:
        return np.array([found.grafts[how, group] for found in layers])

    trained, base = (values(e, arm, seeds, "solve_f1") for arm in ("grpo", "base"))
    return {"reset": mean(trained - of("reset"), "test"), "only": mean(of("only") - base, "test")}


def graft_groups(layers: Layers) -> list[str]:
    """Groups of weights that were exchanged."""
    return list(dict.fromkeys(group for _, group in layers.grafts))


def causes(e: Evidence) -> list[Verdict]:
    """Confirmed: low MLP has the largest loss when reset and the largest gain when alone, each clearly above
    the best other group's. Refuted: another group's is clearly above it in one of them."""
    seeds = [seed for seed in e.seeds("grpo", "base") if seed in e.layers]
    if not seeds:
        return []
    draws = {g: graft_draws(e, seeds, g) for g in graft_groups(e.layers[seeds[0]])}
    if "low mlp" not in draws:
        return []
    found = []
    for how, title in (("reset", "loss if reset"), ("only", "gain alone")):
        others = {g: d[how] for g, d in draws.items() if g != "low mlp"}
        best = max(others, key=lambda g: others[g][0])
        found.append(statistic(f"{title}, low MLP - {best}", draws["low mlp"][how] - others[best]))
    found = holm(found)
    shown = [statistic(f"{g}: loss if reset", d["reset"]) for g, d in draws.items()]
    shown += [statistic(f"{g}: gain alone", d["only"]) for g, d in draws.items()]
    up, down = all(s.above for s in found), any(s.below for s in found)
    word = decide(up, down) if len(seeds) >= MIN_SEEDS else "inconclusive"
    n = len(e.runs["grpo", seeds[0]].test)
    statement = "the gain needs the low MLPs, and they alone bring it"
    return [Verdict("7 why", "grpo", statement, (*found, *shown), word, n, len(seeds))]
