"""The study's rewards, one prompt's group at a time (arXiv 2508.21188, RQ1; authors' `syn_logic_reward.py`).

    y      one of the group's G responses, decoded without special tokens
    fmt    1 if strip(y) is <think>…</think> <answer>…</answer>, else 0    `is_formatted`
    ans    content of the first <answer>…</answer> of y, stripped          `extract`
    acc    verify(ans, gold)

| kind           | reward                     | correct | wrong  | correct, no <think> | empty  |
|----------------|----------------------------|---------|--------|---------------------|--------|
| ground_truth   | fmt * acc                  | 1       | 0      | 0                   | 0      |
| incorrect      | fmt * (1 - acc)            | 0       | 1      | 0                   | 0      |
| format         | fmt                        | 1       | 1      | 0                   | 0      |
| random         | fmt * Bernoulli(chance)    | 0 or 1  | 0 or 1 | 0                   | 0      |
| random_ungated | Bernoulli(chance)          | 0 or 1  | 0 or 1 | 0 or 1              | 0 or 1 |
| majority       | ans is the group's mode    | 0 or 1  | 0 or 1 | 0 or 1              | 0      |
| entropy        | mean token log-probability | <= 0    | <= 0   | <= 0                | lowest |

`random` is the authors': a format reward with dropout, not a coin; `random_ungated` is the coin, our control.
`majority` and `entropy` have no working code in the release; they follow test-time RL (arXiv 2504.16084) and
the authors' formula, without a format term.

A failure is never a score: where the verdict decides the reward and `verify` returned None or raised, the
reward is NaN. Whoever trains drops that group (`alignment_study.trainer`).
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

Kind = Literal["ground_truth", "random", "random_ungated", "incorrect", "format", "majority", "entropy"]
KINDS: tuple[str, ...] = get_args(Kind)
Verify = Callable[[str, Any], bool | None]  # (answer, gold) -> right or not; None: could not grade

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORMAT = r"^<think>.*?</think>\s*<answer>.*?</answer>$"  # the authors' pattern
_MULTI_LINE, _ONE_LINE = re.compile(_FORMAT, re.DOTALL), re.compile(_FORMAT)


class Uniform(Protocol):
    """`random.Random`, the module `random`, or a NumPy generator."""

    def random(self) -> float: ...


def extract(text: str) -> str | None:
    """The stripped content of the first `<answer>…</answer>` (may be empty), or None without one."""
    content = _first_block(text)
    return None if content is None else content.strip()


def is_formatted(text: str, *, released: bool = False) -> bool:
    """Whether the stripped text is a think block, then an answer block; two answers pass, as in the release.

    `released`: the authors' regex, in which no block may hold a newline (D1).
    """
    text = text.strip()
    if not (text.startswith(TAGS[0]) and text.endswith(TAGS[3])):
        return False  # said by the pattern too, but in quadratic time
    return (_ONE_LINE if released else _MULTI_LINE).match(text) is not None


def ballot(text: str) -> str:
    """The answer as it votes: white space collapsed; empty where there is no answer, which does not vote."""
    return " ".join((extract(text) or "").split())


def majority_label(texts: Sequence[str]) -> str | None:
    """The group's most frequent `ballot`; ties go to the first seen, None if nobody votes."""
    votes = Counter(vote for text in texts if (vote := ballot(text)))
    return max(votes, key=votes.__getitem__) if votes else None  # max and Counter keep the first of equals


def verdict(verify: Verify, answer: str, gold: Any) -> bool | None:
    """`verify`'s verdict; None where it gave none or raised (any exception: it reads model output)."""
    try:
        result = verify(answer, gold)
        return None if result is None else bool(result == 1)
    except Exception:
        return None


def same_text(answer: str, gold: Any) -> bool | None:
    """The default verifier: equal after strip. An empty gold grades nothing: None."""
    return answer.strip() == str(gold).strip() if str(gold).strip() else None


