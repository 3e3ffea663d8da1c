"""Learning from failures only, successes only, or both (arXiv 2508.21188, RQ3; authors' `core_algos.py`).

    A_i = (R_i - mean) / (std + 1e-6)         over all G responses, std with n - 1
    negative (NSR):  A_i * 1[R_i < 1]         failures are pushed down, successes left alone
    positive (PSR):  A_i * 1[R_i > 0]         successes are pushed up, failures left alone
    both:            A_i                      NSR + PSR

The mask is part of the objective: masked responses stay in the batch and in the token count of the loss. A
group without a success has constant rewards, hence no signal under any mode. This is not the earlier NSR of
arXiv 2506.01347, whose rewards of +1/-1 are not normalised and push down all-wrong groups too.

With success probability p the expected NSR update is p / (1 - p) times the PSR update in every coordinate,
as E[grad log pi] = 0: negatives alone are nearly silent where the model is weak, whatever the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Mode = Literal["negative", "positive", "both"]
EPSILON = 1e-6


def signed_advantages(
    rewards: Sequence[float], mode: str = "both", *, positive_weight: float = 1.0
) -> list[float]:
    """Advantages of one whole group of 0/1 rewards; other rewards are masked by the same rule.

    Args:
        rewards: all G rewards of one prompt.
        mode: "negative", "positive" or "both".
        positive_weight: lambda, the weight of responses with R > 0. "both" with 0.1 is W-REINFORCE's
            weighting, lambda * PSR + NSR (arXiv 2506.01347), here of normalised advantages.

    Returns:
        One number per reward. Rewards all equal, hence also a single one, give exact zeros.

    Raises:
        ValueError: an unknown mode, a negative weight, or a reward that is not finite (a failed grader).
    """
    if mode not in ("negative", "positive", "both"):
        raise ValueError(f"mode={mode!r} is not one of negative, positive, both; pick one of these")
    if not 0 <= positive_weight < math.inf:
        raise ValueError(f"positive_weight={positive_weight} is not in [0, inf); W-REINFORCE has 0.1")
    values = [float(reward) for reward in rewards]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"rewards={values} are not all finite; drop a group whose grader failed")
    if len(set(values)) < 2:
        return [0.0] * len(values)
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    advantages = []
    for value in values:
        kept = mode == "both" or (value < 1 if mode == "negative" else value > 0)
        weight = positive_weight if value > 0 else 1.0
        advantages.append(weight * (value - mean) / (std + EPSILON) if kept else 0.0)
    return advantages
