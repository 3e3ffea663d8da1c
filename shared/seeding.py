"""Seeds: one call for the global generators, one function for everything derived from them."""

from __future__ import annotations

import hashlib
import random


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; ValueError if `seed` is outside NumPy's range 0 … 2**32 - 1."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is outside 0 … {2**32 - 1}; use derive_seed(...) % 2**32")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed, the same everywhere, from e.g. ``(run_seed, "eval", 3)``; types and borders count."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
