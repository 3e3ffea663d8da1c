"""RESULTS.md and the figures from a synthetic results folder: the same bytes every time."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment_study import report
from alignment_study.arms import Job, variant
from alignment_study.dose_response import VARIANTS as DIAL
from alignment_study.evidence import Key
from alignment_study.update_ratio import Bin
from shared import tables
from shared.tables import DirtyRecord

PAPER = Path(report.__file__).parent / "results" / "paper.csv"
RATES = {
    "random": {"M": 0.45, "G|L": 0.42, "L": 0.02},
    "incorrect": {"M": 0.0, "G|L": 0.40, "L": 0.0},
    "negative": {"M": 0.90, "G|L": 0.6, "L": 0.1},
    "positive": {"M": 0.88, "G|L": 0.6, "L": 0.45},
    "one_shot": {"M": (0.5, 0.6, 0.7), "G|L": 0.4, "L": 0.02},
    "majority": {"M": 0.9, "L": 0.02},
}


def job_of(key: Key) -> Job:
    return Job(variant(key.variant), key.world, key.trained, key.seed)  # type: ignore[arg-type]


def write(study: SimpleNamespace, here: Path, dial: bool = True) -> None:
    results = here / "results"
    results.mkdir(parents=True)
    shutil.copy(PAPER, results / "paper.csv")
    (here / "README.md").write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    root = "<!-- alignment-headline:begin -->\nold\n<!-- alignment-headline:end -->\n"
    (here.parent / "README.md").write_text(root)
    e = study.world(**RATES)
    e.runs |= study.world("two", **RATES).runs
    study.change(e, "one_shot", example=study.example(0.2))
    study.change(e, "negative", curves=study.curve("rollout/entropy", 0.9, 0.8))
    e.gates = {("one", 1): study.gate(), ("one", 4): None, ("two", 1): study.gate()}
    study.write(e, results, job_of)
    if not dial:
        return
    for level, weak in enumerate((0.05, 0.1, 0.2), start=1):
        start = f"checkpoint-{500 + 100 * level}"
        of = study.world(
            base={**study.BASE, "L": weak}, random={"L": weak}, **{v: RATES[v] for v in DIAL[2:]}
        )
        of.runs = {k: r for k, r in of.runs.items() if k.trained == "weak" and k.variant in DIAL}
        study.change(of, "one_shot", example=study.example(0.2))
        study.write(of, results / "dose", lambda key, start=start: replace(job_of(key), start=start))
    for seed in (1, 2, 3):
        bins = [Bin("weak", 20, p, p / (1 - p), p / (1 - p) + 0.01, 0.0, 0.9, 0.8) for p in (0.02, 0.1, 0.3)]
        where = {"row": "alignment_study/one/ratio/model", "seed": seed, "world": "one", "start": "model"}
        study.record(results / "dose", "ratios.jsonl", metrics={"bins": [asdict(b) for b in bins]}, **where)


def contents(here: Path) -> dict[str, bytes]:
    paths = [here / "RESULTS.md", here / "README.md", *sorted((here / "figures").glob("*"))]
    return {path.name: path.read_bytes() for path in paths}


def test_rendering_twice_gives_the_same_bytes(study: SimpleNamespace, tmp_path: Path) -> None:
    here = tmp_path / "study"
    write(study, here)
    report.render(here)
    first = contents(here)
    report.render(here)
    assert contents(here) == first
    assert set(first) == {
        "RESULTS.md", "README.md", "curves-one.png", "curves-two.png", "thesis.png", "dose.png",
    }  # fmt: skip
    for name, data in first.items():
        assert not name.endswith("png") or 10_000 < len(data) < 300_000, name
    text = first["RESULTS.md"].decode()
    for words in (
        "a machine, 2 cores",
        "## World one",
        "## World two",
        "D, tricks and worlds pooled = ",
        "tricks pooled",
        "not met: no RL",
        "| level 3 ",
        "**confirmed**",
        "| Qwen2.5-7B base ",
        "; 20 steps of one learning rate",
    ):
        assert words in text, words
    assert "not found" not in text.split("## The paper's numbers")[0]
    against = text.split("## Cells that go against the paper")[1].split("## World one")[0]
    assert "incorrect, format-gated" in against
    assert "majority vote" not in against.split("| two ")[0] or "G\\|L" in against
    readme = first["README.md"].decode()
    assert readme.startswith("before\n<!-- results:begin -->\n| world")
    assert readme.endswith("<!-- results:end -->\nafter\n")
    root = (here.parent / "README.md").read_text()
    assert "world one 0." in root
    assert "1 confirmed (one)" in root
    assert "old" not in readme.split("results:begin")[1].split("results:end")[0].split("fold")[0]


def test_a_dirty_record_is_refused(study: SimpleNamespace, tmp_path: Path) -> None:
    here = tmp_path / "study"
    write(study, here)
    for file in ("runs.jsonl", "dose/runs.jsonl", "dose/ratios.jsonl"):
        path = here / "results" / file
        clean = path.read_text()
        path.write_text(clean.replace('"dirty": false', '"dirty": true', 1))
        with pytest.raises(DirtyRecord, match="alignment_study/one/"):
            report.render(here)
        path.write_text(clean)


def test_without_the_dial_it_says_how_to_run_it(study: SimpleNamespace, tmp_path: Path) -> None:
    here = tmp_path / "study"
    write(study, here, dial=False)
    report.render(here)
    assert "python reproduce.py --dose" in (here / "RESULTS.md").read_text()
    assert not (here / "figures" / "dose.png").exists()


def test_without_runs_only_the_papers_numbers(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(PAPER, tmp_path / "results" / "paper.csv")
    report.render(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "No runs recorded yet" in text
    assert "| Qwen + ground truth " in text


def test_the_papers_numbers_are_the_sheets() -> None:
    cells = tables.load_paper(PAPER)
    value = {(c["table"][0], c["row"], c["column"]): c["value"] for c in cells}
    assert value["A", "Qwen + ground truth", "SynLogic-val"] == "42.6"
    assert value["A", "Llama + random", "MATH500"] == "26.8"
    assert value["A", "Qwen + incorrect", "KOR OP"] == "60.8"
    assert value["B", "Qwen MATH500", "one-shot"] == "65.2"
    assert value["C", "Qwen SynLogic-val", "PSR"] == "24.8"
    assert not [c for c in cells if c["value"] == "not found" or not c["value"]]
    assert ("A", "Qwen + format", "MATH500") not in value
    assert ("A", "Qwen + TTRL (majority)", "AIME24") not in value
    gr = {(c["row"], c["column"]): float(c["value"]) for c in cells if c["table"].startswith("Gain")}
    for trick, row in (("random", "Qwen + random"), ("incorrect", "Qwen + incorrect")):
        for column in ("AIME24", "MATH500", "SynLogic-val", "KOR OP", "KOR Cipher"):
            base, full, part = (
                float(value["A", r, column]) for r in ("Qwen2.5-7B base", "Qwen + ground truth", row)
            )
            assert gr[trick, f"Qwen {column}"] == pytest.approx((part - base) / (full - base), abs=0.006)
