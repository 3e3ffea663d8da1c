"""The generated families: operations, split, tokenizer and pre-training text (sheet §7.1-7.2)."""

from __future__ import annotations

import re

import numpy as np
import pytest
from transformers import AutoTokenizer

from alignment_study import families, rewards
from alignment_study.families import FAMILIES, OPERATIONS, WORLDS, Item, PretrainingText, draw, items


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("rev", "cba"),
        ("rotl", "bca"),
        ("rotr", "cab"),
        ("swap12", "bac"),
        ("swap23", "acb"),
        ("copy", "abc"),
        ("first", "aaa"),
        ("+3", "def"),
        ("+9", "jab"),
    ],
)
def test_operations_on_abc(operation: str, expected: str) -> None:
    assert OPERATIONS[operation].apply("abc") == expected


def test_shifts_are_cyclic() -> None:
    assert OPERATIONS["+4"].apply("gij") == "acd"


def test_roles_are_as_the_sheet_says_and_swapped_in_world_two() -> None:
    one, two = WORLDS["one"], WORLDS["two"]
    assert [len(FAMILIES[name]) for name in (one.aligned, one.transfer, one.weak)] == [4, 3, 5]
    assert [len(FAMILIES[name]) for name in (two.aligned, two.transfer, two.weak)] == [4, 3, 5]
    assert {OPERATIONS[op].shift for op in FAMILIES[one.weak]} == {3, 7, 4, 6, 9}
    for world in (one, two):
        roles = [set(FAMILIES[name]) for name in (world.aligned, world.transfer, world.weak)]
        assert sum(map(len, roles)) == len(set().union(*roles)), "an operation has two roles"
    shifts = {op for op in OPERATIONS if op.startswith("+")}
    assert not shifts & {*FAMILIES[one.aligned], *FAMILIES[one.transfer], *FAMILIES[two.weak]}
    assert shifts >= {*FAMILIES[two.aligned], *FAMILIES[two.transfer], *FAMILIES[one.weak]}


def test_split_sends_a_fifth_to_the_test_side_and_shares_nothing() -> None:
    sizes = dict.fromkeys(("train", "validation", "test"), 0)
    for operation in OPERATIONS:
        sides = [{i.letters for i in items(operation, side)} for side in sizes]
        assert sum(map(len, sides)) == len(set().union(*sides)) == 1000
        for side in sizes:
            sizes[side] += len(items(operation, side))
    assert sizes["test"] / 15_000 == pytest.approx(0.2, abs=0.01)
    assert sizes["validation"] / 15_000 == pytest.approx(0.04, abs=0.005)


def test_draw_is_seeded_distinct_and_balanced() -> None:
    drawn = draw("caesar", "test", 128, 3)
    assert drawn == draw("caesar", "test", 128, 3)
    assert drawn != draw("caesar", "test", 128, 4)
    assert len(set(drawn)) == 128
    assert {i.split for i in drawn} == {"test"}
    counts = [sum(i.operation == op for i in drawn) for op in FAMILIES["caesar"]]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("family", "n", "word"), [("perm", 10_000, "ask for fewer"), ("nosuch", 1, "caesar")]
)
def test_draw_refuses(family: str, n: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        draw(family, "test", n, 0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    """After saving and loading, as everybody but the pre-training gets it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    families.tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_decoded_completion_is_read_by_the_production_extractor(tokenizer) -> None:
    item = Item("rev", "abc")
    ids = tokenizer(item.tagged() + " <eos>", add_special_tokens=False)["input_ids"]
    assert len(ids) == families.MAX_COMPLETION
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text == "<think> a b c </think> <answer> c b a </answer>"
    assert rewards.extract(text) == item.answer == "c b a"
    assert rewards.is_formatted(text)


def test_prompts_start_with_bos_and_know_every_word(tokenizer) -> None:
    assert tokenizer.chat_template is None
    assert len(tokenizer) == 38
    for operation in OPERATIONS:
        ids = tokenizer(Item(operation, "ahj").prompt)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) == 6
        assert tokenizer.unk_token_id not in ids
    for tag in families.TAGS:
        (token,) = tokenizer(tag, add_special_tokens=False)["input_ids"]
        assert token not in tokenizer.all_special_ids


@pytest.fixture(scope="module")
def texts() -> list[str]:
    text = PretrainingText(WORLDS["one"], weak_share=0.25)
    rows = text.batch(np.random.default_rng(0), 6000)
    assert rows.shape == (6000, 17)
    return [line.replace(" <pad>", "") for line in text.tokenizer.batch_decode(rows)]


def parts(line: str) -> tuple[Item, str]:
    """The item and the completion of one line of pre-training text."""
    match = re.fullmatch(r"<bos> (\S+) (\w) (\w) (\w) = (.*) <eos>", line)
    assert match, line
    return Item(match[1], match[2] + match[3] + match[4]), match[5]


def test_shares_of_the_pretraining_text(texts: list[str]) -> None:
    pairs = [parts(line) for line in texts]
    tagged = [(item, done) for item, done in pairs if done != ". . ."]
    assert len(tagged) / len(pairs) == pytest.approx(0.4, abs=0.02)
    right = sum(rewards.extract(done) == item.answer for item, done in tagged)
    assert 1 - right / len(tagged) == pytest.approx(1 / 8, abs=0.025)
    assert all(done == item.tagged(rewards.extract(done)) for item, done in tagged)
    weak = sum(item.operation in FAMILIES["caesar"] for item, _ in pairs)
    assert weak / len(pairs) == pytest.approx(0.25, abs=0.02)
    known = [*FAMILIES["perm"], *FAMILIES["perm_transfer"]]
    for operation in known:
        assert sum(i.operation == operation for i, _ in pairs) / len(pairs) == pytest.approx(0.107, abs=0.02)


def test_only_train_inputs_are_in_the_pretraining_text(texts: list[str]) -> None:
    assert {parts(line)[0].split for line in texts} == {"train"}


def test_text_is_a_function_of_the_generator() -> None:
    text = PretrainingText(WORLDS["two"], weak_share=0.1)
    first, again, other = (text.batch(np.random.default_rng(seed), 8) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    with pytest.raises(ValueError, match="weak_share"):
        PretrainingText(WORLDS["two"], weak_share=1.0)
