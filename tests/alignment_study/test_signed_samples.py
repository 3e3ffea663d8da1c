"""Advantages of one group: normalisation, masks, weights, and the p / (1 - p) law on an exact bandit."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment_study.signed_samples import signed_advantages

HAND = [1.0, 0.0, 0.0, 0.0]  # mean 1/4, std with n - 1: sqrt((9 + 3) / 16 / 3) = 1/2
BITS = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=16)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("both", [1.5, -0.5, -0.5, -0.5]), ("positive", [1.5, 0, 0, 0]), ("negative", [0, -0.5, -0.5, -0.5])],
)
def test_by_hand(mode: str, expected: list[float]) -> None:
    assert signed_advantages(HAND, mode) == pytest.approx(expected, rel=3e-6)
    assert signed_advantages(HAND, mode=mode)[0] in (0.0, 0.75 / (0.5 + 1e-6))  # eps 1e-6, not TRL's 1e-4


@given(BITS)
def test_negative_and_positive_make_both(rewards: list[float]) -> None:
    negative, positive, both = (signed_advantages(rewards, mode) for mode in ("negative", "positive", "both"))
    assert [a + b for a, b in zip(negative, positive, strict=True)] == both == signed_advantages(rewards)
    assert math.fsum(both) == pytest.approx(0, abs=1e-9)
    assert all(a <= 0 for a in negative)
    assert all(a >= 0 for a in positive)
    if len(set(rewards)) > 1:
        assert statistics.stdev(both) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("mode", ["negative", "positive", "both"])
@pytest.mark.parametrize("rewards", [[0.0] * 8, [1.0] * 8, [0.1] * 3, [-0.7] * 7, [1.0], [0.0], []])
def test_a_constant_group_has_exact_zeros(rewards: list[float], mode: str) -> None:
    assert signed_advantages(rewards, mode) == [0.0] * len(rewards)


def test_weight_of_the_positive_side() -> None:
    weighted = signed_advantages(HAND, "both", positive_weight=0.1)
    assert weighted == pytest.approx([0.15, -0.5, -0.5, -0.5], rel=3e-6)
    assert signed_advantages(HAND, "both", positive_weight=0) == signed_advantages(HAND, "negative")


def test_other_rewards_keep_their_advantages() -> None:
    confidences = [-1.0, -2.0, -3.0]
    assert signed_advantages(confidences) == pytest.approx([1, 0, -1], rel=3e-6)


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        ([0.0, math.nan], {}, "not all finite; drop a group whose grader failed"),
        ([0.0, 1.0], {"mode": "nsr"}, "mode='nsr' is not one of negative, positive, both"),
        ([0.0, 1.0], {"positive_weight": -1.0}, r"positive_weight=-1.0 is not in \[0, inf\)"),
    ],
)
def test_bad_arguments_are_refused(rewards: list[float], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signed_advantages(rewards, **options)


@pytest.mark.parametrize(
    "counts", [[28, 500, 300, 122, 50], [500, 100, 100, 200, 100], [900, 25, 25, 25, 25]]
)
def test_negatives_carry_p_over_1_minus_p_of_the_signal(counts: list[int]) -> None:
    """Softmax over 5 arms, arm 0 right. A group that has each arm as often as the policy draws it makes the
    group's mean the exact expectation (sheet §2.7: p = 0.028 gives 0.0288 in every coordinate)."""
    n, p = sum(counts), counts[0] / sum(counts)
    policy = np.array(counts) / n
    arms = np.repeat(np.arange(5), counts)
    grad_log_pi = np.eye(5)[arms] - policy  # (n, 5), with respect to the logits
    rewards = [float(arm == 0) for arm in arms]
    nsr, psr = (
        np.array(signed_advantages(rewards, mode)) @ grad_log_pi / n for mode in ("negative", "positive")
    )
    assert nsr / psr == pytest.approx(np.full(5, p / (1 - p)), rel=1e-9)
    expected = math.sqrt(p * (1 - p)) * (np.eye(5)[0] - policy)  # sqrt(p (1 - p)) * E_correct[grad log pi]
    assert psr == pytest.approx(expected, rel=1e-3)  # n - 1 and eps
