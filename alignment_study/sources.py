"""Where data sets are, and their rows: from the hub, or from local JSONL and parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment_study.families import Split

Rows = Iterable[tuple[str, Any]]  # (where it stands, row)


@dataclass(frozen=True)
class Source:
    """Where a set is: a data set of the hub at a commit (None: only local), and its name in `data_dir`."""

    hub: tuple[str, str | None, str] | None  # id, config, split
    revision: str | None
    file: str  # may hold a *


_GSM8K = "740312add88f781978c0658806c59bc2815b9866"
_SYNLOGIC = "MiniMaxAI/SynLogic"
SETS: dict[str, dict[Split, Source]] = {
    "gsm8k": {
        "train": Source(("openai/gsm8k", "main", "train"), _GSM8K, "gsm8k_train.jsonl"),
        "test": Source(("openai/gsm8k", "main", "test"), _GSM8K, "gsm8k_test.jsonl"),
    },
    "math500": {
        "test": Source(
            ("HuggingFaceH4/MATH-500", None, "test"),
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            "math500_test.jsonl",
        )
    },
    "aime24": {"test": Source(("zwhe99/aime90", None, "2024"), None, "aime24_test.jsonl")},
    "aime25": {
        "test": Source(
            ("math-ai/aime25", None, "test"), "563bb8404243c5f09de6ec262f2db674fe5bce9b", "aime25_test.jsonl"
        )
    },
    "deepscaler": {
        "train": Source(("agentica-org/DeepScaleR-Preview-Dataset", None, "train"), None, "deepscaler.jsonl")
    },
    "svamp": {"test": Source(None, None, "svamp_test.jsonl")},
    "mawps": {"test": Source(None, None, "mawps_*.jsonl")},
    "synlogic-easy": {  # the hub repository's own layout, so that a clone of it serves as data_dir
        "train": Source((_SYNLOGIC, "easy", "train"), None, "synlogic_easy/train.*"),
        "test": Source((_SYNLOGIC, "easy", "validation"), None, "synlogic_easy/validation.*"),
    },
}


def read(name: str, split: Split, data_dir: Path | str | None) -> Rows:
    """The rows of a set's split, from `data_dir` if given, else from the hub.

    Raises:
        ValueError: no such split, a line that is no JSON, or the same rows in two formats.
        FileNotFoundError: not in `data_dir`, or only local. ConnectionError: the hub's copy cannot be had.
    """
    if split not in SETS[name]:
        raise ValueError(f"{name} has no {split} split, only {', '.join(SETS[name])}")
    source = SETS[name][split]
    if not data_dir:
        return hub_rows(name, source)
    files = sorted(Path(data_dir).expanduser().glob(source.file))
    if not files:
        raise FileNotFoundError(f"no {source.file} in {data_dir}; put it there or choose another task")
    if source.file.endswith(".*") and len(files) > 1:
        raise ValueError(f"{', '.join(file.name for file in files)} in {files[0].parent}: keep one of them")
    return [row for file in files for row in local_rows(file)]


def local_rows(path: Path) -> Rows:
    """Each line of a JSONL file or row of a parquet file."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a JSONL file with question and answer per line")
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(path).to_pylist()
        yield from ((f"{path.name} row {number}", row) for number, row in enumerate(table, start=1))
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"{path.name} line {number}", json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path} line {number} is not JSON: {error}; correct the line"
                    ) from error


def hub_rows(name: str, source: Source) -> Rows:
    """Downloads the set, or takes it from the hub's cache."""
    if source.hub is None:
        raise FileNotFoundError(f"{name} is read from local files: give --data-dir with {source.file}")
    import datasets

    hub_id, config, part = source.hub
    try:
        rows = datasets.load_dataset(hub_id, config, split=part, revision=source.revision)
    except Exception as error:  # offline, gated, moved: a dozen types
        fix = f"connect once, or give --data-dir with {source.file}"
        raise ConnectionError(f"cannot load {hub_id}@{source.revision or 'main'} ({error}); {fix}") from error
    return ((f"{name}/{i}", row) for i, row in enumerate(rows))
