"""OOD-3: a table that tools read and change, and a scripted user (sheet §7.7, after tau-bench, §4.3; D13).

    user       What is the mayor of Muraton?          a question, answered from the table
    user       the mayor of Muraton is Devaren.       a change, made with the tool that writes

The user waits for a turn without a call before the next request. One call per turn is executed. An episode is
right (`tau_bench.reward`) if the table ends as the gold changes leave it, so that a needless change is wrong
too, and every value asked for was said to the user. Nothing like it is trained on: the training environments
have no tool that changes anything, and no user who comes back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from shared.seeding import derive_seed
from tool_env_rl import tau_bench
from tool_env_rl.build_env.deploy import NOT_FOUND
from tool_env_rl.build_env.integrate import GENERAL_NAMES, relation_document
from tool_env_rl.episodes import Policy, Transcript, unknown_tool
from tool_env_rl.evaluation import TableScore
from tool_env_rl.knowledge_base import Relation, procedural
from tool_env_rl.protocol import (
    ParsedTurn,
    ToolCall,
    assistant_message,
    parse_response,
    render_tool_results,
)
from tool_env_rl.records import EnvRecord
from tool_env_rl.tau_bench import TauTask

SUBJECTS, COLUMNS = 4, 3
KINDS = {"ask": "a", "change": "c", "ask, change": "ac", "change, ask": "ca"}
POLICY = (
    "You look after a table with the given tools. Answer the user's questions from it, make the changes that "
    "the user asks for, and no others.\nQuestion: "
)
Table = dict[str, dict[str, str]]  # subject → relation → value


@dataclass(frozen=True)
class TableTask:
    """One episode's table, tools and user.

    reads, writes: names of the tool that looks any value up, and of the one that sets `changed`.
    requests: what the user says, in turn; actions: the gold changes; outputs: what the user must be told.
    """

    id: str
    kind: str
    source: str
    table: Table
    changed: Relation
    reads: str
    writes: str
    requests: tuple[str, ...]
    actions: tuple[ToolCall, ...]
    outputs: tuple[str, ...]

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Both documents."""
        columns = list(next(iter(self.table.values())))
        properties = {
            self.source: {"type": "string", "description": f"The {self.source}."},
            self.changed.target: {"type": "string", "description": f"The new {self.changed.name}."},
        }
        function = {
            "name": self.writes,
            "description": f"Changes the {self.changed.name} of a {self.source}.",
            "parameters": {"type": "object", "properties": properties, "required": list(properties)},
        }
        writes = {"type": "function", "function": function}
        return [relation_document(self.reads, self.source, columns, None), writes]

    def run(self, call: ToolCall, table: Table) -> tuple[Table, str]:
        """(the table after a call, the call's output); `table` itself is not changed."""
        subject = call.arguments.get(self.source)
        if call.name == self.reads:
            return table, table.get(str(subject), {}).get(str(call.arguments.get("relation")), NOT_FOUND)
        if call.name != self.writes:
            return table, unknown_tool(call.name).output
        value = call.arguments.get(self.changed.target)
        known = procedural().entities[self.changed.target]
        if subject not in table or value not in known or len(call.arguments) != 2:
            return table, NOT_FOUND
        after = deepcopy(table)
        after[subject][self.changed.name] = str(value)
        return after, str(value)


def build(count: int, seed: int = 5) -> list[TableTask]:
    """`count` tasks, the four kinds of user in turn."""
    return [_task(i, list(KINDS)[i % len(KINDS)], seed) for i in range(count)]


def _task(index: int, kind: str, seed: int) -> TableTask:
    rng, kb = random.Random(derive_seed(seed, "table", index)), procedural()
    sources = [name for name in kb.entities if len(kb.from_source(name)) >= COLUMNS]
    source = rng.choice(sources)
    relations = rng.sample(kb.from_source(source), COLUMNS)
    # Parameters are called like types: the new value is of another type than the rows. Numbers are no texts.
    changed = next(r for r in relations if r.target not in (source, "number"))
    subjects = rng.sample(kb.entities[source], SUBJECTS)
    table = {s: {r.name: rng.choice(kb.entities[r.target]) for r in relations} for s in subjects}
    writes = f"{source}_{GENERAL_NAMES[0]}_v2"
    subject = rng.choice(subjects)
    others = [name for name in kb.entities[changed.target] if name != table[subject][changed.name]]
    value = rng.choice(others)
    requests, actions, outputs = [], [], []
    for letter in KINDS[kind]:
        if letter == "a":
            about = changed if kind == "change, ask" else rng.choice(relations)
            requests.append(f"What is the {about.words} of {subject}?")
            outputs.append(value if kind == "change, ask" else table[subject][about.name])
        else:
            requests.append(f"the {changed.words} of {subject} is {value}.")
            actions.append(ToolCall(writes, {source: subject, changed.target: value}))
    said = (tuple(requests), tuple(actions), tuple(outputs))
    return TableTask(f"table-{index}", kind, source, table, changed, f"{source}_index", writes, *said)


class _Episode:
    """A running episode; its transcript is what policies see."""

    def __init__(self, task: TableTask) -> None:
        self.task, self.table, self.calls = task, task.table, 0
        first, *self.waiting = [*task.requests, tau_bench.USER_STOP]
        record = EnvRecord(
            [{"role": "user", "content": POLICY + first}], task.tools, {}, {}, 0.0, "", "test", ""
        )
        self.transcript = Transcript(record, task.id)

    def take(self, turn: ParsedTurn) -> bool:
        """Book one turn; whether the user still waits for something."""
        turn = ParsedTurn(turn.content, turn.calls[:1])
        said = [assistant_message(turn, first_id=self.calls)]
        if turn.calls:
            self.table, output = self.task.run(turn.calls[0], self.table)
            said += render_tool_results([output], first_id=self.calls)
            self.calls += 1
        else:
            said.append({"role": "user", "content": self.waiting.pop(0)})
        self.transcript.messages = [*self.transcript.messages, *said]
        return bool(self.waiting)

    def score(self) -> TableScore:
        task = self.task
        gold = TauTask("table", "", task.actions, task.outputs)
        expected = tau_bench.gold_hash(gold, task.table, lambda call, table: task.run(call, table)[0])
        final = tau_bench.database_hash(self.table)
        said = self.transcript.messages
        right = tau_bench.reward(gold, said, final_hash=final, expected_hash=expected, official=False)
        return TableScore(task.id, task.kind, right == 1.0, final == expected, self.calls)


def play(
    tasks: Sequence[TableTask],
    policy: Policy,
    *,
    max_turns: int,
    drop_thoughts: bool = False,
    on_turn: Callable[[int, int], None] = lambda turn, still_open: None,
) -> list[TableScore]:
    """Play all tasks, at most `max_turns` turns of the agent each."""
    episodes = [_Episode(task) for task in tasks]
    still_open = episodes
    for number in range(1, max_turns + 1):
        if not still_open:
            break
        on_turn(number, len(still_open))
        texts = policy([episode.transcript for episode in still_open])
        pairs = [(e, text) for e, text in zip(still_open, texts, strict=True) if text is not None]
        turns = [(e, parse_response(text, drop_thoughts=drop_thoughts)) for e, text in pairs]
        still_open = [episode for episode, turn in turns if episode.take(turn)]
    return [episode.score() for episode in episodes]
