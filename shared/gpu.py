"""Device, memory and model loading."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
from pathlib import Path
from typing import Any

import torch


def device() -> torch.device:
    """This process's GPU (by LOCAL_RANK), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def keep_buffers() -> bool:
    """Tell glibc to keep big freed buffers instead of unmapping them; True if it took the settings.

    On CPU PyTorch allocates the same large tensors at every step; by default each is mapped, zeroed page by
    page and unmapped again. Call this before the first tensor. Without glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h; mallopt takes a C int
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((mmap_threshold, 2_000_000_000), (trim_threshold, 2**31 - 1), (top_pad, 200_000_000))
    return sum(mallopt(name, value) for name, value in settings) == len(settings)


def load_causal_lm(
    name_or_path: str | Path, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> tuple[Any, Any]:
    """(model, tokenizer) from a folder or a hub id; padding on the left, with a pad token; still on the CPU.

    Raises:
        FileNotFoundError: there is no such folder, or the hub id is neither cached nor reachable.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = str(name_or_path)
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        name = os.path.expanduser(name)
        if not Path(name, "config.json").is_file():
            raise FileNotFoundError(f"{name} holds no config.json; give a folder written by save_pretrained")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype)
    except OSError as error:
        if Path(name).is_dir():  # transformers names the file that is missing there
            raise
        at = f"{name} --revision {revision}" if revision else name
        fix = f"run `hf download {at}` on a machine with network, or give a local folder"
        raise FileNotFoundError(f"model {name} is neither a folder nor in the hub cache; {fix}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def peak_memory_gib() -> float:
    """Most memory held so far, GiB: of this process's GPU, or the process's resident size on CPU."""
    # VmHWM and not ru_maxrss: on Linux a child's ru_maxrss starts at the size of the parent that forked it
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(device()) / 2**30
    if peak := _proc("self/status", r"VmHWM:\s*(\d+) kB"):
        return int(peak) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # macOS counts bytes


def hardware() -> str:
    """For records: ``8 x NVIDIA H100`` or ``AMD EPYC 9654, 2 cores``."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = _proc("cpuinfo", r"model name\s*: (.+)") or platform.processor() or platform.machine()
    return f"{model}, {cores} cores"


def _proc(name: str, pattern: str) -> str:
    """The first group of `pattern` in a file of Linux's /proc, else an empty string."""
    file = Path("/proc", name)
    found = re.search(pattern, file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1].strip() if found else ""
