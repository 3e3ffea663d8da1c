"""One validator for every backend: what fails any of these checks is never emitted (§2.2, §7.3).

| check         | what must hold |
|---------------|-------------------------------------------|
| plan          | steps and their references exist, no cycle, and the shape is that of the scenario |
| final         | the final answer follows from the sub-answers by the stated rule |
| leak          | no sub-answer in the question or in a tool document, no question entity in a document |
| schema        | each document is a function-calling document whose parameters are valid JSON Schema |
| signature     | one function per document, of the same name, parameters and required parameters |
| arguments     | gold calls, also those from before scaling, fit the schema; their values can be known |
| gold          | gold calls in dependency order solve all sub-answers, one each, by both ways of matching |
| determinism   | the same call gives the same bytes twice |
| perturbed     | a gold call with one argument changed, missing or of a wrong type reveals no sub-answer |
| echo          | an answer passed as an argument does not come back (not where the leak is switched on) |
|               | and, as the name of one, which Python's TypeError repeats, does not count |
| distractor    | distractors reveal no sub-answer, whatever known entity they are asked about |

Tool code runs only in the sandbox.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from graphlib import TopologicalSorter
from typing import Any, NamedTuple, Protocol

from tool_env_rl.document_checks import argument_findings, document_leaks, record_findings
from tool_env_rl.plan_checks import Finding, plan_findings
from tool_env_rl.protocol import ToolCall, answer_matches, apply_results, solves
from tool_env_rl.records import Environment, GoldStep

CHECKS = ("plan", "final", "leak", "schema", "signature", "arguments")  # static, then those that run code
CHECKS += ("gold", "determinism", "perturbed", "echo", "distractor")
UNKNOWN = "Qxzvwk"  # an entity that no tool knows
# Many calls of an environment's tools in one process. Gold calls run alone, as in training, and once more in
# here: the other program text keeps the sandbox's result cache out, and a tool with a memory is found out.
BATCH = """
def _all_calls(calls):
    import json
    tools = {%s}
    answers = []
    for name, arguments in calls:
        try:
            result = tools[name](**arguments)
            plain = json.dumps(result, ensure_ascii=False) if type(result) in (dict, list) else str(result)
            answers.append(["ok", plain])
        except Exception as error:
            answers.append(["error", str(error)])
    return answers
