"""The figures of RESULTS.md from results/ alone; the same results (and Matplotlib) give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tool_env_rl.arms import TITLES, TRAINED, arm
from tool_env_rl.evidence import Evidence
from tool_env_rl.layer_changes import LAYER
from tool_env_rl.resampling import difference, of_arm, statistic

# Okabe and Ito's colours, told apart in the common forms of colour blindness
COLORS = {
    "grpo": "#0072B2",
    "reinforce_pp": "#56B4E9",
    "precision": "#009E73",
    "rate": "#D55E00",
    "pr": "#CC79A7",
}
STYLE: dict[Any, Any] = {"axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlesize": 10.5}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888"}
STYLE |= {"axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True, "legend.frameon": False}
OTHER = "#8f8f8f"


@contextmanager
def house_style() -> Iterator[None]:
    """The same looks on every machine: a user's matplotlibrc does not count."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def draw_results(evidence: Evidence, out: Path) -> list[str]:
    """Write gains.png, curves.png and, where weights were compared, layers.png; returns the names."""
    out.mkdir(parents=True, exist_ok=True)
    with house_style():
        drawn = {"gains.png": gains(evidence), "curves.png": curves(evidence)}
        drawn |= {"layers.png": layers(evidence)} if evidence.layers else {}
        for name, figure in drawn.items():
            figure.savefig(out / name, dpi=150, metadata={"Software": None})
    return list(drawn)


def gains(evidence: Evidence) -> Figure:
    """Gain in Solve-F1 of every row over the base it starts from: interval, and a dot per seed."""
    shown = [(row, str(arm(row).base)) for row in TRAINED if evidence.seeds(row, str(arm(row).base))]
    figure = Figure(figsize=(7.6, 1.0 + 0.42 * max(1, len(shown))), layout="constrained")
    axis = figure.subplots()
    for y, (row, base) in enumerate(reversed(shown)):
        s = statistic("", 100 * difference(evidence, row, base, "solve_f1"))
        color = COLORS.get(row, OTHER)
        axis.barh(y, s.estimate, 0.6, color=color)
        axis.plot([s.low, s.high], [y, y], color="black", lw=1.4)
        seeds = evidence.seeds(row, base)
        pairs = [[of_arm(evidence, r, "solve_f1", [seed])[0] for r in (row, base)] for seed in seeds]
        alone = [100 * (after - before) for after, before in pairs]
        axis.plot(
            alone, y + 0.12 * (np.arange(len(alone)) - 1), "o", color="black", ms=3, mec="white", mew=0.5
        )
    axis.axvline(0, color="#444444", lw=0.8)
    axis.set_yticks(range(len(shown)), [TITLES[row] for row, _ in reversed(shown)], fontsize=8)
    axis.set(xlabel="gain in Solve-F1, points")
    axis.grid(visible=False, axis="y")
    legend = [Line2D([], [], color="black", lw=1.4, label="95 % interval (seeds, environments)")]
    legend.append(Line2D([], [], color="black", marker="o", ls="", ms=3, label="one seed"))
    figure.legend(handles=legend, loc="outside upper center", ncols=2, fontsize=8)
    return figure


def curves(evidence: Evidence) -> Figure:
    """Training reward and calls per turn over RL batches: thin lines are seeds, thick ones their mean."""
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    panels = {"reward": "mean reward of a batch", "turn/calls": "calls per sampled turn"}
    for axis, (name, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for row, color in COLORS.items():
            runs = [evidence.curves.get((row, seed), {}).get(name, {}) for seed in evidence.seeds(row)]
            if not runs or not (steps := sorted(set.intersection(*map(set, runs)))):
                continue
            lines = np.array([[run[step] for step in steps] for run in runs])
            for line in lines:
                axis.plot(steps, line, color=color, lw=0.7, alpha=0.4)
            axis.plot(steps, lines.mean(axis=0), color=color, lw=2.0, label=TITLES[row])
        axis.set(xlabel="RL batch", ylabel=label)
        if axis.lines:
            axis.legend(fontsize=7)
    return figure


def layers(evidence: Evidence) -> Figure:
    """Change of every matrix over the random-reward run's, mean over seeds: layers across, types down."""
    grid: dict[tuple[str, int], list[float]] = {}
    for found in evidence.layers.values():
        for name, _, normed in found.matrices:
            if (match := LAYER.search(name)) and normed is not None:
                kind = name[match.end() :].removesuffix(".weight")
                grid.setdefault((kind, int(match[1])), []).append(normed)
    kinds = sorted({kind for kind, _ in grid}, key=lambda kind: ("mlp" in kind, kind))
    depth = max((layer for _, layer in grid), default=0) + 1
    image = [[float(np.mean(grid.get((kind, layer), [np.nan]))) for layer in range(depth)] for kind in kinds]
    figure = Figure(figsize=(3.6 + 0.5 * depth, 1.4 + 0.3 * len(kinds)), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(image, aspect="auto", cmap="viridis")
    axis.grid(visible=False)
    axis.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axis.set_xticks(range(depth))
    axis.set(xlabel="layer")
    figure.colorbar(shown, ax=axis, label="change / random reward's")
    return figure
