"""RESULTS.md, README block and figures from a constructed results folder: the same bytes every time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.tables import DirtyRecord
from tool_env_rl import evaluation, evidence, report
from tool_env_rl.arms import CONTROLS, Job
from tool_env_rl.evidence import Layers
from tool_env_rl.result_tables import percent, statistic

PAPER = Path(report.__file__).parent / "results" / "paper.csv"
GROUPS = {"high attention": 0.9, "high mlp": 1.1, "low attention": 1.0, "low mlp": 1.4}


def write_record(results: Path, job: Job, name: str = "runs.jsonl", **fields: object) -> None:
    record = {"row": f"tool_env_rl/{job.row}", "arm": job.row, "seed": job.seed, "preset": "small"}
    record |= {"scale": "small", "commit": "0123456789abcdef", "dirty": False, "config_hash": "abc"}
    record |= {"versions": {}, "hardware": "a machine, 2 cores", "wall_s": 1.5, "n": 120, "metrics": {}}
    record |= {"command": job.command} | fields
    with (results / name).open("a") as out:
        out.write(json.dumps(record) + "\n")


def write(ftrl: SimpleNamespace, here: Path) -> None:
    results = here / "results"
    (results / "curves").mkdir(parents=True)
    shutil.copy(PAPER, results / "paper.csv")
    (here / "README.md").write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    root = "<!-- ftrl-headline:begin -->\nold\n<!-- ftrl-headline:end -->\n"
    (here.parent / "README.md").write_text(root)
    found = ftrl.world(
        base={"right": 0.3}, grpo={"right": (0.5, 0.6, 0.55), "reward": (0.2, 0.6)}, random={"right": 0.3}
    )
    for (arm, seed), run in found.runs.items():
        job, data = Job(arm, seed), f"episodes/{arm}-seed{seed}.jsonl.gz"
        evaluation.save(run, results / data)
        curves = found.curves[arm, seed]["reward"]
        lines = [json.dumps({"step": step, "reward": r, "turn/calls": 1.0}) for step, r in curves.items()]
        (results / "curves" / f"{job.name}.jsonl").write_text("\n".join(lines) + "\n")
        write_record(results, job, data=data)
    rows = [{"policy": p, **vars(s)} for p, scores in ftrl.controls().items() for s in scores]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (here / "controls.jsonl").write_text(lines)
    evidence.write_controls(here / "controls.jsonl", results / "episodes/controls-seed0.jsonl.gz")
    write_record(results, CONTROLS, data="episodes/controls-seed0.jsonl.gz")
    n = len(found.runs["base", 1].test)
    for seed in (1, 2, 3):
        job = Job("layers", seed)
        matrices: list[tuple[str, float, float | None]]
        matrices = [(f"model.layers.{i}.mlp.up_proj.weight", 0.1, 1.0 + i) for i in range(2)]
        grafts = {(how, g): [0.5] * n for how in ("only", "reset") for g in GROUPS}
        data = f"layers/{job.name}.json"
        evidence.write_layers(Layers(GROUPS, 1.4, 1, matrices, grafts), results / data)
        write_record(results, job, data=data)
    gate = {"parsable": 0.97, "solve_f1": 0.31, "best_of_8": 0.6, "general": 0.9}
    write_record(results, Job("base", 1), "gates.jsonl", gate=gate | {"failures": []})
    write_record(results, Job("base", 4), "gates.jsonl", gate=gate | {"failures": ["Solve-F1 is too low"]})


def contents(here: Path) -> dict[str, bytes]:
    paths = [here / "RESULTS.md", here / "README.md", *sorted((here / "figures").glob("*"))]
    return {path.name: path.read_bytes() for path in paths}


def test_everything_is_rendered_and_twice_the_same(ftrl: SimpleNamespace, tmp_path: Path) -> None:
    write(ftrl, here := tmp_path / "paper")
    report.render(here)
    first = contents(here)
    report.render(here)
    assert contents(here) == first
    assert set(first) == {"RESULTS.md", "README.md", "gains.png", "curves.png", "layers.png"}
    for name, data in first.items():
        assert not name.endswith("png") or (data.startswith(b"\x89PNG") and len(data) < 200_000), name
    text = first["RESULTS.md"].decode()
    for words in (
        "a machine, 2 cores",
        "2 RL batches at one learning rate",
        "| 1, 2 ",
        "| control iii ",
        "| GRPO, 2q / (p + 1) ",
        "| echo, leaky tools ",
        "| low mlp ",
        "Solve-F1 is too low",
        "Qwen2.5-7B FTRL-GRPO",
        "cd tool_env_rl && python train.py --preset small --base.gate off --eval.no-before",
    ):
        assert words in text, words
    assert "Not recorded yet: `reinforce_pp` (3 runs), `precision` (3 runs)" in text
    e = ftrl.world(base={"right": 0.3}, grpo={"right": (0.5, 0.6, 0.55)})
    gain = percent(report.difference(e, "grpo", "base", "solve_f1"), "+")
    assert gain.startswith("+25.0 [")
    readme = first["README.md"].decode()
    assert readme.startswith("before\n<!-- results:begin -->\n![Gain in Solve-F1")
    assert readme.endswith("<!-- results:end -->\nafter\n")
    head = (tmp_path / "README.md").read_text()
    assert f"{gain} points" in head
    assert "1, 2 confirmed (grpo)" in head
    assert "control" not in head


def test_without_runs_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(PAPER, tmp_path / "results" / "paper.csv")
    report.render(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "No runs recorded yet: `make -C tool_env_rl reproduce`" in text
    assert "Not recorded yet: `base` (3 runs), `controls` (1 runs)" in text
    assert "| Qwen3-8B Non-Reasoning, FTRL-GRPO " in text


def test_the_oracle_is_rendered_where_it_was_run(ftrl: SimpleNamespace, tmp_path: Path) -> None:
    write(ftrl, here := tmp_path / "paper")
    report.render(here)
    without = (here / "RESULTS.md").read_text()
    counts = {"scenario": "all", "environments": 9, "sub_answers": 41, "guarded": 39, "strict": 38}
    found = {
        "file": "some.jsonl",
        "sha256": "abcdef0123456789",
        "unreadable_rows": 0,
        "commit": "0123456789abc",
    }
    found |= {"counts": [counts | {"unguarded": 40, "complete": 7}], "tools": 80, "tools_refused": 2}
    path = here / "results" / "oracle.json"
    path.write_text(json.dumps(found | {"reasons": {"import of 'os' is not allowed": 2}, "dirty": False}))
    report.render(here)
    text = (here / "RESULTS.md").read_text()
    before, after = text.split("## The authors' environments\n")
    section, rest = after.split("## Where the change sits")
    assert f"{before}## Where the change sits{rest}" == without
    section = " ".join(section.split())  # without the padding of the columns
    assert "| all | 9 | 41 | 39 | 38 | 40 | 7 |" in section
    assert "refuses 2 of 80 tools" in section
    assert "| import of 'os' is not allowed | 2 |" in section
    path.write_text(path.read_text().replace('"dirty": false', '"dirty": true'))
    with pytest.raises(DirtyRecord, match=r"oracle\.json"):
        report.render(here)


@pytest.mark.parametrize("file", ["runs.jsonl", "gates.jsonl"])
def test_a_dirty_record_is_refused(ftrl: SimpleNamespace, tmp_path: Path, file: str) -> None:
    write(ftrl, here := tmp_path / "paper")
    path = here / "results" / file
    path.write_text(path.read_text().replace('"dirty": false', '"dirty": true', 1))
    with pytest.raises(DirtyRecord, match="tool_env_rl/base"):
        report.render(here)


def test_other_test_environments_are_refused(ftrl: SimpleNamespace, tmp_path: Path) -> None:
    write(ftrl, here := tmp_path / "paper")
    path = here / "results" / "episodes" / "grpo-seed2.jsonl.gz"
    found = evaluation.load(path)
    found.test = found.test[::-1]
    evaluation.save(found, path)
    with pytest.raises(ValueError, match="grpo, seed 2: test was evaluated on other environments"):
        report.render(here)


def test_the_papers_numbers() -> None:
    cells = {(c["row"], c["column"]): c["value"] for c in report.tables.load_paper(PAPER)}
    assert cells["Qwen2.5-7B FTRL-GRPO", "Solve-F1"] == "46.78"
    assert cells["Qwen3-8B Reasoning, FTRL-Reinforce++", "τ-bench Pass^1"] == "32.52"
    assert cells["all 12", "Avg"] == "+9.19"
    assert cells["Qwen3-8B FTRL-M", "Solve-F1"] == "34.20"
    main = ("Solve-P", "Solve-R", "Solve-F1", "ToolHop AC", "τ-bench Pass^1", "RoT TS", "RoT PI", "RoT CF")
    rows = {row for row, column in cells if column == "RoT CF"}
    assert len(rows) == 27
    for row in rows:  # "Avg" is the plain mean of the eight columns
        mean = sum(float(cells[row, column]) for column in main) / len(main)
        assert mean == pytest.approx(float(cells[row, "Avg"]), abs=0.006)


def test_a_number_without_an_interval() -> None:
    import numpy as np

    assert percent(np.array([0.5, np.nan])) == "50.0"
    assert statistic("x", np.array([0.5, np.nan])).above is False


def test_optional_rows_are_missing_only_once_begun() -> None:
    from tool_env_rl.result_tables import missing_rows

    base = [{"arm": "base", "seed": seed} for seed in (1, 2, 3)]
    assert "`grpo` (3 runs)" in missing_rows(base)
    assert "unscaled" not in missing_rows(base)
    assert "`unscaled` (2 runs)" in missing_rows([*base, {"arm": "unscaled", "seed": 1}])
