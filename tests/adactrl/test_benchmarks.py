"""Loaders of the evaluation sets, and the grader on every row of the local copies where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adactrl import benchmarks
from adactrl.benchmarks import BENCHMARKS, DEEPMATH, Problem, load_benchmark, load_deepmath, with_repeats
from shared import answers
from shared.answers import failures, grade_many

DATA = Path(os.environ.get("ADACTRL_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data" / "math")
SETS = {  # file → (rows, the field that holds the gold)
    "gsm8k_train": (7473, "answer"),
    "gsm8k_test": (1319, "answer"),
    "math500_test": (500, "answer"),
    "aime24_test": (30, "answer"),
    "aime25_test": (30, "answer"),
    "amc23_test": (40, "answer"),
    "mawps_addsub": (395, "target"),
    "mawps_multiarith": (600, "target"),
    "mawps_singleeq": (508, "target"),
    "mawps_singleop": (562, "target"),
    "svamp_test": (1000, "Answer"),
}
GSM8K = {"question": "How many?", "answer": "She has 6 * 200 = <<6*200=1200>>1200 eggs.\n#### 1,200"}


def golds_of(name: str) -> list[str]:
    """The golds of a local file, skipping the test if it is not there."""
    path, (rows, field) = DATA / f"{name}.jsonl", SETS[name]
    if not path.is_file():
        pytest.skip(f"no {path}: set ADACTRL_DATA_DIR to the folder with the local data sets")
    golds = [str(json.loads(line)[field]).rpartition("####")[2].strip() for line in path.open()]
    golds = [gold.replace(",", "") if name.startswith("gsm8k") else gold for gold in golds]
    assert len(golds) == rows
    return golds


def say(answer: str) -> str:
    return f"The answer is \\boxed{{{answer}}}"


def write_rows(path: Path, *rows: Mapping[str, Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "math500_test")) for name in SETS]
)
def test_every_gold_is_right_and_another_rows_gold_is_wrong(name: str) -> None:
    golds, before = golds_of(name), failures()
    assert grade_many([say(gold) for gold in golds], golds) == [True] * len(golds)
    shifted = golds[1:] + golds[:1]
    different = [(answer, gold) for answer, gold in zip(shifted, golds, strict=True) if answer != gold]
    verdicts = grade_many([say(answer) for answer, _ in different], [gold for _, gold in different])
    assert len(different) > 0.5 * len(golds)
    assert None not in verdicts
    right = [pair for pair, verdict in zip(different, verdicts, strict=True) if verdict]
    assert len(right) <= 0.01 * len(different), right
    assert failures() == before


def test_math_verify_reads_every_gold() -> None:
    """`grade` does not ask it about equal strings, so ask it directly: every gold must be readable."""
    golds = golds_of("math500_test")
    with ThreadPoolExecutor(answers.WORKERS) as threads:
        verdicts = list(threads.map(lambda gold: answers._ask_worker(gold, gold, 5.0), golds))
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict != "True"] == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_local_benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = BENCHMARKS[name].local_file
    golds = golds_of(file.removesuffix(".jsonl"))
    problems = load_benchmark(name, DATA)
    assert [problem.answer for problem in problems] == golds
    assert [problem.id for problem in problems] == [f"{name}/{index}" for index in range(len(golds))]
    assert {problem.source for problem in problems} == {name}
    assert all(problem.question for problem in problems)
    assert {problem.difficulty for problem in problems} == ({1, 2, 3, 4, 5} if name == "math500" else {None})
    monkeypatch.setenv("ADACTRL_DATA_DIR", str(DATA))
    assert load_benchmark(name) == problems


def test_repeats_are_the_papers() -> None:
    assert {name: benchmark.repeats for name, benchmark in BENCHMARKS.items()} == {
        "gsm8k": 1,
        "math500": 1,
        "aime24": 8,
        "aime25": 8,
    }
    a, b = (Problem(f"s/{n}", "s", "?", "1") for n in range(2))
    assert with_repeats([a, b], 3) == [a, a, a, b, b, b]
    with pytest.raises(ValueError, match="n=0 must be >= 1"):
        with_repeats([a], 0)


def test_gsm8k_gold_is_what_follows_the_marker(tmp_path: Path) -> None:
    write_rows(tmp_path / "gsm8k_test.jsonl", GSM8K)
    [problem] = load_benchmark("gsm8k", tmp_path)
    working = "She has 6 * 200 = <<6*200=1200>>1200 eggs."
    assert problem == Problem("gsm8k/0", "gsm8k", "How many?", "1200", None, working)


@pytest.mark.parametrize(
    "row", [{**GSM8K, "answer": "1200"}, {**GSM8K, "answer": "x ####"}, {"question": "?"}]
)
def test_row_without_gold_is_named(tmp_path: Path, row: dict[str, str]) -> None:
    write_rows(tmp_path / "gsm8k_test.jsonl", GSM8K, row)
    with pytest.raises(ValueError, match=r"gsm8k, row 1: no value for one of .*'answer'"):
        load_benchmark("gsm8k", tmp_path)


def test_deepmath(tmp_path: Path) -> None:
    row = {
        "question": "Limit?",
        "final_answer": "0",
        "difficulty": 4.5,
        "topic": "x",
        "r1_solution_1": "Hm. 0",
    }
    write_rows(tmp_path / DEEPMATH.local_file, row, {**row, "final_answer": "\\infty"}, row)
    problems = load_deepmath(data_dir=tmp_path, limit=2)
    assert problems[0] == Problem("deepmath/0", "deepmath", "Limit?", "0", 4.5, "Hm. 0")
    assert [problem.answer for problem in problems] == ["0", "\\infty"]
    assert len(load_deepmath(data_dir=tmp_path)) == 3


def test_hub_gets_the_pinned_revision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    class Rows(list):
        cache_files = ({"filename": "cache/zwhe99___aime90/default/0.0.0/0123abcd/aime90-2024.arrow"},)

    def load_dataset(*where: object, **options: object) -> Rows:
        asked.append((*where, options))
        return Rows(
            [GSM8K if "gsm8k" in str(where) else {"problem": "?", "answer": "1", "expected_answer": 33}]
        )

    asked: list[object] = []
    monkeypatch.delenv("ADACTRL_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name, benchmark in BENCHMARKS.items():
        load_benchmark(name)
        where = (benchmark.hub_id, benchmark.config)
        assert asked[-1] == (*where, {"split": benchmark.split, "revision": benchmark.revision})
        assert ("0123abcd" in capsys.readouterr().out) == (benchmark.revision is None)
    assert load_deepmath(revision="f" * 40) == load_deepmath(revision="f" * 40)
    assert asked[-1] == ("zwhe99/DeepMath-103K", None, {"split": "train", "revision": "f" * 40})


def test_errors_are_one_sentence_with_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADACTRL_DATA_DIR", raising=False)
    with pytest.raises(
        ValueError, match="unknown benchmark 'gsm'; choose from gsm8k, math500, aime24, aime25"
    ):
        load_benchmark("gsm")
    with pytest.raises(
        FileNotFoundError, match=r"no file .*aime25_test\.jsonl; put it there.*math-ai/aime25"
    ):
        load_benchmark("aime25", tmp_path)
    (tmp_path / "aime25_test.jsonl").write_text("{}\n{")
    with pytest.raises(ValueError, match="aime25, row 0: no value for one of"):
        load_benchmark("aime25", tmp_path)
    (tmp_path / "aime25_test.jsonl").write_text('{"problem": "?", "answer": "1"}\n{')
    with pytest.raises(ValueError, match=r"aime25_test\.jsonl, line 2: .*copy the file again"):
        load_benchmark("aime25", tmp_path)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        ConnectionError, match=r"openai/gsm8k@740312a.*no network.*ADACTRL_DATA_DIR.*gsm8k_test"
    ):
        load_benchmark("gsm8k")


def test_provenance_names_the_commit_or_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ADACTRL_DATA_DIR", raising=False)
    assert benchmarks.provenance("gsm8k") == f"openai/gsm8k@{BENCHMARKS['gsm8k'].revision}"
    assert benchmarks.provenance("deepmath") == f"zwhe99/DeepMath-103K@{DEEPMATH.revision}"
    (tmp_path / "aime24_test.jsonl").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert benchmarks.provenance("aime24", tmp_path) == f"aime24_test.jsonl@sha256:{digest}"
