"""GRPO: advantages and loss by hand and against TRL, the reference, and what a step asks of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOTrainer

from cls_rl.config import PRESETS, Algo, Config, lora_config, to_grpo_config
from cls_rl.data import Prompts, Query
from cls_rl.model import load
from cls_rl.trainer import ClassificationGRPO, group_advantages, prompt_at, reward_functions
from shared.decoding import unwrap

HAND = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])  # 2 prompts x 4 samples


def queries(tiny: Any, count: int) -> list[Query]:
    return [Query(f"{i}", tiny.names[i % 5], tiny.names[: 5 + i % 3], "What is it?") for i in range(count)]


def config_of(**algo: Any) -> Config:
    smoke = PRESETS["smoke"]
    return replace(smoke, algo=replace(smoke.algo, max_completion_tokens=6, **algo))


def trainer_of(tiny: Any, folder: Path, cfg: Config, count: int = 6, **kwargs: Any) -> ClassificationGRPO:
    prompts = Prompts(
        queries(tiny, count),
        lambda image, side: tiny.picture(int(image), side),
        load(tiny.folder),
        cfg.algo.method,
    )
    args = to_grpo_config(cfg, folder, cfg.algo.steps or 1)
    return ClassificationGRPO(prompts, cfg.algo, args, **kwargs)


def test_advantages_of_the_2x4_example() -> None:
    # mean 0.5, unbiased variance 4 x 0.25 / 3 = 1/3; a constant group gives 0.
    one = 0.5 / ((1 / 3) ** 0.5 + 1e-4)
    expected = torch.tensor([[one, -one, -one, one], [0.0] * 4])
    torch.testing.assert_close(group_advantages(HAND), expected)


def test_loss_of_the_2x4_example(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-A + beta KL per token, mean over each completion's tokens, then over completions."""
    trainer = trainer_of(tiny, tmp_path, config_of(prompts_per_step=2, micro_prompts=2))
    mask = torch.tensor([[1, 1, 0]] * 4 + [[1, 1, 1]] * 4)
    lp = torch.full((8, 3), -1.0, requires_grad=True)
    ref = torch.full((8, 3), -1.5)
    advantages = group_advantages(HAND).view(-1)
    batch = {
        "prompt_ids": torch.ones(8, 2, dtype=torch.long),
        "prompt_mask": torch.ones(8, 2, dtype=torch.long),
        "completion_ids": torch.ones(8, 3, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "ref_per_token_logps": ref,
        "pixel_values": torch.zeros(1),
        "image_grid_thw": torch.zeros(2, 3),
    }
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *a, **k: (lp, torch.zeros(8, 3), None)
    )
    loss = trainer._compute_loss(trainer.model, batch)
    kl = torch.exp(torch.tensor(-0.5)) - (-0.5) - 1  # k3 of ref - lp = -0.5
    assert loss.item() == pytest.approx((-advantages.mean() + 0.04 * kl).item(), abs=1e-6)
    loss.backward()
    slope = 0.04 * (1 - torch.exp(torch.tensor(-0.5)))  # d KL / d lp = 1 - exp(ref - lp)
    for row in range(8):
        length = int(mask[row].sum())
        expected = (-advantages[row] + slope) / length / 8 * mask[row]
        torch.testing.assert_close(lp.grad[row], expected)


def test_one_update_equals_stock_trl_with_loss_grpo(tiny: Any, tmp_path: Path) -> None:
    """The same completions through TRL's own trainer: loss, KL and the gradients of all weights."""
    cfg = config_of(prompts_per_step=3, micro_prompts=3)
    ours = trainer_of(tiny, tmp_path / "ours", cfg)
    with torch.no_grad():  # away from the reference, so that the KL counts
        for weight in ours.model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    ours.current_gradient_accumulation_steps = 1
    ours.model.train()
    prompts = ours.prompts.encode([0, 1, 2])
    drawn = ours._sample(prompts, [0, 1, 2])
    groups = [drawn[i : i + 4] for i in range(0, 12, 4)]
    (batch,) = ours._micro_batches(prompts, groups, group_advantages(torch.rand(3, 4)))
    loss = ours._compute_loss(ours.model, batch)
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in ours.model.named_parameters()}
    kl = ours._metrics["train"]["kl"][-1]

    rows = Dataset.from_dict({"prompt": [""] * 6})
    args = to_grpo_config(cfg, tmp_path / "stock", 1)
    stock = GRPOTrainer(
        model=ours.prompts.bundle.model, reward_funcs=lambda completions, **k: [0.0] * len(completions),
        args=args, train_dataset=rows, processing_class=ours.prompts.bundle.processor,
    )  # fmt: skip
    stock.current_gradient_accumulation_steps = 1
    size = len(drawn)
    repeated = [p for p in prompts for _ in range(4)]
    inputs = tiny.inputs(repeated)
    plain = {
        "pixel_values": inputs["pixel_values"],
        "image_grid_thw": inputs["image_grid_thw"],
        "num_images": [1] * size,
        "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], batch["completion_ids"].int() * 0], 1),
    }
    whole = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        keep = batch["completion_ids"].shape[1]
        ref, _, _ = stock._get_per_token_logps_and_entropies(stock.ref_model, whole, mask, keep, **plain)
    assert (batch["ref_per_token_logps"] - ref).abs().mul(batch["completion_mask"]).max() < 2e-3
    stock.model.train()
    stock.model.zero_grad()
    other = stock._compute_loss(stock.model, {**batch, **plain, "ref_per_token_logps": ref})
    other.backward()
    assert kl > 1e-4
    assert loss.item() == pytest.approx(other.item(), abs=1e-4)
    assert kl == pytest.approx(stock._metrics["train"]["kl"][-1], rel=1e-2)
    for name, weight in stock.model.named_parameters():
        scale = weight.grad.abs().max().clamp(min=1e-3)
        assert (weight.grad - gradients[name]).abs().max() / scale < 5e-3, name


