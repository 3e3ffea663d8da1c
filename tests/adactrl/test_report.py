"""RESULTS.md from a synthetic results folder: the same bytes every time, and nothing from a dirty tree."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from adactrl import report, reproduce
from adactrl.eval import Probe, Sample
from adactrl.gate import Check
from shared.tables import DirtyRecord

TITLES = {arm.row: arm.title for arm in reproduce.ARMS}
LENGTHS = {"A": 55, "B": 50, "C": 30, "D": 12, "E": 35, "F": 20, "G": 12, "H": 13}
SEEDS = (1, 2)


def samples(arm: str, seed: int) -> list[Sample]:
    rng = np.random.default_rng([seed, ord(arm)])
    rows = []
    for tier in ("T1", "T2", "T3"):
        for mode in ("adaptive",) if arm in "AB" else ("adaptive", "easy", "hard"):
            for i in range(12):
                for _ in range(2):
                    length = LENGTHS[arm] + 10 * (mode == "hard") + int(rng.integers(-3, 4))
                    tag = None if arm in "AB" else "hard" if mode == "hard" else "easy"
                    rows.append(Sample(tier, f"{tier}/test/{i}", mode, tag, i % 3 > 0, length, False, "text"))
    return rows


def probes(arm: str, seed: int) -> list[Probe]:
    found = []
    for tier, labels in (("T1", 5), ("T2", 3), ("T3", 0)):
        for i in range(6):
            easy = (i < labels) != (arm == "C" and i % 3 == 0)
            label = "easy" if i < labels else "hard"
            found.append(Probe(tier, f"{tier}/validation/{i}", 0.5, label, float(easy), 0.9 if easy else 0.2))
    return found


def write_results(folder: Path, dirty: bool = False) -> None:
    gate = [asdict(Check("T1 p_E", 0.91, 0.80, 0.99)), asdict(Check("T3 p_H", 0.41, 0.20, 0.60))]
    lines = []
    for seed in SEEDS:
        for arm in TITLES:
            name = f"samples/{arm}-seed{seed}.csv.gz"
            reproduce.write_samples(samples(arm, seed), folder / name)
            if arm not in "AB":
                path = folder / "probes" / f"{arm}-seed{seed}.jsonl"
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join(json.dumps(asdict(p)) + "\n" for p in probes(arm, seed)))
            record = {"row": f"adactrl/{arm}", "title": TITLES[arm], "preset": "small", "scale": "small"}
            record |= {"seed": seed, "commit": "0123456789abcdef", "dirty": dirty and arm == "E"}
            record |= {
                "config_hash": f"{ord(arm):012x}",
                "versions": {"torch": "2.13.0"},
                "hardware": "cpu, 2 cores",
            }
            record |= {
                "wall_s": 12.5,
                "n": 72,
                "metrics": {},
                "samples": name,
                "gate": gate if arm == "C" else None,
            }
            lines.append(json.dumps(record | {"command": f"python train.py --run.seed {seed}"}) + "\n")
    (folder / "runs.jsonl").write_text("".join(lines))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder of its own; figures are drawn by another test."""
    package = tmp_path / "adactrl"
    (package / "results").mkdir(parents=True)
    shutil.copy(report.HERE / "results" / "paper.csv", package / "results" / "paper.csv")
    (package / "README.md").write_text("# AdaCtrl\n<!-- results:begin -->\n<!-- results:end -->\nthe end\n")
    (tmp_path / "README.md").write_text(
        "| x | y |\n\n<!-- adactrl-headline:begin -->\n<!-- adactrl-headline:end -->\n\nthe end\n"
    )
    monkeypatch.setattr(report, "HERE", package)
    monkeypatch.setattr(report.result_figures, "draw_results", lambda *args: None)
    return package


def rendered(here: Path) -> list[bytes]:
    report.render()
    return [p.read_bytes() for p in (here / "RESULTS.md", here / "README.md", here.parent / "README.md")]


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(here: Path) -> None:
    write_results(here / "results")
    first = rendered(here)
    assert rendered(here) == first
    lines = (here / "results" / "runs.jsonl").read_text().splitlines(keepends=True)
    (here / "results" / "runs.jsonl").write_text("".join(reversed(lines)))  # two workers finish in any order
    assert rendered(here) == first


