"""Demonstrations of a noisy oracle, and three tasks without tools (sheet §7.5).

The oracle makes all gold calls that are ready, reads the results, goes on, and answers. 65 % of its turns
before the answer are right; 35 % hold one of six errors. The errors are habits (D9): 14 of the 24 relations
are asked wrongly in 60 % of the turns, each in its own way. Errors without a pattern would vanish from a
model that decodes greedily, and nothing would be left for RL to correct.

The calls are executed. `variation.py` makes a new demonstration of each one whenever it is used.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from shared.seeding import derive_seed
from tool_env_rl.knowledge_base import RELATION_TABLE, procedural
from tool_env_rl.protocol import ParsedTurn, ToolCall, assistant_message, render_prompt, render_tool_results
from tool_env_rl.records import Environment, GoldStep
from tool_env_rl.sandbox import Sandbox

ErrorKind = Literal["wrong_tool", "wrong_argument", "redundant", "early_stop", "direct_answer", "malformed"]
ERRORS: tuple[ErrorKind, ...] = get_args(ErrorKind)
# How many relations have which habit. A wrong argument is any other name, so that it vanishes all the same;
# broken JSON is rare because 90 % of the turns must parse (gate.py).
HABITS: dict[ErrorKind, int] = {
    "wrong_tool": 5,
    "wrong_argument": 1,
    "redundant": 2,
    "early_stop": 2,
    "direct_answer": 3,
    "malformed": 1,
}
HABIT_NOISE = 0.6  # of these 14 of 24: 35 % on average
MAX_TURNS = 8  # §7.4; the authors' 20
GIVE_UP = "I can not find it ."
GENERAL_TASKS = ("copy", "reverse", "add")
Habits = dict[str, ErrorKind]


def habits(seed: int) -> Habits:
    """Relations that the oracle asks wrongly most of the time, and how."""
    rng = random.Random(derive_seed(seed, "habits"))
    relations = sorted(row[0] for row in RELATION_TABLE)
    rng.shuffle(relations)
    kinds: list[ErrorKind] = [kind for kind, count in HABITS.items() for _ in range(count)]
    return dict(zip(relations, kinds, strict=False))


@dataclass(frozen=True)
class Turn:
    """One assistant turn. `stop` is a text that ends it all; `broken` lacks the call's closing braces.
    `thought` comes first."""

    calls: tuple[ToolCall, ...] = ()
    stop: str | None = None
    broken: bool = False
    thought: str = ""

    @property
    def content(self) -> str:
        """What stands before the calls."""
        return " ".join(filter(None, [self.thought and f"<think> {self.thought} </think>", self.stop]))

    @property
    def executed(self) -> tuple[ToolCall, ...]:
        return () if self.broken else self.calls


@dataclass
class Demonstration:
    """Turns and, once they were executed, the outputs of each turn's calls."""

    environment: Environment
    turns: list[Turn]
    outputs: list[list[str]] = field(default_factory=list)


def plan(
    env: Environment, known: Habits, rng: random.Random, *, noise: bool = True, thinking: bool = False
) -> Demonstration:
    """The turns of one demonstration; a call that failed is made again, unless the turn ended it all.

    With `thinking`, a turn first names the sub-questions that are ready; rightly, even where its call is
    wrong.
    """
    done: set[int] = set()
    turns: list[Turn] = []
    while len(turns) < MAX_TURNS - 1:
        ready = [s for s in env.steps if s.id not in done and done.issuperset(s.depends_on)]
        if not ready:
            break
        error = _drawn_error(ready, known, rng) if noise else None
        turn, solved = _turn(env, ready, error, rng)
        if thinking:
            turn = replace(turn, thought=" ".join(_named(step) for step in ready))
        turns.append(turn)
        done |= solved
        if not turn.calls or turn.broken:
            return Demonstration(env, turns)
    turns.append(Turn(stop=env.record.answer))
    return Demonstration(env, turns)


def _named(step: GoldStep) -> str:
    """ "the mayor of Muraton ;" of "What is the mayor of Muraton?" """
    return step.question.removeprefix("What is ").removesuffix("?") + " ;"


def _relation(step: GoldStep) -> str:
    """The relation that a step asks; procedural tools name it in the call or in their own name."""
    chosen = step.arguments.get("relation") or step.arguments.get("operation")
    return chosen or step.tool.removesuffix("_finder").removesuffix("_calculator")


def _drawn_error(ready: Sequence[GoldStep], known: Habits, rng: random.Random) -> ErrorKind | None:
    habit = known.get(_relation(ready[0]))
    return habit if habit and rng.random() < HABIT_NOISE else None


