"""A run's results: evaluations kept episode by episode, the table at the end, the curves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from resip_assembly.evaluation import Evaluation
from resip_assembly.residual_ppo import Trained
from shared import checkpoint, stats

TITLES = {"expert": "scripted expert", "base": "base policy", "residual": "base + residual"}


class Results:
    """Evaluations by name, each written to ``<folder>/<name>.json`` and .npz at once, for a resumed run.

    Every evaluation of a run has the same episodes in the same order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._found = {path.stem: _load(path) for path in sorted(folder.glob("*.json"))}

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> Evaluation:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._found, key=lambda name: [*TITLES, name].index(name)))

    def __setitem__(self, name: str, evaluation: Evaluation) -> None:
        np.savez_compressed(self.folder / f"{name}.npz", final_obs=evaluation.final_obs)
        checkpoint.write_json_atomic(self.folder / f"{name}.json", evaluation.rows())
        self._found[name] = evaluation

    def line(self, name: str) -> str:
        """``base policy: 61.1 % [54.9, 67.0] of 256 episodes``."""
        s = self[name].summary()
        rate, low, high = (100 * s[key] for key in ("success", "success_low", "success_high"))
        return f"{TITLES.get(name, name)}: {rate:.1f} % [{low:.1f}, {high:.1f}] of {s['episodes']} episodes"

    def metrics(self) -> dict[str, Any]:
        """Flat summary of every evaluation."""
        return {f"{name}/{key}": value for name in self for key, value in self[name].summary().items()}


def _load(path: Path) -> Evaluation:
    rows = json.loads(path.read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        final_obs = arrays["final_obs"]
    return Evaluation(
        success=np.array([row["success"] for row in rows]),
        length=np.array([row["length"] for row in rows]),
        reward=np.array([row["reward"] for row in rows]),
        reason=tuple(row["reason"] for row in rows),
        seed=tuple(row["seed"] for row in rows),
        env=tuple(row["env"] for row in rows),
        final_obs=final_obs,
    )


def print_table(results: Results, trained: Trained) -> None:
    """Success per policy with its Wilson interval, and the paired gain of the residual."""
    table = Table(title="held-out episodes, success [95 % interval]")
    for name in ("policy", "success", "episodes", "median steps", "failures"):
        table.add_column(name, justify="left" if name in ("policy", "failures") else "right")
    for name in results:
        s = results[name].summary()
        interval = f"{s['success']:.3f} [{s['success_low']:.3f}, {s['success_high']:.3f}]"
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(s["failures"].items()))
        length = s["success_length_median"]
        table.add_row(
            TITLES.get(name, name),
            interval,
            str(s["episodes"]),
            "" if length is None else f"{length:.0f}",
            reasons,
        )
    console = Console()
    console.print(table)
    if "base" in results and "residual" in results:
        pair = [results[name].success.astype(float) for name in ("residual", "base")]
        gain, low, high = stats.paired_bootstrap(*pair)
        console.print(
            f"the residual adds {100 * gain:.1f} points [{100 * low:.1f}, {100 * high:.1f}] after "
            f"{trained.env_steps:,} environment steps (the same episodes, paired bootstrap)"
        )
    if trained.stopped:
        console.print(trained.stopped)


def draw_run(folder: Path, results: Results) -> None:
    """curves.png: success over environment steps, with the base and the expert as lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    steps = [line["rollout/env_steps"] for line in lines if "rollout/env_steps" in line]
    sampled = [line["rollout/success"] for line in lines if "rollout/env_steps" in line]
    axis.plot(steps, sampled, color="0.7", lw=1, label="with exploration noise (finished episodes)")
    judged = [
        (before, line["eval/success"])
        for before, line in zip([0, *steps], lines, strict=False)
        if "eval/success" in line
    ]
    if judged:
        axis.plot(
            *zip(*judged, strict=True), "o-", ms=3, color="tab:blue", label="mean action, selection episodes"
        )
    for name, color in (("expert", "tab:green"), ("base", "tab:orange"), ("residual", "tab:red")):
        if name in results:
            axis.axhline(results[name].rate, color=color, ls="--", lw=1, label=f"{TITLES[name]}, held out")
    axis.set(xlabel="environment steps", ylabel="success rate", ylim=(0, 1.02))
    axis.legend(fontsize=7, loc="lower right")
    figure.savefig(folder / "curves.png", dpi=110)
    plt.close(figure)
