"""How well a tag predicts a label: two scores that do not depend on how common the labels are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def balanced_accuracy(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean over the classes in `actual` of the share predicted right; NaN with fewer than two classes."""
    guess, truth = np.asarray(predicted), np.asarray(actual)
    if guess.shape != truth.shape or truth.ndim != 1:
        raise ValueError(f"predicted has shape {guess.shape}, actual {truth.shape}; need equal 1-D shapes")
    recalls = [float((guess[truth == c] == c).mean()) for c in np.unique(truth)]
    return float(np.mean(recalls)) if len(recalls) > 1 else math.nan


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties counting half; NaN when one class is missing."""
    values, positive = np.asarray(scores, dtype=float), np.asarray(labels).astype(bool)
    if values.shape != positive.shape or values.ndim != 1:
        raise ValueError(f"scores have shape {values.shape}, labels {positive.shape}; need equal 1-D shapes")
    above, below = values[positive], np.sort(values[~positive])
    wins, ties_too = np.searchsorted(below, above, "left"), np.searchsorted(below, above, "right")
    return float((wins + ties_too).mean() / 2 / below.size) if above.size and below.size else math.nan
