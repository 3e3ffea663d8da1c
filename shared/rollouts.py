"""Samples completions from a causal language model: prefill → expand → decode loop → sample.

Each prompt is prefilled once and its cache copied to the prompt's samples; the cache is allocated once per turn; rows
that have ended leave the batch. Works with any transformers model whose layers are attention layers; the single-token
steps of Llama- and Qwen2-shaped models skip the modules' Python code (`_FastStep`), all else runs `model.forward`.

Shapes: P prompts, B rows (prompt-major: row p * samples + s), S slots of the cache, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

CHECK_EVERY = 8  # steps between looks at which rows have ended (on a GPU each look waits for the device)
KEEP_ABOVE = (
    0.6  # rows leave the batch when at most this share is alive: copying the cache at every end costs more
)
CPU_CACHE_BYTES = 8 * 2**20  # on a CPU, rows decoded together keep their keys and values within its caches


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 is greedy, top_p 1 and top_k 0 are off; top_k is applied before top_p."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"{self}: need max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1, top_k >= 0"
            )


@dataclass
class Rollouts:
    """One entry per row. `logprobs` are those of the sampled tokens under softmax(logits / temperature), before top-k
    and top-p (greedy: temperature 1). A stop token ends a completion and is part of it; `finished` says there is one.
    """

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
    """Draws `samples` completions per prompt; neighbouring equal prompts are prefilled once.

    Args:
        forced_prefix: tokens appended to every prompt; they count as prompt.
        generator: source of the random numbers; the same seed gives the same output. None: torch's global one.
        max_rows: the most rows decoded at once; on a CPU fewer where a smaller cache is faster.
        on_token: called after each step with the number of tokens just sampled, for a progress line.

    Raises:
        ValueError: an empty prompt, or a model whose layers keep a state other than keys and values.
    """
    rows = [[*prompt, *forced_prefix] for prompt in prompt_ids for _ in range(samples)]
    most = min(max_rows, _rows_for_cpu(model, max(map(len, rows), default=0) + sampling.max_new_tokens))
    size = -(-len(rows) // -(-len(rows) // most)) if rows else 1  # batches of equal size
    result = Rollouts()
    for start in range(0, len(rows), size):
        session = Session(model, rows[start : start + size], sampling=sampling, stop_ids=stop_ids,
                          generator=generator, on_token=on_token)  # fmt: skip
        turn = session.generate(last=True)
        for name, values in vars(result).items():
            values += getattr(turn, name)
    return result


class Session:
    """Rows that alternate between sampled turns and tokens from outside; only new tokens are computed.

    `generate()` samples a turn for every row, `extend()` appends e.g. a tool's reply, `keep()` drops the other rows.
    `context` holds all tokens of each row so far.
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
        self.context = [list(prompt) for prompt in prompt_ids for _ in range(samples)]
        if not all(self.context):
            raise ValueError("a prompt is empty; give it at least one token, e.g. the model's bos token")
        self.fed = [0] * len(self.context)  # how many tokens of each context are in the cache
        self.cache: Cache | None = None
        self.valid = torch.empty(0)  # (B, S) bool: which slots of the cache hold a token of the row

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Appends `tokens[i]` (may be empty) to row i."""
        for context, new in zip(self.context, tokens, strict=True):
            context += new

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, in this order."""
        self.context, self.fed = [self.context[i] for i in rows], [self.fed[i] for i in rows]
        if self.cache is not None:
            index = torch.tensor(list(rows), device=self.valid.device)
            self.cache, self.valid = _select(self.cache, index, self.valid.shape[1]), self.valid[index]

    @torch.no_grad()
    def generate(self, *, last: bool = False) -> Rollouts:
        """Samples one turn for every row. `last` says that no other turn follows, which saves a copy."""
        prompts = [list(context) for context in self.context]
        if not prompts:
            return Rollouts()
        with _evaluating(self.model):
            start, logits = self._feed()
            tokens, logprobs = self._decode(logits, last)
        completions, finished = [], []
        for row in tokens.T.tolist():
            end = next((i for i, token in enumerate(row) if token in self.stop_ids), None)
            finished.append(end is not None)
            completions.append(row if end is None else row[: end + 1])
        lengths = [len(completion) for completion in completions]
        for context, completion in zip(self.context, completions, strict=True):
            context += completion
        self.fed = [
            len(context) - 1 for context in self.context
        ]  # the last token has not been through the model
        slots = torch.arange(self.valid.shape[1] - start, device=self.valid.device)
        self.valid[:, start:] = slots < torch.tensor(lengths, device=self.valid.device)[:, None] - 1
        chosen = [row[:length] for row, length in zip(logprobs.T.tolist(), lengths, strict=True)]
        return Rollouts(prompts, completions, chosen, finished)

    def _feed(self) -> tuple[int, Tensor]:
        """Runs the tokens not yet in the cache; returns the first free slot and the next token's logits (B, V)."""
        device, budget = next(self.model.parameters()).device, self.sampling.max_new_tokens
        repeats = [1] * len(self.context)
        if first := self.cache is None:  # one row for each run of equal prompts
            repeats = [len(list(run)) for _, run in groupby(self.context)]
        rows = torch.tensor(repeats).cumsum(0).sub(1).tolist()
        blocks = [self.context[i][self.fed[i] :] for i in rows]
        width = max(map(len, blocks))
        ids = torch.tensor([[0] * (width - len(block)) + block for block in blocks], device=device)
        lengths = torch.tensor([len(block) for block in blocks], device=device)
        valid = torch.arange(width, device=device) >= width - lengths[:, None]  # padded on the left
        if first:
            self.cache = Cache(layers=[_Layer(width) for _ in range(_layers(self.model))])
        else:
            used = self.cache.get_seq_length()
            valid = torch.cat([self.valid[:, :used], valid], dim=1)
            self.cache = _select(self.cache, torch.arange(len(rows), device=device), used + width + budget)
        logits = _forward(self.model, ids, valid, self.cache)
        if first:
            copies = torch.arange(len(rows), device=device).repeat_interleave(
                torch.tensor(repeats, device=device)
            )
            logits, valid = logits[copies], valid[copies]
            self.cache = _select(self.cache, copies, width + budget)
        self.valid = F.pad(valid, (0, budget), value=True)  # slots of the turn to come
        return valid.shape[1], logits

    def _decode(self, logits: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """Samples up to max_new_tokens per row; returns tokens and log-probabilities, both (steps, B)."""
        budget, device = self.sampling.max_new_tokens, logits.device
        count = len(self.context)
        source = self.generator.device if self.generator else device
        uniforms = (
            torch.rand(count, budget, generator=self.generator, dtype=torch.float64, device=source)
            .to(device)
            .T
        )
        tokens = torch.zeros(budget, count, dtype=torch.long, device=device)
        logprobs = torch.zeros(budget, count, device=device)
        stops = torch.tensor(self.stop_ids, dtype=torch.long, device=device)
        rows, cache, valid = torch.arange(count, device=device), self.cache, self.valid
        step_model = _step_function(self.model, cache, valid)
        for step in range(budget):
            chosen, logprob = _sample(logits, self.sampling, uniforms[step, rows])
            tokens[step, rows], logprobs[step, rows] = chosen, logprob
            if self.on_token:
                self.on_token(len(rows))
            if step + 1 == budget:
                break
            if self.stop_ids and step % CHECK_EVERY == CHECK_EVERY - 1:
                alive = ~torch.isin(tokens[: step + 1, rows], stops).any(0)
                index = alive.nonzero()[:, 0]
                if len(index) == 0:
                    break
                if len(index) <= KEEP_ABOVE * len(rows):
                    if last:
                        self.cache = None
                    else:
                        _put_back(self.cache, rows, cache)
                    rows, chosen, valid = rows[index], chosen[index], valid[index]
                    cache = _select(cache, index, valid.shape[1])
                    step_model = _step_function(self.model, cache, valid)
            logits = step_model(chosen)
        if not last:
            _put_back(self.cache, rows, cache)
        return tokens[: step + 1], logprobs[: step + 1]


def _sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws one token per row by inverting the cumulative distribution at `uniforms` (B,) in [0, 1).

    One uniform per row instead of one exponential per word makes this cheaper than `torch.multinomial`.
    """
    logprobs = (logits.float() / (sampling.temperature or 1.0)).log_softmax(-1)
    if sampling.temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        probs, order = logprobs.exp(), None
        if sampling.top_k or sampling.top_p < 1:
            k = min(sampling.top_k or probs.shape[1], probs.shape[1])
            probs, order = probs.topk(k) if k < probs.shape[1] else probs.sort(descending=True)
        cdf = probs.cumsum(-1, dtype=torch.float64)
        mass = cdf[:, -1:]
        if sampling.top_p < 1:  # the smallest set of likeliest words whose probability reaches top_p
            mass = cdf.gather(1, (cdf < sampling.top_p * mass).sum(-1, keepdim=True))
        tokens = torch.searchsorted(cdf, uniforms[:, None] * mass, right=True).clamp(max=cdf.shape[1] - 1)
        tokens = tokens if order is None else order.gather(1, tokens)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]


class _Layer(CacheLayerMixin):
    """Keys and values of one layer in buffers (B, kv heads, capacity, head size) that are allocated once."""

    is_sliding = False  # a sliding window is applied by the mask; the buffers hold every token

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.length = capacity, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads = key_states.shape[:2]
        self.keys = key_states.new_empty(rows, heads, self.capacity, key_states.shape[3])
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


def _select(cache: Cache, rows: Tensor, capacity: int) -> Cache:
    """A new cache with these rows of `cache` (repeats allowed) and room for `capacity` tokens."""
    layers = []
    for old in cache.layers:
        layer = _Layer(capacity)
        layer.update(old.keys[rows, :, : old.length], old.values[rows, :, : old.length])
        layers.append(layer)
    return Cache(layers=layers)


def _put_back(cache: Cache, rows: Tensor, part: Cache) -> None:
    """Writes `part`, a selection of `rows` of `cache` that has grown since, back into `cache`."""
    for whole, layer in zip(cache.layers, part.layers, strict=True):
        if whole is not layer:
            whole.length = layer.length
            whole.keys[rows, :, : layer.length] = layer.keys[:, :, : layer.length]
            whole.values[rows, :, : layer.length] = layer.values[:, :, : layer.length]


def _forward(model: nn.Module, ids: Tensor, valid: Tensor, cache: Cache) -> Tensor:
    """Runs `ids` (B, n), the last n slots of `valid` (B, S), through the model; returns the last logits (B, V)."""
    positions = (valid.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    last_only = {"logits_to_keep": 1} if model._supports_logits_to_keep() else {}
    out = model(input_ids=ids, attention_mask=valid.long(), position_ids=positions, past_key_values=cache,
                use_cache=True, **last_only)  # fmt: skip
    return out.logits[:, -1]


def _step_function(model: nn.Module, cache: Cache, valid: Tensor) -> Callable[[Tensor], Tensor]:
    """The decode step: tokens (B,) → next logits (B, V), appending to `cache`.

    For Llama- and Qwen2-shaped models this is their forward pass with everything that does not change from step to
    step (masks, rotary tables) made once, and attention over the kv heads without repeating them.
    """
    if not _is_llama_like(model):
        return lambda tokens: _forward(model, tokens[:, None], valid[:, : cache.get_seq_length() + 1], cache)
    body, heads = model.model, cache.layers[0].keys.shape[1]
    positions = (valid.cumsum(1) - 1).clamp(min=0).T.contiguous()
    cos, sin = body.rotary_emb(cache.layers[0].keys, torch.arange(len(positions), device=valid.device)[None])
    cos, (low, high) = cos[0], sin[0].chunk(2, -1)
    sin = torch.cat([-low, high], -1)  # rotate(x) = x * cos + halves_swapped(x) * sin
    bias = None if valid.all() else torch.zeros_like(valid, dtype=cos.dtype).masked_fill(~valid, -torch.inf)

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        return F.rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon)

    def step(tokens: Tensor) -> Tensor:
        at = positions[cache.get_seq_length()]
        cos_B, sin_B = cos[at, None, None], sin[at, None, None]

        def rotate(x: Tensor) -> Tensor:
            low, high = x.chunk(2, -1)
            return (x * cos_B).addcmul_(torch.cat([high, low], -1), sin_B)

        x = body.embed_tokens(tokens)
        for index, layer in enumerate(body.layers):
            attention, h = layer.self_attn, norm(layer.input_layernorm, x)
            split = (
                len(tokens),
                heads,
                -1,
                attention.head_dim,
            )  # query heads of one kv head act as its queries
            query, key = rotate(attention.q_proj(h).view(split)), rotate(attention.k_proj(h).view(split))
            keys, values = cache.update(key, attention.v_proj(h).view(split), index)
            mask = None if bias is None else bias[:, None, None, : keys.shape[2]]
            h = F.scaled_dot_product_attention(query, keys, values, mask, scale=attention.scaling)
            x = x + attention.o_proj(h.reshape(len(tokens), -1))
            x = x + layer.mlp(norm(layer.post_attention_layernorm, x))
        return model.lm_head(norm(body.norm, x))

    return step


def _is_llama_like(model: nn.Module) -> bool:
    """Whether the hand-written step equals `model.forward`: full attention, fixed rotary table, nothing hooked in."""
    if type(model).__name__ not in ("LlamaForCausalLM", "Qwen2ForCausalLM"):
        return False
    config = model.config
    blocks = [
        model,
        model.model,
        *(m for layer in model.model.layers for m in (layer, layer.self_attn, layer.mlp)),
    ]
    return (
        set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
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
            raise ValueError(
                f"{model.active_peft_config.peft_type} adds virtual tokens; use a LoRA-like adapter"
            )
        model = model.get_base_model()
    types = set(getattr(model.config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if types:
        raise ValueError(f"layers of type {sorted(types)} keep more than keys and values; use model.generate")
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


def _layers(model: nn.Module) -> int:
    return model.config.get_text_config().num_hidden_layers


def _rows_for_cpu(model: nn.Module, tokens: int) -> int:
    """How many rows of `tokens` tokens keep the cache within `CPU_CACHE_BYTES`, or within the size of the weights.

    A decode step reads all weights and the whole cache once; below the larger of the two bounds, memory is not what
    limits it. No bound on a GPU.
    """
    model = unwrap(model)
    weight = next(model.parameters())
    if weight.device.type != "cpu":
        return 2**31
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_row = 2 * _layers(model) * heads * head_dim * weight.itemsize * tokens
    weights = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    return max(1, max(CPU_CACHE_BYTES, weights) // per_row)
