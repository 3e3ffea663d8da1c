"""Demonstrations varied: what changes, what stays, and that every call still fits its documents."""

from __future__ import annotations

import json
import random
import re

import pytest

from tool_env_rl import demonstrations, toy_language
from tool_env_rl.build_env.integrate import GENERAL_NAMES
from tool_env_rl.knowledge_base import RELATION_TABLE, procedural
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox
from tool_env_rl.variation import Variation

RELATIONS = {row[0] for row in RELATION_TABLE}


@pytest.fixture(scope="module")
def tokenizer():
    return toy_language.tokenizer()


@pytest.fixture(scope="module")
def examples(tokenizer, toy_environments: list[Environment], tools_sandbox: Sandbox) -> list[list[int]]:
    planned = [
        demonstrations.plan(env, demonstrations.habits(0), random.Random(seed))
        for env in toy_environments
        for seed in range(4)
    ]
    demonstrations.execute(planned, tools_sandbox)
    return [demonstrations.render(tokenizer, demo)[0] for demo in planned]


def documents(words: list[str]) -> dict[str, list[str]]:
    """Tool -> the words of its document, in order."""
    inside = words[words.index("<system>") + 1 : words.index("<user>")]
    parts = " ".join(inside).split(" ;")[:-1]
    return {part.split()[0]: part.split()[1:] for part in parts}


def calls(text: str) -> list[dict]:
    return [json.loads(found) for found in re.findall(r"<tool_call>(\{.*?\}\})</tool_call>", text)]


def test_every_call_asks_the_tool_that_has_its_relation(tokenizer, examples: list[list[int]]) -> None:
    vary, rng, moved = Variation(tokenizer), random.Random(0), 0
    for ids in examples:
        new = vary(ids, rng)
        assert len(new) == len(ids)
        before, after = (tokenizer.convert_ids_to_tokens(x) for x in (ids, new))
        old_tools, tools = documents(before), documents(after)
        assert len(tools) == len(old_tools)
        cut = after.index("<user>")
        for old, call in zip(
            calls(tokenizer.decode(ids[cut:])), calls(tokenizer.decode(new[cut:])), strict=True
        ):
            words = tools[call["name"]]
            assert set(call["arguments"]) <= set(words)
            for key in ("relation", "operation"):
                assert call["arguments"].get(key) == old["arguments"].get(key)
                assert call["arguments"].get(key, words[0]) in words
            sets = [set(found) & RELATIONS for found in (old_tools[old["name"]], words)]
            moved += sets[0] != sets[1]
    assert moved  # relations have changed their tools


def test_documents_and_the_words_in_them_change_places(tokenizer, examples: list[list[int]]) -> None:
    """With names left alone, so that only the order can differ."""
    vary, rng = Variation(tokenizer), random.Random(1)
    vary._alike = []
    pairs = [
        [documents(tokenizer.convert_ids_to_tokens(x)) for x in (ids, vary(ids, rng))] for ids in examples
    ]
    assert all(before.keys() == after.keys() for before, after in pairs)
    assert any(list(before) != list(after) for before, after in pairs)
    alike = [
        (before[tool], after[tool])
        for before, after in pairs
        for tool in before
        if sorted(before[tool]) == sorted(after[tool])
    ]
    optional = [
        (old, new) for old, new in alike if "|" in old and old[old.index("|") :] != new[new.index("|") :]
    ]
    relations = [
        (old, new)
        for old, new in alike
        if [w for w in old if w in RELATIONS] != [w for w in new if w in RELATIONS]
    ]
    assert optional
    assert relations


def test_the_documents_hold_the_same_words(tokenizer, examples: list[list[int]]) -> None:
    vary, rng = Variation(tokenizer), random.Random(1)
    for ids in examples:
        before, after = (documents(tokenizer.convert_ids_to_tokens(x)) for x in (ids, vary(ids, rng)))
        assert sorted(map(len, before.values())) == sorted(map(len, after.values()))
        counted = [sorted(w for words in found.values() for w in words) for found in (before, after)]
        assert counted[0] == counted[1]
        kinds = [sorted(name.split("_")[0] for name in found) for found in (before, after)]
        assert kinds[0] == kinds[1]


def test_names_change_within_their_type_and_all_else_stays(tokenizer) -> None:
    people, cities = (procedural().entities[kind] for kind in ("person", "city"))
    words = ["What", people[0], cities[3], "42", "city_index", people[0], "founder_finder"]
    ids = tokenizer.convert_tokens_to_ids(words)
    new = tokenizer.convert_ids_to_tokens(Variation(tokenizer)(ids, random.Random(1)))
    assert new[1] in people
    assert new[2] in cities
    assert new[1] == new[5] != words[1]
    assert new[4].removeprefix("city_") in GENERAL_NAMES
    assert [new[i] for i in (0, 3, 6)] == ["What", "42", "founder_finder"]


def test_it_follows_its_generator(tokenizer, examples: list[list[int]]) -> None:
    vary = Variation(tokenizer)
    first, again, other = (vary(examples[0], random.Random(seed)) for seed in (3, 3, 4))
    assert first == again != other
