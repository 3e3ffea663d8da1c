"""The plan of --dry-run: parameter counts, memory, and what is printed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from adactrl import chains, plan
from adactrl.config import PRESETS, Algo, Config, Data, Model
from shared import tiny

HEADS = {"Qwen2.5-0.5B": 14, "Qwen2.5-7B": 28, "SmolLM2-135M": 9, "SmolLM2-1.7B": 32}


@pytest.mark.parametrize("name", HEADS)
def test_parameter_count_is_that_of_the_transformers_model(name: str) -> None:
    arch, heads = plan.KNOWN[name], HEADS[name]
    of_config, of_model = (Qwen2Config, Qwen2ForCausalLM) if arch.bias else (LlamaConfig, LlamaForCausalLM)
    config = of_config(
        vocab_size=arch.vocab,
        hidden_size=arch.hidden,
        num_hidden_layers=arch.layers,
        num_attention_heads=heads,
        num_key_value_heads=arch.kv * heads // arch.hidden,
        intermediate_size=arch.intermediate,
        tie_word_embeddings=arch.tied,
    )
    with torch.device("meta"):
        model = of_model(config)
    assert sum(p.numel() for p in model.parameters()) == arch.parameters


def test_published_sizes() -> None:
    assert plan.KNOWN["Qwen2.5-7B"].parameters == 7_615_616_512
    billions = {name: arch.parameters / 1e9 for name, arch in plan.KNOWN.items()}
    expected = {"0.5B": 0.49, "1.5B": 1.54, "3B": 3.09, "7B": 7.62, "14B": 14.77, "32B": 32.76}
    expected |= {"135M": 0.135, "360M": 0.362, "1.7B": 1.71}
    assert {name.split("-")[1]: size for name, size in billions.items()} == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("preset", ["smoke", "small"])
def test_tiny_models_are_counted_from_the_config(preset: str) -> None:
    cfg = PRESETS[preset]
    m = cfg.model
    tokenizer = tiny.word_tokenizer(chains.WORDS)
    model = tiny.tiny_causal_lm(
        tokenizer, hidden=m.hidden, layers=m.layers, heads=m.heads, intermediate=4 * m.hidden, seed=0
    )
    arch = plan.architecture(cfg)
    assert arch is not None
    assert arch.parameters == sum(p.numel() for p in model.parameters())


def test_memory_of_seven_billion_parameters_on_32_gpus() -> None:
    arch = plan.KNOWN["Qwen2.5-7B"]
    n = arch.parameters
    held = plan.memory(arch, 32, bf16=True)
    assert held["ddp"] == 18 * n  # 4 + 4 + 8 in float32, 2 of autocast
    assert held["zero2"] == 2 * n + 14 * n / 32
    assert held["zero3"] == held["fsdp2"] == 16 * n / 32 + 4 * 152_064 * 3584
    assert plan.memory(arch, 1, bf16=False)["ddp"] == 16 * n


def test_activations_grow_with_the_micro_batch_and_the_length() -> None:
    arch = plan.Architecture(hidden=10, layers=3, kv=10, intermediate=40, vocab=100)
    cfg = Config(algo=Algo(micro_batch_size=2, max_completion_tokens=80, overlong_buffer=10))
    assert plan.activations(arch, cfg) == 2 * 2 * 80 * (3 * 10 + 4 * 100)  # bfloat16


def test_paper_plan_names_models_data_and_sizes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    plan.show(PRESETS["paper"])
    text = capsys.readouterr().out
    for words in (
        "Qwen/Qwen2.5-7B-Instruct @ ",
        "7,615,616,512",
        "zwhe99/DeepMath-103K @ 5cf055d1fe3d",
        "openai/gsm8k @ 740312add88f",
        "math-ai/aime25",
        "8,192 to 81,920 per step, 4,096 of them",
        "100,663,296 per step",
        "2,013,265,920 at most",
        "not measured here",
        "per process of 32",
        "fsdp2",
        "zero3",
    ):
        assert words in text
    monkeypatch.setenv("WORLD_SIZE", "8")
    plan.show(PRESETS["paper"])
    assert "per process of 8" in capsys.readouterr().out


def test_small_plan_and_an_unknown_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    small = replace(PRESETS["small"], cold_start="fresh")
    plan.show(small)
    text = capsys.readouterr().out
    updates = small.sft.steps + small.algo.steps * small.algo.updates_per_step
    assert f"{updates:,} in all" in text
    assert "generated chains (T1, T2, T3)" in text
    assert "zero3" not in text  # one process splits nothing
    plan.show(replace(PRESETS["paper"], model=Model(name="someone/model-9B"), data=Data(data_dir="copies")))
    text = capsys.readouterr().out
    assert "unknown, and so are memory and disk; known: Qwen2.5-0.5B" in text
    assert "zwhe99/DeepMath-103K from copies" in text


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_an_expected_time_and_a_plan(
    preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.expected_time(PRESETS[preset]) == plan.EXPECTED_TIME[preset]
    plan.show(PRESETS[preset])
    assert plan.EXPECTED_TIME[preset] in capsys.readouterr().out
