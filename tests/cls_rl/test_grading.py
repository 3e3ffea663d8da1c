"""Extraction, the three matchers, consistency, harmonic means."""

from __future__ import annotations

import time

import pytest

from cls_rl.grading import (
    average_harmonic_mean,
    consistency,
    extract_answer,
    grade,
    harmonic_mean,
    in_list,
    lists_every_option,
    match,
    named_options,
    summarise,
    thought_answer,
)

PAPER_PAIRS = [  # CLS-RL, base and new, paper's Table 9
    (88.12, 90.01), (97.74, 95.20), (77.42, 67.82), (58.09, 69.33), (87.29, 87.56), (87.78, 74.97),
    (83.28, 94.49), (82.08, 75.74), (81.03, 82.52), (79.47, 74.95), (70.53, 58.07),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>x</think><answer> rose </answer>", "rose"),
        ("<answer>\nred\nrose\n</answer>", "red\nrose"),  # DOTALL, unlike the reward
        ("<answer>a</answer><answer>b</answer>", "a"),
        ("  rose \n", "rose"),
        ("<answer>rose", "<answer>rose"),
        ("<answer></answer>", ""),
        ("<ANSWER>rose</ANSWER>", "<ANSWER>rose</ANSWER>"),
        ("", ""),
        ("<answer>jack-o'-lantern, ünïcode</answer>", "jack-o'-lantern, ünïcode"),
    ],
)
def test_extract_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "label", "substring", "exact"),
    [
        ("rose", "rose", True, True),
        ("ROSE ", "rose", True, True),
        ("The flower is a rose", "rose", True, False),
        ("outlined", "lined", True, False),
        ("golden retriever", "golden_retriever", True, True),
        ("a Golden Retriever", "golden_retriever", True, False),
        ("golden_retriever", "golden retriever", False, True),
        ("rose", "rose bush", False, False),
        ("", "rose", False, False),
        ("bell, church", "Bell, church", True, True),
        ("cre\u0300me", "cr\u00e8me", False, True),  # decomposed and composed
        ("St. Bernard", "St Bernard", False, False),
    ],
)
def test_match(answer: str, label: str, substring: bool, exact: bool) -> None:
    assert match(answer, label) is match(answer, label, "substring") is substring
    assert match(answer, label, "exact") is exact


def test_match_refuses_empty_labels_and_other_rules() -> None:
    with pytest.raises(ValueError, match="would match any answer"):
        match("rose", " ")
    with pytest.raises(ValueError, match="substring, exact"):
        match("rose", "rose", "in_list")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2, 24, 10_000])
def test_a_response_that_lists_every_option_is_right_only_under_substring(count: int) -> None:
    options = [f"class {i:05d}" for i in range(count)]
    got = grade(f"<answer>{', '.join(options)}</answer>", options[1], options)
    assert (got.substring, got.exact, got.in_list, got.lists_all) == (True, False, False, True)
    assert summarise([got])["lists_all"] == 1
    assert summarise([got])["exact"] == 0


def test_one_option_cannot_be_listed() -> None:
    got = grade("rose", "rose", ["rose"])
    assert got.exact
    assert got.in_list
    assert not got.lists_all
    assert not lists_every_option("rose", [])


def test_in_list_and_named_options() -> None:
    options = ["cat", "black cat", "dog"]
    assert in_list("Black_Cat", options)
    assert not in_list("a cat", options)
    assert named_options("a black cat, or a dog?", options) == ["black cat", "dog"]
    assert named_options("a black cat near a cat", options) == ["black cat", "cat"]
    assert named_options("concatenate", options) == []
    assert named_options("(C++) or c", ["C", "C++"]) == ["C++", "C"]


@pytest.mark.parametrize(
    ("text", "verdict", "thought"),
    [
        ("<think>not a dog, a cat</think><answer>cat</answer>", "consistent", "cat"),
        ("<think>a cat</think><answer>dog</answer>", "inconsistent", "cat"),
        ("<think>round</think><answer>dog</answer>", "none", None),
        ("<answer>Dog</answer><reason>it is a dog</reason>", "consistent", "dog"),
        ("dog", "none", None),
    ],
)
def test_consistency(text: str, verdict: str, thought: str | None) -> None:
    assert consistency(text, ["cat", "dog"]) == verdict
    assert thought_answer(text, ["cat", "dog"]) == thought


def test_harmonic_means_are_the_papers() -> None:
    assert harmonic_mean(88.12, 90.01) == pytest.approx(89.05, abs=0.01)
    assert harmonic_mean(0, 0) == 0
    assert harmonic_mean(50, 0) == 0
    assert average_harmonic_mean(PAPER_PAIRS) == pytest.approx(80.15, abs=0.01)
    mean_of_h = sum(harmonic_mean(*pair) for pair in PAPER_PAIRS) / len(PAPER_PAIRS)
    assert mean_of_h == pytest.approx(79.93, abs=0.01)  # the other convention
    with pytest.raises(ValueError, match=">= 0"):
        harmonic_mean(-1, 2)
    with pytest.raises(ValueError, match="at least one"):
        average_harmonic_mean([])


def test_summary_divides_by_the_right_counts() -> None:
    options = ["cat", "dog"]
    texts = ["cat", "the cat", "<think>a dog</think><answer>cat</answer>", "bird"]
    total = summarise([grade(text, "cat", options) for text in texts])
    assert total["n"] == 4
    assert (total["substring"], total["exact"], total["in_list"]) == (0.75, 0.5, 0.5)
    assert (total["exact_in_list"], total["thought_named"], total["inconsistent"]) == (1.0, 0.25, 1.0)
    with pytest.raises(ValueError, match="no responses"):
        summarise([])


def test_a_name_inside_the_answer_is_not_listed_too() -> None:
    assert not grade("hot dog", "hot dog", ["dog", "hot dog"]).lists_all
    assert grade("dog, hot dog", "hot dog", ["dog", "hot dog"]).lists_all


def test_a_label_of_an_underscore_is_not_in_every_answer() -> None:
    assert not match("a b", "_")
    assert match("a_b", "_")


def test_an_open_tag_before_much_white_space_takes_no_time() -> None:
    text = "<answer>" + "\n" * 20_000
    began = time.monotonic()
    assert extract_answer(text) == "<answer>"
    assert time.monotonic() - began < 1  # a pattern with two \s* needs hours
