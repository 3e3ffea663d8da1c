"""The evaluation sets of AdaCtrl (GSM8K, MATH500, AIME24, AIME25) and its training problems (DeepMath-103K).

Rows come from the Hugging Face hub at a pinned revision or, with ``data_dir`` or the environment variable
``ADACTRL_DATA_DIR``, from a folder of JSON Lines files; see ``Benchmark.local_file`` for their names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One question; ``source`` is the name of its set, ``id`` is ``<source>/<row>``."""

    id: str
    source: str
    question: str
    answer: str
    difficulty: float | None = None
    solution: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """Where a set is; ``revision`` is a commit of the hub's data set, ``None`` its newest."""

    hub_id: str
    config: str | None
    split: str
    revision: str | None
    local_file: str
    repeats: int = 1  # samples per problem, from the authors' merge_data.py


_GSM8K = "740312add88f781978c0658806c59bc2815b9866"
_MATH500 = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
_AIME24 = None  # no commit of it is pinned in public code: the loader prints the one it got
_AIME25 = "563bb8404243c5f09de6ec262f2db674fe5bce9b"
_DEEPMATH = "5cf055d1fe3d7a2eb19719ac020211469736ae44"
BENCHMARKS: dict[str, Benchmark] = {  # AIME: the copies DeepMath's evaluator reads, AdaCtrl's are not public
    "gsm8k": Benchmark("openai/gsm8k", "main", "test", _GSM8K, "gsm8k_test.jsonl"),
    "math500": Benchmark("HuggingFaceH4/MATH-500", None, "test", _MATH500, "math500_test.jsonl"),
    "aime24": Benchmark("zwhe99/aime90", None, "2024", _AIME24, "aime24_test.jsonl", repeats=8),
    "aime25": Benchmark("math-ai/aime25", None, "test", _AIME25, "aime25_test.jsonl", repeats=8),
}
DEEPMATH = Benchmark("zwhe99/DeepMath-103K", None, "train", _DEEPMATH, "deepmath_103k.jsonl")
GSM8K_TRAIN = Benchmark("openai/gsm8k", "main", "train", _GSM8K, "gsm8k_train.jsonl")
FIELDS = {  # of the names in use, the first that a row has
    "question": ("problem", "question"),
    "answer": ("final_answer", "expected_answer", "answer"),
    "difficulty": ("difficulty", "level"),
    "solution": ("r1_solution_1", "solution"),
}


def load_benchmark(name: str, data_dir: Path | str | None = None) -> list[Problem]:
    """All problems of a set, each once (`with_repeats` makes the AIMEs' eight rows).

    Raises: ValueError for an unknown set or a row without question or answer; FileNotFoundError for a missing
        local file; ConnectionError if the hub's copy cannot be had. Each names the fix.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    return _load(name, BENCHMARKS[name], BENCHMARKS[name].revision, data_dir, limit=None)


def load_deepmath(
    revision: str | None = DEEPMATH.revision, data_dir: Path | str | None = None, limit: int | None = None
) -> list[Problem]:
    """DeepMath-103K, or its first ``limit`` rows, with DeepSeek-R1's first answer as ``solution``."""
    return _load("deepmath", DEEPMATH, revision, data_dir, limit)


def load_gsm8k_train(data_dir: Path | str | None = None) -> list[Problem]:
    """GSM8K train for the `pretrained` preset: difficulty is the number of calculations in the worked
    solution.

    The solution loses its calculator marks (``<<3*4=12>>``) and ends in the boxed answer.
    """
    problems = []
    for p in _load("gsm8k-train", GSM8K_TRAIN, GSM8K_TRAIN.revision, data_dir, limit=None):
        worked = re.sub(r"<<.*?>>", "", p.solution or "")
        steps = float((p.solution or "").count("<<"))
        problems.append(
            replace(p, difficulty=steps, solution=f"{worked}\nThe answer is \\boxed{{{p.answer}}}.")
        )
    return problems


def with_repeats(problems: list[Problem], n: int) -> list[Problem]:
    """Every problem ``n`` times in a row under the same id, so that results can be grouped by problem."""
    if n < 1:
        raise ValueError(f"n={n} must be >= 1; BENCHMARKS[name].repeats is the paper's number")
    return [problem for problem in problems for _ in range(n)]


def provenance(name: str, data_dir: Path | str | None = None) -> str:
    """What a result's record says about its data: ``hub_id@revision``, or the local file and its SHA-256."""
    benchmark = DEEPMATH if name == "deepmath" else BENCHMARKS[name]
    if (path := _local_path(benchmark, data_dir)) is None:
        return f"{benchmark.hub_id}@{benchmark.revision or 'main'}"
    return f"{path.name}@sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _local_path(benchmark: Benchmark, data_dir: Path | str | None) -> Path | None:
    folder = data_dir or os.environ.get("ADACTRL_DATA_DIR")
    if not folder:
        return None
    path = Path(folder).expanduser() / benchmark.local_file
    if not path.is_file():
        fix = f"put it there, or unset data_dir and ADACTRL_DATA_DIR to download {benchmark.hub_id}"
        raise FileNotFoundError(f"no file {path}; {fix}")
    return path


def _load(
    name: str, benchmark: Benchmark, revision: str | None, data_dir: Path | str | None, limit: int | None
) -> list[Problem]:
    path = _local_path(benchmark, data_dir)
    rows = _hub_rows(benchmark, revision) if path is None else _local_rows(path)
    return [_problem(name, index, row) for index, row in enumerate(islice(rows, limit))]


def _local_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: {error}; copy the file again") from error


def _hub_rows(source: Benchmark, revision: str | None) -> Iterable[Any]:
    import datasets

    try:
        rows = datasets.load_dataset(source.hub_id, source.config, split=source.split, revision=revision)
    except Exception as error:  # offline, gated, moved: a dozen types
        fix = f"connect once, or set ADACTRL_DATA_DIR to a folder with {source.local_file}"
        raise ConnectionError(f"cannot load {source.hub_id}@{revision or 'main'} ({error}); {fix}") from error
    if revision is None and rows.cache_files:
        print(f"{source.hub_id} is not pinned; loaded {Path(rows.cache_files[0]['filename']).parent.name}")
    return rows


def _problem(name: str, index: int, row: Mapping[str, Any]) -> Problem:
    def first(field: str) -> str | None:
        values = (str(row[key]).strip() for key in FIELDS[field] if row.get(key) is not None)
        return next(filter(None, values), None)

    question, answer, difficulty, solution = map(first, FIELDS)
    if answer and name.startswith("gsm8k"):  # the working, ####, the number
        solution, _, answer = (part.strip() for part in answer.rpartition("####"))
        answer = answer.replace(",", "") if solution else None
    if not question or not answer:
        expected = f"{FIELDS['question']} and {FIELDS['answer']} (GSM8K: after ####)"
        raise ValueError(f"{name}, row {index}: no value for one of {expected}; the row has {sorted(row)}")
    return Problem(
        f"{name}/{index}", name, question, answer, float(difficulty) if difficulty else None, solution
    )
