"""One environment that passes, and each property broken in turn: the validator names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tool_env_rl import protocol
from tool_env_rl.plan_checks import derive, plan_findings
from tool_env_rl.records import Environment, EnvRecord, GoldStep, user_message
from tool_env_rl.sandbox import Sandbox
from tool_env_rl.validate import CHECKS, probes, validate


def document(name: str, properties: dict, required: list[str]) -> dict:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": "A tool.", "parameters": parameters},
    }


TEXT = {"type": "string"}
LOOKUP = """def {name}({key}, detail=None):
    if not isinstance({key}, str):
        return {{"error": "{key} must be a text"}}
    known = {known!r}
    if {key}.lower() not in known:
        return "Nothing found."
    return known[{key}.lower()]
"""


def lookup(name: str, key: str, known: dict[str, str]) -> str:
    return LOOKUP.format(name=name, key=key, known=known)


def good() -> Environment:
    """Founder of Orvane Mills, then the founder's city; one distractor."""
    record = EnvRecord(
        messages=[user_message("In which city lives the founder of Orvane Mills?")],
        tools=[
            document("founder_finder", {"company": TEXT, "detail": TEXT}, ["company"]),
            document("city_finder", {"person": TEXT, "detail": TEXT}, ["person"]),
            document("river_finder", {"city": TEXT, "detail": TEXT}, ["city"]),
        ],
        codes={
            "founder_finder": lookup(
                "founder_finder", "company", {"orvane mills": "Tela Brandt", "zil": "Ko"}
            ),
            "city_finder": lookup("city_finder", "person", {"tela brandt": "Belmar", "ko": "Luz"}),
            "river_finder": lookup("river_finder", "city", {"luz": "Amo"}),
        },
        unsolved_set={"founder_finder": ["Tela Brandt"], "city_finder": ["Belmar"]},
        solve_rate=0.0,
        data_source="self/multi_hop",
        split="train",
        answer="Belmar",
    )
    first = {"company": "Orvane Mills"}
    second = {"person": "Tela Brandt"}
    steps = (
        GoldStep(1, "Who founded Orvane Mills?", "Tela Brandt", "founder_finder", first, (), first),
        GoldStep(2, "Where does Tela Brandt live?", "Belmar", "city_finder", second, (1,), second),
    )
    return Environment("00000-0", 0, record, steps, {"rule": "last", "steps": [2]})


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(1) as opened:
        yield opened


def with_record(env: Environment, **changes: object) -> Environment:
    return replace(env, record=replace(env.record, **changes))


def with_code(name: str, change: Callable[[str], str]) -> Environment:
    env = good()
    return with_record(env, codes=env.record.codes | {name: change(env.record.codes[name])})


def with_tool(index: int, **changes: object) -> Environment:
    env = good()
    tools = json.loads(json.dumps(env.record.tools))
    tools[index]["function"] |= changes
    return with_record(env, tools=tools)


def with_step(index: int, **changes: object) -> Environment:
    env = good()
    steps = list(env.steps)
    steps[index] = replace(steps[index], **changes)
    return replace(env, steps=tuple(steps))


def parameters(properties: dict, required: list[str]) -> dict:
    return {"type": "object", "properties": properties, "required": required}


PERSON = {"person": TEXT, "detail": TEXT}
ADDED = "\ndef helper():\n    return 1\n"
COUNTER = """def city_finder(person, detail=None, seen=[]):
    seen.append(person)
    return "Belmar" if person == "Tela Brandt" and len(seen) == 1 else "Nothing found."
"""


def inserted(line: str) -> Environment:
    return with_code("city_finder", lambda code: code.replace("detail=None):", f"detail=None):\n    {line}"))


def replaced(name: str, old: str, new: str) -> Environment:
    return with_code(name, lambda code: code.replace(old, new))


