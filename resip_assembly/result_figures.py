"""The README's figures from results/ alone; the same results (and Matplotlib) give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from resip_assembly.arms import residual_config
from resip_assembly.evidence import Evidence
from resip_assembly.taxonomy import SUCCESS
from shared import stats

# Okabe and Ito's colours, told apart in the common forms of colour blindness
BARS = {
    "mlp_s": ("MLP-S", "#bbbbbb"),
    "mlp_c": ("MLP-C", "#8f8f8f"),
    "dp": ("DP (base)", "#4d4d4d"),
    "mlp_c_ppo": ("MLP-C\n+ PPO", "#E69F00"),
    "dppo": ("DPPO", "#F0E442"),
    "rerank": ("re-ranking", "#CC79A7"),
    "resip_held": ("ResiP,\nheld", "#9ecae1"),
    "resip_plain": ("ResiP,\nplain obs", "#56B4E9"),
    "resip": ("ResiP", "#0072B2"),
}
LEARNERS = ("mlp_c_ppo", "dppo", "rerank", "resip_held", "resip_plain", "resip")
TAUGHT = {  # kind of student -> policies
    "state, demonstrations": ("dp", "student_demos_200", "student_demos_1000", "student_demos_5000"),
    "state, ResiP rollouts": ("student_residual",),
    "state, base rollouts": ("student_base",),
    "images, ResiP rollouts": ("vision_residual_50", "vision_residual_100", "vision_residual_200"),
    "images, demonstrations": ("vision_demos_200",),
    "images, base rollouts": ("vision_base_200",),
}
TICKS = (50, 100, 200, 1000, 5000)
TEACHERS = {"demonstrations": "#4d4d4d", "ResiP rollouts": "#0072B2", "base rollouts": "#E69F00"}
PHASE_COLORS = {
    SUCCESS: "#009E73",
    "inserted, not screwed": "#56B4E9",
    "held, not inserted": "#E69F00",
    "dropped": "#D55E00",
    "never grasped": "#4d4d4d",
    "simulator": "#CC79A7",
}
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


def draw_results(records: list[dict[str, Any]], evidence: Evidence, out: Path) -> list[Path]:
    """Write success.png, curves.png, taxonomy.png and students.png to the folder `out`; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    with house_style():
        drawn = {
            "success.png": success_bars(evidence),
            "curves.png": learning_curves(records, evidence),
            "taxonomy.png": lost_episodes(evidence),
            "students.png": students(evidence),
        }
        for name, figure in drawn.items():
            figure.savefig(out / name, dpi=150, metadata={"Software": None})
    return [out / name for name in drawn]


