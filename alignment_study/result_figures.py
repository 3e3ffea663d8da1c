"""The README's figures from results/ alone; the same results (and Matplotlib) give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignment_study import dose_response
from alignment_study.evidence import Role
from alignment_study.resampling import Array, World, cell, over_seeds, statistic
from alignment_study.update_ratio import Bin


class Look(NamedTuple):
    """Colour and fill; a hollow marker is the control of the variant with the same colour."""

    short: str
    color: str
    hollow: bool = False


# Okabe and Ito's colours, told apart in the common forms of colour blindness
LOOKS = {
    "ground_truth": Look("ground truth", "#000000"),
    "no_dynamic": Look("no dynamic\nsampling", "#000000", True),
    "negative": Look("NSR", "#56B4E9"),
    "positive": Look("PSR", "#009E73"),
    "majority": Look("majority", "#0072B2"),
    "one_shot": Look("one-shot", "#CC79A7"),
    "one_shot_random": Look("one-shot,\nrandom item", "#CC79A7", True),
    "random": Look("random", "#E69F00"),
    "random_ungated": Look("random,\nnot gated", "#E69F00", True),
    "format": Look("format", "#F0E442"),
    "incorrect": Look("incorrect", "#D55E00"),
    "entropy": Look("entropy", "#8f8f8f"),
}
SETTINGS: dict[tuple[Role, Role], str] = {
    ("aligned", "aligned"): "o",
    ("weak", "transfer"): "s",
    ("weak", "weak"): "^",
}
NAMES = {
    ("aligned", "aligned"): "aligned (M)",
    ("weak", "transfer"): "aligned, RL on weak (G|L)",
    ("weak", "weak"): "weak (L)",
}
STYLE: dict[Any, Any] = {"axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlesize": 10.5}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888"}
STYLE |= {"axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True, "legend.frameon": False}
SPREAD = 0.017  # between two points of a setting, in pass@16
APART = {("aligned", "aligned"): -0.12, ("weak", "transfer"): 0.12, ("weak", "weak"): 0.0}


@contextmanager
def house_style() -> Iterator[None]:
    """The same looks on every machine: a user's matplotlibrc does not count."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def draw_results(worlds: list[World], levels: list[World], bins: list[Bin], out: Path) -> list[Path]:
    """Write the figures that there is data for to the folder `out`; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    with house_style():
        drawn = {f"curves-{w.name}.png": learning_curves(w) for w in worlds}
        drawn["thesis.png"] = thesis(worlds)
        if levels:
            drawn["dose.png"] = dose(levels, bins)
        for name, figure in drawn.items():
            figure.savefig(out / name, dpi=150, metadata={"Software": None})
    return [out / name for name in drawn]


# ---- small multiples


def learning_curves(w: World) -> Figure:
    """Accuracy over RL steps: a column per variant, a row per setting; thin lines are seeds, thick ones their
    mean, dashes the base model and dots ground truth at its last step."""
    figure = Figure(figsize=(13.5, 5.6), layout="constrained")
    axes = figure.subplots(len(SETTINGS), len(LOOKS), sharex=True, sharey="row", squeeze=False)
    for row, (trained, role) in enumerate(SETTINGS):
        base = float(over_seeds(w.base(role))[0])
        full = float(over_seeds(w.accuracy("ground_truth", trained, role))[0])
        for column, (v, look) in enumerate(LOOKS.items()):
            axis: Axes = axes[row, column]
            if row == 0:
                axis.set_title(look.short, fontsize=8.5, weight="bold")
            axis.axhline(base, color="#888888", lw=0.9, ls=(0, (4, 2)))
            axis.axhline(full, color="#888888", lw=0.9, ls=(0, (1, 2)))
            if w.has(v, trained):
                _curves(axis, w, v, trained, role)
            axis.set_ylim(0, 1.03 if max(base, full) > 0.3 else None)
            axis.tick_params(labelsize=7, length=2)
        axes[row, 0].set_ylabel(f"{NAMES[trained, role]}\naccuracy", fontsize=8)
    figure.supxlabel("RL step", fontsize=9)
    legend: list[Artist] = [
        Line2D([], [], color="#333333", lw=2, label="mean of seeds"),
        Line2D([], [], color="#333333", lw=0.7, alpha=0.5, label="one seed"),
        Line2D([], [], color="#888888", lw=0.9, ls=(0, (4, 2)), label="base model"),
        Line2D([], [], color="#888888", lw=0.9, ls=(0, (1, 2)), label="ground truth, last step"),
    ]
    figure.legend(handles=legend, loc="outside upper right", ncols=4, fontsize=8)
    figure.suptitle(
        f"World {w.name}: strict accuracy during RL", x=0.01, ha="left", fontsize=11, weight="bold"
    )
    return figure


def _curves(axis: Axes, w: World, v: str, trained: Role, role: Role) -> None:
    runs = w.runs(v, trained)
    steps = sorted(set.intersection(*(set(run.steps(role)) for run in runs)))
    values = np.array([[run.items[role, step].share().mean() for step in steps] for run in runs])
    color = "#c9b800" if LOOKS[v].color == "#F0E442" else LOOKS[v].color  # yellow lines are hard to see
    for one in values:
        axis.plot(steps, one, color=color, lw=0.7, alpha=0.5)
    axis.plot(steps, values.mean(axis=0), color=color, lw=2)


# ---- the thesis in one picture


def thesis(worlds: list[World]) -> Figure:
    """Gain over the base against the base's pass@16: a point per variant and setting, one panel per world.

    Points of a setting are spread sideways, those of the two aligned ones to either side; a line leads from
    each setting's label to its pass@16.
    """
    figure = Figure(figsize=(12.5, 4.9), layout="constrained")
    for axis, w in zip(figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0], worlds, strict=True):
        axis.axhline(0, color="#888888", lw=1)
        at_bottom = axis.get_xaxis_transform()  # x in pass@16, y in heights of the panel
        for (trained, role), marker in SETTINGS.items():
            at = float(over_seeds(w.base(role, "pass16"))[0])
            centre = at + APART[trained, role]
            axis.plot([at, centre], [0, 0.06], color="#888888", lw=0.8, transform=at_bottom)
            label = f"{cell(trained, role)}: {at:.2f}"
            axis.text(centre, 0.07, label, ha="center", fontsize=8, transform=at_bottom)
            for i, (v, look) in enumerate(LOOKS.items()):
                if w.has(v, trained):
                    x = centre + SPREAD * (i - (len(LOOKS) - 1) / 2)
                    _point(axis, x, w.gains(v, trained, role), look, marker)
        axis.set(
            title=f"world {w.name}",
            xlabel="pass@16 of the base model (the points of a cell are spread sideways)",
            xlim=(-0.02, 1.28),
        )
        axis.set_xticks(np.arange(0, 1.01, 0.2))
    low, high = figure.axes[0].get_ylim()
    figure.axes[0].set_ylim(low - 0.18 * (high - low), high)
    figure.axes[0].set_ylabel("gain in accuracy over the base")
    handles: list[Artist] = [
        Line2D([], [], color=k.color, marker="o", ls="", mfc="white" if k.hollow else k.color, mec=k.color,
               label=k.short.replace("\n", " "))
        for k in LOOKS.values()
    ]  # fmt: skip
    shapes = [(marker, NAMES[setting]) for setting, marker in SETTINGS.items()]
    handles += [Line2D([], [], color="#333333", marker=m, ls="", label=name) for m, name in shapes]
    handles.append(Line2D([], [], color="#333333", lw=1.2, label="95 %, seeds and items"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return figure


def _point(axis: Axes, x: float, draws: Array, look: Look, marker: str) -> None:
    s = statistic("", draws)
    edge = "#8a7f00" if look.color == "#F0E442" else look.color
    axis.plot([x, x], [s.low, s.high], color=edge, lw=1.2, zorder=2)
    fill = "white" if look.hollow else look.color
    axis.plot([x], [s.estimate], marker, color=edge, mfc=fill, ms=5.5, mew=1.2, zorder=3)


# ---- dose and response


def dose(levels: list[World], bins: list[Bin]) -> Figure:
    """Left: what variants recover on the weak family against pass@16 of the checkpoint they start from.
    Right: measured NSR / PSR beside p / (1 - p)."""
    left, right = (figure := Figure(figsize=(10.5, 4.3), layout="constrained")).subplots(1, 2)
    x = np.array([float(over_seeds(w.base("weak", "pass16"))[0]) for w in levels])
    left.axhline(1, color="black", lw=1, label="ground truth")
    left.axhline(0, color="#888888", lw=1)
    for i, v in enumerate(dose_response.VARIANTS[1:]):
        color = LOOKS[v].color
        dodged = x * (1 + 0.008 * (i - 2))
        found = [statistic("", over_seeds(dose_response.recovered(w, v))) for w in levels]
        for at, s in zip(dodged, found, strict=True):
            left.plot([at, at], [s.low, s.high], color=color, lw=1.2)
        left.plot(dodged, [s.estimate for s in found], "o-", color=color, ms=5, lw=1.6, label=LOOKS[v].short)
        seeds = np.concatenate([w.base("weak", "pass16")[0] for w in levels])
        values = np.concatenate([dose_response.recovered(w, v)[0] for w in levels])
        left.plot(seeds, values, ".", color=color, ms=3, alpha=0.6)
    left.set(title="what is recovered on the weak family", xscale="log", ylabel="gain recovery")
    left.set_xlabel("pass@16 of the checkpoint that RL starts from (log)")
    ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0) if t >= 0.9 * x.min()]
    left.set_xticks(ticks, [f"{t:g}" for t in ticks])
    left.minorticks_off()
    low, high = left.get_ylim()
    left.set_ylim(low - 0.2 * (high - low), high)
    left.legend(fontsize=8, ncols=3, loc="lower center")
    p = np.linspace(0.005, max([0.5, *(b.p for b in bins)]), 200)
    right.plot(p, p / (1 - p), color="black", lw=1.6, label="p / (1 - p)")
    for role, marker, color in (("weak", "^", "#D55E00"), ("aligned", "o", "#0072B2")):
        of = [b for b in bins if b.role == role]
        for b in of:
            right.plot([b.p, b.p], [b.low, b.high], color=color, lw=0.9, alpha=0.6)
        right.plot(
            [b.p for b in of], [b.ratio for b in of], marker, color=color, ms=4.5, label=f"{role} family"
        )
        right.plot([b.p for b in of], [b.norm for b in of], marker, mfc="white", color=color, ms=4, alpha=0.6)
    right.plot([], [], "o", mfc="white", color="#555555", ms=4, label="norms, noise included")
    right.set(title="update of negatives / positives", xlabel="success probability p", ylabel="ratio")
    shown = [p[-1] / (1 - p[-1]), *(b.ratio for b in bins), *(b.norm for b in bins)]
    right.set_ylim(min(0.0, *shown) - 0.1, 1.1 * max(shown))
    right.legend(fontsize=8)
    return figure
