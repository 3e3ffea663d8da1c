"""The contamination probe: cuts, exact match and ROUGE-L by hand, and a model that has seen the test."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from alignment_study import families, pretrain
from alignment_study.contamination import cut, exact_match, probe, rouge_l
from alignment_study.pretrain import Settings
from alignment_study.tasks import load_task
from shared import rollouts

QUESTION = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(("share", "words"), [(0.4, 4), (0.6, 6), (0.8, 8), (0.01, 1), (0.99, 9)])
def test_cut_counts_words(share: float, words: int) -> None:
    parts = cut(QUESTION, share)
    assert parts is not None
    assert len(parts[0].split()) == words
    assert f"{parts[0]} {parts[1]}" == QUESTION


def test_cut_keeps_white_space_inside_and_needs_two_words() -> None:
    assert cut("a\n b  c d e", 0.6) == ("a\n b  c", "d e")
    assert cut("word", 0.6) is None
    assert cut("", 0.6) is None
    with pytest.raises(ValueError, match=r"share=1"):
        cut(QUESTION, 1)


def test_exact_match_is_a_prefix_of_words() -> None:
    assert exact_match(" nine\nten. And then", "nine ten.")
    assert not exact_match("nine ten", "nine ten.")
    assert not exact_match("nine", "nine ten")


@pytest.mark.parametrize(
    ("continuation", "rest", "value"),
    [
        ("a b c d", "a b c d", 1.0),
        ("A B", "a b", 1.0),
        ("x y", "a b", 0.0),
        ("a x c d", "a b c d", 0.75),
        ("b a", "a b", 0.5),
        ("a", "a b c", 0.5),  # precision 1, recall 1/3
        ("a b and so on", "a b", 1.0),  # what comes after the rest does not count
        ("", "a", 0.0),
    ],
)
def test_rouge_l_by_hand(continuation: str, rest: str, value: float) -> None:
    assert rouge_l(continuation, rest) == pytest.approx(value)


@pytest.fixture(scope="module")
def base():
    training = pretrain.Pretraining(Settings(hidden=16, layers=1, heads=2))
    return training.model, training.tokenizer


def test_probe_reads_what_the_model_continues(base, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that recites half of the questions, with their answers, and says filler to the others."""
    model, tokenizer = base
    task = load_task("caesar", n=20, seed=0)
    asked = []

    def recite(model, prompt_ids, *, sampling, **_):
        assert sampling.temperature == 0
        found = rollouts.Rollouts()
        for i, (ids, p) in enumerate(zip(prompt_ids, task.problems, strict=True)):
            start = tokenizer.decode(ids, skip_special_tokens=True)
            asked.append(start)
            rest = p.question.removeprefix(start) + f" = <answer> {p.answer} </answer>"
            said = tokenizer(rest if i % 2 else families.FILLER, add_special_tokens=False)["input_ids"]
            found.completion_ids.append(said)
        return found

    monkeypatch.setattr(rollouts, "generate", recite)
    rows = probe(model, tokenizer, task)
    assert [row.share for row in rows] == [0.4, 0.6, 0.8]
    assert {len(start.split()) for start in asked[:20]} == {1}  # of "+3 a b c"
    assert {len(start.split()) for start in asked[40:]} == {3}
    for row in rows:
        assert row.problems == 20
        for estimate, low, high in (row.exact_match, row.rouge_l, row.answer_accuracy):
            assert estimate == pytest.approx(0.5)
            assert low < 0.5 < high


def test_failed_gradings_are_not_wrong_answers(base, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = base
    monkeypatch.setattr(
        "alignment_study.sampling.grade", lambda task, problems, texts: [(None, None)] * len(texts)
    )
    row = probe(model, tokenizer, load_task("perm", n=4), shares=[0.6])[0]
    assert math.isnan(row.answer_accuracy[0])
    assert row.exact_match[0] in (0, 0.25, 0.5, 0.75, 1)


@pytest.mark.slow
def test_a_model_that_has_seen_the_test_is_found_out() -> None:
    """Sheet §7.6: fifty test items, often in the training text, are completed; clean ones are not."""
    training = pretrain.Pretraining(Settings(hidden=64, layers=1, lr=1e-2))
    seen, clean = (
        families.draw("rearrange", "test", 60, 0)[:20],
        families.draw("rearrange", "test", 60, 0)[20:],
    )
    text = training.text._ids([f"{i.prompt} {i.tagged()} <eos>" for i in seen], bos=True)
    training.text.batch = lambda rng, size: text
    for _ in range(150):
        training.train_step()
    whole = load_task("rearrange", n=60, seed=0)
    kept = {i.prompt for i in seen}
    rows = {}
    for name in ("seen", "clean"):
        problems = tuple(p for p in whole.problems if (p.prompt in kept) == (name == "seen"))
        assert len(problems) == len(seen if name == "seen" else clean)
        task = replace(whole, problems=problems)
        rows[name] = probe(training.model, training.tokenizer, task, shares=[0.8])[0]
    assert rows["seen"].exact_match[0] > 0.6
    assert rows["clean"].exact_match[0] < 0.3
