"""The paper's claims as statistics and fixed decision rules (sheet §7.4).

The rules were written down before any run was looked at and are not to be changed afterwards. Per world a
claim is confirmed, refuted or inconclusive *at this scale*; where neither or both rules apply, or with fewer
than 128 items x 16 samples or 3 seeds per cell, it is inconclusive. Where the sheet says "clearly",
"comparable" or "large", the numbers below do; they are ours.

M, G and L are the families of the roles aligned, transfer and weak: M is the family trained on, G|L is G
after training on L. GR is gain recovery (`resampling.py`). The last step is judged; only claim 3 also looks
at the best of the curve, and its statistics say so. Intervals draw seeds, then items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alignment_study.arms import MIN_ITEMS, MIN_SAMPLES, TITLES
from alignment_study.evidence import Evidence, Items, Role
from alignment_study.resampling import Statistic, World, over_seeds, statistic

Word = Literal["confirmed", "refuted", "inconclusive"]
MIN_SEEDS = 3
STRONG, WEAK = 0.95, 0.35  # pass@16 (claim 1)
RECOVERS, NOTHING = 0.2, 0.02  # GR that counts as works; gain that counts as none (claims 3-6)
COMPARABLE = 0.5  # GR on L at which a gain is comparable to ground truth's (claim 3)
HALVED = 0.5  # L "falls towards 0": at most this share of the base's accuracy (claim 4)
EXPLAINED = 0.8  # share of the spurious gain that the format reward must reach (mechanism)
TTRL, ONE_SHOT, NSR = 0.7, 0.4, 0.9  # GR on M (claims 5, 6, 9)
LARGE = 0.1  # effect of selection on L (claim 7)


@dataclass(frozen=True)
class Verdict:
    claim: str
    world: str
    statement: str
    statistics: tuple[Statistic, ...]
    verdict: Word
    n: int  # items x samples per cell and seed
    seeds: int


def judge(evidence: Evidence) -> list[Verdict]:
    """Every claim that there are runs for, claim by claim, in each world."""
    worlds = [World(evidence, name) for name in evidence.worlds()]
    return [
        rule(w) for rule, (variants, trained) in RULES.items() for w in worlds if _has(w, variants, trained)
    ]


def _has(w: World, variants: Sequence[str], trained: Sequence[Role]) -> bool:
    return all(w.has(v, *trained) for v in ("ground_truth", *variants))


def decide(confirmed: bool, refuted: bool) -> Word:
    """Both at once, which the sheet does not exclude, is inconclusive."""
    if bool(confirmed) == bool(refuted):
        return "inconclusive"
    return "confirmed" if confirmed else "refuted"


def _verdict(
    w: World, claim: str, statement: str, found: Sequence[Statistic], confirmed: bool, refuted: bool
) -> Verdict:
    cells = [w.base_items(role) for role in ("aligned", "transfer", "weak")]
    enough = len(w.seeds) >= MIN_SEEDS and all(_enough(items) for cell in cells for items in cell)
    n = min(int(items.n.sum()) for cell in cells for items in cell)
    word = decide(confirmed, refuted) if enough else "inconclusive"
    return Verdict(claim, w.name, statement, tuple(found), word, n, len(w.seeds))


def _enough(items: Items) -> bool:
    return len(items.n) >= MIN_ITEMS and float(np.median(items.n)) >= MIN_SAMPLES


# ---- the rules, in the sheet's order


def _alignment(w: World) -> Verdict:
    """Confirmed: pass@16 of M and G >= 0.95, of L <= 0.35. Refuted: no base model met the gate."""
    roles: tuple[Role, ...] = ("aligned", "transfer", "weak")
    found = [
        statistic(f"pass@16 {letter}", over_seeds(w.base(role, "pass16")))
        for letter, role in zip("MGL", roles, strict=True)
    ]
    strong = all(s.estimate >= STRONG for s in found[:2])
    gates = [gate for (world, _), gate in w.evidence.gates.items() if world == w.name]
    missed = bool(gates) and all(gate is None for gate in gates)
    statement = "pass@k separates the families before any RL"
    return _verdict(w, "1", statement, found, strong and found[2].estimate <= WEAK, missed)


def _ground_truth(w: World) -> Verdict:
    """Confirmed: gain on M and on L with intervals above 0, and no variant is above it on L. Refuted: no gain
    on L."""
    m, weak = (w.gain("ground_truth", role, role) for role in ("aligned", "weak"))
    others = [v for v in TITLES if v not in ("ground_truth", "no_dynamic") and w.has(v, "weak")]
    rivals = {v: w.gain(v, "weak", "weak").estimate for v in others}
    best = max(rivals, key=lambda v: rivals[v]) if rivals else ""
    found = [m, weak, *([w.gain(best, "weak", "weak")] if best else [])]
    top = all(gain <= weak.estimate for gain in rivals.values())
    confirmed = m.low > 0 and weak.low > 0 and top
    statement = "standard RL improves both families and is the best row on L (last: the best other row)"
    return _verdict(w, "2", statement, found, confirmed, weak.estimate <= 0)


def _random(w: World) -> Verdict:
    """Confirmed: GR >= 0.2 on G|L and M at the best of the curve, gain on L <= 0.02. Refuted: on L half of
    ground truth's gain, or a gain on neither M nor G."""
    found, gains = [], []
    cells: tuple[tuple[Role, Role, str], ...] = (("weak", "transfer", "G|L"), ("aligned", "aligned", "M"))
    for trained, role, name in cells:
        best = w.best_steps("random", trained, role)
        recovered = w.recovery("random", trained, role, best)
        found.append(statistic(f"GR random {name}, best of the curve", recovered))
        gains.append(float(w.gains("random", trained, role, steps=best)[0]))
    works = all(s.estimate >= RECOVERS for s in found)
    weak, part = w.gain("random", "weak", "weak"), w.gr("random", "weak", "weak")
    last = [w.gr("random", "weak", "transfer"), w.gr("random", "aligned", "aligned")]
    refuted = part.estimate >= COMPARABLE or max(gains) <= 0
    statement = "a random reward helps where the model is aligned only"
    shown = [*found, weak, part, *last]
    return _verdict(w, "3", statement, shown, works and weak.estimate <= NOTHING, refuted)