def score_group(
    kind: str,
    texts: Sequence[str],
    gold: Any,
    *,
    verify: Verify | None = None,
    rng: Uniform | None = None,
    token_logprobs: Sequence[Sequence[float]] | None = None,
    released: bool = False,
    chance: float = 0.5,
) -> list[float]:
    """The G rewards of one prompt's responses; the table above says which.

    Args:
        kind: one of KINDS.
        texts: the whole group, decoded without special tokens.
        gold: the answer; only `ground_truth` and `incorrect` look at it.
        verify: grades an answer against `gold`; None is `same_text`.
        rng: draws one uniform number per response of the random kinds; None is Python's global generator,
            which `shared.seeding.seed_everything` seeds (the authors never seed it).
        token_logprobs: of the sampled tokens under the sampling policy, one row per text; for `entropy`.
        released: as the authors' file: no block holds a newline, the answer is not stripped, and with
            `verify=None`, their math tasks, it must equal `gold` to the character and `incorrect` is
            `ground_truth`: the function is defined twice, and the second definition inverts only the logged
            accuracy (D2). With a `verify`, their logic tasks, `incorrect` is as in the table.
        chance: P(reward 1) of the random kinds, 0.5 in the release.

    Returns:
        0.0 or 1.0 each; log-probabilities for `entropy`, where a response without tokens, which showed no
        confidence, gets the group's lowest (0.0 if all are empty); NaN for a failure.

    Raises:
        ValueError: an unknown kind, `chance` outside [0, 1], `token_logprobs` missing or of another length.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not a reward; choose one of {', '.join(KINDS)}")
    if not 0 <= chance <= 1:
        raise ValueError(f"chance={chance} is not a probability; give a number from 0 to 1")
    if kind == "entropy":
        return _mean_logprobs(len(texts), token_logprobs)
    if kind == "majority":
        winner = majority_label(texts)
        return [float(winner is not None and ballot(text) == winner) for text in texts]
    formatted = [is_formatted(text, released=released) for text in texts]
    if kind == "format":
        return [float(ok) for ok in formatted]
    if kind in ("random", "random_ungated"):
        uniform = random if rng is None else rng
        coins = [uniform.random() >= 1 - chance for _ in texts]  # one for each, formatted or not
        return [
            float(coin and (ok or kind == "random_ungated"))
            for coin, ok in zip(coins, formatted, strict=True)
        ]
    inverted = kind == "incorrect" and not (released and verify is None)  # D2
    grade = verify or (_same_characters if released else same_text)
    rewards: list[float] = []
    for text, ok in zip(texts, formatted, strict=True):
        answer = _released_answer(text) if released else extract(text)
        if not ok or answer is None:
            rewards.append(0.0)  # whatever the answer, so nobody is asked
            continue
        right = verdict(grade, answer, gold)
        rewards.append(math.nan if right is None else float(right != inverted))
    return rewards


def _same_characters(answer: str, gold: Any) -> bool | None:
    return answer == str(gold)


def _first_block(text: str) -> str | None:
    start = text.find(TAGS[2])
    end = text.find(TAGS[3], start)  # plain searches: linear also in "<answer><answer><answer>…"
    return None if start < 0 or end < 0 else text[start + len(TAGS[2]) : end]


def _released_answer(text: str) -> str | None:
    return next((block for line in text.split("\n") if (block := _first_block(line)) is not None), None)


def _mean_logprobs(count: int, token_logprobs: Sequence[Sequence[float]] | None) -> list[float]:
    if token_logprobs is None:
        raise ValueError("kind='entropy' rewards confidence; pass token_logprobs, one row per text")
    if len(token_logprobs) != count:
        raise ValueError(
            f"token_logprobs has {len(token_logprobs)} rows for {count} texts; give one row per text"
        )
    means = [math.fsum(row) / len(row) if len(row) else None for row in token_logprobs]
    known = [mean for mean in means if mean is not None]
    lowest = min(known, default=0.0)
    rewards = [lowest if mean is None else mean for mean in means]
    return [reward if math.isfinite(reward) else math.nan for reward in rewards]
