"""Answer the test sets of several data sets with one model: the rows of the transfer matrix; never trains.

    python transfer.py --sets animals food                                   # the shipped model, untuned
    python transfer.py --model.name runs/small-seed0/model --sets food flags --algo.method thinking

Every option of train.py that an evaluation needs is understood (`--data.setting`, `--eval.empty-thought`).
The run folder gets records-<set>.csv.gz, a row per test image; finished sets are skipped on --run.resume.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from cls_rl import data, data_sets, eval
from cls_rl.config import PRESETS, Config
from shared import checkpoint, config, runs


def split_sets(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What follows `--sets` up to the next option (none without it), and the other words; an unknown set ends
    the process."""
    if "--sets" not in words:
        return [], list(words)
    first = list(words).index("--sets")
    last = first + 1
    while last < len(words) and not words[last].startswith("--"):
        last += 1
    names = list(words[first + 1 : last])
    for name in names:
        if name not in data_sets.ALL:
            config.refuse(f"--sets {name}: not one of {', '.join(data_sets.ALL)}")
    if not names:
        config.refuse(f"--sets names no set; give one or more of {', '.join(data_sets.ALL)}")
    return names, [*words[:first], *words[last:]]


def evaluate_sets(cfg: Config, names: Sequence[str]) -> dict[str, float]:
    """Records and metrics `<set>/<test>/<metric>` of every set, in the run folder of `cfg`; a resumed run
    needs no names."""
    if not names and not cfg.run.resume:
        config.refuse(f"--sets is missing; name one or more of {', '.join(data_sets.ALL)}")
    run = runs.start(cfg, package="cls_rl", script="transfer")
    names = names or json.loads((run.dir / "sets.json").read_text(encoding="utf-8"))
    checkpoint.write_json_atomic(run.dir / "sets.json", list(names))
    bundle = eval.load_bundle(cfg)
    found: dict[str, float] = {}
    for i, name in enumerate(names, start=1):
        one = replace(cfg, data=replace(cfg.data, set=name))
        task = data.load_task(one.data, cfg.run.seed)
        records = eval.evaluate_once(bundle, task, one, run.dir / f"records-{name}.csv.gz")
        metrics = eval.summary(records)
        found |= {f"{name}/{metric}": value for metric, value in metrics.items()}
        shown = ", ".join(f"{k} {100 * v:.1f} %" for k, v in metrics.items() if k.endswith("/exact"))
        print(f"{i}/{len(names)} {name}: {shown}", flush=True)
    run.finish(found)
    return found


def main() -> None:
    names, words = split_sets(sys.argv[1:])
    cfg = config.parse(Config, PRESETS, default="small", args=words)
    try:
        evaluate_sets(cfg, names)
    except (ValueError, RuntimeError, OSError) as error:
        config.refuse(str(error))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
