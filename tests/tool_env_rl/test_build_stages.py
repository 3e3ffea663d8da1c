"""The five stages by rule: shapes, levels, shares, artefacts, and a stopped build that goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tool_env_rl.build_env import decompose, sources
from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.decompose import Hops
from tool_env_rl.build_env.pipeline import BuildReport, BuildSettings, build
from tool_env_rl.build_env.stage import Rejected, Stopped
from tool_env_rl.knowledge_base import held_out, load, procedural
from tool_env_rl.protocol import solves
from tool_env_rl.records import SCENARIOS, Environment, read_environments
from tool_env_rl.sandbox import Sandbox

LEVELS = 20  # environments of the build that has all levels: one of each scenario per level


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(1) as opened:
        yield opened


@pytest.fixture(scope="module")
def built(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """Four environments of each level, level by level."""
    settings = BuildSettings(n=LEVELS, levels=(0, 1, 2, 3, 4))
    return build(settings, tmp_path_factory.mktemp("levels") / "build", DeterministicBackend(), sandbox)


def parameters(env: Environment, name: str) -> dict:
    tool = next(t for t in env.record.tools if t["function"]["name"] == name)
    return tool["function"]["parameters"]


def test_scenarios_have_equal_shares_and_all_levels_are_built(built: BuildReport) -> None:
    assert Counter(env.record.scenario for env in built.environments) == dict.fromkeys(SCENARIOS, 5)
    assert [env.level for env in built.environments] == [level for level in range(5) for _ in range(4)]
    assert (built.given_up, built.stopped) == (0, None)


def test_levels_add_one_operation_each(built: BuildReport) -> None:
    for env in built.environments:
        gold = {step.tool for step in env.steps}
        schemas = [parameters(env, name) for name in gold]
        optional = [
            {
                k: s
                for k, s in schema["properties"].items()
                if k not in schema["required"] and k != "operation"
            }
            for schema in schemas
        ]
        extra = [{k: s for k, s in found.items() if k != "relation"} for found in optional]
        finders = [
            name for name in gold if name.endswith(("_finder", "sum_calculator", "difference_calculator"))
        ]
        if env.level == 0:
            assert not any(optional)
        else:
            assert not finders  # generalised
        assert all(bool(found) is (env.level >= 2) for found in extra)
        assert all(len(found) <= 4 for found in extra)
        plain = [
            set(schema) == {"type", "description"} and schema["type"] == "string"
            for e in extra
            for schema in e.values()
        ]
        if env.level == 2:
            assert all(plain)
        if env.level >= 3:
            assert not any(plain)
        assert (len(env.record.tools) > len(gold)) is (env.level == 4)
        if env.level == 4:
            assert 5 <= len(env.record.tools) <= 8


def test_old_calls_fit_the_new_schema_and_still_answer(built: BuildReport, sandbox: Sandbox) -> None:
    differing = 0
    for env in built.environments:
        for step in env.steps:
            Draft202012Validator(parameters(env, step.tool)).validate(step.old_arguments)
            assert step.old_arguments.items() <= step.arguments.items()
            result = sandbox.call(env.record.codes[step.tool], step.tool, step.old_arguments)
            assert (result.output, result.status) == (step.answer, "ok")
            differing += step.old_arguments != step.arguments
    assert differing


def test_wrong_calls_are_told_what_is_wrong(built: BuildReport, sandbox: Sandbox) -> None:
    env = built.environments[-4]
    step = env.steps[0]
    code = env.record.codes[step.tool]
    subject = parameters(env, step.tool)["required"][0]

    def call(**changes: object) -> tuple[str, str]:
        result = sandbox.call(code, step.tool, step.arguments | changes)
        return result.output, result.status

    assert call(**{subject: 7}) == (f"Error: {subject} must be a non-empty string.", "ok")
    assert call(relation="height")[0].startswith("Error: relation must be one of ")
    assert call(**{subject: "Nobody"}) == ("No matching record found.", "ok")
    assert call(nonsense=1)[1] == "error"


def test_integration_merges_what_one_tool_can_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = BuildSettings(n=16, scenarios=("parallel_single_hop",), levels=(0,))
    report = build(settings, tmp_path / "build", DeterministicBackend(), sandbox)
    merged = [env for env in report.environments if len(env.record.unsolved_set) < len(env.steps)]
    assert merged
    selected = [env for env in merged if "relation" in env.steps[0].arguments]
    assert all("relation" in parameters(env, env.steps[0].tool)["required"] for env in selected)
    asked = [[(s.tool, json.dumps(s.arguments)) for s in env.steps] for env in report.environments]
    assert all(len(set(calls)) == len(calls) for calls in asked)
    rules = Counter(env.final["rule"] for env in report.environments)
    assert set(rules) == {"max", "list"}


def test_the_echo_switch_reproduces_the_leak(sandbox: Sandbox, tmp_path: Path) -> None:
    settings = BuildSettings(n=1, scenarios=("single_hop",), echo_arguments=True)
    (env,) = build(settings, tmp_path / "leak", DeterministicBackend(), sandbox).environments
    (honest,) = build(
        replace(settings, echo_arguments=False), tmp_path / "no", DeterministicBackend(), sandbox
    ).environments
    for leaks, built_env in ((True, env), (False, honest)):
        step = built_env.steps[0]
        subject = parameters(built_env, step.tool)["required"][0]
        attack = step.arguments | {subject: step.answer}  # the guess as an argument
        output = sandbox.call(built_env.record.codes[step.tool], step.tool, attack).output
        assert solves(output, step.answer, attack, echo_guard=False) is leaks
        assert not solves(output, step.answer, attack, echo_guard=True)


def test_unseen_chains_have_held_out_compositions() -> None:
    def compositions(hops: Hops, seed: int) -> list[bool]:
        steps = decompose.draw("multi_hop", procedural().world(seed), hops)
        names = [step["relation"] for step in steps]
        assert hops.shortest <= len(names) <= hops.longest
        return [held_out(a, b) for a, b in pairwise(names)]

    assert not any(any(compositions(Hops(), seed)) for seed in range(20))
    assert all(sum(compositions(Hops(5, 6, unseen=True), seed)) >= 2 for seed in range(20))
    with pytest.raises(ValueError, match="shortest first"):
        Hops(4, 2)


def test_the_same_seed_gives_the_same_bytes_and_splits_differ(sandbox: Sandbox, tmp_path: Path) -> None:
    files = []
    for name, split in (("a", "train"), ("b", "train"), ("c", "test")):
        build(BuildSettings(n=4, split=split), tmp_path / name, DeterministicBackend(), sandbox)
        files.append((tmp_path / name / "environments.jsonl").read_bytes())
    assert files[0] == files[1] != files[2]


class Halting(DeterministicBackend):
    """Spends its budget after some calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def generate(self, stage: str, payload: dict, schema: dict) -> dict:
        if not self.left:
            raise Stopped("the budget is spent")
        self.left -= 1
        return super().generate(stage, payload, schema)


