"""Seeds repeat what they should, everywhere."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from shared.seeding import derive_seed, seed_everything


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_seed_everything_repeats_all_three_generators():
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_seed_outside_numpys_range_is_refused():
    with pytest.raises(ValueError, match="seed=-1 is outside"):
        seed_everything(-1)


def test_derive_seed_is_a_fixed_function():
    # recorded once: another value here would silently change every published split
    assert derive_seed("train", 0) == 7478944268883236402
    assert 0 <= derive_seed(b := "x" * 1000, b) < 2**63


def test_derive_seed_tells_borders_types_and_order_apart():
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("1",), (1,), (1, 2), (2, 1), ()]
    assert len({derive_seed(*p) for p in parts}) == len(parts)


def test_low_bits_split_short_texts_evenly():
    """A raw CRC gave 0 of 3,000 texts in one residue class modulo 8 and hung a split."""
    texts = [f"{a} + {b} mod 7" for a in range(55) for b in range(55)]
    counts = np.bincount([derive_seed(t) % 8 for t in texts], minlength=8)
    assert abs(counts - len(texts) / 8).max() < 5 * (len(texts) * 7 / 64) ** 0.5