@pytest.mark.slow
def test_results_hold_every_row_claim_and_condition(here: Path) -> None:
    write_results(here / "results")
    report.render()
    text = (here / "RESULTS.md").read_text()
    for arm, title in TITLES.items():
        assert re.search(rf"\| adactrl/{arm} +\| {re.escape(title)} ", text), arm
    for claim in range(1, 8):
        line = next(line for line in text.splitlines() if re.match(rf"\| +{claim} \|", line))
        assert re.search(r"\*\*(confirmed|refuted|inconclusive)\*\*", line)
        assert re.search(r", 2 +\| \*\*", line)  # seeds
    assert "gate passed by 2 of 2 seeds" in text
    assert re.search(r"\| T3 p_H +\| 0\.20 to 0\.60 +\| 0\.410", text)
    assert "-91.04 %" in text
    assert "0123456789" in text
    assert text.count("cd adactrl") + text.count("`python train.py --run.seed") >= 16
    assert "nan" not in text.lower()
    readme = (here / "README.md").read_text()
    assert readme.startswith("# AdaCtrl\n<!-- results:begin -->\n| claim")
    assert readme.endswith("<!-- results:end -->\nthe end\n")
    headline = (here.parent / "README.md").read_text()
    assert re.search(r"shorter than R1-SFT-RL.* 7\d%", headline)
    assert "2 seeds" in headline


@pytest.mark.slow
def test_the_root_readme_keeps_its_table(here: Path) -> None:
    """The headline stands in a block of its own: inside a table its line break would end the row."""
    write_results(here / "results")
    report.render()
    lines = (here.parent / "README.md").read_text().splitlines()
    assert lines[:2] == ["| x | y |", ""]
    assert lines[-1] == "the end"
    assert any("AdaCtrl at small scale" in line for line in lines)


def test_records_of_a_dirty_tree_are_refused(here: Path) -> None:
    write_results(here / "results", dirty=True)
    with pytest.raises(DirtyRecord, match=r"adactrl/E \(seed 1\), adactrl/E \(seed 2\).*commit the code"):
        report.render()
    assert not (here / "RESULTS.md").exists()


@pytest.mark.slow
def test_a_later_clean_record_replaces_a_dirty_one(here: Path) -> None:
    write_results(here / "results", dirty=True)
    path = here / "results" / "runs.jsonl"
    again = [json.loads(line) for line in path.read_text().splitlines()]
    fixed = [json.dumps({**record, "dirty": False}) + "\n" for record in again if record["dirty"]]
    path.write_text(path.read_text() + "".join(fixed))
    report.render()
    assert "adactrl/E" in (here / "RESULTS.md").read_text()


@pytest.mark.slow
def test_a_failed_gate_is_shown_and_makes_the_claims_inconclusive(here: Path) -> None:
    write_results(here / "results")
    path = here / "results" / "runs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["gate"] and record["seed"] == 2:
            record["gate"][1]["value"] = 0.9
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    report.render()
    text = (here / "RESULTS.md").read_text()
    assert "gate passed by 1 of 2 seeds" in text
    assert re.search(r"\| T3 p_H .*0\.410 +\| 0\.900 FAIL", text)
    assert text.count("**inconclusive**") == 7


@pytest.mark.slow
def test_a_seed_that_failed_the_gate_is_left_out_when_three_others_passed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "test_report.SEEDS" if __name__ == "test_report" else f"{__name__}.SEEDS", (1, 2, 3, 4)
    )
    write_results(here / "results")
    path = here / "results" / "runs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["gate"] and record["seed"] == 3:
            record["gate"][0]["value"] = 1.0
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    _, evidence = report.load_evidence(here / "results")
    assert {seed for _, seed in evidence.samples} == {seed for _, seed in evidence.probes} == {1, 2, 4}
    assert evidence.gate == {1: True, 2: True, 4: True}
    report.render()
    text = (here / "RESULTS.md").read_text()
    assert "gate passed by 3 of 4 seeds (seed 3 did not: no RL, and only in the gate's table)" in text
    assert re.search(r"\| T1 p_E .*0\.910 +\| 0\.910 +\| 1\.000 FAIL +\| 0\.910", text)


