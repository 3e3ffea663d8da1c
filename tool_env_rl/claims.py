"""The paper's claims as statistics and fixed decision rules (sheet §7.8).

The rules were written down before any run was looked at and are not to be changed afterwards. A claim is
confirmed, refuted or inconclusive *at this scale*; where neither or both rules apply, or with fewer than
MIN_SEEDS seeds or MIN_ENVIRONMENTS environments, it is inconclusive. Intervals draw seeds, then environments
(`resampling.py`); "clearly" means that the interval excludes 0 and so does the p-value, Holm-adjusted within
the claim's family. Where the sheet leaves a number or a reading open, ours is in the rule's docstring (D15).

Claim 4 (small open models against closed ones) needs closed models and is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from tool_env_rl import layer_claims, sanity
from tool_env_rl.arms import REWARDS
from tool_env_rl.evidence import Evidence
from tool_env_rl.resampling import (
    Statistic,
    calls_per_turn,
    difference,
    holm,
    level_correlation,
    of_arm,
    statistic,
)
from tool_env_rl.verdicts import MIN_ENVIRONMENTS, MIN_SEEDS, Verdict, decide, verdict

GAIN = 0.05  # claims 1, 2: points of Solve-F1
MARGIN = 0.02  # claim 5: equivalence of general accuracy
NOT_WORSE = 0.01  # claim 6b
ORDERED = 0.90  # claim 6a: share of draws with the predicted order of calls per turn
ALGORITHMS = ("grpo", "reinforce_pp")
MULTI_TYPE = ("multi_hop", "parallel_multi_hop")  # claim 8: where thinking helps
SINGLE_TYPE = ("single_hop", "parallel_single_hop")


def judge(evidence: Evidence) -> list[Verdict]:
    """Every claim and sanity control that there are runs for, in the sheet's order."""
    return [found for rule in RULES for found in rule(evidence)]


def _trained(e: Evidence) -> list[str]:
    return [arm for arm in ALGORITHMS if e.seeds(arm, "base")]


# ---- the rules, in the sheet's order


def _in_domain(e: Evidence) -> list[Verdict]:
    """Confirmed: the gain in Solve-F1 is clearly above 0 and at least 5 points. Refuted: its interval ends
    below 5 points. Family: the algorithms."""
    arms = _trained(e)
    gains = [statistic("gain in Solve-F1", difference(e, arm, "base", "solve_f1")) for arm in arms]
    statement = "RL on built environments raises Solve-F1"
    return [
        verdict(e, "1, 2", (arm, "base"), statement, [g], g.above and g.estimate >= GAIN, g.high < GAIN)
        for arm, g in zip(arms, holm(gains), strict=True)
    ]


def _out_of_domain(e: Evidence) -> list[Verdict]:
    """Confirmed: OOD-1 accuracy (mean of Direct, Mandatory, Free) and OOD-2 (mean of TS, PI, CF) both clearly
    gain. Refuted: one of them clearly loses. Family: both of all algorithms. OOD-3 is shown, not judged."""
    arms, names = _trained(e), {"chains": "gain on OOD-1", "noisy": "gain on OOD-2"}
    gains = [statistic(t, difference(e, arm, "base", m)) for arm in arms for m, t in names.items()]
    family, verdicts = holm(gains), []
    for index, arm in enumerate(arms):
        judged = family[2 * index : 2 * index + 2]
        shown = [*judged, statistic("on OOD-3", difference(e, arm, "base", "tables"))]
        up, down = all(s.above for s in judged), any(s.below for s in judged)
        statement = "the gain carries over to longer chains and to perturbed names"
        verdicts.append(verdict(e, "3", (arm, "base"), statement, shown, up, down))
    return verdicts


def _general(e: Evidence) -> list[Verdict]:
    """Confirmed: two one-sided tests at 5 % within 2 points, that is, the 90 % interval lies inside. Refuted:
    the 95 % interval lies below -2 points."""
    verdicts = []
    for arm in _trained(e):
        draws = difference(e, arm, "base", "general")
        change = statistic("change of general accuracy", draws)
        low, high = np.quantile(draws[1:], [0.05, 0.95])
        same = bool(low > -MARGIN and high < MARGIN)
        statement = "tasks without tools do not suffer"
        verdicts.append(verdict(e, "5", (arm, "base"), statement, [change], same, change.high < -MARGIN))
    return verdicts


def _balance(e: Evidence) -> list[Verdict]:
    """Confirmed: more Solve-R than with q / p and more Solve-P than with q, clearly, and calls per turn in
    the order q > q²/p > 2q/(p+1) > q/p in 90 % of the draws. Refuted: one of the first two is clearly
    reversed."""
    arms = ("grpo", *REWARDS)
    if not (seeds := e.seeds(*arms)):
        return []
    pairs = (("precision", "solve_r", "Solve-R, over q / p"), ("rate", "solve_p", "Solve-P, over q"))
    found = holm([statistic(title, difference(e, "grpo", arm, m)) for arm, m, title in pairs])
    calls = [calls_per_turn(e, arm, seeds) for arm in ("rate", "pr", "grpo", "precision")]
    ordered = np.all([a > b for a, b in pairwise(calls)], axis=0)
    share = Statistic("draws with calls per turn in the predicted order", float(ordered[1:].mean()))
    names = ("q", "q² / p", "2q / (p + 1)", "q / p")
    shown = [Statistic(f"calls per turn, {n}", float(c[0])) for n, c in zip(names, calls, strict=True)]
    confirmed = all(s.above for s in found) and share.estimate >= ORDERED
    refuted = any(s.below for s in found)
    statement = "2q / (p + 1) balances precision and completeness"
    return [verdict(e, "6a", arms, statement, [*found, share, *shown], confirmed, refuted)]


