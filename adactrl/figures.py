"""What a person looks at in a run folder: learning-curves.png, modes.png and samples/step-*.txt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from adactrl.tags import MODES, Mode
from shared import stats
from shared.checkpoint import write_text_atomic

if TYPE_CHECKING:
    from adactrl.trainer import Group

# Okabe and Ito's colours, told apart in the common forms of colour blindness; no colour means two things.
TIER_COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#56B4E9")
MODE_COLORS = {"adaptive": "#4d4d4d", "easy": "#009E73", "hard": "#D55E00"}
DARK = "#333333"
PART_STYLES = {"outcome": "-", "overlong": ":", "calibration": "--", "length": "-."}
STYLE: dict[Any, Any] = {"axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlesize": 10.5}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888"}
STYLE |= {"axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True, "legend.frameon": False}
Series = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> (RL steps, values), missing values left out
Bounds = tuple[float, float, float]  # estimate, low, high


@contextmanager
def house_style() -> Iterator[None]:
    """The same looks on every machine: a user's matplotlibrc does not count."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def draw_run(run_dir: Path) -> list[Path]:
    """Draw what the run folder holds data for; returns the PNG files written, replacing older ones."""
    figures: dict[str, Figure] = {}
    with house_style():
        if series := read_metrics(run_dir / "metrics.jsonl"):
            figures["learning-curves.png"] = learning_curves(series)
        if (run_dir / "samples-after.jsonl").is_file():
            figures["modes.png"] = modes(run_dir)
        for name, figure in figures.items():
            figure.savefig(run_dir / name, dpi=150)
    return [run_dir / name for name in figures]


