"""The README's figures from results/ alone; the same results (and Matplotlib) give the same bytes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from adactrl import figures
from adactrl.claims import TIERS, Evidence
from adactrl.tags import MODES, Mode
from shared import stats

# Hollow bars are before RL, solid ones after, as in modes.png; the colour is what the model started from.
BASELINE, ADACTRL = "#8f8f8f", "#5d3a9b"
ARMS = {"A": (BASELINE, "R1-SFT"), "B": (BASELINE, "R1-SFT-RL")}
ARMS |= {"C": (ADACTRL, "AdaCtrl, cold start"), "D": (ADACTRL, "AdaCtrl")}
CURVE = re.compile(r"(rollout|probe)/T\d/(accuracy|length|easy_tag|easy_label|kept)")
BAR_STEP = 0.21  # between two bars of a tier


def draw_results(evidence: Evidence, results: Path, out: Path) -> list[Path]:
    """Write the figures that there is data for to the folder `out`; returns the files."""
    arms = {arm for arm, _ in evidence.samples}
    files = {arm: sorted(results.glob(f"curves/{arm}-seed*.jsonl")) for arm in "DB"}
    curves = {arm: [*map(figures.read_metrics, files[arm])] for arm in files}
    drawn: dict[str, Figure] = {}
    with figures.house_style():
        if {"B", "D"} <= arms:
            drawn["savings.png"] = savings(evidence)
        if {"C", "D"} <= arms:
            drawn["modes.png"] = user_modes(evidence)
        if curves["D"]:
            drawn["curves.png"] = training_curves(curves)
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            figure.savefig(out / name, dpi=200, metadata={"Software": None})
    return [out / name for name in drawn]


# ---- bars --------------------------------------------------------------------------------------------------


def savings(evidence: Evidence) -> Figure:
    """Length and accuracy per tier in adaptive mode: a bar per arm, a dot per seed."""
    seeds = {arm: sum(of == arm for of, _ in evidence.samples) for arm in ARMS}
    arms = [arm for arm in ARMS if seeds[arm]]
    left, right = (figure := Figure(figsize=(8.8, 4.1), layout="constrained")).subplots(1, 2)
    labels: dict[Axes, list[str]] = {left: [], right: []}
    for x, (tier, hint) in enumerate(zip(TIERS, (" (easiest)", "", " (hardest)"), strict=True)):
        length = {arm: evidence.matrix(arm, tier, "adaptive", "length") for arm in arms}
        correct = {arm: evidence.matrix(arm, tier, "adaptive", "correct") for arm in arms}
        for i, arm in enumerate(arms):
            at = x + BAR_STEP * (i - (len(arms) - 1) / 2)
            _arm(left, at, arm, length[arm], seeds[arm], "{:.0f}")
            _arm(right, at, arm, correct[arm], seeds[arm], "{:.2f}")
        saved = 1 - length["D"].mean() / length["B"].mean()
        gained = correct["D"].mean() - correct["B"].mean()
        labels[left].append(f"{tier}{hint}\n{abs(saved):.0%} {'shorter' if saved >= 0 else 'longer'}")
        labels[right].append(f"{tier}{hint}\n{100 * gained:+.1f} points".replace("-", "−"))
    for axis, of_tiers in labels.items():
        axis.set_xticks(range(len(TIERS)), of_tiers)
        axis.set_xlabel("AdaCtrl against R1-SFT-RL", fontsize=9, color="#666666")
        axis.tick_params(axis="x", length=0)
        axis.grid(visible=False, axis="x")
    left.set(title="response length", ylabel="tokens", ylim=(0, 1.08 * left.get_ylim()[1]))
    right.set(title="accuracy", ylabel="share correct", ylim=(0, 1.1), yticks=np.arange(0, 1.01, 0.2))
    fill = {arm: ARMS[arm][0] if arm in "BD" else "white" for arm in arms}
    legend: list[Artist] = [Patch(fc=fill[a], ec=ARMS[a][0], lw=1.5, label=ARMS[a][1]) for a in arms]
    legend.append(Line2D([], [], color="black", lw=1.2, label="95 % interval"))
    legend.append(Line2D([], [], color="black", marker="o", ls="", ms=3, label="one seed"))
    figure.legend(handles=legend, loc="outside upper center", ncols=len(legend), columnspacing=1.5)
    return figure


def _arm(axis: Axes, x: float, arm: str, values: np.ndarray, seeds: int, form: str) -> None:
    """Bar, interval over problems, dots, number; `values` is (problems, seeds x samples), seed-major."""
    bounds = stats.bootstrap(values)
    figures.bar(axis, x, bounds, ARMS[arm][0], arm in "BD", width=0.8 * BAR_STEP)
    alone = values.reshape(len(values), seeds, -1).mean(axis=(0, 2))
    spread = BAR_STEP * (np.arange(seeds) - (seeds - 1) / 2) / 5
    axis.plot(x + spread, alone, "o", color="black", ms=3, mec="white", mew=0.5, zorder=1.5)
    place = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 7.5}
    text, top, weight = form.format(bounds[0]), max(bounds[2], *alone), 700 if arm == "D" else 400
    axis.annotate(text, (x, top), weight=weight, **place)


def user_modes(evidence: Evidence) -> Figure:
    """Arm C (before RL) and D (after) in the three modes, seeds pooled, bootstrap over problems."""

    def cell(arm: str, tier: str, mode: Mode) -> tuple[figures.Bounds, figures.Bounds]:
        accuracy = stats.bootstrap(evidence.matrix(arm, tier, mode, "correct"))
        return accuracy, stats.bootstrap(evidence.matrix(arm, tier, mode, "length"))

    keys: list[tuple[str, Mode]] = [(tier, mode) for tier in TIERS for mode in MODES]
    stages = {"before": "C", "after": "D"}
    return figures.draw_modes({s: {key: cell(arm, *key) for key in keys} for s, arm in stages.items()})


# ---- curves ------------------------------------------------------------------------------------------------


def curve_rows(metrics_path: Path) -> list[str]:
    """What curves.png needs of a run's metrics.jsonl: a JSON line per RL step, values to 4 digits."""
    steps: dict[int, dict[str, float]] = {}
    for name, (at, values) in figures.read_metrics(metrics_path).items():
        if CURVE.fullmatch(name):
            for step, value in zip(at.tolist(), values.tolist(), strict=True):
                steps.setdefault(step, {})[name] = round(value, 4)
    return [json.dumps({"step": step} | dict(sorted(steps[step].items()))) for step in sorted(steps)]


