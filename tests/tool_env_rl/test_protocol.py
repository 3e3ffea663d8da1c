"""Parser, matching and bookkeeping of tool_env_rl.

1 Hermes turns parse as the authors' `parse_qwen` does, branch by branch
2 bad pieces are skipped; if none parses, the whole text is content
3 nothing makes the parser raise (100,000 cases in the slow test)
4 substring matching is the authors', strict matching is a subset of it
5 one call, at most one sub-answer of its own tool, in list order
6 repeating an argument solves nothing; the switch reproduces the leak
"""

import json
import random
import re
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.tiny import word_tokenizer
from tool_env_rl import protocol
from tool_env_rl.protocol import (
    ParsedTurn,
    ToolCall,
    answer_matches,
    apply_results,
    assistant_message,
    count_unsolved,
    parse_response,
    render_prompt,
    render_tool_results,
    solves,
)
from tool_env_rl.rewards import turn_reward
from tool_env_rl.texts import well_formed


def block(name="find", arguments=None, close=True):
    body = json.dumps({"name": name, "arguments": {"x": 1} if arguments is None else arguments})
    return f"<tool_call>\n{body}\n" + ("</tool_call>" if close else "")


@pytest.mark.parametrize(
    ("text", "content", "names", "malformed"),
    [
        ("", "", [], False),
        ("  \n ", "", [], False),
        ("<|im_end|>", "", [], False),
        ("<|endoftext|><|im_end|>\n<|im_end|>", "", [], False),
        ("It is 1931.<|im_end|>", "It is 1931.", [], False),
        (f"I look. {block()}", "I look.", ["find"], False),
        (block(close=False), "", ["find"], False),
        (block(close=False) + "<|im_end|>", "", ["find"], False),
        (block("a") + block("b"), "", ["a", "b"], False),
        (block("a") + "\nand then\n" + block("b"), "", ["a"], False),  # a piece must begin with the marker
        (block("a") + "<tool_call>{broken</tool_call>" + block("b"), "", ["a", "b"], False),
        (
            "<tool_call>\n" + block("a") + "</tool_call>",
            None,
            [],
            True,
        ),  # white space between the two markers
        ('<tool_call><tool_call>{"name":"a","arguments":{}}</tool_call></tool_call>', "", ["a"], False),
        ('<tool_call>{"name": "find", "argu', '<tool_call>{"name": "find", "argu', [], True),
        ('{"name": "find", "arguments": {}}</tool_call>', None, [], True),
        ("x <tool_parsed_response> y", None, [], True),
        ("<tool_response>a</tool_response>", None, [], False),
        ('<tool_call>{"name": "", "arguments": {}}</tool_call>', None, [], True),
        ('<tool_call>{"name": "f"}</tool_call>', None, [], True),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', None, [], True),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', None, [], True),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', None, [], True),
        ('<tool_call>{"name": "f", "arguments": "5"}</tool_call>', None, [], True),
        ('<tool_call>["f", {}]</tool_call>', None, [], True),
        ("<tool_call></tool_call>", None, [], True),
    ],
)
def test_parses_each_shape_of_turn(text, content, names, malformed):
    turn = parse_response(text)
    assert [call.name for call in turn.calls] == names
    assert turn.malformed is malformed
    assert turn.content == (text.strip() if content is None else content)


def test_string_arguments_are_decoded_a_second_time():
    turn = parse_response(block(arguments='{"city": "Nîmes", "n": [1, null]}'))
    assert turn.calls == [ToolCall("find", {"city": "Nîmes", "n": [1, None]})]


def test_skipped_pieces_are_counted():
    assert parse_response(block() + "<tool_call>{bad</tool_call><tool_call>").skipped == 2
    assert parse_response("no call").skipped == 0


def test_repeated_keys_take_the_last_and_special_numbers_pass():
    text = '<tool_call>{"name":"a","name":"b","arguments":{"x":NaN,"y":-Infinity,"x":1e999}}</tool_call>'
    (call,) = parse_response(text).calls
    assert call == ToolCall("b", {"x": float("inf"), "y": float("-inf")})


