"""The paper's claims as statistics and fixed decision rules (sheet §7.5).

The rules were written down before any run was looked at and are not to be changed afterwards. A difference is
"above 0" or "below 0" where its 95 % interval is; a claim is confirmed, refuted or inconclusive *at this
scale*. Where neither rule applies, or a main set has fewer than 3 seeds or a test set fewer than 400 images,
it is inconclusive. Thresholds where the sheet has only words are ours.

Accuracy is exact match, of greedy answers. Claims 10 to 12, 17 and 18 are not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from cls_rl import data_sets
from cls_rl.arms import ABLATED, EMPTY, LIST_LENGTHS, MAIN_SETS, MATRIX_SEED, ZERO
from cls_rl.curve_numbers import (
    at_start,
    early_gain,
    early_reward,
    equal_tokens,
    length_change,
    length_correlation,
    minus,
    ratio_of_medians,
)
from cls_rl.evidence import Key
from cls_rl.resampling import Array, Statistic, statistic
from cls_rl.rewards import Method
from cls_rl.study import FEW, NEW, TRANSFERRED, Study

Word = Literal["confirmed", "refuted", "inconclusive"]
MIN_SEEDS, MIN_IMAGES = 3, 400
LONGEST = data_sets.CLASSES  # names in a few-shot list (claim 3)
ONE_MODE = 0.05  # share of replies with a thought, from 0 or from 1, that counts as one mode (claim 14)
MATCHES = 0.02  # a loss of accuracy that still "matches" (claim 14)


@dataclass(frozen=True)
class Verdict:
    claim: str
    statement: str
    statistics: tuple[Statistic, ...]
    verdict: Word
    images: int  # per test set, the fewest
    seeds: int  # per data set, the fewest; of the transfer matrix: sets tuned on


def judge(study: Study) -> list[Verdict]:
    """Every claim that there are runs for, in the sheet's order."""
    return [verdict for rule in RULES if (verdict := rule(study)) is not None]


def word(confirmed: bool, refuted: bool) -> Word:
    """Both at once is inconclusive."""
    if bool(confirmed) == bool(refuted):
        return "inconclusive"
    return "confirmed" if confirmed else "refuted"


def by_sign(found: Sequence[Statistic]) -> Word:
    """Confirmed: all above 0. Refuted: one below 0."""
    return word(all(s.above for s in found), any(s.below for s in found))


def _verdict(
    study: Study, claim: str, statement: str, found: Sequence[Statistic], verdict: Word,
    cells: Sequence[tuple[str, Sequence[str]]], names: Sequence[str] = MAIN_SETS,
) -> Verdict:  # fmt: skip
    """`cells`: settings, and arms whose common seeds and images must suffice in every one of `names`."""
    seeds, images = [], []
    for setting, arms in cells:
        for name in names:
            common = study.seeds(setting, name, *arms)
            seeds.append(len(common))
            tests = ("base", "new") if setting == NEW else (name,)
            keys = [Key(setting, arms[0], name, test, seed) for test in tests for seed in common]
            images += [len(study.evidence.cells[key].images) for key in keys]
    fewest = min(seeds), min(images, default=0)
    enough = fewest[0] >= MIN_SEEDS and fewest[1] >= MIN_IMAGES
    return Verdict(
        claim, statement, tuple(found), verdict if enough else "inconclusive", fewest[1], fewest[0]
    )


# ---- the rules, in the sheet's order


def _few_shot(baseline: str, loss: str, study: Study) -> Verdict | None:
    """Thinking minus SFT, by sign; No-Thinking minus SFT is shown."""
    if not study.sets(FEW, "thinking", baseline):
        return None
    d = study.difference(FEW, "thinking", baseline)
    others = (
        [study.difference(FEW, "no_thinking", baseline)] if study.sets(FEW, "no_thinking", baseline) else []
    )
    statement = f"rule-based RL beats SFT ({loss} loss), few-shot"
    return _verdict(study, "1", statement, (d, *others), by_sign([d]), [(FEW, ("thinking", baseline))])


def _base_to_new(baseline: str, loss: str, study: Study) -> Verdict | None:
    """Thinking minus SFT on base, new and H, by sign."""
    if not study.sets(NEW, "thinking", baseline):
        return None
    found = [study.difference(NEW, "thinking", baseline, test) for test in ("base", "new", "H")]
    statement = f"rule-based RL beats SFT ({loss} loss), base-to-new"
    return _verdict(study, "2", statement, found, by_sign(found), [(NEW, ("thinking", baseline))])


