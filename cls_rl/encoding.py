"""Prompts as token ids and pixels: one image each, its placeholder repeated once per image token.

The same function serves rollouts, training and evaluation, so that all see the same prompt and the same pixel
limits. P prompts, L tokens of the longest; padding is on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cls_rl import prompts
from cls_rl.processor import IMAGE


@dataclass(frozen=True)
class Encoded:
    """One prompt: `ids` with a placeholder per image token, `pixels` (patches, values), `grid` t, h, w."""

    ids: list[int]
    pixels: Tensor
    grid: tuple[int, int, int]


def render(processor: Any, text: str) -> str:
    """The chat up to the assistant's header: the template's system turn, image, text (authors' RL prompt)."""
    return processor.apply_chat_template(prompts.messages(text), add_generation_prompt=True, tokenize=False)


def encode(
    processor: Any, texts: Sequence[str], pictures: Sequence[Image.Image], max_tokens: int | None = None
) -> list[Encoded]:
    """Rendered chats (see `render`) with one image placeholder each, and their pictures.

    ValueError, one sentence: no or two placeholders, or more than `max_tokens` tokens (the authors' code cuts
    such a prompt, and its tail then counts as completion).
    """
    for text in texts:
        if (count := text.count(IMAGE)) != 1:
            raise ValueError(
                f"a prompt holds {IMAGE} {count} times, not once; remove it from the names: {text[-200:]!r}"
            )
    images = processor.image_processor(images=list(pictures), return_tensors="pt")
    grids: list[tuple[int, int, int]] = [tuple(grid) for grid in images["image_grid_thw"].tolist()]
    merge = processor.image_processor.merge_size**2
    counts = [t * h * w for t, h, w in grids]
    filled = [text.replace(IMAGE, IMAGE * (n // merge)) for text, n in zip(texts, counts, strict=True)]
    rows = processor.tokenizer(filled, add_special_tokens=False)["input_ids"]
    if max_tokens is not None and (longest := max(map(len, rows))) > max_tokens:
        raise ValueError(
            f"a prompt has {longest} tokens, more than the limit {max_tokens}; raise it or shorten the list"
        )
    return [
        Encoded(ids, pixels, grid)
        for ids, pixels, grid in zip(rows, images["pixel_values"].split(counts), grids, strict=True)
    ]


def collate(prompts: Sequence[Encoded], pad_id: int, image_id: int, device: Any = "cpu") -> dict[str, Tensor]:
    """Model inputs: input_ids, attention_mask, mm_token_type_ids (P, L), pixel_values, image_grid_thw."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[pad_id] * (width - len(p.ids)) + p.ids for p in prompts], device=device)
    padding = torch.tensor([[width - len(p.ids)] for p in prompts], device=device)
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(width, device=device) >= padding).long(),
        "mm_token_type_ids": (ids == image_id).int(),
        "pixel_values": torch.cat([prompt.pixels for prompt in prompts]).to(device),
        "image_grid_thw": torch.tensor([prompt.grid for prompt in prompts], device=device),
    }


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a completion: the tokenizer's and the model's."""
    own = model.generation_config.eos_token_id
    found = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return sorted({index for index in found if index is not None})
