"""The small Qwen2.5-VL: sizes, determinism, saving, and what `load` refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from cls_rl import model as models
from cls_rl.model import Bundle, ModelConfig, build_model, load, save
from cls_rl.processor import build_processor, build_tokenizer, save_processor
from cls_rl.prompts import messages, user_text

TINY = ModelConfig(
    hidden=32, layers=2, heads=2, kv_heads=1, intermediate=48, vision_hidden=32, vision_layers=2,
    vision_heads=2, vision_intermediate=48, vocabulary=420,
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    tokenizer = build_tokenizer([user_text("thinking", ["rose", "tulip"])], TINY.vocabulary)
    processor = build_processor(tokenizer, TINY.patch, TINY.merge, TINY.side)
    return Bundle(build_model(TINY, tokenizer).eval(), processor, TINY.side)


def logits(bundle: Bundle, colour: str = "red") -> torch.Tensor:
    text = bundle.processor.apply_chat_template(
        messages("Which?"), tokenize=False, add_generation_prompt=True
    )
    inputs = bundle.processor(text=[text], images=[Image.new("RGB", (64, 64), colour)], return_tensors="pt")
    with torch.no_grad():
        return bundle.model(**inputs).logits


def test_the_default_is_small_and_real() -> None:
    tokenizer = build_tokenizer(["rose"], 400)
    model = build_model(ModelConfig(), tokenizer)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    weights = sum(p.numel() for p in model.parameters())
    assert (
        2_000_000 < weights + (ModelConfig().vocabulary - len(tokenizer)) * ModelConfig().hidden < 4_000_000
    )
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_the_seed_fixes_the_weights_and_leaves_the_global_generator(bundle: Bundle) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (build_model(TINY, bundle.tokenizer, seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    same = bundle.model.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_the_picture_reaches_the_answer(bundle: Bundle) -> None:
    assert not torch.allclose(logits(bundle, "red"), logits(bundle, "blue"), atol=1e-5)


def test_generation_stops_at_qwens_end_token(bundle: Bundle) -> None:
    assert bundle.model.generation_config.eos_token_id == bundle.tokenizer.eos_token_id == 2
    assert bundle.model.generation_config.pad_token_id == bundle.tokenizer.pad_token_id == 0
    assert bundle.model.config.image_token_id in bundle.vision_ids


def test_saved_and_loaded_it_gives_the_same_logits(bundle: Bundle, tmp_path: Path) -> None:
    save(bundle, tmp_path)
    again = load(tmp_path)
    assert again.side == 64
    assert torch.equal(logits(bundle), logits(again))


def test_a_damaged_or_missing_folder_is_one_sentence(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(bundle, tmp_path / "a")
    with pytest.raises(ValueError, match=r"side=32.*64-pixel"):
        load(tmp_path / "a", side=32)
    with open(tmp_path / "a" / "model.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors has .* bytes"):
        load(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no model"):
        load(tmp_path / "empty")

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        load("nobody/nothing")


def test_a_hub_layout_loads_with_pixel_limits(bundle: Bundle, tmp_path: Path) -> None:
    """A Qwen2-VL saved by transformers, as the hub has them; the processor needs no torchvision."""
    config = Qwen2VLConfig(
        text_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": len(bundle.tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14},
        image_token_id=bundle.tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )  # fmt: skip
    Qwen2VLForConditionalGeneration(config).save_pretrained(tmp_path)
    save_processor(build_processor(bundle.tokenizer, 14, 2, 56), tmp_path)
    loaded = load(tmp_path, min_pixels=56 * 56, max_pixels=120 * 120)
    assert loaded.side == 384
    assert type(loaded.model).__name__ == "Qwen2VLForConditionalGeneration"
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    made = loaded.processor(text=[text], images=[Image.new("RGB", (384, 384))], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 8, 8]]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden=30"):
        replace(TINY, hidden=30)
    with pytest.raises(ValueError, match="kv_heads=3"):
        replace(TINY, heads=4, kv_heads=3)