def _turn(
    env: Environment, ready: list[GoldStep], error: ErrorKind | None, rng: random.Random
) -> tuple[Turn, set[int]]:
    """The turn with its first call spoilt, and the steps that it solves."""
    calls = [ToolCall(step.tool, dict(step.arguments)) for step in ready]
    solved = {step.id for step in ready}
    if error is None:
        return Turn(tuple(calls)), solved
    if error == "early_stop":
        return Turn(stop=GIVE_UP), set()
    if error == "direct_answer":
        return Turn(stop=str(calls[0].arguments[_subject_key(calls[0])])), set()
    if error == "malformed":
        return Turn((calls[0],), broken=True), set()
    if error == "redundant":
        return Turn((calls[0], *calls)), solved
    spoilt = _wrong_tool(env, ready[0], rng) if error == "wrong_tool" else _wrong_argument(calls[0], rng)
    return Turn((spoilt, *calls[1:])), solved - {ready[0].id}


def _wrong_tool(env: Environment, step: GoldStep, rng: random.Random) -> ToolCall:
    """What else the subject has: the next relation of its type that a tool offers, or another name."""
    call = ToolCall(step.tool, dict(step.arguments))
    kind = _subject_key(call)
    alike = [row[0] for row in RELATION_TABLE if row[1] == kind]
    at = alike.index(_relation(step))
    for other in (*alike[at + 1 :], *alike[:at]):
        for tool in (tool["function"] for tool in env.record.tools):
            if other in tool["parameters"]["properties"].get("relation", {}).get("enum", ()):
                return ToolCall(tool["name"], {"relation": other, kind: call.arguments[kind]})
            if tool["name"] == f"{other}_finder":
                return ToolCall(tool["name"], {kind: call.arguments[kind]})
    return _wrong_argument(call, rng)


def _wrong_argument(call: ToolCall, rng: random.Random) -> ToolCall:
    """The same tool about another entity."""
    arguments = dict(call.arguments)
    key = _subject_key(call)
    kind = next(names for names in procedural().entities.values() if arguments[key] in names)
    arguments[key] = rng.choice([name for name in kind if name != arguments[key]])
    return ToolCall(call.name, arguments)


def _subject_key(call: ToolCall) -> str:
    return next(key for key in call.arguments if key not in ("relation", "operation"))


def execute(
    demonstrations: Sequence[Demonstration],
    sandbox: Sandbox,
    on_progress: Callable[[int], None] = lambda count: None,
    chunk: int = 256,
) -> None:
    """Run the wrong calls and keep all outputs; the validator has run the gold calls when it built them.

    A deterministic tool returns the sub-answer bare. A broken turn's calls are not run.
    """
    for start in range(0, len(demonstrations), chunk):
        part = demonstrations[start : start + chunk]
        gold = [_gold_outputs(demo.environment) for demo in part]
        asked = [
            (demo.environment.record.codes[call.name], call.name, call.arguments)
            for demo, known in zip(part, gold, strict=True)
            for turn in demo.turns
            for call in turn.executed
            if _key(call) not in known
        ]
        outputs = iter(result.output for result in sandbox.call_many(asked))
        for demo, known in zip(part, gold, strict=True):
            demo.outputs = [
                [known[_key(call)] if _key(call) in known else next(outputs) for call in turn.executed]
                for turn in demo.turns
            ]
        on_progress(len(part))


def _gold_outputs(env: Environment) -> dict[str, str]:
    return {_key(ToolCall(step.tool, step.arguments)): step.answer for step in env.steps}


def _key(call: ToolCall) -> str:
    return json.dumps([call.name, call.arguments], sort_keys=True)


def render(tokenizer: Any, demo: Demonstration) -> tuple[list[int], list[bool]]:
    """(token ids, which of them are the assistant's), the ids of the whole conversation."""
    record = demo.environment.record
    messages: list[dict[str, Any]] = list(record.messages)
    ids: list[int] = []
    mask: list[bool] = []
    for turn, outputs in zip(demo.turns, demo.outputs, strict=True):
        prompt = tokenizer(render_prompt(tokenizer, messages, record.tools), add_special_tokens=False)
        new = prompt["input_ids"][len(ids) :]
        said = assistant_message(ParsedTurn(turn.content, list(turn.calls)))
        messages = [*messages, said, *render_tool_results(outputs)]
        text = tokenizer.apply_chat_template(
            messages[: -len(outputs) or None], tools=record.tools, tokenize=False
        )
        full = tokenizer(text, add_special_tokens=False)["input_ids"]
        spoken = full[len(ids) + len(new) :]
        if turn.broken:  # without the token that closes the JSON
            spoken = spoken[:-3] + spoken[-2:]
        ids, mask = ids + new + spoken, mask + [False] * len(new) + [True] * len(spoken)
    return ids, mask


def general_example(task: str, rng: random.Random) -> tuple[str, str]:
    """(question, answer) of one task without tools: copy or reverse three to five names, add two numbers.

    Numbers are written digit by digit; the sum has two digits.
    """
    if task == "add":
        first = rng.randint(10, 89)
        second = rng.randint(10, 99 - first) if first < 89 else 10
        return f"add {_digits(first)} + {_digits(second)}", _digits(first + second)
    pool = [name for kind, names in procedural().entities.items() if kind != "number" for name in names]
    names = rng.sample(pool, rng.randint(3, 5))
    return f"{task} {' '.join(names)}", " ".join(names if task == "copy" else reversed(names))


def _digits(number: int) -> str:
    return " ".join(str(number))
