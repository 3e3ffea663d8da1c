"""A random Qwen2.5-VL of 60 k parameters and random pictures, for tests that need a policy.

Imports are inside: pytest reads this file before tests/conftest.py has switched the hub off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


class Tiny:
    """The model and what makes its inputs."""

    names = ("red apple", "sloth", "ice cream", "owl", "anchor", "maple leaf", "rocket")

    def __init__(self, folder: Path) -> None:
        import torch

        from cls_rl import prompts
        from cls_rl.model import Bundle, ModelConfig, build_model, load, save
        from cls_rl.processor import build_processor, build_tokenizer
        from cls_rl.rewards import METHODS

        sizes = ModelConfig(
            hidden=48, layers=2, heads=2, kv_heads=1, intermediate=64, vocabulary=400,
            vision_hidden=32, vision_layers=2, vision_heads=2, vision_intermediate=32,
        )  # fmt: skip
        texts = [prompts.user_text(method, self.names) for method in METHODS]
        tokenizer = build_tokenizer(texts * 4, sizes.vocabulary)
        model = build_model(sizes, tokenizer)
        with torch.no_grad():
            for name, weight in model.named_parameters():  # larger: greedy choices differ and are far apart
                if weight.dim() > 1:
                    weight.mul_(4 if "embed" in name else 10)
        processor = build_processor(tokenizer, sizes.patch, sizes.merge, sizes.side)
        self.folder = folder
        save(Bundle(model, processor, sizes.side), folder)
        self.bundle = load(folder)

    def text(self, number: int, method: Any = "no_thinking") -> str:
        """Rendered prompts of different lengths."""
        from cls_rl import encoding, prompts

        user = prompts.user_text(method, self.names[: 2 + number % 5])
        return encoding.render(self.bundle.processor, user)

    @staticmethod
    def picture(seed: int, side: int = 64) -> Any:
        import numpy as np
        from PIL import Image

        values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        return Image.fromarray(values)

    def encoded(self, count: int) -> list[Any]:
        from cls_rl import encoding

        pictures = [self.picture(i) for i in range(count)]
        return encoding.encode(self.bundle.processor, [self.text(i) for i in range(count)], pictures)

    def inputs(self, found: list[Any]) -> dict[str, Any]:
        from cls_rl import encoding

        processor = self.bundle.processor
        return encoding.collate(found, processor.tokenizer.pad_token_id, processor.image_token_id)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny") / "model")
