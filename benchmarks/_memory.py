"""Peak memory of a part of a benchmark."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shared import gpu


def peak_mib(run: Callable[[], Any]) -> float:
    """Memory `run` needs above what was held before, MiB; nan where the kernel does not say."""
    gc.collect()
    if torch.cuda.is_available():
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except (OSError, AttributeError):
        return float("nan")
    held = gpu.peak_memory_gib()
    run()
    return (gpu.peak_memory_gib() - held) * 2**10
