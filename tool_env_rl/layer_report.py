"""Table, figure and JSON of a layer-wise comparison (`python -m tool_env_rl.layers`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shared import checkpoint
from tool_env_rl.layer_changes import LAYER, MatrixChange, locate, primary


def write_report(report: Mapping[str, Any], sources: Mapping[str, str | None], folder: Path) -> None:
    """layers.json and layers.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(change), "rho_normed": change.rho_normed} for change in report["changes"]]
    payload = {**report, "changes": rows, "sources": sources}
    checkpoint.write_json_atomic(folder / "layers.json", payload)
    draw(report["changes"], report["localization"]["measure"], folder / "layers.png")


def draw(changes: list[MatrixChange], measure: str, path: Path) -> None:
    """Primary measure per layer (columns) and matrix type (rows), white where unknown."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    inside = [change for change in changes if change.layer is not None]
    types = sorted({_type(c.name) for c in inside}, key=lambda t: (locate(f"layers.0.{t}")[1], t)) or [
        "(no layer)"
    ]
    num_layers = max((c.layer for c in inside if c.layer is not None), default=0) + 1
    grid = [[math.nan] * num_layers for _ in types]
    for change in inside:
        value = primary(change)
        grid[types.index(_type(change.name))][change.layer or 0] = math.nan if value is None else value
    figure, axes = plt.subplots(
        figsize=(3.5 + 0.28 * num_layers, 1.6 + 0.28 * len(types)), layout="constrained"
    )
    image = axes.imshow(grid, aspect="auto", cmap="viridis")
    axes.set_yticks(range(len(types)), types)
    axes.set_xlabel("layer")
    axes.set_title("change relative to the control" if measure == "rho_normed" else "relative change")
    figure.colorbar(image, ax=axes, label=measure)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _type(name: str) -> str:
    match = LAYER.search(name)
    return name[match.end() :].removesuffix(".weight") if match else name


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Group means, the matrices that moved most, and every mismatch."""
    place = report["localization"]
    table = Table(title=f"{place['measure']}, mean per group")
    table.add_column("group")
    table.add_column(place["measure"], justify="right")
    for name, value in sorted(place["groups"].items(), key=lambda item: -item[1]):
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    table = Table(title="matrices that moved most")
    for column in ("matrix", "rho", "normed", "mean |D|", "> 1e-5", "> bf16 ulp", "eff. rank", "top-8"):
        table.add_column(column, justify="left" if column == "matrix" else "right")
    for change in sorted(report["changes"], key=lambda c: -(primary(c) or 0.0))[:20]:
        normed = "" if change.rho_normed is None else f"{change.rho_normed:.3g}"
        values = (
            change.mean_abs,
            change.above_1e5,
            change.above_bf16_ulp,
            change.effective_rank,
            change.top8_energy,
        )
        table.add_row(change.name, f"{change.rho:.3g}", normed, *(f"{value:.3g}" for value in values))
    console.print(table)
    for label, key in (("all other matrices", "s"), ("other matrices of the layers", "s_layers")):
        value = "none" if place[key] is None else f"{place[key]:.3f}"
        console.print(f"low MLP over {label}: S = {value}")
    console.print(f"rank of low MLP among {len(place['groups'])} groups: {place['low_mlp_rank']}")
    console.print(f"{len(report['changes'])} matrices compared, {report['vectors']} vectors left out")
    for sentence in report["mismatches"]:
        console.print(f"not compared: {sentence}", markup=False)
