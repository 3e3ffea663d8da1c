"""Pre-training: the gate, the search for it, resuming, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignment_study import families, pretrain
from alignment_study.gate import Look
from alignment_study.pretrain import GateError, Pretraining, Settings, until_gate
from shared import gpu

TINY = Settings(steps=60, batch_size=4, hidden=16, layers=1, heads=2)
SPREAD = {"+3": 0.02, "+7": 0.01, "+4": 0.006, "+6": 0.005, "+9": 0.0}
GOOD = Look(25, 0.4, 0.95, 0.4, 0.03, 0.3, 0.4, SPREAD)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"aligned_pass16": 0.949}, False),
        ({"weak_pass1": 0.015}, True),
        ({"weak_pass1": 0.0149}, False),
        ({"weak_pass1": 0.05}, True),
        ({"weak_pass1": 0.0501}, False),
        ({"weak_subtasks": {**SPREAD, "+4": 0.005}}, False),
    ],
)
def test_gate_conditions(change: dict, passed: bool) -> None:
    assert replace(GOOD, **change).passed is passed


def script(monkeypatch: pytest.MonkeyPatch, weak_pass1: dict[int, float]) -> None:
    """The weak family's pass@1 at a step, by a made-up curve: that of the last step given."""

    def seen(self: Pretraining, items: int = 0) -> Look:
        last = max(step for step in weak_pass1 if step <= self.step)
        return replace(GOOD, step=self.step, weak_pass1=weak_pass1[last])

    monkeypatch.setattr(Pretraining, "look", seen)
    monkeypatch.setattr(Pretraining, "train_step", lambda self: setattr(self, "step", self.step + 1))


def test_first_look_that_meets_the_gate_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {0: 0.0, 50: 0.02, 75: 0.04})
    assert [x.step for x in until_gate(Pretraining(replace(TINY, steps=200)))] == [25, 50]


def test_a_jump_is_gone_through_again_with_finer_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {0: 0.0, 33: 0.02, 34: 0.2})
    steps = [x.step for x in until_gate(Pretraining(replace(TINY, steps=200)))]
    assert steps == [25, 50, 30, 35, 31, 32, 33]


def test_the_gate_refuses_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, {0: 0.0, 34: 0.2})
    with pytest.raises(GateError, match=r"jumped over at step 34.*--weak-share 0\.175"):
        list(until_gate(Pretraining(TINY)))
    script(monkeypatch, {0: 0.0})
    with pytest.raises(GateError, match=r"no checkpoint of 60 steps met the gate.*--steps 120"):
        list(until_gate(Pretraining(TINY)))


def test_a_step_is_a_function_of_settings_and_step() -> None:
    straight, stopped, other = Pretraining(TINY), Pretraining(TINY), Pretraining(replace(TINY, seed=1))
    losses = [straight.train_step() for _ in range(4)]
    assert losses[:2] == [stopped.train_step() for _ in range(2)]
    again = Pretraining(TINY)
    again.load(stopped.state())
    assert losses[2:] == [again.train_step() for _ in range(2)]
    assert losses[0] != other.train_step()
    for left, right in zip(straight.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    training = Pretraining(replace(TINY, steps=450))
    rates = {}
    for step in (0, 49, 50, 250, 450):
        training.step = step
        rates[step] = training.learning_rate()
    assert rates[0] == pytest.approx(3e-3 / 50)
    assert rates[49] == rates[50] == pytest.approx(3e-3)
    assert rates[250] == pytest.approx(3e-3 * 0.55)
    assert rates[450] == pytest.approx(3e-4)


def test_loss_falls() -> None:
    training = Pretraining(replace(TINY, batch_size=32))
    losses = [training.train_step() for _ in range(40)]
    assert losses[-1] < losses[0] - 0.5


def test_default_model_has_a_tenth_of_a_million_parameters() -> None:
    training = Pretraining(Settings())
    assert 1.0e5 < sum(p.numel() for p in training.model.parameters()) < 1.2e5


@pytest.fixture
def met_at_30(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A gate met at step 30, without sampling; the list gets every step that is looked at."""
    looked: list[int] = []

    def seen(self: Pretraining, items: int = 0) -> Look:
        looked.append(self.step)
        return replace(
            GOOD, step=self.step, weak_pass1=0.0 if self.step < 30 else 0.03 if self.step < 35 else 0.2
        )

    monkeypatch.setattr(Pretraining, "look", seen)
    return looked


def test_run_writes_base_dial_and_card_and_goes_on(tmp_path: Path, met_at_30: list[int]) -> None:
    settings = replace(TINY, steps=75)
    card = pretrain.run(settings, tmp_path / "whole", items=2)
    assert met_at_30 == [25, 50, 30, 50, 75]
    assert card == json.loads((tmp_path / "whole" / "card.json").read_text())
    assert card["gate"]["step"] == 30
    assert set(card["gate"]["transfer"]) == {"pass1", "pass16"}
    assert [entry["folder"] for entry in card["dial"]] == ["checkpoint-50", "checkpoint-75"]
    model, tokenizer = gpu.load_causal_lm(tmp_path / "whole" / "model")
    assert model.config.tie_word_embeddings
    text = families.Item("rev", "abc").tagged()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == families.tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("rev a b c =")["input_ids"][0] == tokenizer.bos_token_id

    met_at_30.clear()
    assert pretrain.run(settings, tmp_path / "whole", items=2) == card
    assert met_at_30 == [], "a finished folder is only read"
    with pytest.raises(ValueError, match=r"another --out"):
        pretrain.run(replace(settings, seed=1), tmp_path / "whole", items=2)


def test_a_stopped_run_ends_in_the_same_bits(
    tmp_path: Path, met_at_30: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(TINY, steps=75)
    pretrain.run(settings, tmp_path / "whole", items=2)
    save = pretrain._save

    def stop(training: Pretraining, folder: Path) -> None:
        if folder.name == "checkpoint-75":
            raise KeyboardInterrupt
        save(training, folder)

    monkeypatch.setattr(pretrain, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain.run(settings, tmp_path / "stopped", items=2)
    monkeypatch.setattr(pretrain, "_save", save)
    met_at_30.clear()
    pretrain.run(settings, tmp_path / "stopped", items=2)
    assert met_at_30 == [75]
    whole, stopped = (
        (tmp_path / name / "checkpoint-75" / "model.safetensors").read_bytes()
        for name in ("whole", "stopped")
    )
    assert whole == stopped


@pytest.mark.slow
def test_a_real_look_counts_what_the_model_says() -> None:
    seen = Pretraining(TINY).look(items=8)
    assert seen.step == 0
    assert seen.weak_pass1 <= seen.weak_pass16 <= 1
    assert set(seen.weak_subtasks) == {"+3", "+7", "+4", "+6", "+9"}
