"""Samples completions from a causal language model: prefill → expand → decode loop → sample.

Each prompt is prefilled once and its cache copied to all of its samples; rows that have ended leave the
batch. Works with any transformers model made of attention layers (`shared.decoding` holds the model's side).

Shapes: B rows (prompt-major: row = prompt * samples + sample), S slots of the cache, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from shared.decoding import CacheLayer, decoder, evaluating, forward, unwrap

CHECK_EVERY = 8  # steps between looks at which rows have ended: on a GPU each look waits for the device
KEEP_ABOVE = 0.6  # ended rows leave when at most this share is alive: leaving copies the cache
CPU_ROOM = 4  # slots by which a cache on a CPU grows: wider gaps between rows make attention up to 3x slower
ROWS_PER_THREAD = 64  # batches this large run one per CPU thread: faster than threads inside each operation


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 is greedy; top_p 1 and top_k 0 are off; top_k goes before top_p."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"{self} needs max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1, top_k >= 0"
            )


@dataclass
class Rollouts:
    """One entry per row. `logprobs` are the sampled tokens' under softmax(logits / temperature), before top-k
    and top-p (greedy: temperature 1). A stop token ends a completion, is part of it and means `finished`."""

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
    """Draws `samples` completions per prompt, `max_rows` at once; equal neighbours are prefilled once.

    `forced_prefix` is appended to every prompt and counts as prompt. The same seed of `generator` (None:
    torch's global one) gives the same output. `on_token(count)` is called per step, from any thread.

    Raises:
        ValueError: an empty prompt, or a model that `shared.decoding.unwrap` refuses.
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
    with evaluating(unwrap(model)), ThreadPoolExecutor(workers) as pool:
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

    `generate()` samples a turn for every row, `extend()` appends e.g. a tool's reply, `keep()` drops the
    other rows; `context` holds each row's tokens so far. Arguments as in the function `generate`.
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
        self.cache = Cache(layer_class_to_replicate=partial(CacheLayer, room))  # type: ignore[arg-type]
        self.valid = torch.zeros(len(self.context), 0, dtype=torch.bool, device=self.device)  # (B, S)

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Appends `tokens[i]` (may be empty) to row i."""
        if getattr(self.model.config, "sliding_window", None):
            raise ValueError(
                "a sliding window would count the padding between turns; use a model without one"
            )
        for context, new in zip(self.context, tokens, strict=True):
            context += new

    def keep(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, in this order."""
        self.context, self.fed = [self.context[i] for i in rows], [self.fed[i] for i in rows]
        self._select(torch.tensor(list(rows), dtype=torch.long, device=self.device))

    @torch.inference_mode()
    def generate(self, *, uniforms: Tensor | None = None, last: bool = False) -> Rollouts:
        """Samples one turn for every row; in the `last` turn ended rows leave, and the session is over."""
        turn = Rollouts([list(context) for context in self.context])
        if not self.context:
            return turn
        if uniforms is None:
            uniforms = _uniforms(len(self.context), self.sampling, self.generator)
        with evaluating(self.model):
            tokens, logprobs = self._decode(self._prefill(), uniforms.to(self.device), last)
        rows = zip(self.context, tokens.T.tolist(), logprobs.T.tolist(), strict=True)
        for context, row, row_logprobs in rows:
            length = next((i + 1 for i, token in enumerate(row) if token in self.stop_ids), None)
            turn.finished.append(length is not None)
            turn.completion_ids.append(row[:length])
            turn.logprobs.append(row_logprobs[:length])
            context += row[:length]
        if not last:
            self.fed = [
                len(context) - 1 for context in self.context
            ]  # the last token waits for the next turn
            fed = torch.tensor([[len(row) - 1] for row in turn.completion_ids], device=self.device)
            slots = torch.arange(self.cache.get_seq_length() - self.valid.shape[1], device=self.device)
            self.valid = torch.cat([self.valid, slots < fed], dim=1)
        return turn

    def _prefill(self) -> Tensor:
        """Runs the tokens not in the cache, equal neighbours of a first turn once; returns logits (B, V)."""
        rows, copies = [], []
        for i, context in enumerate(self.context):
            if not rows or self.fed[i] or context != self.context[rows[-1]]:
                rows.append(i)
            copies.append(len(rows) - 1)
        blocks = [self.context[i][self.fed[i] :] for i in rows]
        width = max(map(len, blocks))
        ids = torch.tensor([[0] * (width - len(block)) + block for block in blocks], device=self.device)
        padding = torch.tensor([[width - len(block)] for block in blocks], device=self.device)
        new = torch.arange(width, device=self.device) >= padding  # on the left
        self.valid = torch.cat([self.valid[rows], new], dim=1)
        logits = forward(self.model, ids, self.valid, self.cache)
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
        decode = decoder(self.model, self.cache, self.valid, steps)
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
                    decode = decoder(self.model, self.cache, self.valid, steps)
            logits = decode(chosen)
        return tokens[: step + 1], logprobs[: step + 1]

    def _select(self, rows: Tensor) -> None:
        self.valid = self.valid[rows]
        self.cache.batch_select_indices(rows)


def _uniforms(rows: int, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator else None
    return torch.rand(rows, sampling.max_new_tokens, generator=generator, dtype=torch.float64, device=device)


def _sample(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draws the token where the cumulative distribution passes `uniforms` (B,) in [0, 1); with its log-prob.

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


def trl_rollout_func(
    forced_prefix: Sequence[int] = (), max_rows: int = 512
) -> Callable[..., dict[str, list]]:
    """What TRL's `GRPOTrainer(rollout_func=...)` takes; sampling and stop ids are the trainer's own.

    Raises (when called): ValueError for what this engine lacks: min_p, a repetition penalty, images.
    """

    def rollout(prompts: list, trainer: Any) -> dict[str, list]:
        args = trainer.args
        prompt_ids, images, _ = trainer._tokenize_prompts(prompts)  # TRL's own, so templates and tools match
        if args.min_p or args.repetition_penalty != 1 or images:
            raise ValueError(
                f"min_p={args.min_p}, repetition_penalty={args.repetition_penalty}, images: use vLLM"
            )
        out = generate(
            trainer.model_wrapped,
            prompt_ids,
            sampling=Sampling(args.max_completion_length, args.temperature, args.top_p, args.top_k),
            stop_ids=trainer.eos_token_ids,
            forced_prefix=forced_prefix,
            max_rows=max_rows,
        )
        return {"prompt_ids": out.prompt_ids, "completion_ids": out.completion_ids, "logprobs": out.logprobs}

    return rollout
