"""Demonstrations of a noisy oracle, and three tasks without tools (sheet §7.5).

The oracle makes all gold calls that are ready, reads the results, goes on, and answers. 65 % of its turns are
right; 35 % hold one of six errors. The errors are habits (D9): half of the relations are asked wrongly in
60 % of the turns, always in the same way, the others in 10 %, in any way. Errors without a pattern would
vanish from a model that decodes greedily, and nothing would be left for RL to correct.

The calls are executed. Names are exchanged within their type afterwards, token by token, so that one
environment gives many demonstrations and no fact can be learnt by heart.
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
HABIT_NOISE, OTHER_NOISE = 0.6, 0.1  # half of the relations each: 35 % on average
MAX_TURNS = 8  # §7.4; the authors' 20
GIVE_UP = "I can not find it ."
GENERAL_TASKS = ("copy", "reverse", "add")
Habits = dict[str, ErrorKind]


def habits(seed: int) -> Habits:
    """Relations that the oracle asks wrongly most of the time, and how: every error twice, 12 of the 24."""
    rng = random.Random(derive_seed(seed, "habits"))
    relations = sorted(row[0] for row in RELATION_TABLE)
    rng.shuffle(relations)
    kinds = list(ERRORS) * 2
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
    chance = HABIT_NOISE if habit else OTHER_NOISE
    if rng.random() >= chance:
        return None
    return habit or rng.choice(ERRORS)


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
        return Turn(stop=_guess(env, rng)), set()
    if error == "malformed":
        return Turn((calls[0],), broken=True), set()
    if error == "redundant":
        return Turn((calls[0], *calls)), solved
    spoilt = _wrong_tool(env, calls[0], rng) if error == "wrong_tool" else _wrong_argument(env, calls[0], rng)
    return Turn((spoilt, *calls[1:])), solved - {ready[0].id}


def _wrong_tool(env: Environment, call: ToolCall, rng: random.Random) -> ToolCall:
    """Another tool of the set, asked as its own document wants, about what the right one was asked."""
    others = [tool["function"] for tool in env.record.tools if tool["function"]["name"] != call.name]
    if not others:
        return _wrong_argument(env, call, rng)
    other = rng.choice(others)
    given = str(call.arguments[_subject_key(call)])
    arguments: dict[str, Any] = {}
    for key, schema in other["parameters"]["properties"].items():
        if key in ("relation", "operation"):
            arguments[key] = rng.choice(schema["enum"])
        elif key in other["parameters"]["required"]:
            number = schema["type"] == "integer"
            arguments[key] = int(rng.choice(procedural().entities["number"])) if number else given
    return ToolCall(other["name"], arguments)


def _wrong_argument(env: Environment, call: ToolCall, rng: random.Random) -> ToolCall:
    """The same tool about another entity or other numbers."""
    arguments = dict(call.arguments)
    key = _subject_key(call)
    if _numeric(call):
        arguments[key] = int(rng.choice(procedural().entities["number"]))
    else:
        kind = next(names for names in procedural().entities.values() if arguments[key] in names)
        arguments[key] = rng.choice([name for name in kind if name != arguments[key]])
    return ToolCall(call.name, arguments)


def _subject_key(call: ToolCall) -> str:
    return next(key for key in call.arguments if key not in ("relation", "operation"))


def _numeric(call: ToolCall) -> bool:
    return "first" in call.arguments


def _guess(env: Environment, rng: random.Random) -> str:
    kinds = [names for names in procedural().entities.values() if env.record.answer in names]
    return rng.choice((kinds or [procedural().entities["number"]])[0])


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


def exchange(tokenizer: Any, ids: Sequence[int], rng: random.Random) -> list[int]:
    """The ids with all names exchanged within their type; numbers stay, for results depend on them."""
    mapping: dict[int, int] = {}
    for kind, names in procedural().entities.items():
        if kind != "number":
            known = tokenizer.convert_tokens_to_ids(list(names))
            mapping |= dict(zip(known, rng.sample(known, len(known)), strict=True))
    return [mapping.get(token, token) for token in ids]
