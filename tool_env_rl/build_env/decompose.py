"""Stage 1, scenario decomposition: a question becomes sub-questions with sub-answers and dependencies.

single_hop: one sub-question. parallel_single_hop: independent ones; the answer lists them or is the larger of
two numbers. multi_hop: a chain. parallel_multi_hop: two chains and a calculator on their ends (sheet §7.3).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shared.seeding import derive_seed
from tool_env_rl.build_env.stage import Backend, Json, Rejected, ask
from tool_env_rl.knowledge_base import NUMBER, OPERATIONS, Relation, World, held_out
from tool_env_rl.plan_checks import RULES, derive, plan_findings
from tool_env_rl.records import SCENARIOS

NAME = "decompose"
INSTRUCTIONS = """Decompose a question into atomic sub-questions that one tool call each can answer.
Scenario types: single_hop has one sub-question; parallel_single_hop has several independent ones; multi_hop
is a chain in which each needs the previous answer; parallel_multi_hop mixes independent and dependent ones.
If `steps` are given, keep their ids, answers and dependencies, and write a fluent question for them that
names only the subjects of steps without dependencies. If `question` is given, keep it and its `answer`.
Sub-answers are short and concrete; no sub-answer may appear in the question. A sub-question names the
answers it depends on in full. Never make steps depend on each other that could run in parallel. `final`
says how the answer follows from the sub-answers: rule last (the answer of one step), list (joined by ", "),
max, min, sum, difference, argmax or argmin (then `labels` has one label per step)."""

STEP_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "question": {"type": "string", "minLength": 1},
        "answer": {"type": "string", "minLength": 1},
        "depends_on": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["id", "question", "answer", "depends_on"],
}
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "scenario": {"enum": list(SCENARIOS)},
        "question": {"type": "string", "minLength": 1},
        "answer": {"type": "string", "minLength": 1},
        "final": {
            "type": "object",
            "properties": {
                "rule": {"enum": list(RULES)},
                "steps": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                "labels": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["rule", "steps"],
        },
        "steps": {"type": "array", "items": STEP_SCHEMA, "minItems": 1, "maxItems": 12},
    },
    "required": ["scenario", "question", "answer", "final", "steps"],
}


@dataclass(frozen=True)
class Hops:
    """Which chains the procedural questions have."""

    shortest: int = 2  # multi_hop (§7.3: 2 to 4)
    longest: int = 4
    unseen: bool = False  # True: at least two compositions of relations that other chains never have

    def __post_init__(self) -> None:
        if not 2 <= self.shortest <= self.longest <= 10:
            raise ValueError(f"hops {self.shortest} to {self.longest} must lie in 2 … 10, shortest first")
        if self.unseen and self.shortest < 3:
            raise ValueError(f"unseen compositions need chains of 3 or more; shortest is {self.shortest}")


def run(item: Json, backend: Backend) -> Json:
    """The decomposition of `item`: drawn steps, or a question of one's own with or without steps."""
    payload = {key: item[key] for key in ("scenario", "question", "answer", "steps") if key in item}

    def check(result: Json) -> list[tuple[str, str]]:
        wrong = [
            (key, f"{key} must stay {item[key]!r}, not {result[key]!r}")
            for key in ("question", "answer", "scenario")
            if key in item and str(result[key]).strip() != str(item[key]).strip()
        ]
        if "steps" in item and not wrong:
            keep = [(s["id"], s["answer"], s["depends_on"]) for s in item["steps"]]
            if [(s["id"], s["answer"], s["depends_on"]) for s in result["steps"]] != keep:
                wrong.append(("steps", f"keep the given steps (id, answer, depends_on): {keep}"))
        args = (result["scenario"], result["question"], result["steps"], result["final"], result["answer"])
        return wrong or [(f.check, f.message) for f in plan_findings(*args)]

    result = ask(backend, NAME, payload, SCHEMA, check)
    given = {step["id"]: step for step in item.get("steps", [])}
    steps = [given.get(step["id"], {}) | step for step in result["steps"]]  # keeps relation and subject
    return {key: result[key] for key in SCHEMA["required"]} | {"steps": steps}


# --- drawing questions from a knowledge base --------------------------------------------------------------


