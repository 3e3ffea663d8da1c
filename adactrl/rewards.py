"""AdaCtrl's reward, one prompt's group at a time (arXiv 2505.18822; authors' `naive.py`).

    r(y) = r_o(y) + r_over(y) + alpha * r_f(y) + beta * r_l(y)

r_o    outcome: +1 correct, -1 wrong                        `outcome_reward`
r_f    difficulty calibration: tag against the online label  `calibration_reward`, `difficulty_label`
r_l    cosine length reward for answers tagged [Easy]        `length_reward`
r_over soft over-long penalty (DAPO)                         `overlong_penalty`

The label and the longest length are statistics of the *whole* group of G samples of one prompt, so every
function here that needs them takes whole groups. They are recomputed from the current policy's samples at
each step: the label drifts as the model improves (claim 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adactrl.tags import Difficulty

LengthGate = Literal["correct", "tag"]


@dataclass(frozen=True)
class RewardParts:
    """The four unweighted terms and the weighted total of one response."""

    outcome: float
    overlong: float
    calibration: float
    length: float
    total: float


def outcome_reward(correct: bool) -> float:
    """r_o: +1 for a correct final answer, -1 for a wrong or missing one."""
    return 1.0 if correct else -1.0


def difficulty_label(correct: Sequence[bool], threshold: float = 0.625) -> Difficulty:
    """Online label of a prompt: easy iff the group's accuracy is *strictly* above `threshold` (delta).

    Args:
        correct: correctness of all G samples of the prompt.
        threshold: delta, 0.625 in the authors' `qwen-7b.sh`. With G = 16, 10 correct is hard, 11 is easy.
    """
    if not correct:
        raise ValueError("difficulty_label needs at least one sample; the group is empty")
    return "easy" if sum(map(bool, correct)) / len(correct) > threshold else "hard"


def calibration_reward(tag: Difficulty | None, label: Difficulty) -> float:
    """r_f: +1 if the tag equals the online label, 0 for the other tag, -1 without a valid tag."""
    if tag is None:
        return -1.0
    return 1.0 if tag == label else 0.0


def length_reward(length: int, longest: int) -> float:
    """r_l = 1 - (1 - cos(pi * l / L)) / 2, in [0, 1], decreasing: 1 at l = 0, 0.5 at l = L/2, 0 at l = L.

    Args:
        length: l, tokens of this response, end-of-sequence token included.
        longest: L, the longest response of the whole group, whatever its tag or correctness.
    """
    if longest <= 0 or not 0 <= length <= longest:
        raise ValueError(
            f"need 0 <= length <= longest and longest > 0; got length={length}, longest={longest}"
        )
    return 1.0 - (1.0 - math.cos(math.pi * length / longest)) / 2.0


def overlong_penalty(length: int, max_length: int, buffer: int, factor: float = 1.0) -> float:
    """r_over: 0 up to max_length - buffer tokens, then linear down to -factor at max_length."""
    if not 0 < buffer <= max_length:
        raise ValueError(f"need 0 < buffer <= max_length; got buffer={buffer}, max_length={max_length}")
    return min(-(length - (max_length - buffer)) / buffer * factor, 0.0)


def group_reward_parts(
    correct: Sequence[bool],
    tags: Sequence[Difficulty | None],
    lengths: Sequence[int],
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    threshold: float = 0.625,
    length_gate: LengthGate = "correct",
    max_length: int | None = None,
    overlong_buffer: int | None = None,
    overlong_factor: float = 1.0,
    calibrate: bool = True,
) -> list[RewardParts]:
    """All reward terms of one whole group; `group_rewards` documents the arguments.

    `calibrate=False` is the ablation "w/o r_f" (arm F): the label plays no part, only a missing tag still
    costs
    -alpha, so that the tag cannot be dropped to escape the length term's gate.
    """
    if not len(correct) == len(tags) == len(lengths):
        raise ValueError(
            f"equal counts needed; got {len(correct)} correct, {len(tags)} tags, {len(lengths)} lengths"
        )
    if length_gate not in ("correct", "tag"):
        raise ValueError(f"length_gate={length_gate!r} is not one of correct, tag")
    if (max_length is None) != (overlong_buffer is None):
        raise ValueError("max_length and overlong_buffer belong together; give both or neither")
    label = difficulty_label(correct, threshold)
    longest = max(lengths)
    parts: list[RewardParts] = []
    for is_correct, tag, length in zip(correct, tags, lengths, strict=True):
        outcome = outcome_reward(is_correct)
        overlong = 0.0
        if max_length is not None and overlong_buffer is not None:
            overlong = overlong_penalty(length, max_length, overlong_buffer, overlong_factor)
        calibration = calibration_reward(tag, label)
        if not calibrate:
            calibration = min(calibration, 0.0)
        # Paper's wording: the gate is the model's own [Easy] tag. Authors' naive.py also asks for correctness
        # (D1).
        gated_in = tag == "easy" and (length_gate == "tag" or is_correct)
        shortness = length_reward(length, longest) if gated_in and longest > 0 else 0.0
        total = outcome + overlong + alpha * calibration + beta * shortness
        parts.append(RewardParts(outcome, overlong, calibration, shortness, total))
    return parts


def group_rewards(
    correct: Sequence[bool],
    tags: Sequence[Difficulty | None],
    lengths: Sequence[int],
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    threshold: float = 0.625,
    length_gate: LengthGate = "correct",
    max_length: int | None = None,
    overlong_buffer: int | None = None,
    overlong_factor: float = 1.0,
) -> list[float]:
    """Total reward of each response of one prompt's whole group.

    Args:
        correct: graded outcome of the G responses.
        tags: `adactrl.tags.parse_tag` of each response.
        lengths: tokens of each response, end-of-sequence included, a forced tag excluded.
        alpha: weight of the calibration reward (authors' diff_format_weight).
        beta: weight of the length reward (authors' diff_len_weight).
        threshold: delta of the online label, strict.
        length_gate: "correct" = [Easy] and correct (authors' code, default); "tag" = [Easy] only (paper's
        wording).
        max_length, overlong_buffer, overlong_factor: over-long penalty; off when None.

    Before the over-long term, with k = r_l in [0, 1]:

    |                 | label easy | label hard |
    |-----------------|------------|------------|
    | [Easy], correct | 1.5 + k/2  | 1.0 + k/2  |
    | [Easy], wrong   | -0.5       | -1.0       |
    | [Hard], correct | 1.0        | 1.5        |
    | [Hard], wrong   | -1.0       | -0.5       |
    | no tag, correct | 0.5        | 0.5        |
    | no tag, wrong   | -1.5       | -1.5       |
    """
    parts = group_reward_parts(
        correct,
        tags,
        lengths,
        alpha=alpha,
        beta=beta,
        threshold=threshold,
        length_gate=length_gate,
        max_length=max_length,
        overlong_buffer=overlong_buffer,
        overlong_factor=overlong_factor,
    )
    return [part.total for part in parts]


def group_advantages(rewards: Sequence[float], epsilon: float = 1e-6) -> list[float]:
    """GRPO: (r - mean) / (std + epsilon) over one group, std with n - 1 (authors' `core_algos.py`)."""
    n = len(rewards)
    mean = math.fsum(rewards) / n
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / max(n - 1, 1))
    return [(r - mean) / (std + epsilon) for r in rewards]


def is_informative(correct: Sequence[bool]) -> bool:
    """Dynamic sampling keeps a group only if its 0/1 correctness is not constant (DAPO)."""
    return 0 < sum(map(bool, correct)) < len(correct)
