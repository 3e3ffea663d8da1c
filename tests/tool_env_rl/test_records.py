"""The authors' rows, read and written: byte for byte, and row by row where one is broken."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tool_env_rl.protocol import assistant_message, parse_response
from tool_env_rl.records import (
    PREAMBLE,
    Environment,
    EnvRecord,
    GoldStep,
    RowError,
    choose,
    environments_by_row,
    parse_gold,
    parse_line,
    read_environments,
    read_records,
    to_line,
    user_message,
    write_environments,
    write_records,
)

DEV = Path(__file__).resolve().parents[3] / "shared" / "data" / "ftrl" / "test_dev.jsonl"
FINDER = {
    "type": "function",
    "function": {
        "name": "finder",
        "description": "Finds.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    },
}
RECORD = EnvRecord(
    messages=[user_message("Who leads a/b?")],
    tools=[FINDER],
    codes={"finder": "def finder(x):\n    return 'Bö'\n"},
    unsolved_set={"finder": ["Bö", "Cy"]},
    solve_rate=0.0,
    data_source="self/parallel_single_hop",
    split="train",
    answer="Bö",
)


def test_fields_are_those_of_the_data() -> None:
    names = "messages tools codes unsolved_set solve_rate data_source split answer"
    assert [field.name for field in fields(EnvRecord)] == names.split()


def test_a_row_is_written_as_the_authors_wrote_it() -> None:
    line = to_line(RECORD)
    row = json.loads(line)
    assert all(isinstance(row[name], str) for name in ("tools", "codes", "unsolved_set", "answer"))
    assert row["unsolved_set"] == '{"finder": ["Bö", "Cy"]}'
    assert r'"data_source":"self\/parallel_single_hop"' in line
    assert parse_line(line) == RECORD
    assert (RECORD.scenario, RECORD.question) == ("parallel_single_hop", "Who leads a/b?")
    assert RECORD.unsolved_count == 2


def test_real_rows_survive_byte_for_byte(tmp_path: Path) -> None:
    if not DEV.exists():
        pytest.skip(f"{DEV} is not here")
    records, problems = read_records(DEV)
    assert (len(records), problems) == (100, [])
    write_records(tmp_path / "again.jsonl", records)
    assert (tmp_path / "again.jsonl").read_bytes() == DEV.read_bytes()
    assert all(record.messages == [user_message(record.question)] for record in records)
    assert PREAMBLE.endswith("\nQuestion: ")


def test_a_lone_surrogate_is_written_as_an_escape(tmp_path: Path) -> None:
    odd = replace(RECORD, answer="x\ud800y")
    write_records(tmp_path / "odd.jsonl", [odd])
    assert read_records(tmp_path / "odd.jsonl") == ([odd], [])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("tools", [FINDER], "inside a string"),
        ("tools", '[{"type": "function"}]', '"function": {"name"'),
        ("tools", "[{", "not valid JSON"),
        ("tools", json.dumps([FINDER, FINDER]), "more than once"),
        ("codes", '{"finder": 3}', "Python source"),
        ("unsolved_set", '{"finder": "Bö"}', "lists of sub-answers"),
        ("solve_rate", 1.5, "between 0 and 1"),
        ("solve_rate", True, "between 0 and 1"),
        ("answer", 7, "write a string"),
        ("messages", [], "at least one"),
        ("messages", [{"role": "user"}], "string content"),
    ],
)
def test_a_malformed_field_is_named(field: str, value: object, says: str) -> None:
    row = json.loads(to_line(RECORD)) | {field: value}
    with pytest.raises(RowError, match=says) as caught:
        parse_line(json.dumps(row))
    assert caught.value.field == field


def test_a_turn_of_calls_alone_needs_no_content() -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_0"}]}
    state = replace(RECORD, messages=[*RECORD.messages, turn])
    assert parse_line(to_line(state)) == state


def test_bad_rows_are_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    row = json.loads(to_line(RECORD))
    del row["answer"]
    good = to_line(RECORD).encode()
    deep = b"[" * 100_000
    lines = [good, json.dumps(row).encode(), b"", b'{"messages": NaN}', b"[1]", b"\xff\xfe", deep, good]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    heard: list[object] = []
    records, problems = read_records(path, on_problem=heard.append)
    assert records == [RECORD, RECORD]
    assert [(p.line, p.field) for p in problems] == [
        (2, "answer"),
        (4, "row"),
        (5, "row"),
        (6, "row"),
        (7, "row"),
    ]
    assert heard == problems
    assert str(problems[0]).startswith(f"{path}, line 2, field answer: is missing")


def test_gold_is_kept_beside_the_records(tmp_path: Path) -> None:
    step = GoldStep(1, "Who leads a?", "Bö", "finder", {"x": "a"}, (), {"x": "a"})
    env = Environment(
        "00000-0", 2, RECORD, (step, replace(step, id=2, depends_on=(1,))), {"rule": "last", "steps": [1]}
    )
    write_environments(tmp_path, [env])
    assert read_environments(tmp_path) == [env]
    (tmp_path / "gold.jsonl").write_text("")
    with pytest.raises(ValueError, match="0 rows for 1 environments"):
        read_environments(tmp_path)
    (tmp_path / "gold.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="malformed"):
        read_environments(tmp_path)


GOLD = {
    "id": "00000-0",
    "level": 2,
    "steps": [{"id": 1, "question": "Q", "answer": "Bö", "tool": "finder", "arguments": {"x": "a"}}],
    "final": {"rule": "last", "steps": [1]},
}
GOLD["steps"][0] |= {"depends_on": [], "old_arguments": {"x": "a"}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": 7}, "id"),
        ({"level": True}, "level"),
        ({"steps": {}}, "steps"),
        ({"steps": []}, "steps"),
        ({"steps": [3]}, "steps[0]"),
        ({"steps": [GOLD["steps"][0] | {"depends_on": [[1]]}]}, "steps[0].depends_on"),
        ({"steps": [GOLD["steps"][0] | {"arguments": None}]}, "steps[0].arguments"),
        ({"steps": [GOLD["steps"][0] | {"more": 1}]}, "steps[0].more"),
        ({"steps": [{k: v for k, v in GOLD["steps"][0].items() if k != "tool"}]}, "steps[0].tool"),
        ({"final": None}, "final"),
        ({"final": {}}, "final.rule"),
        ({"final": {"rule": "last", "steps": [{}]}}, "final.steps"),
    ],
)
def test_a_malformed_field_of_gold_is_named(change: dict, field: str) -> None:
    assert Environment.join(RECORD, parse_gold(json.dumps(GOLD))).steps[0].tool == "finder"
    with pytest.raises(RowError) as caught:
        parse_gold(json.dumps(GOLD | change))
    assert caught.value.field == field


def test_bad_rows_of_either_file_cost_their_own_environment(tmp_path: Path) -> None:
    envs = [Environment.join(RECORD, GOLD | {"id": str(i)}) for i in range(4)]
    write_environments(tmp_path, envs)
    for name, row in (("environments.jsonl", 1), ("gold.jsonl", 2)):
        lines = (tmp_path / name).read_text().splitlines()
        lines[row] = "7"
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    found, problems = environments_by_row(tmp_path)
    assert found == {0: envs[0], 3: envs[3]}
    assert [(Path(p.file).name, p.line, p.field) for p in problems] == [
        ("environments.jsonl", 2, "row"),
        ("gold.jsonl", 3, "row"),
    ]
    with pytest.raises(ValueError, match=r"line 2, field row: .* 1 more malformed"):
        read_environments(tmp_path)


@pytest.mark.parametrize("unsolved", [{}, {"finder": []}])
def test_a_row_with_nothing_to_solve_is_refused_unless_all_is_solved(unsolved: dict) -> None:
    with pytest.raises(RowError, match="holds no sub-answer") as caught:
        parse_line(to_line(replace(RECORD, unsolved_set=unsolved)))
    assert caught.value.field == "unsolved_set"
    done = replace(RECORD, unsolved_set=unsolved, solve_rate=1.0)
    assert parse_line(to_line(done)) == done


def test_numbers_that_are_not_json_stand_in_calls_only(tmp_path: Path) -> None:
    turn = parse_response('<tool_call>{"name":"finder","arguments":{"x":1e999,"y":NaN}}</tool_call>')
    state = replace(RECORD, messages=[*RECORD.messages, assistant_message(turn)])
    write_records(tmp_path / "states.jsonl", [state])
    (read,), problems = read_records(tmp_path / "states.jsonl")
    assert problems == []
    assert repr(read) == repr(state)
    for name, value in (("solve_rate", math.nan), ("messages", [{"role": "user", "content": math.inf}])):
        with pytest.raises(RowError, match="row: is not valid JSON"):
            parse_line(json.dumps(json.loads(to_line(state)) | {name: value}))


def test_an_environment_is_chosen_by_id_or_row() -> None:
    assert [choose(["b", "a"], wanted) for wanted in ("a", "0", "1")] == [1, 0, 1]
    with pytest.raises(ValueError, match=r"no environment '2'; rows are 0 … 1"):
        choose(["b", "a"], "2")
    assert choose(["b", "a"], "4", [1, 4]) == 1
    with pytest.raises(ValueError, match=r"no environment '0'; rows are 1 … 4"):
        choose(["b", "a"], "0", [1, 4])
