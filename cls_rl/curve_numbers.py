"""One number of a run's learning curves, or of two runs' that are compared (claims 4, 7, 8 and 9)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cls_rl.evidence import Curves

EARLY = 30  # updates (claim 9: "the first ~30 steps")
POINTS = (10, 20, 30)  # updates with a held-out point
ENDS = 0.2  # share of the updates at either end (claim 8)


def equal_tokens(name: str, cheap: Curves, dear: Curves) -> float:
    """Held-out accuracy of `cheap` at its end minus that of `dear` after as many generated tokens; NaN where
    a curve lacks its points."""
    tests = [curves.get(f"{name}/exact", {}) for curves in (cheap, dear)]
    tokens = [curves.get("tokens", {}) for curves in (cheap, dear)]
    if not all((*tests, *tokens)):
        return float("nan")
    total = sum(tokens[0].values())
    within = [s for s in tests[1] if sum(v for step, v in tokens[1].items() if step <= s) <= total]
    return tests[0][max(tests[0])] - tests[1][max(within, default=min(tests[1]))]


def length_change(name: str, curves: Curves) -> float:
    """Tokens, last minus first fifth of the updates."""
    values = [value for _, value in sorted(curves["length"].items())]
    k = max(1, round(ENDS * len(values)))
    return float(np.mean(values[-k:]) - np.mean(values[:k]))


def length_correlation(name: str, curves: Curves) -> float:
    """Of length and accuracy reward over updates; 0 where one is constant."""
    steps = sorted(curves["length"].keys() & curves["accuracy"].keys())
    x, y = (np.array([curves[of][s] for s in steps]) for of in ("length", "accuracy"))
    return float(np.corrcoef(x, y)[0, 1]) if len(steps) > 1 and x.std() and y.std() else 0.0


def early_reward(name: str, curves: Curves) -> float:
    return float(np.mean([value for step, value in curves["accuracy"].items() if step <= EARLY]))


def early_gain(name: str, curves: Curves) -> float:
    held_out = curves.get(f"{name}/exact", {})
    if not {0, *POINTS} <= held_out.keys():
        return float("nan")
    return float(np.mean([held_out[step] for step in POINTS]) - held_out[0])


def at_start(name: str, curves: Curves) -> float:
    return curves.get(f"{name}/exact", {}).get(0, float("nan"))


def ratio_of_medians(what: str, name: str, first: Curves, second: Curves) -> float:
    """Of medians: a machine that stalls once does not count."""
    medians = [float(np.median(list(curves[what].values()))) for curves in (first, second)]
    return medians[0] / medians[1] if medians[1] else float("nan")


def minus(number: Callable[[str, Curves], float]) -> Callable[[str, Curves, Curves], float]:
    return lambda name, first, second: number(name, first) - number(name, second)