def _long_lists(study: Study) -> Verdict | None:
    """Slope of accuracy per doubling of the list, full-text minus completion. Confirmed: below 0. Refuted:
    above 0. Shown: both slopes, and full-text SFT minus untuned at the longest list."""
    losses, zero = ("sft_full_text", "sft_completion"), ZERO["thinking"]
    settings = [*(f"lists_{n}" for n in LIST_LENGTHS), FEW]
    if not all(study.seeds(setting, ABLATED, *losses) for setting in settings):
        return None
    lengths = [*LIST_LENGTHS, LONGEST]
    slopes = {
        arm: slope(
            lengths,
            [study.draws.share(s, arm, ABLATED, ABLATED, study.seeds(s, ABLATED, *losses)) for s in settings],
        )
        for arm in losses
    }
    first = statistic("slope full text - completion", slopes["sft_full_text"] - slopes["sft_completion"])
    found = [first, *(statistic(f"slope {arm}", slopes[arm]) for arm in losses)]
    if seeds := study.seeds(FEW, ABLATED, "sft_full_text", zero):
        after, before = (study.draws.share(FEW, a, ABLATED, ABLATED, seeds) for a in ("sft_full_text", zero))
        found.append(statistic(f"sft_full_text - untuned, {LONGEST} names", after - before))
    statement = "long lists break SFT: accuracy falls faster with the list under the full-text loss"
    cells = [(setting, losses) for setting in settings]
    return _verdict(study, "3", statement, found, word(first.below, first.above), cells, [ABLATED])


def slope(lengths: Sequence[int], accuracies: Sequence[Array]) -> Array:
    """Least-squares slope of accuracy over log2 of the list length."""
    x = np.log2(lengths) - np.log2(lengths).mean()
    return np.tensordot(x, np.stack(accuracies), axes=1) / (x**2).sum()


def _no_thinking(study: Study) -> Verdict | None:
    """No-Thinking minus Thinking, few-shot and H, by sign. Shown: the same at equal generated tokens, from
    the learning curves."""
    pair = ("no_thinking", "thinking")
    if not (study.sets(FEW, *pair) and study.sets(NEW, *pair)):
        return None
    found = [study.difference(FEW, *pair), study.difference(NEW, *pair, "H")]
    equal = [statistic("at equal tokens, few-shot", study.over_curves(FEW, pair, equal_tokens))]
    statement = "tuning without thinking is at least as good: No-Thinking - Thinking, few-shot and H"
    shown = [*found, *(s for s in equal if np.isfinite(s.estimate))]
    return _verdict(study, "4", statement, shown, by_sign(found), [(FEW, pair), (NEW, pair)])


def _free_lunch(method: Method, study: Study) -> Verdict | None:
    """Mean off-diagonal change against the untuned model, by sign; rows and columns of the set that learning
    rates were chosen on are left out. Shown: share of cells above 0, and the two summands of the change."""
    if not study.has_matrix(method):
        return None
    draws = {part: study.off_diagonal(method, part) for part in ("exact", "in_list", "given")}
    change = statistic("mean change on other sets", draws["exact"])
    cells = [study.change(method, a, b)[0] for a in TRANSFERRED for b in TRANSFERRED if a != b]
    found = (
        change,
        Statistic("share of cells above 0", float(np.mean(np.array(cells) > 0))),
        statistic("of it by answering from the list", draws["in_list"]),
        statistic("of it by choosing better from the list", draws["given"]),
    )
    statement = f"free lunch: {method} RL on one set lifts the others"
    return _matrix_verdict(study, "5", statement, found, by_sign([change]), [method])


def _transfer(study: Study) -> Verdict | None:
    """Difference of the two methods' changes, by sign."""
    methods: tuple[Method, ...] = ("no_thinking", "thinking")
    if not study.has_matrix(*methods):
        return None
    first, second = (study.off_diagonal(method) for method in methods)
    d = statistic("no_thinking - thinking, change on other sets", first - second)
    pairs = [(a, b) for a in TRANSFERRED for b in TRANSFERRED if a != b]
    above = np.mean([study.change(methods[0], *p)[0] > study.change(methods[1], *p)[0] for p in pairs])
    found = (d, Statistic("share of cells above 0", float(above)))
    statement = "No-Thinking transfers better to other sets than Thinking"
    return _matrix_verdict(study, "6", statement, found, by_sign([d]), methods)


