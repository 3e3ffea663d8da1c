"""pass@k against counting every subset, its curve with failed gradings, chance, and the verdict's rule."""

from __future__ import annotations

from itertools import combinations

import pytest

from alignment_study.pass_at_k import Point, alignment, chance, curve, grid, pass_at_k


@pytest.mark.parametrize("n", range(1, 9))
def test_against_every_subset(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations(range(n), k))
            hits = sum(any(i < c for i in subset) for subset in subsets)
            assert pass_at_k(n, c, k) == pytest.approx(hits / len(subsets), abs=1e-12)


def test_known_values_and_large_n() -> None:
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(4, 3, 2) == 1.0
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)
    assert pass_at_k(10_000, 0, 5_000) == 0.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0), (0, 0, 1)])
def test_bad_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=rf"n={n}"):
        pass_at_k(n, c, k)


def test_curve_is_the_mean_over_problems_and_rises_with_k() -> None:
    grades = [[True, False, False, False], [False] * 4, [True] * 4]
    points = curve(grades, [1, 2, 4])
    assert [p.value for p in points] == pytest.approx([(0.25 + 0 + 1) / 3, (0.5 + 0 + 1) / 3, 2 / 3])
    assert all(p.low <= p.value <= p.high and p.problems == 3 for p in points)
    assert points[0].low < points[0].high


def test_k_above_n_says_so() -> None:
    with pytest.raises(ValueError, match=r"k=8 > n=4 samples per problem; use --samples 8"):
        curve([[True] * 4], [8])


def test_a_failed_grading_is_no_sample() -> None:
    points = curve([[True, None, False, None], [True] * 4], [1, 2, 4])
    assert [p.value for p in points] == pytest.approx([0.75, 1.0, 1.0])
    assert [p.problems for p in points] == [2, 2, 1]
    with pytest.raises(ValueError, match="could be graded"):
        curve([[None, None]], [1])
    with pytest.raises(ValueError, match="0 problems"):
        curve([], [1])


def test_grid_ends_at_the_samples() -> None:
    assert grid(64) == [1, 2, 4, 8, 16, 32, 64]
    assert grid(10) == [1, 2, 4, 8, 10]
    assert grid(1) == [1]


def test_chance_level() -> None:
    assert chance(2, 1) == 0.5
    assert chance(2, 3) == pytest.approx(0.875)
    assert chance(1000, 16) == pytest.approx(0.01588, abs=1e-4)
    with pytest.raises(ValueError, match="m=0"):
        chance(0, 1)


@pytest.mark.parametrize(
    ("value", "low", "high", "name", "words"),
    [
        (0.9, 0.85, 0.95, "strong", "so is the whole interval"),
        (0.8, 0.8, 0.8, "strong", "so is the whole interval"),
        (0.85, 0.75, 0.95, "strong", "reaches into intermediate"),
        (0.3, 0.2, 0.3, "weak", "so is the whole interval"),
        (0.25, 0.1, 0.4, "weak", "reaches into intermediate"),
        (0.5, 0.4, 0.6, "intermediate", "so is the whole interval"),
        (0.5, 0.2, 0.9, "intermediate", "reaches into weak or strong"),
    ],
)
def test_the_rule_with_its_interval(value: float, low: float, high: float, name: str, words: str) -> None:
    found, reason = alignment(Point(16, value, low, high, 100))
    assert found == name
    assert words in reason


def test_the_rule_is_about_16() -> None:
    with pytest.raises(ValueError, match="pass@8"):
        alignment(Point(8, 0.5, 0.4, 0.6, 10))
