"""The README's figures from results/ alone; the same results (and Matplotlib) give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cls_rl import data_sets
from cls_rl.arms import MAIN_SETS, TITLES
from cls_rl.evidence import Curves
from cls_rl.resampling import statistic
from cls_rl.rewards import Method
from cls_rl.study import FEW, Study

# Okabe and Ito's colours, told apart in the common forms of colour blindness
COLORS = {
    "zero_thinking": "#bbbbbb",
    "zero_no_thinking": "#8f8f8f",
    "sft_completion": "#E69F00",
    "sft_full_text": "#D55E00",
    "thinking": "#56B4E9",
    "no_thinking": "#0072B2",
    "empty_thought": "#CC79A7",
}
LEARNERS = ("thinking", "no_thinking", "sft_completion", "sft_full_text")
PANELS = {  # title -> curve; "exact" is held out
    "held-out accuracy": "exact",
    "accuracy reward": "accuracy",
    "completion length, tokens": "length",
    "held-out answers in the list": "in_list",
}
SMOOTH = 5  # updates of a running mean, for curves that are logged every update
STYLE: dict[Any, Any] = {"axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlesize": 10.5}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888"}
STYLE |= {"axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True, "legend.frameon": False}


@contextmanager
def house_style() -> Iterator[None]:
    """The same looks on every machine: a user's matplotlibrc does not count."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def draw_results(study: Study, out: Path) -> list[Path]:
    """Write the figures that there is data for to the folder `out`; returns the files."""
    drawn: dict[str, Figure] = {}
    with house_style():
        if any(study.sets(FEW, arm) for arm in COLORS):
            drawn["few-shot.png"] = few_shot_bars(study)
        if any(study.curves(FEW, (arm,), MAIN_SETS) for arm in LEARNERS):
            drawn["curves.png"] = learning_curves(study)
        if _matrix(study, "thinking") is not None or _matrix(study, "no_thinking") is not None:
            drawn["transfer.png"] = heat_maps(study)
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            figure.savefig(out / name, dpi=150, metadata={"Software": None})
    return [out / name for name in drawn]


# ---- bars


def few_shot_bars(study: Study) -> Figure:
    """Exact accuracy: a group of bars per main set, its interval, a dot per seed."""
    arms = [arm for arm in COLORS if study.sets(FEW, arm)]
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(arms)
    for x, name in enumerate(MAIN_SETS):
        for i, arm in enumerate(arms):
            if not (seeds := study.seeds(FEW, name, arm)):
                continue
            s = statistic("", study.draws.share(FEW, arm, name, name, seeds))
            at = x + width * (i - (len(arms) - 1) / 2)
            axis.bar(at, s.estimate, 0.92 * width, color=COLORS[arm])
            axis.plot([at, at], [s.low, s.high], color="black", lw=1.2)
            alone = [study.draws.share(FEW, arm, name, name, [seed])[0] for seed in seeds]
            axis.plot(np.full(len(alone), at), alone, "o", color="black", ms=2.5, mec="white", mew=0.4)
    axis.set_xticks(range(len(MAIN_SETS)), MAIN_SETS)
    axis.set(ylabel="exact accuracy", ylim=(0, 1.02))
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")
    handles = [Line2D([], [], color=COLORS[arm], lw=6, label=TITLES[arm]) for arm in arms]
    handles.append(Line2D([], [], color="black", lw=1.2, label="95 %, seeds and drawings"))
    handles.append(Line2D([], [], color="black", marker="o", ls="", ms=2.5, label="one seed"))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8)
    return figure


# ---- curves