def _matrix_verdict(
    study: Study, claim: str, statement: str, found: Sequence[Statistic], verdict: Word,
    methods: Sequence[Method],
) -> Verdict:  # fmt: skip
    keys = [Key(FEW, m, name, name, MATRIX_SEED) for m in methods for name in TRANSFERRED]
    images = min(len(study.evidence.cells[key].images) for key in keys)
    decided = verdict if images >= MIN_IMAGES else "inconclusive"
    return Verdict(claim, statement, tuple(found), decided, images, len(TRANSFERRED))


def _efficiency(study: Study) -> Verdict | None:
    """Seconds and generated tokens per update, Thinking over No-Thinking. Confirmed: both above 1. Refuted:
    one below 1. (The paper: 16.9 and 4.3 times the time.)"""
    pair = ("thinking", "no_thinking")
    if not study.curves(FEW, pair, MAIN_SETS):
        return None
    found = []
    for name, title in (("seconds", "ratio of seconds per update"), ("tokens", "ratio of generated tokens")):
        ratio = partial(ratio_of_medians, name)
        found.append(statistic(title, study.over_curves(FEW, pair, ratio)))
    verdict = word(all(s.low > 1 for s in found), any(s.high < 1 for s in found))
    statement = "Thinking costs more per update than No-Thinking"
    return _verdict(study, "7", statement, found, verdict, [(FEW, pair)])


def _length(study: Study) -> Verdict | None:
    """Completion length of Thinking, last minus first fifth of the updates, and its correlation with the
    accuracy reward. Confirmed: both below 0. Refuted: the length change above 0. Shown: the change under the
    token-mean loss, which does not favour short replies."""
    if not study.curves(FEW, ("thinking",), MAIN_SETS):
        return None
    found = [
        statistic("change of length", study.over_curves(FEW, ("thinking",), length_change)),
        statistic("correlation with accuracy", study.over_curves(FEW, ("thinking",), length_correlation)),
    ]
    verdict = word(all(s.below for s in found), found[0].above)
    if study.curves(FEW, ("thinking_bnpo",), [ABLATED]):
        changed = study.over_curves(FEW, ("thinking_bnpo",), length_change, [ABLATED])
        found.append(statistic("change of length, mean over tokens", changed))
    statement = "replies get shorter while accuracy rises"
    return _verdict(study, "8", statement, found, verdict, [(FEW, ("thinking",))])


def _convergence(study: Study) -> Verdict | None:
    """No-Thinking minus Thinking: mean accuracy reward over the first 30 updates, and the held-out gain at
    updates 10, 20 and 30 over update 0, as the two do not start equal. By sign. Shown: the start."""
    pair = ("no_thinking", "thinking")
    if not study.curves(FEW, pair, MAIN_SETS):
        return None
    early = statistic("accuracy reward, first 30 updates", study.over_curves(FEW, pair, minus(early_reward)))
    gain = statistic("held-out gain at 10 to 30", study.over_curves(FEW, pair, minus(early_gain)))
    start = statistic("held-out accuracy at 0", study.over_curves(FEW, pair, minus(at_start)))
    statement = "No-Thinking converges faster"
    return _verdict(study, "9", statement, (early, gain, start), by_sign((early, gain)), [(FEW, pair)])


def _answer_first(study: Study) -> Verdict | None:
    """Think-After-Answer minus Thinking, No-Thinking minus Think-After-Answer, and the accuracy reward of the
    first 30 updates minus Thinking's; by sign. One set."""
    arms = ("thinking", "answer_first", "no_thinking")
    if not study.seeds(FEW, ABLATED, *arms):
        return None
    pairs = (("answer_first", "thinking"), ("no_thinking", "answer_first"))
    found = [_on_ablated(study, *pair, arms) for pair in pairs]
    early = study.over_curves(FEW, ("answer_first", "thinking"), minus(early_reward), [ABLATED])
    found.append(statistic("accuracy reward, first 30 updates, answer_first - thinking", early))
    statement = f"Think-After-Answer lies between Thinking and No-Thinking, and converges faster ({ABLATED})"
    return _verdict(study, "13", statement, found, by_sign(found), [(FEW, arms)], [ABLATED])


