"""Sampling and the measure script: grading, verdicts, files, and every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignment_study import families, measure, pretrain, sampling
from alignment_study.measure import ADVICE, Settings, effective_groups
from alignment_study.tasks import Task, load_task
from shared import rollouts, tiny

RIGHT, WRONG = "<think> {q} </think> <answer> {a} </answer>", "<think> {q} </think> <answer> a </answer>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that has learnt nothing."""
    training = pretrain.Pretraining(pretrain.Settings(hidden=16, layers=1, heads=2))
    path = tmp_path_factory.mktemp("base")
    training.model.save_pretrained(path)
    training.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def base(folder: Path):
    return measure.gpu.load_causal_lm(folder)


def says(monkeypatch: pytest.MonkeyPatch, base, task: Task, templates: list[str]) -> None:
    """The model answers a problem's samples with `templates` in turn; {a} is the answer, {q} the letters."""
    _, tokenizer = base
    by_prompt = {p.prompt: p for p in task.problems}

    def scripted(model, prompt_ids, *, samples=1, **_):
        found = rollouts.Rollouts()
        for ids in prompt_ids:
            p = by_prompt.get(tokenizer.decode(ids, skip_special_tokens=True), task.problems[0])
            for i in range(samples):
                text = templates[i % len(templates)].format(a=p.answer, q=p.question.split(maxsplit=1)[1])
                found.completion_ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
                found.finished.append(True)
        return found

    monkeypatch.setattr(rollouts, "generate", scripted)


def test_strict_lenient_and_form(base, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("caesar", n=3)
    templates = [RIGHT, WRONG, "<answer> {a} </answer>", "{a}", "{a} .", ". . .", "<answer> a </answer> {a}"]
    says(monkeypatch, base, task, templates)
    rows = sampling.sample(*base, task, samples=7)
    assert [len(group) for group in rows] == [7] * 3
    for group in rows:
        assert [s.strict for s in group] == [True, False, True, False, False, False, False]
        assert [s.lenient for s in group] == [True, False, True, True, True, False, True]
        assert [s.formatted for s in group] == [True, True, *[False] * 5]
    assert sampling.mean(rows) == pytest.approx(2 / 7)
    assert rows[1][0].subtask == task.problems[1].subtask


def test_samples_are_a_function_of_the_seed(base) -> None:
    task = load_task("perm", n=5)
    one, again, other = (sampling.sample(*base, task, samples=4, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_prompts_use_the_chat_template_or_say_once_that_there_is_none() -> None:
    chat = tiny.word_tokenizer(["what?"])
    said: list[str] = []
    (ids,) = sampling.prompt_ids(chat, ["what?"], said.append)
    assert chat.decode(ids) == "<bos> <user> what? <assistant>"
    assert said == []
    plain = families.tokenizer()
    plain.name_or_path = "a base model"
    for _ in range(2):
        (ids,) = sampling.prompt_ids(plain, ["rev a b c ="], said.append)
        assert plain.decode(ids) == "<bos> rev a b c ="
    assert said == ["a base model has no chat template: prompts are plain text"]


def test_a_prompt_that_does_not_fit_is_refused(base) -> None:
    model, _ = base
    assert sampling.room(model, [[1] * 60], 11) == 4
    assert sampling.room(model, [[1] * 6], 11) == 11
    with pytest.raises(ValueError, match="64 tokens fills the model's 64 positions"):
        sampling.room(model, [[1] * 64], 11)


def test_share_of_groups_with_a_gradient() -> None:
    assert effective_groups([[True, False]], 2) == 1.0
    assert effective_groups([[True] * 4, [False] * 4], 2) == 0.0
    assert effective_groups([[True, False, False, False]], 2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("templates", "verdict", "words"),
    [
        ([RIGHT, ". . ."], "strong", "so is the whole interval"),
        ([WRONG], "weak", "so is the whole interval"),
        ([". . ."] * 15 + ["{a}"], "weak", "graded leniently it is strong"),
    ],
)
def test_verdicts(
    base, monkeypatch: pytest.MonkeyPatch, templates: list[str], verdict: str, words: str
) -> None:
    task = load_task("caesar", n=8)
    says(monkeypatch, base, task, templates)
    measured, _ = measure.measure(*base, task, Settings("m", "caesar", samples=16))
    assert measured.verdict == verdict
    assert words in measured.reason
    assert measured.effective_groups == (1.0 if verdict == "strong" else 0.0)


def test_too_few_samples_for_a_verdict(base, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("caesar", n=2)
    says(monkeypatch, base, task, [RIGHT])
    measured, _ = measure.measure(*base, task, Settings("m", "caesar", samples=4))
    assert measured.verdict == "none"
    assert "--samples 16" in measured.reason


def test_advice_keeps_to_the_papers_numbers() -> None:
    assert set(ADVICE) == {"strong", "intermediate", "weak"}
    for number in ("40.8", "71.0", "68.7", "65.2", "62.1", "57.5", "57.0"):  # sheet §5, MATH500
        assert number in ADVICE["strong"]
    for number in ("1.5", "42.6", "24.8", "1.8", "0.0", "10.2"):  # SynLogic
        assert number in ADVICE["weak"]


def test_the_script_end_to_end(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_told", set())  # earlier tests have been told already
    out = tmp_path / "out"
    words = [str(folder), "caesar", "--samples", "16", "--problems", "12", "--out", str(out)]
    measure.main(words)
    shown = capsys.readouterr().out
    assert " ".join(shown.split()).count("has no chat template") == 1
    for text in (
        "pass@k of",
        "guessing",
        "ROUGE-L",
        "verdict: weak",
        "positive samples only: 24.8",
        "2508.21188",
    ):
        assert text in shown
    assert "has no signal either" in shown
    record = json.loads((out / "measure.json").read_text())
    assert [p["k"] for p in record["measurement"]["strict"]] == [1, 2, 4, 8, 16]
    assert record["settings"]["samples"] == 16
    assert len(record["measurement"]["probes"]) == 3
    assert len((out / "samples.jsonl").read_text().splitlines()) == 16 * 12
    assert (out / "pass_at_k.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "32", "--samples", "16"], r"k=32 > n=16 samples: .*--samples 32"),
        (["--k", "0"], r"k=0: pass@k needs k >= 1"),
        (["--samples", "0"], r"--samples 0"),
    ],
)
def test_bad_numbers_are_refused(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, [str(folder), "perm", *words], message)


def refused(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        measure.main(words)
    assert stop.value.code == 2
    shown = capsys.readouterr().err.splitlines()[-1]  # transformers' progress bar goes before
    assert shown.startswith("error: ")
    assert re.search(message, shown), shown


def test_bad_tasks_and_models_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, [str(folder), "nosuch"], "choose from perm, .*gsm8k.*rg:NAME")
    refused(capsys, [str(tmp_path), "perm"], "holds no config.json")
    rows = tmp_path / "own.jsonl"
    rows.write_text('{"question": "1+1?", "answer": "\\\\frac{1}{"}\n')
    refused(capsys, [str(folder), str(rows)], r"does not accept 1 of 1 golds \(own\.jsonl line 1")
