"""What --dry-run says: sizes against the models' published counts, steps, memory, and nothing touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alignment_study import families, plan, pretrain
from alignment_study.config import PRESETS

PAPER = PRESETS["paper"]


@pytest.mark.parametrize(
    ("name", "parameters"),  # as the model cards and config.json files give them
    [
        ("Qwen2.5-7B", 7_615_616_512),
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3.2-1B", 1_235_814_400),
        ("SmolLM2-135M", 134_515_008),
    ],
)
def test_sizes(name: str, parameters: int) -> None:
    assert plan.KNOWN[name].parameters == parameters


def test_the_generated_models_size_is_the_real_one() -> None:
    model = pretrain.new_model(pretrain.Settings(), families.tokenizer())
    assert plan.GENERATED.parameters == sum(p.numel() for p in model.parameters())


def test_paper_plan() -> None:
    found = plan.lines(PAPER)
    assert found["base"] == "Qwen/Qwen2.5-7B @ main"
    assert "DeepScaleR" in found["training"]
    assert found["RL"] == "1 x 300 steps x 2 updates, learning rate 1e-06"
    assert found["responses"].startswith("2,048 to 4,096 per step")
    assert found["expected time"] == "not measured here"
    assert found["memory"].startswith("per process of 8 ")
    # 18 bytes for each of 7.6e9 weights
    assert f"{18 * 7_615_616_512 / 2**30:,.1f} GiB" in found["memory"]


def test_a_step_without_dynamic_sampling_is_sampled_once() -> None:
    cfg = replace(PAPER, algo=replace(PAPER.algo, dynamic_sampling=False))
    assert plan.lines(cfg)["responses"].startswith("2,048 to 2,048")


def test_evaluations_are_counted() -> None:
    assert plan.lines(PRESETS["small"])["measuring"].startswith("12 x 3 tasks")  # 0, 10, ..., 50, twice
    once = replace(PRESETS["small"], eval=replace(PRESETS["small"].eval, every=0), families="weak")
    assert plan.lines(once)["measuring"].startswith("2 x 3 tasks")


def test_an_unknown_model_and_local_files() -> None:
    found = plan.lines(replace(PAPER, base="someone/else-3B"))
    assert found["size"].startswith("unknown")
    assert "memory" not in found
    logic = plan.lines(replace(PRESETS["paper-llama-logic"], train_family="rows.jsonl"))
    assert logic["training"] == "rows.jsonl in the current folder, trained"
    assert "needs --data.data-dir" in plan.lines(PRESETS["pretrained"])["training"]


def test_every_preset_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for preset in PRESETS.values():
        plan.show(preset)
    text = capsys.readouterr().out
    assert text.count("nothing is downloaded or written") == len(PRESETS)
    assert max(map(len, text.splitlines())) < 120
