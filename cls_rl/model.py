"""The policy: a real Qwen2.5-VL, either a small one of ours or any Qwen2-VL / Qwen2.5-VL of the hub.

`python -m cls_rl.pretrain` makes the small one; the committed result is in `SHIPPED` and used by default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cls_rl import images
from cls_rl.processor import (
    CHAT_TEMPLATE,
    EOS,
    IMAGE,
    PAD,
    ImageTextProcessor,
    load_processor,
    save_processor,
    vision_token_ids,
)
from shared import checkpoint

SHIPPED = Path(__file__).parent / "checkpoint"
SMALL = "small_model.json"  # in the folder of a model of ours: the side of its pictures


_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the small model; the defaults have 2.8 M parameters and 4 tokens per picture."""

    hidden: int = 160
    layers: int = 4
    heads: int = 5
    kv_heads: int = 5
    intermediate: int = 448
    vision_hidden: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    vision_intermediate: int = 384
    side: int = 64  # pixels
    patch: int = 16
    merge: int = 2
    vocabulary: int = 2048

    def __post_init__(self) -> None:
        for width, heads, name in (
            (self.hidden, self.heads, "hidden"),
            (self.vision_hidden, self.vision_heads, "vision_hidden"),
        ):
            if width % (4 * heads):  # rotary pairs, two axes
                raise ValueError(f"{name}={width} does not split into {heads} heads of a multiple of 4")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads={self.kv_heads} does not divide heads={self.heads}; use 1 or {self.heads}"
            )


@dataclass(frozen=True)
class Bundle:
    """A policy and what turns pictures and text into its inputs."""

    model: Any  # Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration
    processor: Any  # ImageTextProcessor, or the hub model's own
    side: int  # pictures are scaled to side x side pixels before the processor, in training and evaluation

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def vision_ids(self) -> list[int]:
        """Token ids to suppress while sampling."""
        return vision_token_ids(self.tokenizer)


def build_model(cfg: ModelConfig, tokenizer: Any, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A random float32 Qwen2.5-VL, fixed by `seed`; embeddings tied."""
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _TOKENS.items()}
    head = cfg.hidden // cfg.heads
    time = head // 2 - 2 * (head // 6)  # frequencies of the three position axes: time, height, width
    text = {
        "hidden_size": cfg.hidden,
        "intermediate_size": cfg.intermediate,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "max_position_embeddings": 4096,
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [time, head // 6, head // 6],
        },
        "bos_token_id": None,
        "eos_token_id": ids["eos_token_id"],
        "pad_token_id": ids["pad_token_id"],
    }
    vision = {
        "depth": cfg.vision_layers,
        "hidden_size": cfg.vision_hidden,
        "intermediate_size": cfg.vision_intermediate,
        "num_heads": cfg.vision_heads,
        "patch_size": cfg.patch,
        "spatial_merge_size": cfg.merge,
        "temporal_patch_size": 2,
        "window_size": cfg.side,
        "fullatt_block_indexes": list(range(cfg.vision_layers)),
        "out_hidden_size": cfg.hidden,
    }
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, dtype=torch.float32, **ids
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["eos_token_id"], pad_token_id=ids["pad_token_id"], do_sample=False
    )
    return model


def load(
    name: str | Path = SHIPPED,
    side: int | None = None,
    min_pixels: int = images.MIN_PIXELS,
    max_pixels: int = images.MAX_PIXELS,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Bundle:
    """Policy and processor, on the CPU, in evaluation mode.

    Args:
        name: a folder that `save` wrote, or a hub id or folder of a Qwen2-VL or Qwen2.5-VL.
        side: picture size in pixels; None is what a small model was made for, and 384 (authors' code) else.
        min_pixels, max_pixels: limits of a hub model's processor; a small model keeps its own.

    FileNotFoundError names the fix for a missing model, ValueError a damaged folder or another kind of model.
    """
    folder = Path(name).expanduser()
    if (folder / SMALL).is_file():
        if (folder / checkpoint.MARKER).is_file() and (reason := checkpoint.problem(folder)):
            raise ValueError(f"{folder}: {reason}; copy the checkpoint again")
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        made_for = int(json.loads((folder / SMALL).read_text())["side"])
        if side not in (None, made_for):
            raise ValueError(f"side={side}, but {folder} takes {made_for}-pixel pictures; leave side out")
        return Bundle(model.eval(), load_processor(folder), made_for)
    if folder == SHIPPED or (folder.is_dir() and not (folder / "config.json").is_file()):
        raise FileNotFoundError(
            f"{folder} holds no model; run make pretrain, then --model.name runs/pretrain/model"
        )
    source = str(folder) if folder.is_dir() else str(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, padding_side="left")
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(
            source,
            revision=revision or "main",
            size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
        )
        model = AutoModelForImageTextToText.from_pretrained(source, revision=revision, dtype=dtype)
    except OSError as error:
        if folder.is_dir():  # transformers names the file that is missing there
            raise
        download = f"hf download {name} --revision {revision or 'main'}"
        fix = f"run `{download}` on a machine with network, or give a local folder"
        raise FileNotFoundError(f"model {name} is neither a folder nor in the hub cache; {fix}") from error
    if model.config.model_type not in ("qwen2_vl", "qwen2_5_vl"):
        raise ValueError(f"{name} is a {model.config.model_type}; give a Qwen2-VL or Qwen2.5-VL")
    template = tokenizer.chat_template or CHAT_TEMPLATE
    return Bundle(model.eval(), ImageTextProcessor(image_processor, tokenizer, template), side or 384)


def save(bundle: Bundle, folder: str | Path) -> None:
    """Weights and processor, marked complete, in a form that `load` reads.

    Only a small model's folder gets `SMALL`; a hub model keeps the layout of `save_pretrained`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    bundle.model.save_pretrained(folder)
    save_processor(bundle.processor, folder)
    size = bundle.processor.image_processor.size
    if size["shortest_edge"] == size["longest_edge"]:
        checkpoint.write_json_atomic(folder / SMALL, {"side": bundle.side})
    checkpoint.mark_complete(folder)