@pytest.mark.parametrize(
    "arguments",
    [
        "[" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a":' + "[" * 100 + "]" * 100 + "}",
        json.dumps("[" * 50_000),
        '{"a": ' + "9" * (sys.get_int_max_str_digits() + 1) + "}",
    ],
)
def test_deep_or_huge_json_is_a_malformed_turn(arguments):
    assert parse_response(f'<tool_call>{{"name":"f","arguments":{arguments}}}</tool_call>').malformed


def test_arguments_as_deep_as_the_bound_pass():
    depth = 63
    (call,) = parse_response(block(arguments={"a": json.loads("[" * depth + "]" * depth)})).calls
    assert json.dumps(call.arguments).count("[") == depth
    assert parse_response(block(arguments={"a": json.loads("[" * (depth + 1) + "]" * (depth + 1))})).malformed


def test_lone_surrogates_stay_in_place():
    (call,) = parse_response('<tool_call>{"name":"f","arguments":{"q":"\\ud800"}}</tool_call>').calls
    assert call.arguments == {"q": "\ud800"}
    assert parse_response("\ud800 <tool_call>").malformed


def test_thoughts_are_content_unless_dropped():
    text = "<think>perhaps 1931, or <tool_call></think>I do not know."
    assert parse_response(text).malformed
    assert parse_response(text, drop_thoughts=True) == ParsedTurn("I do not know.")
    assert parse_response("<think>cut off", drop_thoughts=True).content == ""


PIECES = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "<tool_parsed_response>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<think>",
    "</think>",
    '{"name": "f", "arguments": ',
    '{"name": "f", "arguments": {}}',
    '"{\\"a\\": 1}"',
    '{"a": 1}',
    "}",
    "{",
    "[" * 2000,
    "9" * 5000,
    "NaN",
    "-Infinity",
    "null",
    '"\\ud800"',
    "\ud800",
    "\x00",
    "\n",
    ",",
    '"',
    "\\",
    "1931",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.builds(
    lambda name, arguments, twice: block(name, json.dumps(arguments) if twice else arguments),
    JSON | st.just("f"),
    JSON,
    st.booleans(),
)
TURNS = st.lists(
    st.sampled_from(PIECES) | CALLS | st.text(st.characters(exclude_categories=()), max_size=6), max_size=8
).map("".join)


def check_any_turn(text):
    turn = parse_response(text)
    assert isinstance(turn.content, str)
    assert not (turn.calls and turn.malformed)
    for call in turn.calls:
        assert isinstance(call.name, str)
        assert isinstance(call.arguments, dict)
        json.dumps(call.arguments)
    reward = turn_reward(
        text,
        executed=["f says 1931"] * len(turn.calls),
        unsolved={"f": ["1931", "19"], "g": [""]},
        solve_rate=0.5,
        answer="1931",
    )
    assert reward in (-0.5, -0.3, 0.25, 0.0) or (turn.calls and 0 < reward < 2)


@settings(max_examples=200, deadline=None)
@given(TURNS)
def test_no_turn_crashes_parser_or_reward(text):
    check_any_turn(text)


def random_turn(rng):
    """Pieces of calls in any order, now and then with a stretch repeated, reversed or cut out."""
    parts = rng.choices(PIECES, k=rng.randrange(9))
    if rng.random() < 0.4:
        arguments = rng.choice([{}, {"q": "1931"}, '{"q": 1}', "[]", [1], None, {"n": [{"m": float("nan")}]}])
        parts.insert(rng.randrange(len(parts) + 1), block(rng.choice(["f", "g", "", 3, None]), arguments))
    text = "".join(parts)
    cut = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    stretch = text[cut[0] : cut[1]]
    return text[: cut[0]] + rng.choice([stretch, stretch, "", stretch * 2, stretch[::-1]]) + text[cut[1] :]


@pytest.mark.slow
def test_no_turn_of_a_hundred_thousand_crashes_parser_or_reward():
    cases = 0

    # One example is 200 turns: drawing each piece through hypothesis would take gigabytes.
    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(min_value=0))
    def run(seed):
        nonlocal cases
        rng = random.Random(seed)
        for _ in range(200):
            check_any_turn(random_turn(rng))
            cases += 1

    run()
    assert cases >= 100_000


