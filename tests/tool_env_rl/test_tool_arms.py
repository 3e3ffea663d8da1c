"""The plan of the reproduction: commands, order, recording, and what is done again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared import config, tables
from tool_env_rl import arms, evaluation, evidence, reproduce
from tool_env_rl.arms import ARMS, CONTROLS, SEEDS, TRAINED, Job, base_jobs, compared, jobs, layer_jobs
from tool_env_rl.claims import ALGORITHMS
from tool_env_rl.evidence import Layers

ALL = [*base_jobs(SEEDS), *jobs(SEEDS), *layer_jobs(SEEDS)]


def test_every_command_is_understood_and_has_its_seed() -> None:
    assert len({job.folder for job in ALL}) == len(ALL) == 3 * len(ARMS) + 1 + 3
    for job in (j for j in ALL if j.seed in (0, 3)):
        assert (job.config.run.seed, job.config.preset) == (job.seed, "small")
        assert job.command.startswith(f"cd tool_env_rl && python {job.arguments[0]} ")


def test_arms_differ_from_grpo_in_what_their_name_says() -> None:
    def fields(row: str) -> dict:
        flat = config.flatten(config.to_dict(Job(row, 1).config))
        return {key: value for key, value in flat.items() if not key.startswith("run.")}

    grpo = fields("grpo")
    assert (grpo["algo.algorithm"], grpo["algo.reward"], grpo["eval.before"]) == ("grpo", "f1", False)
    thinking = {"model.thinking": True, "data.max_prompt_tokens": 320, "algo.max_completion_tokens": 64}
    for row, differs in {
        "reinforce_pp": {"algo.algorithm": "reinforce_pp"},
        "random": {"algo.random_reward": True},
        "precision": {"algo.reward": "precision"},
        "rate": {"algo.reward": "rate"},
        "pr": {"algo.reward": "pr"},
        "unscaled": {"data.levels": [0]},
        "one_scenario": {"data.scenarios": ["single_hop"]},
        "multi_turn": {"algo.mode": "multi_turn"},
        "thinking_grpo": thinking,
    }.items():
        found = fields(row)
        assert {key: value for key, value in found.items() if value != grpo[key]} == differs, row
    assert set(TRAINED) == {arm.row for arm in ARMS} - {"base", "thinking_base"}
    assert set(ALGORITHMS) <= set(TRAINED)
    base = fields("base")
    assert (base["base.gate"], base["eval.repeat"], base["eval.levels"]) == ("refuse", True, 100)


def test_what_starts_from_one_base_shares_it() -> None:
    from tool_env_rl.base_model import folder_of

    starts = {row: folder_of(Job(row, 1).config) for row in ("base", *TRAINED, "thinking_base", "layers")}
    thinking = {starts.pop("thinking_base"), starts.pop("thinking_grpo")}
    assert len(set(starts.values())) == len(thinking) == 1
    assert thinking.isdisjoint(starts.values())


def test_layers_come_after_the_runs_that_they_compare() -> None:
    (one,) = layer_jobs((2,))
    assert [job.name for job in compared(one)] == ["grpo-seed2", "random-seed2"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(arms, "HERE", tmp_path)
    monkeypatch.setattr(reproduce, "HERE", tmp_path)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    return tmp_path


def finish(job: Job, ftrl: SimpleNamespace) -> None:
    """What the job's script leaves behind."""
    job.folder.mkdir(parents=True)
    (job.folder / "config.json").write_text(json.dumps(config.to_dict(job.config)))
    if job.kind == "layers":
        evidence.write_layers(Layers({"low mlp": 1.5}, 1.5, 1, [], {}), job.output)
    elif job.kind == "controls":
        rows = [{"policy": "silent", **asdict(s)} for s in ftrl.scores(0.0, 3)]
        job.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        evaluation.save(ftrl.world(seeds=1, base={}).runs["base", 1], job.episodes)
        (job.folder / "metrics.jsonl").write_text('{"step": 1, "reward": 0.25, "other": 3}\n')
        (job.folder / "manifest.json").write_text("{}")
        gate = {"parsable": 1.0, "solve_f1": 0.3, "best_of_8": 0.6, "general": 0.9, "failures": []}
        (job.folder / "gate.json").write_text(json.dumps(gate))


