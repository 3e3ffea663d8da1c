"""Min-max normalisation (sheet §2.5)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resip_assembly.normalization import MinMax, Normalizer


def test_data_map_onto_plus_minus_one_and_back() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(500, 6)) * [1, 10, 0.3, 1, 1, 1] + [0, 5, 0, 0, 0, 0]
    fitted = MinMax.fit(data)
    x = torch.from_numpy(data).float()
    normalised = fitted.normalize(x)
    torch.testing.assert_close(normalised.amin(0), -torch.ones(6))
    torch.testing.assert_close(normalised.amax(0), torch.ones(6))
    torch.testing.assert_close(fitted.denormalize(normalised), x, rtol=1e-5, atol=1e-5)


def test_constant_dimensions_get_a_margin_of_one_and_almost_constant_ones_the_floor() -> None:
    data = np.stack([np.full(10, 0.4), 0.4 + 1e-6 * np.arange(10)], axis=1)
    fitted = MinMax.fit(data, floor=0.06)
    assert fitted.half_range.tolist() == pytest.approx([1.0, 0.03])
    jitter = fitted.normalize(torch.tensor([[0.4, 0.4001]]))
    assert jitter.abs().max() < 0.004  # without the floor: about 20


def test_observations_are_clamped_to_three_not_one() -> None:
    normalizer = Normalizer.fit(np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]))
    assert normalizer.normalize_obs(np.array([[3.5], [9.0], [-9.0]])).flatten().tolist() == [2.5, 3.0, -3.0]


def test_a_nan_observation_does_not_reach_the_networks() -> None:
    normalizer = Normalizer.fit(np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]))
    found = normalizer.normalize_obs(np.array([[np.nan], [np.inf]]))
    assert found.flatten().tolist() == [0.0, 3.0]


def test_actions_denormalise_to_raw_float32_beyond_the_demonstrations() -> None:
    normalizer = Normalizer.fit(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
    raw = normalizer.denormalize_action(torch.tensor([[-1.0], [1.0], [1.1]]))
    assert raw.dtype == np.float32
    assert raw.flatten().tolist() == pytest.approx([1.0, 3.0, 3.1])


def test_state_dict_restores_an_empty_normalizer() -> None:
    rng = np.random.default_rng(0)
    fitted = Normalizer.fit(rng.normal(size=(9, 4)), rng.normal(size=(9, 2)))
    other = Normalizer.empty(4, 2)
    other.load_state_dict(fitted.state_dict())
    obs = rng.normal(size=(3, 4)).astype(np.float32)
    assert torch.equal(fitted.normalize_obs(obs), other.normalize_obs(obs))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.empty((0, 3)), r"shape \(0, 3\)"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.array([[1.0, np.nan], [1.0, 2.0]]), r"dimensions \[1\] of the data are not finite"),
    ],
)
def test_bad_data_are_refused(data: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinMax.fit(data)


def test_an_observation_of_another_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="obs has 5 dimensions, the demonstrations 4"):
        Normalizer.empty(4, 2).normalize_obs(np.zeros((2, 5)))
