"""A gold oracle for environments without gold calls: how many sub-answers can be reached at all?

    python -m tool_env_rl.oracle FILE.jsonl
    python -m tool_env_rl.oracle FILE.jsonl --summary results/oracle.json   # counts alone, for RESULTS.md

The authors store neither gold arguments nor their order (§3.3). For every answer-bearing tool the oracle
derives calls from the tool's source (`oracle_leads.py`), runs them in the sandbox, and books a sub-answer as
reached if some call's output holds it. What it does not reach may still be reachable: the number is a lower
bound.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import track
from rich.table import Table

from shared import checkpoint
from shared.runs import environment
from tool_env_rl.oracle_leads import Source
from tool_env_rl.oracle_values import Hints, Lead, concrete, fillers
from tool_env_rl.protocol import solves
from tool_env_rl.records import EnvRecord, read_records
from tool_env_rl.sandbox import Sandbox, SandboxUnavailable, check
from tool_env_rl.texts import printable

MAX_CALLS = 300  # per tool
BATCH = 16
MAX_RANK = 12  # fillers tried per parameter


class Result(Protocol):
    @property
    def output(self) -> str: ...
    @property
    def status(self) -> str: ...


class Runner(Protocol):
    """What the oracle needs of a sandbox."""

    def call_many(self, calls: Sequence[tuple[str, str, dict[str, Any]]]) -> Sequence[Result]: ...


@dataclass
class SubAnswer:
    """One sub-answer and the first call found for it under each way of matching.

    guarded, strict: substring or whole-token matching, echoes of arguments not counted; unguarded: the
        authors'.
    """

    tool: str
    gold: str
    guarded: dict[str, Any] | None = None
    strict: dict[str, Any] | None = None
    unguarded: dict[str, Any] | None = None

    def book(self, arguments: dict[str, Any], output: str) -> None:
        """Remember the call wherever its output is the first to hold the sub-answer."""
        if self.unguarded is None and solves(output, self.gold, arguments, echo_guard=False):
            self.unguarded = arguments
        if self.guarded is None and solves(output, self.gold, arguments):
            self.guarded = arguments
        if self.strict is None and solves(output, self.gold, arguments, strict=True):
            self.strict = arguments


@dataclass
class EnvironmentReport:
    """Sub-answers of one environment, calls by status, and why tools could not be tried."""

    index: int
    scenario: str
    sub_answers: list[SubAnswer]
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def reached(self, way: str = "guarded") -> int:
        """Sub-answers reached under one way of matching: guarded, strict or unguarded."""
        return sum(getattr(sub_answer, way) is not None for sub_answer in self.sub_answers)


def explore(
    record: EnvRecord, sandbox: Runner, *, index: int = 0, max_calls: int = MAX_CALLS
) -> EnvironmentReport:
    """Search calls for every sub-answer of one environment; problems of a tool are noted, never raised."""
    sub_answers = [SubAnswer(tool, gold) for tool, golds in record.unsolved_set.items() for gold in golds]
    report = EnvironmentReport(index, record.scenario, sub_answers)
    hints = Hints(record.question, tuple(dict.fromkeys(sub.gold for sub in sub_answers)))
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in record.tools}
    for name in record.unsolved_set:
        mine = [sub for sub in sub_answers if sub.tool == name]
        code = record.codes.get(name)
        if code is None:
            report.problems.append(f"{name}: no code for this tool")
            continue
        try:
            source = Source(code, name)
        except (SyntaxError, ValueError) as error:
            report.problems.append(f"{name}: {error}")
            continue
        properties = schemas.get(name, {}).get("properties")
        calls = proposals(source, properties if isinstance(properties, dict) else {}, mine, hints)
        try:
            _search(name, code, itertools.islice(calls, max_calls), mine, sandbox, report)
        except (RecursionError, TypeError, ValueError, LookupError, AttributeError) as error:
            # Sources nobody has seen yet: one that defeats the analysis costs its own tool only.
            report.problems.append(f"{name}: its source cannot be analysed ({type(error).__name__}: {error})")
    return report


def _search(
    name: str,
    code: str,
    calls: Iterator[dict[str, Any]],
    wanted: Sequence[SubAnswer],
    sandbox: Runner,
    report: EnvironmentReport,
) -> None:
    while batch := list(itertools.islice(calls, BATCH)):
        results = sandbox.call_many([(code, name, arguments) for arguments in batch])
        for arguments, result in zip(batch, results, strict=True):
            report.statuses[result.status] += 1
            for sub_answer in wanted:
                if result.status == "ok":
                    sub_answer.book(arguments, result.output)
        if results and all(result.status == "rejected" for result in results):
            report.problems.append(f"{name}: {results[0].output}")
            return
        if all(sub_answer.strict is not None for sub_answer in wanted):
            return


def proposals(
    source: Source, properties: Mapping[str, Any], wanted: Sequence[SubAnswer], hints: Hints
) -> Iterator[dict[str, Any]]:
    """Calls to try, most promising first, each once; leads of all sub-answers take turns."""
    seen: set[str] = set()
    schemas = {p: s if isinstance(s := properties.get(p), dict) else {} for p in source.params}
    values = {
        param: fillers(param, schemas[param], source.literals_of(param), hints) for param in source.params
    }
    leads = [
        [
            {
                p: concrete(v, schemas[p].get("type"))
                for p, v in lead.items()
                if p in schemas and (schemas[p].get("type") != "object" or isinstance(v, dict))
            }
            for lead in source.leads(sub_answer.gold)
        ]
        for sub_answer in wanted
    ]
    turns = _take_turns([_completed(source, found, values) for found in leads])
    for call in itertools.chain([_filled({}, source, values)], turns, _varied(source, values)):
        key = json.dumps(call, sort_keys=True, default=str)
        if key not in seen:
            seen.add(key)
            yield call


def _filled(given: Lead, source: Source, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A lead with the best filler for every required parameter it leaves open."""
    return {**{p: values[p][0] for p in source.required if values[p]}, **given}


