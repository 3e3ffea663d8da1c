"""The supervised baseline: which tokens carry loss in its two forms, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cls_rl.config import PRESETS, Algo, to_sft_config
from cls_rl.data import Prompts, Query
from cls_rl.model import load
from cls_rl.sft import ClassificationSFT, Examples


def source(tiny: Any, method: Any = "no_thinking") -> Prompts:
    rows = [Query(f"{i}", tiny.names[i], tiny.names[: 5 + i % 3], "What is it?") for i in range(4)]
    return Prompts(rows, lambda image, side: tiny.picture(int(image), side), load(tiny.folder), method)


def scored(tiny: Any, batch: dict[str, torch.Tensor], row: int) -> str:
    """The text that has loss in one row."""
    return tiny.bundle.tokenizer.decode(batch["labels"][row][batch["labels"][row] != -100])


@pytest.mark.parametrize(
    ("method", "answers"),
    [
        ("no_thinking", ["red apple", "sloth", "ice cream"]),
        ("thinking", [f"<answer> {name} </answer>" for name in ("red apple", "sloth", "ice cream")]),
    ],
)
def test_completion_labels_are_the_answer_and_its_end_token(
    tiny: Any, method: Any, answers: list[str]
) -> None:
    examples = Examples(source(tiny, method), Algo(objective="sft_completion", method=method))
    batch = examples.collate([{"row": i} for i in range(3)])
    for row, answer in enumerate(answers):
        assert scored(tiny, batch, row) == f"{answer}<|im_end|>"
        assert (batch["labels"][row] == batch["input_ids"][row])[batch["labels"][row] != -100].all()
    # The prompt before it is RL's own.
    prompt = tiny.bundle.tokenizer.decode(examples.source.encode([0])[0].ids)
    whole = tiny.bundle.tokenizer.decode(batch["input_ids"][0][batch["attention_mask"][0].bool()])
    assert whole == f"{prompt}{answers[0]}<|im_end|>"


def test_full_text_labels_cover_everything_but_image_and_padding(tiny: Any) -> None:
    examples = Examples(source(tiny), Algo(objective="sft_full_text"))
    batch = examples.collate([{"row": i} for i in range(3)])
    image, pad = tiny.bundle.processor.image_token_id, tiny.bundle.tokenizer.pad_token_id
    assert (batch["attention_mask"].sum(1) < batch["input_ids"].shape[1]).any()  # there is padding
    ignored = batch["labels"] == -100
    assert torch.equal(ignored, (batch["input_ids"] == image) | (batch["input_ids"] == pad))
    text = scored(tiny, batch, 1)
    assert text == (
        "<|im_start|>system\nPlease output the thinking process in <think> </think> and final answer in"
        " <answer> </answer> tags.<|im_end|>\n<|im_start|>user\nWhat is it?\n Please choose one from list"
        f" [ {', '.join(tiny.names[:6])}].<|vision_start|><|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\n<answer> sloth </answer><|im_end|>\n<|im_start|>assistant\n"
    )
    assert (batch["input_ids"] == image).sum(1).tolist() == [4, 4, 4]


@pytest.mark.parametrize("objective", ["sft_completion", "sft_full_text"])
def test_training_lowers_the_loss_on_whole_weights(tiny: Any, tmp_path: Path, objective: Any) -> None:
    smoke = PRESETS["smoke"]
    algo = replace(smoke.algo, objective=objective, steps=6, lr=3e-3, prompts_per_step=4, micro_prompts=4)
    cfg = replace(smoke, algo=algo)
    data = source(tiny)
    before = {n: w.clone() for n, w in data.bundle.model.named_parameters()}
    trainer = ClassificationSFT(data, algo, to_sft_config(cfg, tmp_path, 6))
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    moved = {n for n, w in trainer.model.named_parameters() if not torch.equal(w, before[n])}
    assert any("visual" in n for n in moved)
    assert any("language_model" in n for n in moved)


def test_rl_is_refused(tiny: Any, tmp_path: Path) -> None:
    cfg = PRESETS["smoke"]
    with pytest.raises(ValueError, match="no supervised baseline"):
        ClassificationSFT(source(tiny), cfg.algo, to_sft_config(cfg, tmp_path, 1))
