"""The packed pass against the plain one: values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cls_rl.group_logprobs import group_logprobs


def completions(tiny: Any, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(8, len(tiny.bundle.tokenizer), (rows, width), generator=generator)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=generator)
    lengths[0] = width
    return ids, (torch.arange(width) < lengths).long()


def plain(tiny: Any, rows: int, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Every sample alone with its prompt, as `model.forward` does it."""
    size = len(ids) // rows
    found = [p for p in tiny.encoded(rows) for _ in range(size)]
    batch = tiny.inputs(found)
    width = ids.shape[1]
    for name, more in (("input_ids", ids), ("attention_mask", mask), ("mm_token_type_ids", ids * 0)):
        batch[name] = torch.cat([batch[name], more], 1)
    logits = tiny.bundle.model(**batch, use_cache=False).logits[:, -width - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0] * mask


def test_equal_to_the_plain_forward_with_gradients(tiny: Any) -> None:
    ids, mask = completions(tiny, 12, 7)
    batch = tiny.inputs(tiny.encoded(3))
    assert (batch["attention_mask"].sum(1) < batch["input_ids"].shape[1]).any()  # some are padded
    weights = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    gradients = []
    values = []
    for packed in (True, False):
        tiny.bundle.model.zero_grad()
        found = (
            group_logprobs(tiny.bundle.model, batch, ids, mask)[0] if packed else plain(tiny, 3, ids, mask)
        )
        (found * weights).sum().backward()
        values.append(found.detach())
        gradients.append(
            {n: p.grad.clone() for n, p in tiny.bundle.model.named_parameters() if p.grad is not None}
        )
    torch.testing.assert_close(values[0], values[1], atol=2e-4, rtol=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    assert any("visual" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        scale = gradients[1][name].abs().max().clamp(min=1e-3)
        assert ((gradient - gradients[1][name]).abs().max() / scale) < 2e-3, name


def test_one_feature_computation_per_image(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    visual = tiny.bundle.model.model.visual
    original = visual.forward
    monkeypatch.setattr(
        visual,
        "forward",
        lambda pixels, grid_thw, **kw: seen.append(len(grid_thw)) or original(pixels, grid_thw, **kw),
    )
    ids, mask = completions(tiny, 16, 4)
    with torch.no_grad():
        group_logprobs(tiny.bundle.model, tiny.inputs(tiny.encoded(2)), ids, mask)
    assert seen == [2]


def test_samples_do_not_see_each_other_and_entropy_is_that_of_the_words(tiny: Any) -> None:
    ids, mask = completions(tiny, 8, 5)
    batch = tiny.inputs(tiny.encoded(2))
    with torch.no_grad():
        before, entropy = group_logprobs(tiny.bundle.model, batch, ids, mask)
        changed = ids.clone()
        changed[1] = changed[1].flip(0) + 0
        changed[1, 0] = 9
        after, _ = group_logprobs(tiny.bundle.model, batch, changed, mask)
        halved, _ = group_logprobs(tiny.bundle.model, batch, ids, mask, temperature=2.0)
    others = [0, 2, 3, 4, 5, 6, 7]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[1], after[1])
    assert (entropy >= 0).all()
    assert (entropy[mask == 0] == 0).all()
    assert not torch.allclose(before, halved)
