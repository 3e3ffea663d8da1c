"""Advantages and loss terms of GRPO and Reinforce++ (arXiv 2508.08791, §2.7; authors' fork of verl 0.3.1).

Shapes: N responses, T response tokens, P prompts, G responses per prompt (N = P x G, prompt-major).
`mask_NT` is 1.0 on response tokens up to and including the end token, 0.0 after it and, in the multi-turn
mode, on tool tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_EPSILON = 1e-6  # authors' code
WHITEN_EPSILON = 1e-8  # verl's masked_whiten
KL_CLAMP = 10.0


def group_advantages(rewards_PG: Tensor, epsilon: float = GROUP_EPSILON) -> Tensor:
    """GRPO: (r - group mean) / (group std + epsilon), (P, G); every token of a response gets its value.

    The std is the unbiased one. A constant group gets zeros and is kept (no dynamic sampling). A group of one
    keeps its raw reward, as in verl (mean 0, std 1).

    | group      | advantages                      |
    |------------|---------------------------------|
    | 0, 0, 1, 1 | -0.866, -0.866, 0.866, 0.866    |
    | 1, 1, 1    | 0, 0, 0                         |
    """
    if rewards_PG.ndim != 2 or rewards_PG.shape[1] == 0:
        raise ValueError(f"rewards must be (P, G) with G >= 1; got shape {tuple(rewards_PG.shape)}")
    if rewards_PG.shape[1] == 1:
        return rewards_PG / (1 + epsilon)
    centered_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    return centered_PG / (rewards_PG.std(dim=1, keepdim=True) + epsilon)


def whitened_advantages(rewards_N: Tensor, mask_NT: Tensor, epsilon: float = WHITEN_EPSILON) -> Tensor:
    """Reinforce++: reward-to-go with gamma = 1, whitened over all valid tokens of the batch, (N, T).

    With the reward on the last token and gamma = 1 every valid token's return is R, so a long response weighs
    more in mean and variance than a short one. No group baseline, no critic; padding gets 0. The variance is
    the unbiased one. In several processes, give it the gathered batch: the statistics are global.

    Rewards 1 (3 tokens) and 0 (1 token): mean 0.75, variance 0.25, advantages 0.5 and -1.5.
    """
    if mask_NT.ndim != 2 or rewards_N.shape != mask_NT.shape[:1]:
        raise ValueError(
            f"need rewards (N,) and mask (N, T); got {tuple(rewards_N.shape)} and {tuple(mask_NT.shape)}"
        )
    mask_NT = mask_NT.to(rewards_N.dtype)
    count = mask_NT.sum()
    if count < 2:
        raise ValueError(f"whitening needs at least 2 valid tokens; the mask has {int(count)}")
    returns_NT = rewards_N[:, None] * mask_NT
    mean = returns_NT.sum() / count
    centered_NT = (returns_NT - mean) * mask_NT
    variance = centered_NT.square().sum() / (count - 1)
    return centered_NT * torch.rsqrt(variance + epsilon)


def dual_clip_loss(
    logprobs_NT: Tensor,
    old_logprobs_NT: Tensor,
    advantages_NT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
) -> Tensor:
    """Per-token PPO loss, (N, T), not reduced, with the dual clip (Ye et al. 2020) for negative advantages.

        A >= 0:  max(-A r, -A clip(r, 1 - low, 1 + high))
        A <  0:  min(the same, -A c)      r = exp(logprob - old logprob)

    Raises:
        ValueError: `dual_clip` <= 1.
    """
    if dual_clip <= 1:
        raise ValueError(f"dual_clip={dual_clip} must exceed 1; the authors use 3.0")
    ratio_NT = torch.exp(logprobs_NT - old_logprobs_NT)
    clipped_NT = torch.clamp(ratio_NT, 1 - clip_low, 1 + clip_high)
    loss_NT = torch.maximum(-advantages_NT * ratio_NT, -advantages_NT * clipped_NT)
    return torch.where(advantages_NT < 0, torch.minimum(loss_NT, -advantages_NT * dual_clip), loss_NT)


def low_variance_kl(logprobs_NT: Tensor, ref_logprobs_NT: Tensor) -> Tensor:
    """k3 estimate of KL(policy || reference) per token, (N, T): exp(d) - d - 1 with d = ref - policy.

    Clamped to ±10 like the authors'. 0 for equal log-probabilities, 0.00517 for d = 0.1.
    """
    difference_NT = ref_logprobs_NT - logprobs_NT
    return torch.clamp(torch.exp(difference_NT) - difference_NT - 1, -KL_CLAMP, KL_CLAMP)


def entropy(logits_NTV: Tensor) -> Tensor:
    """Entropy of the next-token distribution in nats, (N, T)."""
    return torch.distributions.Categorical(logits=logits_NTV).entropy()


def sequence_mean_token_mean(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Mean over a response's valid tokens, then over responses (`seq-mean-token-mean`), scalar.

    Raises:
        ValueError: a response without a valid token.
    """
    tokens_N = mask_NT.sum(dim=1)
    if bool((tokens_N == 0).any()):
        empty = int((tokens_N == 0).nonzero()[0])
        raise ValueError(f"response {empty} has no valid token; leave it out of the batch")
    return ((values_NT * mask_NT).sum(dim=1) / tokens_N).mean()