ECHO = replaced("city_finder", '"Nothing found."', 'f"Nothing on {person}."')
TELLING = replaced("city_finder", "Nothing found.", "Try Belmar.")
BROKEN: list[tuple[str, str, Environment]] = [
    ("plan", "cycle", with_step(0, depends_on=(2,))),
    ("plan", "step 7", with_step(1, depends_on=(7,))),
    ("plan", "no multi_hop", with_step(1, depends_on=())),
    ("plan", "unsolved_set", with_record(good(), unsolved_set={"city_finder": ["Belmar"]})),
    ("final", "'Belmar'", with_record(good(), answer="Luz")),
    (
        "leak",
        "'Belmar' stands in the question",
        with_record(good(), messages=[user_message("Is it Belmar?")]),
    ),
    ("leak", "'Tela Brandt' stands in the document", with_tool(2, description="Not about Tela Brandt.")),
    ("leak", "'Orvane Mills', which a gold call", with_tool(0, description="For Orvane Mills.")),
    ("schema", "city_finder", with_tool(1, parameters=parameters({"person": {"type": "text"}}, ["person"]))),
    ("schema", "properties.person.type", with_tool(1, parameters=parameters({"person": {"type": 3}}, []))),
    ("schema", "'name' is no property", with_tool(1, parameters=parameters(PERSON, ["name"]))),
    ("schema", "'a b'", with_tool(1, parameters=parameters({"a b": TEXT}, []))),
    ("schema", "'class'", with_tool(1, name="class")),
    ("signature", "takes", with_tool(1, parameters=parameters({"person": TEXT}, ["person"]))),
    ("signature", "cannot do without", with_tool(1, parameters=parameters(PERSON, []))),
    ("signature", "does not parse", with_code("city_finder", lambda code: code + ")")),
    ("signature", "one function", with_code("city_finder", lambda code: code + ADDED)),
    ("signature", "'other'", replaced("city_finder", "def city_finder", "def other")),
    ("signature", "*args", replaced("city_finder", "detail=None", "detail=None, **rest")),
    ("signature", "no code", with_record(good(), codes={})),
    ("arguments", "does not fit", with_step(1, arguments={"person": 3}, old_arguments={"person": 3})),
    ("arguments", "does not have", with_step(1, arguments={"person": "Tela Brandt", "year": "1"})),
    ("arguments", "old call of step 2", with_step(1, old_arguments={})),
    ("arguments", "no longer gives", with_step(1, old_arguments={"person": "Ko"})),
    ("arguments", "neither the question", with_step(0, arguments={"company": "Zil Corp"})),
    ("gold", "'Luz'", replaced("city_finder", "Belmar", "Luz")),
    ("gold", "error", inserted("1 / 0")),
    ("gold", "rejected", inserted("import os")),
    ("determinism", "the same", with_tool(1, parameters=parameters(PERSON | {"seen": TEXT}, ["person"]))),
    ("perturbed", "reveals", TELLING),
    ("perturbed", "reveals", replaced("founder_finder", "must be a text", "Tela Brandt")),
    ("echo", "reveals", ECHO),
    ("distractor", "river_finder", replaced("river_finder", "Nothing found.", "Belmar!")),
]


def test_the_good_one_passes(sandbox: Sandbox) -> None:
    assert validate([good()], sandbox) == [[]]


@pytest.mark.parametrize(("check", "says", "env"), BROKEN, ids=[f"{c}-{s}" for c, s, _ in BROKEN])
def test_what_breaks_one_property_is_refused(
    sandbox: Sandbox, check: str, says: str, env: Environment
) -> None:
    if check == "determinism":
        env = with_record(env, codes=env.record.codes | {"city_finder": COUNTER})
    found = validate([env], sandbox)[0]
    assert check in CHECKS
    assert [f for f in found if f.check == check and says in f.message], found


def test_the_leak_switch_leaves_out_the_echo_only(sandbox: Sandbox) -> None:
    leaking, telling = validate([ECHO, TELLING], sandbox, allow_echo=True)
    assert leaking == []
    assert {finding.check for finding in telling} == {"perturbed"}