def draw(scenario: str, world: World, hops: Hops) -> list[Json]:
    """Steps of one question from the facts of `world`; Rejected if they do not hold such a question."""
    rng = random.Random(derive_seed(world.seed, "draw", scenario))
    for _ in range(200):
        steps = _DRAWS[scenario](world, rng, hops)
        if steps and _distinct(steps):
            return [step | {"id": i} for i, step in enumerate(steps, 1)]
    raise Rejected([("facts", f"200 draws found no {scenario} question in the knowledge base; add facts")])


def _step(relation: Relation, subject: str, answer: str, depends_on: list[int]) -> Json:
    named = {"relation": relation.name, "source": relation.source, "target": relation.target}
    return named | {"subject": subject, "answer": answer, "depends_on": depends_on}


def _chain(world: World, rng: random.Random, length: int, hops: Hops, end: str | None = None) -> list[Json]:
    """A chain of facts, ids from 1, its last value of type `end`; empty if this draw meets a dead end."""
    last = rng.choice([r for r in world.kb.relations if (r.target == end) or (end is None)] or [None])
    relations = [last] if last else []
    while relations and len(relations) < length:  # backwards, so that the type of the end is met
        before = [r for r in world.kb.relations if r.target == relations[0].source]
        if not hops.unseen:
            before = [r for r in before if not held_out(r.name, relations[0].name)]
        if not before:
            return []
        relations.insert(0, rng.choice(before))
    pairs = pairwise(relations)
    if not relations or (hops.unseen and sum(held_out(a.name, b.name) for a, b in pairs) < 2):
        return []
    subjects = world.subjects(relations[0])
    subject: str | None = rng.choice(subjects) if subjects else None
    steps: list[Json] = []
    for number, relation in enumerate(relations, 1):
        value = world.fact(relation, subject) if subject else None
        if subject is None or value is None:
            return []
        steps.append(_step(relation, subject, value, [number - 1] if number > 1 else []))
        subject = value
    return steps


def _single(world: World, rng: random.Random, hops: Hops) -> list[Json]:
    return _chain(world, rng, 1, hops)


def _parallel(world: World, rng: random.Random, hops: Hops) -> list[Json]:
    """Two numbers to compare, or two or three facts to list; often about one relation or one type."""
    numeric = rng.random() < 0.5
    first = _chain(world, rng, 1, hops, NUMBER if numeric else None)
    if not first:
        return []
    relation = world.kb.by_name[first[0]["relation"]]
    alike = [r for r in world.kb.relations if r.source == relation.source or rng.random() < 0.3]
    alike = [r for r in alike if (r.target == NUMBER) == (relation.target == NUMBER)]
    steps = first
    for _ in range(1 if numeric else rng.choice((1, 2))):
        other = relation if rng.random() < 0.4 else rng.choice(alike)
        subjects = world.subjects(other)
        subject = rng.choice(subjects) if subjects else ""
        value = world.fact(other, subject)
        if value is None:
            return []
        steps = [*steps, _step(other, subject, value, [])]
    return steps


def _multi(world: World, rng: random.Random, hops: Hops) -> list[Json]:
    return _chain(world, rng, rng.randint(hops.shortest, hops.longest), hops)


def _parallel_multi(world: World, rng: random.Random, hops: Hops) -> list[Json]:
    """Two chains of one or two facts, one of two at least, and the sum or difference of their ends."""
    plain = Hops()
    lengths = rng.choice(((1, 2), (2, 1), (2, 2)))
    first, second = (_chain(world, rng, length, plain, NUMBER) for length in lengths)
    if not first or not second:
        return []
    shifted = [s | {"depends_on": [i + len(first) for i in s["depends_on"]]} for s in second]
    a, b = int(first[-1]["answer"]), int(second[-1]["answer"])
    operation = rng.choice(OPERATIONS)
    result = a + b if operation == "sum" else a - b
    drawn = world.kb.facts is None  # procedural numbers have two digits, and so have their results
    if (drawn and not 10 <= result <= 99) or result in (a, b):
        return []
    named = {"relation": operation, "source": NUMBER, "target": NUMBER, "subject": None}
    ends = [len(first), len(first) + len(second)]
    return [*first, *shifted, named | {"answer": str(result), "depends_on": ends}]


_DRAWS = {
    "single_hop": _single,
    "parallel_single_hop": _parallel,
    "multi_hop": _multi,
    "parallel_multi_hop": _parallel_multi,
}


