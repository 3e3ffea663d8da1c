"""Seeds: one call for the global generators, one function for everything derived from them."""

from __future__ import annotations

import hashlib
import random


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices) and take the deterministic choices that cost nothing.

    Raises:
        ValueError: `seed` is outside 0 … 2**32 - 1, NumPy's range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} is outside 0 … {2**32 - 1}; use derive_seed(...) % 2**32")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed from any parts, e.g. ``derive_seed(run_seed, "eval", problem_id)``.

    Stable across processes and machines (unlike ``hash``) and not linear in its input (unlike a CRC, whose
    low bits follow the text's pattern). Types and borders count: ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
