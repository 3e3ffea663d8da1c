"""Encoding and sampling: the engine against transformers' own generate, features once per image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from cls_rl import encoding, prompts, rollouts
from shared.rollouts import Sampling


def test_encoding_is_the_processors_own(tiny: Any) -> None:
    found = tiny.encoded(5)
    texts = [
        encoding.render(tiny.bundle.processor, prompts.user_text("no_thinking", tiny.names[: 2 + i % 5]))
        for i in range(5)
    ]
    pictures = [[tiny.picture(i)] for i in range(5)]
    stock = tiny.bundle.processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    ours = tiny.inputs(found)
    assert set(ours) == set(stock)
    for name, value in ours.items():
        assert torch.equal(value, stock[name].to(value.dtype)), name
    assert [row.ids.count(tiny.bundle.processor.image_token_id) for row in found] == [4] * 5


def test_a_class_name_that_holds_the_placeholder_is_refused(tiny: Any) -> None:
    text = encoding.render(tiny.bundle.processor, prompts.user_text("no_thinking", ["cat", "<|image_pad|>"]))
    with pytest.raises(ValueError, match="2 times, not once"):
        encoding.encode(tiny.bundle.processor, [text], [tiny.picture(0)])


def test_a_prompt_that_is_too_long_is_refused_not_cut(tiny: Any) -> None:
    text = encoding.render(tiny.bundle.processor, prompts.user_text("no_thinking", tiny.names))
    with pytest.raises(ValueError, match="more than the limit 20"):
        encoding.encode(tiny.bundle.processor, [text], [tiny.picture(0)], max_tokens=20)


def test_greedy_equals_transformers_generate(tiny: Any) -> None:
    found = tiny.encoded(6)
    ours = rollouts.generate(
        tiny.bundle.model, tiny.bundle.tokenizer, found, sampling=Sampling(16, temperature=0), max_rows=4
    )
    batch = tiny.inputs(found)
    whole = tiny.bundle.model.generate(
        **batch, max_new_tokens=16, do_sample=False, suppress_tokens=tiny.bundle.vision_ids
    )
    stock = whole[:, batch["input_ids"].shape[1] :].tolist()
    eos = tiny.bundle.tokenizer.eos_token_id
    for mine, theirs in zip(ours.completion_ids, stock, strict=True):
        assert mine == (theirs[: theirs.index(eos) + 1] if eos in theirs else theirs)
    assert len({tuple(row) for row in ours.completion_ids}) > 1  # they do depend on the prompt
    assert ours.prompt_ids == [row.ids for row in found]


def test_the_picture_matters_and_samples_of_a_prompt_share_it(tiny: Any) -> None:
    one, other = tiny.encoded(1)[0], tiny.encoded(1)[0]
    text = encoding.render(tiny.bundle.processor, prompts.user_text("no_thinking", tiny.names[:2]))
    dark = encoding.encode(tiny.bundle.processor, [text], [Image.new("RGB", (64, 64))])[0]
    greedy = Sampling(8, temperature=0)
    drawn = rollouts.generate(
        tiny.bundle.model, tiny.bundle.tokenizer, [one, dark, other], samples=2, sampling=greedy
    )
    for rows in (drawn.completion_ids, drawn.logprobs):
        assert rows[0] == rows[1]
        assert rows[2] == rows[3]
    assert drawn.completion_ids[0] == drawn.completion_ids[4]
    assert drawn.logprobs[0] == pytest.approx(drawn.logprobs[4], abs=1e-4)
    assert drawn.logprobs[2] != pytest.approx(drawn.logprobs[0], abs=1e-2)


def test_features_once_per_image_and_prompts_prefilled_once(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    visual = tiny.bundle.model.model.visual
    original = visual.forward
    monkeypatch.setattr(
        visual,
        "forward",
        lambda pixels, grid_thw, **kw: seen.append(len(grid_thw)) or original(pixels, grid_thw, **kw),
    )
    rows: list[int] = []
    layer = tiny.bundle.model.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda module, args: rows.append(args[0].shape[0] * args[0].shape[1])
    )
    found = tiny.encoded(3)
    rollouts.generate(tiny.bundle.model, tiny.bundle.tokenizer, found, samples=8, sampling=Sampling(3))
    hook.remove()
    assert seen == [3]
    assert rows == [3 * max(len(p.ids) for p in found), 24, 24]


def test_vision_tokens_are_never_sampled(tiny: Any) -> None:
    found = tiny.encoded(2)
    hot = Sampling(40, temperature=50.0)
    generator = torch.Generator().manual_seed(1)
    drawn = rollouts.generate(
        tiny.bundle.model, tiny.bundle.tokenizer, found, samples=32, sampling=hot, generator=generator
    )
    sampled = {index for row in drawn.completion_ids for index in row}
    assert len(sampled) > 250  # nearly uniform over the vocabulary
    assert len(tiny.bundle.vision_ids) == 5
    assert not sampled & set(tiny.bundle.vision_ids)


def test_top_k_50_and_the_seed(tiny: Any) -> None:
    found = tiny.encoded(1)

    def draw(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        sampling = Sampling(1, temperature=1.0, top_k=2)
        return rollouts.generate(
            tiny.bundle.model,
            tiny.bundle.tokenizer,
            found,
            samples=200,
            sampling=sampling,
            generator=generator,
        ).completion_ids

    assert draw(0) == draw(0) != draw(1)
    with torch.no_grad():
        logits = tiny.bundle.model(**tiny.inputs(found)).logits[0, -1]
    logits[tiny.bundle.vision_ids] = -torch.inf
    assert {row[0] for row in draw(0)} == set(logits.topk(2).indices.tolist())


def test_a_forced_prefix_counts_as_prompt(tiny: Any) -> None:
    found = tiny.encoded(2)
    greedy = Sampling(6, temperature=0)
    drawn = rollouts.generate(
        tiny.bundle.model, tiny.bundle.tokenizer, found, sampling=greedy, forced_prefix=prompts.EMPTY_THOUGHT
    )
    prefix = tiny.bundle.tokenizer(prompts.EMPTY_THOUGHT, add_special_tokens=False)["input_ids"]
    assert drawn.prompt_ids[0] == [*found[0].ids, *prefix]


def test_images_of_two_sizes_are_refused(tiny: Any) -> None:
    first = tiny.encoded(1)[0]
    other = encoding.Encoded(first.ids, first.pixels[:8], (1, 2, 4))
    with pytest.raises(ValueError, match="one size"):
        rollouts.generate(tiny.bundle.model, tiny.bundle.tokenizer, [first, other], sampling=Sampling(2))