@pytest.mark.parametrize(
    ("output", "gold", "loose", "strict"),
    [
        ('{"year": 1931}', "1931", True, True),
        ("12 results", "2", True, False),
        ("in 2024-02-01", "2", True, False),
        ("x2", "2", True, False),
        ("-2", "2", True, False),
        ("2.0", "2", True, True),
        ("2.50 m", "2.5", True, True),
        ("12.5", "2", True, False),
        ("population 1,234,567", "1234567", True, True),
        ("[1, 234]", "1234", False, False),
        ("TELA BRANDT.", "Tela Brandt", True, True),
        ("Tela Brandtson", "Tela Brandt", True, False),
        ("b, then a", "a, b", True, False),
        ("a, then b", "a, b", True, True),
        ("Newark in New Jersey", "Newark, New Jersey", True, True),
        ("a", "a, a", True, False),
        ("anything", "", True, False),
        ("", "1931", False, False),
        ("★", "★", True, False),
        ("it is May 5, 2020", "May 5, 2020", True, True),
        ("$5.00 (five)", "5", True, True),
    ],
)
def test_matching_tables(output, gold, loose, strict):
    assert answer_matches(output, gold) is loose
    assert answer_matches(output, gold, strict=True) is strict


@settings(max_examples=300, deadline=None)
@given(st.text("ab12., -", max_size=12), st.text("ab12., -", max_size=6))
def test_strict_matching_is_a_subset_of_substring_matching(output, gold):
    assert answer_matches(output, gold) or not answer_matches(output, gold, strict=True)


# The specification of a token: quadratic, as it looks for a number again at each of its digits.
TOKEN = re.compile(r"(?>[+-]?\d+(?:[.:/\-]\d+)*)(?![^\W_])|[^\W_]+(?:[-'’][^\W_]+)*")


@settings(max_examples=1000, deadline=None)
@given(st.text("1.+-:/x_ '’,é٣²", max_size=12))
def test_tokens_are_those_of_one_pattern(text):
    assert protocol._split(text) == TOKEN.findall(text)


def test_tokens_take_linear_time():
    start = time.perf_counter()
    assert not answer_matches("1." * 100_000 + "x 5", "x, 1", strict=True)
    assert time.perf_counter() - start < 5  # quadratic: minutes


def test_one_call_never_removes_two_equal_answers():
    unsolved = {"f": ["24", "24"]}
    call = ToolCall("f", {})
    assert apply_results(unsolved, [call], ["24 and 24"]) == ({"f": ["24"]}, 1)
    assert apply_results(unsolved, [call, call], ["24", "24"]) == ({"f": []}, 2)
    assert apply_results(unsolved, [call] * 3, ["24"] * 3) == ({"f": []}, 2)
    assert unsolved == {"f": ["24", "24"]}


def test_a_call_solves_the_first_listed_answer_of_its_own_tool_only():
    unsolved = {"f": ["9", "1931", "19"], "g": ["1931"]}
    assert apply_results(unsolved, [ToolCall("f", {})], ["born 1931"])[0]["f"] == ["1931", "19"]
    assert apply_results(unsolved, [ToolCall("f", {})], ["born 1931"], strict=True)[0]["f"] == ["9", "19"]
    assert apply_results(unsolved, [ToolCall("h", {})], ["1931"]) == (unsolved, 0)
    assert count_unsolved(unsolved) == 4


def test_outputs_must_pair_with_calls():
    with pytest.raises(ValueError, match="1 calls need as many outputs; got 2"):
        apply_results({}, [ToolCall("f", {})], ["a", "b"])


try:
    int("1931 " + "x" * 300)
except ValueError as error:
    CUT = str(error)  # the argument's repr, of which Python shows the first 200 characters


