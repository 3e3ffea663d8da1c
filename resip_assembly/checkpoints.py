"""Policies on disk: a folder with config.json and tensors, refused for another task or action space."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared import checkpoint


@dataclass(frozen=True)
class Identity:
    """What a policy was trained for."""

    task: str
    action_mode: str = "absolute"
    robot: str = "floating"
    obs_layout: str = ""  # names and sizes of the observation's parts, in order


def save(
    folder: Path,
    identity: Identity,
    config: dict[str, Any],
    states: dict[str, Any],
    arrays: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write config.json, one ``<name>.pt`` per state and arrays.npz, then the marker; replaces `folder`."""
    part = folder.with_name(f".{folder.name}.part.tmp")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    checkpoint.write_json_atomic(part / "config.json", {**config, "identity": dataclasses.asdict(identity)})
    for name, state in states.items():
        torch.save(state, part / f"{name}.pt")
    if arrays is not None:
        np.savez(part / "arrays.npz", allow_pickle=False, **arrays)
    checkpoint.mark_complete(part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
    return folder


def load_config(folder: Path | str, identity: Identity | None = None) -> dict[str, Any]:
    """config.json of a complete checkpoint.

    ValueError if it is incomplete, or made for another task, action mode, robot or observation layout than
    `identity` (None: not checked); the message names both.
    """
    folder = Path(folder)
    if reason := checkpoint.problem(folder):
        raise ValueError(f"checkpoint {folder.name} cannot be used: {reason}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = Identity(**config["identity"])
    for field in dataclasses.fields(Identity) if identity is not None else ():
        there, here = getattr(stored, field.name), getattr(identity, field.name)
        if there != here:
            name = field.name.replace("_", " ")
            raise ValueError(f"checkpoint {folder.name} has {name} {there!r}, this run {here!r}; use another")
    return config


def load_state(folder: Path | str, name: str, device: torch.device | str = "cpu") -> Any:
    """The tensors written as `name`; only tensors and plain containers, no pickled code."""
    return torch.load(Path(folder) / f"{name}.pt", map_location=device, weights_only=True)


def load_arrays(folder: Path | str) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, empty if it has none."""
    path = Path(folder) / "arrays.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def kept(root: Path) -> str:
    """For the message of a run that cannot go on: which checkpoint of `root` is there."""
    last = checkpoint.last_complete(root, on_skip=lambda line: None)
    return f"{last} is kept" if last else "no checkpoint had been saved yet"


def prune(root: Path, keep: int = 2) -> None:
    """Delete all but the newest `keep` ``checkpoint-<step>`` folders."""
    found = [p for p in root.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal()]
    for path in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))[:-keep]:
        shutil.rmtree(path)