def _on_ablated(study: Study, a: str, b: str, arms: Sequence[str]) -> Statistic:
    seeds = study.seeds(FEW, ABLATED, *arms)
    first, second = (study.draws.share(FEW, arm, ABLATED, ABLATED, seeds) for arm in (a, b))
    return statistic(f"{a} - {b}", first - second)


def _adaptive(study: Study) -> Verdict | None:
    """Share of replies with a thought after tuning, and accuracy minus that of the better of Thinking and
    No-Thinking. Confirmed: within 0.05 of 0 or of 1 in every seed, and the difference surely above -0.02.
    Refuted: in no seed, or the difference below 0."""
    arms = ("adaptive", "thinking", "no_thinking")
    if not (seeds := study.seeds(FEW, ABLATED, *arms)):
        return None
    keys = [Key(FEW, "adaptive", ABLATED, ABLATED, seed) for seed in seeds]
    shares = [float(study.evidence.cells[key].values("thought").mean()) for key in keys]
    collapsed = [min(share, 1 - share) <= ONE_MODE for share in shares]
    against = [_on_ablated(study, "adaptive", other, arms) for other in arms[1:]]
    worse = min(against, key=lambda s: s.estimate)  # the better of the two is the harder to match
    found = [
        worse,
        *(Statistic(f"share with a thought, seed {s}", v) for s, v in zip(seeds, shares, strict=True)),
    ]
    verdict = word(all(collapsed) and worse.low > -MATCHES, not any(collapsed) or worse.below)
    statement = f"Adaptive-Thinking collapses to one mode and matches the better one ({ABLATED})"
    return _verdict(study, "14", statement, found, verdict, [(FEW, arms)], [ABLATED])


def _inconsistent(study: Study) -> Verdict | None:
    """Over Thinking's few-shot replies. All minus inconsistent accuracy, and among the inconsistent the
    answer's minus the thought's; by sign. Shown: how many there are."""
    arm = ("thinking",)
    if not study.sets(FEW, *arm):
        return None
    share = study.accuracy(FEW, *arm, arm, what="inconsistent", given="named")
    inside = study.accuracy(FEW, *arm, arm, given="inconsistent")
    thought = study.accuracy(FEW, *arm, arm, what="thought_exact", given="inconsistent")
    found = [
        statistic("accuracy, all - inconsistent", study.accuracy(FEW, *arm, arm) - inside),
        statistic("inconsistent: answer - thought", inside - thought),
    ]
    verdict = by_sign(found)
    found.append(statistic("inconsistent, of thoughts that name an option", share))
    statement = "thought and answer can differ; such replies are worse, and their answer beats their thought"
    return _verdict(study, "15", statement, found, verdict, [(FEW, arm)])


def _empty_thought(study: Study) -> Verdict | None:
    """Empty thought at inference minus Thinking, and No-Thinking minus empty thought; by sign."""
    arms = (EMPTY, "thinking", "no_thinking")
    if not study.sets(FEW, *arms):
        return None
    of = {arm: study.accuracy(FEW, arm, arms) for arm in arms}
    found = [
        statistic(f"{EMPTY} - thinking", of[EMPTY] - of["thinking"]),
        statistic(f"no_thinking - {EMPTY}", of["no_thinking"] - of[EMPTY]),
    ]
    statement = "removing the thought at inference recovers a part of what No-Thinking training gains"
    return _verdict(study, "16", statement, found, by_sign(found), [(FEW, arms)])


LOSSES = (("sft_completion", "completion"), ("sft_full_text", "full-text"))
RULES: tuple[Callable[[Study], Verdict | None], ...] = (
    *(partial(_few_shot, *loss) for loss in LOSSES),
    *(partial(_base_to_new, *loss) for loss in LOSSES),
    _long_lists,
    _no_thinking,
    partial(_free_lunch, "thinking"),
    partial(_free_lunch, "no_thinking"),
    _transfer,
    _efficiency,
    _length,
    _convergence,
    _answer_first,
    _adaptive,
    _inconsistent,
    _empty_thought,
)