def read_metrics(path: Path) -> Series:
    """Every metric of a metrics.jsonl, nothing without one; a later line for a step wins, null is skipped."""
    found: dict[str, dict[int, float]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # the half-written last line of a killed run
            continue
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                found.setdefault(name, {})[line["step"]] = value
    return {name: (np.array(sorted(v)), np.array([v[s] for s in sorted(v)])) for name, v in found.items()}


def align(seeds: Sequence[Series], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric over several runs that have it, at the steps all of these have: (steps,), (runs, steps)."""
    found = [dict(zip(*(part.tolist() for part in s[metric]), strict=True)) for s in seeds if metric in s]
    steps = sorted(set.intersection(*map(set, found))) if found else []
    return np.array(steps), np.array([[of_run[step] for step in steps] for of_run in found])


# ---- learning curves: a small panel per quantity, a colour per tier ----------------------------------------


def learning_curves(series: Series) -> Figure:
    """Small multiples over RL steps; thin lines are single steps, thick ones centred means."""
    tiers = sorted({name.split("/")[1] for name in series if name.startswith(("rollout/", "probe/T"))})
    tiers = [t for t in tiers if t != "all"] or ["all"]
    colors = dict(zip(tiers, cycle(TIER_COLORS), strict=False))

    def per_tier(form: str, style: str = "-") -> list[tuple[str, str, str]]:
        return [(form.format(tier), colors[tier], style) for tier in tiers]

    probes = per_tier("probe/{}/easy_label") + per_tier("probe/{}/easy_tag", "--")
    parts = [(f"rewards/{part}/mean", DARK, style) for part, style in PART_STYLES.items()]
    panels = [
        ("accuracy", "share of responses", per_tier("rollout/{}/accuracy")),
        ("response length", "tokens", per_tier("rollout/{}/length")),
        ("[Easy] tag", "share of responses", per_tier("rollout/{}/easy_tag")),
        ("easy label, training", "share of prompts", per_tier("rollout/{}/easy_label")),
        ("label and tag, held out", "share easy", probes),
        ("reward parts, unweighted", "mean reward", parts),
        ("informative groups", "share kept", [("sampling/kept_share", DARK, "-")]),
    ]
    panels = [panel for panel in panels if any(metric in series for metric, _, _ in panel[2])]
    columns = max(2, len(panels) // 2 + 1)  # one cell stays free for the legend
    figure = Figure(figsize=(2.75 * columns, 5), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.axis("off")
    width = 1
    for axis, (title, unit, lines) in zip(axes, panels, strict=False):
        for metric, color, style in lines:
            if metric in series:
                width = max(width, _curve(axis, *series[metric], color, style))
        axis.set(title=title, ylabel=unit, xlabel="RL step")
        if unit.startswith("share"):
            axis.set_ylim(-0.03, 1.03)
        elif unit == "tokens":
            axis.set_ylim(bottom=0)
    legend = [Line2D([], [], color=colors[tier], lw=4, label=tier) for tier in tiers]
    if any(metric in series for metric, _, _ in probes):
        legend += [
            Line2D([], [], color="#888888", ls=s, label=f"held out: {n}")
            for n, s in (("label", "-"), ("tag", "--"))
        ]
    legend += [
        Line2D([], [], color=DARK, ls=style, label=f"reward: {part}")
        for part, style in PART_STYLES.items()
        if f"rewards/{part}/mean" in series
    ]
    if width > 1:
        legend.append(
            Line2D([], [], color=DARK, lw=0.7, alpha=0.4, label=f"thin: one step\nthick: mean of {width}")
        )
    axes[len(panels)].legend(handles=legend, loc="center left", fontsize=9.5, borderaxespad=0)
    return figure


def _curve(axis: Axes, steps: np.ndarray, values: np.ndarray, color: str, style: str) -> int:
    """One line; returns how many points its thick part averages, about a twelfth of them."""
    smooth, width = smoothed(values)
    if width > 1:
        axis.plot(steps, values, color=color, lw=0.7, alpha=0.25)
    axis.plot(steps, smooth, color=color, ls=style, lw=1.8, marker="o" if len(values) == 1 else None)
    return width


def smoothed(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Centred means of about a twelfth of the values, fewer at the ends, and how many that is."""
    width = 2 * (len(values) // 24) + 1
    window = np.ones(width)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same"), width


# ---- modes: set x mode, before and after RL ----------------------------------------------------------------


def modes(run_dir: Path) -> Figure:
    """Accuracy (Wilson, 95 %) and length (bootstrap over problems, 95 %) per set and mode."""
    from adactrl.eval import Sample, by_cell, load_samples, summarise

    def bounds(rows: Sequence[Sample]) -> tuple[Bounds, Bounds]:
        problems: dict[str, list[int]] = {}
        for row in rows:
            problems.setdefault(row.problem, []).append(row.length)
        s = summarise(rows)
        accuracy = (s["accuracy"], s["accuracy_low"], s["accuracy_high"])
        return accuracy, stats.bootstrap([float(np.mean(of_one)) for of_one in problems.values()])

    stages = {name: run_dir / f"samples-{name}.jsonl" for name in ("before", "after")}
    cells = {name: by_cell(load_samples(path)) for name, path in stages.items() if path.is_file()}
    return draw_modes({name: {cell: bounds(rows) for cell, rows in of.items()} for name, of in cells.items()})


def draw_modes(stages: Mapping[str, Mapping[tuple[str, Mode], tuple[Bounds, Bounds]]]) -> Figure:
    """Bars of accuracy above bars of length; `stages` "before" and "after" RL: (set, mode) -> both bounds."""
    sets = sorted({name for of_stage in stages.values() for name, _ in of_stage})
    figure = Figure(figsize=(1 + 2.6 * len(sets), 5), layout="constrained")
    axes = figure.subplots(2, len(sets), squeeze=False, sharex=True, sharey="row")
    for column, name in enumerate(sets):
        shifts = (-0.19, 0.19) if len(stages) > 1 else (0,)
        for (stage, cells), shift in zip(stages.items(), shifts, strict=True):
            for x, mode in enumerate(MODES):
                for axis, value in zip(axes[:, column], cells.get((name, mode), ()), strict=False):
                    bar(axis, x + shift, value, MODE_COLORS[mode], stage == "after")
        axes[0, column].set(title=name, ylim=(0, 1.03))
        axes[1, column].set_xticks(range(len(MODES)), ["adaptive", "force\neasy", "force\nhard"])
        for axis in axes[:, column]:
            axis.grid(visible=False, axis="x")
            axis.tick_params(axis="x", length=0)
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("response length (tokens)")
    legend: list[Artist] = [
        Patch(fc=DARK if s == "after" else "white", ec=DARK, lw=1.5, label=f"{s} RL") for s in stages
    ]
    legend.append(Line2D([], [], color="black", lw=1.2, label="95 % interval"))
    figure.legend(handles=legend, loc="outside upper right", ncols=len(legend))
    return figure


def bar(axis: Axes, x: float, bounds: Bounds, color: str, filled: bool, width: float = 0.34) -> None:
    """A bar with its interval; hollow stands for before RL everywhere."""
    value, low, high = bounds
    axis.bar(x, value, width, fc=color if filled else "white", ec=color, lw=1.5)
    below, above = max(0.0, value - low), max(0.0, high - value)  # rounding may turn 0 negative
    axis.errorbar(x, value, [[below], [above]], color="black", lw=1.2, capsize=3)


# ---- samples as text ---------------------------------------------------------------------------------------


class SampleWriter:
    """Writes some of the responses sampled in training to `samples/step-*.txt`, named by RL step.

    Call it with the optimizer updates so far and the groups of a generation batch: the first batch of every
    `every`-th RL step is written, by rank 0. A repeated step overwrites its file.
    """

    def __init__(self, run_dir: Path, every: int = 10, per_tier: int = 4) -> None:
        self.run_dir, self.every, self.per_tier = run_dir, every, per_tier
        self._last = -1

    def __call__(self, step: int, groups: list[Group]) -> None:
        config, new = self.run_dir / "config.json", step != self._last
        self._last = step
        if not new or os.environ.get("RANK", "0") != "0":
            return
        rl_step = step // (
            json.loads(config.read_text())["algo"]["updates_per_step"] if config.is_file() else 1
        )
        if rl_step % self.every == 0:
            path = self.run_dir / "samples" / f"step-{rl_step:05d}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(path, sample_text(rl_step, groups, self.per_tier))


def sample_text(rl_step: int, groups: list[Group], per_tier: int) -> str:
    """The first group of each tier: question, gold, how many samples are right, the first few in full."""
    lines = [f"policy after {rl_step} RL steps; {len(groups)} prompts x {len(groups[0].texts)} samples"]
    first = {str(group.row.get("tier", "all")): group for group in reversed(groups)}
    for tier, group in sorted(first.items()):
        lines += ["", f"==== {tier} ====", f"question  {group.row['prompt'][-1]['content']}"]
        lines += [
            f"gold      {group.row['answer']}",
            f"correct   {group.correct.count(True)} of {len(group.correct)}",
        ]
        samples = zip(group.tags, group.correct, group.lengths, group.texts, strict=True)
        for tag, correct, length, text in list(samples)[:per_tier]:
            verdict = {True: "correct", False: "wrong", None: "grader failed"}[correct]
            lines += ["", f"---- tag {tag or 'none'}, {verdict}, {length} tokens", text]
    return "\n".join(lines) + "\n"