def test_no_records_yet(here: Path) -> None:
    report.render()
    assert "No runs recorded yet: `make -C adactrl reproduce`" in (here / "RESULTS.md").read_text()


def test_samples_survive_the_csv_but_for_the_text(tmp_path: Path) -> None:
    rows = samples("D", 1)
    rows[3] = replace(rows[3], tag=None)
    rows[4] = replace(rows[4], correct=None)  # a grader failure stays one
    reproduce.write_samples(rows, tmp_path / "one.csv.gz")
    read = report.read_samples(tmp_path / "one.csv.gz")
    assert read == [replace(r, text="") for r in rows]
    reproduce.write_samples(rows, tmp_path / "two.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


# ---- the plan of reproduce.py


def test_every_arm_runs_for_every_seed_and_cold_starts_come_first() -> None:
    planned = reproduce.jobs("small")
    assert {(j.arm.row, j.seed) for j in planned} == {(r, s) for r in "ABCDEFGH" for s in reproduce.SEEDS}
    assert len(planned) == 24
    for job in planned:
        if job.arm.start:
            start = next(j for j in planned if j.arm.row == job.arm.start and j.seed == job.seed)
            assert planned.index(start) < planned.index(job)
            assert job.config.cold_start == str(
                (start.folder / "cold_start" / "model").relative_to(reproduce.HERE)
            )
    assert 0 not in reproduce.SEEDS  # seed 0 was used for tuning


def test_seeds_that_fail_the_gate_are_replaced_and_get_no_rl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "HERE", tmp_path)
    ran: list[tuple[str, int]] = []

    def run_all(planned: list[reproduce.Job]) -> None:
        ran.extend((job.arm.row, job.seed) for job in planned)
        for job in planned:
            if job.arm.row == "C":
                value = 1.0 if job.seed in (2, 4) else 0.9
                job.folder.mkdir(parents=True)
                check = asdict(Check("T1 p_E", value, 0.80, 0.99))
                (job.folder / "gate.json").write_text(json.dumps([check]))

    monkeypatch.setattr(reproduce, "run_all", run_all)
    reproduce.reproduce("small")
    assert [seed for row, seed in ran if row == "C"] == [1, 2, 3, 4, 5]
    assert [seed for row, seed in ran if row == "D"] == [1, 3, 5]
    assert {seed for row, seed in ran if row in "BEFGH"} == {1, 3, 5}


def test_too_few_seeds_that_pass_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "passed_gate", lambda scale, seed: seed == 2)
    monkeypatch.setattr(reproduce, "run_all", lambda planned: None)
    with pytest.raises(SystemExit, match=r"seeds \[2\] passed the gate, 3 are needed"):
        reproduce.reproduce("small")


def test_commands_can_be_pasted() -> None:
    for job in reproduce.jobs("small"):
        assert job.command.startswith("cd adactrl && python train.py --preset small")
        assert f"--run.seed {job.seed}" in job.command
        assert job.config.run.seed == job.seed
        assert job.config.preset == "small"


def test_two_jobs_never_share_a_folder() -> None:
    folders = {j.folder for scale in ("smoke", "small") for j in reproduce.jobs(scale)}
    assert len(folders) == 48


@pytest.mark.parametrize(
    ("arguments", "scale", "said"),
    [(["--tabels"], "small", "unknown --tabels"), ([], "huge", "SCALE=huge is not one of smoke, small")],
)
def test_bad_input(arguments: list[str], scale: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", *arguments])
    monkeypatch.setenv("SCALE", scale)
    with pytest.raises(SystemExit) as stop:
        reproduce.main()
    assert said in str(stop.value.code)


def test_dry_run_prints_every_command_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--dry-run"])
    monkeypatch.delenv("SCALE", raising=False)
    monkeypatch.setattr(reproduce, "reproduce", lambda scale: pytest.fail("ran"))
    reproduce.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24
    assert lines[0].startswith("adactrl/A seed 1")
