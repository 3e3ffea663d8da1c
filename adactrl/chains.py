"""The generated task of the small scale: apply a chain of operations to a string of four digits.

    question   3 1 4 1 : rev +2 swap
    answer     6 3 3 5       (1 4 1 3, then 3 6 3 5, then its first two digits change places)

It stands in for the paper's mathematics because it has what AdaCtrl needs: two ways of answering, one short
and one long, whose gap in accuracy grows with difficulty.

* **short** writes the string after every second operation and the answer: two operations at a time must be
  composed inside one forward pass, and that fails more the longer and harder the chain.
* **long** copies the problem, writes the string after every operation, then repeats the result. Every step
  is easy, but for the `dice` of hard chains: it adds 1, 2 or 3 to every digit, decided by a hash of the
  question. Nobody can know it, so that a hard chain is solved a third of the time at best, however long one
  reasons: the situation of a contest problem that a model solves now and then.

Three tiers stand in for GSM8K, MATH500 and AIME: **T1** one or two operations, **T2** three or four, **T3**
six or eight, one of them the dice. Training, validation (gate, probes) and test problems never share a
question: a hash of the question's text decides the split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from shared.seeding import derive_seed

Split = Literal["train", "validation", "test"]
Tier = Literal["T1", "T2", "T3"]
TIERS: tuple[Tier, ...] = ("T1", "T2", "T3")

DIGITS = 4
REARRANGE = {"rev": (3, 2, 1, 0), "rotl": (1, 2, 3, 0), "swap": (1, 0, 2, 3)}
SHIFT = {f"+{k}": k for k in range(1, 6)}
EASY_OPS = (*REARRANGE, "+1", "+2", "+3")
PLAIN_OPS = (*REARRANGE, *SHIFT)
DICE = "dice"  # exactly one in a hard chain: +1, +2 or +3, decided by a hash of the question
# Operations per problem, drawn uniformly: a tenth of T1 has one operation.
LENGTHS: dict[Tier, tuple[int, ...]] = {"T1": (1, *[2] * 9), "T2": (3, 4), "T3": (6, 8)}

WORDS = ["[Easy]", "[Hard]", "start", "wait", ";", ":", "\\boxed{", "}"]
WORDS += [str(d) for d in range(10)] + [*REARRANGE, *SHIFT, DICE]

# Share of RL prompts per tier range; T3's range also holds chains of four.
RL_MIX: dict[Tier, float] = {"T1": 0.25, "T2": 0.40, "T3": 0.35}


def apply(digits: tuple[int, ...], op: str) -> tuple[int, ...]:
    """A rearrangement, or `+k` on every digit modulo 10."""
    if op in REARRANGE:
        return tuple(digits[i] for i in REARRANGE[op])
    if op in SHIFT:
        return tuple((d + SHIFT[op]) % 10 for d in digits)
    raise ValueError(f"op={op!r} is not one of {', '.join(PLAIN_OPS)}")


def _text(digits: tuple[int, ...]) -> str:
    return " ".join(map(str, digits))


@dataclass(frozen=True)
class Chain:
    """One problem; `difficulty` stands in for DeepMath's annotation (1 to 9)."""

    start: tuple[int, ...]
    ops: tuple[str, ...]
    hard: bool

    @cached_property
    def thrown(self) -> str:
        """What the dice of this question does."""
        return f"+{1 + self._hash[1] % 3}"

    @cached_property
    def states(self) -> list[tuple[int, ...]]:
        states, digits = [], self.start
        for op in self.ops:
            digits = apply(digits, self.thrown if op == DICE else op)
            states.append(digits)
        return states

    @cached_property
    def question(self) -> str:
        return f"{_text(self.start)} : {' '.join(self.ops)}"

    @property
    def answer(self) -> str:
        """The final digits."""
        return _text(self.states[-1])

    @property
    def difficulty(self) -> float:
        n = len(self.ops)
        if self.hard:
            return float(min(5 + (n + 3) // 2, 9))  # 1-2 -> 7, 4 -> 8, 6 and more -> 9
        return float(2 if n <= 2 else n + 1)  # 3 -> 4, 4 -> 5

    @property
    def boxed(self) -> str:
        return f"\\boxed{{ {self.answer} }}"

    @property
    def short(self) -> str:
        """The string after every second operation, then the answer."""
        return " ".join([_text(state) for state in self.states[1:-1:2]] + [self.boxed])

    @property
    def verbose(self) -> str:
        """The short answer, said three times: longer, and no more accurate."""
        return self.short.replace(self.boxed, f"wait {self.answer} wait {self.answer} {self.boxed}")

    @property
    def long(self) -> str:
        """Every step (of the dice also what it threw), a pause, the result again, then the answer."""
        done = [f"{op} {self.thrown}" if op == DICE else op for op in self.ops]
        steps = [f"{op} {_text(state)} ;" for op, state in zip(done, self.states, strict=True)]
        return " ".join([f"start {_text(self.start)} ;", *steps, f"wait {self.answer}", self.boxed])

    @property
    def split(self) -> Split:
        """A sixteenth of all questions each is validation and test."""
        return {0: "test", 1: "validation"}.get(self._hash[0] % 16, "train")  # type: ignore[return-value]

    @cached_property
    def _hash(self) -> bytes:
        return hashlib.blake2b(self.question.encode(), digest_size=4).digest()


def _draw(rng: random.Random, length: int, hard: bool) -> Chain:
    start = tuple(rng.randrange(10) for _ in range(DIGITS))
    ops = rng.choices(PLAIN_OPS if hard else EASY_OPS, k=length)
    if hard:
        ops[rng.randrange(length)] = DICE
    return Chain(start, tuple(ops), hard)


def _draw_in(split: Split, rng: random.Random, lengths: tuple[int, ...], hard: bool) -> Chain:
    for _ in range(10_000):
        chain = _draw(rng, rng.choice(lengths), hard)
        if chain.split == split:
            return chain
    raise RuntimeError(f"no {split} problem of length {lengths} in 10000 draws")


def tier_problems(tier: Tier, count: int, split: Split, seed: int) -> list[Chain]:
    """`count` distinct problems of one tier; a function of (tier, split, seed)."""
    rng = random.Random(derive_seed(seed, "chains", tier, split))
    found: dict[str, Chain] = {}
    while len(found) < count:
        chain = _draw_in(split, rng, LENGTHS[tier], hard=tier == "T3")
        found.setdefault(chain.question, chain)
    return list(found.values())


def cold_start_problems(seed: int) -> Iterator[Chain]:
    """Endless training problems for both SFT styles: 30 % hard chains of 1 to 8, the rest easy ones, short
    ones often."""
    rng = random.Random(derive_seed(seed, "chains", "cold start"))
    while True:
        if rng.random() < 0.3:
            yield _draw_in("train", rng, (1, 2, 3, 4, 6, 8, 6, 8), hard=True)
        else:
            yield _draw_in("train", rng, (1, 2, 2, 2, 2, 3, 3, 4, 4), hard=False)


def rl_problems(count: int, seed: int) -> list[tuple[Tier, Chain]]:
    """Fresh training problems for RL, with the tier whose range they come from."""
    rng = random.Random(derive_seed(seed, "chains", "rl"))
    tiers = rng.choices(list(RL_MIX), weights=list(RL_MIX.values()), k=count)
    lengths = {**LENGTHS, "T3": (4, 6, 8)}
    return [(tier, _draw_in("train", rng, lengths[tier], hard=tier == "T3")) for tier in tiers]
