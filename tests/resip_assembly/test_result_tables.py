"""RESULTS.md from a synthetic results folder: the same bytes every time, and nothing from a dirty tree."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from resip_assembly import arms, corrections, evidence, reproduce, result_tables
from resip_assembly.arms import ARMS, Job
from resip_assembly.corrections import BINS_MM, Corrections
from resip_assembly.evaluation import Evaluation
from resip_assembly.report import Results
from resip_assembly.taxonomy import PHASES, SUCCESS
from shared import stats
from shared.tables import DirtyRecord

EPISODES = 60
RATES = {"mlp_s": 0.1, "mlp_c": 0.3, "dp": 0.5, "dp_1": 0.2, "resip": 0.95, "mlp_c_ppo": 0.6}
ROWS = ("mlp_s", "mlp_c", "dp", "resip", "mlp_c_ppo", "resip_held")
PAPER = Path(result_tables.__file__).parent / "results" / "paper.csv"


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "paired_bootstrap", partial(stats.paired_bootstrap, resamples=50))


def evaluation(rate: float, seed: int, obs_dim: int = 37) -> Evaluation:
    won = np.random.default_rng([seed, int(100 * rate)]).random(EPISODES) < rate
    reason = tuple("" if w else "time limit" for w in won)
    same = {"length": np.where(won, 40, 120), "reward": won.astype(float), "env": tuple(range(EPISODES))}
    final = np.ones((EPISODES, obs_dim), np.float32)
    return Evaluation(success=won, reason=reason, seed=(7,) * EPISODES, final_obs=final, **same)


def write_results(here: Path, dirty: bool = False) -> None:
    lines = []
    for arm in (a for a in ARMS if a.row in ROWS):
        for task in arm.tasks:
            for seed in (1, 2):
                job = Job(arm, task, seed)
                judged = {}
                for _, policy in arm.judged:
                    found = evaluation(RATES.get(policy, 0.8), seed)
                    lost = [PHASES[i % 3] for i in range(EPISODES)]
                    phases = [SUCCESS if w else p for w, p in zip(found.success, lost, strict=True)]
                    judged[policy] = (found, phases)
                name = f"episodes/{job.name}.csv.gz"
                evidence.write_episodes(judged, here / "results" / name)
                record = {"row": job.row, "task": task, "arm": arm.row, "trained": arm.trained, "seed": seed}
                record |= {"preset": "small", "scale": "small", "commit": "0123456789abcdef"}
                record |= {"dirty": dirty and arm.row == "dp", "config_hash": "abc", "versions": {}}
                record |= {"hardware": "a machine, 2 cores", "wall_s": 1.5, "n": EPISODES}
                points = [[0, 0.5], [1000, 0.6 + 0.1 * seed]]
                record |= {"metrics": {"env_steps": 1000, "evaluations": points}, "command": job.command}
                record |= {"episodes": name, "corrections": None}
                if arm.row == "resip":
                    record["corrections"] = f"corrections/{job.name}.csv.gz"
                    steps = np.full((EPISODES, len(BINS_MM)), 5)
                    found = Corrections(steps, np.tile([4.0, 3.0, 2.0, 1.0], (EPISODES, 1)), 0 * steps)
                    corrections.write(found, here / "results" / record["corrections"])
                lines.append(json.dumps(record))
    (here / "results" / "runs.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copy(PAPER, here / "results" / "paper.csv")
    (here / "README.md").write_text("before\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    root = "<!-- resip-headline:begin -->\nold\n<!-- resip-headline:end -->\n"
    (here.parent / "README.md").write_text(root)


def test_everything_is_rendered_and_twice_the_same(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        write_results(here := tmp_path / name)
        result_tables.render(here)
        files = [here / "RESULTS.md", here / "README.md", *sorted((here / "figures").iterdir())]
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    figures = {"success.png", "curves.png", "taxonomy.png", "students.png"}
    assert set(contents[0]) == {"RESULTS.md", "README.md", *figures}
    for name in figures:
        assert contents[0][name].startswith(b"\x89PNG")
        assert 10_000 < len(contents[0][name]) < 200_000
    text = contents[0]["RESULTS.md"].decode()
    for words in ("a machine, 2 cores", "Wilson", "| 2, 3 ", "`resip` - `dp`", "held, not inserted"):
        assert words in text, words
    for row in ("| IL: DP, the frozen base", "| scripted expert", "| **ResiP**"):
        assert row in text
    won = sum(evaluation(0.95, seed).success.sum() for seed in (1, 2))
    assert f"| {result_tables.percent(int(won), 120)}, n = 120" in text
    assert "| 4.00       | 3.00 " in text  # corrections, mm
    assert "| ResiP           | 98          | 76 " in text  # the paper's main table
    assert "**inconclusive**" in text  # two seeds only
    assert "**confirmed**" not in text
    runs = [(task, seed) for arm in ARMS if arm.row in ROWS for task in arm.tasks for seed in (1, 2)]
    assert text.count("cd resip_assembly && python") == len(runs) > 2 * len(ROWS)
    root = (tmp_path / "README.md").read_text()
    before = result_tables.percent(int(sum(evaluation(0.5, seed).success.sum() for seed in (1, 2))), 120)
    assert f"peg_in_hole {before} -> {result_tables.percent(int(won), 120)}" in root
    assert "Not recorded yet: `dp` (2 runs)" in text  # seed 3
    assert "`dagger` (3 runs)" in text
    readme = contents[0]["README.md"].decode()
    assert readme.startswith("before\n<!-- results:begin -->\n| method")
    assert readme.endswith("<!-- results:end -->\nafter\n")
    assert "old" not in readme


def test_a_dirty_record_is_refused(tmp_path: Path) -> None:
    write_results(tmp_path, dirty=True)
    with pytest.raises(DirtyRecord, match="peg_in_hole/dp"):
        result_tables.render(tmp_path)


def test_without_runs_only_the_papers_numbers(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(PAPER, tmp_path / "results" / "paper.csv")
    result_tables.render(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "No runs recorded yet" in text
    assert "| IL: DP " in text
    assert "chunked BC (DP, state)" in text


def test_percent() -> None:
    assert result_tables.percent(240, 256) == "93.8 [90.1, 96.1]"


# ---- recording a finished run


def test_record_keeps_what_the_tables_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run folder becomes a record, episodes with phases, and corrections."""
    monkeypatch.setattr(arms, "HERE", tmp_path)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    job = Job(next(a for a in ARMS if a.row == "resip"), "peg_in_hole", 2)  # seed 1 is filmed, too
    job.folder.mkdir(parents=True)
    config = arms.residual_config("peg_in_hole")
    (job.folder / "config.json").write_text(json.dumps(reproduce.config.to_dict(config)))
    metrics = {"env_steps": 512, "evaluations": [[0, 0.5], [512, 0.9]]}
    manifest = {"config_hash": "abc", "metrics": metrics}
    (job.folder / "manifest.json").write_text(json.dumps(manifest))
    Results(job.folder / "evaluations")["residual"] = evaluation(0.7, 1)
    steps = np.ones((EPISODES, len(BINS_MM)), int)
    corrections.write(Corrections(steps, steps.astype(float), 0 * steps), job.folder / "corrections.csv.gz")
    reproduce.record(job, 12.34)
    (line,) = (tmp_path / "results" / "runs.jsonl").read_text().splitlines()
    record = json.loads(line)
    record["dirty"] = False  # the tree that the tests run in may be
    (tmp_path / "results" / "runs.jsonl").write_text(json.dumps(record))
    _, found = evidence.load(tmp_path / "results")
    key = ("peg_in_hole", "resip", 2)
    np.testing.assert_array_equal(found.episodes[key].success, evaluation(0.7, 1).success)
    assert set(found.episodes[key].phase) <= {SUCCESS, *PHASES}
    assert found.env_steps == {key: 512}
    assert found.corrections["peg_in_hole", 2].steps.sum() == EPISODES * len(BINS_MM)
    assert (record["wall_s"], record["n"], record["config_hash"]) == (12.3, EPISODES, "abc")
    assert record["command"].startswith("cd resip_assembly && python train.py --preset small")
