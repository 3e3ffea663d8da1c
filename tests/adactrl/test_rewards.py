"""Rewards against the sheet's hand-computed numbers (§2.3, §7.9), and properties of whole groups."""

from __future__ import annotations

import math
import re
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adactrl.rewards import (
    calibration_reward,
    difficulty_label,
    group_advantages,
    group_reward_parts,
    group_rewards,
    is_informative,
    length_reward,
    outcome_reward,
    overlong_penalty,
)

E, H = "easy", "hard"
VECTORS = {  # sheet §2.3: tags, correct, lengths, gate, label, rewards, mean, std, advantages
    "1": (
        [E, E, H, E],
        [1, 1, 1, 0],
        [100, 200, 400, 200],
        "correct",
        E,
        [1.926777, 1.75, 1.0, -0.5],
        (1.044194, 1.105080),
        [0.798659, 0.638692, -0.039992, -1.397359],
    ),
    "2, gate by tag only": (
        [E, E, H, E],
        [1, 1, 1, 0],
        [100, 200, 400, 200],
        "tag",
        E,
        [1.926777, 1.75, 1.0, -0.25],
        (1.106694, 0.989677),
        [0.828636, 0.650015, -0.107807, -1.370844],
    ),
    "3, label hard": (
        [E, H, None, H],
        [1, 1, 0, 0],
        [100, 300, 200, 400],
        "correct",
        H,
        [1.426777, 1.5, -1.5, -0.5],
        (0.231694, 1.479973),
        [0.807502, 0.856978, -1.170084, -0.494397],
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_sheet_vectors(name: str) -> None:
    tags, correct, lengths, gate, label, rewards, (mean, std), advantages = VECTORS[name]
    right = [bool(c) for c in correct]
    got = group_rewards(right, tags, lengths, length_gate=gate)
    assert difficulty_label(right) == label
    assert got == pytest.approx(rewards, abs=5e-7)
    assert (statistics.fmean(got), statistics.stdev(got)) == pytest.approx((mean, std), abs=5e-7)
    assert group_advantages(got) == pytest.approx(advantages, abs=1.5e-6)


def test_advantage_divides_by_the_unbiased_std_plus_1e_6() -> None:
    assert group_advantages([0.0, 2.0]) == pytest.approx([-1 / (2**0.5 + 1e-6), 1 / (2**0.5 + 1e-6)])
    assert group_advantages([1.0, 1.0 + 2e-6])[1] == pytest.approx(1 / (2**0.5 + 1), rel=1e-6)
    assert group_advantages([0.5] * 4) == [0.0] * 4


@pytest.mark.parametrize(
    ("right", "of", "label"),
    [(10, 16, H), (11, 16, E), (5, 8, H), (6, 8, E), (0, 4, H), (4, 4, E), (2, 4, H), (3, 4, E)],
)
def test_label_is_strictly_above_delta(right: int, of: int, label: str) -> None:
    assert difficulty_label([True] * right + [False] * (of - right)) == label


def test_label_follows_the_threshold() -> None:
    assert difficulty_label([True, True, False, False], threshold=0.5) == H
    assert difficulty_label([True, True, False, False], threshold=0.49) == E
    with pytest.raises(ValueError, match="the group is empty"):
        difficulty_label([])


@pytest.mark.parametrize(
    ("share", "value"),
    [(0, 1), (0.1, 0.9755), (0.25, 0.8536), (0.5, 0.5), (0.75, 0.1464), (0.9, 0.0245), (1, 0)],
)
def test_cosine_table(share: float, value: float) -> None:
    assert length_reward(round(share * 1000), 1000) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(("length", "longest"), [(5, 4), (-1, 4), (0, 0), (1, -1)])
def test_length_reward_refuses_impossible_lengths(length: int, longest: int) -> None:
    with pytest.raises(ValueError, match=f"length={length}, longest={longest}"):
        length_reward(length, longest)


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(1, 0), (20479, 0), (20480, 0), (21504, -0.25), (22528, -0.5), (24576, -1)],
)
def test_overlong_values(length: int, penalty: float) -> None:
    assert overlong_penalty(length, 24576, 4096) == pytest.approx(penalty)
    assert overlong_penalty(length, 24576, 4096, factor=0.5) == pytest.approx(penalty / 2)


def test_overlong_is_added_unweighted_and_a_full_length_correct_answer_nets_zero() -> None:
    (full, short) = group_reward_parts(
        [True, False], [H, H], [24576, 10], alpha=0.0, beta=0.0, max_length=24576, overlong_buffer=4096
    )
    assert (full.outcome, full.overlong, full.total) == (1.0, -1.0, 0.0)  # pitfall 6.21
    assert short.overlong == 0.0
    with pytest.raises(ValueError, match="give both or neither"):
        group_rewards([True], [H], [10], max_length=10)
    for buffer in (0, 11):
        with pytest.raises(ValueError, match=f"buffer={buffer}, max_length=10"):
            overlong_penalty(5, 10, buffer)


