"""Presets against the authors' values, the cells they mean, what is refused, and TRL's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignment_study.config import PRESETS, Algo, Config, Data, to_grpo_config
from alignment_study.trainer import OBJECTIVE
from shared import config

SMALL, PAPER = PRESETS["small"], PRESETS["paper"]


def test_every_preset_survives_the_round_trip_through_json() -> None:
    for name, preset in PRESETS.items():
        assert preset.preset == name
        assert config.from_dict(Config, config.to_dict(preset)) == preset
    assert len(config.flatten(config.to_dict(PAPER))) <= 60


def test_paper_presets_hold_the_authors_values() -> None:
    """Sheet §2.4."""
    for name in ("paper", "paper-qwen-logic", "paper-llama-math", "paper-llama-logic"):
        algo = PRESETS[name].algo
        assert (algo.group_size, algo.prompts_per_step, algo.steps, algo.warmup) == (16, 128, 300, 10)
        assert (algo.lr, algo.weight_decay, algo.max_grad_norm) == (1e-6, 0.1, 1.0)
        assert (algo.temperature, algo.top_p, algo.max_completion_tokens) == (1.0, 1.0, 8192)
        assert (algo.save_every, PRESETS[name].eval.every, PRESETS[name].eval.top_p) == (50, 20, 0.7)
        assert algo.dynamic_sampling
    assert PAPER.base == PRESETS["paper-qwen-logic"].base == "Qwen/Qwen2.5-7B"
    assert PRESETS["paper-llama-math"].base == "meta-llama/Llama-3.1-8B-Instruct"
    assert PAPER.cells == {"trained": "deepscaler"}


def test_small_preset_is_the_pilots_specification() -> None:
    """Sheet §7.2."""
    algo, test = SMALL.algo, SMALL.eval
    assert (algo.group_size, algo.prompts_per_step, algo.lr, algo.steps) == (16, 16, 1e-4, 50)
    assert (algo.warmup, algo.weight_decay, algo.temperature, algo.max_completion_tokens) == (
        10,
        0.1,
        1.0,
        11,
    )
    assert (test.problems, test.samples, test.every, test.temperature) == (128, 16, 10, 1.0)
    assert 24 <= algo.candidates <= 64


@pytest.mark.parametrize(
    ("change", "cells", "tasks"),
    [
        ({}, {"aligned": "perm", "weak": "caesar"}, ("perm", "perm_transfer", "caesar")),
        (
            {"world": "two"},
            {"aligned": "shift", "weak": "rearrange"},
            ("shift", "shift_transfer", "rearrange"),
        ),
        ({"families": "weak"}, {"weak": "caesar"}, ("perm", "perm_transfer", "caesar")),
        ({"train_family": "perm"}, {"aligned": "perm"}, ("perm", "perm_transfer", "caesar")),
        ({"train_family": "rg:gcd"}, {"trained": "rg:gcd"}, ("perm", "perm_transfer", "caesar")),
        ({"data": Data("svamp", "rg:gcd")}, {"aligned": "svamp", "weak": "rg:gcd"}, ("svamp", "rg:gcd")),
    ],
)
def test_cells(change: dict, cells: dict, tasks: tuple) -> None:
    cfg = replace(SMALL, **change)
    assert (cfg.cells, cfg.tasks) == (cells, tasks)
    assert list(cfg.cells) == list(cells)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"group_size": 1}, "algo.group_size=1 must be at least 2"),
        ({"prompts_per_step": 7}, "algo.prompts_per_step=7 must be even"),
        ({"micro_batch_size": 3}, "algo.micro_batch_size=3 does not divide the 1024 responses"),
        ({"steps": -1}, "algo.steps=-1 must be at least 0"),
        ({"chance": 1.5}, "algo.chance=1.5 is no probability"),
        ({"reward": "entropy", "samples": "negative"}, "needs rewards of 0 and 1"),
        ({"samples": "one_shot", "selection": "variance"}, "pass its history.json"),
        ({"samples": "one_shot", "history": "h.json"}, "algo.selection='near_half' with"),
    ],
)
def test_bad_values_are_refused_with_the_fix(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Config(algo=Algo(**change))


def test_a_base_excludes_pretraining_steps() -> None:
    with pytest.raises(ValueError, match="keep one"):
        replace(SMALL, base="somewhere", pretrain_steps=3)


def test_trl_settings_are_the_objective_and_two_updates_per_step(tmp_path: Path) -> None:
    args = to_grpo_config(SMALL, tmp_path)
    assert {name: getattr(args, name) for name in OBJECTIVE} == OBJECTIVE
    assert args.steps_per_generation == 2 * args.gradient_accumulation_steps
    assert args.generation_batch_size == 16 * 16
    assert (args.max_steps, args.save_steps, args.logging_steps, args.warmup_steps) == (100, 20, 2, 20)
    assert (args.lr_scheduler_type, args.optim, args.weight_decay) == (
        "constant_with_warmup",
        "adamw_torch",
        0.1,
    )
    assert (args.bf16, args.gradient_checkpointing, args.beta) == (False, False, 0.0)
    assert (args.temperature, args.top_p, args.top_k) == (1.0, 1.0, 0)


def test_paper_settings_on_eight_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(PAPER, algo=replace(PAPER.algo, vllm=False))
    args = to_grpo_config(small, tmp_path, world_size=8)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 8 == 64 * 16
    assert args.steps_per_generation == 2 * args.gradient_accumulation_steps
    assert args.gradient_checkpointing
    assert args.bf16 is torch.cuda.is_available()
    with pytest.raises(ValueError, match="do not divide over 3 processes"):
        to_grpo_config(small, tmp_path, world_size=3)
