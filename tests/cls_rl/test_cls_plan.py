"""Presets and the plan: the paper's hyper-parameters, sizes without weights, the authors' updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cls_rl import plan
from cls_rl.config import PRESETS, Config, to_grpo_config, to_sft_config, updates
from shared import config

PAPER = [name for name in PRESETS if name.startswith("paper")]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_themselves_and_survive_json(name: str) -> None:
    cfg = PRESETS[name]
    assert cfg.preset == name
    assert config.from_dict(Config, config.to_dict(cfg)) == cfg


def test_the_paper_preset_is_the_authors_table() -> None:
    cfg = PRESETS["paper-qwen2-vl-2b"]
    args = to_grpo_config(cfg, Path("x"), 100, world_size=8)
    assert (cfg.model.side, cfg.model.min_pixels, cfg.model.max_pixels) == (384, 3136, 401_408)
    assert (args.num_generations, args.beta, args.learning_rate) == (4, 0.04, 1e-6)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 8 == 64  # 16 prompts x 4
    assert args.steps_per_generation == args.gradient_accumulation_steps == 2
    assert (args.loss_type, args.scale_rewards, args.num_iterations) == ("grpo", "group", 1)
    assert (args.temperature, args.top_k, args.top_p) == (1.0, 50, 1.0)
    assert args.max_completion_length == cfg.algo.max_prompt_tokens == 1024
    assert (args.lr_scheduler_type, args.warmup_steps, args.weight_decay) == ("linear", 0, 0.0)
    assert (args.adam_beta2, args.adam_epsilon, args.max_grad_norm) == (0.999, 1e-8, 1.0)


@pytest.mark.parametrize(
    ("name", "images", "steps"),  # sheet, section 2.2; images of section 3.1
    [
        ("imagenet", 4000, 2500),
        ("sun", 1588, 2481),
        ("cars", 784, 2450),
        ("dtd", 188, 588),
        ("pets", 148, 462),
        ("eurosat", 40, 250),
    ],
)
def test_updates_are_the_authors_epochs(name: str, images: int, steps: int) -> None:
    cfg = PRESETS["paper-qwen2-vl-2b"]
    cfg = replace(cfg, data=replace(cfg.data, set=name))
    assert plan.train_images(cfg) == images
    assert updates(cfg, images) == pytest.approx(steps, abs=1)


@pytest.mark.parametrize(
    ("name", "count"),
    [("Qwen2-VL-2B", 2_208_985_600), ("Qwen2-VL-7B", 8_291_375_616), ("Qwen2.5-VL-3B", 3_754_622_976)],
)
def test_sizes_are_those_of_the_published_weights(name: str, count: int) -> None:
    model = plan.empty_model(plan.KNOWN[name])
    assert plan.parameters(model)["all"] == count
    assert all(p.device == torch.device("meta") for p in model.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_the_plan_prints_offline(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan.show(PRESETS[name])
    out = capsys.readouterr().out
    assert f"preset {name}" in out
    if name in PAPER:
        words = ["384 -> 392 x 392 pixels, 196 tokens", "afdsafas/pets-4shot-fewshot", "462 x 16 prompts"]
        for word in (*words, "zero3", "GiB"):
            assert word in out


def test_lora_is_printed_with_what_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    cfg = PRESETS["paper-qwen2-vl-2b"]
    plan.show(replace(cfg, model=replace(cfg.model, lora_rank=8)))
    # 28 layers x rank 8 x (in + out) of q, k, v, o, gate, up, down
    h, kv, f = 1536, 256, 8960
    trained = 28 * 8 * (2 * (h + h) + 2 * (h + kv) + 3 * (h + f))
    assert f"LoRA rank 8: {trained:,} trained" in capsys.readouterr().out


def test_both_supervised_baselines_build() -> None:
    for objective in ("sft_completion", "sft_full_text"):
        cfg = PRESETS["paper-qwen2-vl-2b"]
        cfg = replace(cfg, algo=replace(cfg.algo, objective=objective, lr=2e-5))
        args = to_sft_config(cfg, Path("x"), 10, world_size=8)
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 8 == 16
        assert args.max_length is None  # nothing is cut


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"set": "dogs"}, "is not one of imagenet"),
        ({"source": "drawings", "set": "pets"}, "is not one of animals"),
        ({"source": "folder", "set": "x"}, "algo.steps is not set"),
        ({"shots": 0}, "data.shots=0 must be above 0"),
    ],
)
def test_bad_data_names_are_refused(changes: dict, said: str) -> None:
    cfg = PRESETS["paper-qwen2-vl-2b"]
    with pytest.raises(ValueError, match=said):
        replace(cfg, data=replace(cfg.data, **changes))


def test_cars_have_the_authors_longer_prompts() -> None:
    paper = PRESETS["paper"]
    assert paper.model == PRESETS["paper-qwen2-vl-2b"].model
    assert paper.max_prompt_tokens == 1024
    cars = replace(paper, data=replace(paper.data, set="cars"))
    assert cars.max_prompt_tokens == 2048
    assert replace(cars, algo=replace(cars.algo, max_prompt_tokens=4096)).max_prompt_tokens == 4096
    assert PRESETS["small"].max_prompt_tokens == PRESETS["small"].algo.max_prompt_tokens
