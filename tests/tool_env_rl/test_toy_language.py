"""The word-level language: decoded text is Hermes text, and environments render without unknown words."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tool_env_rl import toy_language
from tool_env_rl.protocol import (
    ToolCall,
    assistant_message,
    parse_response,
    render_prompt,
    render_tool_results,
)
from tool_env_rl.records import Environment, user_message


@pytest.fixture(scope="module")
def tokenizer():
    return toy_language.tokenizer()


CALLS = [
    ToolCall("city_index", {"city": "Muraton", "relation": "mayor"}),
    ToolCall("number_calculator", {"first": 94, "second": 40, "operation": "sum"}),
    ToolCall("employer_finder", {"person": "Dadoren"}),
]


def test_decoded_tokens_are_hermes_text(tokenizer) -> None:
    pieces = ["<tool_call>", '{"name":"', "city_index", '","arguments":{"', "city", '":"', "Muraton", '","']
    pieces += ["relation", '":"', "mayor", '"}}', "</tool_call>", "<eos>"]
    ids = tokenizer.convert_tokens_to_ids(pieces)
    assert tokenizer.unk_token_id not in ids
    text = tokenizer.decode(ids, skip_special_tokens=True)
    expected = (
        '<tool_call>{"name":"city_index","arguments":{"city":"Muraton","relation":"mayor"}}</tool_call>'
    )
    assert text == expected


def test_a_rendered_turn_parses_back_to_its_calls(tokenizer) -> None:
    turn = parse_response("".join(f"<tool_call>{_json(call)}</tool_call>" for call in CALLS))
    assert turn.calls == CALLS
    messages = [user_message("What is the mayor of Muraton?"), assistant_message(turn)]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    spoken = ids[ids.index(tokenizer.convert_tokens_to_ids("<assistant>")) + 1 :]
    assert len(spoken) == 13 + 17 + 9 + 1
    assert parse_response(tokenizer.decode(spoken, skip_special_tokens=True)).calls == CALLS


def _json(call: ToolCall) -> str:
    import json

    return json.dumps({"name": call.name, "arguments": call.arguments})


def test_every_tool_and_parameter_can_be_written(tokenizer) -> None:
    vocabulary = toy_language.words()
    assert len(set(vocabulary)) == len(vocabulary)
    for name in ("river_archive", "person_records_v2", "sum_calculator", "chapters_finder", "tool_c"):
        call = ToolCall(name, {"key_a": "Muraton"})
        text = tokenizer.decode(tokenizer(f"<tool_call>{_compact(call)}</tool_call>")["input_ids"])
        assert parse_response(text).calls == [call]


def _compact(call: ToolCall) -> str:
    return _json(call).replace(": ", ":").replace(", ", ",")


def test_prompts_are_short_and_known(tokenizer, toy_environments: list[Environment]) -> None:
    for env in toy_environments:
        prompt = render_prompt(tokenizer, env.record.messages, env.record.tools)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        question = tokenizer(env.record.question, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= 130
        per_tool = (len(ids) - len(question) - 4) / len(env.record.tools)
        assert 2 <= per_tool <= 12
        for name in env.record.tool_names:
            assert f" {name} " in prompt
        assert "Please call given tools" not in prompt


def test_a_tool_document_is_rendered_in_order(tokenizer) -> None:
    properties = {
        "limit": {"type": "integer"},
        "relation": {"type": "string", "enum": ["mayor", "festival"], "description": "What to look up."},
        "city": {"type": "string"},
    }
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "city_index", "parameters": parameters}}
    prompt = render_prompt(tokenizer, [user_message("What is the mayor of Muraton?")], [tool])
    assert prompt == (
        "<bos><system> city_index city relation mayor festival | limit ; "
        "<user> What is the mayor of Muraton? <assistant> "
    )


def test_results_follow_the_turn_and_prefixes_hold(tokenizer, toy_environments: list[Environment]) -> None:
    env = toy_environments[2]
    step = env.steps[0]
    turn = parse_response(f"<tool_call>{_json(ToolCall(step.tool, step.arguments))}</tool_call>")
    first = render_prompt(tokenizer, env.record.messages, env.record.tools)
    messages = [*env.record.messages, assistant_message(turn), *render_tool_results([step.answer])]
    second = render_prompt(tokenizer, messages, env.record.tools)
    assert second.startswith(first)
    assert second.endswith(f"<eos> <tool> {step.answer} <assistant> ")


def test_only_specials_or_broken_calls_never_crash(tokenizer) -> None:
    for ids in ([tokenizer.eos_token_id], [tokenizer.pad_token_id] * 3, []):
        assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    ids = tokenizer.convert_tokens_to_ids(["<tool_call>", '{"name":"', "city_index", "</tool_call>"])
    assert parse_response(tokenizer.decode(ids)).malformed


def test_saved_and_loaded_tokenizers_agree(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = '<tool_call>{"name":"city_index","arguments":{"city":"Muraton"}}</tool_call> Muraton, Dadoren ?'
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert loaded(text, add_special_tokens=False)["input_ids"] == ids
    assert loaded.decode(ids) == tokenizer.decode(ids)
    assert loaded.chat_template == tokenizer.chat_template


def test_variants_lose_one_inner_vowel() -> None:
    assert toy_language.variant("city_index") == "cty_index"
    assert toy_language.variant("employer_finder") == "emplyer_finder"[:2] + "plyer_finder"
