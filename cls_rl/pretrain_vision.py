"""Vision features for pretraining: Qwen2.5-VL's tower run on equal pictures in one batch, and its first loss.

Transformers loops over pictures inside every attention layer; here pictures have one size and no loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids


def image_features(visual: Any, patches: Tensor) -> Tensor:
    """(B, P, 3 * patch^2) patches of `pretrain_images.patches` to (B, P / merge^2, hidden) features.

    Equal to the model's own `get_image_features` for square pictures of one window (tested).
    """
    batch, count, _ = patches.shape
    grid = torch.tensor([[1, int(count**0.5), int(count**0.5)]])
    places = get_vision_position_ids(grid, visual.spatial_merge_size)
    cos, sin = visual.rotary_pos_emb(patches, places)
    weight = visual.patch_embed.proj.weight.sum(2).flatten(1)  # the moment is there twice
    x = patches @ weight.T
    for block in visual.blocks:
        attention = block.attn
        heads = attention.num_heads
        q, k, v = attention.qkv(block.norm1(x)).reshape(batch, count, 3, heads, -1).unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        seen = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + attention.proj(seen.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x.reshape(batch * count, -1)).reshape(batch, -1, visual.merger.mlp[-1].out_features)


class NameHead(nn.Module):
    """Similarity of a picture to every concept's name, in the language model's embedding space.

    A name is the mean of its tokens' embeddings plus a vector of its own; only the former is shared with the
    language model, which so finds the words of what is seen near the picture's features.
    """

    flat: Tensor
    starts: Tensor
    words: Tensor

    def __init__(self, name_ids: list[list[int]], embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.own = nn.Parameter(torch.zeros(len(name_ids), embedding.embedding_dim))
        self.scale = nn.Parameter(torch.tensor(10.0))
        flat = torch.tensor([i for ids in name_ids for i in ids])
        starts = torch.tensor([0, *[len(ids) for ids in name_ids[:-1]]]).cumsum(0)
        self.register_buffer("flat", flat)
        self.register_buffer("starts", starts)
        words = torch.zeros(len(name_ids), embedding.num_embeddings)
        for row, ids in enumerate(name_ids):
            words[row, ids] = 1 / len(set(ids))
        self.register_buffer("words", words)

    def pooled(self, features: Tensor) -> Tensor:
        return F.normalize(features.mean(1), dim=-1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, hidden) features to (B, C) logits."""
        means = F.embedding_bag(self.flat, self.embedding.weight, self.starts, mode="mean")
        return self.scale * self.pooled(features) @ F.normalize(means + self.own, dim=-1).T

    def word_loss(self, features: Tensor, concepts: Tensor) -> Tensor:
        """Cross-entropy of the words of the name under the features' similarity to every token."""
        logits = self.scale * self.pooled(features) @ F.normalize(self.embedding.weight, dim=-1).T
        return -(self.words[concepts] * logits.log_softmax(-1)).sum(-1).mean()
