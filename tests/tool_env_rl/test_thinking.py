"""The thinking variant of the small model (claim 8): demonstrations that name their sub-questions first."""

from __future__ import annotations

import random
from dataclasses import replace

from tool_env_rl import base_model, demonstrations, toy_language
from tool_env_rl.config import PRESETS
from tool_env_rl.demonstrations import Habits, habits, plan, render
from tool_env_rl.protocol import parse_response, strip_end_tokens
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox

NO_HABITS: Habits = {}


def test_every_turn_but_the_answer_names_what_is_ready(toy_environments: list[Environment]) -> None:
    for env in toy_environments:
        demo = plan(env, NO_HABITS, random.Random(0), noise=False, thinking=True)
        assert demo.turns[-1].thought == ""
        first = [step for step in env.steps if not step.depends_on]
        asked = [step.question.removeprefix("What is ").removesuffix("?") for step in first]
        assert demo.turns[0].thought.split(" ;") == [asked[0], *(f" {words}" for words in asked[1:]), ""]
        silent = plan(env, NO_HABITS, random.Random(0), noise=False)
        assert [turn.calls for turn in silent.turns] == [turn.calls for turn in demo.turns]
        assert all(turn.thought == "" for turn in silent.turns)


def test_thoughts_are_learnt_and_read_back(
    toy_environments: list[Environment], tools_sandbox: Sandbox
) -> None:
    tokenizer = toy_language.tokenizer()
    env = next(e for e in toy_environments if e.record.scenario == "parallel_multi_hop")
    demos = [plan(env, habits(0), random.Random(i), thinking=True) for i in range(6)]
    demonstrations.execute(demos, tools_sandbox)
    for demo in demos:
        ids, mask = render(tokenizer, demo)
        assert tokenizer.unk_token_id not in ids
        spoken = str(tokenizer.decode([token for token, mine in zip(ids, mask, strict=True) if mine]))
        assert spoken.count("<think>") == sum(bool(turn.thought) for turn in demo.turns)
        first = strip_end_tokens(spoken.split("<eos>")[0] if "<eos>" in spoken else spoken)
        if demo.turns[0].executed:
            turn = parse_response(first.split("</tool_call>")[0] + "</tool_call>")
            assert turn.calls[0] == demo.turns[0].calls[0]
            assert turn.content == f"<think> {demo.turns[0].thought} </think>"


def test_the_thinking_base_is_another_model() -> None:
    small = PRESETS["small"]
    thinks = replace(small, model=replace(small.model, thinking=True))
    assert base_model.folder_of(thinks) != base_model.folder_of(small)
