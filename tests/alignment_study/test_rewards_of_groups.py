"""The rewards: the docstring's table, the released variant, votes, confidence, and text nobody asked for."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment_study.rewards import KINDS, extract, is_formatted, majority_label, score_group

RIGHT = "<think> 6 x 7 </think> <answer> 42 </answer>"
WRONG = "<think> 6 x 8 </think> <answer> 48 </answer>"
NO_THINK = "<answer> 42 </answer>"
EMPTY = ""
GROUP = [RIGHT, WRONG, NO_THINK, EMPTY]


def formatted(answer: str) -> str:
    return f"<think> x </think> <answer> {answer} </answer>"


# ---- the table


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("ground_truth", [1, 0, 0, 0]),
        ("incorrect", [0, 1, 0, 0]),
        ("format", [1, 1, 0, 0]),
        ("majority", [1, 0, 1, 0]),
    ],
)
def test_table(kind: str, expected: list[float]) -> None:
    scored = score_group(kind, GROUP, "42")
    assert scored == expected
    assert all(type(reward) is float for reward in scored)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_group_has_no_rewards(kind: str) -> None:
    assert score_group(kind, [], "42", token_logprobs=[]) == []


def test_ground_truth_and_incorrect_add_up_to_format() -> None:
    texts = [*GROUP, formatted("4 2"), formatted(""), "<think> </think>", f"{RIGHT} and more"]
    parts = [score_group(kind, texts, "42") for kind in ("ground_truth", "incorrect")]
    assert [a + b for a, b in zip(*parts, strict=True)] == score_group("format", texts, "42")


def test_random_is_a_coin_behind_the_format_gate() -> None:
    texts = [RIGHT, WRONG, NO_THINK, EMPTY] * 1000
    gated = score_group("random", texts, "42", rng=random.Random(0))
    ungated = score_group("random_ungated", texts, "42", rng=random.Random(0))
    assert set(gated) == set(ungated) == {0.0, 1.0}
    for start, mean in enumerate([0.5, 0.5, 0.0, 0.0]):
        assert sum(gated[start::4]) / 1000 == pytest.approx(mean, abs=0.06 if mean else 0)
        assert sum(ungated[start::4]) / 1000 == pytest.approx(0.5, abs=0.06)
    # A reward is 1 where U >= 0.5, and the draws do not depend on the format.
    rng = random.Random(0)
    coins = [float(rng.random() >= 0.5) for _ in texts]
    assert ungated == coins
    assert gated == [coin * (i % 4 < 2) for i, coin in enumerate(coins)]


def test_random_is_repeatable_with_any_generator() -> None:
    texts = [RIGHT] * 64
    for make in (random.Random, np.random.default_rng):
        first, again, other = (score_group("random", texts, "42", rng=make(seed)) for seed in (3, 3, 4))
        assert first == again != other
    random.seed(5)  # what seed_everything does
    first = score_group("random", texts, "42")
    random.seed(5)
    assert score_group("random", texts, "42") == first


@pytest.mark.parametrize(("chance", "mean"), [(0.0, 0.0), (0.2, 0.2), (1.0, 1.0)])
def test_chance_is_the_probability_of_a_reward(chance: float, mean: float) -> None:
    scored = score_group("random_ungated", [EMPTY] * 4000, "", rng=random.Random(1), chance=chance)
    assert sum(scored) / 4000 == pytest.approx(mean, abs=0.03)


# ---- format gate and extraction


@pytest.mark.parametrize(
    ("text", "ours", "authors"),
    [
        (RIGHT, True, True),
        (f"\n {RIGHT} \n", True, True),  # stripped before the match
        ("<think></think><answer></answer>", True, True),
        ("<think>a</think>\n\n<answer>b</answer>", True, True),  # between the blocks a newline may stand
        ("<think>a\nb</think><answer>c</answer>", True, False),
        ("<think>a</think><answer>b\nc</answer>", True, False),
        ("<think>a</think> <answer>b</answer> <answer>c</answer>", True, True),
        ("<think>a</think> so <answer>b</answer>", False, False),
        (f"well, {RIGHT}", False, False),
        (f"{RIGHT} done", False, False),
        ("<think>a</think>", False, False),
        ("<answer>b</answer> <think>a</think>", False, False),
        ("<think>a<answer>b</answer>", False, False),
        (NO_THINK, False, False),
        ("<THINK>a</THINK> <ANSWER>b</ANSWER>", False, False),
        (EMPTY, False, False),
    ],
)
def test_format(text: str, ours: bool, authors: bool) -> None:
    assert (is_formatted(text), is_formatted(text, released=True)) == (ours, authors)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (RIGHT, "42"),
        ("<answer>1</answer> <answer>2</answer>", "1"),
        ("<think> <answer> 1 </answer> </think> <answer> 2 </answer>", "1"),
        ("<answer>\n a b \n c </answer>", "a b \n c"),
        ("<answer></answer>", ""),
        ("</answer> <answer>3</answer>", "3"),
        ("<answer>3", None),
        ("3</answer>", None),
        ("</answer><answer>", None),
        ("< answer >3</ answer >", None),
        (EMPTY, None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "<think>" + "</think> <answer>" * 2000,
        "<answer>" * 4000,
        "<think></think> <answer>" * 1400,
        "<think>" + "</think>" + " " * 30_000 + "</answer>",
        "<think>" + "<answer>" * 4000 + "</think>\n<answer>1</answer>",
    ],
)
def test_hostile_text_takes_no_time(text: str) -> None:
    start = time.monotonic()
    for released in (False, True):
        score_group("ground_truth", [text], "1", released=released)
    assert time.monotonic() - start < 0.5


# ---- the released variant


def test_released_answers_are_compared_to_the_character() -> None:
    texts = [formatted("42"), "<think> x </think><answer>42</answer>"]
    assert score_group("ground_truth", texts, "42") == [1, 1]
    assert score_group("ground_truth", texts, "42", released=True) == [0, 1]


def test_released_math_incorrect_is_ground_truth() -> None:
    texts = ["<think>x</think><answer>42</answer>", "<think>x</think><answer>41</answer>", NO_THINK]
    assert score_group("incorrect", texts, "42") == [0, 1, 0]
    assert score_group("incorrect", texts, "42", released=True) == [1, 0, 0]
    assert score_group("ground_truth", texts, "42", released=True) == [1, 0, 0]


def test_released_logic_incorrect_is_as_written() -> None:
    """Only their math function is defined twice; a task's verifier means logic."""
    seen = []

    def verify(answer: str, gold: Any) -> bool:
        seen.append(answer)
        return answer.strip() == gold

    texts = [RIGHT, WRONG, NO_THINK]
    assert score_group("incorrect", texts, "42", verify=verify, released=True) == [0, 1, 0]
    assert seen == [" 42 ", " 48 "]  # not stripped