def _completed(
    source: Source, leads: Sequence[Lead], values: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """Every lead with the best fillers, then with one or two of them replaced by the next best, and so on."""
    yield from (_filled(lead, source, values) for lead in leads)
    for rank in range(1, MAX_RANK):
        for lead in leads:
            open_params = [p for p in source.required if p not in lead and rank < len(values[p])]
            for count in (1, 2):
                for chosen in itertools.combinations(open_params, count):
                    yield {**_filled(lead, source, values), **{p: values[p][rank] for p in chosen}}


def _varied(source: Source, values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Without leads: combinations of the required parameters' fillers, then one optional parameter more."""
    names = [p for p in source.required if values[p]]
    for combination in itertools.product(*(values[p][:MAX_RANK] for p in names)):
        yield dict(zip(names, combination, strict=True))
    for param in source.params:
        if param not in names:
            yield from (_filled({param: value}, source, values) for value in values[param][:MAX_RANK])


def _take_turns(queues: Sequence[Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for row in itertools.zip_longest(*queues):
        yield from (call for call in row if call is not None)


def summary_table(reports: Sequence[EnvironmentReport]) -> Table:
    """Sub-answers reached per scenario and in all."""
    table = Table(title="sub-answers reached by the oracle")
    columns = (
        "scenario",
        "environments",
        "sub-answers",
        "substring",
        "whole token",
        "authors' (no echo guard)",
    )
    for column in (*columns, "complete environments"):
        table.add_column(column, justify="left" if column == "scenario" else "right")
    for row in counts(reports):
        table.add_row(*map(str, row.values()))
    return table


def counts(reports: Sequence[EnvironmentReport]) -> list[dict[str, Any]]:
    """Per scenario, and of "all": environments, sub-answers, those reached by each way, and the complete."""
    rows: list[dict[str, Any]] = []
    for scenario in [*dict.fromkeys(report.scenario for report in reports), "all"]:
        part = [report for report in reports if scenario in ("all", report.scenario)]
        row: dict[str, Any] = {"scenario": scenario, "environments": len(part)}
        row["sub_answers"] = sum(len(report.sub_answers) for report in part)
        for way in ("guarded", "strict", "unguarded"):
            row[way] = sum(report.reached(way) for report in part)
        rows.append(row | {"complete": sum(r.reached() == len(r.sub_answers) for r in part)})
    return rows


def summary(
    path: Path, records: Sequence[EnvRecord], reports: Sequence[EnvironmentReport], unreadable: int
) -> dict[str, Any]:
    """What RESULTS.md shows: numbers, the file's hash, and what the static gate says; no text of the data."""
    verdicts = [check(code, name) for record in records for name, code in record.codes.items()]
    refused = Counter(reason for verdict in verdicts for reason in dict.fromkeys(map(_kind, verdict.reasons)))
    statuses = sum((report.statuses for report in reports), Counter[str]())
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "unreadable_rows": unreadable,
        "counts": counts(reports),
        "tools": len(verdicts),
        "tools_refused": sum(not verdict.passed for verdict in verdicts),
        "reasons": dict(sorted(refused.items())),
        "calls": dict(sorted(statuses.items())),
    }


def _kind(reason: str) -> str:
    """A reason of the static gate without its line, and without what it quotes of a source."""
    reason = re.sub(r"^line \d+: ", "", reason)
    for general in ("the source does not parse", "the source defines no function", "the text"):
        if reason.startswith(general):
            return general if general != "the text" else "a text names an internal attribute"
    return reason


def as_rows(reports: Sequence[EnvironmentReport]) -> list[dict[str, Any]]:
    """One JSON object per environment."""
    return [
        {
            "index": report.index,
            "scenario": report.scenario,
            "total": len(report.sub_answers),
            "reached": report.reached(),
            "reached_strict": report.reached("strict"),
            "reached_unguarded": report.reached("unguarded"),
            "calls": dict(report.statuses),
            "sub_answers": [vars(sub_answer) for sub_answer in report.sub_answers],
            "problems": report.problems,
        }
        for report in reports
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tool_env_rl.oracle", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("file", type=Path, help="environments in the authors' JSONL format")
    parser.add_argument(
        "--out", type=Path, help="also write one JSON line per environment, with the calls found"
    )
    parser.add_argument(
        "--summary", type=Path, help="also write the counts as JSON; results/oracle.json goes into RESULTS.md"
    )
    parser.add_argument(
        "--unsafe-exec", action="store_true", help="run even without the sandbox's protections"
    )
    args = parser.parse_args(argv)
    console = Console()
    try:
        records, problems = read_records(
            args.file, on_problem=lambda p: console.print(printable(str(p)), markup=False)
        )
    except OSError as error:
        parser.exit(2, f"{args.file} cannot be read ({error}); give a JSONL file of environments\n")
    try:
        with Sandbox(unsafe_exec=args.unsafe_exec) as sandbox:
            reports = [
                explore(record, sandbox, index=index)
                for index, record in track(
                    list(enumerate(records)), description="environments", console=console
                )
            ]
    except SandboxUnavailable as error:
        parser.exit(2, f"{error}\n")
    for report in reports:
        line = (
            f"{report.index:4d} {report.scenario:20s} reached {report.reached()} of {len(report.sub_answers)}"
        )
        missed = [f"missed {sub.tool}: {sub.gold}" for sub in report.sub_answers if sub.guarded is None]
        text = "; ".join([line, *missed, *report.problems])
        console.print(printable(text), markup=False, highlight=False)
    console.print(summary_table(reports))
    console.print(f"{len(problems)} rows could not be read", highlight=False)
    if args.out:
        lines = (json.dumps(row, ensure_ascii=True, default=str) + "\n" for row in as_rows(reports))
        checkpoint.write_text_atomic(args.out, "".join(lines))
    if args.summary:
        made = {k: v for k, v in environment().items() if k in ("commit", "dirty", "hardware", "date")}
        found = summary(args.file, records, reports, len(problems)) | made
        checkpoint.write_json_atomic(args.summary, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
