"""The prompts' text, letter by letter, and the switch to the authors' evaluation wording."""

from __future__ import annotations

import pytest

from cls_rl.prompts import QUESTION, QUESTIONS, SUFFIXES, messages, problem, sft_target, solution, user_text
from cls_rl.rewards import METHODS, accuracy_reward, equality_reward

THINK = "thinking process in <think> </think> and final answer in <answer> </answer> tags."


def test_list_is_written_as_the_authors_write_it() -> None:
    names = ["golden_retriever", "2012 BMW M3 Coupe", "bell, church"]
    text = "What type of object is in the photo?\n Please choose one from list"
    assert problem(names) == text + " [ golden_retriever, 2012 BMW M3 Coupe, bell, church]."
    assert problem(["rose"]) == text + " [ rose]."
    assert problem([], "What type of flower is in the photo?") == "What type of flower is in the photo?"


def test_training_and_authors_test_wordings() -> None:
    head = problem(["a", "b"])
    assert user_text("thinking", ["a", "b"]) == f"{head}\n Please output the {THINK}"
    assert user_text("no_thinking", ["a", "b"]) == f"{head}\n Please directly output the answer."
    assert user_text("thinking", ["a", "b"], wording="authors_test") == f"{head} First output the {THINK}"
    direct = user_text("no_thinking", ["a", "b"], wording="authors_test")
    assert direct == f"{head} Please directly output the answer name."


def test_every_method_has_its_own_instruction() -> None:
    assert set(SUFFIXES) == set(METHODS)
    assert len({user_text(method, ["a"]) for method in METHODS}) == len(METHODS)
    assert "<reason>" in SUFFIXES["answer_first"]


def test_questions() -> None:
    assert set(QUESTIONS) == {"dtd", "eurosat", "fgvc", "ucf"}
    assert "aircraft" in QUESTIONS["fgvc"]
    assert user_text("thinking", [], QUESTIONS["dtd"]).startswith("What type of texture is in the photo?\n ")
    assert QUESTION.endswith("photo?")


def test_unknown_method_or_wording() -> None:
    with pytest.raises(ValueError, match="no_thinking"):
        user_text("direct", ["a"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="authors_test"):
        user_text("thinking", ["a"], wording="test")  # type: ignore[arg-type]


def test_one_user_turn_with_the_image_first() -> None:
    (turn,) = messages("hello")
    assert turn["role"] == "user"
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"] == "hello"


def test_targets_earn_their_own_reward() -> None:
    assert solution("rose") == "<answer> rose </answer>"
    assert accuracy_reward(sft_target("thinking", "rose"), "rose") == 1
    assert equality_reward(sft_target("no_thinking", "rose"), "rose") == 1
