"""The generated task: hand-worked chains, solutions that parse back and grade True, disjoint splits."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adactrl import chains
from adactrl.chains import Chain
from adactrl.data import chain_problems
from shared.answers import grade, last_boxed

BY_HAND = {  # of 3 6 3 5
    "rev": "5363",
    "rotl": "6353",
    "swap": "6335",
    "+1": "4746",
    "+2": "5857",
    "+3": "6968",
    "+4": "7079",
    "+5": "8180",
}
SPLITS = ("train", "validation", "test")


def digits(text: str) -> tuple[int, ...]:
    return tuple(map(int, text))


@pytest.mark.parametrize("op", chains.PLAIN_OPS)
def test_each_operation_by_hand(op: str) -> None:
    assert chains.apply(digits("3635"), op) == digits(BY_HAND[op])


def test_operations_keep_leading_zeros_and_wrap_around() -> None:
    assert chains.apply(digits("0012"), "rev") == digits("2100")
    assert chains.apply(digits("9058"), "+5") == digits("4503")
    assert chains.apply(digits("1234"), "rotl") == digits("2341")
    assert chains.apply(digits("1234"), "swap") == digits("2134")


def test_unknown_operation_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"op='flip' is not one of rev, rotl"):
        chains.apply(digits("1234"), "flip")


def test_a_chain_by_hand() -> None:
    chain = Chain(digits("3141"), ("rev", "+2", "swap"), hard=False)
    assert chain.question == "3 1 4 1 : rev +2 swap"
    assert chain.states == [digits("1413"), digits("3635"), digits("6335")]
    assert chain.answer == "6 3 3 5"
    assert chain.short == "3 6 3 5 \\boxed{ 6 3 3 5 }"
    assert chain.long == (
        "start 3 1 4 1 ; rev 1 4 1 3 ; +2 3 6 3 5 ; swap 6 3 3 5 ; wait 6 3 3 5 \\boxed{ 6 3 3 5 }"
    )


def test_the_dice_is_fair_fixed_per_question_and_not_in_the_digits() -> None:
    drawn = chains.tier_problems("T3", 600, "test", seed=0)
    thrown = Counter(chain.thrown for chain in drawn)
    assert set(thrown) == {"+1", "+2", "+3"}
    assert min(thrown.values()) > 600 / 3 - 60
    for chain in drawn[:50]:
        at = chain.ops.index(chains.DICE)
        before = chain.states[at - 1] if at else chain.start
        assert chain.states[at] == chains.apply(before, chain.thrown)
        assert Chain(chain.start, chain.ops, True).states == chain.states
    # the same digits and operations up to the dice can go on in all three ways
    ways = {Chain(digits("1234"), (chains.DICE, "rev", op), True).thrown for op in chains.PLAIN_OPS}
    assert ways == {"+1", "+2", "+3"}


def test_the_docstring_example_is_right() -> None:
    question = re.search(r"question +(.*)", chains.__doc__ or "")[1]
    answer = re.search(r"answer +((?:\d )+\d)", chains.__doc__ or "")[1]
    start, ops = question.split(" : ")
    assert Chain(digits(start.replace(" ", "")), tuple(ops.split()), hard=False).answer == answer


@pytest.mark.parametrize(
    ("count", "intermediate"),
    [(1, []), (2, []), (3, [2]), (4, [2]), (5, [2, 4]), (6, [2, 4]), (8, [2, 4, 6])],
)
def test_short_writes_the_state_after_every_second_operation(count: int, intermediate: list[int]) -> None:
    chain = Chain(digits("1234"), ("rev", "+1", "rotl", "+2", "swap", "+3", "rev", "+4")[:count], hard=True)
    written = chain.short.removesuffix(chain.boxed).split()
    states = [" ".join(map(str, chain.states[i - 1])) for i in intermediate]
    assert " ".join(written) == " ".join(states)


@pytest.mark.parametrize(
    ("count", "hard", "difficulty"),
    [
        *[(1, False, 2), (2, False, 2), (3, False, 4), (4, False, 5), (5, False, 6)],
        *[(1, True, 7), (2, True, 7), (4, True, 8), (6, True, 9), (8, True, 9)],
    ],
)
def test_difficulty(count: int, hard: bool, difficulty: float) -> None:
    assert Chain(digits("1234"), ("rev",) * count, hard).difficulty == difficulty


some_chains = st.builds(
    Chain,
    st.tuples(*[st.integers(0, 9)] * 4),
    st.lists(st.sampled_from((*chains.PLAIN_OPS, chains.DICE)), min_size=1, max_size=8).map(tuple),
    st.just(True),
)


@given(some_chains)
def test_every_style_parses_back(chain: Chain) -> None:
    for prefix, solution in (("[Easy] ", chain.short), ("[Hard] ", chain.long), ("", chain.long)):
        assert last_boxed(prefix + solution).strip() == chain.answer
        assert grade(prefix + solution, chain.answer) is True
        assert set((prefix + solution + " " + chain.question).split()) <= set(chains.WORDS)
    # the long solution shows each operation with the state it leads to
    steps = chain.long.split(" ; ")[1:-1]
    assert [step.split()[0] for step in steps] == list(chain.ops)
    assert [digits("".join(step.split()[-4:])) for step in steps] == chain.states
    said = [step.split()[1] for step in steps if step.startswith(chains.DICE)]
    assert said == [chain.thrown] * chain.ops.count(chains.DICE)
    assert len(chain.long.split()) == 6 * len(chain.ops) + len(said) + 6 + 5 + 6


WRONG = [  # answer, gold: what a grader that reads juxtaposed digits as a product would accept
    ("1 3 4 1", "3 1 4 1"),
    ("2 2 3 1", "3 1 4 1"),
    ("0 8 0 5", "8 0 5 0"),
    ("0 1 2 3", "9 0 9 9"),
    ("3 1 4", "3 1 4 1"),
    ("3 1 4 1 1", "3 1 4 1"),
    ("+2 3 4 5", "3 4 5 2"),
    ("0", "9 0 9 9"),
    ("9", "1 9 1 1"),
    ("6 2", "3 1 4 1"),
    ("", "3 1 4 1"),
]


@pytest.mark.parametrize(("answer", "gold"), WRONG)
def test_other_digits_are_wrong(answer: str, gold: str) -> None:
    assert grade(f"\\boxed{{ {answer} }}", gold) is False


@given(st.permutations(range(10)).map(lambda p: p[:4]), st.permutations(range(4)))
def test_only_the_right_order_of_the_digits_is_right(start: list[int], order: list[int]) -> None:
    gold = " ".join(map(str, start))
    response = "\\boxed{ " + " ".join(str(start[i]) for i in order) + " }"
    assert grade(response, gold) is (order == [0, 1, 2, 3])


def test_splits_are_disjoint_and_every_cell_draws() -> None:
    questions: dict[str, set[str]] = {}
    for tier in chains.TIERS:
        for split in SPLITS:
            found = chains.tier_problems(tier, 60, split, seed=0)
            assert len({c.question for c in found}) == 60
            assert {c.split for c in found} == {split}
            assert {len(c.ops) for c in found} <= set(chains.LENGTHS[tier])
            assert {c.hard for c in found} == {tier == "T3"}
            questions.setdefault(split, set()).update(c.question for c in found)
    questions["train"] |= {c.question for c in islice(chains.cold_start_problems(0), 500)}
    questions["train"] |= {c.question for _, c in chains.rl_problems(500, 0)}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not questions[one] & questions[other]


def test_training_problems_are_in_the_training_split() -> None:
    assert {c.split for c in islice(chains.cold_start_problems(3), 300)} == {"train"}
    assert {c.split for _, c in chains.rl_problems(300, 3)} == {"train"}


def test_a_sixteenth_each_is_held_out() -> None:
    drawn = [Chain(digits(f"{n:04d}"), ("rev", "swap"), False) for n in range(4000)]
    shares = Counter(chain.split for chain in drawn)
    assert shares["test"] == pytest.approx(250, abs=60)
    assert shares["validation"] == pytest.approx(250, abs=60)


def test_draws_are_a_function_of_the_seed() -> None:
    assert chains.tier_problems("T2", 20, "test", 0) == chains.tier_problems("T2", 20, "test", 0)
    assert chains.tier_problems("T2", 20, "test", 0) != chains.tier_problems("T2", 20, "test", 1)
    assert chains.tier_problems("T2", 30, "test", 0)[:20] == chains.tier_problems("T2", 20, "test", 0)
    assert chains.rl_problems(20, 1) == chains.rl_problems(20, 1) != chains.rl_problems(20, 2)
    first = list(islice(chains.cold_start_problems(1), 20))
    assert first == list(islice(chains.cold_start_problems(1), 20))
    assert first != list(islice(chains.cold_start_problems(2), 20))


def test_hard_chains_hold_exactly_one_dice() -> None:
    drawn = list(islice(chains.cold_start_problems(0), 400))
    for chain in drawn:
        assert sum(op == chains.DICE for op in chain.ops) == (1 if chain.hard else 0)
    assert sum(c.hard for c in drawn) / 400 == pytest.approx(0.3, abs=0.08)


def test_the_wordy_answer_says_the_short_one_three_times() -> None:
    chain = Chain(digits("3141"), ("rev", "rotl", "swap"), hard=False)
    assert chain.short == "4 1 3 1 \\boxed{ 1 4 3 1 }"
    assert chain.verbose == "4 1 3 1 wait 1 4 3 1 wait 1 4 3 1 \\boxed{ 1 4 3 1 }"


def test_t1_test_set_holds_few_one_step_problems() -> None:
    found = chains.tier_problems("T1", 400, "test", seed=0)
    assert sum(len(c.ops) == 1 for c in found) <= 40


def test_rl_mix() -> None:
    assert chains.RL_MIX == {"T1": 0.25, "T2": 0.40, "T3": 0.35}
    drawn = chains.rl_problems(2000, 0)
    shares = Counter(tier for tier, _ in drawn)
    for tier, share in chains.RL_MIX.items():
        assert shares[tier] / 2000 == pytest.approx(share, abs=0.04)
    assert {len(c.ops) for tier, c in drawn if tier == "T3"} == {4, 6, 8}
    assert all(c.hard == (tier == "T3") for tier, c in drawn)


def test_problem_ids_are_unique_and_hold_the_tier() -> None:
    problems = [p for tier in chains.TIERS for p in chain_problems(tier, 30, "test")]
    assert len({p.id for p in problems}) == 90
    assert {p.source for p in problems} == set(chains.TIERS)
    assert problems[0].id == "T1/test/0"
