"""Which rows of SynLogic-Easy have golds that the verifiers accept, by task; training refuses the others.

python -m alignment_study.synlogic.check                # the hub's rows, or those of --data-dir DIR
python -m alignment_study.synlogic.check --out DIR      # write the good ones, for --data.data-dir DIR
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from alignment_study import sources
from alignment_study.families import Split
from alignment_study.synlogic import rows
from shared.config import refuse

FILES: dict[Split, str] = {"train": "train", "test": "validation"}


@dataclass(frozen=True)
class Settings:
    data_dir: str | None = None  # folder with synlogic_easy/{train,validation}.{parquet,jsonl}; None: the hub
    out: str | None = None  # folder for the good rows, as JSONL; None: nothing is written


def check(split: Split, settings: Settings) -> tuple[Counter[str], Counter[str], list[str]]:
    """Rows per task, those refused per task, and the refusals in words; writes the good rows if asked to.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as `sources.read`.
    """
    if (
        settings.out
        and settings.data_dir
        and Path(settings.out).resolve() == Path(settings.data_dir).resolve()
    ):
        raise ValueError(f"out={settings.out} is the folder that is read; name another")
    total, refused, why, good = Counter[str](), Counter[str](), [], []
    for at, row in sources.read("synlogic-easy", split, settings.data_dir):
        task = str(row.get("data_source")).removeprefix("val/")
        total[task] += 1
        try:
            found = rows.parse(at, row)
        except ValueError as error:
            refused[task] += 1
            why.append(str(error))
            continue
        if found.gold and not found.verify(found.gold):
            refused[task] += 1
            why.append(f"{at} ({task}): gold {found.gold[:60]!r} rejected")
        else:
            good.append(row)
    if settings.out:
        path = Path(settings.out).expanduser() / "synlogic_easy" / f"{FILES[split]}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.tmp")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in good), encoding="utf-8")
        os.replace(part, path)
    return total, refused, why


def main(args: list[str] | None = None) -> None:
    """Check both splits; bad input ends the process with one line."""
    settings = tyro.cli(Settings, args=args, description=__doc__)
    for split in FILES:
        try:
            total, refused, why = check(split, settings)
        except (ValueError, OSError) as error:
            refuse(str(error))
        print(f"{FILES[split]}: {total.total():,} rows, {refused.total():,} refused")
        for task in sorted(total):
            print(f"  {task:<32} {total[task]:>6,} rows {refused[task]:>6,} refused")
        for line in why[:20]:
            print(f"  {line}")


if __name__ == "__main__":
    main()