# ---- verifiers


def test_verify_gets_the_stripped_answer_and_the_gold_of_formatted_responses_only() -> None:
    seen = []
    score_group("ground_truth", GROUP, ["a", 1], verify=lambda *pair: bool(seen.append(pair)))
    assert seen == [("42", ["a", 1]), ("48", ["a", 1])]


def raising(answer: str, gold: Any) -> bool:
    raise RecursionError(answer)


@pytest.mark.parametrize("verify", [lambda answer, gold: None, raising], ids=["none", "raises"])
@pytest.mark.parametrize("kind", ["ground_truth", "incorrect"])
def test_a_failed_verifier_is_no_score(kind: str, verify: Any) -> None:
    scored = score_group(kind, GROUP, "42", verify=verify)
    assert [math.isnan(reward) for reward in scored] == [True, True, False, False]
    assert scored[2:] == [0.0, 0.0]  # not formatted: 0 whatever the verdict


@pytest.mark.parametrize("kind", ["random", "random_ungated", "format", "majority", "entropy"])
def test_the_other_rewards_never_verify(kind: str) -> None:
    logprobs = [[-1.0]] * len(GROUP)
    scored = score_group(kind, GROUP, "42", verify=raising, rng=random.Random(0), token_logprobs=logprobs)
    assert all(map(math.isfinite, scored))


