"""The language half of pretraining: rows of similar length, cached picture features, loss on the replies.

R rows, L tokens of the longest, T picture tokens. Rows are padded on the right, where causal attention needs
no mask. Everything drawn is a function of (seed, chunk), so that a resumed run goes on with the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cls_rl import pretrain_text as text
from cls_rl import prompts
from cls_rl.pretrain_text import Concept, Row
from cls_rl.processor import IMAGE
from shared.seeding import derive_seed

CHUNK = 16  # batches drawn together and sorted by length
NAMING = 0.3  # of the steps: short prompts first, with lists of up to 8 names
GROWING = 0.2  # of the steps: then lists grow to up to 40
MOST, MOST_CHOOSING = 0.6, 0.9  # share of another picture's features that is blended in at most
LOOKALIKES = 0.85  # of the list rows of the last stage: what is blended in is a near name outside the list


@dataclass(frozen=True)
class Corpus:
    """What rows are made of; `features` is (V, N, T, hidden): V augmented views of N drawings, cached."""

    concepts: list[Concept]  # by drawing, N
    colours: list[list[tuple[str, ...]]]  # by view and drawing
    features: Tensor
    weights: list[float]  # how often each drawing is drawn
    everything: list[str]  # all names

    @cached_property
    def drawings(self) -> dict[str, list[int]]:
        """Name -> its drawings."""
        found: dict[str, list[int]] = {}
        for index, concept in enumerate(self.concepts):
            found.setdefault(concept.name, []).append(index)
        return found


@dataclass(frozen=True)
class Batch:
    """`targets` (R, L) holds the id of the next token where it belongs to the reply, else -100."""

    ids: Tensor
    targets: Tensor
    weights: Tensor  # (R,): of each token's loss
    features: Tensor  # (R, T, hidden)


def chunk(
    processor: Any, corpus: Corpus, rows: int, progress: float, seed: int, number: int, choosing: bool = False
) -> list[Batch]:
    """CHUNK batches of `rows` rows each, each of rows of similar length, in random order.

    Args:
        progress: 0 to 1; up to NAMING the rows are short, later most have lists of up to 40 names.
        choosing: the last stage, in which pictures resemble near names that the list lacks.
    """
    rng = Random(derive_seed(seed, "choosing" if choosing else "rows", number))
    draw = _draw_choice if choosing else _draw
    drawn = [draw(corpus, progress, rng) for _ in range(CHUNK * rows)]
    replies = [row.reply + processor.tokenizer.eos_token for row, _ in drawn]
    chats = chat_texts(processor, [row.user for row, _ in drawn], corpus.features.shape[2])
    prompt_ids = processor.tokenizer(chats, add_special_tokens=False)["input_ids"]
    reply_ids = processor.tokenizer(replies, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(drawn)), key=lambda i: len(prompt_ids[i]) + len(reply_ids[i]))
    parts = [order[first : first + rows] for first in range(0, len(order), rows)]
    rng.shuffle(parts)
    generator = torch.Generator().manual_seed(derive_seed(seed, "blend", number))
    most = MOST_CHOOSING if choosing else MOST
    return [
        collate(
            [(prompt_ids[i], reply_ids[i]) for i in part],
            processor.tokenizer.pad_token_id,
            _blended(corpus, [drawn[i][1] for i in part], most, generator),
        )
        for part in parts
    ]


def chat_texts(processor: Any, users: Sequence[str], image_tokens: int) -> list[str]:
    """Rendered chats up to the reply, with `image_tokens` placeholders; the template is applied once."""
    mark = "\x00"
    chat = processor.apply_chat_template(prompts.messages(mark), add_generation_prompt=True, tokenize=False)
    before, after = chat.replace(IMAGE, IMAGE * image_tokens).split(mark)
    return [before + user + after for user in users]


def collate(pairs: Sequence[tuple[list[int], list[int]]], pad_id: int, features: Tensor) -> Batch:
    """Prompts and replies side by side. A token weighs 1 / sqrt(tokens of its reply), so that a name alone
    and a name inside a long thought both count."""
    length = max(len(prompt) + len(reply) for prompt, reply in pairs)
    ids = torch.full((len(pairs), length), pad_id)
    targets = torch.full((len(pairs), length), -100)
    for i, (prompt, reply) in enumerate(pairs):
        whole = torch.tensor(prompt + reply)
        ids[i, : len(whole)] = whole
        targets[i, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    weights = torch.tensor([len(reply) ** -0.5 for _, reply in pairs])
    return Batch(ids, targets, weights, features)


def reply_loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """(weighted mean loss, share of reply tokens predicted); logits are made for reply tokens only."""
    embedded = model.get_input_embeddings()(batch.ids)
    seen = batch.ids == model.config.image_token_id
    embedded = embedded.masked_scatter(seen[..., None], batch.features)
    places = positions(batch.ids, seen)
    hidden = model.model.language_model(inputs_embeds=embedded, position_ids=places, use_cache=False)
    wanted = batch.targets >= 0
    logits = model.lm_head(hidden.last_hidden_state[wanted])
    targets = batch.targets[wanted]
    weights = batch.weights[:, None].expand_as(wanted)[wanted]
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum(), (logits.argmax(-1) == targets).float().mean()


def positions(ids: Tensor, seen: Tensor) -> Tensor:
    """(3, R, L) time, height, width of rows with one square picture, all at the same place (Qwen's rule)."""
    first, count = int(seen[0].int().argmax()), int(seen[0].sum())
    side = round(count**0.5)
    after = ids.shape[1] - first - count
    axes = [
        torch.zeros(count, dtype=torch.long),
        torch.arange(side).repeat_interleave(side),
        torch.arange(side).repeat(side),
    ]
    rows = [
        torch.cat([torch.arange(first), first + axis, first + side + torch.arange(after)]) for axis in axes
    ]
    return torch.stack(rows)[:, None].expand(3, len(ids), -1)


def _draw(corpus: Corpus, progress: float, rng: Random) -> tuple[Row, tuple[int, int, int]]:
    """A row, and its view, drawing, and the drawing blended in (itself for none)."""
    index = rng.choices(range(len(corpus.concepts)), cum_weights=corpus.weights)[0]
    view = rng.randrange(len(corpus.features))
    concept, seen = corpus.concepts[index], corpus.colours[view][index]
    task = rng.random()
    short = progress < NAMING
    if task < (0.4 if short else 0.06):
        return text.open_row(concept, seen, text.choose_method(rng), rng), (view, index, index)
    if task < (0.75 if short else 0.16):
        size = rng.randint(2, 8 if short else 24)
        return text.reading_row(corpus.everything, concept.near, size, rng), (view, index, index)
    growth = min(1.0, max(0.0, progress - NAMING) / GROWING)
    size = min(rng.choice((12, 24, round(2 * 20 ** rng.random()))), round(8 + 32 * growth))
    names = text.options(concept, corpus.everything, size, rng)
    other = index
    if rng.random() < 0.4:  # the list alone tells which of two pictures is meant
        other = rng.randrange(len(corpus.concepts))
        other = index if corpus.concepts[other].name in names else other
    return text.list_row(concept, names, seen, text.choose_method(rng), rng), (view, index, other)


def _draw_choice(corpus: Corpus, progress: float, rng: Random) -> tuple[Row, tuple[int, int, int]]:
    """As `_draw`, but most rows list half of the near names, and the picture is blended with one of the other
    half: only who reads the list answers with an option."""
    index = rng.choices(range(len(corpus.concepts)), cum_weights=corpus.weights)[0]
    view, concept = rng.randrange(len(corpus.features)), corpus.concepts[index]
    others = [name for name in concept.near if name != concept.name and name in corpus.drawings]
    if rng.random() >= LOOKALIKES or len(others) < 2:
        return _draw(corpus, progress, rng)
    rng.shuffle(others)
    listed, absent = others[: len(others) // 2], others[len(others) // 2 :]
    names = [concept.name, *listed]
    rng.shuffle(names)
    row = text.list_row(concept, names, corpus.colours[view][index], text.choose_method(rng), rng)
    return row, (view, index, rng.choice(corpus.drawings[rng.choice(absent)]))


def _blended(
    corpus: Corpus, chosen: Sequence[tuple[int, int, int]], most: float, generator: torch.Generator
) -> Tensor:
    """Features with up to `most` of another picture's and some noise: new drawings are seen less clearly."""
    view, index, other = torch.tensor(chosen).unbind(1)
    share = torch.rand(len(chosen), 1, 1, generator=generator) * most
    mixed = (1 - share) * corpus.features[view, index] + share * corpus.features[view, other]
    noise = torch.randn(mixed.shape, generator=generator) * mixed.std()
    return mixed + noise * 0.4 * torch.rand(len(chosen), 1, 1, generator=generator)
