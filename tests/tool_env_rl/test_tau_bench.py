"""tau-bench: loader, database hash, reward with and without the authors' quirks, Pass^k (§4.3, §6.2-8)."""

import json

import pytest

from tool_env_rl.protocol import ToolCall
from tool_env_rl.tau_bench import (
    database_hash,
    ends_episode,
    gold_hash,
    load,
    load_database,
    pass_hat_k,
    reward,
    summarize,
)

ROW = {
    "instruction": "Cancel my order.",
    "actions": [{"id": "1", "function": {"name": "cancel", "arguments": '{"order": "#1"}'}}],
    "outputs": ["1234"],
    "data_source": "tau-bench/retail",
}


def load_rows(tmp_path, *rows):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load(path)


def test_loads_both_forms_of_an_action(tmp_path):
    upstream = {**ROW, "actions": [{"name": "cancel", "kwargs": {"order": "#1"}}], "outputs": []}
    tasks, problems = load_rows(tmp_path, ROW, upstream)
    assert problems == []
    assert tasks[0].actions == tasks[1].actions == (ToolCall("cancel", {"order": "#1"}),)
    assert (tasks[0].domain, tasks[0].outputs) == ("retail", ("1234",))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"data_source": "tau-bench/hotel"}, "must end in retail or airline"),
        ({"outputs": [1]}, "field outputs"),
        ({"actions": [{}]}, "an action lacks its name"),
        ({"actions": [{"name": "f", "arguments": "{"}]}, "arguments of f are not valid JSON"),
        ({"actions": [{"name": "f", "arguments": "[]"}]}, "arguments of f must be an object"),
        ({"instruction": 3}, "field instruction is a int"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, problem):
    tasks, problems = load_rows(tmp_path, {**ROW, **change}, ROW)
    assert len(tasks) == 1
    assert "line 1: " in problems[0]
    assert problem in problems[0]


def cancel(call, database):
    database["orders"][call.arguments["order"]] = "cancelled"
    return database


def test_gold_hash_replays_on_a_copy(tmp_path):
    (task,), _ = load_rows(tmp_path, ROW)
    database = {"orders": {"#1": "open"}, "users": {"a": [1, 2], "b": {}}}
    expected = gold_hash(task, database, cancel)
    assert database["orders"]["#1"] == "open"
    assert expected == database_hash({"users": {"b": {}, "a": [1, 2]}, "orders": {"#1": "cancelled"}})
    assert expected != database_hash(database)
    assert database_hash({"a": [1, 2]}) != database_hash({"a": [2, 1]})


def test_database_tables(tmp_path):
    (tmp_path / "retail").mkdir()
    for table in ("orders", "products", "users"):
        (tmp_path / "retail" / f"{table}.json").write_text(json.dumps({table: 1}))
    assert load_database(tmp_path, "retail")["users"] == {"users": 1}
    with pytest.raises(FileNotFoundError, match=r"flights\.json"):
        load_database(tmp_path, "airline")
    with pytest.raises(ValueError, match="domain='hotel'"):
        load_database(tmp_path, "hotel")


def assistant(content, tool=None):
    calls = [{"function": {"name": tool, "arguments": "{}"}}] if tool else None
    return {"role": "assistant", "content": content, "tool_calls": calls}


STOP = {"role": "user", "content": "###STOP###"}


def earned(task, messages, final="h", **switches):
    return reward(task, messages, final_hash=final, expected_hash="h", **switches)


def test_reward_and_where_outputs_are_searched(tmp_path):
    (task,), _ = load_rows(tmp_path, ROW)
    reply = [assistant("It costs 1,234 dollars."), STOP]
    beside_call = [assistant("1,234", tool="cancel"), STOP]
    assert (earned(task, reply), earned(task, reply, official=False)) == (0, 1)
    assert (earned(task, beside_call), earned(task, beside_call, official=False)) == (1, 0)
    assert earned(task, beside_call, final="other") == 0
    assert earned(task, [assistant(None, tool="x"), STOP]) == 0


def test_reward_without_a_stop(tmp_path):
    (task,), _ = load_rows(tmp_path, {**ROW, "outputs": []})
    assert (earned(task, [assistant("x")]), earned(task, [assistant("x")], needs_stop=False)) == (0, 1)


def test_a_transfer_ends_the_episode_only_without_the_quirk():
    transfer = assistant("", tool="transfer_to_human_agents")
    assert (ends_episode(transfer), ends_episode(transfer, official=False)) == (False, True)
    assert ends_episode(assistant("", tool="transform_to_user_agent"))
    assert ends_episode(STOP)
    assert not ends_episode(assistant("###STOP###"))


@pytest.mark.parametrize(
    ("c", "n", "k", "value"), [(1, 1, 1, 1), (2, 4, 1, 0.5), (2, 4, 2, 1 / 6), (1, 4, 2, 0)]
)
def test_pass_hat_k(c, n, k, value):
    assert pass_hat_k(c, n, k) == pytest.approx(value)


def test_bounds_of_pass_hat_k():
    with pytest.raises(ValueError, match="got k=3, trials=2"):
        pass_hat_k(1, 2, 3)


def test_the_papers_row_is_the_mean_of_two_domains():
    airline = [[1.0]] * 2 + [[0.0]] * 48
    retail = [[1.0]] * 9 + [[0.0]] * 106
    assert round(summarize({"airline": airline, "retail": retail})["all"], 2) == 5.91
    assert "all" not in summarize({"airline": airline})
    assert summarize({"retail": [[1, 1], [1, 0]]}, k=2) == {"retail": 50}
    with pytest.raises(ValueError, match="domain 'hotel'"):
        summarize({"hotel": airline})
