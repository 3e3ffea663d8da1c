"""The gate's cells by hand, its verdict, and a shipped checkpoint read back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cls_rl import data_sets, drawings, gate, ship
from cls_rl.data import Query
from cls_rl.gate import Check, Reply
from cls_rl.grading import in_list
from cls_rl.model import Bundle, ModelConfig, build_model, load, save
from cls_rl.processor import build_processor, build_tokenizer
from cls_rl.prompts import user_text
from cls_rl.splits import Item

NAMES = ["ant", "bee", "cat", "dog", "eel"]
TINY = ModelConfig(
    hidden=32, layers=1, heads=2, kv_heads=1, intermediate=48, vision_hidden=32, vision_layers=1,
    vision_heads=2, vision_intermediate=48, vocabulary=420,
)  # fmt: skip


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five animals, three grey pictures each on either side."""
    items = [
        Item(f"{side}/{name}{i}", name, f"{side}{name}{i}", i, side, side)
        for side in ("train", "test")
        for name in NAMES
        for i in range(3)
    ]
    monkeypatch.setattr(data_sets, "load", lambda name, copies=2: items)
    monkeypatch.setattr(data_sets, "picture", lambda image, side: Image.new("RGB", (side, side), "grey"))


def bundle() -> Bundle:
    tokenizer = build_tokenizer([user_text("thinking", NAMES)], TINY.vocabulary)
    return Bundle(build_model(TINY, tokenizer).eval(), build_processor(tokenizer, 16, 2, 64), 64)


def cell(**changes: float) -> dict[str, float]:
    good = {"exact": 0.45, "in_list": 0.98, "reward": 0.4, "format": 0.92, "inconsistent": 0.1}
    return {**good, "words_kinds": 12, "words_low": 4, "words_high": 15, **changes}


def cells(**changes: dict[str, float]) -> dict[str, dict[str, float]]:
    names = [f"train/{m}/{k}/greedy" for m in gate.MODES for k in ("all", "halves")]
    names += [f"train/{m}/all/sampled" for m in (*gate.MODES, *gate.OTHERS)]
    return {name: cell(**changes.get(name.replace("/", "_"), {})) for name in names}


def test_lists_hold_the_classes_of_the_set_or_of_the_half(pictures: None) -> None:
    whole = gate.queries("animals", "all", "train", 15)
    assert len(whole) == 15
    assert all(sorted(query.options) == NAMES for query in whole)
    assert len({query.options for query in whole}) > 5, "one order for all"
    halves = gate.queries("animals", "halves", "test", 15)
    assert {tuple(sorted(q.options)) for q in halves} == {("ant", "bee", "cat"), ("dog", "eel")}
    assert all(in_list(q.label, q.options) and q.image.startswith("test/") for q in halves)
    assert {q.label for q in gate.queries("animals", "all", "train", 5)} == set(NAMES)


def test_cells_are_shares_of_the_replies() -> None:
    ask = Query("x", "ant", ("ant", "bee"), "What?")
    replies = [
        Reply("animals", ask, '<think>It is "ant".</think> <answer>ant</answer>', (1.0, 1.0)),
        Reply("animals", ask, '<think>It is "ant", I am sure.</think> <answer>bee</answer>', (1.0, 0.0)),
        Reply("food", ask, "<answer>ant</answer>", (0.0, 1.0)),
        Reply("food", ask, "fly", (0.0, 0.0)),
    ]
    found = gate.describe(replies)
    assert found["exact"] == 0.5
    assert found["in_list"] == 0.75
    assert found["format"] == found["reward"] == 0.5
    assert found["inconsistent"] == 0.5
    assert found["exact/animals"] == 0.5
    assert (found["words_kinds"], found["words_low"]) == (2, pytest.approx(3.15))


def test_a_good_model_passes_and_each_fault_is_named() -> None:
    assert all(check.passed for check in gate.conditions(cells()))
    for place, change, name in (
        ("train_no_thinking_all_greedy", {"exact": 0.2}, "no_thinking, all: accuracy"),
        ("train_thinking_halves_greedy", {"exact": 0.8}, "thinking, halves: accuracy"),
        ("train_no_thinking_halves_greedy", {"in_list": 0.7}, "no_thinking, halves: answer is an option"),
        ("train_thinking_all_sampled", {"format": 1.0}, "thinking, sampled: format"),
        ("train_thinking_all_sampled", {"inconsistent": 0.0}, "thinking, sampled: thought against answer"),
        ("train_adaptive_all_sampled", {"format": 0.1}, "adaptive, sampled: format"),
    ):
        failed = [check.name for check in gate.conditions(cells(**{place: change})) if not check.passed]
        assert failed == [name]
    assert "FAIL accuracy" in gate.report([Check("accuracy", 0.2, 0.35, 0.6)])