def _best_reward(e: Evidence) -> list[Verdict]:
    """Confirmed: Solve-F1 minus that of the best other reward (by its mean) is not below -1 point, and the
    training reward of q²/p has the larger standard deviation over batches and seeds. Refuted: clearly lower
    Solve-F1 than another reward. The two rewards have different ranges; the comparison is the sheet's."""
    arms = ("grpo", *REWARDS)
    if not (seeds := e.seeds(*arms)):
        return []
    others = {arm: of_arm(e, arm, "solve_f1", seeds) for arm in REWARDS}
    mine = of_arm(e, "grpo", "solve_f1", seeds)
    best = max(others, key=lambda arm: others[arm][0])
    margin = statistic(f"Solve-F1 minus that of {REWARDS[best]}", mine - others[best])
    rivals = holm([statistic(REWARDS[arm], mine - draws) for arm, draws in others.items()])
    spread = {arm: reward_spread(e, arm, seeds) for arm in ("grpo", "pr")}
    names = {"grpo": "2q / (p + 1)", "pr": "q² / p"}
    shown = [Statistic(f"std of the training reward, {names[arm]}", spread[arm]) for arm in spread]
    confirmed = margin.low >= -NOT_WORSE and spread["pr"] > spread["grpo"]
    statement = "2q / (p + 1) is the best of the four rewards, and steadier than q² / p"
    return [verdict(e, "6b", arms, statement, [margin, *shown], confirmed, any(s.below for s in rivals))]


def reward_spread(e: Evidence, arm: str, seeds: Sequence[int]) -> float:
    """Standard deviation of the mean reward per batch, over batches and seeds; NaN where none was logged."""
    logged = [v for seed in seeds for v in e.curves.get((arm, seed), {}).get("reward", {}).values()]
    return float(np.std(logged)) if logged else math.nan


def _thinking(e: Evidence) -> list[Verdict]:
    """Before RL, a base model that names its sub-questions first against one that does not. Confirmed: it
    clearly gains Solve-F1 on multi-hop types and clearly loses on single-hop types. Refuted: the opposite."""
    arms = ("thinking_base", "base")
    if not e.seeds(*arms):
        return []
    kinds = {"multi-hop types": MULTI_TYPE, "single-hop types": SINGLE_TYPE}
    found = [statistic(f"gain, {t}", difference(e, *arms, "solve_f1", k)) for t, k in kinds.items()]
    multi, single = found = holm(found)
    statement = "thinking helps in multi-hop scenarios and hurts in single-hop ones"
    confirmed, refuted = multi.above and single.below, multi.below and single.above
    return [verdict(e, "8", arms, statement, found, confirmed, refuted)]


def _verifiable(e: Evidence) -> list[Verdict]:
    """Confirmed: in two evaluations of every seed the feedback and the rewards are the same bytes, every
    environment is valid, no code was refused, no call killed. Refuted: any mismatch."""
    repeats = {seed: e.runs["base", seed].repeat for seed in e.seeds("base") if e.runs["base", seed].repeat}
    if not repeats:
        return []
    found = repeats.values()
    differing = sum(len(set(r["feedback"])) > 1 or len(set(r["rewards"])) > 1 for r in found)
    invalid = sum(r["environments"] - r["validated"] for r in found)
    attempts = sum(r["refused_codes"] + r["killed_calls"] for r in found)
    statistics = (
        Statistic("seeds whose second evaluation differs", differing),
        Statistic("invalid environments", invalid),
        Statistic("refused codes and killed calls", attempts),
    )
    word = decide(differing + invalid + attempts == 0, differing + invalid + attempts > 0)
    n = min(r["environments"] for r in found)
    word = word if len(repeats) >= MIN_SEEDS and n >= MIN_ENVIRONMENTS else "inconclusive"
    statement = "feedback is deterministic, local and verifiable"
    return [Verdict("9", "base", statement, statistics, word, n, len(repeats))]


def _scaling(e: Evidence) -> list[Verdict]:
    """Confirmed: Spearman's correlation of level and the base's Solve-F1 is below 0, p < 0.05. Refuted: above
    0, p < 0.05."""
    if not e.seeds("base") or not all(e.runs["base", seed].levels for seed in e.seeds("base")):
        return []
    found = statistic("rank correlation of level and Solve-F1", level_correlation(e, "base"))
    statement = "complexity scaling makes environments harder, L0 to L4"
    return [verdict(e, "scaling", ("base",), statement, [found], found.below, found.above)]


RULES: tuple[Callable[[Evidence], list[Verdict]], ...] = (
    _in_domain,
    _out_of_domain,
    _general,
    _balance,
    _best_reward,
    layer_claims.where,
    layer_claims.causes,
    _thinking,
    _verifiable,
    _scaling,
    sanity.random_reward,
    sanity.scripted,
)