"""
BATCH_BYTES = 18_000  # of source; the gate takes 20,000


class Result(Protocol):
    @property
    def output(self) -> str: ...
    @property
    def status(self) -> str: ...


class Runs(Protocol):
    """What the validator needs of tool_env_rl.sandbox.Sandbox."""

    def call_many(self, calls: Sequence[tuple[str, str, dict[str, Any]]], /) -> Sequence[Result]: ...


def validate(
    environments: Sequence[Environment], sandbox: Runs, *, allow_echo: bool = False
) -> list[list[Finding]]:
    """Findings per environment, in order; an empty list means that it may be emitted.

    All calls of all environments go to the sandbox together. `allow_echo` leaves out the check `echo`.
    """
    found = [static_findings(env) for env in environments]
    planned = [[] if static else probes(env) for env, static in zip(environments, found, strict=True)]
    results = run_probes(planned, sandbox)
    for env, findings, plan, result in zip(environments, found, planned, results, strict=True):
        if plan:
            judged = judge(env, plan, result)
            findings += [f for f in judged if not (allow_echo and f.check == "echo")]
    return found


def static_findings(env: Environment) -> list[Finding]:
    """All checks of an environment that need no running code."""
    record = env.record
    steps = [{"id": s.id, "answer": s.answer, "depends_on": s.depends_on} for s in env.steps]
    found = plan_findings(record.scenario, record.question, steps, env.final, record.answer)
    found += [f for f in record_findings(record) if f not in found]
    expected: dict[str, list[str]] = {}
    for step in env.steps:
        expected.setdefault(step.tool, []).append(step.answer)
    if {k: Counter(v) for k, v in expected.items()} != {
        k: Counter(v) for k, v in record.unsolved_set.items()
    }:
        found.append(
            Finding("plan", f"unsolved_set {record.unsolved_set} is not that of the steps {expected}")
        )
    if found:
        return found
    tools = {tool["function"]["name"]: tool for tool in record.tools}
    answers = [step.answer for step in env.steps]
    for name, tool in tools.items():
        found += document_leaks(tool, answers, [step.arguments for step in env.steps if step.tool == name])
    for step in env.steps:
        found += argument_findings(tools[step.tool], step.arguments, f"the gold call of step {step.id}")
        found += argument_findings(tools[step.tool], step.old_arguments, f"the old call of step {step.id}")
        found += _unknowable(env, step, tools[step.tool])
    return found


def _unknowable(env: Environment, step: GoldStep, tool: Mapping[str, Any]) -> list[Finding]:
    """Texts and numbers of a gold call must stand in the question, a needed answer or the document."""
    needed = [other.answer for other in env.steps if other.id in step.depends_on]
    known = [env.record.question, *needed]
    document = json.dumps(tool["function"], ensure_ascii=False)
    found = []
    for key, value in step.arguments.items():
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if isinstance(text, bool) or not isinstance(text, str | int | float):
                continue
            if not any(answer_matches(source, str(text), strict=True) for source in (*known, document)):
                message = f"step {step.id} passes {key}={text!r}, which neither the question nor an earlier "
                found.append(Finding("arguments", message + "answer it depends on gives", step.tool))
    passed = json.dumps(step.arguments, ensure_ascii=False)
    found += [
        Finding("arguments", f"step {step.id} depends on answer {answer!r} but does not use it", step.tool)
        for answer in needed
        if not answer_matches(passed, answer, strict=True)
    ]
    return found


# --- running the code --------------------------------------------------------------------------------------


class Probe(NamedTuple):
    """One call of the sandbox and what it is for."""

    kind: str  # gold, again, old, or the check that fails if a sub-answer appears
    code: str
    name: str
    arguments: dict[str, Any]
    step: int | None = None


def probes(env: Environment) -> list[Probe]:
    """Every call that the checks of `env` need, gold calls first, in dependency order, and last."""
    codes = env.record.codes
    steps = {step.id: step for step in env.steps}
    order = TopologicalSorter({step.id: step.depends_on for step in env.steps}).static_order()
    gold = [Probe("gold", codes[steps[i].tool], steps[i].tool, steps[i].arguments, i) for i in order]
    plan = list(gold)
    for step in env.steps:
        code = codes[step.tool]
        if step.old_arguments != step.arguments:
            plan.append(Probe("old", code, step.tool, step.old_arguments, step.id))
        plan += [Probe(kind, code, step.tool, args, step.id) for kind, args in perturbed(env, step)]
    gold_tools = {step.tool for step in env.steps}
    for tool in env.record.tools:
        name = tool["function"]["name"]
        if name not in gold_tools:
            plan += [Probe("distractor", codes[name], name, args) for args in _questions(env, tool)]
    return plan + [probe._replace(kind="again") for probe in gold]  # last: after all else in its process


@dataclass(frozen=True)
class Output:
    """What one call gave, as tool_env_rl.sandbox.ToolResult."""

    output: str
    status: str


def run_probes(plans: Sequence[Sequence[Probe]], sandbox: Runs) -> list[list[Result]]:
    """Results of the probes of several environments: gold calls one by one, the others in few processes."""
    results: list[dict[int, Result]] = [{} for _ in plans]
    calls: list[tuple[str, str, dict[str, Any]]] = []
    owners: list[tuple[int, list[int]]] = []  # whose probes each call answers: (plan, indices)
    for p, plan in enumerate(plans):
        for i, probe in enumerate(plan):
            if probe.kind == "gold":
                calls.append((probe.code, probe.name, probe.arguments))
                owners.append((p, [i]))
        for members in _batches(plan):
            codes = {plan[i].name: plan[i].code for i in members}
            source = "\n\n".join([*codes.values(), BATCH % ", ".join(f"{n!r}: {n}" for n in codes)])
            calls.append(
                (source, "_all_calls", {"calls": [[plan[i].name, plan[i].arguments] for i in members]})
            )
            owners.append((p, members))
    lost: list[
        tuple[int, int]
    ] = []  # of a batch that did not come back whole, e.g. as one call takes too long
    for (p, members), result in zip(owners, sandbox.call_many(calls), strict=True):
        if plans[p][members[0]].kind == "gold":
            results[p][members[0]] = result
        elif result.status == "ok":
            answers = zip(members, json.loads(result.output), strict=True)
            results[p].update((i, Output(text, status)) for i, (status, text) in answers)
        else:
            lost += [(p, i) for i in members]
    again = [
        (plans[p][i].code + "\n", plans[p][i].name, plans[p][i].arguments) for p, i in lost
    ]  # past the cache
    for (p, i), result in zip(lost, sandbox.call_many(again) if again else [], strict=True):
        results[p][i] = result
    return [[results[p][i] for i in range(len(plan))] for p, plan in enumerate(plans)]


def _batches(plan: Sequence[Probe]) -> list[list[int]]:
    """Indices of all but gold calls, by process: tools that are one function together, others apart."""
    by_code: dict[str, list[int]] = {}
    for i, probe in enumerate(plan):
        if probe.kind != "gold":
            by_code.setdefault(probe.code, []).append(i)
    batches: list[list[int]] = []
    size = BATCH_BYTES + 1
    for code, members in by_code.items():
        alone = not _one_statement(code)
        size = BATCH_BYTES + 1 if alone else size + len(code.encode("utf-8", "surrogatepass"))
        if size > BATCH_BYTES:
            batches.append([])
            size = BATCH_BYTES + 1 if alone else len(code.encode("utf-8", "surrogatepass"))
        batches[-1] += members
    return batches


@lru_cache(maxsize=1024)
def _one_statement(code: str) -> bool:
    """Whether a tool's source is its function alone, so that it cannot get into another's way."""
    return len(ast.parse(code).body) == 1


def perturbed(env: Environment, step: GoldStep) -> list[tuple[str, dict[str, Any]]]:
    """Calls near the gold call of `step` that must reveal nothing: (perturbed or echo, arguments).

    Per argument: other values (another entity of this environment, one that no tool knows, the other enum
    values, numbers nearby), a value of the wrong type, the sub-answer itself; without a required argument;
    and with an argument whose name is the sub-answer. Calls that are gold calls, of this or another step, are
    left out.
    """
    tool = next(t for t in env.record.tools if t["function"]["name"] == step.tool)
    parameters = tool["function"]["parameters"]
    meant = [s.arguments for s in env.steps if s.tool == step.tool]
    meant += [s.old_arguments for s in env.steps if s.tool == step.tool]
    found: list[tuple[str, dict[str, Any]]] = []
    for key, value in step.arguments.items():
        schema = parameters["properties"][key]
        for other in _other_values(env, value, schema):
            found.append(("perturbed", step.arguments | {key: other}))
        if type(value) is str and "enum" not in schema:
            found.append(("echo", step.arguments | {key: step.answer}))
        if key in parameters.get("required", []):
            found.append(("perturbed", {k: v for k, v in step.arguments.items() if k != key}))
    if step.answer not in parameters["properties"]:
        found.append(("echo", step.arguments | {step.answer: 1}))
    return [(kind, arguments) for kind, arguments in found if arguments not in meant]


def _other_values(env: Environment, value: Any, schema: Mapping[str, Any]) -> list[Any]:
    if "enum" in schema:
        return [*[other for other in schema["enum"] if other != value][:3], UNKNOWN]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 7, str(value) + UNKNOWN]
    if isinstance(value, str):
        texts = {v for s in env.steps for v in s.arguments.values() if isinstance(v, str)} - {value}
        entities = [text for text in sorted(texts) if any(text == s.answer for s in env.steps)]
        return [UNKNOWN, 0, *entities[:1]]
    return [[], {}, UNKNOWN] if isinstance(value, list | dict) else [UNKNOWN]


def _questions(env: Environment, tool: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Calls of a distractor: its required parameters filled with what the gold calls ask about."""
    parameters = tool["function"]["parameters"]
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    asked = {v for s in env.steps for v in s.arguments.values() if type(v) is str}
    texts = sorted(text for text in asked if not any(text in p.get("enum", ()) for p in properties.values()))
    enums = [key for key, schema in properties.items() if schema.get("enum")]
    calls = []
    for text in texts[:3] or [UNKNOWN]:
        filled = {key: _fill(properties[key], text) for key in required if key in properties}
        calls.append(filled)
    for key in enums[:1]:
        calls += [calls[0] | {key: value} for value in properties[key]["enum"][1:3]]
    return calls


