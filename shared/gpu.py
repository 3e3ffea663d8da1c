"""Device, memory and model loading."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch


def device() -> torch.device:
    """This process's GPU (by LOCAL_RANK), or the CPU."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def keep_buffers() -> bool:
    """Make glibc keep big freed buffers for the next CPU step; call it before the first tensor."""
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h; mallopt takes a C int
    settings = ((mmap_threshold, 2_000_000_000), (trim_threshold, 2**31 - 1), (top_pad, 200_000_000))
    return all(ctypes.CDLL(None).mallopt(name, value) for name, value in settings)


def load_causal_lm(
    name_or_path: str | Path, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> tuple[Any, Any]:
    """(model, tokenizer) on the CPU, padding left; FileNotFoundError names the fix for a missing one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = os.path.expanduser(name_or_path)
    is_folder = name.startswith(("/", ".", "~")) or name.count("/") > 1
    if is_folder and not Path(name, "config.json").is_file():
        raise FileNotFoundError(f"{name} holds no config.json; give a folder written by save_pretrained")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype)
    except OSError as error:
        if Path(name).is_dir():  # transformers names the file that is missing there
            raise
        download = f"hf download {name} --revision {revision or 'main'}"
        fix = f"run `{download}` on a machine with network, or give a local folder"
        raise FileNotFoundError(f"model {name} is neither a folder nor in the hub cache; {fix}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def peak_memory_gib() -> float:
    """Most memory held so far, GiB: on this process's GPU, else resident (0 where there is no /proc)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(device()) / 2**30
    return int(_proc("self/status", r"VmHWM:\s*(\d+) kB") or "0") / 2**20  # ru_maxrss may be the parent's


def hardware() -> str:
    """For records: ``8 x NVIDIA H100`` or ``AMD EPYC 9654, 2 cores``."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_proc('cpuinfo', 'model name.*: (.+)') or platform.machine()}, {cores} cores"


def _proc(name: str, pattern: str) -> str:
    """The first group of `pattern` in a file of Linux's /proc, else an empty string."""
    file = Path("/proc", name)
    found = re.search(pattern, file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1].strip() if found else ""