def _incorrect(w: World) -> Verdict:
    """Confirmed: trained on L, L falls to half or less while GR(G|L) >= 0.2. Refuted: G does not rise.
    Trained on M the paper's gain is expected not to reproduce: shown, not judged."""
    left = over_seeds(w.accuracy("incorrect", "weak", "weak") / w.base("weak"))
    ratio, rise = statistic("L: after / before", left), w.gr("incorrect", "weak", "transfer")
    found = [ratio, rise, w.gain("incorrect", "weak", "transfer"), w.gain("incorrect", "aligned", "aligned")]
    confirmed = ratio.estimate <= HALVED and rise.estimate >= RECOVERS
    statement = "an incorrect reward on L lowers L and still lifts G (last: on M, where it should fail)"
    return _verdict(w, "4", statement, found, confirmed, found[2].estimate <= 0)


def _mechanism(w: World) -> Verdict:
    """Confirmed: format reaches 80 % of the gain of random and of incorrect on G|L, the ungated random reward
    at most 0.02. Refuted: ungated random gains as much as random."""
    gains = {v: w.gains(v, "weak", "transfer") for v in ("format", "random", "incorrect", "random_ungated")}
    found = [statistic(f"gain {v} G|L", draws) for v, draws in gains.items()]
    form, chance, wrong, ungated = (s.estimate for s in found)
    explained = min(chance, wrong) > 0 and form >= round(EXPLAINED * max(chance, wrong), 9)
    same = ungated > NOTHING and ungated >= round(EXPLAINED * chance, 9)
    statement = "spurious gains are format learning: the format reward gives them, an ungated one does not"
    return _verdict(w, "3, 4 why", statement, found, explained and ungated <= NOTHING, same)


def _majority(w: World) -> Verdict:
    """Confirmed: GR(M) >= 0.7 and gain on L <= 0.02. Refuted: L improves."""
    m, weak = w.gr("majority", "aligned", "aligned"), w.gain("majority", "weak", "weak")
    logged = "rollout/majority_accuracy"
    label = [over_seeds(w.logged("majority", role, logged)) for role in ("aligned", "weak")]
    found = [m, weak, *(statistic(f"vote right {x}", d) for x, d in zip("ML", label, strict=True))]
    found.append(w.gain("majority", "weak", "transfer"))
    confirmed = m.estimate >= TTRL and weak.estimate <= NOTHING
    refuted = weak.estimate > NOTHING and weak.low > 0
    return _verdict(w, "5", "majority-vote RL works where aligned only", found, confirmed, refuted)


def _one_shot(w: World) -> Verdict:
    """Confirmed: GR(M) >= 0.4 and gain on L <= 0.02. Refuted: L improves on sub-tasks other than the
    example's."""
    m, weak = w.gr("one_shot", "aligned", "aligned"), w.gain("one_shot", "weak", "weak")
    others = 1 - w.subtask_mask("one_shot", "weak", "weak")
    unseen = statistic(
        "gain L, other sub-tasks", over_seeds(w.subtask_gains("one_shot", "weak", "weak", others))
    )
    confirmed = m.estimate >= ONE_SHOT and weak.estimate <= NOTHING
    refuted = unseen.estimate > NOTHING and unseen.low > 0
    statement = "one selected example is enough where aligned only"
    return _verdict(w, "6", statement, (m, weak, unseen), confirmed, refuted)


def _selection(w: World) -> Verdict:
    """Confirmed: selected minus random is 0 within noise on L, and >= 0 on M. Refuted: a clear effect of at
    least 0.1 on L."""
    cells: tuple[Role, ...] = ("weak", "aligned")
    draws = [w.gains("one_shot", r, r) - w.gains("one_shot_random", r, r) for r in cells]
    weak, m = (statistic(f"selected - random {x}", d) for x, d in zip("LM", draws, strict=True))
    noise = weak.low <= 0 <= weak.high
    statement = "choosing the example does not rescue a weak family"
    refuted = not noise and abs(weak.estimate) >= LARGE
    return _verdict(w, "7", statement, (weak, m), noise and m.estimate >= 0, refuted)


