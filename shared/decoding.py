"""The model's side of `shared.rollouts`: a cache with room to grow, one forward pass, and a fast decode step.

Shapes: B rows, S slots of the cache, V words. `valid` (B, S) says which slots hold a token, not padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer


def unwrap(model: Any) -> Any:
    """The transformers model inside DDP, torch.compile and PEFT wrappers; PEFT's adapters stay active.

    Raises:
        ValueError: an adapter that adds virtual tokens, or layers that keep more than keys and values.
    """
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"{model.active_peft_config.peft_type} adds virtual tokens; use LoRA or the like"
            )
        model = model.get_base_model()
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if others := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(f"{sorted(others)} layers keep more than keys and values; use model.generate")
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Turns dropout and gradient checkpointing (in transformers part of training mode) off, then back on."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


class CacheLayer(DynamicLayer):
    """Keys and values (B, kv heads, S, head size): views of buffers with up to `room` free slots."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.buffers = room, None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple:
        """Appends along S; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, new = self.get_seq_length(), (key_states, value_states)
        end = start + key_states.shape[2]
        if self.buffers is None or end > self.buffers[0].shape[2]:
            self.buffers = [x.new_empty(*x.shape[:2], end + self.room, x.shape[3]) for x in new]
            if start and self.keys is not None and self.values is not None:
                self.buffers[0][:, :, :start], self.buffers[1][:, :, :start] = self.keys, self.values
        self.buffers[0][:, :, start:end], self.buffers[1][:, :, start:end] = new
        self.keys, self.values = self.buffers[0][:, :, :end], self.buffers[1][:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows; repeats are allowed."""
        super().batch_select_indices(indices)
        self.buffers = None


def forward(model: Any, ids: Tensor, valid: Tensor, cache: Cache) -> Tensor:
    """Runs `ids` (B, n), the last n slots of `valid`, through the model; returns the last logits (B, V)."""
    positions = (valid.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    last_only = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
    inputs = {"input_ids": ids, "attention_mask": valid.long(), "position_ids": positions}
    return model(**inputs, past_key_values=cache, use_cache=True, **last_only).logits[:, -1]


def decoder(model: Any, cache: Any, valid: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
    """The function tokens (B,) → next logits (B, V), for up to `steps` further slots of `cache`."""
    valid = F.pad(valid, (0, cache.get_seq_length() + steps - valid.shape[1]), value=True)
    if _is_plain_llama(model):
        return _llama_step(model, cache, valid)
    return lambda tokens: forward(model, tokens[:, None], valid[:, : cache.get_seq_length() + 1], cache)


def _is_plain_llama(model: Any) -> bool:
    """Whether `_llama_step` computes what `model.forward` does: nothing wrapped, hooked or patched.

    Except by TRL's trainers, whose `forward` of the whole model adds a branch that sampling never takes.
    """
    own = vars(model).get("forward")
    if own is not None and getattr(own, "__wrapped__", None) is not type(model).forward:
        return False
    return (
        type(model).__name__ in ("LlamaForCausalLM", "Qwen2ForCausalLM")
        and set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and model.config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
        and not torch.is_autocast_enabled(next(model.parameters()).device.type)
        and all(
            type(m).__module__.startswith(("torch.nn.", "transformers.models.", "transformers.activations"))
            and not (m._forward_hooks or m._forward_pre_hooks or (m is not model and "forward" in vars(m)))
            for m in model.modules()
        )
    )


def _llama_step(model: Any, cache: Any, valid: Tensor) -> Callable[[Tensor], Tensor]:
    """`model.forward` for one token per row, with what does not change from step to step made once."""
    body, heads = model.model, model.config.num_attention_heads
    _, kv_heads, _, size = cache.layers[0].keys.shape
    positions = (valid.cumsum(1) - 1).T.contiguous()
    cos, sin = body.rotary_emb(cache.layers[0].keys, torch.arange(len(positions), device=valid.device)[None])
    cos, (low, high) = cos[0, :, None], sin[0, :, None].chunk(2, -1)
    sin = torch.cat([-low, high], -1)  # rotate(x) = x * cos + halves_swapped(x) * sin
    bias = None if valid.all() else cos.new_zeros(valid.shape).masked_fill(~valid, -torch.inf)
    layers = []
    for layer, store in zip(body.layers, cache.layers, strict=True):
        qkv = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        shift = None if qkv[0].bias is None else torch.cat([linear.bias for linear in qkv])
        layers.append((layer, torch.cat([linear.weight for linear in qkv]), shift, store))

    def norm(module: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)

    def step(tokens: Tensor) -> Tensor:
        slot, rows = cache.get_seq_length(), len(tokens)
        cos_B, sin_B = cos[positions[slot]], sin[positions[slot]]
        x = body.embed_tokens(tokens)
        for layer, weight, shift, store in layers:
            qkv = F.linear(norm(layer.input_layernorm, x), weight, shift).view(rows, -1, size)
            qk, value = qkv[:, :-kv_heads], qkv[:, -kv_heads:, None]
            low, high = qk.chunk(2, -1)
            qk = (qk * cos_B).addcmul_(torch.cat([high, low], -1), sin_B)
            query = qk[:, :heads].view(rows, kv_heads, -1, size)  # heads that share a kv head are its queries
            keys, values = store.update(qk[:, heads:, None], value)
            scores = (query @ keys.transpose(2, 3)).mul_(layer.self_attn.scaling)
            if bias is not None:
                scores += bias[:, None, None, : slot + 1]
            mixed = scores.softmax(-1, dtype=torch.float32).to(x.dtype) @ values
            x = layer.self_attn.o_proj(mixed.view(rows, -1)).add_(x)
            x = layer.mlp(norm(layer.post_attention_layernorm, x)).add_(x)
        return model.lm_head(norm(body.norm, x))

    return step