@pytest.mark.parametrize("result", [True, 1, np.True_, 1.0])
def test_kinds_of_true(result: Any) -> None:
    assert score_group("ground_truth", [RIGHT], "42", verify=lambda a, g: result) == [1.0]


@pytest.mark.parametrize("result", [False, 0, np.False_, 0.4])  # 0.4: partial credit is not a right answer
def test_kinds_of_false(result: Any) -> None:
    assert score_group("ground_truth", [RIGHT], "42", verify=lambda a, g: result) == [0.0]


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("[1, 2]", "[1, 2]", 1),
        ("[1, 2]", [1, 2], 1),
        ("3/4", "3/4", 1),
        ("0.75", "3/4", 0),
        ("new york city", " new york city ", 1),
        ("naïve 東京 −5", "naïve 東京 −5", 1),
        ("\ud800", "x", 0),
        ("42", 42, 1),
        ("", "42", 0),
    ],
)
def test_default_verifier_takes_any_answer(answer: str, gold: Any, expected: float) -> None:
    assert score_group("ground_truth", [formatted(answer)], gold) == [expected]


def test_an_empty_gold_grades_nothing() -> None:
    scored = score_group("ground_truth", [formatted(""), formatted("1"), EMPTY], " ")
    assert [math.isnan(reward) for reward in scored] == [True, True, False]


@given(texts=st.lists(st.text(alphabet="<>/thinkaswer \n1", max_size=60), max_size=4), gold=st.text())
def test_no_text_crashes(texts: list[str], gold: str) -> None:
    for kind in KINDS:
        logprobs = [[-1.0] * len(text) for text in texts]
        for released in (False, True):
            scored = score_group(
                kind, texts, gold, rng=random.Random(0), token_logprobs=logprobs, released=released
            )
            assert len(scored) == len(texts)


# ---- majority


@pytest.mark.parametrize(
    ("answers", "label", "expected"),
    [
        (["1", "2", "2"], "2", [0, 1, 1]),
        (["2", "1", "1", "2"], "2", [1, 0, 0, 1]),  # tie: the first seen
        ([None, "1", "2", None, None], "1", [0, 1, 0, 0, 0]),  # no answer neither votes nor wins
        ([None, None], None, [0, 0]),
        (["", "", "3"], "3", [0, 0, 1]),  # nor does an empty one
        (["a  b", "c", "a\nb"], "a b", [1, 0, 1]),
        (["7"] * 3, "7", [1, 1, 1]),
        ([], None, []),
    ],
)
def test_majority(answers: list[str | None], label: str | None, expected: list[float]) -> None:
    texts = ["no tag" if answer is None else f"<answer> {answer} </answer>" for answer in answers]
    assert majority_label(texts) == label
    assert score_group("majority", texts, "unused") == expected


# ---- entropy


def test_entropy_is_the_mean_token_log_probability() -> None:
    scored = score_group("entropy", ["a", "b"], None, token_logprobs=[[-1.0, -3.0], [-0.5]])
    assert scored == [-2.0, -0.5]


def test_a_response_without_tokens_is_the_least_confident() -> None:
    assert score_group("entropy", ["a", "", "b"], None, token_logprobs=[[-1.0], [], [-4.0]]) == [-1, -4, -4]
    assert score_group("entropy", ["", ""], None, token_logprobs=[[], []]) == [0, 0]


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_an_unknown_log_probability_is_no_score(broken: float) -> None:
    scored = score_group("entropy", ["a", "b"], None, token_logprobs=[[-1.0, broken], [-2.0]])
    assert math.isnan(scored[0])
    assert scored[1] == -2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "entropy"}, "pass token_logprobs"),
        ({"kind": "entropy", "token_logprobs": [[-1.0]]}, "1 rows for 2 texts"),
        ({"kind": "truth"}, "'truth' is not a reward; choose one of ground_truth, random, random_ungated,"),
        ({"kind": "random", "chance": 1.5}, "chance=1.5 is not a probability"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    kind = options.pop("kind")
    with pytest.raises(ValueError, match=message):
        score_group(kind, ["a", "b"], "42", **options)
