"""Balanced accuracy and AUC against numbers worked by hand and pairs counted one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adactrl.calibration import auc, balanced_accuracy


def test_balanced_accuracy_by_hand():
    # easy: 1 of 2 right, hard: 3 of 3 right -> (0.5 + 1) / 2, where plain accuracy is 0.8
    actual = ["easy", "easy", "hard", "hard", "hard"]
    assert balanced_accuracy(["easy", "hard", "hard", "hard", "hard"], actual) == 0.75
    assert balanced_accuracy(["hard"] * 5, actual) == 0.5
    assert math.isnan(balanced_accuracy(["hard"], ["hard"]))
    with pytest.raises(ValueError, match="equal 1-D shapes"):
        balanced_accuracy(["hard"], ["hard", "easy"])


def test_auc_equals_counting_pairs():
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert auc([1, 1, 1], [0, 1, 1]) == 0.5
    assert math.isnan(auc([1, 2], [1, 1]))
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 50), rng.integers(0, 2, 50)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="equal 1-D shapes"):
        auc([1.0], [1, 0])
