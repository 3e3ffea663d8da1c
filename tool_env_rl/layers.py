"""Which weights did RL change? Two Hugging Face checkpoints, matrix by matrix (arXiv 2508.08791, §7.9).

    python -m tool_env_rl.layers BEFORE AFTER --control CONTROL     # local folders or hub ids

The measures are in `layer_changes.py`; the primary one is the relative change of a matrix, divided by that
of a control run on random rewards where CONTROL is given.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from tool_env_rl.layer_changes import compare
from tool_env_rl.layer_report import print_report, write_report
from tool_env_rl.weight_files import BadCheckpoint, Weights

DEFAULT_OUT = Path(__file__).parent / "runs" / "layers"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tool_env_rl.layers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("before", help="checkpoint before RL: folder, .safetensors file or hub id")
    parser.add_argument("after", help="checkpoint after RL")
    parser.add_argument(
        "--control", help="checkpoint of a run on random rewards from BEFORE, equal steps and lr"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for layers.json and layers.png")
    args = parser.parse_args(argv)
    try:
        with ExitStack() as stack:
            before, after = (stack.enter_context(Weights(source)) for source in (args.before, args.after))
            control = stack.enter_context(Weights(args.control)) if args.control else None
            report = compare(before, after, control)
    except BadCheckpoint as error:
        parser.exit(2, f"{error}\n")
    print_report(report, Console())
    write_report(report, {"before": args.before, "after": args.after, "control": args.control}, args.out)
    print(f"written: {args.out / 'layers.json'} and {args.out / 'layers.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
