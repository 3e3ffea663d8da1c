"""RESULTS.md and the figures from a synthetic results folder: the same bytes every time, also half full."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cls_rl import arms, evidence, resampling, result_figures, result_page, result_tables
from cls_rl.arms import MAIN, SWEPT, ZERO, Job
from cls_rl.data_sets import SETS
from cls_rl.evidence import Cell, Evidence, Key
from cls_rl.study import Study
from shared import tables
from shared.tables import DirtyRecord

PAPER = Path(result_page.__file__).parent / "results" / "paper.csv"
RATES = {"zero_thinking": 0.3, "zero_no_thinking": 0.4, "sft_completion": 0.5, "sft_full_text": 0.2}
RATES |= {"thinking": 0.6, "no_thinking": 0.7, "empty_thought": 0.65}
IMAGES = 40


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 50)


def rows(name: str, test: str, rate: float, seed: int) -> list[list[Any]]:
    right = np.random.default_rng([seed, int(1000 * rate)]).random(IMAGES) < rate
    made = []
    for i, exact in enumerate(right):
        flags = {"exact": exact, "substring": exact, "in_list": exact or i % 4, "named": i % 2}
        flags |= {
            "inconsistent": i % 2 and not exact,
            "thought": i % 2,
            "lists_all": 0,
            "thought_exact": exact,
        }
        image = f"noto-v1/{i // 2:02}.png#{i % 2}"
        made.append([name, test, image, *(int(bool(flags[f])) for f in evidence.FLAGS), 4 + i % 3])
    return made


def line(job: Job, dirty: bool, **more: Any) -> str:
    record = {"row": job.row, "preset": "small", "scale": "small", "seed": job.seed, "dirty": dirty}
    record |= {"commit": "0123456789abcdef", "config_hash": "abc", "versions": {}, "n": IMAGES}
    record |= {"hardware": "a machine, 2 cores", "wall_s": 90.0, "metrics": {}, "command": job.command}
    record |= {"name": job.name, "setting": job.setting, "set": job.data_set, "arm": job.arm}
    return json.dumps(record | {"rate": job.rate, "images": None, "curves": None} | more)


def write(here: Path, jobs: Sequence[Job], swept: Sequence[Job] = (), dirty: str = "") -> None:
    results, lines = here / "results", []
    results.mkdir(parents=True)
    for job in jobs:
        if job.kind == "lists":
            continue
        halves = ("base", "new") if job.setting == "base_to_new" else ("",)
        rate = RATES.get(job.arm, 0.55)
        asked = [(name, half or name) for name in job.tested for half in halves]
        made = [row for name, test in asked for row in rows(name, test, rate, job.seed)]
        evidence.write_images(made, results / "images" / job.stem)
        more = {"images": f"images/{job.stem}"}
        if job.kind == "train":
            steps = range(1, 31)
            found = {"accuracy": {s: rate * s / 30 for s in steps}, "length": {s: 9 - s / 10 for s in steps}}
            if not job.arm.startswith("sft_"):
                found |= {"seconds": dict.fromkeys(steps, 2.0), "tokens": dict.fromkeys(steps, 64.0)}
            for what in ("exact", "in_list"):
                found[f"{job.data_set}/{what}"] = {s: 0.2 + rate * s / 60 for s in (0, 10, 20, 30)}
            evidence.write_curves(found, results / "curves" / job.stem)
            more["curves"] = f"curves/{job.stem}"
        lines.append(line(job, job.arm == dirty, **more))
    (results / "runs.jsonl").write_text("".join(f"{text}\n" for text in lines))
    metrics = [{f"{SWEPT}/exact": 0.4 + 0.1 * i} for i in range(len(swept))]
    text = "".join(
        line(job, dirty == "sweep", metrics=m) + "\n" for job, m in zip(swept, metrics, strict=True)
    )
    (results / "sweep.jsonl").write_text(text)
    shutil.copy(PAPER, results / "paper.csv")
    (here / "README.md").write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    root = "<!-- cls-headline:begin -->\nold\n<!-- cls-headline:end -->\n"
    (here.parent / "README.md").write_text(root)


def contents(here: Path) -> dict[str, bytes]:
    result_page.render(here)
    paths = [here / "RESULTS.md", here / "README.md", *sorted((here / "figures").glob("*"))]
    return {path.name: path.read_bytes() for path in paths}


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_everything_is_rendered_and_twice_the_same(tmp_path: Path) -> None:
    write(tmp_path / "cls_rl", arms.jobs(), arms.sweep())
    first = contents(tmp_path / "cls_rl")
    assert contents(tmp_path / "cls_rl") == first
    assert set(first) == {"RESULTS.md", "README.md", "few-shot.png", "curves.png", "transfer.png"}
    for name, data in first.items():
        assert not name.endswith("png") or 10_000 < len(data) < 300_000, name
    text = first["RESULTS.md"].decode()
    assert "None recorded yet" not in text
    assert "Not recorded yet" not in text
    headline = (tmp_path / "README.md").read_text()
    assert "CLS-RL at small scale (3 seeds)" in headline
    assert headline.count(" / ") == 2 + 2 * (len(ZERO) + len(MAIN))
    assert "nan" not in text.split("## The paper's numbers")[0].lower().replace("finance", "")
    claimed = section(text, "Claims")
    for claim in (*range(1, 10), *range(13, 17)):
        assert f"\n| {claim} " in claimed, claim
    assert "**confirmed**" not in claimed  # 40 images are too few
    assert "| `thinking` " in section(text, "Few-shot")
    few_shot = section(text, "Few-shot")
    exact = np.mean([row[3] for seed in (1, 2, 3) for row in rows("food", "food", 0.7, seed)])
    assert f"| {100 * exact:.1f} [" in few_shot
    learned = section(text, "Learning")
    assert "2.00 [2.00, 2.00]" in learned
    assert "| 1.5 " in learned  # minutes of a whole run
    for arm in ("Thinking", "No-Thinking"):
        matrix = section(text, "Free lunch: the transfer matrix").split(f"\n{arm}:\n")[1]
        assert matrix.count("\n| ", 0, matrix.index("\n\n", 2)) == 2 + len(SETS)
    for words in (
        "a machine, 2 cores",
        "left out of the averages",
        "| 12 names ",
        "at the edge",
        "| ImageNet ",
    ):
        assert words in text, words
    readme = first["README.md"].decode()
    assert readme.startswith("before\n<!-- results:begin -->\n| arm ")
    assert readme.endswith("<!-- results:end -->\nafter\n")
    assert "\nold\n" not in readme


@pytest.mark.parametrize("count", [1, 30])
def test_half_a_plan_renders_and_says_what_is_missing(tmp_path: Path, count: int) -> None:
    planned = [job for job in arms.jobs() if job.kind != "lists"]
    write(tmp_path / "cls_rl", planned[:count])
    text = contents(tmp_path / "cls_rl")["RESULTS.md"].decode()
    assert "Not recorded yet: `" in text
    assert "`matrix` (" in text
    assert "None recorded yet: `python reproduce.py --sweep`." in text
    assert ("None can be judged yet." in text) == (count == 1)
    assert "![Change of accuracy" not in text


def test_a_matrix_with_holes_is_shown_but_not_judged(tmp_path: Path) -> None:
    found = arms.blocks()
    some = [job for job in found["matrix"] if job.data_set in ("animals", "food") and job.seed == 1]
    write(tmp_path / "cls_rl", [*found["zero"], *some])
    first = contents(tmp_path / "cls_rl")
    assert "transfer.png" in first
    text = first["RESULTS.md"].decode()
    assert "| food " in section(text, "Free lunch: the transfer matrix")
    assert "\n| 5 " not in section(text, "Claims")


def test_a_dirty_record_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", arms.blocks()["zero"], dirty="zero_thinking")
    with pytest.raises(DirtyRecord, match="zero_thinking"):
        result_page.render(tmp_path / "a")
    write(tmp_path / "b", arms.blocks()["zero"], arms.sweep(), dirty="sweep")
    with pytest.raises(DirtyRecord, match=SWEPT):
        result_page.render(tmp_path / "b")


def test_without_runs_only_the_papers_numbers(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(PAPER, tmp_path / "results" / "paper.csv")
    result_page.render(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "No runs recorded yet: `make -C cls_rl reproduce`." in text
    assert "| StanfordCars " in text


def test_the_matrix_is_in_points_against_the_same_prompt() -> None:
    def cell(right: int) -> Cell:
        flags = {name: np.arange(10) < right for name in evidence.FLAGS}
        return Cell(tuple(f"v/{i}.png#0" for i in range(10)), flags, np.ones(10, int))

    e = Evidence()
    e.cells[Key("few_shot", "thinking", "food", "flags", 1)] = cell(7)
    e.cells[Key("few_shot", "zero_thinking", "flags", "flags", 1)] = cell(4)
    e.cells[Key("few_shot", "zero_no_thinking", "flags", "flags", 1)] = cell(1)
    table = result_tables.matrix_table(Study(e), "thinking").splitlines()
    (row,) = table[2:]
    cells = [c.strip() for c in row.strip("|").split("|")]
    assert cells == ["food", *[""] * (len(SETS) - 1), "+30.0", "", ""]  # flags, mean, far domain
    e.cells[Key("few_shot", "thinking", "food", "digits", 1)] = cell(2)
    e.cells[Key("few_shot", "zero_thinking", "digits", "digits", 1)] = cell(3)
    row = result_tables.matrix_table(Study(e), "thinking").splitlines()[2]
    assert [c.strip() for c in row.strip("|").split("|")][-3:] == ["+30.0", "", "-10.0"]
    assert result_tables.matrix_table(Study(e), "no_thinking") == "None recorded yet."


def test_curves_are_averaged_over_the_updates_that_all_have() -> None:
    mean = result_figures.mean_curve([{0: 0.0, 10: 1.0, 20: 5.0}, {0: 1.0, 10: 2.0}])
    assert mean == {0: 0.5, 10: 1.5}
    curves = {"food/exact": {0: 0.5}, "accuracy": {1: 0.25}}
    assert result_figures.curve_of("food", "exact", curves) == {0: 0.5}
    assert result_figures.curve_of("food", "accuracy", curves) == {1: 0.25}
    assert result_figures.curve_of("flags", "exact", curves) == {}


# ---- the paper's numbers


def test_the_papers_numbers_are_the_sheets() -> None:
    cells = tables.load_paper(PAPER)
    value = {(c["table"].split(" (")[0], c["row"], c["column"]): c["value"] for c in cells}
    assert value["Few-shot", "No-Thinking", "Avg"] == "84.39"
    assert value["Base-to-new", "SUN397", "SFT new"] == "37.80"
    assert value["Transfer, No-Thinking", "StanfordCars", "FGVC"] == "12.72"
    assert value["Efficiency, ImageNet few-shot", "CLS-RL", "fine-tune"] == "1587 min"
    assert value["Empty thought at inference", "2B, empty think", "CVBench"] == "71.72"
    assert not [c for c in cells if c["value"] in ("", "-", "–", "not found")]


def test_the_transcribed_tables_agree_with_each_other() -> None:
    """Averages of the few-shot rows, H of base and new, and the claims' off-diagonal means."""
    value: dict[str, dict[tuple[str, str], float]] = {}
    for c in tables.load_paper(PAPER):
        if c["table"].startswith(("Few-shot", "Base-to-new", "Transfer")):
            value.setdefault(c["table"].split(" (")[0], {})[c["row"], c["column"]] = float(c["value"])
    few_shot = value["Few-shot"]
    for row in dict.fromkeys(row for row, _ in few_shot):
        found = [v for (r, c), v in few_shot.items() if r == row and c != "Avg"]
        assert np.mean(found) == pytest.approx(few_shot[row, "Avg"], abs=0.01)
    new = value["Base-to-new"]
    for row, column in new:
        if column.endswith(" H"):
            base, other = (new[row, column[:-1] + half] for half in ("base", "new"))
            assert 2 * base * other / (base + other) == pytest.approx(new[row, column], abs=0.011)
    for title, mean, positive in (("CLS-RL", 6.78, 102), ("No-Thinking", 9.00, 103)):
        cells = value[f"Transfer, {title}"]
        of = list(dict.fromkeys(row for row, _ in cells))
        matrix = np.array([v for (_, c), v in cells.items() if c != "AVG"]).reshape(11, 11)
        off = matrix[~np.eye(11, dtype=bool)]
        assert len(of) == 11
        assert (off.mean(), (off > 0).sum()) == pytest.approx((mean, positive), abs=0.005)