# | response | label easy | label hard | as in the docstring of `group_rewards`: constant part, multiple of k
TABLE = {
    "[Easy], correct": (E, True, (1.5, 0.5), (1.0, 0.5)),
    "[Easy], wrong": (E, False, (-0.5, 0.0), (-1.0, 0.0)),
    "[Hard], correct": (H, True, (1.0, 0.0), (1.5, 0.0)),
    "[Hard], wrong": (H, False, (-1.0, 0.0), (-0.5, 0.0)),
    "no tag, correct": (None, True, (0.5, 0.0), (0.5, 0.0)),
    "no tag, wrong": (None, False, (-1.5, 0.0), (-1.5, 0.0)),
}


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("label", [E, H])
@pytest.mark.parametrize("length", [25, 50, 100])
def test_reward_table(case: str, label: str, length: int) -> None:
    tag, correct, *cells = TABLE[case]
    constant, factor = cells[label == H]
    k = {25: 0.8535533905932737, 50: 0.5, 100: 0.0}[length]
    # three companions of length 100 set the label: 3 or 4 of 4 correct is easy, 0 or 1 is hard
    reward = group_rewards([correct] + [label == E] * 3, [tag, H, H, H], [length, 100, 100, 100])[0]
    assert reward == pytest.approx(constant + factor * k)


def test_the_docstring_shows_the_same_table() -> None:
    rows = re.findall(r"\| (.*?) +\| +(\S.*?) +\| +(\S.*?) +\|", group_rewards.__doc__ or "")
    shown = {row[0]: row[1:] for row in rows if row[0] in TABLE}
    assert shown == {
        name: tuple(f"{constant} + k/2" if factor else f"{constant}" for constant, factor in cells)
        for name, (_, _, *cells) in TABLE.items()
    }


def test_longest_counts_wrong_hard_and_untagged_responses() -> None:
    base = group_reward_parts([True, True, False, False], [E, E, H, None], [100, 100, 100, 100])
    assert [p.length for p in base] == [0.0] * 4  # equal lengths: every r_l is 0 (6.10)
    for other in (2, 3):
        lengths = [100, 100, 100, 100]
        lengths[other] = 400
        parts = group_reward_parts([True, True, False, False], [E, E, H, None], lengths)
        assert [p.length for p in parts[:2]] == pytest.approx([0.853553, 0.853553], abs=5e-7)
        assert [p.length for p in parts[2:]] == [0.0, 0.0]


def test_ablation_without_r_f_keeps_only_the_missing_tag_penalty() -> None:
    parts = group_reward_parts([True, True, True, False], [E, H, None, E], [4, 4, 4, 4], calibrate=False)
    assert [p.calibration for p in parts] == [0.0, 0.0, -1.0, 0.0]
    assert [p.total for p in parts] == pytest.approx([1.0, 1.0, 0.5, -1.0])


def test_weights_scale_their_own_term_only() -> None:
    (part, *_) = group_reward_parts(
        [True, True, True, False], [E, H, H, H], [25, 100, 100, 100], alpha=2.0, beta=3.0
    )
    assert (part.outcome, part.calibration) == (1.0, 1.0)
    assert part.total == pytest.approx(1 + 2 + 3 * 0.853553, abs=1e-5)


def test_parts() -> None:
    assert [outcome_reward(True), outcome_reward(False)] == [1.0, -1.0]
    assert [calibration_reward(t, E) for t in (E, H, None)] == [1.0, 0.0, -1.0]
    assert [is_informative(g) for g in ([True, False], [True, True], [False, False])] == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([True], [E, H], [1, 2]), "1 correct, 2 tags, 2 lengths"),
        (([True, False], [E, H], [1]), "2 correct, 2 tags, 1 lengths"),
        (([], [], []), "empty"),
    ],
)
def test_groups_must_be_whole(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_rewards(*arguments)


def test_unknown_gate_is_named() -> None:
    with pytest.raises(ValueError, match="length_gate='tag_only' is not one of correct, tag"):
        group_rewards([True], [E], [1], length_gate="tag_only")  # type: ignore[arg-type]


samples = st.lists(
    st.tuples(st.booleans(), st.sampled_from([E, H, None]), st.integers(1, 500)), min_size=1, max_size=20
)


@given(samples, st.randoms(use_true_random=False), st.sampled_from(["correct", "tag"]))
def test_permuting_the_group_permutes_its_rewards(group: list, random, gate: str) -> None:
    order = list(range(len(group)))
    random.shuffle(order)

    def rewards(rows: list) -> list[float]:
        return group_rewards(*zip(*rows, strict=True), length_gate=gate, max_length=400, overlong_buffer=100)

    assert rewards([group[i] for i in order]) == [rewards(group)[i] for i in order]


@given(samples)
def test_bounds_and_order(group: list) -> None:
    rewards = group_rewards(*zip(*group, strict=True))
    for (correct, tag, _), reward in zip(group, rewards, strict=True):
        low, high = {True: (1.0, 2.0), False: (-1.0, -0.5)}[correct]
        if tag is None:
            low = high = {True: 0.5, False: -1.5}[correct]
        assert low <= reward <= high
    worst_right = [r for (c, _, _), r in zip(group, rewards, strict=True) if c]
    best_wrong = [r for (c, _, _), r in zip(group, rewards, strict=True) if not c]
    if worst_right and best_wrong:  # no style of a wrong answer beats a correct one
        assert min(worst_right) > max(best_wrong)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=16))
def test_advantages_are_centred_and_bounded(rewards: list[float]) -> None:
    advantages = group_advantages(rewards)
    assert math.fsum(advantages) == pytest.approx(0, abs=1e-6)
    assert max(map(abs, advantages)) <= (len(rewards) - 1) / math.sqrt(len(rewards)) + 1e-9


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 300))
def test_length_reward_decreases(a: int, b: int, longest: int) -> None:
    shorter, longer = sorted((min(a, longest), min(b, longest)))
    assert 0 <= length_reward(longer, longest) <= length_reward(shorter, longest) <= 1
