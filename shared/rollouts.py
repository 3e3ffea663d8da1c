"""Samples completions from a causal language model: prefill → expand → decode loop → sample.

Each prompt is prefilled once and its cache copied to all of its samples; rows that have ended leave the batch. Works
with any transformers model made of attention layers. Llama- and Qwen2-shaped ones decode through `_llama_step`, their
forward pass without what does not change from step to step; all others through `model.forward`.

Shapes: B rows (prompt-major: row = prompt * samples + sample), S slots of the cache, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

CHECK_EVERY = 8  # steps between looks at which rows have ended: on a GPU each look waits for the device
KEEP_ABOVE = 0.6  # ended rows leave when at most this share is alive: leaving copies the cache
CPU_ROOM = 8  # free slots of the cache on a CPU, where the gaps between rows cost more than enlarging it (3x in decode)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 is greedy; top_p 1 and top_k 0 are off; top_k comes before top_p."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"{self}: need max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1, top_k >= 0")


@dataclass
class Rollouts:
    """One entry per row. `logprobs` are those of the sampled tokens under softmax(logits / temperature), before top-k
    and top-p (greedy: temperature 1). A stop token ends a completion and is part of it; then `finished` is true."""

    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_ids: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)


def generate(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    *,
    samples: int = 1,
    sampling: Sampling,
    stop_ids: Sequence[int] = (),
    forced_prefix: Sequence[int] = (),
    generator: torch.Generator | None = None,
    max_rows: int = 512,
    on_token: Callable[[int], None] | None = None,
) -> Rollouts:
    """Draws `samples` completions per prompt, at most `max_rows` at once; equal neighbours are prefilled once.

    `forced_prefix` is appended to every prompt and counts as prompt. The same seed of `generator` (None: torch's
    global one) gives the same output. `on_token` gets the number of tokens just sampled, for a progress line.

    Raises:
        ValueError: an empty prompt, or a model that `unwrap` refuses.
    """
    rows = [[*prompt, *forced_prefix] for prompt in prompt_ids for _ in range(samples)]
    result = Rollouts()
    for start in range(0, len(rows), max_rows):
        session = Session(model, rows[start : start + max_rows], sampling=sampling, stop_ids=stop_ids,
                          generator=generator, on_token=on_token)  # fmt: skip
        turn = session.generate(last=True)
        for name, values in vars(result).items():
            values += getattr(turn, name)
    return result


class Session:
    """Rows that alternate between sampled turns and tokens from outside; only new tokens are computed.

    `generate()` samples a turn for every row, `extend()` appends e.g. a tool's reply, `keep()` drops the other rows;
    `context` holds each row's tokens so far. Arguments as in `generate`.
    """

    def __init__(
        self,
        model: nn.Module,
        prompt_ids: Sequence[Sequence[int]],
        samples: int = 1,
        *,
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
        generator: torch.Generator | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.sampling, self.stop_ids = unwrap(model), sampling, list(stop_ids)
        self.generator, self.on_token = generator, on_token
        self.device = next(self.model.parameters()).device
        self.context = [list(prompt) for prompt in prompt_ids for _ in range(samples)]
        if not all(self.context):
            raise ValueError("a prompt is empty; give it at least one token, e.g. the model's bos token")
        self.fed = [0] * len(self.context)  # how many tokens of each context have been through the model
        room = CPU_ROOM if self.device.type == "cpu" else sampling.max_new_tokens
        self.cache = Cache(layer_class_to_replicate=partial(_Layer, room))
        self.valid = torch.zeros(len(self.context), 0, dtype=torch.bool, device=self.device)  # (B, S): token or hole

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Appends `tokens[i]` (may be empty) to row i."""
        for context, new in zip(self.context, tokens, strict=True):
            context += new

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, in this order."""
        self.context, self.fed = [self.context[i] for i in rows], [self.fed[i] for i in rows]
        self._select(torch.tensor(list(rows), dtype=torch.long, device=self.device))

    @torch.no_grad()
    def generate(self, *, last: bool = False) -> Rollouts:
        """Samples one turn for every row. After the `last` turn, in which ended rows leave, the session is over."""
        if not self.context:
            return Rollouts()
        with _evaluating(self.model):
            tokens, logprobs = self._decode(self._feed(), last)
        turn = Rollouts([list(context) for context in self.context])
        for context, row, row_logprobs in zip(self.context, tokens.T.tolist(), logprobs.T.tolist(), strict=True):
            length = next((i + 1 for i, token in enumerate(row) if token in self.stop_ids), None)
            turn.finished.append(length is not None)
            turn.completion_ids.append(row[:length])
            turn.logprobs.append(row_logprobs[:length])
            context += row[:length]
        self.fed = [len(context) - 1 for context in self.context]  # a turn's last token counts as not yet fed
        if not last:
            fed = torch.tensor([len(completion) - 1 for completion in turn.completion_ids], device=self.device)
            slots = torch.arange(self.cache.get_seq_length() - self.valid.shape[1], device=self.device)
            self.valid = torch.cat([self.valid, slots < fed[:, None]], dim=1)
        return turn

    def _feed(self) -> Tensor:
        """Prefill: runs the tokens that are not in the cache; returns the next token's logits (B, V)."""
        rows = list(range(len(self.context)))
        if first := self.valid.shape[1] == 0:  # one row for each run of equal prompts
            rows = [next(run) for _, run in groupby(rows, key=self.context.__getitem__)]
            copies = torch.tensor(rows, device=self.device)
            self.valid = self.valid[copies]
        blocks = [self.context[i][self.fed[i] :] for i in rows]
        width = max(map(len, blocks))
        ids = torch.tensor([[0] * (width - len(block)) + block for block in blocks], device=self.device)
        lengths = torch.tensor([[len(block)] for block in blocks], device=self.device)
        new = torch.arange(width, device=self.device) >= width - lengths  # padded on the left
        self.valid = torch.cat([self.valid, new], dim=1)
        logits = _forward(self.model, ids, self.valid, self.cache)
        if first:  # expand
            copies = torch.bucketize(torch.arange(len(self.context), device=self.device), copies, right=True) - 1
            self._select(copies)
            logits = logits[copies]
        return logits

    def _decode(self, logits: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """Samples up to max_new_tokens per row; returns tokens and log-probabilities, both (steps, B)."""
        shape = (len(self.context), self.sampling.max_new_tokens)
        source = self.generator.device if self.generator else self.device
        uniforms = torch.rand(shape, generator=self.generator, dtype=torch.float64, device=source).to(self.device)
        tokens = torch.zeros(shape[::-1], dtype=torch.long, device=self.device)
        logprobs = torch.zeros(shape[::-1], device=self.device)
        stops = torch.tensor(self.stop_ids, dtype=torch.long, device=self.device)
        rows = torch.arange(shape[0], device=self.device)  # the rows in the batch
        decode = _decoder(self.model, self.cache, self.valid, shape[1])
        for step in range(shape[1]):
            chosen, logprobs[step, rows] = _sample(logits, self.sampling, uniforms[rows, step])
            tokens[step, rows] = chosen
            if self.on_token:
                self.on_token(len(rows))
            if step + 1 == shape[1]:
                break
            if self.stop_ids and step % CHECK_EVERY == CHECK_EVERY - 1:
                alive = (~torch.isin(tokens[: step + 1, rows], stops).any(0)).nonzero()[:, 0]
                if len(alive) == 0:
                    break
                if last and len(alive) <= KEEP_ABOVE * len(rows):
                    rows, chosen = rows[alive], chosen[alive]
                    self._select(alive)
                    decode = _decoder(self.model, self.cache, self.valid, shape[1])
            logits = decode(chosen)
        return tokens[: step + 1], logprobs[: step + 1]

    def _select(self, rows: Tensor) -> None:
        self.valid = self.valid[rows]
        self.cache.batch_select_indices(rows)


def _sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws a token per row where the cumulative distribution passes `uniforms` (B,) in [0, 1); with its log-prob.

    One random number per row, not one per word as in `torch.multinomial`: several times cheaper.
    """
    logprobs = (logits.float() / (sampling.temperature or 1.0)).log_softmax(-1)
    if sampling.temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        probs, order = logprobs.exp(), None
        if sampling.top_k or sampling.top_p < 1:
            probs, order = probs.topk(min(sampling.top_k or probs.shape[1], probs.shape[1]))
        cdf = probs.cumsum(-1, dtype=torch.float64)
        mass = cdf[:, -1:]
        if sampling.top_p < 1:  # the smallest set of likeliest words that reaches top_p
            mass = cdf.gather(1, (cdf < sampling.top_p * mass).sum(-1, keepdim=True))
        tokens = torch.searchsorted(cdf, uniforms[:, None] * mass, right=True).clamp_(max=cdf.shape[1] - 1)
        tokens = tokens if order is None else order.gather(1, tokens)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]


class _Layer(DynamicLayer):
    """Keys and values (B, kv heads, S, head size) written into buffers that have room for further slots."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.buffers = room, None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        new, start = (key_states, value_states), self.get_seq_length()
        end = start + key_states.shape[2]
        if self.buffers is None or end > self.buffers[0].shape[2]:
            self.lazy_initialization(*new) if not self.is_initialized else None
            self.buffers = [x.new_empty(*x.shape[:2], end + self.room, x.shape[3]) for x in new]
            if start:
                self.buffers[0][:, :, :start], self.buffers[1][:, :, :start] = self.keys, self.values
        self.buffers[0][:, :, start:end], self.buffers[1][:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.buffers = None


def _forward(model: nn.Module, ids: Tensor, valid: Tensor, cache: Cache) -> Tensor:
    """Runs `ids` (B, n), the last n slots of `valid` (B, S), through the model; returns the last logits (B, V)."""
    positions = (valid.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    last_only = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
    out = model(input_ids=ids, attention_mask=valid.long(), position_ids=positions, past_key_values=cache,
                use_cache=True, **last_only)  # fmt: skip
    return out.logits[:, -1]


def _decoder(model: nn.Module, cache: Cache, valid: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
    """The function tokens (B,) → next logits (B, V) for up to `steps` further slots of `cache`."""
    valid = F.pad(valid, (0, cache.get_seq_length() + steps - valid.shape[1]), value=True)
    if _is_llama_like(model):
        return _llama_step(model, cache, valid)
    return lambda tokens: _forward(model, tokens[:, None], valid[:, : cache.get_seq_length() + 1], cache)


def _llama_step(model: nn.Module, cache: Cache, valid: Tensor) -> Callable[[Tensor], Tensor]:
    """`model.forward` for one token per row, with rotary tables and mask made once, not in every step or layer."""
    body, heads = model.model, cache.layers[0].keys.shape[1]
    positions = (valid.cumsum(1) - 1).T.contiguous()
    cos, sin = body.rotary_emb(cache.layers[0].keys, torch.arange(len(positions), device=valid.device)[None])
    cos, (low, high) = cos[0], sin[0].chunk(2, -1)
    sin = torch.cat([-low, high], -1)  # rotate(x) = x * cos + halves_swapped(x) * sin
    bias = None if valid.all() else torch.zeros_like(valid, dtype=cos.dtype).masked_fill(~valid, -torch.inf)

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        return F.rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)

    def step(tokens: Tensor) -> Tensor:
        slot = cache.get_seq_length()
        cos_B, sin_B = cos[positions[slot], None, None], sin[positions[slot], None, None]
        mask = None if bias is None else bias[:, None, None, : slot + 1]
        x = body.embed_tokens(tokens)
        for index, layer in enumerate(body.layers):
            attention, h = layer.self_attn, norm(layer.input_layernorm, x)
            split = (len(tokens), heads, -1, attention.head_dim)  # query heads that share a kv head are its queries
            query_key = torch.cat([attention.q_proj(h).view(split), attention.k_proj(h).view(split)], dim=2)
            low, high = query_key.chunk(2, -1)
            query_key = (query_key * cos_B).addcmul_(torch.cat([high, low], -1), sin_B)
            query, key = query_key[:, :, :-1], query_key[:, :, -1:]
            keys, values = cache.update(key, attention.v_proj(h).view(split), index)
            scores = (query @ keys.transpose(2, 3)).mul_(attention.scaling)
            scores = scores if bias is None else scores.add_(mask)
            h = scores.softmax(-1) @ values
            x = x + attention.o_proj(h.reshape(len(tokens), -1))
            x = x + layer.mlp(norm(layer.post_attention_layernorm, x))
        return model.lm_head(norm(body.norm, x))

    return step


def _is_llama_like(model: nn.Module) -> bool:
    """Whether `_llama_step` equals `model.forward`: full attention, a fixed rotary table, no hooks, no autocast."""
    if type(model).__name__ not in ("LlamaForCausalLM", "Qwen2ForCausalLM"):
        return False
    blocks = [model, model.model, *(m for layer in model.model.layers for m in (layer, layer.self_attn))]
    return (
        set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and model.config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
        and not torch.is_autocast_enabled(next(model.parameters()).device.type)
        and not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in blocks)
    )


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside DDP, torch.compile and PEFT wrappers; PEFT's adapters stay active.

    Raises:
        ValueError: an adapter that adds virtual tokens, or layers that keep more than keys and values.
    """
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    if hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            raise ValueError(f"{model.active_peft_config.peft_type} adds virtual tokens; use an adapter like LoRA")
        model = model.get_base_model()
    if others := set(getattr(model.config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}:
        raise ValueError(f"layers of type {sorted(others)} keep more than keys and values; use model.generate")
    return model


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout and gradient checkpointing off (transformers checkpoints in training mode only); restored after."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True
