"""The go / no-go gate between cold start and RL at the bounds of sheet §7.4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adactrl import gate
from adactrl.config import PRESETS
from adactrl.eval import Sample
from adactrl.gate import Check
from shared.runs import Run

GOOD = {  # accuracy with [Easy] forced, with [Hard] forced; share of [Easy], share of untagged responses
    "T1": (0.90, 0.95, 0.90, 0.0),
    "T2": (0.50, 0.75, 0.60, 0.0),
    "T3": (0.10, 0.40, 0.10, 0.0),
}


def samples(tier: str, p_easy: float, p_hard: float, easy: float, none: float, n: int = 200) -> list[Sample]:
    def row(i: int, mode: str, tag: str | None, correct: bool) -> Sample:
        return Sample(tier, f"{tier}/{i}", mode, tag, correct, 10, False, "")

    rows = [row(i, "easy", "easy", i < round(p_easy * n)) for i in range(n)]
    rows += [row(i, "hard", "hard", i < round(p_hard * n)) for i in range(n)]
    tags = ["easy"] * round(easy * n) + [None] * round(none * n)
    tags += ["hard"] * (n - len(tags))
    return rows + [row(i, "adaptive", tag, False) for i, tag in enumerate(tags)]


def world(**changes: tuple[float, ...]) -> list[Sample]:
    return [row for tier, numbers in {**GOOD, **changes}.items() for row in samples(tier, *numbers)]


def failing(rows: list[Sample]) -> list[str]:
    return [check.name for check in gate.conditions(rows) if not check.passed]


def test_the_situation_of_the_paper_passes() -> None:
    assert failing(world()) == []


def test_the_bounds() -> None:
    bounds = {c.name: (c.low, c.high) for c in gate.conditions(world())}
    assert bounds["T1 p_E"] == (0.80, 0.99)
    assert bounds["T1 p_H - p_E"][1] == 0.15
    assert bounds["T2 p_H - p_E"] == (0.10, 0.50)
    assert bounds["T3 p_E"][1] == 0.30
    assert bounds["T3 p_H"] == (0.20, 0.60)
    for tier in ("T1", "T2", "T3"):
        assert bounds[f"{tier} minority tag"][0] == 0.05
        assert bounds[f"{tier} valid tag"][0] == 0.95


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"T1": (0.80, 0.90, 0.90, 0.0)}, []),
        ({"T1": (0.795, 0.90, 0.90, 0.0)}, ["T1 p_E"]),
        ({"T1": (0.99, 0.99, 0.90, 0.0)}, []),
        ({"T1": (0.995, 1.00, 0.90, 0.0)}, ["T1 p_E"]),
        ({"T1": (0.85, 1.00, 0.90, 0.0)}, []),  # 1.00 - 0.85 is a little above 0.15 in floating point
        ({"T1": (0.84, 0.995, 0.90, 0.0)}, ["T1 p_H - p_E"]),
        ({"T1": (0.95, 0.50, 0.90, 0.0)}, []),  # long reasoning may hurt
        ({"T2": (0.50, 0.60, 0.60, 0.0)}, []),  # 0.60 - 0.50 is a little below 0.10
        ({"T2": (0.50, 0.595, 0.60, 0.0)}, ["T2 p_H - p_E"]),
        ({"T2": (0.30, 0.80, 0.60, 0.0)}, []),
        ({"T2": (0.30, 0.805, 0.60, 0.0)}, ["T2 p_H - p_E"]),
        ({"T3": (0.30, 0.60, 0.10, 0.0)}, []),
        ({"T3": (0.305, 0.60, 0.10, 0.0)}, ["T3 p_E"]),
        ({"T3": (0.10, 0.20, 0.10, 0.0)}, []),
        ({"T3": (0.10, 0.195, 0.10, 0.0)}, ["T3 p_H"]),
        ({"T3": (0.10, 0.605, 0.10, 0.0)}, ["T3 p_H"]),
        ({"T3": (0.10, 0.40, 0.05, 0.0)}, []),
        ({"T3": (0.10, 0.40, 0.045, 0.0)}, ["T3 minority tag"]),
        ({"T1": (0.90, 0.95, 0.955, 0.0)}, ["T1 minority tag"]),
        ({"T2": (0.50, 0.75, 0.60, 0.05)}, []),
        ({"T2": (0.50, 0.75, 0.60, 0.055)}, ["T2 valid tag"]),
    ],
)
def test_conditions_at_their_bounds(changes: dict, names: list[str]) -> None:
    assert failing(world(**changes)) == names


def run_at(tmp_path: Path) -> Run:
    return Run(tmp_path, PRESETS["small"], "adactrl", resumed=False, main=True)


def test_enforce_refuses_rl_and_shows_the_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = world(T3=(0.10, 0.80, 0.10, 0.0))
    monkeypatch.setattr(gate, "measure", lambda *args, **kwargs: gate.conditions(rows))
    with pytest.raises(SystemExit) as stop:
        gate.enforce(None, None, PRESETS["small"], run_at(tmp_path))  # type: ignore[arg-type]
    assert "--gate report" in str(stop.value.code)
    line = next(line for line in capsys.readouterr().out.splitlines() if "FAIL" in line)
    assert line.split() == ["FAIL", "T3", "p_H", "0.800", "(needs", "0.20", "to", "0.60)"]
    stored = [Check(**c) for c in json.loads((tmp_path / "gate.json").read_text())]
    assert [c.name for c in stored if not c.passed] == ["T3 p_H"]


def test_the_gate_is_measured_once_per_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(*args, **kwargs):
        measured.append(1)
        return gate.conditions(world())

    monkeypatch.setattr(gate, "measure", measure)
    for _ in range(2):
        gate.enforce(None, None, PRESETS["small"], run_at(tmp_path))  # type: ignore[arg-type]
    assert len(measured) == 1


def test_measure_asks_validation_problems_at_the_training_temperature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def sample(model, tokenizer, problems, cfg, mode, count, sampling, seed):
        asked.append((problems[0].id, mode, len(problems), count, sampling.temperature, sampling.top_p, seed))
        tier = problems[0].source
        rows = samples(tier, *GOOD[tier], n=20)
        return [r for r in rows if r.mode == mode]

    monkeypatch.setattr(gate, "sample_responses", sample)
    checks = gate.measure(None, None, PRESETS["small"])  # type: ignore[arg-type]
    assert len(checks) == 11
    assert {(name.split("/")[0], mode) for name, mode, *_ in asked} == {
        (t, m) for t in ("T1", "T2", "T3") for m in ("adaptive", "easy", "hard")
    }
    assert all("/validation/" in name for name, *_ in asked)
    assert {row[2:6] for row in asked} == {(200, 1, 1.0, 1.0)}
    assert len({row[-1] for row in asked}) == 9  # no two cells share their random numbers
