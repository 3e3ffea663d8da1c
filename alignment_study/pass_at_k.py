"""The alignment measure: pass@k, the chance that one of k samples is right (sheet §2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared import stats

STRONG, WEAK, VERDICT_K = 0.8, 0.3, 16  # the sheet's rule on pass@16; the paper bins by eye


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate from `c` right of `n` samples: 1 - C(n - c, k) / C(n, k).

    As the stable product 1 - prod_{j = n-c+1 .. n} (1 - k / j), which needs no large binomials; 1 if fewer
    than k samples are wrong.

    Raises:
        ValueError: k > n, or c not in 0 .. n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k={k} needs at least k samples and there are n={n}; draw more samples or lower k")
    if not 0 <= c <= n:
        raise ValueError(f"c={c} right samples of n={n}: need 0 <= c <= n")
    if n - c < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)))


def grid(samples: int) -> list[int]:
    """1, 2, 4, ... up to `samples`, which is always the last."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})


@dataclass(frozen=True)
class Point:
    """pass@k with its 95 % interval over problems; `problems` is how many it is the mean of."""

    k: int
    value: float
    low: float
    high: float
    problems: int


def curve(grades: Sequence[Sequence[bool | None]], ks: Sequence[int], seed: int = 0) -> list[Point]:
    """One point per k from each problem's graded samples.

    A failed grading (None) is no sample: that problem has fewer, and one with fewer than k left is not part
    of pass@k. The interval is a bootstrap over problems.

    Raises:
        ValueError: no problems, a k larger than the samples drawn, or no problem with k graded samples.
    """
    counts = [(sum(g is not None for g in row), sum(bool(g) for g in row)) for row in grades]
    drawn = min((len(row) for row in grades), default=0)
    if not drawn:
        raise ValueError(f"{len(grades)} problems with at least {drawn} samples each: need 1 or more of both")
    points = []
    for k in ks:
        if k > drawn:
            raise ValueError(f"k={k} > n={drawn} samples per problem; use --samples {k} or a smaller k")
        values = [pass_at_k(n, c, k) for n, c in counts if n >= k]
        if not values:
            raise ValueError(f"k={k}: no problem has {k} samples that could be graded; look at the verifier")
        points.append(Point(k, *stats.bootstrap(values, seed=seed), len(values)))
    return points


def chance(m: int, k: int) -> float:
    """pass@k of guessing uniformly among `m` answers: 1 - (1 - 1/m)^k (sheet §6, pitfall 12)."""
    if m < 1 or k < 1:
        raise ValueError(f"m={m}, k={k}: need at least one answer and one sample")
    return 1 - (1 - 1 / m) ** k


def alignment(point: Point) -> tuple[str, str]:
    """("strong" | "intermediate" | "weak", the reason in words) from pass@16 and its interval.

    strong: pass@16 >= 0.8; weak: <= 0.3; else intermediate. The reason says whether the interval agrees.

    Raises:
        ValueError: `point` is not pass@16.
    """
    if point.k != VERDICT_K:
        raise ValueError(f"the rule is about pass@{VERDICT_K}, not pass@{point.k}; draw {VERDICT_K} samples")

    def bin_of(value: float) -> str:
        return "strong" if value >= STRONG else "weak" if value <= WEAK else "intermediate"

    name = bin_of(point.value)
    ends = dict.fromkeys((bin_of(point.low), bin_of(point.high)))
    rule = f"strong from {STRONG:g}, weak up to {WEAK:g}"
    found = f"pass@{VERDICT_K} = {point.value:.3f} [{point.low:.3f}, {point.high:.3f}] ({rule})"
    if list(ends) == [name]:
        return name, f"{found}: {name}, and so is the whole interval"
    others = " or ".join(end for end in ends if end != name)
    return name, f"{found}: {name}, but the interval reaches into {others}; more problems would decide"