def test_finished_jobs_are_recorded_once(
    ftrl: SimpleNamespace, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tables, "refuse_dirty", lambda records: None
    )  # the tree may be, while one works on it
    todo = [Job("base", 1), Job("grpo", 1), CONTROLS, Job("layers", 1)]
    for job in todo:
        finish(job, ftrl)
        assert job.done()
        reproduce.run_job(job, {}, [])
    records, found = evidence.load(here / "results")
    assert [r["arm"] for r in records] == ["base", "grpo", "controls", "layers"]
    assert records[1]["metrics"]["test/all/solve_f1"] == pytest.approx(0.5)
    assert found.curves["grpo", 1] == {"reward": {1: 0.25}}
    assert found.layers[1].s == 1.5
    assert len(found.controls["silent"]) == 3
    assert found.gates["base", 1]["failures"] == []
    assert reproduce.met_gate(1)
    assert not reproduce.met_gate(2)
    assert reproduce.waiting_of(todo) == []
    assert reproduce.waiting_of([Job("grpo", 2)]) == [Job("grpo", 2)]


def test_a_run_with_other_settings_is_not_done(ftrl: SimpleNamespace, here: Path) -> None:
    job = Job("grpo", 1)
    finish(job, ftrl)
    cfg = replace(job.config, algo=replace(job.config.algo, lr=1.0))
    (job.folder / "config.json").write_text(json.dumps(config.to_dict(cfg)))
    assert job.stale()
    assert not job.done()


def test_a_seed_that_misses_the_gate_is_replaced(
    ftrl: SimpleNamespace, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(job: Job, status: object, children: object) -> int:
        if job.seed != 2:
            finish(job, ftrl)
            return 0
        job.folder.mkdir(parents=True)
        gate = {"parsable": 1.0, "solve_f1": 0.1, "best_of_8": 0.6, "general": 0.9, "failures": ["too low"]}
        (job.folder / "gate.json").write_text(json.dumps(gate))
        return 3

    monkeypatch.setattr(reproduce, "run_child", child)
    assert reproduce.choose_seeds() == (1, 3, 4)
    arms_recorded = {(r["arm"], r["seed"]) for r in tables.load_records(here / "results" / "runs.jsonl")}
    assert arms_recorded == {("base", 1), ("base", 3), ("base", 4)}


def test_a_crash_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "run_child", lambda *a: 1)
    for job in (Job("grpo", 1), Job("base", 1)):
        with pytest.raises(RuntimeError, match="stopped with exit code 1"):
            reproduce.run_job(job, {}, [])


def test_the_plan_fits_two_hours(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--dry-run"])
    reproduce.main()
    shown = capsys.readouterr().out
    planned = [job for job in ALL if job.row not in arms.OPTIONAL]
    assert len(planned) == len(ALL) - 3 * len(arms.OPTIONAL)
    assert f"{len(planned)} jobs, 0 of them done" in shown
    assert sum(job.seconds for job in planned) / reproduce.WORKERS <= 120 * 60
    monkeypatch.setattr("sys.argv", ["reproduce.py", "grpo", "layers", "--dry-run"])
    reproduce.main()
    assert "6 jobs, 0 of them done" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["reproduce.py", "gpro"])
    with pytest.raises(SystemExit, match="unknown gpro; use --dry-run, --tables, neither, or rows: base, co"):
        reproduce.main()


def test_rows_by_name_bring_the_weights_that_are_compared(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And base models come first, whatever is named."""
    runs: dict[str, list[Job]] = {}
    monkeypatch.setattr(reproduce, "choose_seeds", lambda: (1, 2))
    monkeypatch.setattr(reproduce, "run_all", lambda waiting, run, title: runs.update({title: list(waiting)}))
    reproduce.reproduce(["rate", "layers"])
    compared_runs = [Job(row, seed) for seed in (1, 2) for row in ("grpo", "random")]
    assert runs == {
        "arms and controls": [Job("rate", 1), Job("rate", 2), *compared_runs],
        "layers": [Job("layers", 1), Job("layers", 2)],
    }
    reproduce.reproduce([])
    planned = [job for job in jobs((1, 2)) if job.row not in arms.OPTIONAL]
    assert runs["arms and controls"] == planned