@pytest.mark.parametrize(
    ("output", "gold", "arguments", "kept"),
    [
        ("Nothing found for Tela Brandt", "Tela Brandt", {"name": "Tela Brandt"}, False),
        ("Nothing found for TELA BRANDT", "Tela Brandt", {"name": " tela brandt "}, False),
        ("Tela Brandt (TELA BRANDT)", "Tela Brandt", {"first": "Tela", "last": "Brandt"}, True),
        ("The founder is Tela Brandt", "Tela Brandt", {"last": "Brandt"}, True),
        ("Tela Brandt, asked for Brandt", "Tela Brandt", {"last": "Brandt"}, True),
        ("No year 1931", "1931", {"year": 1931}, False),
        ("No year 1,931", "1931", {"year": "1,931"}, False),
        ("No [1931, 7]", "1931", {"years": [7, {"y": 1931}]}, False),
        ('{"error": "no N\\u00eemes"}', "Nîmes", {"city": "Nîmes"}, None),
        ('{"asked": "1931", "born": "1931"}', "1931", {"year": "1931"}, False),
        ("Orvane: 1931", "1931", {"company": "Orvane"}, True),
        ("Orvane 1931 not known", "1931", {"q": "Orvane 1931"}, False),
        ("asked 2012, found 2", "2", {"year": 2012}, True),
        ("count 1 gives 111", "11", {"count": 1}, True),
        ("No a: b", "a, b", {"x": "a", "y": "b"}, False),
        ("Newark, New Jersey", "Newark, New Jersey", {"state": "New Jersey"}, True),
        ("No place in Newark, New Jersey", "Newark, New Jersey", {"city": "Newark, New Jersey"}, False),
        ("No place in Newark New Jersey", "Newark, New Jersey", {"city": "Newark, New Jersey"}, False),
        ("f() got an unexpected keyword argument '1931'", "1931", {"1931": 1}, False),
        ("f() got an unexpected keyword argument '1931'", "1931", {"year": 1}, True),
        ("unknown field born 1931", "1931", {"q": [{"born 1931": None}]}, False),
        ("No year 1931", "1931", {"year": 1931.0}, False),
        ("No year 1931", "1931", {"year": 1931.5}, False),
        ("No year 1931", "1931", {"year": "1930.6"}, False),
        ("No year 1931", "1931", {"year": "01_931"}, False),
        ("No year 1931.00", "1931", {"year": "1931"}, False),
        ("No year 1,931", "1931", {"year": 1931}, False),
        ("Paid 24.50", "24.50", {"price": 24.5}, False),
        ("12 of 1931", "1931", {"share": 1.5}, True),
        ("Nothing found for Tela Brandt", "Tela Brandt", {"name": "Tela  Brandt"}, False),
        ("Nothing found for Tela  Brandt", "Tela  Brandt", {"name": "Tela\nBrandt"}, False),
        ("1931 1931 1931", "1931", {"q": "1931 1931"}, False),
        (str(KeyError("1931\x07")), "1931", {"q": "1931\x07"}, False),
        (str(KeyError("it's 1931")), "it's 1931", {"q": "it's 1931"}, False),
        (json.dumps({"error": str(KeyError('1931 "x\n'))}), "1931", {"q": '1931 "x\n'}, False),
        (CUT, "1931", {"q": "1931 " + "x" * 300}, False),
        ("x" * 300 + " 1931", "1931", {"q": "1931 " + "x" * 300}, True),
    ],
)
def test_echoed_arguments_solve_nothing(output, gold, arguments, kept):
    if kept is not None:
        assert solves(output, gold, arguments, echo_guard=False)
    assert solves(output, gold, arguments) is bool(kept)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), st.text("1 \n'\"\\,é\x00", max_size=8))
def test_what_python_prints_of_an_argument_solves_nothing(before, after):
    said = f"{before}1931{after}"
    printed = [said, repr(said), ascii(said), str(KeyError(said)), json.dumps(said), json.dumps([repr(said)])]
    for output in [*printed, " ".join(said.split()), f"unexpected keyword argument '{said}'"]:
        assert not solves(output, "1931", {"q": said}), output
        assert not solves(output, "1931", {said: 1}), output


def test_guard_lets_a_later_answer_of_the_list_count():
    call = ToolCall("f", {"q": "24"})
    assert apply_results({"f": ["24", "7"]}, [call], ["24 gives 7"]) == ({"f": ["24"]}, 1)
    assert apply_results({"f": ["24", "7"]}, [call], ["24 gives 7"], echo_guard=False) == ({"f": ["7"]}, 1)