def _signs(w: World) -> Verdict:
    """Confirmed: GR of NSR on M >= 0.9, and below PSR's on L (interval excludes 0). Refuted: NSR >= PSR on
    L."""
    m = w.gr("negative", "aligned", "aligned")
    weak = [w.gr(v, "weak", "weak") for v in ("negative", "positive")]
    gap = w.recovery("positive", "weak", "weak") - w.recovery("negative", "weak", "weak")
    d = statistic("GR PSR - NSR L", gap)
    statement = "negatives alone match full RL on M and fall behind positives on L"
    confirmed = m.estimate >= NSR and d.low > 0
    return _verdict(w, "9", statement, (m, d, *weak), confirmed, d.estimate <= 0)


def _entropy(w: World) -> Verdict:
    """Confirmed: mean entropy under NSR above GT's and PSR's on both families (intervals exclude 0), and on L
    entropy and accuracy go against each other across variants. Refuted: NSR's is clearly lower somewhere."""
    found = []
    name = "rollout/entropy"
    for letter, role in (("M", "aligned"), ("L", "weak")):
        mine = w.logged("negative", role, name)  # type: ignore[arg-type]
        for other in ("ground_truth", "positive"):
            gap = over_seeds(mine - w.logged(other, role, name))  # type: ignore[arg-type]
            found.append(statistic(f"entropy NSR - {other} {letter}", gap))
    variants = [v for v in TITLES if w.has(v, "weak")]
    entropy = np.stack([over_seeds(w.logged(v, "weak", name)) for v in variants])
    accuracy = np.stack([over_seeds(w.accuracy(v, "weak", "weak")) for v in variants])
    relation = statistic("rank correlation entropy, accuracy L", rank_correlation(entropy, accuracy))
    higher, lower = all(s.low > 0 for s in found), any(s.high < 0 for s in found)
    statement = "NSR keeps entropy up, and on L more entropy goes with less accuracy"
    confirmed = higher and relation.estimate < 0
    return _verdict(w, "10", statement, (*found, relation), confirmed, lower)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(D,) Spearman correlation of the columns of two (N, D) arrays; NaN where one is constant."""

    def ranks(a: np.ndarray) -> np.ndarray:  # about their mean; ties share theirs
        return ((a[:, None] > a[None]).sum(1) - (a[:, None] < a[None]).sum(1)) / 2

    r, s = ranks(x), ranks(y)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (r * s).sum(0) / np.sqrt((r**2).sum(0) * (s**2).sum(0))


def _zero_gradient(w: World) -> Verdict:
    """Over one-shot runs. Confirmed: at every step without a right rollout the gradient is 0, and the gain
    grows with 1 - p^16 - (1-p)^16 of the example. Refuted: such a step has a gradient."""
    largest, silent, shares, gains = 0.0, 0, [], []
    for v in ("one_shot", "one_shot_random"):
        for run, base in zip(w.runs(v, "weak"), w.base_items("weak"), strict=True):
            right = run.curves.get("rollout/accuracy", {})
            norms = run.curves.get("grad_norm", {})
            dead = [norms[step] for step, value in right.items() if value == 0 and step in norms]
            silent, largest = silent + len(dead), max([largest, *dead])
            if run.example is not None:
                p = run.example.accuracy
                shares.append(1 - p**16 - (1 - p) ** 16)
                gains.append(run.items["weak", run.last].share().mean() - base.share().mean())
    relation = float(rank_correlation(np.array([shares]).T, np.array([gains]).T)[0]) if shares else math.nan
    found = (
        Statistic("steps without a right rollout", silent),
        Statistic("largest gradient norm there", largest),
        Statistic("rank correlation of gain with 1 - p^16 - (1-p)^16", relation),
    )
    statement = "an example that is never solved has no gradient"
    confirmed = silent > 0 and largest == 0 and relation > 0
    return _verdict(w, "12", statement, found, confirmed, largest > 0)


RULES: dict[Callable[[World], Verdict], tuple[tuple[str, ...], tuple[Role, ...]]] = {
    _alignment: ((), ("aligned", "weak")),
    _ground_truth: ((), ("aligned", "weak")),
    _random: (("random",), ("aligned", "weak")),
    _incorrect: (("incorrect",), ("aligned", "weak")),
    _mechanism: (("format", "random", "incorrect", "random_ungated"), ("weak",)),
    _majority: (("majority",), ("aligned", "weak")),
    _one_shot: (("one_shot",), ("aligned", "weak")),
    _selection: (("one_shot", "one_shot_random"), ("aligned", "weak")),
    _signs: (("negative", "positive"), ("aligned", "weak")),
    _entropy: (("negative", "positive"), ("aligned", "weak")),
    _zero_gradient: (("one_shot", "one_shot_random"), ("weak",)),
}
