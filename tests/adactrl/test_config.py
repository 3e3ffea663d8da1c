"""Presets against the sheet's hyper-parameter table (§2.4), TRL's settings, and errors that name the fix."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
from trl import GRPOConfig

from adactrl.config import PRESETS, SCALE, TINY, Algo, Config, to_grpo_config
from shared import config

PAPER = PRESETS["paper"]
TABLE = {  # sheet §2.4 (and §2.3 for the rewards), field by field
    "algo.alpha": 0.5,
    "algo.beta": 0.5,
    "algo.threshold": 0.625,
    "algo.length_gate": "correct",
    "algo.calibrate": True,
    "algo.filter": "acc",
    "algo.max_generation_batches": 10,
    "algo.overlong_buffer": 4096,
    "algo.overlong_factor": 1.0,
    "algo.group_size": 16,
    "algo.prompts_per_generation": 512,
    "algo.prompts_per_step": 256,
    "algo.updates_per_step": 8,
    "algo.clip_low": 0.2,
    "algo.clip_high": 0.28,
    "algo.lr": 1e-6,
    "algo.warmup": 10,
    "algo.weight_decay": 0.1,
    "algo.max_grad_norm": 1.0,
    "algo.temperature": 1.0,
    "algo.max_completion_tokens": 24_576,
    "algo.save_every": 5,
    "data.task": "deepmath",
    "eval.temperature": 0.7,
    "eval.top_p": 0.8,
    "eval.samples": 1,
    "eval.problems": None,
    "model.name": "Qwen/Qwen2.5-7B-Instruct",
}


@pytest.mark.parametrize("name", TABLE)
def test_paper_preset_equals_the_sheet(name: str) -> None:
    group, field = name.split(".")
    assert getattr(getattr(PAPER, group), field) == TABLE[name]


def test_paper_batch_is_32_prompts_per_update() -> None:
    rows = PAPER.algo.prompts_per_step * PAPER.algo.group_size
    assert rows == 4096
    assert rows // PAPER.algo.updates_per_step == 512


@pytest.mark.parametrize("name", PRESETS)
def test_presets_construct_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    cfg = PRESETS[name]
    assert cfg.preset == name == SCALE[name]
    again = config.from_dict(Config, json.loads(json.dumps(config.to_dict(cfg))))
    assert again == cfg
    assert config.parse(Config, PRESETS, args=["--preset", name]) == cfg


def test_presets_change_sizes_but_not_the_method() -> None:
    method = ("alpha", "beta", "threshold", "length_gate", "calibrate", "clip_low", "clip_high")
    method += ("temperature", "overlong_factor", "max_generation_batches", "weight_decay", "max_grad_norm")
    for name, cfg in PRESETS.items():
        for field in method:
            assert getattr(cfg.algo, field) == getattr(PAPER.algo, field), (name, field)
        assert cfg.algo.max_completion_tokens / cfg.algo.overlong_buffer == pytest.approx(6, rel=0.1), name
        assert (cfg.eval.temperature, cfg.eval.top_p) == (0.7, 0.8)
    assert {n for n, c in PRESETS.items() if c.algo.filter != "acc"} == {"smoke"}
    assert {n for n, c in PRESETS.items() if c.algo.vllm} == {"paper"}


def test_small_preset_is_the_sheets(tmp_path: Path) -> None:
    cfg = PRESETS["small"]
    algo = cfg.algo
    assert (algo.prompts_per_generation, algo.group_size, algo.prompts_per_step) == (16, 16, 8)  # §7.3
    assert (algo.updates_per_step, algo.max_completion_tokens, algo.overlong_buffer) == (2, 96, 16)
    assert (cfg.eval.problems, cfg.eval.samples) == (400, 2)
    assert cfg.gate
    assert cfg.sft.flip == 0.15
    assert cfg.model.name == TINY


@pytest.mark.parametrize("name", PRESETS)
def test_trl_settings(name: str, tmp_path: Path) -> None:
    cfg = PRESETS[name]
    algo, args = cfg.algo, to_grpo_config(cfg, tmp_path)
    assert (args.beta, args.epsilon, args.epsilon_high) == (0.0, 0.2, 0.28)  # no KL, clip-higher
    assert (args.loss_type, args.scale_rewards, args.importance_sampling_level) == ("bnpo", "group", "token")
    assert (args.temperature, args.top_p, args.top_k) == (1.0, 1.0, 0)
    assert (args.num_generations, args.num_iterations) == (algo.group_size, 1)
    assert args.max_completion_length == algo.max_completion_tokens
    assert args.generation_batch_size == algo.prompts_per_step * algo.group_size
    rows_per_update = args.per_device_train_batch_size * args.gradient_accumulation_steps
    assert rows_per_update * algo.updates_per_step == args.generation_batch_size
    assert args.max_steps == algo.steps * algo.updates_per_step
    assert args.save_steps == algo.save_every * algo.updates_per_step
    assert args.reward_weights == [1.0, 1.0, algo.alpha, algo.beta]
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm) == (algo.lr, 0.1, 1.0)
    assert (args.lr_scheduler_type, args.warmup_steps) == ("constant_with_warmup", algo.warmup)
    assert (args.adam_beta1, args.adam_beta2, args.optim) == (0.9, 0.999, "adamw_torch")
    assert (args.disable_dropout, args.mask_truncated_completions) == (True, False)
    assert (args.use_vllm, args.entropy_coef, args.top_entropy_quantile) == (algo.vllm, 0.0, 1.0)
    assert (args.seed, args.report_to) == (cfg.run.seed, [])


def test_two_processes_share_the_same_batch(tmp_path: Path) -> None:
    for name in ("smoke", "small", "paper"):
        cfg = replace(PRESETS[name], algo=replace(PRESETS[name].algo, micro_batch_size=1))
        one, two = to_grpo_config(cfg, tmp_path), to_grpo_config(cfg, tmp_path, world_size=2)
        rows = [a.per_device_train_batch_size * a.gradient_accumulation_steps for a in (one, two)]
        assert rows == [rows[0], rows[0] // 2]
        assert two.steps_per_generation == two.gradient_accumulation_steps * cfg.algo.updates_per_step


# Fields of GRPOConfig that are TRL's own. A release that adds one must be read: does it change the algorithm?
OWN_FIELDS = [
    "beta",
    "cache_implementation",
    "cast_lm_head_to_fp32",
    "chat_template_kwargs",
    "delta",
    "disable_dropout",
    "ds3_gather_for_generation",
    "entropy_coef",
    "entropy_coef_delta",
    "entropy_coef_max",
    "entropy_coef_min",
    "entropy_target",
    "epsilon",
    "epsilon_high",
    "generation_batch_size",
    "generation_kwargs",
    "importance_sampling_level",
    "log_completions",
    "log_completions_hub_repo",
    "log_multimodal",
    "log_unique_prompts",
    "loss_type",
    "mask_truncated_completions",
    "max_completion_length",
    "max_tool_calling_iterations",
    "min_p",
    "model_init_kwargs",
    "multi_objective_aggregation",
    "num_completions_to_print",
    "num_generations",
    "num_generations_eval",
    "num_iterations",
    "off_policy_mask_threshold",
    "pad_to_multiple_of",
    "ref_model_mixup_alpha",
    "ref_model_sync_steps",
    "repetition_penalty",
    "reward_weights",
    "router_aux_loss_coef",
    "sapo_temperature_neg",
    "sapo_temperature_pos",
    "scale_rewards",
    "shuffle_dataset",
    "steps_per_generation",
    "sync_ref_model",
    "temperature",
    "top_entropy_quantile",
    "top_k",
    "top_p",
    "transformers_continuous_batching_config",
    "trust_remote_code",
    "use_adaptive_entropy",
    "use_bias_correction_kl",
    "use_transformers_continuous_batching",
    "use_transformers_paged",
    "use_vllm",
    "vespo_k_neg",
    "vespo_k_pos",
    "vespo_lambda_neg",
    "vespo_lambda_pos",
    "vllm_enable_sleep_mode",
    "vllm_gpu_memory_utilization",
    "vllm_group_port",
    "vllm_importance_sampling_cap",
    "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min",
    "vllm_importance_sampling_correction",
    "vllm_importance_sampling_mode",
    "vllm_max_model_length",
    "vllm_mode",
    "vllm_model_impl",
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_server_timeout",
    "vllm_structured_outputs_regex",
    "vllm_tensor_parallel_size",
]


def test_trl_has_no_field_we_have_not_read() -> None:
    from trl.trainer.base_config import _BaseConfig

    inherited = {field.name for field in dataclasses.fields(_BaseConfig)}
    now = {field.name for field in dataclasses.fields(GRPOConfig)} - inherited
    assert sorted(now - set(OWN_FIELDS)) == [], "new in TRL: read it, set it in to_grpo_config if it matters"
    assert sorted(set(OWN_FIELDS) - now) == [], "gone from TRL"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"updates_per_step": 3},
            r"updates_per_step=3 does not divide algo\.prompts_per_step=8; 1, 2, 4, 8 do",
        ),
        ({"group_size": 5}, r"micro_batch_size=64 does not divide .*group_size=5.*1, 2, 4, 5, 10, 20 do"),
        ({"updates_per_step": 0}, r"algo\.updates_per_step=0 must be at least 1"),
        ({"prompts_per_step": 0}, r"algo\.prompts_per_step=0 must be at least 1"),
        ({"threshold": 1.0}, r"algo\.threshold=1\.0 is outside \[0, 1\)"),
        ({"overlong_buffer": 97}, r"overlong_buffer=97 exceeds algo\.max_completion_tokens=96; .*one sixth"),
        ({"group_size": 1, "micro_batch_size": 4}, r"algo\.group_size=1: a group needs at least 2 samples"),
    ],
)
def test_bad_values_are_named_with_what_would_do(changes: dict, message: str) -> None:
    small = PRESETS["small"]
    with pytest.raises(ValueError, match=message):
        replace(small, algo=replace(small.algo, **changes))


def test_a_group_size_that_does_not_divide_names_the_flag_to_change() -> None:
    small = PRESETS["small"]
    with pytest.raises(ValueError, match=r"micro.batch.size"):
        replace(small, algo=replace(small.algo, group_size=5))


@pytest.mark.parametrize("field", ["updates_per_step", "micro_batch_size", "group_size", "prompts_per_step"])
def test_counts_must_be_positive(field: str) -> None:
    small = PRESETS["small"]
    with pytest.raises(ValueError, match=field):
        replace(small, algo=replace(small.algo, **{field: 0}))


def test_processes_that_do_not_divide_are_named(tmp_path: Path) -> None:
    cfg = PRESETS["small"]
    with pytest.raises(ValueError, match=r"64 responses per update do not divide over 3 processes"):
        to_grpo_config(cfg, tmp_path, world_size=3)
    with pytest.raises(ValueError, match=r"algo\.micro_batch_size=64; 1, 2, 4, 8, 16, 32 do"):
        to_grpo_config(cfg, tmp_path, world_size=2)
    odd = replace(cfg, algo=replace(cfg.algo, prompts_per_generation=15, micro_batch_size=32))
    with pytest.raises(ValueError, match=r"prompts_per_generation=15 must be a multiple of the 2 proc"):
        to_grpo_config(odd, tmp_path, world_size=2)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--preset", "smol"], "did you mean"),
        (["--clip-high", "0.3"], "did you mean --algo.clip-high?"),
        (["--algo.group-sise", "8"], "did you mean --algo.group-size?"),
    ],
)
def test_typing_errors(args: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        config.parse(Config, PRESETS, args=args)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_every_field_reaches_the_command_line() -> None:
    cfg = config.parse(
        Config,
        PRESETS,
        args=["--preset", "smoke", *["--algo.lr", "1e-5", "--sft.style", "r1", "--algo.no-calibrate"]],
    )
    assert (cfg.algo.lr, cfg.sft.style, cfg.algo.calibrate) == (1e-5, "r1", False)
    assert {f.name for f in dataclasses.fields(Algo)} == set(config.to_dict(cfg)["algo"])