def success_bars(evidence: Evidence) -> Figure:
    """A bar per method with its Wilson interval, seeds pooled; a dot per training seed."""
    tasks = evidence.tasks()
    figure = Figure(figsize=(1.2 + 7.6, 2.9 * len(tasks)), layout="constrained")
    for axis, task in zip(figure.subplots(len(tasks), squeeze=False)[:, 0], tasks, strict=True):
        shown = [policy for policy in BARS if evidence.seeds(task, policy)]
        for x, policy in enumerate(shown):
            won = evidence.success(task, policy, evidence.seeds(task, policy))
            rate, (low, high) = won.mean(), stats.wilson(int(won.sum()), won.size)
            axis.bar(x, rate, 0.62, color=BARS[policy][1])
            axis.plot([x, x], [low, high], color="black", lw=1.4)
            alone = won.mean(axis=0)
            spread = 0.12 * (np.arange(len(alone)) - (len(alone) - 1) / 2)
            axis.plot(x + spread, alone, "o", color="black", ms=3, mec="white", mew=0.5)
            axis.annotate(
                f"{100 * rate:.0f}",
                (x, max(high, *alone)),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axis.set_xticks(range(len(shown)), [BARS[policy][0] for policy in shown], fontsize=8)
        axis.set(title=task, ylabel="success rate", ylim=(0, 1.12), yticks=np.arange(0, 1.01, 0.2))
        axis.tick_params(axis="x", length=0)
        axis.grid(visible=False, axis="x")
    legend = [Line2D([], [], color="black", lw=1.4, label="95 % interval (Wilson, seeds pooled)")]
    legend.append(Line2D([], [], color="black", marker="o", ls="", ms=3, label="one training seed"))
    figure.legend(handles=legend, loc="outside upper right", ncols=2, fontsize=8)
    return figure


def learning_curves(records: list[dict[str, Any]], evidence: Evidence) -> Figure:
    """Success on selection episodes over environment steps: thin lines are seeds, thick ones their mean."""
    tasks = evidence.tasks()
    figure = Figure(figsize=(4.6 * len(tasks), 3.6), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for policy in LEARNERS:
            runs = [r for r in records if (r["task"], r["trained"]) == (task, policy)]
            curves = [dict(map(tuple, r["metrics"]["evaluations"])) for r in runs]
            if not (steps := sorted(set.intersection(*map(set, curves))) if curves else []):
                continue
            label, color = BARS[policy]
            values = np.array([[curve[step] for step in steps] for curve in curves])
            thousands = [step / 1000 for step in steps]
            for one in values:
                axis.plot(thousands, one, color=color, lw=0.8, alpha=0.45)
            axis.plot(thousands, values.mean(axis=0), color=color, lw=2.2, label=label.replace("\n", " "))
        axis.set(title=task, xlabel="thousand environment steps", ylabel="success rate", ylim=(0, 1.03))
        if axis.lines:
            axis.legend(fontsize=8)
    return figure


def lessons(policy: str, task: str) -> int:
    """Episodes that a student learned from: 200 without a number in its name; the base has its own."""
    if policy == "dp":
        return residual_config(task).demos.episodes
    return int(policy.rpartition("_")[2]) if policy[-1].isdigit() else 200


def students(evidence: Evidence) -> Figure:
    """Success of students over the number of episodes that they learned from, by teacher and by what they
    see."""
    tasks = evidence.tasks()
    figure = Figure(figsize=(4.6 * len(tasks), 3.6), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for label, policies in TAUGHT.items():
            shown = [policy for policy in policies if evidence.seeds(task, policy)]
            if not shown:
                continue
            sees, teacher = label.split(", ")
            won = [evidence.success(task, policy, evidence.seeds(task, policy)) for policy in shown]
            learned_from = [lessons(policy, task) for policy in shown]
            rates = np.array([w.mean() for w in won])
            low, high = np.array([stats.wilson(int(w.sum()), w.size) for w in won]).T
            line = {"ls": "-" if sees == "state" else ":", "marker": "o" if sees == "state" else "s", "ms": 5}
            bars = np.abs([rates - low, high - rates])
            axis.errorbar(learned_from, rates, bars, color=TEACHERS[teacher], label=label, capsize=2, **line)
        if evidence.seeds(task, "resip"):
            teacher_rate = evidence.success(task, "resip", evidence.seeds(task, "resip")).mean()
            axis.axhline(
                teacher_rate, color=TEACHERS["ResiP rollouts"], lw=0.8, ls="--", label="ResiP itself"
            )
        axis.set(title=task, xlabel="episodes learned from", ylabel="success rate")
        axis.set(xscale="log", xlim=(40, 6500), ylim=(0, 1.03))
        axis.set_xticks(TICKS, [f"{n:,}" for n in TICKS])
        axis.minorticks_off()
        if axis.lines:
            axis.legend(fontsize=7)
    return figure


def lost_episodes(evidence: Evidence) -> Figure:
    """Stacked shares of all episodes: success, and the phase in which the others were lost."""
    tasks = evidence.tasks()
    policies = [(task, policy) for task in tasks for policy in ("dp", "resip") if evidence.lost(task, policy)]
    figure = Figure(figsize=(7.2, 0.9 + 0.5 * len(policies)), layout="constrained")
    axis = figure.subplots()
    for y, (task, policy) in enumerate(reversed(policies)):
        lost, left = evidence.lost(task, policy), 0.0
        for phase, color in PHASE_COLORS.items():
            share = lost.count(phase) / len(lost)
            axis.barh(y, share, 0.6, left=left, color=color, label=phase if y == 0 else None)
            if share > 0.04:
                place = {"ha": "center", "va": "center", "fontsize": 8, "weight": 700}
                axis.text(left + share / 2, y, f"{100 * share:.0f}", color="white", **place)
            left += share
    names = [f"{task}, {BARS[policy][0]}" for task, policy in reversed(policies)]
    axis.set_yticks(range(len(policies)), names, fontsize=8)
    axis.set(xlim=(0, 1), xlabel="share of held-out episodes")
    axis.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure
