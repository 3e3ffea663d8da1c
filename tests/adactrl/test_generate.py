"""The command that asks a checkpoint, with an untrained tiny model."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from adactrl import chains, generate
from adactrl.config import PRESETS
from adactrl.data import prompt_text
from adactrl.tags import MODES
from shared import checkpoint, config, gpu, rollouts, tiny

PROBLEM = chains.tier_problems("T2", 1, "train", seed=0)[0].question


def save_model(folder: Path, seed: int = 0) -> Path:
    tokenizer = tiny.word_tokenizer(chains.WORDS)
    model = tiny.tiny_causal_lm(tokenizer, hidden=16, layers=1, heads=2, intermediate=32, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    checkpoint.mark_complete(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "a_model")


def run_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(PRESETS["small"])))
    return folder


def ask(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    generate.main(list(args))
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        generate.main(list(args))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize("mode", MODES)
def test_forced_tag_is_in_the_prompt_and_not_in_the_length(
    mode: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    real = rollouts.generate
    monkeypatch.setattr(rollouts, "generate", lambda *a, **k: drawn.append(real(*a, **k)) or drawn[-1])
    out = ask(capsys, str(model), "--mode", mode, PROBLEM, "--samples", "2")  # options may stand between
    _, tokenizer = gpu.load_causal_lm(model)
    rendered = prompt_text(tokenizer, PROBLEM, PRESETS["small"].data)
    prefix = {"adaptive": "", "easy": "[Easy]", "hard": "[Hard]"}[mode]
    assert [tokenizer.decode(ids) for ids in drawn[0].prompt_ids] == [(rendered + prefix).strip()] * 2
    lengths = [int(n) for n in re.findall(r"length: (\d+) tokens", out)]
    assert lengths == [len(ids) for ids in drawn[0].completion_ids]
    assert out.count(f"problem: {PROBLEM}\n") == 2
    if mode != "adaptive":
        assert out.count(f"tag: {mode} (forced)") == 2
        assert out.count(f"\n{prefix}") == 2  # the text begins with the tag


def test_same_seed_same_responses_and_the_limit_is_kept(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sample(seed: str) -> str:
        return ask(capsys, str(model), PROBLEM, "--seed", seed, "--max-new-tokens", "7", "--top-p", "1.0")

    assert sample("1") == sample("1") != sample("2")
    assert all(int(n) <= 7 for n in re.findall(r"length: (\d+)", sample("3")))
    greedy = ask(capsys, str(model), PROBLEM, PROBLEM, "--temperature", "0")
    assert greedy[: len(greedy) // 2] == greedy[len(greedy) // 2 :]


def test_a_response_is_shown_with_tag_length_and_last_box(capsys: pytest.CaptureFixture[str]) -> None:
    generate.show("1 + 1", "[Hard] \\boxed{3} wait \\boxed{2}", True, "9 tokens")
    generate.show("1 + 1", "no idea", False, "2 tokens (cut off)")
    assert capsys.readouterr().out == (
        "problem: 1 + 1\ntag: hard (forced)   length: 9 tokens   answer: 2\n"
        "[Hard] \\boxed{3} wait \\boxed{2}\n\n"
        "problem: 1 + 1\ntag: none   length: 2 tokens (cut off)   answer: none\nno idea\n\n"
    )


def test_a_terminal_shows_brackets_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    generate.show("what is [b]x[/b]?", "[Easy] \\boxed{[1, 2]}", True, "4 tokens")
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "what is [b]x[/b]?" in out
    assert "[Easy] \\boxed{[1, 2]}" in out
    assert "answer: [1, 2]" in out


def test_problems_come_from_standard_input(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PROBLEM}\n\n  1 2 3 4 : rev \n"))
    out = ask(capsys, str(model), "--mode", "easy")
    assert re.findall(r"^problem: (.*)$", out, re.MULTILINE) == [PROBLEM, "1 2 3 4 : rev"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert "no problem given" in refused(capsys, str(model))


def test_bad_input_is_refused_in_one_sentence(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "unknown words: 17, plus" in refused(capsys, str(model), "17 plus 3 plus 4")
    assert f"`{PROBLEM}`" in refused(capsys, str(model), "17")
    assert "unknown mode hrad; did you mean hard?" in refused(capsys, str(model), "1", "--mode", "hrad")
    assert "adaptive, easy, hard" in refused(capsys, str(model), "1", "--mode", "zzz")
    assert "temperature" in refused(capsys, str(model), "1", "--temperature", "-1")
    assert "--samples" in refused(capsys, str(model), "1", "--samples", "0")
    assert "there is no folder" in refused(capsys, str(tmp_path / "missing"), "1")
    assert "there is no folder runs/missing" in refused(capsys, "runs/missing", "1")
    assert "did you mean shipped?" in refused(capsys, "shiped", "1")
    assert "hf download someone/some-model" in refused(capsys, "someone/some-model", "1")


def test_a_run_gives_its_model_else_its_newest_complete_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run")
    assert "holds no complete model/ or checkpoint-*" in refused(capsys, str(run), "1")
    save_model(run / "checkpoint-9")
    save_model(run / "checkpoint-10")
    (run / "checkpoint-10" / checkpoint.MARKER).unlink()
    assert generate.find_model(str(run)) == str(run / "checkpoint-9")
    assert "skipped checkpoint-10" in capsys.readouterr().err
    assert "not written to the end" in refused(capsys, str(run / "checkpoint-10"), "1")
    save_model(run / "model")
    assert generate.find_model(str(run)) == generate.find_model(str(run / "model")) == str(run / "model")
    (run / "model" / "model.safetensors").write_bytes(b"broken")
    assert "model.safetensors" in refused(capsys, str(run / "model"), "1")
    assert generate.find_model(str(run)) == str(run / "checkpoint-9")


def test_shipped_is_the_folder_in_the_package(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(generate, "SHIPPED", model)
    assert generate.find_model("shipped") == str(model)
    monkeypatch.setattr(generate, "SHIPPED", tmp_path / "nowhere")
    assert "there is no folder" in refused(capsys, "shipped", "1")


def test_the_prompt_is_that_of_training(tmp_path: Path, model: Path) -> None:
    _, tokenizer = gpu.load_causal_lm(model)
    assert generate.data_of(str(model), tokenizer).task == "chains"  # by its small vocabulary
    assert generate.data_of("someone/some-model", range(151_936)).task == "deepmath"
    run = run_folder(tmp_path / "run")
    stored = json.loads((run / "config.json").read_text())
    stored["data"]["task"] = "gsm8k"
    (run / "config.json").write_text(json.dumps(stored))
    for place in ("model", "cold_start/model"):
        assert generate.data_of(str(run / place), tokenizer).task == "gsm8k"
