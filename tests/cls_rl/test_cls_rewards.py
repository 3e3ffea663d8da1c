"""The reward truth tables of the docstrings and of the paper's code; the math_verify leak."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_rl.rewards import (
    METHODS,
    REWARDS,
    accuracy_reward,
    adaptive_format_reward,
    answer_first_format_reward,
    class_name,
    equality_reward,
    format_reward,
    total_reward,
)

GOOD = "<think>round</think> <answer>rose</answer>"


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (GOOD, 1),
        ("<think></think><answer></answer>", 1),
        ("<think>a\nb</think>\n\n<answer>ro\nse</answer>", 1),  # DOTALL
        ("<think>a <think>b</think> c</think> <answer>rose</answer>", 1),  # lazy dots let tags nest
        ("<think>a</think> <answer>x</answer> <answer>rose</answer>", 1),
        ("<answer>rose</answer>", 0),
        ("<think>round</think>", 0),
        ("<answer>rose</answer> <think>round</think>", 0),
        (GOOD + "\n", 0),  # no strip
        (" " + GOOD, 0),
        (GOOD + " done", 0),
        ("<think>round</think> so <answer>rose</answer>", 0),
        (GOOD.upper(), 0),
        ("<think>round<answer>rose</answer>", 0),
        ("", 0),
    ],
)
def test_format(text: str, reward: int) -> None:
    assert format_reward(text) == reward
    assert isinstance(format_reward(text), float)


@pytest.mark.parametrize(
    ("text", "label", "reward"),
    [
        (GOOD, "rose", 1),
        ("<think>round</think><answer> Rose </answer>", "rose", 1),
        ("<answer>The flower is a rose</answer>", "rose", 0),
        ("rose", "rose", 1),  # no tags: the whole completion
        (" ROSE\n", "rose", 1),
        ("", "rose", 0),
        ("<answer></answer>", "rose", 0),
        ("<answer>\nrose\n</answer>", "rose", 0),  # no DOTALL: not found, and the whole text differs
        ("<answer>tulip</answer> <answer>rose</answer>", "rose", 0),  # the first counts
        ("<answer>rose</answer> <answer>tulip</answer>", "rose", 1),
        ("<answer>golden retriever</answer>", "golden_retriever", 0),  # underscores as they are
        ("<answer>Crème BRÛLÉE</answer>", "crème brûlée", 1),
        ("<answer>bell, church</answer>", "Bell, Church", 1),
        ("<answer>rose.</answer>", "rose", 0),
        ("<answer>roses</answer>", "rose", 0),
        ("<Answer>rose</Answer>", "rose", 0),
        (GOOD, "<answer> rose </answer>", 1),  # the authors' `solution` column
        ("<answer>東京</answer>", "東京", 1),
    ],
)
def test_accuracy(text: str, label: str, reward: int) -> None:
    assert accuracy_reward(text, label) == reward


@pytest.mark.parametrize(
    ("text", "label", "reward"),
    [
        ("rose", "rose", 1),
        ("rose", " rose\n", 1),  # only the label is stripped
        ("rose", "<answer> rose </answer>", 1),
        ("Rose", "rose", 0),
        (" rose", "rose", 0),
        ("rose\n", "rose", 0),
        ("rose.", "rose", 0),
        ("golden retriever", "golden_retriever", 0),
        ("<answer>rose</answer>", "rose", 0),
        ("", "rose", 0),
    ],
)
def test_equality(text: str, label: str, reward: int) -> None:
    assert equality_reward(text, label) == reward


def test_empty_label_is_an_error_and_not_a_match() -> None:
    for reward in (accuracy_reward, equality_reward):
        with pytest.raises(ValueError, match="holds no class name"):
            reward("", "  ")
    assert class_name("<answer> rose </answer>") == "rose"


def test_same_year_earns_the_authors_reward_but_not_ours() -> None:
    wrong = "<think>a car of 2012</think> <answer>2012 Audi A5 Coupe</answer>"
    assert accuracy_reward(wrong, "2012 BMW M3 Coupe") == 0
    assert accuracy_reward(wrong, "2012 BMW M3 Coupe", rule="authors") == 1
    assert accuracy_reward(wrong, "2007 BMW M3 Coupe", rule="authors") == 0
    assert accuracy_reward("<answer>tulip</answer>", "rose", rule="authors") == 0
    with pytest.raises(ValueError, match="string, authors"):
        accuracy_reward("rose", "rose", rule="strict")  # type: ignore[arg-type]


def test_answer_first_and_adaptive_formats() -> None:
    first = "<answer>rose</answer>\n<reason>petals</reason>"
    assert answer_first_format_reward(first) == 1
    assert answer_first_format_reward("<reason>petals</reason> <answer>rose</answer>") == 0
    assert answer_first_format_reward("<answer>rose</answer>") == 0
    assert adaptive_format_reward(GOOD) == adaptive_format_reward("<answer>rose</answer>") == 1
    assert adaptive_format_reward("rose") == adaptive_format_reward("<think>x</think>") == 0
    assert adaptive_format_reward("<answer>rose <think>x</think></answer>") == 0


def test_totals_per_method() -> None:
    assert set(REWARDS) == set(METHODS)
    assert total_reward("thinking", GOOD, "rose") == 2
    assert total_reward("thinking", "rose", "rose") == 1  # a bare name still earns accuracy
    assert total_reward("no_thinking", "rose", "rose") == 1
    assert total_reward("no_thinking", GOOD, "rose") == 0
    assert total_reward("adaptive", "<answer>rose</answer>", "rose") == 2
    assert total_reward("answer_first", "<answer>rose</answer>", "rose") == 1


@given(st.text(), st.text(min_size=1).filter(str.strip))
def test_any_text_gives_zero_or_one(text: str, label: str) -> None:
    assert {format_reward(text), accuracy_reward(text, label), equality_reward(text, label)} <= {0.0, 1.0}
