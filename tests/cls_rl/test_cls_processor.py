"""Tokenizer, template and the image-only processor, against Qwen's own pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cls_rl.processor import (
    SPECIALS,
    ImageTextProcessor,
    build_processor,
    build_tokenizer,
    load_processor,
    save_processor,
    vision_token_ids,
)
from cls_rl.prompts import messages, user_text

NAMES = ["red apple", "rose", "Côte d’Ivoire", "2nd place medal", "Cocos (Keeling) Islands", "pool 8 ball"]
TEXTS = [user_text("thinking", NAMES), '<think>I see "rose".</think> <answer>rose</answer>', *NAMES] * 4


@pytest.fixture(scope="module")
def processor() -> ImageTextProcessor:
    return build_processor(build_tokenizer(TEXTS, 700), patch_size=16, merge_size=2, side=64)


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_the_template_is_qwens(processor: ImageTextProcessor) -> None:
    text = processor.apply_chat_template(messages("Which?"), tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Which?<|im_end|>\n<|im_start|>assistant\n"
    )
    talk: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
    ]
    assert processor.apply_chat_template(talk, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHo<|im_end|>\n"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_the_same_tokens_wherever_it_stands(processor: ImageTextProcessor, name: str) -> None:
    def ids(text: str) -> list[int]:
        return processor.tokenizer(text)["input_ids"]

    alone = ids(name)
    for before, after in (
        ("[ ", "]."),
        ("[ rose, ", ", rose]."),
        ("<answer>", "</answer>"),
        ("<answer> ", " </answer>"),
        ('I see "', '".'),
        ("it is: ", ""),
    ):
        assert ids(before + name + after) == ids(before) + alone + ids(after)


@pytest.mark.parametrize(
    "text", [*TEXTS[:2], "naïve Ωmega 漢字 🍎\t2024\n  x<y>z ( a )", "", " ", "<reason>", "a,b;c:d"]
)
def test_encoding_keeps_every_character(processor: ImageTextProcessor, text: str) -> None:
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_tags_are_ordinary_tokens_and_specials_are_not(processor: ImageTextProcessor) -> None:
    text = "<think>a</think><answer>b</answer><reason>c</reason>"
    ids = processor.tokenizer(text + "<|im_end|>")["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert processor.tokenizer(TEXTS[1])["input_ids"][0] == processor.tokenizer("<think>")["input_ids"][0]
    assert len(processor.tokenizer("<think>")["input_ids"]) == 1
    assert vision_token_ids(processor.tokenizer) == [3, 4, 5, 6, 7]
    assert processor.tokenizer.convert_ids_to_tokens(range(8)) == list(SPECIALS)


def test_pictures_become_qwens_patches_and_tokens(processor: ImageTextProcessor) -> None:
    text = processor.apply_chat_template(messages("Which?"), tokenize=False, add_generation_prompt=True)
    image = picture(0)
    made = processor(text=[text, text], images=[image, picture(1)], return_tensors="pt")
    assert made["pixel_values"].shape == (2 * 16, 3 * 2 * 16 * 16)
    assert made["image_grid_thw"].tolist() == [[1, 4, 4]] * 2
    assert (made["input_ids"] == processor.image_token_id).sum(1).tolist() == [4, 4]
    assert (made["mm_token_type_ids"] == 1).sum(1).tolist() == [4, 4]
    # The first patch is the picture's upper left corner, twice in time; the second is right of it.
    mean, std = (np.array(getattr(processor.image_processor, f"image_{n}")) for n in ("mean", "std"))
    scaled = (np.asarray(image) / 255 - mean) / std
    patches = made["pixel_values"].numpy().reshape(-1, 3, 2, 16, 16)
    for patch, (row, column) in ((0, (0, 0)), (1, (0, 16)), (2, (16, 0)), (4, (0, 32))):
        corner = scaled[row : row + 16, column : column + 16].transpose(2, 0, 1)
        np.testing.assert_allclose(patches[patch, :, 0], corner, atol=1e-5)
        np.testing.assert_allclose(patches[patch, :, 1], corner, atol=1e-5)


def test_wide_pictures_keep_their_ratio(processor: ImageTextProcessor) -> None:
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    made = processor(text=[text], images=[picture(0, 128, 32)], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 2, 8]]
    assert (made["input_ids"] == processor.image_token_id).sum().item() == 4


def test_saved_and_loaded_it_is_the_same(processor: ImageTextProcessor, tmp_path: Path) -> None:
    save_processor(processor, tmp_path)
    again = load_processor(tmp_path)
    text = processor.apply_chat_template(messages("Which?"), tokenize=False, add_generation_prompt=True)
    assert again.apply_chat_template(messages("Which?"), tokenize=False, add_generation_prompt=True) == text
    first, second = (p(text=[text], images=[picture(2)], return_tensors="pt") for p in (processor, again))
    assert all((first[key] == second[key]).all() for key in first)
    assert again.tokenizer.padding_side == "left"


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="size=100"):
        build_tokenizer(TEXTS, 100)
    with pytest.raises(ValueError, match=r"side=60 .*use 64"):
        build_processor(build_tokenizer(TEXTS, 400), 16, 2, 60)
