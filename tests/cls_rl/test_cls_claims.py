"""Every verdict on synthetic outcomes whose accuracies are said: each rule is turned to each side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from cls_rl import claims, curve_numbers, resampling
from cls_rl.arms import ABLATED, EMPTY, LIST_LENGTHS, MAIN_SETS, MATRIX_SEED, SEEDS, SWEPT, ZERO
from cls_rl.claims import Verdict
from cls_rl.data_sets import SETS
from cls_rl.evidence import FLAGS, Cell, Curves, Evidence, Key, RunKey
from cls_rl.resampling import Draws, Statistic, harmonic, statistic
from cls_rl.study import TRANSFERRED, Study

FEW, NEW = "few_shot", "base_to_new"
DRAWINGS, COPIES = 48, 10


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times faster; no outcome in the tests hangs on the third digit of an interval."""
    monkeypatch.setattr(resampling, "RESAMPLES", 200)


def spread(rate: float, count: int) -> np.ndarray:
    """`rate` of `count` are true, spread so evenly that every drawing has nearly the same share."""
    steps = np.floor(np.arange(count + 1) * rate + 1e-9)
    return np.diff(steps) > 0


def cell(
    exact: float = 0.5, in_list: float = 1.0, length: int = 4, drawings: int = DRAWINGS, **flags: Any
) -> Cell:
    """`exact` of the images, all of which are in the list; other flags by rate or array."""
    images = tuple(f"noto-v1/{d:03}.png#{c}" for d in range(drawings) for c in range(COPIES))
    n = len(images)
    obeyed = spread(in_list, n)
    right = np.zeros(n, bool)
    right[np.flatnonzero(obeyed)] = spread(exact / in_list, int(obeyed.sum()))
    made = {name: np.zeros(n, bool) for name in FLAGS} | {
        "exact": right,
        "substring": right,
        "in_list": obeyed,
    }
    made |= {k: spread(v, n) if isinstance(v, float) else v for k, v in flags.items()}
    return Cell(images, made, np.full(n, 4))


def curves(name: str, **found: Any) -> Curves:
    """Forty updates: numbers are constant, functions of the update are not; held out every ten."""
    values: dict[str, Any] = {"accuracy": 0.5, "length": 10.0, "tokens": 100.0, "seconds": 1.0} | found
    held_out = values.pop("held_out", 0.5)

    def at(value: Any, step: int) -> float:
        found: Any = value(step) if callable(value) else value
        return float(found)

    made = {k: {s: at(v, s) for s in range(1, 41)} for k, v in values.items()}
    return {**made, f"{name}/exact": {s: at(held_out, s) for s in range(0, 41, 10)}}


def few_shot(
    rates: Mapping[str, Any], seeds: Iterable[int] = SEEDS, names: Iterable[str] = MAIN_SETS
) -> Evidence:
    """Few-shot cells by arm: a rate or arguments of `cell`."""
    e = Evidence()
    for arm, rate in rates.items():
        made = cell(**rate) if isinstance(rate, Mapping) else cell(rate)
        for name in names:
            e.cells |= {Key(FEW, arm, name, name, seed): made for seed in seeds}
    return e


def base_to_new(rates: Mapping[str, tuple[float, float]]) -> Evidence:
    e = Evidence()
    for arm, halves in rates.items():
        for half, rate in zip(("base", "new"), halves, strict=True):
            e.cells |= {Key(NEW, arm, name, half, s): cell(rate) for name in MAIN_SETS for s in SEEDS}
    return e


def with_curves(e: Evidence, names: Iterable[str] = MAIN_SETS, **arms: Mapping[str, Any]) -> Evidence:
    for arm, found in arms.items():
        for name in names:
            e.curves |= {RunKey(FEW, arm, name, seed): curves(name, **found) for seed in SEEDS}
    return e


def verdict(e: Evidence, claim: str, words: str = "") -> Verdict:
    found = [v for v in claims.judge(Study(e)) if v.claim == claim and words in v.statement]
    assert len(found) == 1, [(v.claim, v.statement) for v in found]
    return found[0]


