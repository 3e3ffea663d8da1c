"""Intervals and scores for tables. A resample draws problems, never samples within one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

Score = Callable[..., float]  # of one or two arrays of problems


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate, `k` successes of `n`; ``(0.0, 1.0)`` when ``n == 0``."""
    from scipy.special import ndtri

    _check_confidence(confidence)
    if n < 0 or not 0 <= k <= n:
        raise ValueError(f"k={k}, n={n}: need 0 <= k <= n")
    if n == 0:
        return 0.0, 1.0
    z, p = float(ndtri(0.5 + confidence / 2)), k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased 1 - C(n - c, k) / C(n, k): one of `k` is correct when `c` of `n` samples are."""
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"n={n}, c={c}, k={k}: need 0 <= c <= n and 1 <= k <= n; draw more or lower k")
    total = math.comb(n, k)
    return (total - math.comb(n - c, k)) / total


def bootstrap(
    x: ArrayLike, confidence: float = 0.95, resamples: int = 1000, seed: int = 0, statistic: Score = np.mean
) -> tuple[float, float, float]:
    """(estimate, low, high) of `statistic(x)`; `x` and the errors are like `a` of `paired_bootstrap`."""
    options = {"confidence": confidence, "resamples": resamples, "seed": seed}
    return paired_bootstrap(x, x, statistic=lambda p, _: statistic(p), **options)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    statistic: Score = lambda p, q: p.mean() - q.mean(),
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(estimate, low, high) of `statistic(a, b)`: percentiles over draws of problems, for both at once.

    `a` and `b` are (problems,) or (problems, samples), finite and aligned by problem, else ValueError; the
    number of samples may differ. A statistic that is NaN on a resample has NaN bounds.
    """
    first, second = _finite("a", a), _finite("b", b)
    if len(first) != len(second):
        raise ValueError(f"a has {len(first)} problems, b has {len(second)}; align them by problem id")
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: need at least 1 (1000 is usual)")
    rng, n = np.random.default_rng(seed), len(first)
    rows = (rng.integers(0, n, n) for _ in range(resamples))
    draws = [float(statistic(first[i], second[i])) for i in rows]
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(statistic(first, second)), float(low), float(high)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: need a number between 0 and 1, such as 0.95")


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; need (problems,) or (problems, samples)")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} has {bad} values that are not finite; drop failed gradings, do not score")
    return array
