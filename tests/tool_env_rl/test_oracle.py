"""The gold oracle: leads read off the source, search through a sandbox (here a double), any row survived."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tool_env_rl import oracle
from tool_env_rl.oracle import explore
from tool_env_rl.oracle_leads import Source
from tool_env_rl.oracle_values import Hints
from tool_env_rl.records import EnvRecord, read_records

DATA = Path(__file__).parents[3] / "shared" / "data" / "ftrl" / "test_dev.jsonl"

COMPARED = """
def find(city, year, detail='short'):
    if not isinstance(city, str) or year < 1900:
        return {'error': 'bad'}
    if city.lower() == 'lyon' and year == 1931 and detail == 'long':
        return {'river': 'Rhone'}
    return f'nothing for {city}'
"""
TABLE = """
def find(city):
    facts = {'Lyon': {'river': 'Rhone'}, 'Paris': {'river': 'Seine'}}
    found = facts.get(city)
    return found['river'] if found else 'unknown'
"""
RECORDS = """
def find(town, kind):
    rows = [
        {'name': 'Lyon', 'type': 'river', 'answer': 'Rhone'},
        {'name': 'Paris', 'type': 'stream', 'answer': 'Seine'},
    ]
    for row in rows:
        if row['name'].lower() == town.lower() and row['type'] == kind:
            return row['answer']
    return 'unknown'
"""
PAIRS = """
def find(a, b):
    table = {('x', 'y'): 'Rhone', ('y', 'x'): 'Seine'}
    return table.get((a.lower(), b), 'unknown')
"""
TEMPLATE = """
def find(a, b):
    table = {'x_y': 'Rhone'}
    key = f'{a}_{b}'
    if key in table:
        return table[key]
    return 'unknown'
"""
WORDS = """
def find(query, date):
    if 'lyon' in query.lower() and 'river' in query and date.startswith('1931-05') and len(date) == 10:
        return 'Rhone'
    return 'unknown'
"""
OBJECT = """
def find(where):
    if where['city'] == 'Lyon' and where.get('country') == 'France':
        return 'Rhone'
    return 'unknown'
"""
LISTED = """
def find(kinds):
    if not isinstance(kinds, list):
        return 'error'
    return 'Rhone' if 'river' in kinds else 'unknown'
"""
BARE = """
def find(city=None, kind=None):
    if not city and not kind:
        return 'Rhone'
    return 'unknown'
"""
COMPUTED = """
def find(first, second, operation):
    if operation not in ('add', 'subtract'):
        return 'error'
    return first + second if operation == 'add' else first - second
"""
ECHO = """
def find(city):
    return f'nothing found for {city}'
"""


@dataclass
class Reply:
    output: str
    status: str = "ok"


class Double:
    """Runs this file's own functions in place; the real sandbox has its own tests."""

    def __init__(self):
        self.calls = 0

    def call_many(self, calls):
        return [self.call(*call) for call in calls]

    def call(self, code, name, arguments):
        self.calls += 1
        json.dumps(arguments)
        scope = {}
        exec(code, scope)
        try:
            result = scope[name](**arguments)
        except Exception as error:
            return Reply(str(error), "error")
        return Reply(result if isinstance(result, str) else json.dumps(result))


def record(code, golds=("Rhone",), question="Which river is it?", name="find", **types):
    properties = {param: {"type": kind} for param, kind in types.items()}
    tools = [{"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}]
    return EnvRecord(
        [{"role": "user", "content": question}],
        tools,
        {name: code},
        {name: list(golds)},
        0.0,
        "self/x",
        "test",
        "a",
    )


@pytest.mark.parametrize(
    ("code", "types"),
    [
        (COMPARED, {"city": "string", "year": "integer", "detail": "string"}),
        (TABLE, {"city": "string"}),
        (RECORDS, {"town": "string", "kind": "string"}),
        (PAIRS, {"a": "string", "b": "string"}),
        (TEMPLATE, {"a": "string", "b": "string"}),
        (WORDS, {"query": "string", "date": "string"}),
        (OBJECT, {"where": "object"}),
        (LISTED, {"kinds": "array"}),
        (BARE, {"city": "string", "kind": "string"}),
    ],
)
def test_each_style_of_tool_is_reached_in_a_few_calls(code, types):
    sandbox = Double()
    report = explore(record(code, **types), sandbox)
    assert report.reached() == report.reached("strict") == 1
    assert sandbox.calls <= 64
    sub = report.sub_answers[0]
    assert "Rhone" in sandbox.call(code, "find", sub.guarded).output


def test_leads_hold_the_conditions_on_the_way():
    leads = list(Source(COMPARED, "find").leads("Rhone"))
    assert any(lead.items() >= {"city": "lyon", "year": 1931, "detail": "long"}.items() for lead in leads)
    assert next(Source(TABLE, "find").leads("Seine")) == {"city": "Paris"}


def test_computed_answers_use_the_other_sub_answers():
    code = {"find": COMPUTED, "look": "def look(q):\n    return '17' if q == 'a' else '25'"}
    base = record(COMPUTED, ("42",), first="integer", second="integer", operation="string")
    env = replace(base, codes=code, unsolved_set={"look": ["17", "25"], "find": ["42"]})
    report = explore(env, Double())
    assert report.reached() == report.reached("strict") == 3
    assert sorted(report.sub_answers[2].guarded[p] for p in ("first", "second")) == [17, 25]


def test_an_echo_is_reached_only_without_the_guard():
    report = explore(record(ECHO, city="string"), Double())
    assert (report.reached("unguarded"), report.reached("guarded"), report.reached("strict")) == (1, 0, 0)


def test_equal_answers_of_one_tool_are_both_reached():
    assert explore(record(TABLE, ("Rhone", "Rhone", "Seine")), Double()).reached() == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"codes": {}}, "no code for this tool"),
        ({"codes": {"find": "def ("}}, "invalid syntax"),
        ({"codes": {"find": "x = 1"}}, "defines no function 'find'"),
        ({"codes": {"find": "\x00"}}, "null bytes"),
        ({"codes": {"find": "def find(city):\n    return [{[1]: 'Rhone'}][city]"}}, "cannot be analysed"),
        ({"codes": {"find": "def find(a):\n    return " + "(" * 5000 + "a" + ")" * 5000}}, "find: "),
    ],
)
def test_a_tool_that_cannot_be_read_is_noted(change, problem):
    report = explore(replace(record(TABLE), **change), Double())
    assert report.reached() == 0
    assert len(report.problems) == 1
    assert re.search(problem, report.problems[0])