def test_an_answer_as_the_name_of_an_argument_comes_back_and_does_not_count(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = [p for p in probes(good()) if p.kind == "echo" and "Belmar" in p.arguments]
    assert [sandbox.call(p.code, p.name, p.arguments).output.count("'Belmar'") for p in tried] == [1]
    monkeypatch.setattr(protocol, "_leaf_texts", lambda arguments: list(map(str, arguments.values())))
    assert {finding.check for finding in validate([good()], sandbox)[0]} == {"echo"}


def test_many_at_once_are_judged_as_each_alone(sandbox: Sandbox) -> None:
    some = [good(), BROKEN[-1][2], good(), BROKEN[0][2]]
    assert validate(some, sandbox) == [validate([env], sandbox)[0] for env in some]


def test_a_probe_that_never_ends_does_not_hide_the_others() -> None:
    """The batch is lost and its calls run one by one: the endless distractor reveals nothing."""
    env = TELLING
    slow = env.record.codes["river_finder"].replace('"Nothing found."', "sum(1 for _ in range(10**12))")
    env = with_record(env, codes=env.record.codes | {"river_finder": slow})
    with Sandbox(1, time_limit_s=1.0) as sandbox:
        assert {f.check for f in validate([env], sandbox)[0]} == {"perturbed", "echo"}


def test_gold_calls_come_first_and_in_dependency_order() -> None:
    env = good()
    turned = replace(env, steps=env.steps[::-1])
    plan = probes(turned)
    assert [(probe.kind, probe.step) for probe in plan[:2]] == [("gold", 1), ("gold", 2)]
    assert [(probe.kind, probe.step) for probe in plan[-2:]] == [("again", 1), ("again", 2)]
    assert {probe.kind for probe in plan} == {"gold", "again", "perturbed", "echo", "distractor"}
    gold = [step.arguments for step in env.steps]
    assert not [probe for probe in plan if probe.kind in ("perturbed", "echo") and probe.arguments in gold]


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        ({"rule": "last", "steps": [2]}, "400 million"),
        ({"rule": "list", "steps": [1, 2]}, "450 million, 400 million"),
        ({"rule": "difference", "steps": [1, 2]}, "50"),
        ({"rule": "sum", "steps": [1, 2, 3]}, "2781"),
        ({"rule": "max", "steps": [1, 3]}, "1931"),
        ({"rule": "argmin", "steps": [1, 2], "labels": ["Ada", "Bo"]}, "Bo"),
        ({"rule": "argmin", "steps": [1, 1], "labels": ["Ada", "Bo"]}, None),
        ({"rule": "sum", "steps": [1, 4]}, None),
        ({"rule": "last", "steps": [1, 2]}, None),
        ({"rule": "median", "steps": [1]}, None),
        ({"rule": "last", "steps": [9]}, None),
    ],
)
def test_final_answers_follow_by_the_rule(final: dict, expected: str | None) -> None:
    assert derive(final, {1: "450 million", 2: "400 million", 3: "1,931", 4: "Oslo"}) == expected


@pytest.mark.parametrize(
    ("scenario", "dependencies", "fits"),
    [
        ("single_hop", [[]], True),
        ("single_hop", [[], []], False),
        ("parallel_single_hop", [[], [], []], True),
        ("parallel_single_hop", [[]], False),
        ("multi_hop", [[], [1], [2]], True),
        ("multi_hop", [[], [1], [1]], False),
        ("parallel_multi_hop", [[], [], [1, 2]], True),
        ("parallel_multi_hop", [[], [1], [2]], False),
        ("parallel_multi_hop", [[], [1], [1]], True),
        ("other", [[]], False),
    ],
)
def test_scenarios_have_their_shapes(scenario: str, dependencies: list[list[int]], fits: bool) -> None:
    steps = [{"id": i, "answer": f"a{i}", "depends_on": d} for i, d in enumerate(dependencies, 1)]
    final = {"rule": "list", "steps": [step["id"] for step in steps]}
    answer = ", ".join(step["answer"] for step in steps)
    assert (plan_findings(scenario, "What?", steps, final, answer) == []) is fits
