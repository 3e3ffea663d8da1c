"""OOD-3: tasks, tools that change a table, and the scripted user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tool_env_rl import table_tasks, toy_language
from tool_env_rl.build_env.deploy import NOT_FOUND
from tool_env_rl.controls import call_text
from tool_env_rl.episodes import Transcript
from tool_env_rl.evaluation import TableScore
from tool_env_rl.protocol import ToolCall, render_prompt
from tool_env_rl.records import EnvRecord
from tool_env_rl.table_tasks import KINDS, TableTask

TASKS = table_tasks.build(8)
ASKED = re.compile(r"What is the (\w+) of (\w+)\?")
TOLD = re.compile(r"the (\w+) of (\w+) is (\w+)\.")


def agent(transcripts: Sequence[Transcript], *, changes: bool = True) -> list[str | None]:
    """Does what the user says, by the wording alone, and says what the tool answered."""
    turns: list[str | None] = []
    for transcript in transcripts:
        task = next(t for t in TASKS if t.id == transcript.name)
        last = transcript.messages[-1]
        if last["role"] == "tool":
            turns.append(f"It is {last['content']}.")
        elif asked := ASKED.search(last["content"]):
            turns.append(call_text(task.reads, {task.source: asked[2], "relation": asked[1]}))
        else:
            told = TOLD.search(last["content"])
            assert told is not None
            call = call_text(task.writes, {task.source: told[2], task.changed.target: told[3]})
            turns.append(call if changes else "Done.")
    return turns


def test_a_good_agent_is_right_and_a_lazy_one_only_where_nothing_changes() -> None:
    assert all(score.right for score in table_tasks.play(TASKS, agent, max_turns=8))
    lazy = table_tasks.play(TASKS, lambda ts: agent(ts, changes=False), max_turns=8)
    assert [score.right for score in lazy] == [score.kind == "ask" for score in lazy]
    assert {score.kind for score in lazy} == set(KINDS)


def test_a_needless_change_is_wrong() -> None:
    (task,) = [t for t in TASKS[:1] if t.kind == "ask"]
    subject, row = next(iter(task.table.items()))
    other = next(
        name for name in table_tasks.procedural().entities[task.changed.target] if name not in row.values()
    )
    spoil = call_text(task.writes, {task.source: subject, task.changed.target: other})

    def meddles(transcripts: Sequence[Transcript]) -> list[str | None]:
        return [spoil] if len(transcripts[0].messages) == 1 else [" ".join(task.outputs)]

    (score,) = table_tasks.play([task], meddles, max_turns=8)
    assert score == TableScore(task.id, "ask", right=False, table_right=False, calls=1)


def test_silence_empty_turns_and_the_turn_limit_are_scored() -> None:
    for text in ("", "I do not know.", "<tool_call>{"):
        scores = table_tasks.play(TASKS, lambda ts, said=text: [said] * len(ts), max_turns=8)
        assert not any(score.right for score in scores)
        assert all(score.calls == 0 for score in scores)
    gives_up = table_tasks.play(TASKS, lambda ts: [None] * len(ts), max_turns=8)
    assert not any(score.right for score in gives_up)
    assert not any(score.right for score in table_tasks.play(TASKS, agent, max_turns=1))


def test_one_call_per_turn_counts() -> None:
    task = TASKS[0]
    call = call_text(task.reads, {task.source: next(iter(task.table)), "relation": task.changed.name})

    def twice(transcripts: Sequence[Transcript]) -> list[str | None]:
        return [call + call if len(transcripts[0].messages) == 1 else "Done."]

    (score,) = table_tasks.play([task], twice, max_turns=8)
    assert score.calls == 1


@pytest.mark.parametrize("task", TASKS[:4])
def test_tools(task: TableTask) -> None:
    subject, row = next(iter(task.table.items()))
    kept, output = task.run(
        ToolCall(task.reads, {task.source: subject, "relation": task.changed.name}), task.table
    )
    assert (kept, output) == (task.table, row[task.changed.name])
    new = next(
        n for n in table_tasks.procedural().entities[task.changed.target] if n != row[task.changed.name]
    )
    changed, output = task.run(
        ToolCall(task.writes, {task.source: subject, task.changed.target: new}), task.table
    )
    assert output == new == changed[subject][task.changed.name]
    assert task.table[subject] == row, "the table itself must not change"
    for arguments in (
        {},
        {task.source: "Nobody", task.changed.target: new},
        {task.source: subject, task.changed.target: "Nothing"},
        {task.source: subject, task.changed.target: ["x"]},
        {task.source: subject, task.changed.target: new, "more": 1},
    ):
        same, output = task.run(ToolCall(task.writes, arguments), task.table)
        assert (same, output) == (task.table, NOT_FOUND)
    assert "nothing_like_it" in task.run(ToolCall("nothing_like_it", {}), task.table)[1]


def test_tasks_are_a_function_of_the_seed() -> None:
    assert table_tasks.build(8) == TASKS
    assert table_tasks.build(8, seed=6) != TASKS
    assert table_tasks.build(12)[:8] == TASKS


def test_the_toy_language_has_all_words() -> None:
    tokenizer = toy_language.tokenizer()
    for task in table_tasks.build(40):
        for request in task.requests:
            message = {"role": "user", "content": table_tasks.POLICY + request}
            text = render_prompt(tokenizer, [message], task.tools)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in ids, text
        assert len(task.requests) == len(KINDS[task.kind])


def test_records_of_tasks_hold_the_first_request_only() -> None:
    seen: list[EnvRecord] = []

    def looks(transcripts: Sequence[Transcript]) -> list[str | None]:
        seen.extend(replace(t.record) for t in transcripts)
        return [None] * len(transcripts)

    table_tasks.play(TASKS, looks, max_turns=2)
    for record, task in zip(seen, TASKS, strict=True):
        assert record.question == task.requests[0]
        assert len(record.tools) == 2
