"""Log-probabilities of G completions per prompt in one forward pass that computes image and prompt once.

A row of the packed batch is the prompt without its last token, then for every sample that last token and the
completion:

    prompt[:-1] | prompt[-1] c1 c2 ... | prompt[-1] c1 c2 ... | ...

A sample attends to the prompt and to itself, at the positions it would have alone; so each log-probability
is that of the plain forward pass, at a fraction of its cost where prompts are longer than answers. It is one
call of the wrapped model, so DDP, DeepSpeed, FSDP and gradient checkpointing work as usual.

P prompts, G samples each, L prompt tokens (padded left), C completion tokens (padded right), V words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shared.decoding import unwrap


def group_logprobs(
    model: Any,
    prompts: dict[str, Tensor],
    completion_ids: Tensor,
    completion_mask: Tensor,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy (no gradient) of each completion token, both (P * G, C), group-major.

    Args:
        prompts: `encoding.collate` of the P prompts.
        completion_ids, completion_mask: (P * G, C); values at masked places mean nothing.
    """
    ids = prompts["input_ids"]
    count = len(ids)
    size, width = len(completion_ids) // count, completion_ids.shape[1]
    completions = completion_ids.view(count, size, width)
    first = ids[:, None, -1:].expand(count, size, 1)
    blocks = torch.cat([first, completions], 2).view(count, -1)
    packed = torch.cat([ids[:, :-1], blocks], 1)
    output = model(
        input_ids=packed,
        attention_mask=_mask(prompts["attention_mask"], size, width + 1),
        position_ids=_positions(unwrap(model), prompts, size, width + 1),
        pixel_values=prompts["pixel_values"],
        image_grid_thw=prompts["image_grid_thw"],
        use_cache=False,
        logits_to_keep=size * (width + 1),
    )
    logits = output.logits.view(count, size, width + 1, -1)[:, :, :-1].float() / temperature
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(-1, completions[..., None])[..., 0].view(-1, width)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1).view(-1, width)
    return chosen * completion_mask, entropy * completion_mask


def _mask(prompt_mask: Tensor, size: int, block: int) -> Tensor:
    """(P, 1, S, S) bool, true where a token attends; S = L - 1 + G * block."""
    count, length = prompt_mask.shape
    total = length - 1 + size * block
    sample = torch.full((total,), -1, device=prompt_mask.device)
    sample[length - 1 :] = torch.arange(size, device=sample.device).repeat_interleave(block)
    mask = (sample[:, None] == sample) | (sample == -1)
    mask = mask & torch.ones_like(mask).tril()
    keys = torch.ones(count, total, dtype=torch.bool, device=sample.device)
    keys[:, : length - 1] = prompt_mask[:, :-1].bool()
    # A padding token attends to itself: softmax over nothing would be NaN.
    return ((mask & keys[:, None]) | torch.eye(total, dtype=torch.bool, device=sample.device))[:, None]


def _positions(model: Any, prompts: dict[str, Tensor], size: int, block: int) -> Tensor:
    """(3, P, S) rotary positions: every sample goes on where the prompt ends."""
    found, _ = model.model.get_rope_index(
        prompts["input_ids"],
        mm_token_type_ids=prompts["mm_token_type_ids"],
        image_grid_thw=prompts["image_grid_thw"],
        attention_mask=prompts["attention_mask"],
    )
    after = found[:, :, -1:] + torch.arange(block, device=found.device)
    return torch.cat([found[:, :, :-1], after.repeat(1, 1, size)], 2)
