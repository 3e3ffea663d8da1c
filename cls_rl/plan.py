"""What `python train.py --preset paper-... --dry-run` prints: the plan; nothing is downloaded or loaded.

Sizes are counted on the model built without weights (torch's meta device). Memory is an estimate from them:
which strategy can fit, not what a profiler would show.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cls_rl import data_sets, hub_sets
from cls_rl.config import SHIPPED, Config, lora_config, updates
from cls_rl.images import image_tokens, smart_size
from cls_rl.model import ModelConfig

EXPECTED_TIME = {"smoke": "under a minute", "small": "minutes on two cores"}
PAPER_GPUS = 8  # [CODE]
PATCH_FACTOR = 28  # of every paper-scale model: patch 14 x merge 2


@dataclass(frozen=True)
class Sizes:
    """Of the hub's config.json; the vision towers are those of the model class's defaults."""

    kind: str  # qwen2_vl or qwen2_5_vl
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool


KNOWN = {
    "Qwen2-VL-2B": Sizes("qwen2_vl", 1536, 28, 12, 2, 8960, 151_936, True),
    "Qwen2-VL-7B": Sizes("qwen2_vl", 3584, 28, 28, 4, 18_944, 152_064, False),
    "Qwen2.5-VL-3B": Sizes("qwen2_5_vl", 2048, 36, 16, 2, 11_008, 151_936, True),
    "Qwen2.5-VL-7B": Sizes("qwen2_5_vl", 3584, 28, 28, 4, 18_944, 152_064, False),
}


def sizes(name: str) -> Sizes | None:
    """Of a hub id, or None for a model that is not in the table."""
    return KNOWN.get(Path(name).name.removesuffix("-Instruct"))


def empty_model(size: Sizes) -> Any:
    """The real class, built from its config on the meta device: shapes without weights."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    head = size.hidden // size.heads
    text = {
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "intermediate_size": size.intermediate,
        "vocab_size": size.vocabulary,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [head // 8, 3 * head // 16, 3 * head // 16],
        },
        "tie_word_embeddings": size.tied,
    }
    if size.kind == "qwen2_vl":
        vision = {"hidden_size": size.hidden}
    else:
        vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": size.hidden}
    config = AutoConfig.for_model(
        size.kind, text_config=text, vision_config=vision, tie_word_embeddings=size.tied
    )
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def parameters(model: Any) -> dict[str, int]:
    """Parameters in all and of the vision tower; tied weights count once."""
    return {
        "all": sum(p.numel() for p in model.parameters()),
        "vision": sum(p.numel() for p in model.model.visual.parameters()),
    }


def memory(count: int, trained: int, block: int, world_size: int) -> dict[str, float]:
    """Bytes per process of weights, gradients, AdamW and the frozen reference; activations excluded.

    float32 weights under bf16 autocast (DDP, FSDP2); DeepSpeed keeps bf16 weights and float32 copies. With
    LoRA the reference is the policy without its adapter. `block` is the largest layer, whole while in use.
    """
    reference = 0 if trained < count else count
    state, share = 12 * trained, 1 / world_size
    return {
        "ddp": 4 * (count + reference) + state,
        "fsdp2": (4 * (count + reference) + state) * share + 2 * 4 * block,
        "zero2": 2 * (count + reference) + 2 * trained + (12 + 2) * trained * share,
        "zero3": (2 * (count + reference) + 2 * trained + 12 * trained) * share + 2 * 2 * block,
    }


def train_images(cfg: Config) -> int | None:
    """Training images of a hub set, None where only loading tells."""
    if cfg.data.source != "hub":
        return None
    classes = hub_sets.SETS[cfg.data.set].classes
    return cfg.data.shots * (math.ceil(classes / 2) if cfg.data.setting == "base_to_new" else classes)


def expected_time(cfg: Config) -> str:
    """How long the preset takes, in words; overridden fields are not taken into account."""
    return EXPECTED_TIME.get(cfg.preset, "not measured here: the authors used 8 A100")


def show(cfg: Config) -> None:
    """Print the plan: data, model, prompts, updates, tokens and memory."""
    algo, data = cfg.algo, cfg.data
    out = {"plan": f"preset {cfg.preset}, seed {cfg.run.seed}; nothing is downloaded or written"}
    out["expected time"] = expected_time(cfg)
    out["data"] = f"{data.set} ({data.source}), {data.setting}, {data.shots} shots"
    if data.source == "hub":
        known = hub_sets.SETS[data.set]
        out["data"] += f"\ntraining: {hub_sets.hub_id(data.set, data.setting)}, {train_images(cfg)} images"
        out["data"] += f"\ntest: {known.test_images:,} images of {data.data_dir or 'data.data_dir, not set'}"
    elif data.source == "drawings":
        out["data"] += f"\n{len(data_sets.ALL)} sets: python -m cls_rl.data_sets list"
    words = f"{algo.objective}, {algo.method}" if algo.objective == "rl" else algo.objective
    out["method"] = words + (f", G {algo.group_size}, beta {algo.beta:g}" if algo.objective == "rl" else "")
    steps = updates(cfg, train_images(cfg) or 0)
    out["updates"] = f"{steps:,} x {algo.prompts_per_step} prompts, lr {algo.lr:g}, {algo.lr_schedule}"
    if algo.objective == "rl":
        rows = algo.prompts_per_step * algo.group_size
        most = rows * algo.max_completion_tokens
        out["one update"] = (
            f"{rows} completions of at most {algo.max_completion_tokens} tokens, {most:,} at most"
        )
    out["model"] = cfg.model.name if cfg.model.name == SHIPPED else f"{cfg.model.name} @ {cfg.model.revision}"
    if cfg.model.name == SHIPPED:
        small = ModelConfig()
        factor = small.patch * small.merge
        out["picture"] = (
            f"{small.side} x {small.side} pixels, {image_tokens(small.side, small.side, factor)} tokens"
        )
    elif (size := sizes(cfg.model.name)) is None:
        out["size"] = f"unknown, and so is memory; known: {', '.join(KNOWN)}"
    else:
        side = cfg.model.side or 384
        width, height = smart_size(side, side, PATCH_FACTOR, cfg.model.min_pixels, cfg.model.max_pixels)
        out["picture"] = f"{side} -> {width} x {height} pixels, {image_tokens(width, height)} tokens"
        out |= _model_plan(cfg, size)
    for name, value in out.items():
        print(f"{name:<14} {value}".replace("\n", f"\n{'':<15}"))


def _model_plan(cfg: Config, size: Sizes) -> dict[str, str]:
    model = empty_model(size)
    count = parameters(model)
    trained = count["all"]
    words = f"{count['all']:,} parameters, {count['vision']:,} of them vision, {cfg.model.precision}"
    if (lora := lora_config(cfg)) is not None:
        from peft import get_peft_model

        wrapped = get_peft_model(model, lora)
        trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        words += f"\nLoRA rank {cfg.model.lora_rank}: {trained:,} trained"
    world_size = int(os.environ.get("WORLD_SIZE", str(PAPER_GPUS)))
    block = max(size.vocabulary * size.hidden, 3 * size.hidden * size.intermediate)
    held = memory(count["all"], trained, block, world_size)
    lines = [f"per process of {world_size} (WORLD_SIZE), policy and reference, estimated"]
    lines += [f"{name:<6} {value / 2**30:>6.1f} GiB + activations" for name, value in held.items()]
    return {"size": words, "memory": "\n".join(lines)}