def test_a_stopped_build_goes_on_without_asking_twice(sandbox: Sandbox, tmp_path: Path) -> None:
    """Also after a kill in the middle of a line; the result is that of a build in one go."""
    settings, folder = BuildSettings(n=6, levels=(1,)), tmp_path / "halting"
    whole = build(settings, tmp_path / "whole", counting := Halting(10_000), sandbox)
    needed = 10_000 - counting.left
    first = build(settings, folder, Halting(needed // 2), sandbox)
    assert first.stopped == "the budget is spent"
    assert not (folder / "report.json").read_text().count('"stopped": null')
    with open(folder / "stages" / "3_integrate.jsonl", "a") as file:
        file.write('{"id": "00009-0", "acc')
    second = build(settings, folder, rest := Halting(needed), sandbox)
    assert second.stopped is None
    assert needed - rest.left <= needed - needed // 2 + 6  # a stage that was cut short is asked again
    assert second.environments == whole.environments
    assert (folder / "gold.jsonl").read_bytes() == (tmp_path / "whole" / "gold.jsonl").read_bytes()
    assert read_environments(folder) == second.environments


def test_more_environments_may_be_asked_for_but_no_other_build(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    few = build(BuildSettings(n=2, levels=(0,)), folder, DeterministicBackend(), sandbox)
    more = build(BuildSettings(n=4, levels=(0,)), folder, DeterministicBackend(), sandbox)
    assert more.environments[:2] == few.environments
    with pytest.raises(ValueError, match=r"seed=0, not 1; choose another folder"):
        build(BuildSettings(n=4, levels=(0,), seed=1), folder, DeterministicBackend(), sandbox)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        build(BuildSettings(n=1), tmp_path / "other", DeterministicBackend(), sandbox)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n": 0}, "n=0"),
        ({"levels": (5,)}, "0 … 4"),
        ({"scenarios": ("x",)}, "'x'"),
        ({"split": "dev"}, "'dev'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BuildSettings(**settings)


class Breaking(DeterministicBackend):
    """Writes a tool that tells its answer to everybody, for every second environment's first tool."""

    def generate(self, stage: str, payload: dict, schema: dict) -> dict:
        made = super().generate(stage, payload, schema)
        if stage == "deploy" and payload["tool"]["function"]["name"].startswith("person"):
            made["code"] = made["code"].replace("No matching record found.", payload["facts"][0]["answer"])
        return made


def test_a_faulty_environment_is_counted_and_never_emitted(sandbox: Sandbox, tmp_path: Path) -> None:
    report = build(BuildSettings(n=12), tmp_path / "build", Breaking(), sandbox)
    checked = report.counts["validate"]
    assert checked.rejected > 0
    assert set(checked.reasons) == {"perturbed"}
    assert checked.accepted == len(report.environments)
    assert not [s for env in report.environments for s in env.steps if s.tool.startswith("person")]
    written = json.loads((tmp_path / "build" / "report.json").read_text())
    assert written["validate"]["reasons"] == {"perturbed": checked.rejected}


def test_ones_own_facts_are_kept_to(sandbox: Sandbox, tmp_path: Path) -> None:
    people, towns = [f"Person{c}" for c in "ABCDEFGH"], [f"Town{c}" for c in "KLMNOPQR"]
    data = {
        "types": {"person": people, "town": towns},
        "relations": [
            {"name": "home", "source": "person", "target": "town"},
            {"name": "mayor", "source": "town", "target": "person"},
        ],
        "facts": [["home", p, t] for p, t in zip(people, towns, strict=True)]
        + [["mayor", t, p] for t, p in zip(towns, people[::-1], strict=True)],
    }
    (tmp_path / "kb.json").write_text(json.dumps(data))
    kb = load(tmp_path / "kb.json")
    settings = BuildSettings(n=3, scenarios=("single_hop", "parallel_single_hop", "multi_hop"))
    report = build(settings, tmp_path / "build", DeterministicBackend(), sandbox, kb=kb)
    assert len(report.environments) == 3
    facts = {(subject, value) for _, subject, value in data["facts"]}
    told = {(next(v for k, v in s.old_arguments.items() if k != "relation"), s.answer)
            for env in report.environments for s in env.steps}  # fmt: skip
    assert told <= facts
    with pytest.raises(Rejected, match="found no parallel_multi_hop"):
        decompose.draw("parallel_multi_hop", kb.world(0), Hops())


QUESTIONS = [
    {
        "question": "In which city was the founder of Orvane Mills born?",
        "answer": "Belmar",
        "steps": [
            {"relation": "founder", "subject": "Orvane Mills", "answer": "Tela Brandt", "source": "company"},
            {"relation": "birthplace", "answer": "Belmar", "depends_on": [1], "source": "person"},
        ],
    },
    {
        "question": "How many more mills than ships does Orvane own?",
        "answer": "25",
        "steps": [
            {"relation": "mills", "subject": "Orvane", "answer": "67"},
            {"relation": "ships", "subject": "Orvane", "answer": "42"},
            {"relation": "difference", "answer": "25", "depends_on": [1, 2]},
        ],
    },
]


def test_ones_own_questions_are_built(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    items, problems = sources.read_questions(path)
    assert not problems
    report = build(BuildSettings(n=9), tmp_path / "build", DeterministicBackend(), sandbox, questions=items)
    assert [env.record.question for env in report.environments] == [row["question"] for row in QUESTIONS]
    assert [env.record.scenario for env in report.environments] == ["multi_hop", "parallel_multi_hop"]
    assert report.environments[0].steps[1].arguments["person"] == "Tela Brandt"


def asking(**step: object) -> dict:
    return {"question": "Who?", "answer": "A", "steps": [{"answer": "A"} | step]}


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ("{", "row", "not valid JSON"),
        ("[]", "row", "one object per line"),
        ({"question": "Who?"}, "answer", "non-empty string"),
        ({"question": "Who?", "answer": "A", "hint": 1}, "hint", "unknown"),
        ({"question": "Who?", "answer": "A", "scenario": "easy"}, "scenario", "use one of"),
        ({"question": "Who?", "answer": "A", "steps": []}, "steps", "at least one"),
        (asking(relation="R x"), "steps[0].relation", "birth_year"),
        (asking(relation="r"), "steps[0].subject", "asks about"),
        (asking(relation="r", subject="S", depends_on=[4]), "steps[0].depends_on", "names step 4"),
        (asking(relation="sum"), "steps[0]", "two steps"),
    ],
)
def test_a_malformed_question_is_named(tmp_path: Path, row: object, field: str, says: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        (row if isinstance(row, str) else json.dumps(row)) + "\n" + json.dumps(QUESTIONS[0]) + "\n"
    )
    items, (problem,) = sources.read_questions(path)
    assert len(items) == 1
    assert (problem.line, problem.field) == (1, field)
    assert says in problem.message