def test_an_untrained_model_is_measured_and_refused(
    pictures: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(bundle(), tmp_path / "model")
    monkeypatch.setattr(gate, "TOKENS", 4)
    monkeypatch.setattr(gate, "measure", partial(gate.measure, sets=("animals", "food")))
    with pytest.raises(SystemExit, match="gate failed"):
        gate.main([str(tmp_path / "model"), "--count", "2", "--json", str(tmp_path / "cells.json")])
    written = json.loads((tmp_path / "cells.json").read_text())
    assert written["cells"]["train/thinking/all/greedy"]["n"] == 2 * 2
    assert written["cells"]["test/thinking/halves/greedy"]["exact"] == 0
    assert "FAIL" in capsys.readouterr().out


def test_sampling_is_fixed_by_the_seed(pictures: None) -> None:
    policy, asked = bundle(), {"animals": gate.queries("animals", "all", "train", 3)}
    first, same, other = (
        [r.text for r in gate.answer(policy, "no_thinking", asked, 1.0, seed)] for seed in (0, 0, 1)
    )
    assert first == same != other


@pytest.fixture
def run_dir(tmp_path: Path, pictures: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of `bundle`, whose gate always has the cells above."""
    folder = tmp_path / "run"
    save(bundle(), folder / "model")
    sizes = {"side": 64, "patch": 16, "merge": 2}
    recipe = {
        "seed": 7,
        "vision_steps": 3000,
        "language_steps": 900,
        "choosing_steps": 4,
        "sets": ["animals"],
        "model": sizes,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    versions = {"torch": "2.13", "transformers": "5.23"}
    made = {"dirty": False, "commit": "abc", "hardware": "a CPU, 2 cores", "versions": versions}
    (folder / "environment.json").write_text(json.dumps(made))
    lines = [
        {"stage": "vision", "cpu_s": 60},
        {"stage": "vision", "cpu_s": 120},
        {"stage": "language", "cpu_s": 60},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    found: dict[str, Any] = cells()
    for side in ("train", "test"):
        for mode in gate.MODES:
            found[f"{side}/{mode}/all/greedy"] = cell(**{"exact/animals": 0.45})
    monkeypatch.setattr(gate, "measure", lambda bundle, count: found)
    monkeypatch.setattr(drawings, "drawings", list)
    return folder


def test_a_shipped_model_is_half_as_large_and_loads(run_dir: Path, tmp_path: Path) -> None:
    ship.ship(run_dir, tmp_path / "shipped")
    whole, half = load(run_dir / "model"), load(tmp_path / "shipped")
    small, large = (f / "model.safetensors" for f in (tmp_path / "shipped", run_dir / "model"))
    assert small.stat().st_size < 0.6 * large.stat().st_size
    for name, value in whole.model.state_dict().items():
        assert half.model.state_dict()[name].dtype == torch.float32
        np.testing.assert_allclose(half.model.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    card = (tmp_path / "shipped" / "README.md").read_text()
    for text in ("| 7 ", "3 min on one core", "--seed 7", "abc", "@iconify-json/noto", "| animals ", "0.450"):
        assert text in card
    assert "{" not in card


def test_what_must_not_be_shipped_is_refused(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = cells(train_thinking_all_greedy={"exact": 0.1})
    with monkeypatch.context() as patch:
        patch.setattr(gate, "measure", lambda bundle, count: bad)
        with pytest.raises(SystemExit, match="did not pass the gate: thinking, all: accuracy"):
            ship.ship(run_dir, tmp_path / "shipped")
    made = json.loads((run_dir / "environment.json").read_text())
    (run_dir / "environment.json").write_text(json.dumps({**made, "dirty": True}))
    with pytest.raises(SystemExit, match="uncommitted"):
        ship.ship(run_dir, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
