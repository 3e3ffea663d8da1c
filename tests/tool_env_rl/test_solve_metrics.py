"""Solve-P/R/F1 conventions of §4.1 and §7.11, and the aggregates."""

import pytest

from tool_env_rl.metrics import EpisodeCounter, EpisodeScore, solve_scores, summarize
from tool_env_rl.protocol import ParsedTurn, ToolCall, parse_response


@pytest.mark.parametrize(
    ("total", "calls", "solved", "scores"),
    [
        (4, 5, 3, (0.6, 0.75, 2 / 3)),
        (4, 0, 0, (1, 0, 0)),
        (2, 2, 2, (1, 1, 1)),
        (3, 4, 0, (0, 0, 0)),
        (2, 8, 2, (0.25, 1, 0.4)),
    ],
)
def test_solve_scores(total, calls, solved, scores):
    assert solve_scores(total, calls, solved) == pytest.approx(scores)


def test_f1_is_the_harmonic_mean_of_p_and_r():
    p, r, f1 = solve_scores(7, 9, 4)
    assert f1 == pytest.approx(2 * p * r / (p + r))


@pytest.mark.parametrize("counts", [(0, 1, 0), (2, 1, 2), (1, 2, 2), (2, -1, 0), (2, 2, -1)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="need total >= 1"):
        solve_scores(*counts)


def episode(scenario="multi_hop", total=4, calls=5, solved=3, turns=2, **more):
    return EpisodeScore("e", scenario, total, calls, solved, min(solved, 1), solved, turns, **more)


def test_summary_averages_f1_per_environment_not_from_mean_p_and_r():
    table = summarize([episode(), episode(calls=0, solved=0, turns=1)])
    row = table["multi_hop"]
    assert row["solve_p"] == pytest.approx(0.8)
    assert row["solve_r"] == pytest.approx(0.375)
    assert row["solve_f1"] == pytest.approx(1 / 3)
    assert row["solve_p_called"] == pytest.approx(0.6)
    assert row["pooled_r"] == pytest.approx(3 / 8)
    assert row["solve_f1_strict"] == pytest.approx(2 / 9 / 2)
    assert row["calls"] == 2.5
    assert row["calls_per_turn"] == pytest.approx(5 / 3)
    assert "answer_accuracy" not in row
    assert table["all"] == row


def test_summary_by_scenario_and_rates():
    table = summarize(
        [
            episode("single_hop", 1, 1, 1, turns=2, answer_correct=True),
            episode("multi_hop", 2, 3, 0, turns=2, malformed_turns=1, skipped_calls=1, answer_correct=False),
        ]
    )
    assert list(table) == ["single_hop", "multi_hop", "all"]
    assert table["single_hop"]["solve_f1"] == 1
    assert table["multi_hop"]["malformed_turn_rate"] == 0.5
    assert table["multi_hop"]["skipped_call_rate"] == 0.25
    assert table["all"]["answer_accuracy"] == 0.5
    assert table["all"]["n"] == 2


def test_no_call_at_all_leaves_called_precision_out():
    row = summarize([episode(calls=0, solved=0, turns=0)])["all"]
    assert "solve_p_called" not in row
    assert (row["solve_p"], row["solve_r"], row["solve_f1"], row["calls_per_turn"]) == (1, 0, 0, 0)


def test_empty_and_reserved_names_are_refused():
    with pytest.raises(ValueError, match="at least one episode"):
        summarize([])
    with pytest.raises(ValueError, match='"all"'):
        summarize([episode("all")])


def test_counter_keeps_three_books():
    unsolved = {"f": ["2", "Tela Brandt"]}
    counter = EpisodeCounter("e1", "multi_hop", unsolved)
    assert counter.solve_rate == 0
    call = ToolCall("f", {"q": "Tela Brandt"})
    assert counter.add_turn(ParsedTurn("", [call]), ["No Tela Brandt"]) == 0  # an echo
    assert counter.add_turn(ParsedTurn("", [ToolCall("f", {})]), ["12 results"]) == 1  # a digit in a number
    counter.add_turn(parse_response("<tool_call>{"), [])
    counter.add_turn(parse_response("Done."), [])
    score = counter.score(answer_correct=False)
    assert (score.total, score.calls, score.turns) == (2, 2, 4)
    assert (score.solved, score.solved_strict, score.solved_unguarded) == (1, 0, 2)
    assert (score.malformed_turns, score.skipped_calls) == (1, 1)
    assert counter.solve_rate == 0.5
    assert unsolved == {"f": ["2", "Tela Brandt"]}


def test_oracle_and_silent_policies():
    oracle = EpisodeCounter("e", "s", {"f": ["a", "b"]})
    oracle.add_turn(ParsedTurn("", [ToolCall("f", {}), ToolCall("f", {})]), ["a", "b"])
    silent = EpisodeCounter("e", "s", {"f": ["a", "b"]})
    silent.add_turn(ParsedTurn("I do not know"), [])
    for counter, expected in ((oracle, (1, 1, 1)), (silent, (1, 0, 0))):
        row = summarize([counter.score()])["all"]
        assert (row["solve_p"], row["solve_r"], row["solve_f1"]) == expected
