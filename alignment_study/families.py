"""The generated letter-string families of the small scale: what the base model knows is set by construction.

    prompt       rev a b c =
    tagged       <think> a b c </think> <answer> c b a </answer>
    filler       . . .                                              (the other form; it answers nothing)

An operation moves letters (`positions`) or shifts them along the alphabet a..j (`shift`). Two worlds give the
two kinds swapped roles, with one tokenizer and the same prompts: **one** pre-trains much on permutations
and little on Caesar shifts, **two** the reverse. Each has an *aligned* family (trained on by RL), a
*transfer* family (as well known, never trained on by RL: the paper's Green columns) and a *weak* one.

The base model must fail by form on what it knows (sheet §7.1): 60 % of the pre-training text is filler, and a
tagged text holds the right answer but for one in eight, whose answer is three random letters.

No test input is ever in pre-training or RL: a hash of operation and letters decides the side.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from shared import tiny
from shared.seeding import derive_seed

Split = Literal["train", "validation", "test"]
WorldName = Literal["one", "two"]

LETTERS = "abcdefghij"  # K = 10 (§7.2)
LENGTH = 3
FILLER = "."
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
MAX_COMPLETION = 11  # <think> x x x </think> <answer> r r r </answer> eos
FILLER_SHARE = 0.6  # of the pre-training text; the rest is tagged
SLOPPY_SHARE = 1 / 8  # of the tagged text: the answer is three random letters


@dataclass(frozen=True)
class Operation:
    """Letter i of the result is letter `positions[i]` of the input, `shift` places on in a..j (cyclic)."""

    positions: tuple[int, ...] = (0, 1, 2)
    shift: int = 0

    def apply(self, letters: str) -> str:
        """`letters`: LENGTH of them."""
        moved = (LETTERS.index(letters[i]) + self.shift for i in self.positions)
        return "".join(LETTERS[i % len(LETTERS)] for i in moved)


OPERATIONS: dict[str, Operation] = {
    "rev": Operation((2, 1, 0)),
    "rotl": Operation((1, 2, 0)),
    "rotr": Operation((2, 0, 1)),
    "swap12": Operation((1, 0, 2)),
    "swap23": Operation((0, 2, 1)),
    "copy": Operation((0, 1, 2)),
    "first": Operation((0, 0, 0)),
    **{f"+{s}": Operation(shift=s) for s in (1, 2, 3, 4, 6, 7, 8, 9)},
}
FAMILIES: dict[str, tuple[str, ...]] = {
    "perm": ("rev", "rotl", "rotr", "swap12"),
    "perm_transfer": ("copy", "swap23", "first"),
    "caesar": ("+3", "+7", "+4", "+6", "+9"),
    "shift": ("+3", "+7", "+4", "+6"),
    "shift_transfer": ("+1", "+2", "+8"),
    "rearrange": ("rev", "rotl", "rotr", "swap12", "swap23"),
}


@dataclass(frozen=True)
class World:
    """Which family plays which role, and the share of the weak one in the pre-training text."""

    aligned: str  # M
    transfer: str  # G
    weak: str  # L
    weak_share: float


WORLDS: dict[WorldName, World] = {
    "one": World("perm", "perm_transfer", "caesar", weak_share=0.25),  # §7.2
    "two": World("shift", "shift_transfer", "rearrange", weak_share=0.175),
}


@dataclass(frozen=True)
class Item:
    """One problem: an operation of OPERATIONS and LENGTH letters."""

    operation: str
    letters: str

    @property
    def prompt(self) -> str:
        return f"{self.operation} {' '.join(self.letters)} ="

    @property
    def answer(self) -> str:
        return " ".join(OPERATIONS[self.operation].apply(self.letters))

    def tagged(self, answer: str | None = None) -> str:
        """The tagged completion with `answer`, by default the right one."""
        return f"<think> {' '.join(self.letters)} </think> <answer> {answer or self.answer} </answer>"

    @property
    def split(self) -> Split:
        """20 % test (§7.2), 4 % validation: the checkpoint gate looks there, never at test items."""
        digest = hashlib.blake2b(self.prompt.encode(), digest_size=4).digest()
        side = int.from_bytes(digest, "big") % 25
        return "test" if side < 5 else "validation" if side == 5 else "train"


@cache
def items(operation: str, split: Split) -> tuple[Item, ...]:
    """All items of one operation on one side of the split: about 760, 40 and 200 of 1,000."""
    whole = (Item(operation, "".join(x)) for x in itertools.product(LETTERS, repeat=LENGTH))
    return tuple(item for item in whole if item.split == split)


def draw(family: str, split: Split, n: int, seed: int) -> list[Item]:
    """`n` distinct items, the operations taking turns; a function of the arguments.

    Raises:
        ValueError: an unknown family, or more items than there are.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}; choose from {', '.join(FAMILIES)}")
    decks = []
    for operation in FAMILIES[family]:
        deck = list(items(operation, split))
        random.Random(derive_seed(seed, "families", operation, split)).shuffle(deck)
        decks.append(deck)
    room = min(map(len, decks)) * len(decks)
    if not 1 <= n <= room:
        raise ValueError(f"n={n} items of {family}/{split}: there are 1 to {room}; ask for fewer")
    return [deck[turn] for turn in range(-(-n // len(decks))) for deck in decks][:n]


def tokenizer() -> PreTrainedTokenizerFast:
    """One id per word, the same for both worlds; encoding puts <bos> first, decoding joins by one space.

    The four tags are plain words, so that decoding without special tokens keeps them for `rewards.extract`.
    It has no chat template: the model is a base model.
    """
    words = [*TAGS, "=", FILLER, *OPERATIONS, *LETTERS]
    made = tiny.word_tokenizer(words)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tiny.BOS} $A", special_tokens=[(tiny.BOS, made.bos_token_id)]
    )
    made.chat_template = None
    return made


class PretrainingText:
    """The pre-training text of a world as token ids.

    Args:
        weak_share: share of sequences from the weak family; the rest goes evenly to the operations of the
            aligned and the transfer family.
    """

    def __init__(self, world: World, weak_share: float) -> None:
        if not 0 <= weak_share < 1:
            raise ValueError(f"{weak_share=} is outside [0, 1); the presets use 0.05 to 0.25")
        self.tokenizer = tokenizer()
        weak = FAMILIES[world.weak]
        known = [*FAMILIES[world.aligned], *FAMILIES[world.transfer]]
        self.operations = [*weak, *known]
        self.shares = [weak_share / len(weak)] * len(weak) + [(1 - weak_share) / len(known)] * len(known)
        train = {op: items(op, "train") for op in self.operations}
        self.prompts = {op: self._ids([i.prompt for i in train[op]], bos=True) for op in train}
        self.tagged = {op: self._ids([i.tagged() for i in train[op]]) for op in train}
        self.letters = np.array(self.tokenizer.convert_tokens_to_ids(list(LETTERS)))

    def _ids(self, texts: list[str], bos: bool = False) -> np.ndarray:
        return np.array(self.tokenizer(texts, add_special_tokens=bos)["input_ids"])

    def batch(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """(size, 17) int64: <bos> prompt completion <eos>, padded on the right."""
        pad, eos = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        (filler,) = self._ids([FILLER])[0]
        rows = np.full((size, 6 + MAX_COMPLETION), pad)
        rows[:, 6:9], rows[:, 9] = filler, eos
        for row, at in zip(rows, rng.choice(len(self.operations), size, p=self.shares), strict=True):
            operation = self.operations[at]
            pick = rng.integers(len(self.prompts[operation]))
            row[:6] = self.prompts[operation][pick]
            if rng.random() >= FILLER_SHARE:
                row[6:16], row[16] = self.tagged[operation][pick], eos
                if rng.random() < SLOPPY_SHARE:
                    row[12:15] = rng.choice(self.letters, LENGTH)
        return rows
