"""Presets, the paper's values, refusals, and TRL's options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared import config
from tool_env_rl import plan
from tool_env_rl.config import PRESETS, Config, to_grpo_config

PAPER = PRESETS["paper"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_show_a_plan(name: str) -> None:
    cfg = PRESETS[name]
    assert cfg.preset == name
    assert config.from_dict(Config, config.to_dict(cfg)) == cfg
    lines = plan.lines(cfg)
    assert name in lines["preset"]
    assert cfg.algo.algorithm in lines["RL"]


def test_paper_holds_the_sheets_table() -> None:
    algo = PAPER.algo  # §2.7 and §8
    assert (algo.states_per_batch, algo.group_size, algo.updates_per_batch) == (512, 16, 16)
    assert algo.states_per_batch * algo.group_size // algo.updates_per_batch == 512
    assert (algo.lr, algo.weight_decay, algo.max_grad_norm) == (1e-6, 0.01, 1.0)
    assert (algo.clip, algo.dual_clip, algo.kl, algo.entropy) == (0.2, 3.0, 0.001, 0.001)
    assert (algo.temperature, algo.collect_temperature) == (0.7, 1.0)
    assert (algo.max_completion_tokens, PAPER.data.max_prompt_tokens, algo.max_turns) == (1024, 16_384, 20)
    assert (algo.iterations, PAPER.data.train, PAPER.data.test) == (3, 2215, 200)
    assert algo.save_every * algo.updates_per_batch >= 120


def test_small_is_the_sheets_experiment_with_twice_the_batches() -> None:
    algo = PRESETS["small"].algo  # §7.6
    assert (algo.iterations, algo.environments, algo.batches) == (3, 120, 12)
    assert (algo.states_per_batch, algo.group_size, algo.updates_per_batch) == (16, 8, 4)
    assert algo.iterations * algo.batches * algo.updates_per_batch == 144
    assert (algo.max_completion_tokens, algo.max_turns) == (40, 8)
    for name in ("clip", "dual_clip", "kl", "entropy", "temperature", "weight_decay", "max_grad_norm"):
        assert getattr(algo, name) == getattr(PAPER.algo, name), "only sizes and lr are rescaled"


@pytest.mark.parametrize(
    ("algo", "message"),
    [
        ({"updates_per_batch": 5}, "updates_per_batch=5 does not divide the 128 responses"),
        ({"micro_batch_size": 7}, "micro_batch_size=7 does not divide the 32 responses"),
        ({"group_size": 1, "updates_per_batch": 1, "micro_batch_size": 1}, "group_size=1"),
        ({"dual_clip": 1.0}, "dual_clip=1.0 must exceed 1"),
        ({"iterations": 0}, "algo.iterations=0 must be at least 1"),
        ({"mode": "multi_turn", "vllm": True}, "multi_turn"),
    ],
)
def test_impossible_settings_are_refused(algo: dict, message: str) -> None:
    small = PRESETS["small"]
    with pytest.raises(ValueError, match=message):
        replace(small, algo=replace(small.algo, **algo))


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("data", {"levels": (9,)}, r"data\.levels=\(9,\) must be among 0 … 4"),
        ("data", {"scenarios": ("foo",)}, r"data\.scenarios=.*must be among single_hop"),
        ("base", {"levels": ()}, r"base\.levels=\(\) must be among 0 … 4, one at least"),
        ("base", {"environments": 0}, "base.environments=0 must be at least 1"),
    ],
)
def test_environments_that_can_not_be_built_are_refused(part: str, fields: dict, message: str) -> None:
    small = PRESETS["small"]
    with pytest.raises(ValueError, match=message):
        replace(small, **{part: replace(getattr(small, part), **fields)})


def test_scenarios_are_for_built_environments() -> None:
    data = replace(PAPER.data, train_file="train.jsonl", scenarios=("single_hop",))
    with pytest.raises(ValueError, match=r"leave data\.train_file out"):
        replace(PAPER, data=data)


def test_toy_model_refuses_files() -> None:
    small = PRESETS["small"]
    with pytest.raises(ValueError, match="toy language"):
        replace(small, data=replace(small.data, train_file="train.jsonl"))


def test_trl_gets_the_method(tmp_path: Path) -> None:
    made = to_grpo_config(PRESETS["small"], tmp_path, states=300)
    wanted = {
        "loss_type": "grpo",
        "beta": 0.001,
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "delta": 3.0,
        "entropy_coef": 0.001,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
        "num_generations": 8,
        "num_iterations": 1,
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 4,
        "max_steps": 48,
        "lr_scheduler_type": "constant",
        "importance_sampling_level": "token",
        "mask_truncated_completions": False,
        "use_bias_correction_kl": False,
        "top_entropy_quantile": 1.0,
        "disable_dropout": True,
    }
    assert {name: getattr(made, name) for name in wanted} == wanted
    with pytest.raises(ValueError, match="3 states are fewer than"):
        to_grpo_config(PRESETS["small"], tmp_path, states=3)


def test_an_epoch_is_all_whole_batches(tmp_path: Path) -> None:
    small = PRESETS["small"]
    epoch = replace(small, algo=replace(small.algo, batches=0))
    assert to_grpo_config(epoch, tmp_path, states=100).max_steps == 6 * 4
