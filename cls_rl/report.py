"""What a person looks at in a run folder: contact-sheet.png and learning-curves.png."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from cls_rl.data import Task
from cls_rl.data_sets import contact_sheet
from cls_rl.eval import Record, by_test

SIDE = 96  # pixels of one picture on the sheet
CURVES = (  # panel: metrics of metrics.jsonl, by prefix and suffix
    ("held-out accuracy", "share", ("test/", "/exact")),
    ("reward", "mean per completion", ("reward/", "")),
    ("answers in the list, held out", "share", ("test/", "/in_list")),
    ("completion length", "tokens", ("rollout/length", "")),
    ("KL to the start", "nats per token", ("kl", "")),
    ("loss", "", ("loss", "")),
)
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
}


def write_sheet(task: Task, records: Sequence[Record], path: Path, per_test: int = 24) -> Path:
    """Test pictures with the predicted name, and the true one where it differs (marked `x`)."""
    cells = []
    for cell in by_test(records).values():
        step = max(1, len(cell) // per_test)
        for record in cell[::step][:per_test]:
            caption = f"{record.answer}" if record.exact else f"x {record.answer} ({record.label})"
            cells.append((task.picture(record.image, SIDE), " ".join(caption.split())))
    contact_sheet(cells, side=SIDE).save(path)
    return path


def read_metrics(path: Path) -> dict[str, dict[int, float]]:
    """metric -> update -> value; a later line for an update wins, null is skipped."""
    found: dict[str, dict[int, float]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:  # the half-written last line of a killed run
            continue
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                found.setdefault(name, {})[line["step"]] = value
    return found


def draw_curves(run_dir: Path) -> Path | None:
    """Learning curves of metrics.jsonl as a PNG; None where there is nothing to draw."""
    metrics = read_metrics(run_dir / "metrics.jsonl")
    panels = []
    for title, unit, (prefix, suffix) in CURVES:
        names = sorted(n for n in metrics if n.startswith(prefix) and n.endswith(suffix))
        names = [n for n in names if prefix.endswith("/") or n == prefix]
        if names:
            panels.append((title, unit, names, prefix, suffix))
    if not panels:
        return None
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, (title, unit, names, prefix, suffix) in zip(axes, panels, strict=False):
            for name in names:
                points = sorted(metrics[name].items())
                label = name.removeprefix(prefix).removesuffix(suffix) or None
                axis.plot(
                    *zip(*points, strict=True), label=label, marker="o" if len(points) < 12 else None, ms=3
                )
            axis.set(title=title, ylabel=unit, xlabel="update")
            if len(names) > 1:
                axis.legend(frameon=False, fontsize=8)
        for axis in axes[len(panels) :]:
            axis.axis("off")
        figure.savefig(run_dir / "learning-curves.png", dpi=130)
    return run_dir / "learning-curves.png"