def test_odd_schemas_and_rejected_code_do_not_stop_the_run():
    odd = record(TABLE)
    for parameters in (
        {},
        {"properties": []},
        {"properties": {"city": 3}},
        {"properties": {"city": {"enum": 3}}},
    ):
        tool = {"type": "function", "function": {"name": "find", "parameters": parameters}}
        assert explore(replace(odd, tools=[tool]), Double()).reached() == 1
    assert explore(replace(odd, tools=[]), Double()).reached() == 1

    class Rejects(Double):
        def call(self, code, name, arguments):
            self.calls += 1
            return Reply("rejected: import of os", "rejected")

    sandbox = Rejects()
    report = explore(odd, sandbox)
    assert report.problems == ["find: rejected: import of os"]
    assert sandbox.calls <= oracle.BATCH


def test_hints_of_a_question():
    hints = Hints("Who led 'Blue Ship' when Ada Brown of Lyon won 1,234 votes?", ("17", "a, b"))
    assert {"17", "a, b", "Blue Ship", "Ada Brown of Lyon"} <= set(hints.texts())
    assert hints.numbers() == [17, 1234]


@pytest.mark.slow
def test_real_environments_in_the_real_sandbox():
    if not DATA.exists():
        pytest.skip(f"{DATA} is not on this machine")
    from tool_env_rl.sandbox import Sandbox, SandboxUnavailable

    records, problems = read_records(DATA)
    assert problems == []
    try:
        with Sandbox(workers=1) as sandbox:
            reports = [explore(r, sandbox, index=i, max_calls=32) for i, r in enumerate(records[::10])]
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    total = sum(len(report.sub_answers) for report in reports)
    assert sum(report.reached("strict") for report in reports) >= 0.8 * total


def test_summary_names_why_tools_are_refused_and_quotes_no_source(tmp_path):
    sources = [
        "import os\ndef find(): ...",
        "def find(:  # secret",
        "def other(): ...",
        "def find():\n x.__a__",
    ]
    records = [replace(record(TABLE), codes={"find": source}) for source in sources]
    (tmp_path / "e.jsonl").write_text("")
    found = oracle.summary(tmp_path / "e.jsonl", records, [], 0)
    assert (found["tools"], found["tools_refused"]) == (4, 4)
    assert {"import of 'os' is not allowed", "the source does not parse"} <= found["reasons"].keys()
    assert "the source defines no function" in found["reasons"]
    assert "secret" not in json.dumps(found)


def test_command_reports_bad_rows_and_goes_on(tmp_path, monkeypatch, capsys):
    from tool_env_rl.records import to_line

    class Opened(Double):
        def __init__(self, **_):
            super().__init__()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(oracle, "Sandbox", Opened)
    path = tmp_path / "e.jsonl"
    path.write_text("{}\n" + to_line(record(TABLE)) + "\n" + to_line(record(ECHO)) + "\n")
    command = [str(path), "--out", str(tmp_path / "o.jsonl"), "--summary", str(tmp_path / "oracle.json")]
    assert oracle.main(command) == 0
    printed = capsys.readouterr().out
    assert "1 rows could not be read" in printed
    assert "reached 1 of 1" in printed
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [(row["reached"], row["total"], row["reached_unguarded"]) for row in rows] == [
        (1, 1, 1),
        (0, 1, 1),
    ]
    found = json.loads((tmp_path / "oracle.json").read_text())
    assert found["counts"][-1] == {
        "scenario": "all", "environments": 2, "sub_answers": 2,
        "guarded": 1, "strict": 1, "unguarded": 2, "complete": 1,
    }  # fmt: skip
    assert (found["unreadable_rows"], found["tools"], found["tools_refused"]) == (1, 2, 0)
    assert {"commit", "dirty"} <= found.keys()
    assert str(tmp_path) not in json.dumps(found)
    with pytest.raises(SystemExit):
        oracle.main([str(tmp_path / "absent.jsonl")])
    assert "cannot be read" in capsys.readouterr().err
