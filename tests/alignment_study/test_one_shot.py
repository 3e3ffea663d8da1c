"""Which problem one-shot RL trains on, and the copies that fill its batch."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from alignment_study.one_shot import copies, select

HISTORY = {
    "stuck": [0.0, 0.0, 0.0],
    "learnt": [0.1, 0.6, 0.95],  # variance 0.122
    "steady": [0.5, 0.4, 0.5],
    "known": [1.0, 1.0, 1.0],
    "swings": [0.3, 0.9, 0.3],  # variance 0.080
}


def test_variance_is_the_default_and_takes_the_most_varied() -> None:
    assert select(HISTORY) == select(HISTORY, how="variance") == "learnt"


def test_variance_is_of_the_accuracies_not_of_their_sum() -> None:
    assert select({"a": [0.0, 1.0] * 2, "b": [0.5, 0.9] * 8}) == "a"


def test_near_half() -> None:
    assert select(HISTORY, how="near_half") == "swings"  # means 0.55, 0.467, 0.5
    assert select({"low": [0.2], "mid": [0.55], "high": [0.9]}, how="near_half") == "mid"


def test_near_half_prefers_problems_with_a_gradient_at_the_start() -> None:
    history = {"cold": [0.0, 1.0], "warm": [0.25, 0.5]}
    assert select(history, how="near_half") == "warm"
    assert select({"cold": [0.0, 1.0], "dead": [0.0, 0.0]}, how="near_half") == "cold"


def test_random_is_seeded_and_uniform() -> None:
    drawn = [select(HISTORY, how="random", seed=seed) for seed in range(1000)]
    assert drawn == [select(HISTORY, how="random", seed=seed) for seed in range(1000)]
    assert set(drawn) == set(HISTORY)
    assert all(150 < count < 250 for count in Counter(drawn).values())


@pytest.mark.parametrize("how", ["variance", "near_half", "random"])
def test_ties_and_the_order_of_the_history_do_not_matter(how: str) -> None:
    names = ["p3", "p1", "p2"]
    forward = {name: [0.25, 0.75] for name in names}
    backward = {name: [0.25, 0.75] for name in reversed(names)}
    assert select(forward, how, seed=7) == select(backward, how, seed=7)
    if how != "random":
        assert select(forward, how) == "p1"


@pytest.mark.parametrize("how", ["variance", "near_half", "random"])
def test_a_history_of_one_entry(how: str) -> None:
    assert select({"only": [0.3]}, how) == "only"


@pytest.mark.parametrize(
    ("history", "how", "message"),
    [
        ({}, "variance", "the history has no problems"),
        ({"p": []}, "random", "problem 'p' has accuracies"),
        ({"p": [0.5, 1.2]}, "variance", "each from 0 to 1"),
        ({"p": [math.nan]}, "near_half", "each from 0 to 1"),
        ({"p": [0.5]}, "best", "how='best' is not one of variance, random, near_half"),
    ],
)
def test_bad_histories_are_refused(history: dict, how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(history, how)


def test_copies() -> None:
    assert copies("problem", 3) == ["problem"] * 3
    with pytest.raises(ValueError, match="count=0 copies make no batch"):
        copies("problem", 0)
