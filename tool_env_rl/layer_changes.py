"""Change of every weight matrix between two checkpoints (arXiv 2508.08791, §7.9), and where it sits.

Per weight matrix W, in fp32, with D = after - before:

    rho             ||D||_F / ||W||_F
    mean_abs        mean |D|
    above_1e5       share of entries with |D| > 1e-5
    above_bf16_ulp  share of entries with |D| > one bf16 step at |W|
    effective_rank  exp of the entropy of D's singular values divided by their sum (Roy and Vetterli 2007)
    top8_energy     share of ||D||_F^2 in the 8 largest singular directions
    rho_normed      rho / rho of the control, a run from BEFORE on random rewards: AdamW moves all matrices
                    by a like amount, so rho alone also tells which weights were small

The paper's own measure is not known; `rho_normed` (rho where there is no control) is ours, fixed in advance.
Memory stays bounded: tensors are read in slices, and the largest thing kept is one Gram matrix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from tool_env_rl.weight_files import BadCheckpoint, Weights

SLICE_ELEMENTS = 1 << 22  # 16 MiB of fp32 per slice
TOP = 8
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
_ATTENTION = re.compile(r"attn|attention|\b[qkvo]_proj\b", re.IGNORECASE)
_MLP = re.compile(r"mlp|feed_forward|ffn|experts|\b(?:gate|up|down)_proj\b|\bfc[12]\b", re.IGNORECASE)


@dataclass(frozen=True)
class MatrixChange:
    """Change of one matrix; `layer` is None outside the stack, `kind` is attention, mlp or other."""

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, ...]
    rho: float
    mean_abs: float
    above_1e5: float
    above_bf16_ulp: float
    effective_rank: float
    top8_energy: float
    rho_control: float | None = None

    @property
    def rho_normed(self) -> float | None:
        """rho / rho of the control; None without a control or where the control did not move."""
        return self.rho / self.rho_control if self.rho_control else None


def _slices(before: Any, after: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of fp32 (rows, columns) slices along the longer side, which is then the row side of both."""
    shape = before.get_shape()
    if len(shape) > 2:  # packed experts and convolutions: one matrix below the other
        for index in range(shape[0]):
            pair = [part[index].float().reshape(-1, shape[-1]) for part in (before, after)]
            yield pair[0], pair[1]
        return
    rows, columns = shape
    step = max(1, SLICE_ELEMENTS // min(rows, columns))
    for start in range(0, max(rows, columns), step):
        if rows >= columns:
            yield before[start : start + step].float(), after[start : start + step].float()
        else:
            yield before[:, start : start + step].float().T, after[:, start : start + step].float().T


def matrix_measures(before: Any, after: Any, *, spectrum: bool = True) -> dict[str, float]:
    """The measures of one matrix pair, each given as a safetensors slice (or a tensor wrapped like one).

    effective_rank and top8_energy are 0 for an unchanged matrix, and absent with `spectrum=False`.

    Raises:
        BadCheckpoint: an entry that is not finite.
    """
    count, weight_sq, change_sq, change_abs, small, ulp = 0, 0.0, 0.0, 0.0, 0, 0
    gram: Tensor | None = None
    for old, new in _slices(before, after):
        change = new - old
        if not bool(torch.isfinite(change).all()):
            raise BadCheckpoint(
                "holds NaN or infinite weights; compare a checkpoint from before the divergence"
            )
        count += change.numel()
        weight_sq += old.double().square().sum().item()
        change_sq += change.double().square().sum().item()
        change_abs += change.abs().double().sum().item()
        small += int((change.abs() > 1e-5).sum())
        ulp += int((change.abs() > bf16_ulp(old)).sum())
        if spectrum:
            part = change.double()
            product = part.T @ part
            gram = product if gram is None else gram.add_(product)
    measures = {
        "rho": math.sqrt(change_sq / weight_sq) if weight_sq else (math.inf if change_sq else 0.0),
        "mean_abs": change_abs / count,
        "above_1e5": small / count,
        "above_bf16_ulp": ulp / count,
    }
    return measures if gram is None else {**measures, **_spectrum(gram)}


def bf16_ulp(weights: Tensor) -> Tensor:
    """Distance from |w| to the next bf16 number, 2^(floor(log2 |w|) - 7); the smallest normal's at 0."""
    exponent = torch.frexp(weights.abs().clamp_min(torch.finfo(torch.bfloat16).tiny)).exponent
    return torch.ldexp(torch.ones_like(weights), exponent - 8)


def _spectrum(gram: Tensor) -> dict[str, float]:
    energy = torch.linalg.eigvalsh(gram).clamp_min(0).flip(0)
    total = energy.sum()
    if total == 0:
        return {"effective_rank": 0.0, "top8_energy": 0.0}
    energy = torch.where(energy > energy[0] * 1e-14, energy, 0)  # rounding of the Gram matrix, not directions
    values = energy.sqrt()
    share = values / values.sum()
    entropy = -(share * torch.where(share > 0, share.log(), 0)).sum()
    return {"effective_rank": math.exp(entropy), "top8_energy": (energy[:TOP].sum() / energy.sum()).item()}


def locate(name: str) -> tuple[int | None, str]:
    """(layer index or None, kind) of a parameter name: "model.layers.3.mlp.up_proj.weight" is (3, "mlp")."""
    match = LAYER.search(name)
    layer = int(match[1]) if match else None
    if layer is not None and _MLP.search(name):
        return layer, "mlp"
    if layer is not None and _ATTENTION.search(name):
        return layer, "attention"
    return layer, "other"


def third(layer: int, num_layers: int) -> str:
    """low: the first ceil(L/3) layers; high: the last ceil(L/3); mid: the rest (of 4: 0-1 low, 2-3 high)."""
    size = math.ceil(num_layers / 3)
    if layer < size:
        return "low"
    return "high" if layer >= num_layers - size else "mid"


def localization(changes: list[MatrixChange]) -> dict[str, Any]:
    """Mean of the primary measure per group {attention, mlp} x {low, mid, high}, and S of §7.9.

    S = mean over the low MLP matrices / mean over all other matrices (`s`), or over the other matrices of
    attention and MLP (`s_layers`). `low_mlp_rank` counts from 1. None where a group is empty.
    """
    measured = [(change, primary(change)) for change in changes]
    known = [(change, value) for change, value in measured if value is not None and math.isfinite(value)]
    num_layers = max((c.layer for c in changes if c.layer is not None), default=-1) + 1
    groups: dict[str, list[float]] = {}
    rest: list[float] = []
    for change, value in known:
        if change.layer is not None and change.kind != "other":
            groups.setdefault(f"{third(change.layer, num_layers)} {change.kind}", []).append(value)
        else:
            rest.append(value)
    low = groups.get("low mlp", [])
    others = [value for name, values in groups.items() if name != "low mlp" for value in values]
    means = {name: fmean(values) for name, values in sorted(groups.items())}
    order = sorted(means, key=lambda name: -means[name])
    return {
        "measure": "rho_normed" if any(c.rho_control is not None for c in changes) else "rho",
        "num_layers": num_layers,
        "groups": means,
        "s": _ratio(low, others + rest),
        "s_layers": _ratio(low, others),
        "low_mlp_rank": order.index("low mlp") + 1 if low else None,
    }


def primary(change: MatrixChange) -> float | None:
    return change.rho if change.rho_control is None else change.rho_normed


def _ratio(low: list[float], others: list[float]) -> float | None:
    return fmean(low) / fmean(others) if low and others and fmean(others) > 0 else None


def compare(before: Weights, after: Weights, control: Weights | None = None) -> dict[str, Any]:
    """Report on all matrices that the checkpoints share by name and shape.

    Keys: changes (list of MatrixChange), localization, mismatches (one sentence each), vectors (count of
    one-dimensional tensors, which are left out).

    Raises:
        BadCheckpoint: nothing in common, or weights that are not finite.
    """
    checkpoints = {"BEFORE": before, "AFTER": after} | ({"CONTROL": control} if control else {})
    names, mismatches, vectors = _common(checkpoints)
    changes = []
    for name in track(names, description="matrices", transient=True, disable=len(names) < 50):
        layer, kind = locate(name)
        old = before.view(name)
        try:
            measures = matrix_measures(old, after.view(name))
            moved = matrix_measures(old, control.view(name), spectrum=False)["rho"] if control else None
        except BadCheckpoint as error:
            raise BadCheckpoint(f"{name} {error}") from error
        changes.append(MatrixChange(name, layer, kind, tuple(old.get_shape()), **measures, rho_control=moved))
    return {
        "changes": changes,
        "localization": localization(changes),
        "mismatches": mismatches,
        "vectors": vectors,
    }


def _common(checkpoints: Mapping[str, Weights]) -> tuple[list[str], list[str], int]:
    names, mismatches, vectors = [], [], 0
    for name in sorted({name for weights in checkpoints.values() for name in weights.names()}):
        if absent := [label for label, weights in checkpoints.items() if not weights.has(name)]:
            mismatches.append(f"{name}: not in {' and '.join(absent)}")
            continue
        views = {label: weights.view(name) for label, weights in checkpoints.items()}
        shapes = {label: tuple(view.get_shape()) for label, view in views.items()}
        if len(set(shapes.values())) > 1:
            mismatches.append(f"{name}: shapes differ, {', '.join(f'{k} {v}' for k, v in shapes.items())}")
        elif any(not view.get_dtype().startswith(("F", "BF")) for view in views.values()):
            mismatches.append(f"{name}: not floating point; compare unquantized checkpoints")
        elif len(shapes["BEFORE"]) < 2 or 0 in shapes["BEFORE"]:
            vectors += 1
        else:
            names.append(name)
    if not names:
        raise BadCheckpoint(
            f"no matrix in common; first difference: {mismatches[0] if mismatches else 'no tensors'}"
        )
    return names, mismatches, vectors
