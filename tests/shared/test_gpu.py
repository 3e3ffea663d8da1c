"""Loading a causal LM offline, and the memory and hardware helpers."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared import gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A Llama of a few hundred parameters with a tokenizer that has no pad token and pads on the right."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({"a": 0, "b": 1, "<eos>": 2}, unk_token="<eos>"))
    inner.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", padding_side="right")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    path = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(LlamaConfig(vocab_size=3, **sizes)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_comes_with_left_padding_and_a_pad_token(folder: str, dtype: torch.dtype):
    model, tokenizer = gpu.load_causal_lm(folder, dtype=dtype)
    assert model.dtype == dtype
    assert tokenizer(["a", "b a"], padding=True)["input_ids"] == [[2, 0], [1, 0]]
    assert model.config.pad_token_id == tokenizer.pad_token_id == 2


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json; give a folder written by") as caught:
        gpu.load_causal_lm(tmp_path / "gone")
    assert "\n" not in str(caught.value)


def test_a_folder_without_its_weights_is_not_called_a_hub_id(folder: str, tmp_path):
    for file in Path(folder).iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(OSError, match="safetensors"):
        gpu.load_causal_lm(tmp_path)


def test_an_uncached_hub_id_offline_is_one_sentence_with_the_fix():
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing --revision abc") as caught:
        gpu.load_causal_lm("nobody/nothing", revision="abc")
    assert "\n" not in str(caught.value)


def test_device_follows_cuda_and_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert gpu.device() == torch.device("cuda", 3)


@pytest.mark.slow
def test_peak_memory_sees_a_quarter_of_a_gibibyte():
    code = "from shared import gpu\nimport torch\na = gpu.peak_memory_gib()\n"
    code += "x = torch.ones(2**26)\nprint(gpu.peak_memory_gib() - a)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.2 < float(done.stdout) < 0.35


def test_hardware_names_processor_and_count():
    name, count = gpu.hardware().rsplit(", ", 1) if not torch.cuda.is_available() else ("GPU", "1 cores")
    assert name
    assert int(count.removesuffix(" cores")) >= 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.slow
def test_keep_buffers_keeps_a_freed_buffer_mapped():
    """A freed 256 MiB tensor stays with the process, so the next one costs no page faults."""
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom shared import gpu\n"
        "if sys.argv[1] == 'keep': assert gpu.keep_buffers()\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20\n"
        "before = resident()\nx = torch.ones(2**26)\ndel x\nprint(resident() - before)"
    )
    left = {}
    for mode in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True)
        left[mode] = float(done.stdout)
    assert left["default"] < 50
    assert left["keep"] > 200


def test_keep_buffers_without_glibc_does_nothing(monkeypatch):
    monkeypatch.setattr(gpu.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", None)  # would raise if called
    assert gpu.keep_buffers() is False


@pytest.mark.gpu
def test_on_a_gpu_the_card_is_named_and_its_memory_counted():
    before = gpu.peak_memory_gib()
    torch.ones(2**28, device=gpu.device())
    assert gpu.peak_memory_gib() - before > 0.9
    assert " x " in gpu.hardware()
