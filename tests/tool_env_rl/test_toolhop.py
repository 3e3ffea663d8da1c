"""ToolHop: loader and the answer rule (§4.2), authors' way and ours."""

import json

import pytest

from tool_env_rl.toolhop import SCENARIOS, accuracy, answer_correct, load

DOCUMENT = {"name": "find", "parameters": {"type": "object", "properties": {}}}
ROW = {
    "question": "When?",
    "answer": "1931",
    "tools": {"When was it?": DOCUMENT},
    "functions": {"find": "def find():\n    return 1931"},
}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_loads_the_harness_format_and_the_list_form(tmp_path):
    listed = {
        **ROW,
        "tools": [{"type": "function", "function": DOCUMENT}],
        "functions": ["def find():\n    pass"],
    }
    tasks, problems = load(write(tmp_path / "t.jsonl", ROW, "", listed))
    assert problems == []
    assert [list(task.codes) for task in tasks] == [["find"], ["find"]]
    assert tasks[0].tools == tasks[1].tools == ({"type": "function", "function": DOCUMENT},)
    (tmp_path / "t.json").write_text(json.dumps([ROW]))
    assert load(tmp_path / "t.json")[0] == tasks[:1]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{broken", "Expecting"),
        ("[1]", "is a JSON list"),
        ("[" * 100_000, "nested too deeply"),
        ({**ROW, "question": None}, "field question is a NoneType"),
        ({k: v for k, v in ROW.items() if k != "answer"}, "field answer is missing"),
        ({**ROW, "tools": {"q": {"description": "x"}}}, "a document lacks its name"),
        ({**ROW, "functions": ["def ("]}, "a source is no Python"),
        ({**ROW, "functions": ["x = 1"]}, "defines no function"),
        ({**ROW, "functions": {"find": 3}}, "must map tool names"),
        ({**ROW, "tools": "{"}, "field tools is not valid JSON"),
    ],
)
def test_a_bad_row_is_named_and_the_rest_is_loaded(tmp_path, row, problem):
    tasks, problems = load(write(tmp_path / "t.jsonl", row, ROW))
    assert len(tasks) == 1
    assert len(problems) == 1
    assert "t.jsonl, line 1: " in problems[0]
    assert problem in problems[0]


def test_a_file_that_is_no_list_is_refused(tmp_path):
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(OSError, match="give a list of tasks"):
        load(tmp_path / "t.json")


def test_prompts_and_tools_per_scenario(tmp_path):
    (task,), _ = load(write(tmp_path / "t.jsonl", ROW))
    prompts = {scenario: task.prompt(scenario)[0]["content"] for scenario in SCENARIOS}
    assert all(text.endswith("Question: When?") and "<answer>" in text for text in prompts.values())
    assert ["Call a tool" in prompts[s] for s in ("Direct", "Mandatory", "Free")] == [False, True, False]
    assert task.tools_for("Direct") == []
    assert len(task.tools_for("Free")) == 1
    own = {**ROW, "messages": [{"role": "user", "content": "as is"}]}
    assert load(write(tmp_path / "o.jsonl", own))[0][0].prompt("Free") == own["messages"]


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.mark.parametrize(
    ("messages", "official", "ours"),
    [
        (said(("user", "q"), ("assistant", "<answer>1931</answer>")), True, True),
        (said(("tool", "1931"), ("assistant", "I do not know")), True, False),
        (said(("user", "1931?"), ("assistant", "I do not know")), False, False),
        (said(("user", "q"), ("assistant", "<answer>19315</answer>")), True, False),
        (said(("user", "q"), ("assistant", "1931 was wrong <answer>1932</answer>")), True, False),
        (said(("user", "q"), ("assistant", "<think>1931</think><answer>1932</answer>")), True, False),
        (said(("user", "q"), ("assistant", "It was 1931.")), True, True),
        (said(("tool", "1931"), ("assistant", "")), False, False),
        (said(("tool", "1931"), ("assistant", None)), False, False),
        (said(("assistant", "x"), ("tool", "1931")), False, False),
        (said(("assistant", "1931")), True, True),
        ([], False, False),
    ],
)
def test_answer_rule(messages, official, ours):
    assert answer_correct(messages, "1931") is official
    assert answer_correct(messages, "1931", official=False) is ours


def test_accuracy_is_the_mean_of_three_scenarios():
    table = accuracy({"Direct": [True, False], "Mandatory": [True], "Free": [False]})
    assert table == {"Direct": 50, "Mandatory": 100, "Free": 0, "all": 50}
    assert "all" not in accuracy({"Direct": [True]})
    with pytest.raises(ValueError, match="scenario 'direct' is not one of"):
        accuracy({"direct": [True]})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="Free has no result"):
        accuracy({"Free": []})
