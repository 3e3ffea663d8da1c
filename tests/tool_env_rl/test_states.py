"""Trajectories → states: 1 + tool turns per environment, records in the authors' format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tool_env_rl import controls, states, toy_language
from tool_env_rl.chat_templates import with_tools
from tool_env_rl.episodes import of_environments, play
from tool_env_rl.protocol import parse_response, render_prompt
from tool_env_rl.records import Environment, read_records, write_records
from tool_env_rl.sandbox import Sandbox


@pytest.fixture(scope="module")
def played(toy_environments: list[Environment], tools_sandbox: Sandbox):
    return play(of_environments(toy_environments), controls.oracle, tools_sandbox, max_turns=8)


def test_one_state_per_tool_turn_and_the_start(played) -> None:
    for transcript in played:
        found = states.states_of(transcript)
        assert len(found) == 1 + len(transcript.outputs)
        assert found[0] is transcript.record
        assert found[-1].unsolved_count == 0
        assert found[-1].solve_rate == 1.0
        left = [state.unsolved_count for state in found]
        total = transcript.record.unsolved_count
        assert [s.solve_rate for s in found] == pytest.approx([1 - n / total for n in left])
        assert left == sorted(left, reverse=True)
        assert all(state.messages[-1]["role"] in ("user", "tool") for state in found)


def test_states_are_rows_of_the_authors_format(played, tmp_path: Path) -> None:
    found = [state for transcript in played for state in states.states_of(transcript)]
    write_records(tmp_path / "states.jsonl", found)
    read, problems = read_records(tmp_path / "states.jsonl")
    assert problems == []
    assert read == found


def test_a_state_as_a_start_goes_on_at_its_rate(
    toy_environments: list[Environment], tools_sandbox: Sandbox
) -> None:
    """Four sub-answers, two solved before: the next one makes 3/4, not 1/2 of what was left."""
    record = replace(toy_environments[0].record, unsolved_set={"f": ["7", "8"]}, solve_rate=0.5)
    record = replace(record, codes={"f": "def f(x):\n    return x + 1"})

    def policy(transcripts):
        numbers = [6 + len(t.outputs) for t in transcripts]
        return [f'<tool_call>{{"name":"f","arguments":{{"x":{number}}}}}</tool_call>' for number in numbers]

    found = states.collect([record], policy, tools_sandbox, max_turns=3)
    assert [state.solve_rate for state in found] == [0.5, 0.75, 1.0, 1.0]
    again = states.collect(found[-1:], policy, tools_sandbox, max_turns=1)
    assert [state.solve_rate for state in again] == [1.0, 1.0]


@pytest.mark.parametrize("drop", [False, True])
def test_thoughts_are_dropped_where_the_run_drops_them(
    toy_environments: list[Environment], tools_sandbox: Sandbox, drop: bool
) -> None:
    thought = "<think><tool_call>{}</think>".format('{"name":"f","arguments":{}}</tool_call>')
    found = states.collect(
        [toy_environments[0].record], lambda _: [thought], tools_sandbox, max_turns=1, drop_thoughts=drop
    )
    assert len(found) == (1 if drop else 2)


def test_prompts_that_do_not_fit_are_left_out(played) -> None:
    found = [state for transcript in played for state in states.states_of(transcript)]
    tokenizer = toy_language.tokenizer()
    kept, texts, left_out = states.prompts(found, tokenizer, thinking=None, max_prompt_tokens=60)
    assert len(kept) == len(texts)
    assert len(kept) + left_out == len(found)
    assert 0 < left_out < len(found)
    assert all(len(ids) <= 60 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def test_iterations_choose_other_environments(toy_environments: list[Environment]) -> None:
    records = [env.record for env in toy_environments]
    first, again = (states.chosen_environments(records, 4, 0, 1) for _ in range(2))
    assert first == again
    others = [states.chosen_environments(records, 4, 0, i) for i in range(2, 6)]
    assert any(chosen != first for chosen in others)
    assert len(states.chosen_environments(records, 99, 0, 1)) == len(records)


@pytest.mark.parametrize(("thinking", "text"), [(True, "copy"), (False, "reverse"), (None, "add")])
def test_thinking_switch_reaches_the_template(played, thinking: bool | None, text: str) -> None:
    tokenizer = toy_language.tokenizer()
    tokenizer.chat_template = (
        "{% if enable_thinking is not defined %}add{% elif enable_thinking %}copy{% else %}reverse{% endif %}"
    )
    _, texts, _ = states.prompts([played[0].record], tokenizer, thinking=thinking, max_prompt_tokens=9)
    assert texts == [text]


def test_a_template_without_tools_is_replaced(played) -> None:
    tokenizer = toy_language.tokenizer()
    assert with_tools(tokenizer).chat_template == toy_language.CHAT_TEMPLATE
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(ValueError, match="neither a chat template with tools"):
        with_tools(tokenizer)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    messages, record = played[2].messages, played[2].record
    text = render_prompt(with_tools(tokenizer), messages, record.tools)
    assert all(json.dumps(name) in text for name in record.tool_names)
    shown = text.split("<|im_start|>assistant\n", 1)[1]
    turns = [parse_response(turn) for turn in played[2].responses]
    assert parse_response(shown.split("<|im_end|>")[0]).calls == turns[0].calls
    assert text.count("<tool_response>") == sum(len(turn.calls) for turn in turns)
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    outputs = played[2].outputs[-1]
    reply = f"<tool_response>\n{outputs[0]}\n</tool_response>"
    assert reply in text
