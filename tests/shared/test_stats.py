"""Intervals against numbers worked by hand, enumeration and their own definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from shared.stats import bootstrap, paired_bootstrap, pass_at_k, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),  # (0.8 + z²/20 ± z·sqrt(0.016 + z²/400)) / (1 + z²/10), z = 1.96
        (0, 10, 0.0, 0.2775),  # z² / (10 + z²)
        (10, 10, 0.7225, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_by_hand(k: int, n: int, low: float, high: float):
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_are_exact_and_confidence_widens():
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
    assert wilson(5, 10, confidence=0.99)[0] < wilson(5, 10)[0] < wilson(5, 10, confidence=0.5)[0]


@pytest.mark.parametrize(("k", "n"), [(11, 10), (-1, 10), (0, -1), (1, 0)])
def test_wilson_names_bad_counts(k: int, n: int):
    with pytest.raises(ValueError, match=f"k={k}, n={n}"):
        wilson(k, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_is_a_share(confidence: float):
    with pytest.raises(ValueError, match=f"confidence={confidence}"):
        wilson(1, 2, confidence)
    with pytest.raises(ValueError, match=f"confidence={confidence}"):
        bootstrap([1.0], confidence)


def test_pass_at_k_equals_enumeration():
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            draws = list(itertools.combinations(range(n), k))
            hits = sum(min(draw) < c for draw in draws)  # the first c samples are the correct ones
            assert pass_at_k(n, c, k) == pytest.approx(hits / len(draws), abs=1e-15)


def test_pass_at_k_does_not_overflow():
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_names_bad_counts(n: int, c: int, k: int):
    with pytest.raises(ValueError, match=f"n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    x = np.tile([0.0, 1.0], 200)
    estimate, low, high = bootstrap(x, resamples=4000)
    half = 1.96 * 0.5 / math.sqrt(400)
    assert estimate == 0.5
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.006)


def test_bootstrap_draws_problems_not_samples():
    x = np.repeat([[0.0], [1.0]], 1000, axis=1)  # 2 problems x 1000 equal samples: only 0, 0.5 and 1 can come
    assert bootstrap(x) == (0.5, 0.0, 1.0)


def test_bootstrap_repeats_with_its_seed_and_takes_a_statistic():
    x = np.random.default_rng(0).normal(size=50)
    assert bootstrap(x, seed=1) == bootstrap(x, seed=1) != bootstrap(x, seed=2)
    assert bootstrap(x, statistic=np.median)[0] == np.median(x)


def test_paired_bootstrap_of_identical_arrays_is_exactly_zero():
    x = np.random.default_rng(0).random((40, 3))
    assert paired_bootstrap(x, x) == (0.0, 0.0, 0.0)


def test_paired_bootstrap_of_a_constant_shift_has_no_width():
    """Problems differ by up to 100, but a and b differ by 1 on each: an unpaired interval is wide."""
    b = np.arange(100.0)
    assert paired_bootstrap(b + 1, b) == (1.0, 1.0, 1.0)


def test_paired_bootstrap_ratio_and_different_sample_counts():
    a, b = np.array([[2.0, 4.0], [6.0, 8.0]]), np.array([1.0, 1.0])
    estimate, low, high = paired_bootstrap(a, b, statistic=lambda p, q: p.mean() / q.mean())
    assert (estimate, low, high) == (5.0, 3.0, 7.0)


def test_paired_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(100):
        b = rng.normal(size=60)
        _, low, high = paired_bootstrap(b + rng.normal(0.3, 1, 60), b, seed=trial, resamples=300)
        hits += low <= 0.3 <= high
    assert 87 <= hits <= 99


def test_a_statistic_that_fails_on_a_resample_leaves_no_bounds():
    def ratio(p: np.ndarray, q: np.ndarray) -> float:
        return float(p.mean() / q.mean()) if q.any() else math.nan

    estimate, low, high = paired_bootstrap([1.0, 1.0], [0.0, 1.0], statistic=ratio)
    assert estimate == 2.0
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], "a has 2 problems, b has 1"),
        ([], [], "a has shape"),
        ([1.0], [math.nan], "b has 1 values that are not finite"),
        ([1.0, None], [1.0, 1.0], "a has 1 values that are not finite"),
        ([[[1.0]]], [1.0], r"a has shape \(1, 1, 1\)"),
    ],
)
def test_paired_bootstrap_names_bad_arrays(a, b, message: str):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b)


def test_resamples_must_be_positive():
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap([1.0], resamples=0)
