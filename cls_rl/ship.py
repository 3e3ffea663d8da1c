"""Put a finished pretraining into the repository, with its card: `python -m cls_rl.ship RUN_FOLDER`.

Everything starts from it by default, so that nobody must wait for it. The weights are stored in half
precision; the gate is measured on what is stored, and only a run made with committed code that passes it is
accepted.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from cls_rl import drawings, gate
from cls_rl.model import SHIPPED, load, save
from shared import checkpoint, tables

LIMIT_MB = 12.0
CARD = """# Small Qwen2.5-VL for cls_rl, before any reinforcement learning

A `Qwen2_5_VLForConditionalGeneration` of {parameters:,} parameters, made from nothing: {side}-pixel pictures,
{tokens} tokens each. It names drawings from a list, directly or after a short thought.

| what | value |
| --- | --- |
| recipe | `{command}` ({steps}) |
| commit | {commit} |
| seed | {seed} |
| CPU time | {minutes:.0f} min on one core |
| size | {size:.2f} MB, weights in float16 |
| SHA-256 of model.safetensors | {sha256} |
| made on | {hardware}, torch {torch}, transformers {transformers} |
| licence | Apache-2.0; the drawings are not in it |

Drawings it has seen ({pictures:,}; downstream uses other families of drawings):

{vendors}

Gate, few-shot families, {per_set} pictures per data set at most:

{checks}

Greedy accuracy in % by data set, all classes in the list; the test families decide nothing:

{sets}

The same recipe on the same versions gives the same numbers within their intervals; other CPUs may round
differently.
"""


def ship(run_dir: Path, target: Path = SHIPPED, count: int = 96) -> None:
    """Write the checkpoint of a finished run and its card to `target`; refusals end the program."""
    recipe = json.loads((run_dir / "recipe.json").read_text())
    made = json.loads((run_dir / "environment.json").read_text())
    if made["dirty"]:
        sys.exit(f"{run_dir} was made with uncommitted code; commit and pretrain again")
    if reason := checkpoint.problem(run_dir / "model"):
        sys.exit(f"{run_dir / 'model'}: {reason}; run python -m cls_rl.pretrain --out {run_dir}")
    half = run_dir / "half"
    if half.exists():
        shutil.rmtree(half)
    bundle = load(run_dir / "model")
    bundle.model.half()
    save(bundle, half)
    stored = load(half)
    cells = gate.measure(stored, count=count)
    checks = gate.conditions(cells)
    print(gate.report(checks))
    if failed := [check.name for check in checks if not check.passed]:
        sys.exit(f"{run_dir} did not pass the gate: {'; '.join(failed)}")
    written = {"checks": [asdict(check) for check in checks], "cells": cells}
    checkpoint.write_json_atomic(half / "gate.json", checkpoint.plain(written))
    checkpoint.write_json_atomic(half / "recipe.json", recipe)
    (half / checkpoint.MARKER).unlink()
    checkpoint.mark_complete(half)
    files = json.loads((half / checkpoint.MARKER).read_text())["files"]
    size = sum(file["bytes"] for file in files.values()) / 1e6
    if size > LIMIT_MB:
        sys.exit(f"the checkpoint has {size:.1f} MB, more than {LIMIT_MB:g}; make the model smaller")
    parameters = sum(p.numel() for p in stored.model.parameters())
    text = card(recipe, made, checks, cells, files, run_dir, parameters, count)
    checkpoint.write_text_atomic(half / "README.md", text)
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(half, target)
    print(f"shipped {run_dir} to {target}")


def card(
    recipe: dict,
    made: dict,
    checks: list[gate.Check],
    cells: dict[str, dict[str, float]],
    files: dict,
    run_dir: Path,
    parameters: int,
    count: int,
) -> str:
    """The model card, every number from the run's own records."""
    rows = [[c.name, f"{c.value:.3f}", f"{c.low:g} to {c.high:g}"] for c in checks]
    sizes = recipe["model"]
    seconds: dict[str, float] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        seconds[row["stage"]] = row["cpu_s"]
    used = [name for name, vendor in drawings.VENDORS.items() if vendor.use == "pretrain"]
    vendors = [
        [f"@iconify-json/{name}", v.version, v.licence] for name in used for v in [drawings.VENDORS[name]]
    ]
    columns = [f"{side}/{method}/all/greedy" for side in ("train", "test") for method in gate.MODES]
    sets = [[name, *(f"{100 * cells[c][f'exact/{name}']:.0f}" for c in columns)] for name in recipe["sets"]]
    return CARD.format(
        parameters=parameters,
        side=sizes["side"],
        tokens=(sizes["side"] // sizes["patch"] // sizes["merge"]) ** 2,
        command=f"python -m cls_rl.pretrain --out DIR --seed {recipe['seed']}",
        steps=" + ".join(f"{recipe[f'{s}_steps']:,}" for s in ("vision", "language", "choosing"))
        + " updates",
        commit=made["commit"],
        seed=recipe["seed"],
        minutes=sum(seconds.values()) / 60,
        size=sum(file["bytes"] for file in files.values()) / 1e6,
        sha256=files["model.safetensors"]["sha256"],
        hardware=made["hardware"],
        torch=made["versions"]["torch"],
        transformers=made["versions"]["transformers"],
        pictures=sum(d.use == "pretrain" for d in drawings.drawings()),
        vendors=tables.markdown(["package", "version", "licence"], vendors),
        per_set=count,
        checks=tables.markdown(["condition", "value", "needs"], rows),
        sets=tables.markdown(
            ["data set", "direct", "thinking", "direct, test families", "thinking, test families"], sets
        ),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cls_rl.ship RUN_FOLDER")
    try:
        ship(Path(sys.argv[1]))
    except (RuntimeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
