"""Put a finished cold start into the repository, with its card: `python -m adactrl.ship runs/NAME`.

`train.py` starts from it by default, so that nobody must wait for it. Only a run made with committed code
that passed the gate is accepted.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file

from adactrl.cold_start import SHIPPED
from adactrl.gate import Check
from shared import checkpoint, tables

CARD = """# Cold-started AdaCtrl policy, small scale

A Llama of {parameters:,} parameters after stage 1 on generated chains (`chains.py`): it writes a tag and
answers short or long accordingly. It has seen no reinforcement learning; `train.py` starts from it.

| what | value |
| --- | --- |
| recipe | `{command}` |
| commit | {commit} |
| seed | {seed} |
| data | {examples:,} generated problems, {steps} updates x {batch} |
| size | {size:.2f} MB |
| SHA-256 of model.safetensors | {sha256} |
| trained on | {hardware}, torch {torch} |
| licence | Apache-2.0; trained on generated data only |

Gate after cold start, 200 validation problems per tier and mode at temperature 1:

{gate}

The same recipe on the same versions gives the same numbers within sampling error; other CPUs may round
differently.
"""


def ship(run_dir: Path) -> None:
    """Copy the cold start of a finished run and write its card."""
    manifest = json.loads((run_dir / "manifest.json").read_text())
    checks = [Check(**check) for check in json.loads((run_dir / "gate.json").read_text())]
    if manifest["dirty"]:
        sys.exit(f"{run_dir} was made with uncommitted code; commit and train again")
    if failed := [check.name for check in checks if not check.passed]:
        sys.exit(f"{run_dir} did not pass the gate: {', '.join(failed)}")
    source = run_dir / "cold_start" / "model"
    if reason := checkpoint.problem(source):
        sys.exit(f"{source}: {reason}")
    if SHIPPED.exists():
        shutil.rmtree(SHIPPED)
    SHIPPED.mkdir()
    files = json.loads((source / checkpoint.MARKER).read_text())["files"]
    for name in files:
        if name != "training_args.bin":  # a pickle nobody needs
            shutil.copy2(source / name, SHIPPED / name)
    checkpoint.mark_complete(SHIPPED)
    weights = files["model.safetensors"]
    config = json.loads((run_dir / "config.json").read_text())
    seed = config["run"]["seed"]
    rows = [[c.name, f"{c.value:.3f}", f"{c.low:.2f} to {c.high:.2f}"] for c in checks]
    card = CARD.format(
        parameters=sum(tensor.numel() for tensor in load_file(SHIPPED / "model.safetensors").values()),
        command=f"cd adactrl && python train.py --cold-start fresh --algo.steps 0 --run.seed {seed}",
        commit=manifest["commit"],
        seed=seed,
        examples=config["sft"]["examples"],
        steps=config["sft"]["steps"],
        batch=config["sft"]["batch_size"],
        size=sum(f["bytes"] for f in files.values()) / 1e6,
        sha256=weights["sha256"],
        hardware=manifest["hardware"],
        torch=manifest["versions"]["torch"],
        gate=tables.markdown(["condition", "value", "needs"], rows),
    )
    checkpoint.write_text_atomic(SHIPPED / "README.md", card)
    print(f"shipped {source} to {SHIPPED}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m adactrl.ship RUN_FOLDER")
    ship(Path(sys.argv[1]))