def training_curves(curves: dict[str, list[figures.Series]]) -> Figure:
    """Arm D (solid) and B (dashed) over RL: thin lines are seeds, thick ones their mean."""
    panels = (
        ("length", "response length", "tokens", "DB"),
        ("accuracy", "accuracy", "share correct", "DB"),
        ("easy_tag", "AdaCtrl: [Easy] tags", "share of responses", "D"),
        ("easy_label", "AdaCtrl: easy labels", "share of prompts", "D"),
    )
    tiers = dict(zip(TIERS, figures.TIER_COLORS, strict=False))
    styles, averaged, dark = {"D": "-", "B": (0, (3, 1.2))}, 1, figures.DARK
    figure = Figure(figsize=(8.8, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flat
    for axis, (name, title, unit, arms) in zip(axes, panels, strict=True):
        for tier, color in tiers.items():
            for arm in arms:
                steps, values = figures.align(curves[arm], f"rollout/{tier}/{name}")
                for i, one in enumerate([*values, values.mean(axis=0)] if steps.size else []):
                    smooth, averaged = figures.smoothed(one)
                    width, alpha = (0.8, 0.45) if i < len(values) else (2.2, 1)
                    axis.plot(steps, smooth, color=color, ls=styles[arm], lw=width, alpha=alpha)
            steps, values = figures.align(curves["D"], f"probe/{tier}/{name}")
            if steps.size:
                axis.plot(steps, values.mean(axis=0), "o", color=color, ms=5.5, mec="white", zorder=3)
        axis.set(title=title, ylabel=unit, ylim=(0, None) if unit == "tokens" else (-0.03, 1.03))
    figure.supxlabel("RL step" + f" (lines: centred means of {averaged})" * (averaged > 1), fontsize=10)
    legend = [Line2D([], [], color=color, lw=4, label=tier) for tier, color in tiers.items()]
    legend += [Line2D([], [], color=dark, lw=2.2, ls=styles[a], label=ARMS[a][1]) for a in "DB" if curves[a]]
    legend.append(Line2D([], [], color=dark, lw=0.8, alpha=0.45, label="one seed"))
    legend.append(Line2D([], [], color=dark, marker="o", ls="", ms=5.5, label="held-out problems"))
    figure.legend(handles=legend, loc="outside upper center", ncols=len(legend), columnspacing=1.4)
    return figure