def turn(claim: str, words: str, cases: Mapping[str, Evidence]) -> None:
    """Each case gives the verdict that is its key (up to a number)."""
    for expected, e in cases.items():
        assert verdict(e, claim, words).verdict == expected.split()[0], expected


# ---- claims 1 and 2


@pytest.mark.parametrize(
    ("baseline", "loss"), [("sft_completion", "(completion"), ("sft_full_text", "(full-text")]
)
def test_few_shot(baseline: str, loss: str) -> None:
    turn("1", loss, {
        "confirmed": few_shot({"thinking": 0.7, baseline: 0.5, "no_thinking": 0.8}),
        "refuted": few_shot({"thinking": 0.4, baseline: 0.5}),
        "inconclusive": few_shot({"thinking": 0.5, baseline: 0.5}),
        "inconclusive 2": few_shot({"thinking": 0.7, baseline: 0.5}, seeds=(1, 2)),
        "inconclusive 3": few_shot({"thinking": 0.7, baseline: 0.5}, names=MAIN_SETS[:1]),
        "inconclusive 4": few_shot({"thinking": {"exact": 0.7, "drawings": 39}, baseline: {"drawings": 39}}),
    })  # fmt: skip
    found = verdict(few_shot({"thinking": 0.7, baseline: 0.5, "no_thinking": 0.8}), "1", loss)
    assert [s.estimate for s in found.statistics] == pytest.approx([0.2, 0.3])
    assert (found.images, found.seeds) == (480, 3)


def test_base_to_new_needs_base_new_and_h() -> None:
    turn("2", "completion", {
        "confirmed": base_to_new({"thinking": (0.8, 0.7), "sft_completion": (0.7, 0.6)}),
        "refuted": base_to_new({"thinking": (0.8, 0.5), "sft_completion": (0.7, 0.6)}),
        "inconclusive": base_to_new({"thinking": (0.8, 0.6), "sft_completion": (0.7, 0.6)}),
    })  # fmt: skip
    found = verdict(base_to_new({"thinking": (0.8, 0.4), "sft_completion": (0.7, 0.7)}), "2", "completion")
    assert found.statistics[2].estimate == pytest.approx(2 * 0.8 * 0.4 / 1.2 - 0.7)


# ---- claim 3


def lists(full: tuple[float, float, float], completion: tuple[float, float, float]) -> Evidence:
    e = Evidence()
    for setting, *rates in zip((*(f"lists_{n}" for n in LIST_LENGTHS), FEW), full, completion, strict=True):
        for arm, rate in zip(("sft_full_text", "sft_completion"), rates, strict=True):
            e.cells |= {Key(setting, arm, ABLATED, ABLATED, seed): cell(rate) for seed in SEEDS}
    return e


def test_long_lists() -> None:
    turn("3", "", {
        "confirmed": lists((0.8, 0.5, 0.2), (0.8, 0.75, 0.7)),
        "refuted": lists((0.8, 0.75, 0.7), (0.8, 0.5, 0.2)),
        "inconclusive": lists((0.8, 0.7, 0.6), (0.7, 0.6, 0.5)),
    })  # fmt: skip
    falling = [np.array([a - 0.1 * np.log2(n)]) for n in (5, 12, 24) for a in (0.9,)]
    assert claims.slope([5, 12, 24], falling) == pytest.approx([-0.1])


# ---- claim 4


def modes(few: tuple[float, float], halves: tuple[tuple[float, float], tuple[float, float]]) -> Evidence:
    e = few_shot(dict(zip(("no_thinking", "thinking"), few, strict=True)))
    e.cells |= base_to_new(dict(zip(("no_thinking", "thinking"), halves, strict=True))).cells
    return e


def test_no_thinking_is_at_least_as_good() -> None:
    turn("4", "", {
        "confirmed": modes((0.8, 0.7), ((0.8, 0.8), (0.7, 0.7))),
        "refuted": modes((0.8, 0.7), ((0.6, 0.6), (0.7, 0.7))),
        "inconclusive": modes((0.8, 0.7), ((0.7, 0.7), (0.7, 0.7))),
    })  # fmt: skip


