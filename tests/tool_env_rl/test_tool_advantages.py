"""GRPO and Reinforce++ advantages, dual clip and low-variance KL against hand-worked numbers (§7.11)."""

import math

import pytest
import torch

from tool_env_rl.advantages import (
    dual_clip_loss,
    entropy,
    group_advantages,
    low_variance_kl,
    sequence_mean_token_mean,
    whitened_advantages,
)

MASK = torch.tensor([[1.0, 1, 1], [1, 0, 0]])


def test_group_advantages_use_the_unbiased_std():
    rewards = torch.tensor([[0.0, 0, 1, 1], [2, 2, 2, 2]], dtype=torch.float64)
    got = group_advantages(rewards)
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-6)  # 0.866
    assert got[0].tolist() == pytest.approx([-expected, -expected, expected, expected], abs=1e-12)
    assert expected == pytest.approx(0.866, abs=1e-3)
    assert got[1].tolist() == [0, 0, 0, 0]


def test_a_group_of_one_keeps_its_reward():
    assert group_advantages(torch.tensor([[0.7], [-0.5]])).flatten().tolist() == pytest.approx([0.7, -0.5])


def test_reinforce_plus_plus_whitens_over_tokens_not_responses():
    got = whitened_advantages(torch.tensor([1.0, 0.0]), MASK)
    assert got.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5, -1.5, 0, 0], abs=1e-6)
    per_response = group_advantages(torch.tensor([[1.0, 0.0]]))
    assert per_response[0].tolist() == pytest.approx([0.7071, -0.7071], abs=1e-4)


def test_whitened_advantages_have_token_mean_0_and_variance_1():
    torch.manual_seed(0)
    mask = (torch.rand(8, 5) > 0.4).float()
    mask[:, 0] = 1
    got = whitened_advantages(torch.randn(8), mask)[mask.bool()]
    assert got.mean().item() == pytest.approx(0, abs=1e-6)
    assert got.var().item() == pytest.approx(1, abs=1e-5)


def test_constant_rewards_give_zero():
    assert whitened_advantages(torch.ones(2), MASK).abs().max() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 1.0, -1.0),
        (1.5, 1.0, -1.2),  # clipped above
        (0.5, 1.0, -0.5),  # not clipped: the pessimistic side
        (0.5, -1.0, 0.8),  # clipped below
        (2.0, -1.0, 2.0),
        (10.0, -1.0, 3.0),  # dual clip
        (10.0, 1.0, -1.2),
    ],
)
def test_dual_clip_loss(ratio, advantage, loss):
    logprobs = torch.tensor([[math.log(ratio)]])
    got = dual_clip_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]))
    assert got.item() == pytest.approx(loss, rel=1e-6)


def test_dual_clip_stops_the_gradient_of_far_negative_tokens():
    logprobs = torch.log(torch.tensor([[10.0, 2.0]])).requires_grad_()
    dual_clip_loss(logprobs, torch.zeros(1, 2), -torch.ones(1, 2)).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.0, pytest.approx(2.0)]]


def test_low_variance_kl():
    zero = torch.zeros(1, 1, dtype=torch.float64)
    assert low_variance_kl(zero, zero).item() == 0
    assert low_variance_kl(zero, zero + 0.1).item() == pytest.approx(0.00517, abs=1e-5)
    assert low_variance_kl(zero, zero - 0.1).item() == pytest.approx(math.exp(-0.1) + 0.1 - 1)
    assert low_variance_kl(zero, zero + 5).item() == 10


def test_sequence_mean_token_mean_weighs_responses_alike():
    values = torch.tensor([[3.0, 3, 3], [1, 99, 99]])
    assert sequence_mean_token_mean(values, MASK).item() == 2
    with pytest.raises(ValueError, match="response 1 has no valid token"):
        sequence_mean_token_mean(values, torch.tensor([[1.0, 0, 0], [0, 0, 0]]))


def test_entropy_in_nats():
    assert entropy(torch.zeros(1, 1, 8)).item() == pytest.approx(math.log(8))


def test_bad_shapes_and_bounds_are_named():
    with pytest.raises(ValueError, match="must be"):
        group_advantages(torch.zeros(3))
    with pytest.raises(ValueError, match="need rewards"):
        whitened_advantages(torch.zeros(3), MASK)
    with pytest.raises(ValueError, match="the mask has 1"):
        whitened_advantages(torch.zeros(1), torch.tensor([[1.0, 0]]))
    with pytest.raises(ValueError, match=r"dual_clip=1.0 must exceed 1"):
        dual_clip_loss(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), dual_clip=1.0)