def test_training_moves_the_policy_and_never_the_reference(tiny: Any, tmp_path: Path) -> None:
    cfg = config_of(prompts_per_step=2, micro_prompts=1, steps=2, lr=1e-2)
    trainer = trainer_of(tiny, tmp_path, cfg)
    for function in range(len(trainer.reward_funcs)):
        trainer.reward_funcs[function] = lambda completions, **k: [float(len(c) % 2) for c in completions]
    reference = {n: w.clone() for n, w in unwrap(trainer.ref_model).named_parameters()}
    before = {n: w.clone() for n, w in trainer.model.named_parameters()}
    for name, weight in before.items():
        assert torch.equal(weight, reference[name])  # both are the starting checkpoint
    trainer.train()
    for name, weight in unwrap(trainer.ref_model).named_parameters():
        assert torch.equal(weight, reference[name]), name
    moved = [n for n, w in trainer.model.named_parameters() if not torch.equal(w, before[n])]
    assert any("visual" in n for n in moved)  # full fine-tuning: vision, merger and language model
    assert any("merger" in n for n in moved)
    assert any("language_model" in n for n in moved)


def test_a_step_computes_features_once_per_image_in_sampling_and_in_each_log_prob_pass(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(
        tiny, tmp_path, config_of(prompts_per_step=4, micro_prompts=4, group_size=8, steps=1)
    )
    seen: list[tuple[str, int]] = []
    for who, model in (("policy", trainer.model), ("reference", unwrap(trainer.ref_model))):
        visual = model.model.visual

        def counting(pixels: Any, grid_thw: Any, who: str = who, run: Any = visual.forward, **k: Any) -> Any:
            seen.append((who, len(grid_thw)))
            return run(pixels, grid_thw, **k)

        monkeypatch.setattr(visual, "forward", counting)
    trainer.train()
    assert sorted(seen) == [("policy", 4), ("policy", 4), ("reference", 4)]  # not 32


def test_lora_trains_adapters_and_its_reference_is_the_base(tiny: Any, tmp_path: Path) -> None:
    cfg = config_of(prompts_per_step=2, micro_prompts=2, steps=1, lr=1e-2)
    cfg = replace(cfg, model=replace(cfg.model, lora_rank=2))
    trainer = trainer_of(tiny, tmp_path, cfg, peft_config=lora_config(cfg))
    trainer.reward_funcs[0] = lambda completions, **k: [float(i % 2) for i in range(len(completions))]
    trained = [n for n, w in trainer.model.named_parameters() if w.requires_grad]
    assert trained
    assert all("lora" in n and "language_model" in n for n in trained)
    trainer.train()
    batch = trainer._batch(trainer.prompts.encode([0, 1]), [[9, 10]] * 8)
    found = trainer._reference_logprobs(batch)
    base = trainer_of(tiny, tmp_path / "base", config_of(prompts_per_step=2, micro_prompts=2))
    torch.testing.assert_close(found, base._reference_logprobs(batch))


def test_the_order_of_prompts_is_a_permutation_per_epoch() -> None:
    first, second = ([prompt_at(epoch * 7 + i, 7, seed=3) for i in range(7)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert first != [prompt_at(i, 7, seed=4) for i in range(7)]


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("thinking", ["format", "accuracy"]),
        ("no_thinking", ["equality"]),
        ("answer_first", ["format", "accuracy"]),
        ("adaptive", ["format", "accuracy"]),
    ],
)
def test_rewards_are_the_methods(method: Any, names: list[str]) -> None:
    functions = reward_functions(method, "string")
    assert [f.__name__ for f in functions] == names
    texts = ["<think>a</think><answer>owl</answer>", "owl", "<answer>owl</answer><reason>b</reason>"]
    scores = [f(completions=texts, label=["owl"] * 3) for f in functions]
    by_method = {
        "thinking": [[1, 0, 0], [1, 1, 1]],
        "no_thinking": [[0, 1, 0]],
        "answer_first": [[0, 0, 1], [1, 1, 1]],
        "adaptive": [[1, 0, 0], [1, 1, 1]],
    }
    assert scores == by_method[method]


def test_the_authors_accuracy_rule_is_a_flag() -> None:
    gold = "2012 BMW M3 Coupe"
    wrong = "<think>a car of 2012</think> <answer>2012 Audi A5 Coupe</answer>"
    scores = [reward_functions("thinking", rule)[1]([wrong], [gold]) for rule in ("string", "authors")]
    assert scores == [[0.0], [1.0]]


def test_a_prompt_above_the_limit_is_refused(tiny: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, config_of(prompts_per_step=2, micro_prompts=2))
    trainer.prompts.max_tokens = 30
    with pytest.raises(ValueError, match="more than the limit 30"):
        trainer.train()


def test_config_refuses_what_cannot_run() -> None:
    with pytest.raises(ValueError, match="2 samples to compare"):
        replace(PRESETS["small"], algo=Algo(group_size=1, steps=1))
    with pytest.raises(ValueError, match="does not divide"):
        replace(PRESETS["small"], algo=Algo(micro_prompts=3, steps=1))
    with pytest.raises(ValueError, match="does not divide over 3 processes"):
        to_grpo_config(PRESETS["small"], Path("x"), 1, world_size=3)
