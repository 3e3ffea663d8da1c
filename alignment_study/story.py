"""What one run shows: the story of the aligned task beside that of the weak one, and learning-curves.png."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from alignment_study import data, pass_at_k
from alignment_study.config import Config
from alignment_study.eval import Bounds, Evaluations, Row, bounds, gain, metrics, read_all, show
from shared.runs import Run

PICTURE = "learning-curves.png"
COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00")  # Okabe and Ito


def folders(cfg: Config, run_dir: Path) -> list[Path]:
    """Where each run of `cfg.cells` is written: one run in the folder itself, two in one of their own."""
    return [run_dir / role if len(cfg.cells) > 1 else run_dir for role in cfg.cells]


def cell_run(run: Run, cfg: Config, role: str) -> Run:
    """The run of one role: `run` itself, or a part of it with its own metrics, checkpoints and manifest."""
    if len(cfg.cells) == 1:
        return run
    folder = run.dir / role
    if run.main:
        folder.mkdir(exist_ok=True)
    return Run(folder, cfg, run.package, resumed=run.resumed, main=run.main, script=run.script)


def variant(cfg: Config) -> str:
    """The cell in words: `random reward`, `ground_truth reward, negative samples`."""
    algo = cfg.algo
    words = [f"{algo.reward} reward"]
    if algo.samples == "one_shot":
        words.append(f"one example ({algo.selection})")
    elif algo.samples != "all":
        words.append(f"{algo.samples} samples only")
    words += ["no dynamic sampling"] * (not algo.dynamic_sampling) + ["as released"] * algo.released
    return ", ".join(words)


def tell(cfg: Config, run_dir: Path) -> dict[str, Any]:
    """Print the table and the sentence, draw the curves; returns the manifest's metrics, per role if two."""
    found = {
        role: read_all(place, cfg.tasks) for role, place in zip(cfg.cells, folders(cfg, run_dir), strict=True)
    }
    Console(width=None if Console().is_terminal else 120).print(side_by_side(cfg, found))
    print(sentence(cfg, found))
    draw(cfg, found, run_dir / PICTURE)
    numbers = {role: metrics(measured) for role, measured in found.items()}
    return numbers if len(numbers) > 1 else next(iter(numbers.values()))


def side_by_side(cfg: Config, found: dict[str, Evaluations]) -> Table:
    """A column per training family; the trained family first, then what was never trained on."""
    table = Table(title=f"{variant(cfg)}, {cfg.algo.steps} steps, seed {cfg.run.seed} [95 % over problems]")
    table.add_column("")
    for role, task in cfg.cells.items():
        table.add_column(f"trained on {task} ({role})", justify="right")
    for number in range(len(cfg.tasks)):
        lines: list[list[str]] = [[] for _ in range(6)]
        for role, trained in cfg.cells.items():
            name = sorted(cfg.tasks, key=lambda task: task != trained)[number]
            for line, cell in zip(lines, _cells(name, found[role][name]), strict=True):
                line.append(cell)
        words = ("evaluated on", "base pass@1", "base pass@16", "after RL pass@1", "gain", "form")
        for word, line in zip(words, lines, strict=True):
            table.add_row(word, *line, end_section=word == "form")
    return table


def _cells(task: str, steps: dict[int, list[Row]]) -> list[str]:
    first, last = steps[min(steps)], steps[max(steps)]
    sixteen = bounds(first, "pass16")
    form = [bounds(rows, "formatted")[0] for rows in (first, last)]
    return [
        f"[bold]{data.slug(task)}[/bold]",
        show(bounds(first)).replace("[", r"\["),
        show(sixteen).replace("[", r"\[") + (f" {_bin(sixteen)}" if sixteen[0] == sixteen[0] else ""),
        show(bounds(last)).replace("[", r"\["),
        show(gain(first, last), "+").replace("[", r"\["),
        f"{form[0]:.2f} -> {form[1]:.2f}",
    ]


def _bin(sixteen: Bounds) -> str:
    return pass_at_k.alignment(pass_at_k.Point(pass_at_k.VERDICT_K, *sixteen, problems=0))[0]


def sentence(cfg: Config, found: dict[str, Evaluations]) -> str:
    """What was seen on the trained families, by whether the interval of the gain excludes 0."""
    parts, moves = [], {}
    for role, task in cfg.cells.items():
        if not (steps := found[role].get(task)):
            parts.append(f"trained on {task}, which is not evaluated")
            continue
        change = gain(steps[min(steps)], steps[max(steps)])
        moves[role] = "rose" if change[1] > 0 else "fell" if change[2] < 0 else "did not clearly change"
        parts.append(f"trained on {task} ({role}), its accuracy {moves[role]}: {show(change, '+')}")
    text = f"{variant(cfg)}: {'; '.join(parts)}."
    if moves.keys() == {"aligned", "weak"} and cfg.pretrain_steps is None:  # else the base knows nothing yet
        standard = cfg.algo.reward == "ground_truth" and cfg.algo.samples == "all"
        seen = (moves["aligned"] == "rose", moves["weak"] == "rose")
        expected = "both rise under the correct reward" if standard else "only the aligned task rises"
        agrees = seen == (True, standard)
        text += f" The paper reports that {expected}: this run {'agrees' if agrees else 'does not agree'}."
    return text + " One seed proves nothing; make reproduce runs the whole grid."


def draw(cfg: Config, found: dict[str, Evaluations], path: Path) -> None:
    """A panel per training family: accuracy of every task over RL steps with its band, right form dotted."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(1 + 4.2 * len(found), 3.8), layout="constrained")
        axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axis, (role, measured) in zip(axes, found.items(), strict=True):
            for task, color in zip(cfg.tasks, COLORS, strict=False):
                steps = sorted(measured[task])
                curve = np.array([bounds(measured[task][step]) for step in steps])
                form = [bounds(measured[task][step], "formatted")[0] for step in steps]
                axis.plot(steps, curve[:, 0], color=color, lw=1.8, marker="o", ms=3)
                axis.fill_between(steps, curve[:, 1], curve[:, 2], color=color, alpha=0.2, lw=0)
                axis.plot(steps, form, color=color, lw=1, ls=":")
            axis.set_title(f"trained on {data.slug(cfg.cells[role])} ({role})", loc="left", fontsize=10.5)
            axis.set(xlabel="RL step", ylim=(-0.03, 1.03))
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(color="#e6e6e6")
        axes[0].set_ylabel("share of answers [95 % over problems]")
        legend = [
            Line2D([], [], color=c, lw=3, label=data.slug(t)) for t, c in zip(cfg.tasks, COLORS, strict=False)
        ]
        legend += [
            Line2D([], [], color="black", ls=s, label=n)
            for n, s in (("right answer", "-"), ("right form", ":"))
        ]
        figure.suptitle(variant(cfg), fontsize=11)
        figure.legend(
            handles=legend, loc="outside lower center", ncols=len(legend), fontsize=8.5, frameon=False
        )
        part = path.with_name(f".{path.name}.tmp")
        figure.savefig(part, format="png", dpi=150)
        os.replace(part, path)