def test_equal_tokens_compares_with_the_dear_arm_when_it_has_generated_as_many() -> None:
    """40 updates of 100 tokens are 4,000: 10 updates of 400."""
    cheap = curves("food", held_out=0.8)
    dear = curves("food", tokens=400.0, held_out=lambda step: 0.5 + step / 100)
    assert curve_numbers.equal_tokens("food", cheap, dear) == pytest.approx(0.8 - 0.6)
    assert np.isnan(curve_numbers.equal_tokens("food", {}, dear))


# ---- claims 5 and 6: the transfer matrix


def matrix(
    after: Mapping[str, Any], before: Any = 0.4, row: Callable[[str], float] = lambda name: 0.0
) -> Evidence:
    """Every cell of the matrices of `after`; `row` is added to a row's accuracy."""
    e = Evidence()
    start = cell(**before) if isinstance(before, Mapping) else cell(before)
    for method, rate in after.items():
        found = dict(rate) if isinstance(rate, Mapping) else {"exact": rate}
        for tuned in SETS:
            made = cell(**(found | {"exact": found["exact"] + row(tuned)}))
            e.cells |= {Key(FEW, method, tuned, test, MATRIX_SEED): made for test in SETS}
        e.cells |= {Key(FEW, ZERO[method], name, name, MATRIX_SEED): start for name in SETS}  # type: ignore[index]
    return e


def test_free_lunch() -> None:
    def half(name: str) -> float:
        return 0.2 if list(TRANSFERRED).index(name) % 2 else -0.2

    turn("5", "no_thinking", {
        "confirmed": matrix({"no_thinking": 0.5}),
        "refuted": matrix({"no_thinking": 0.3}),
        "inconclusive": matrix({"no_thinking": 0.4}, row=lambda n: 0.0 if n == SWEPT else half(n)),
    })  # fmt: skip
    assert verdict(matrix({"no_thinking": 0.5}), "5").statistics[1].estimate == 1.0
    partial = matrix({"thinking": 0.5})
    del partial.cells[Key(FEW, "thinking", "food", "flags", MATRIX_SEED)]
    assert [v for v in claims.judge(Study(partial)) if v.claim == "5"] == []


def test_the_change_is_split_into_obeying_the_list_and_choosing_better() -> None:
    obeys = matrix({"thinking": {"exact": 0.5, "in_list": 1.0}}, before={"exact": 0.4, "in_list": 0.8})
    total, _, listed, chosen = (s.estimate for s in verdict(obeys, "5").statistics)
    assert (total, listed, chosen) == pytest.approx((0.1, 0.1, 0.0), abs=1e-6)
    chooses = matrix({"thinking": {"exact": 0.6, "in_list": 0.8}}, before={"exact": 0.4, "in_list": 0.8})
    total, _, listed, chosen = (s.estimate for s in verdict(chooses, "5").statistics)
    assert (total, listed, chosen) == pytest.approx((0.2, 0.0, 0.2), abs=1e-6)
    both = matrix({"thinking": {"exact": 0.3, "in_list": 0.5}}, before={"exact": 0.4, "in_list": 1.0})
    total, _, listed, chosen = (s.estimate for s in verdict(both, "5").statistics)
    assert (total, listed + chosen) == pytest.approx((-0.1, -0.1), abs=1e-6)
    assert listed == pytest.approx(-0.5 * (0.6 + 0.4) / 2, abs=1e-6)


def test_the_set_of_the_sweep_is_not_judged() -> None:
    same = matrix({"thinking": 0.5}, row=lambda name: 0.4 if name == SWEPT else 0.0)
    assert verdict(same, "5").statistics[0].estimate == pytest.approx(0.1)
    assert verdict(same, "5").seeds == len(SETS) - 1


def test_no_thinking_transfers_better() -> None:
    turn("6", "", {
        "confirmed": matrix({"no_thinking": 0.6, "thinking": 0.5}),
        "refuted": matrix({"no_thinking": 0.5, "thinking": 0.6}),
        "inconclusive": matrix({"no_thinking": 0.5, "thinking": 0.5}),
    })  # fmt: skip


# ---- claims 7 to 9: curves


def learning(thinking: Mapping[str, Any], no_thinking: Mapping[str, Any]) -> Evidence:
    e = few_shot({"thinking": 0.5, "no_thinking": 0.5})
    return with_curves(e, thinking=thinking, no_thinking=no_thinking)


def test_efficiency() -> None:
    turn("7", "", {
        "confirmed": learning({"seconds": 4.0, "tokens": 300.0}, {}),
        "refuted": learning({"seconds": 0.5, "tokens": 300.0}, {}),
        "inconclusive": learning({"seconds": 1.0, "tokens": 300.0}, {}),
    })  # fmt: skip
    ratios = verdict(learning({"seconds": 4.0, "tokens": 300.0}, {}), "7").statistics
    assert [s.estimate for s in ratios] == pytest.approx([4.0, 3.0])


def test_length() -> None:
    shorter = {"length": lambda s: 20 - s / 4, "accuracy": lambda s: s / 50}
    turn("8", "", {
        "confirmed": learning(shorter, {}),
        "refuted": learning({"length": lambda s: 10 + s / 4, "accuracy": lambda s: s / 50}, {}),
        "inconclusive": learning({"length": lambda s: 20 - s / 4, "accuracy": lambda s: 1 - s / 50}, {}),
    })  # fmt: skip
    change = verdict(learning(shorter, {}), "8").statistics[0]
    assert change.estimate == pytest.approx(-32 / 4)  # updates 33-40 against 1-8
    both = with_curves(learning(shorter, {}), names=[ABLATED], thinking_bnpo={})
    assert verdict(both, "8").statistics[2].estimate == 0


def test_convergence() -> None:
    fast = {"accuracy": 0.7, "held_out": lambda s: 0.5 + s / 100}
    turn("9", "", {
        "confirmed": learning({}, fast),
        "refuted": learning(fast, {}),
        # more reward from the start, no more gain
        "inconclusive": learning({}, {"accuracy": 0.7, "held_out": 0.7}),
    })  # fmt: skip
    found = verdict(learning({}, fast), "9").statistics
    assert [s.estimate for s in found] == pytest.approx([0.2, 0.2, 0.0])


# ---- claims 13 to 16


def on_ablated(thinking: float, answer_first: float, no_thinking: float, reward: float) -> Evidence:
    rates = {"thinking": thinking, "answer_first": answer_first, "no_thinking": no_thinking}
    e = few_shot(rates, names=[ABLATED])
    return with_curves(e, names=[ABLATED], thinking={"accuracy": 0.5}, answer_first={"accuracy": reward})


def test_answer_first_lies_between() -> None:
    turn("13", "", {
        "confirmed": on_ablated(0.5, 0.6, 0.7, 0.6),
        "refuted": on_ablated(0.5, 0.8, 0.7, 0.6),
        "refuted 2": on_ablated(0.5, 0.6, 0.7, 0.4),
        "inconclusive": on_ablated(0.5, 0.6, 0.6, 0.6),
    })  # fmt: skip


def adaptive(accuracy: float, thought: float) -> Evidence:
    rates = {"thinking": 0.5, "no_thinking": 0.7, "adaptive": {"exact": accuracy, "thought": thought}}
    return few_shot(rates, names=[ABLATED])


def test_adaptive_collapses() -> None:
    turn("14", "", {
        "confirmed": adaptive(0.7, 0.0),
        "confirmed 2": adaptive(0.75, 1.0),
        "refuted": adaptive(0.7, 0.5),
        "refuted 2": adaptive(0.6, 0.0),
    })  # fmt: skip
    some = adaptive(0.7, 0.0)
    other = cell(0.7, thought=0.5)
    some.cells[Key(FEW, "adaptive", ABLATED, ABLATED, 2)] = other
    turn("14", "", {"inconclusive": some})


def inconsistent(inside: float, thought: float) -> Evidence:
    """A fifth of the replies is inconsistent, with these accuracies of answer and thought; the rest 0.75."""
    n = DRAWINGS * COPIES
    odd = np.arange(n) % 5 == 0
    right, guessed = np.zeros(n, bool), np.zeros(n, bool)
    right[odd], right[~odd] = spread(inside, int(odd.sum())), spread(0.75, int((~odd).sum()))
    guessed[odd] = spread(thought, int(odd.sum()))
    flags = {"exact": right, "in_list": 1.0, "named": 1.0, "inconsistent": odd, "thought_exact": guessed}
    made = cell(0.5)
    e = few_shot({"thinking": 0.5})
    e.cells = {key: Cell(made.images, {**made.flags, **_arrays(flags, n)}, made.length) for key in e.cells}
    return e