def _fill(schema: Mapping[str, Any], text: str) -> Any:
    """A value that fits most schemas of tool documents."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    low = schema.get("minimum", 1)
    values: dict[Any, Any] = {"integer": low, "number": low, "boolean": True, "array": [text], "object": {}}
    return values.get(kind, text)


def judge(env: Environment, plan: Sequence[Probe], results: Sequence[Result]) -> list[Finding]:
    """Findings from what the calls of `probes` returned, `results` in the same order."""
    found: list[Finding] = []
    steps = {step.id: step for step in env.steps}
    done = list(zip(plan, results, strict=True))
    gold = [(probe, result) for probe, result in done if probe.kind == "gold"]
    for probe, result in gold:
        if result.status != "ok":
            said = f"{result.status}: {result.output[:200]}"
            found.append(Finding("gold", f"the gold call of step {probe.step} ends with {said}", probe.name))
    if not found:
        found += _booked(env, gold)
    outputs = {probe.step: result.output for probe, result in gold}
    answers = {step.answer for step in env.steps}
    for probe, result in done:
        if probe.kind == "again":
            if (result.output, result.status) != (outputs[probe.step], "ok"):
                said = f"step {probe.step}: {outputs[probe.step][:80]!r}, then {result.output[:80]!r}"
                found.append(Finding("determinism", f"{said}; the same call must give the same", probe.name))
        elif probe.kind == "old" and probe.step is not None:
            if result.status != "ok" or not answer_matches(
                result.output, steps[probe.step].answer, strict=True
            ):
                said = (
                    f"the old call {_shown(probe.arguments)} no longer gives the answer of step {probe.step}"
                )
                found.append(Finding("arguments", said, probe.name))
        elif probe.kind in ("perturbed", "echo", "distractor"):
            guard = not answers.isdisjoint(probe.arguments)  # the name comes back, so it must not count
            shown = [a for a in answers if solves(result.output, a, probe.arguments, echo_guard=guard)]
            if shown:
                said = f"{probe.name}({_shown(probe.arguments)}) reveals the sub-answer {min(shown)!r}"
                found.append(Finding(probe.kind, said, probe.name))
    return found


def _booked(env: Environment, gold: Sequence[tuple[Probe, Result]]) -> list[Finding]:
    """Gold calls must each solve one sub-answer by the books of the protocol, under both ways of matching."""
    for strict in (False, True):
        unsolved: dict[str, list[str]] = env.record.unsolved_set
        for probe, result in gold:
            call = ToolCall(probe.name, probe.arguments)
            unsolved, solved = apply_results(unsolved, [call], [result.output], strict=strict)
            if solved != 1:
                said = f"the gold call {_shown(probe.arguments)} gives {result.output[:120]!r}"
                return [
                    Finding("gold", f"{said}, which solves no open sub-answer of {probe.name}", probe.name)
                ]
    return []


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())
