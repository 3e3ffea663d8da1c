"""Every branch of the turn reward (§2.6), in its order, with the values of §7.11."""

import json

import pytest

from tool_env_rl.rewards import call_reward, solve_f1, turn_reward


def call(name="f", **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def reward(response, executed=(), unsolved=None, solve_rate=0.0, answer="1931", **kwargs):
    return turn_reward(
        response,
        executed=list(executed),
        unsolved={"f": ["1931"]} if unsolved is None else unsolved,
        solve_rate=solve_rate,
        answer=answer,
        **kwargs,
    )


@pytest.mark.parametrize(
    ("p", "q", "value"), [(1, 1, 1), (2, 2, 4 / 3), (2, 1, 2 / 3), (3, 0, 0), (3, 3, 1.5), (8, 8, 16 / 9)]
)
def test_solve_f1_values(p, q, value):
    assert solve_f1(p, q) == pytest.approx(value)


@pytest.mark.parametrize(("p", "q"), [(0, 0), (1, 2), (2, -1)])
def test_impossible_counts_are_refused(p, q):
    with pytest.raises(ValueError, match="num_calls >= 1"):
        solve_f1(p, q)


@pytest.mark.parametrize(("kind", "value"), [("f1", 6 / 5), ("precision", 3 / 4), ("rate", 3), ("pr", 9 / 4)])
def test_ablation_rewards(kind, value):
    assert call_reward(4, 3, kind) == pytest.approx(value)
    turn = "".join(call(x=i) for i in range(4))
    unsolved = {"f": ["red", "blue", "green"]}
    executed = ["red", "nothing", "blue", "green"]
    assert reward(turn, executed, unsolved, kind=kind) == pytest.approx(value)


@pytest.mark.parametrize("kind", ["precision", "rate", "pr", "f1"])
def test_rows_without_calls_do_not_depend_on_the_kind(kind):
    assert [reward(text, kind=kind) for text in ("", "<tool_call>{", "no idea", "in 1931")] == [
        -0.5,
        -0.3,
        0,
        0.5,
    ]


def test_one_more_call_pays_above_the_thresholds_of_the_sheet():
    # p = q = 1: a further call with success probability s pays iff s > 0.5, 1, 0, 1/3.
    for kind, threshold in (("f1", 0.5), ("precision", 1), ("rate", 0), ("pr", 1 / 3)):
        gain = call_reward(2, 2, kind) - call_reward(2, 1, kind)
        assert threshold * gain + call_reward(2, 1, kind) == pytest.approx(call_reward(1, 1, kind))


@pytest.mark.parametrize("text", ["", " \n", "<|im_end|>", "<|im_end|>\n<|endoftext|>"])
def test_empty_turn(text):
    assert reward(text, solve_rate=1.0, unsolved={}) == -0.5


@pytest.mark.parametrize(
    "text",
    ["<tool_call>", '<tool_call>{"name": "f", "arg', "1931</tool_call>", "<tool_parsed_response>1931"],
)
def test_malformed_call_comes_before_the_answer(text):
    assert reward(text, solve_rate=1.0, unsolved={}) == -0.3


@pytest.mark.parametrize(("t", "value"), [(0, 1), (1, 1 / 2), (2, 1 / 3)])
def test_final_answer(t, value):
    unsolved = {"f": ["a"] * t, "g": []}
    assert reward("It was 1,931.", unsolved=unsolved, solve_rate=1.0 if t == 0 else 0.5) == pytest.approx(
        value
    )


def test_the_whole_final_answer_must_stand_in_one_piece():
    assert reward("Oslo and Bergen", answer="Oslo, Bergen") == 0
    assert reward("oslo bergen", answer="Oslo, Bergen") == 0.5


def test_silence_after_everything_was_solved():
    assert reward("I am done", unsolved={"f": []}, solve_rate=1.0) == 0.5
    assert reward("I am done", solve_rate=0.99) == 0
    assert reward("1931", unsolved={}, solve_rate=1.0, answer=None) == 0.5


def test_one_good_and_one_broken_block_count_as_one_call():
    assert reward(call(x=1) + "<tool_call>{broken</tool_call>", ["born 1931"]) == 1.0


def test_shotgun_pays_less_than_the_oracle():
    unsolved = {"f": ["red", "blue"]}
    every = "".join(call(x=i) for i in range(8))
    assert reward(every, ["red", "blue"] + ["no"] * 6, unsolved) == pytest.approx(4 / 9)
    assert reward(call(x=0) + call(x=1), ["red", "blue"], unsolved) == pytest.approx(4 / 3)


def test_one_call_takes_one_of_two_equal_answers():
    unsolved = {"f": ["24", "24"]}
    assert reward(call(x=1), ["24, 24"], unsolved) == 1
    assert reward(call(x=1) + call(x=2), ["24", "24"], unsolved) == pytest.approx(4 / 3)
    assert unsolved == {"f": ["24", "24"]}


def test_echo_attack_is_worth_nothing_with_the_guard_and_pays_without():
    turn, output = call(year="1931"), ["Nothing found for 1931"]
    assert reward(turn, output) == 0
    assert reward(turn, output, echo_guard=False) == 1


def test_strict_matching_refuses_a_number_inside_a_number():
    assert reward(call(x=1), ["12 results"], {"f": ["2"]}) == 1
    assert reward(call(x=1), ["12 results"], {"f": ["2"]}, strict=True) == 0


def test_thoughts_count_unless_dropped():
    assert reward("<think>1931?</think> I cannot tell.") == 0.5
    assert reward("<think>1931?</think> I cannot tell.", drop_thoughts=True) == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="kind='f2' is not a reward"):
        reward("", kind="f2")
    with pytest.raises(ValueError, match="2 calls need as many outputs; got 1"):
        reward(call() + call(), ["1931"])
    assert reward("no call", ["left over"]) == 0