def _distinct(steps: Sequence[Mapping]) -> bool:
    """No answer comes twice or is the subject of a question, no two steps ask the same."""
    answers = [step["answer"] for step in steps]
    roots = [step["subject"] for step in steps if not step["depends_on"]]
    asked = {(step["relation"], step["subject"]) for step in steps}
    return len({*answers, *roots}) == len(answers) + len(set(roots)) and len(asked) == len(steps)


# --- the deterministic backend's rule ---------------------------------------------------------------------


def write(payload: Json) -> Json:
    """Questions in fixed wording; a question of one's own keeps its text and needs steps."""
    if "steps" not in payload:
        message = (
            "the deterministic backend cannot decompose a question by itself; give its `steps` (see --help)"
        )
        raise Rejected([("steps", message)])
    steps: list[Json] = payload["steps"]
    by_id = {step["id"]: step for step in steps}
    asked = [step | {"question": step.get("question") or _sub_question(step, by_id)} for step in steps]
    question = payload.get("question")
    scenario = payload.get("scenario") or _scenario(steps)
    if question is None:
        final = _drawn_final(scenario, steps)
        question = _question(steps, by_id, final)
    else:
        final = _found_final(steps, payload["answer"])
    answer = payload.get("answer") or derive(final, {step["id"]: step["answer"] for step in steps})
    named = {"scenario": scenario, "question": question, "answer": answer or ""}
    return named | {"final": final, "steps": asked}


def _drawn_final(scenario: str, steps: Sequence[Json]) -> Json:
    ids = [step["id"] for step in steps]
    if scenario != "parallel_single_hop":
        return {"rule": "last", "steps": ids[-1:]}
    numbers = len(steps) == 2 and all(step["target"] == NUMBER for step in steps)
    return {"rule": "max" if numbers else "list", "steps": ids}


def _found_final(steps: Sequence[Json], answer: str) -> Json:
    """The first rule that gives the answer from one step, the last first, or from all."""
    answers = {step["id"]: step["answer"] for step in steps}
    candidates = [[i] for i in reversed(answers)] + [list(answers)]
    for rule in RULES[:6]:
        for ids in candidates:
            derived = derive({"rule": rule, "steps": ids}, answers)
            if derived is not None and derived.strip().lower() == answer.strip().lower():
                return {"rule": rule, "steps": ids}
    return {"rule": "last", "steps": [steps[-1]["id"]]}  # the check of the final answer refuses it


def _scenario(steps: Sequence[Json]) -> str:
    dependent = [step for step in steps if step["depends_on"]]
    if len(steps) == 1:
        return "single_hop"
    if not dependent:
        return "parallel_single_hop"
    roots = len(steps) - len(dependent)
    chain = roots == 1 and all(len(s["depends_on"]) == 1 for s in dependent)
    unbranched = len({s["depends_on"][0] for s in dependent}) == len(dependent)
    return "multi_hop" if chain and unbranched else "parallel_multi_hop"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sub_question(step: Json, by_id: Mapping[int, Json]) -> str:
    if step["relation"] in OPERATIONS:
        first, second = (by_id[i]["answer"] for i in step["depends_on"])
        return f"What is the {step['relation']} of {first} and {second}?"
    return f"What is the {_words(step['relation'])} of {step['subject']}?"


def _phrase(step: Json, by_id: Mapping[int, Json]) -> str:
    """E.g. "the capital of the homeland of Muraton": only the first subject is named."""
    inner = _phrase(by_id[step["depends_on"][0]], by_id) if step["depends_on"] else step["subject"]
    return f"the {_words(step['relation'])} of {inner}"


def _question(steps: Sequence[Json], by_id: Mapping[int, Json], final: Json) -> str:
    last = steps[-1]
    if last["relation"] in OPERATIONS:
        first, second = (_phrase(by_id[i], by_id) for i in last["depends_on"])
        return f"What is the {last['relation']} of {first} and {second}?"
    if final["rule"] == "last":
        return f"What is {_phrase(last, by_id)}?"
    phrases = [_phrase(step, by_id) for step in steps]
    if final["rule"] == "max":
        return f"Which number is larger, {phrases[0]} or {phrases[1]}?"
    return f"What are {', '.join(phrases[:-1])} and {phrases[-1]}?"
