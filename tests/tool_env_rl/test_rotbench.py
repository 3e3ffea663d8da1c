"""RoTBench: TS, PI, CF (§4.4), with the authors' quirks and without."""

import json

import pytest

from tool_env_rl.rotbench import LEVELS, load, score, summarize

GOLD = [("find", {"city": "Lyon", "n": 2})]


def turn(tool="find", **arguments):
    return f"Thought: x\nAction: {tool}\nAction Input: {json.dumps(arguments)}"


def flags(response, gold=GOLD, official=True):
    result = score(response, gold, official=official)
    return [int(result[name]) for name in ("TS", "PI", "CF")]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (turn(city="Lyon", n=2), [1, 1, 1]),
        (turn(n=2, city="Lyon"), [1, 1, 1]),
        (turn(city=2, n="Lyon"), [1, 1, 1]),  # a multiset of values
        (turn(city="Nice", n=2), [1, 1, 0]),
        (turn(city="Lyon"), [1, 0, 0]),
        (turn("other", city="Lyon", n=2), [0, 0, 0]),
        ("", [0, 0, 0]),
        ("Action: find", [0, 0, 0]),
        ("Action: find\nAction Input: [1]", [0, 0, 0]),
        ("Action: find\nAction Input: " + "[" * 100_000, [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("official", [True, False])
def test_flags_common_to_both(response, expected, official):
    assert flags(response, official=official) == expected


def test_quirks_of_the_authors():
    trailing = turn(city="Lyon", n=2) + "\nDone."
    assert (flags(trailing), flags(trailing, official=False)) == ([0, 0, 0], [1, 1, 1])
    thinking = f"<think>{turn('other')}</think>{turn(city='Lyon', n=2)}"
    assert (flags(thinking), flags(thinking, official=False)) == ([0, 0, 0], [1, 1, 1])
    spaceless = 'Action:find\nAction Input:{"city": "Lyon", "n": 2}'
    assert (flags(spaceless), flags(spaceless, official=False)) == ([0, 0, 0], [1, 1, 1])
    listed = [("find", {"city": ["Lyon"]})]
    assert flags(turn(city=["Lyon"]), listed) == [1, 1, 0]
    assert flags(turn(city=["Lyon"]), listed, official=False) == [1, 1, 1]


def test_flags_from_several_gold_turns():
    gold = [("find", {"city": "Lyon"}), ("find", {"town": "Nice"}), ("other", {"city": "Nice"})]
    assert flags(turn(city="Nice"), gold) == [1, 1, 0]
    assert flags(turn(town="Nice"), gold) == [1, 1, 1]
    unhashable_first = [("find", {"city": ["x"]}), ("find", {"city": "Lyon"})]
    assert flags(turn(city="Lyon"), unhashable_first) == [1, 1, 0]
    assert flags(turn(city="Lyon"), unhashable_first, official=False) == [1, 1, 1]


ROW = {
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
    "answer": [turn(city="Lyon", n=2)],
    "data_source": "RoTBench/Clean",
}


def test_loader(tmp_path):
    rows = [
        ROW,
        {**ROW, "answer": ["no action"]},
        {**ROW, "data_source": "RoTBench"},
        {**ROW, "answer": []},
        3,
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    tasks, problems = load(path)
    assert [(task.level, task.gold) for task in tasks] == [("clean", tuple(GOLD))]
    assert [problem.split(", ", 1)[1].split(":")[0] for problem in problems] == [
        "line 2",
        "line 3",
        "line 4",
        "line 5",
    ]
    assert "must end in one of clean, slight" in problems[1]


def test_macro_mean_weighs_levels_alike():
    good, bad = score(turn(city="Lyon", n=2), GOLD), score("", GOLD)
    rows = [(level, good) for level in LEVELS] + [("heavy", bad)] * 3
    table = summarize(rows)
    assert table["heavy"] == {"TS": 25, "PI": 25, "CF": 25}
    assert table["all"]["CF"] == pytest.approx(85)
    assert "all" not in summarize(rows[:1])
    with pytest.raises(ValueError, match="level 'odd'"):
        summarize([("odd", good)])