def _arrays(flags: Mapping[str, Any], n: int) -> dict[str, np.ndarray]:
    return {k: spread(v, n) if isinstance(v, float) else v for k, v in flags.items()}


def test_inconsistent_replies() -> None:
    turn("15", "", {
        "confirmed": inconsistent(0.5, 0.25),
        "refuted": inconsistent(0.5, 0.75),
        "refuted 2": inconsistent(1.0, 0.0),
        "inconclusive": inconsistent(0.5, 0.5),
    })  # fmt: skip
    found = verdict(inconsistent(0.5, 0.25), "15").statistics
    assert [s.estimate for s in found] == pytest.approx([0.7 - 0.5, 0.25, 0.2], abs=0.01)


def test_empty_thought_recovers_a_part() -> None:
    turn("16", "", {
        "confirmed": few_shot({"thinking": 0.5, EMPTY: 0.6, "no_thinking": 0.7}),
        "refuted": few_shot({"thinking": 0.5, EMPTY: 0.4, "no_thinking": 0.7}),
        "refuted 2": few_shot({"thinking": 0.5, EMPTY: 0.8, "no_thinking": 0.7}),
        "inconclusive": few_shot({"thinking": 0.5, EMPTY: 0.5, "no_thinking": 0.7}),
    })  # fmt: skip


# ---- resampling


def test_nothing_is_judged_without_runs() -> None:
    assert claims.judge(Study(Evidence())) == []


def test_word_and_sign() -> None:
    assert claims.word(True, True) == claims.word(False, False) == "inconclusive"
    up, down, wide = Statistic("", 1, 0.5, 2), Statistic("", -1, -2, -0.5), Statistic("", 1, -1, 2)
    assert claims.by_sign([up, up]) == "confirmed"
    assert claims.by_sign([up, down]) == "refuted"
    assert claims.by_sign([up, wide]) == "inconclusive"


def test_renderings_of_one_drawing_are_one_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the drawings right in all copies: the interval is that of 48 draws, not of 480."""
    monkeypatch.setattr(resampling, "RESAMPLES", 2000)
    n = DRAWINGS * COPIES
    made = cell(0.5)
    halves = {**made.flags, "exact": np.arange(n) // COPIES % 2 == 0}
    e = Evidence({Key(FEW, "thinking", "food", "food", 1): Cell(made.images, halves, made.length)})
    s = statistic("", Draws(e).share(FEW, "thinking", "food", "food", [1]))
    assert s.estimate == 0.5
    assert s.high - s.low == pytest.approx(2 * 1.96 * 0.5 / DRAWINGS**0.5, rel=0.1)


def test_differences_are_paired_and_seeds_are_drawn() -> None:
    """Seeds far apart: a wide interval of the accuracy, none of a constant difference."""
    e = Evidence()
    for seed, rate in zip(SEEDS, (0.2, 0.5, 0.8), strict=True):
        e.cells[Key(FEW, "a", "food", "food", seed)] = cell(rate)
        e.cells[Key(FEW, "b", "food", "food", seed)] = cell(rate - 0.1)
    draws = Draws(e)
    first, second = (draws.share(FEW, arm, "food", "food", SEEDS) for arm in "ab")
    assert np.ptp(first) > 0.3
    assert np.ptp(first - second) < 0.03
    assert (first - second)[0] == pytest.approx(0.1)


def test_harmonic_mean_of_nothing_is_nothing() -> None:
    assert harmonic(np.array([0.0, 0.5]), np.array([0.0, 1.0])) == pytest.approx([0.0, 2 / 3])


def test_a_statistic_of_no_replies_says_so() -> None:
    none = statistic("answer - thought", np.full(11, np.nan))
    assert str(none) == "answer - thought: no such reply"
    assert not none.above
    assert not none.below
    assert str(statistic("gain", np.full(11, 0.25))) == "gain = 0.250 [0.250, 0.250]"
