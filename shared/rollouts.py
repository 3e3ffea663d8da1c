"""Samples completions from a causal language model: prefill → expand → decode loop → sample.

Each prompt is prefilled once and its cache copied to all of its samples; rows that have ended leave the batch. Works
with any transformers model made of attention layers: Llama- and Qwen2-shaped ones decode through `_llama_step`, their
forward pass without what does not change from step to step, all others through `model.forward`.

Shapes: B rows (prompt-major: row = prompt * samples + sample), S slots of the cache, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

CHECK_EVERY = 8  # steps between looks at which rows have ended: on a GPU each look waits for the device
KEEP_ABOVE = 0.6  # ended rows leave when at most this share is alive: leaving copies the cache
CPU_ROOM = 8  # slots by which the cache grows on a CPU: larger gaps between its rows make attention up to 3x slower
ROWS_PER_THREAD = 64  # on a CPU, batches this large run one per thread: faster than threads within each operation


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
    global one) gives the same output. `on_token` gets the number of tokens just sampled, from any thread.

    Raises:
        ValueError: an empty prompt, or a model that `unwrap` refuses.
    """
    rows = [[*prompt, *forced_prefix] for prompt in prompt_ids for _ in range(samples)]
    uniforms = _uniforms(len(rows), sampling, generator)  # drawn here: how rows are batched does not matter
    cores, on_cpu = torch.get_num_threads(), next(model.parameters()).device.type == "cpu"
    workers = max(1, min(cores, len(rows) // ROWS_PER_THREAD)) if on_cpu else 1
    size = max(1, min(max_rows, -(-len(rows) // workers)))

    def turn(start: int) -> Rollouts:
        part = slice(start, start + size)
        session = Session(model, rows[part], sampling=sampling, stop_ids=stop_ids, on_token=on_token)
        return session.generate(uniforms=uniforms[part], last=True)

    result = Rollouts()
    with _evaluating(unwrap(model)), ThreadPoolExecutor(workers) as pool:
        try:
            torch.set_num_threads(cores // workers)
            for part in (pool.map if workers > 1 else map)(turn, range(0, len(rows), size)):
                for name, values in vars(result).items():
                    values += getattr(part, name)
        finally:
            torch.set_num_threads(cores)
    return result


class Session:
    """Rows that alternate between sampled turns and tokens from outside; only new tokens are computed.

    `generate()` samples a turn for every row, `extend()` appends e.g. a tool's reply, `keep()` drops the other rows;
    `context` holds each row's tokens so far. Arguments as in the function `generate`.
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

    @torch.inference_mode()
    def generate(self, *, uniforms: Tensor | None = None, last: bool = False) -> Rollouts:
        """Samples one turn for every row. After the `last` turn, in which ended rows leave, the session is over."""
        turn = Rollouts([list(context) for context in self.context])
        if not self.context:
            return turn
        if uniforms is None:
            uniforms = _uniforms(len(self.context), self.sampling, self.generator)
        with _evaluating(self.model):
            tokens, logprobs = self._decode(self._prefill(), uniforms.to(self.device), last)
        for context, row, row_logprobs in zip(self.context, tokens.T.tolist(), logprobs.T.tolist(), strict=True):
            length = next((i + 1 for i, token in enumerate(row) if token in self.stop_ids), None)
            turn.finished.append(length is not None)
            turn.completion_ids.append(row[:length])
            turn.logprobs.append(row_logprobs[:length])
            context += row[:length]
        if not last:
            self.fed = [len(context) - 1 for context in self.context]  # the last token is fed with what follows it
            fed = torch.tensor([[len(completion) - 1] for completion in turn.completion_ids], device=self.device)
            slots = torch.arange(self.cache.get_seq_length() - self.valid.shape[1], device=self.device)
            self.valid = torch.cat([self.valid, slots < fed], dim=1)
        return turn

    def _prefill(self) -> Tensor:
        """Runs the tokens not in the cache, equal neighbours of the first turn once; returns logits (B, V)."""
        rows, copies = [], []
        for i, context in enumerate(self.context):
            if not rows or self.fed[i] or context != self.context[rows[-1]]:
                rows.append(i)
            copies.append(len(rows) - 1)
        blocks = [self.context[i][self.fed[i] :] for i in rows]
        width = max(map(len, blocks))
        ids = torch.tensor([[0] * (width - len(block)) + block for block in blocks], device=self.device)
        holes = torch.tensor([[width - len(block)] for block in blocks], device=self.device)  # padded on the left
        self.valid = torch.cat([self.valid[rows], torch.arange(width, device=self.device) >= holes], dim=1)
        logits = _forward(self.model, ids, self.valid, self.cache)
        if len(rows) == len(copies):
            return logits
        index = torch.tensor(copies, device=self.device)
        self._select(index)
        return logits[index]

    def _decode(self, logits: Tensor, uniforms: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """Samples up to max_new_tokens per row; returns tokens and log-probabilities, both (steps, B)."""
        count, steps = uniforms.shape
        tokens = torch.zeros(steps, count, dtype=torch.long, device=self.device)
        logprobs = torch.zeros(steps, count, device=self.device)
        stops = torch.tensor(self.stop_ids, dtype=torch.long, device=self.device)
        rows = torch.arange(count, device=self.device)  # the rows still in the batch
        decode = _decoder(self.model, self.cache, self.valid, steps)
        for step in range(steps):
            chosen, logprobs[step, rows] = _sample(logits, self.sampling, uniforms[rows, step])
            tokens[step, rows] = chosen
            if self.on_token:
                self.on_token(len(rows))
            if step + 1 == steps:
                break
            if self.stop_ids and step % CHECK_EVERY == CHECK_EVERY - 1:
                alive = (~torch.isin(tokens[: step + 1, rows], stops).any(0)).nonzero()[:, 0]
                if len(alive) == 0:
                    break
                if last and len(alive) <= KEEP_ABOVE * len(rows):
                    rows, chosen = rows[alive], chosen[alive]
                    self._select(alive)
                    decode = _decoder(self.model, self.cache, self.valid, steps)
            logits = decode(chosen)
        return tokens[: step + 1], logprobs[: step + 1]

    def _select(self, rows: Tensor) -> None:
        self.valid = self.valid[rows]
        self.cache.batch_select_indices(rows)


def _uniforms(rows: int, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator else None
    return torch.rand(rows, sampling.max_new_tokens, generator=generator, dtype=torch.float64, device=device)


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
    """Keys and values (B, kv heads, S, head size), views of buffers that have room for further slots."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.buffers = room, None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        if self.buffers is None or end > self.buffers[0].shape[2]:
            self.buffers = [x.new_empty(*x.shape[:2], end + self.room, x.shape[3]) for x in (key_states, value_states)]
            if start:
                self.buffers[0][:, :, :start], self.buffers[1][:, :, :start] = self.keys, self.values
        self.buffers[0][:, :, start:end], self.buffers[1][:, :, start:end] = key_states, value_states
        self.keys, self.values = self.buffers[0][:, :, :end], self.buffers[1][:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.buffers = None


def _forward(model: nn.Module, ids: Tensor, valid: Tensor, cache: Cache) -> Tensor:
    """Runs `ids` (B, n), the last n slots of `valid` (B, S), through the model; returns the last logits (B, V)."""
    positions = (valid.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    last_only = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
    inputs = {"input_ids": ids, "attention_mask": valid.long(), "position_ids": positions, "past_key_values": cache}
    return model(**inputs, use_cache=True, **last_only).logits[:, -1]


def _decoder(model: nn.Module, cache: Cache, valid: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
    """The function tokens (B,) → next logits (B, V) for up to `steps` further slots of `cache`."""
    valid = F.pad(valid, (0, cache.get_seq_length() + steps - valid.shape[1]), value=True)
    if _is_llama_like(model):
        return _llama_step(model, cache, valid)
    return lambda tokens: _forward(model, tokens[:, None], valid[:, : cache.get_seq_length() + 1], cache)


def _llama_step(model: nn.Module, cache: Cache, valid: Tensor) -> Callable[[Tensor], Tensor]:
    """`model.forward` for one token per row; what does not change from step to step is made once."""
    body, heads = model.model, model.config.num_attention_heads
    _, kv_heads, _, size = cache.layers[0].keys.shape
    positions = (valid.cumsum(1) - 1).T.contiguous()
    cos, sin = body.rotary_emb(cache.layers[0].keys, torch.arange(len(positions), device=valid.device)[None])
    cos, (low, high) = cos[0, :, None], sin[0, :, None].chunk(2, -1)
    sin = torch.cat([-low, high], -1)  # rotate(x) = x * cos + halves_swapped(x) * sin
    bias = None if valid.all() else torch.zeros_like(valid, dtype=cos.dtype).masked_fill(~valid, -torch.inf)
    layers = []
    for layer, store in zip(body.layers, cache.layers, strict=True):
        qkv = [getattr(layer.self_attn, name) for name in ("q_proj", "k_proj", "v_proj")]
        offset = None if qkv[0].bias is None else torch.cat([linear.bias for linear in qkv])
        layers.append((layer, torch.cat([linear.weight for linear in qkv]), offset, store))

    def norm(module: nn.Module, x: Tensor) -> Tensor:
        return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)

    def step(tokens: Tensor) -> Tensor:
        slot, rows = cache.get_seq_length(), len(tokens)
        cos_B, sin_B = cos[positions[slot]], sin[positions[slot]]
        x = body.embed_tokens(tokens)
        for layer, weight, offset, store in layers:
            qkv = F.linear(norm(layer.input_layernorm, x), weight, offset).view(rows, -1, size)
            qk, value = qkv[:, :-kv_heads], qkv[:, -kv_heads:, None]
            low, high = qk.chunk(2, -1)
            qk = (qk * cos_B).addcmul_(torch.cat([high, low], -1), sin_B)
            query = qk[:, :heads].view(rows, kv_heads, -1, size)  # heads that share a kv head are its queries
            keys, values = store.update(qk[:, heads:, None], value)
            scores = torch.matmul(query, keys.transpose(2, 3)).mul_(layer.self_attn.scaling)
            if bias is not None:
                scores += bias[:, None, None, : slot + 1]
            h = torch.matmul(scores.softmax(-1, dtype=torch.float32).to(x.dtype), values).view(rows, -1)
            x = x + layer.self_attn.o_proj(h)
            x = x + layer.mlp(norm(layer.post_attention_layernorm, x))
        return model.lm_head(norm(body.norm, x))

    return step


def _is_llama_like(model: nn.Module) -> bool:
    """Whether `_llama_step` equals `model.forward`: full attention, a fixed rotary table, nothing wrapped or hooked."""
    if type(model).__name__ not in ("LlamaForCausalLM", "Qwen2ForCausalLM"):
        return False
    blocks = [model, model.model, *(m for layer in model.model.layers for m in (layer, layer.self_attn))]
    return (
        set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and model.config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
        and not torch.is_autocast_enabled(next(model.parameters()).device.type)
        and all(type(m).__module__ == type(model).__module__ and "forward" not in vars(m) for m in blocks)
        and not any(m._forward_hooks or m._forward_pre_hooks for m in blocks)
        and all(type(getattr(m, f"{x}_proj")) is nn.Linear for m in blocks[3::2] for x in "qkv")
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


def trl_rollout_func(forced_prefix: Sequence[int] = (), max_rows: int = 512) -> Callable[[list, Any], dict[str, list]]:
    """What TRL's `GRPOTrainer(rollout_func=...)` takes; sampling settings and stop ids are the trainer's own.

    Raises (when called): ValueError for settings this engine lacks: min_p, a repetition penalty, images.
    """

    def rollout(prompts: list, trainer: Any) -> dict[str, list]:
        args = trainer.args
        prompt_ids, images, _ = trainer._tokenize_prompts(prompts)  # TRL's own, so templates and tools match
        if args.min_p or args.repetition_penalty != 1 or images:
            raise ValueError(f"min_p={args.min_p}, repetition_penalty={args.repetition_penalty} or images; use vLLM")
        out = generate(
            trainer.accelerator.unwrap_model(trainer.model_wrapped),
            prompt_ids,
            sampling=Sampling(args.max_completion_length, args.temperature, args.top_p, args.top_k),
            stop_ids=trainer.eos_token_ids,
            forced_prefix=forced_prefix,
            max_rows=max_rows,
        )
        return {"prompt_ids": out.prompt_ids, "completion_ids": out.completion_ids, "logprobs": out.logprobs}

    return rollout
