"""What is kept of a run, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alignment_study import arms, eval, evidence, reproduce
from alignment_study.arms import Base, Job, variant
from alignment_study.evidence import Evidence, Key
from shared import config
from shared.tables import DirtyRecord


def job_of(key: Key) -> Job:
    return Job(variant(key.variant), key.world, key.trained, key.seed)  # type: ignore[arg-type]


def test_items_survive_the_file_and_its_bytes_are_the_same(study: SimpleNamespace, tmp_path: Path) -> None:
    found = {("weak", 0): study.items(0.02), ("weak", 50): study.items(0.4), ("aligned", 0): study.items(0.3)}
    for name in "ab":
        evidence.write_items(found, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = evidence.read_items(tmp_path / "a")
    assert set(back) == set(found)
    for key, items in found.items():
        np.testing.assert_array_equal(back[key].strict, items.strict)
        assert (back[key].ids, back[key].subtasks) == (items.ids, items.subtasks)


def test_pass16_is_whether_one_of_16_is_right(study: SimpleNamespace) -> None:
    found = study.items(0.02)
    np.testing.assert_array_equal(found.share("pass16"), found.strict > 0)
    assert found.share().mean() == pytest.approx(0.02, abs=0.0005)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["a", "x", "16", "17", "0", "0"], r"item a has n=16 samples and \[17, 0, 0\] successes"),
        (["a", "x", "0", "0", "0", "0"], "n=0"),
        (["a", "x", "16", "-1", "0", "0"], "need 0 <= successes <= n"),
    ],
)
def test_impossible_counts_are_refused(row: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evidence.items_of([row])


def test_an_evaluation_of_eval_is_read(tmp_path: Path) -> None:
    rows = [eval.Row("caesar/+3/abc", "+3", 16, 2, 9, 3), eval.Row("caesar/+7/abd", "+7", 16, 0, 8, 0)]
    eval.write_rows(rows, tmp_path / "caesar-step0.csv.gz")
    found = evidence.items_of_file(tmp_path / "caesar-step0.csv.gz")
    assert found.ids == ("caesar/+3/abc", "caesar/+7/abd")
    assert [a.tolist() for a in (found.n, found.strict, found.formatted, found.lenient)] == [
        [16, 16], [2, 0], [9, 8], [3, 0],
    ]  # fmt: skip


def test_curves_keep_what_is_needed(tmp_path: Path) -> None:
    logged = [
        {"step": 1, "rollout/entropy": 0.123456789, "loss": 3.0, "grad_norm": 0.0},
        {"step": 2, "loss": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    lines = evidence.curve_lines(tmp_path / "metrics.jsonl")
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "grad_norm": 0.0, "rollout/entropy": 0.123457}
    ]
    (tmp_path / "kept.jsonl").write_text(lines[0] + "\n")
    assert evidence.read_curves(tmp_path / "kept.jsonl") == {
        "rollout/entropy": {1: 0.123457},
        "grad_norm": {1: 0.0},
    }
    assert evidence.curve_lines(tmp_path / "none") == []


def test_results_folder_round_trip(study: SimpleNamespace, tmp_path: Path) -> None:
    e = study.world(one_shot={"M": 0.5})
    e.gates = {("one", 1): study.gate(), ("one", 4): None}
    study.change(e, "one_shot", example=study.example(0.25), curves=study.curve("grad_norm", 0.5))
    study.write(e, tmp_path, job_of)
    records, back = evidence.load(tmp_path)
    assert len(records) == len(e.runs) == len(back.runs) == 12
    key = Key("one", "aligned", "one_shot", 2)
    assert back.runs[key].example == e.runs[key].example
    assert back.runs[key].curves == {"grad_norm": {1: 0.5}}
    assert (back.runs[key].last, back.runs[key].steps("weak")) == (20, [0, 10, 20])
    assert back.gates == e.gates
    assert (back.worlds(), back.seeds("one")) == (["one"], [1, 2, 3])


@pytest.mark.parametrize("file", ["runs.jsonl", "gates.jsonl"])
def test_dirty_records_are_refused(study: SimpleNamespace, tmp_path: Path, file: str) -> None:
    e = study.world()
    e.gates = {("one", 1): study.gate()}
    study.write(e, tmp_path, job_of)
    lines = (tmp_path / file).read_text().replace('"dirty": false', '"dirty": true')
    (tmp_path / file).write_text(lines)
    with pytest.raises(DirtyRecord, match="made with uncommitted code: alignment_study/one/"):
        evidence.load(tmp_path)


def test_evaluations_on_other_items_are_refused(study: SimpleNamespace, tmp_path: Path) -> None:
    e = study.world()
    e.runs[Key("one", "weak", "ground_truth", 3)].items["weak", 20] = study.items(0.3, count=100)
    study.write(e, tmp_path, job_of)
    with pytest.raises(
        ValueError, match="one/weak/ground_truth/3: weak at step 20 was evaluated on other items"
    ):
        evidence.load(tmp_path)


def test_seeds_need_ground_truth_of_both_families(study: SimpleNamespace) -> None:
    e = study.world()
    del e.runs[Key("one", "weak", "ground_truth", 2)]
    assert e.seeds("one") == [1, 3]
    assert Evidence().worlds() == []


# ---- recording a finished run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(arms, "HERE", tmp_path)
    monkeypatch.setattr(reproduce, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(reproduce, "DOSE", tmp_path / "results" / "dose")
    return tmp_path


def finish(job: Job) -> None:
    """What train.py leaves behind."""
    for step, right in ((0, 1), (50, 8)):
        for role in job.roles:
            task = arms.family(job.world, role)
            rows = [eval.Row(f"{task}/+3/{i}", "+3", 16, right, 9, 3) for i in range(128)]
            eval.write_rows(rows, eval.path_of(job.folder, task, step))
    (job.folder / "metrics.jsonl").write_text('{"step": 1, "rollout/entropy": 0.5}\n')
    visits = [0.25] * job.config.algo.prompts_per_step + [1.0]
    (job.folder / "history.json").write_text(json.dumps({"caesar/+3/abc": visits}))
    made = {"config_hash": config.config_hash(job.config), "metrics": {}}
    (job.folder / "manifest.json").write_text(json.dumps(made))


def only_record(path: Path) -> dict:
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    path.write_text(json.dumps(found | {"dirty": False}) + "\n")  # the tree that the tests run in may be
    return found


def test_record_keeps_what_the_tables_need(home: Path) -> None:
    job = Job(variant("one_shot"), "one", "weak", 2)
    finish(job)
    assert reproduce.waiting_of([job], reproduce.RESULTS) == [job]
    reproduce.record(job, 61.24)
    found = only_record(home / "results" / "runs.jsonl")
    assert (found["row"], found["seed"], found["wall_s"], found["n"]) == (job.row, 2, 61.2, 2048)
    assert found["example"] == ["caesar/+3/abc", "+3", 0.25]  # of the first step's groups
    assert found["command"].startswith("cd alignment_study && python train.py --preset small --world one")
    _, back = evidence.load(home / "results")
    run = back.runs[Key("one", "weak", "one_shot", 2)]
    assert set(run.items) == {(role, step) for role in study_roles() for step in (0, 50)}
    assert run.items["weak", 50].share().mean() == 0.5
    assert run.curves == {"rollout/entropy": {1: 0.5}}
    assert reproduce.waiting_of([job], reproduce.RESULTS) == []


def study_roles() -> tuple[str, ...]:
    return evidence.ROLES


def test_the_dials_runs_are_kept_apart(home: Path) -> None:
    job = Job(variant("negative"), "one", "weak", 2, "checkpoint-600")
    finish(job)
    reproduce.record(job, 1.0)
    found = only_record(home / "results" / "dose" / "runs.jsonl")
    assert (found["start"], found["example"]) == ("checkpoint-600", None)
    assert not (home / "results" / "runs.jsonl").exists()


def test_a_changed_configuration_is_run_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(variant("random"), "one", "weak", 1)
    finish(job)
    reproduce.record(job, 1.0)
    monkeypatch.setattr(reproduce.config, "config_hash", lambda cfg: "other")
    assert reproduce.waiting_of([job], reproduce.RESULTS) == [job]


def test_a_run_without_evaluations_is_an_error(home: Path) -> None:
    job = Job(variant("random"), "one", "weak", 1)
    with pytest.raises(RuntimeError, match="holds no evaluations; delete the folder and run again"):
        reproduce.read_evaluations(job)


# ---- the gate


@pytest.fixture
def pretraining(home: Path, study: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Seeds whose pre-training meets the gate; the others end as pretrain.py does."""
    meets: set[int] = set()

    def child(base: Base, status: dict, children: list) -> int:
        base.folder.mkdir(parents=True, exist_ok=True)
        if base.seed in meets:
            card = {"settings": {"seed": base.seed}, "finished": True, "gate": study.gate()}
            (base.folder / "card.json").write_text(json.dumps(card))
            return 0
        base.folder.with_suffix(".log").write_text(
            "error: no checkpoint of 900 steps met the gate, the last ..."
        )
        return 2

    monkeypatch.setattr(reproduce, "run_child", child)
    return meets


def test_a_seed_that_misses_the_gate_is_replaced_by_the_next(home: Path, pretraining: set[int]) -> None:
    pretraining |= {1, 3, 5, 6}
    assert reproduce.choose_seeds("one") == (1, 3, 5)
    lines = [json.loads(x) for x in (home / "results" / "gates.jsonl").read_text().splitlines()]
    assert {(x["seed"], x["gate"] is not None) for x in lines} == {
        (1, True),
        (2, False),
        (3, True),
        (4, False),
        (5, True),
    }
    before = len(lines)
    assert reproduce.choose_seeds("one") == (1, 3, 5)  # read back
    assert len((home / "results" / "gates.jsonl").read_text().splitlines()) == before


def test_too_few_seeds_stop_the_study(home: Path, pretraining: set[int]) -> None:
    pretraining |= {1, 2}
    with pytest.raises(SystemExit, match="world two: 2 seeds met the gate, 3 are needed"):
        reproduce.choose_seeds("two")


def test_a_crash_is_not_a_missed_gate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "run_child", lambda *a: 1)
    with pytest.raises(SystemExit, match="base-one-seed1 stopped with exit code 1"):
        reproduce.choose_seeds("one")
    assert not (home / "results" / "gates.jsonl").exists()