def learning_curves(study: Study) -> Figure:
    """Few-shot runs of the main sets: a thin line per set (mean of seeds), a thick one for their mean."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    for axis, (title, what) in zip(figure.subplots(2, 2).flatten(), PANELS.items(), strict=True):
        for arm in LEARNERS:
            lines = []
            for name, of in study.curves(FEW, (arm,), MAIN_SETS).items():
                found = [curve for curves in of[0] if (curve := curve_of(name, what, curves))]
                if found:
                    lines.append(mean_curve(found))
            if lines:
                _draw(axis, lines, arm)
        axis.set(title=title, xlabel="update")
        if what != "length":
            axis.set_ylim(0, 1.03)
    handles = [Line2D([], [], color=COLORS[arm], lw=2.2, label=TITLES[arm]) for arm in LEARNERS]
    handles.append(Line2D([], [], color="#333333", lw=0.8, alpha=0.6, label="one set"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=8)
    return figure


def curve_of(name: str, what: str, curves: Curves) -> dict[int, float]:
    """A curve by its name in PANELS; what is held out stands under the test set's name."""
    return curves.get(f"{name}/{what}" if what in ("exact", "in_list") else what, {})


def mean_curve(curves: list[dict[int, float]]) -> dict[int, float]:
    """Over the updates that all have."""
    steps = sorted(set.intersection(*map(set, curves)))
    return {step: float(np.mean([curve[step] for curve in curves])) for step in steps}


def _draw(axis: Axes, lines: list[dict[int, float]], arm: str) -> None:
    for line in lines:
        axis.plot(*_smooth(line), color=COLORS[arm], lw=0.8, alpha=0.5)
    axis.plot(*_smooth(mean_curve(lines)), color=COLORS[arm], lw=2.2)


def _smooth(curve: dict[int, float]) -> tuple[list[int], np.ndarray]:
    steps, values = list(curve), np.array(list(curve.values()))
    if len(steps) < 10 * SMOOTH:  # measured every few updates
        return steps, values
    kernel = np.ones(SMOOTH) / SMOOTH
    padded = np.pad(values, SMOOTH // 2, mode="edge")
    return steps, np.convolve(padded, kernel, mode="valid")


# ---- the transfer matrix


def heat_maps(study: Study) -> Figure:
    """Change of accuracy in points, row tuned on, column tested on: both methods, and their difference."""
    found = {"Thinking": _matrix(study, "thinking"), "No-Thinking": _matrix(study, "no_thinking")}
    shown = {title: matrix for title, matrix in found.items() if matrix is not None}
    if len(shown) == 2:
        shown["No-Thinking minus Thinking"] = shown["No-Thinking"] - shown["Thinking"]
    limit = max(5.0, *(float(np.nanmax(np.abs(matrix))) for matrix in shown.values()))
    names, tested = list(data_sets.SETS), list(data_sets.ALL)
    figure = Figure(figsize=(5.0 * len(shown) + 0.6, 5.0), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, shown.items(), strict=True):
        picture = axis.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for row, column in np.argwhere(np.isfinite(matrix)):
            value = matrix[row, column]
            color = "white" if abs(value) > 0.6 * limit else "black"
            axis.text(
                column, row, str(round(float(value))), ha="center", va="center", fontsize=7, color=color
            )
        axis.axvline(len(names) - 0.5, color="black", linewidth=1)  # far domains are to the right
        axis.set_xticks(range(len(tested)), tested, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names), fontsize=8)
        axis.set(title=title, xlabel="tested on")
        axis.grid(visible=False)
        axis.tick_params(length=0)
    axes[0].set_ylabel("tuned on")
    figure.colorbar(picture, ax=list(axes), label="points against before tuning", shrink=0.8)
    return figure


def _matrix(study: Study, method: Method) -> np.ndarray | None:
    """(sets, sets and far domains) points, NaN where a cell is not recorded; None where none is off the
    diagonal."""
    names = list(data_sets.SETS)
    cells = [
        [
            100 * study.change(method, a, b)[0] if study.has_cell(method, a, b) else np.nan
            for b in data_sets.ALL
        ]
        for a in names
    ]
    matrix = np.array(cells)
    return matrix if np.isfinite(matrix[~np.eye(*matrix.shape, dtype=bool)]).any() else None
