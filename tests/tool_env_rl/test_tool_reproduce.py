"""The whole reproduction at smoke scale, in this process: base, RL, control, grafts, records, RESULTS.md."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared import tables
from tool_env_rl import arms, eval, evidence, grafting, report, reproduce, resampling, train
from tool_env_rl.arms import CONTROLS, Job

PAPER = Path(report.__file__).parent / "results" / "paper.csv"


@pytest.mark.slow
def test_from_base_model_to_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arms, reproduce):
        monkeypatch.setattr(module, "HERE", tmp_path)
        monkeypatch.setattr(module, "SCALE", "smoke")
    monkeypatch.setattr(arms, "LEVEL_ENVIRONMENTS", 4)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(resampling, "RESAMPLES", 50)
    monkeypatch.setattr(tables, "refuse_dirty", lambda records: None)
    monkeypatch.setenv("FIVE_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(row: str) -> None:
        job = Job(row, 1)
        if job.kind == "train":
            train.main(job.config)
        elif job.kind == "layers":
            grafting.main(job.config)
        else:
            eval.main(job.config, "base")
        assert job.done(), row
        reproduce.run_job(job, {}, [])

    for row in ("base", "grpo", "random", "layers"):
        run(row)
    eval.main(CONTROLS.config, "--controls")
    reproduce.run_job(CONTROLS, {}, [])
    assert reproduce.waiting_of([Job(row, 1) for row in ("base", "grpo", "random", "layers")]) == []

    _, found = evidence.load(tmp_path / "results")
    base = found.runs["base", 1]
    assert len(set(base.repeat["feedback"])) == 1
    assert base.repeat["validated"] == base.repeat["environments"] == 4
    assert {level for level, _ in base.levels} == {0, 1, 2, 3, 4}
    assert [len(of) for of in (base.test, base.chains, base.direct, base.tables)] == [4, 4, 4, 4]
    assert sorted(found.curves["grpo", 1]["reward"]) == [1, 2, 3, 4]
    groups = {group for _, group in found.layers[1].grafts}
    assert groups == {"low mlp", "high mlp", "low attention", "high attention", "rest"}

    shutil.copy(PAPER, tmp_path / "results" / "paper.csv")
    (tmp_path / "package").mkdir()
    shutil.move(tmp_path / "results", tmp_path / "package" / "results")
    blocks = {"package/README.md": "results", "README.md": "ftrl-headline"}
    for name, marker in blocks.items():
        (tmp_path / name).write_text(f"<!-- {marker}:begin -->\n<!-- {marker}:end -->\n")
    report.render(tmp_path / "package")
    text = (tmp_path / "package" / "RESULTS.md").read_text()
    assert "Scale: **smoke**" in text
    assert "**inconclusive**" in text
    assert "| lost if reset to the base" in text
