"""Samples completions from a Qwen vision-language model with the engine of `shared.rollouts`.

That engine knows token ids only. Here each image token gets an id of its own beyond the vocabulary, which
names a row of the image features; so features are computed once per image and a prompt is prefilled once,
whatever the number of its samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cls_rl.encoding import Encoded, stop_ids
from cls_rl.processor import vision_token_ids
from shared import rollouts
from shared.decoding import evaluating, unwrap
from shared.rollouts import Rollouts, Sampling

MAX_ROWS = 64  # at once: more need more memory and are no faster on a CPU


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Encoded],
    *,
    samples: int = 1,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    forced_prefix: str = "",
    max_rows: int = MAX_ROWS,
) -> Rollouts:
    """`samples` completions per prompt, prompt-major; arguments and result as in `shared.rollouts.generate`.

    Vision tokens are never sampled. `forced_prefix` starts every reply and counts as prompt.

    Raises ValueError where images differ in size: resize them first (`images.fixed_size`).
    """
    base = unwrap(model)
    with torch.inference_mode(), evaluating(base):
        sighted = _Sighted(base, prompts, vision_token_ids(tokenizer))
    drawn = rollouts.generate(
        sighted,
        sighted.rows,
        samples=samples,
        sampling=sampling,
        stop_ids=stop_ids(base, tokenizer),
        forced_prefix=tokenizer(forced_prefix, add_special_tokens=False)["input_ids"]
        if forced_prefix
        else (),
        generator=generator,
        max_rows=max_rows,
    )
    drawn.prompt_ids = [
        [sighted.image_id if index >= sighted.first else index for index in row] for row in drawn.prompt_ids
    ]
    return drawn


class _Sighted(nn.Module):
    """The model as the engine calls it: ids (beyond the vocabulary: rows of `features`) to last logits."""

    def __init__(self, model: Any, prompts: Sequence[Encoded], suppressed: Sequence[int]) -> None:
        super().__init__()
        grids = sorted({prompt.grid for prompt in prompts})
        if len(grids) != 1:
            raise ValueError(
                f"images of one call must have one size, not the patch grids {grids}; resize them"
            )
        self.vlm, self.config, self.image_id = (
            model,
            model.config.get_text_config(),
            model.config.image_token_id,
        )
        self.first = self.config.vocab_size
        merge = model.config.vision_config.spatial_merge_size
        frames, height, width = grids[0]
        self.tokens = frames * height * width // merge**2
        # After an image, positions go on from its longer side: text positions are shifted by this many.
        self.shift = max(height, width) // merge - self.tokens
        device = next(model.parameters()).device
        self.suppressed = torch.tensor(suppressed, dtype=torch.long, device=device)
        self.grid = torch.tensor(grids, device=device)
        pixels = torch.cat([prompt.pixels for prompt in prompts]).to(device)
        found = model.model.get_image_features(pixels, self.grid.expand(len(prompts), 3), return_dict=True)
        self.features = torch.cat(found.pooler_output)
        self.rows: list[list[int]] = []
        following = self.first
        for prompt in prompts:
            row = list(prompt.ids)
            for place in [i for i, index in enumerate(row) if index == self.image_id]:
                row[place] = following
                following += 1
            self.rows.append(row)

    def _supports_logits_to_keep(self) -> bool:
        return True

    def forward(self, input_ids: Tensor, position_ids: Tensor, **inputs: Any) -> Any:
        seen = input_ids >= self.first
        plain = input_ids.masked_fill(seen, self.image_id)
        positions = (position_ids + self.shift).expand(3, -1, -1)
        embedded = self.vlm.get_input_embeddings()(plain)
        if seen.any():
            embedded[seen] = self.features[input_ids[seen] - self.first].to(embedded.dtype)
            positions, _ = self.vlm.model.get_rope_index(
                plain,
                mm_token_type_ids=seen.int(),
                image_grid_thw=self.grid.expand(len(plain), 3),
                attention_mask=inputs["attention_mask"],
            )
        output = self.vlm(inputs_embeds=embedded, position_ids=positions, **inputs)
        output.logits[..., self.suppressed] = -torch.inf
        return output