def test_chat_messages_keep_order_and_ids():
    turn = ParsedTurn("look", [ToolCall("a", {"x": "é"}), ToolCall("b", {})])
    message = assistant_message(turn, first_id=3)
    assert [c["id"] for c in message["tool_calls"]] == ["call_3", "call_4"]
    assert message["tool_calls"][0]["function"] == {"name": "a", "arguments": {"x": "é"}}
    twice = assistant_message(turn, double_encoded=True)["tool_calls"][0]["function"]["arguments"]
    assert twice == '{"x": "é"}'
    results = render_tool_results(["1", "2"], first_id=3)
    assert [r["tool_call_id"] for r in results] == ["call_3", "call_4"]
    assert "tool_calls" not in assistant_message(ParsedTurn(None))


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (
            '{"year": 1931, "text": "<b>a | b</b> [1] \t\n"}',
            '{"year": 1931, "text": "<b>a | b</b> [1] \t\n"}',
        ),
        ("<|im_end|>\n<|im_start|>user", "< |im_end|>\n< |im_start|>user"),
        ("</tool_response><tool_call>{}</TOOL_CALL>", "< /tool_response>< tool_call>{}< /TOOL_CALL>"),
        ("<think></think><\x00|im_end|>\x1b[0m\r", "< think>< /think>< |im_end|>[0m"),
        ("<｜end▁of▁sentence｜>[/INST]<<SYS>></s>", "< ｜end▁of▁sentence｜>[ /INST]< <SYS>>< /s>"),
        ("", ""),
    ],
)
def test_tool_outputs_hold_no_live_markers(output, shown):
    assert render_tool_results([output])[0]["content"] == shown
    assert render_tool_results([shown])[0]["content"] == shown


def test_markers_of_an_output_are_not_tokens_of_the_prompt_but_match():
    tokenizer = word_tokenizer(["a"])
    tokenizer.chat_template = HERMES
    output = "1931<|im_start|>"
    messages = [{"role": "user", "content": "Q"}, *render_tool_results([output])]
    assert render_prompt(tokenizer, messages, []).count("<|im_start|>") == 3  # two messages and the next turn
    assert solves(output, "1931<|im_start|>", {})


HERMES = (
    "{% for tool in tools %}<tools>{{ tool | tojson }}</tools>{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}{% if enable_thinking is defined %}"
    "{{ ' thinking=' ~ enable_thinking }}{% endif %}"
)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)


@settings(max_examples=200, deadline=None)
@given(question=ANY_TEXT, name=ANY_TEXT, value=ANY_TEXT, said=ANY_TEXT, output=ANY_TEXT)
def test_any_text_gives_a_prompt_that_the_tokenizer_takes(question, name, value, said, output):
    tokenizer = word_tokenizer(["a"])
    tokenizer.chat_template = HERMES
    tool = {"type": "function", "function": {"name": "find", "description": said, "parameters": {}}}
    turn = ParsedTurn(said, [ToolCall(name, {name: value})])
    messages = [{"role": "user", "content": question}, assistant_message(turn)]
    prompt = render_prompt(tokenizer, [*messages, *render_tool_results([output])], [tool])
    assert tokenizer([prompt], add_special_tokens=False)["input_ids"]
    assert well_formed(question) in prompt


def test_a_lone_surrogate_of_a_call_is_a_replacement_character_in_the_next_prompt():
    tokenizer = word_tokenizer(["a"])
    tokenizer.chat_template = HERMES
    turn = parse_response('<tool_call>{"name":"f","arguments":{"q":"x\\ud800y\\ud83d\\ude00"}}</tool_call>')
    prompt = render_prompt(tokenizer, [assistant_message(turn)], [])
    assert "x\ufffdy\U0001f600" in prompt


def test_prompt_comes_from_the_models_own_template_and_its_history_parses_back():
    tokenizer = word_tokenizer(["a"])
    tokenizer.chat_template = HERMES
    tool = {"type": "function", "function": {"name": "find", "parameters": {}}}
    turn = ParsedTurn("", [ToolCall("find", {"x": 1})])
    messages = [{"role": "user", "content": "Q"}, assistant_message(turn), *render_tool_results(["1931"])]
    prompt = render_prompt(tokenizer, messages, [tool], thinking=False)
    assert "<tools>" in prompt
    assert prompt.endswith("<|im_start|>assistant thinking=False")
    assert "1931" in prompt
    call = prompt[prompt.index("<tool_call>") : prompt.index("</tool_call>")]
    assert parse_response(call).calls == turn.calls
    assert "thinking" not in render_prompt(tokenizer, messages, [tool])
