"""Show and validate environments: a build folder, or a file in the authors' format.

    python -m tool_env_rl.inspect DIR [--env ID]
    python -m tool_env_rl.inspect test.jsonl [--env 17]

This file is not beside the others because `inspect.py` there would replace the standard library's module
for every script that is run inside the folder. Exit status 1 if a row is malformed or an environment fails
a check.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import markup
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from tool_env_rl.document_checks import record_findings
from tool_env_rl.plan_checks import Finding
from tool_env_rl.records import (
    Environment,
    EnvRecord,
    RowProblem,
    choose,
    environments_by_row,
    parse_line,
    read_rows,
)
from tool_env_rl.sandbox import Sandbox, SandboxUnavailable, check
from tool_env_rl.texts import printable
from tool_env_rl.validate import validate

OUT = Console(soft_wrap=False, highlight=False)
EXAMPLES = 2  # messages shown per failed check
CHUNK = 32  # environments validated between two progress lines


def escape(text: str) -> str:
    """`text` as it is on the console: no markup, and no character that has no UTF-8 form."""
    return markup.escape(printable(text))


def main(argv: list[str] | None = None) -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tool_env_rl.inspect", description=__doc__, formatter_class=kind)
    parser.add_argument("path", help="folder of tool_env_rl.build, or a JSONL file in the authors' format")
    parser.add_argument(
        "--env", default="0", help="the environment to show: its id, or row from 0 (default 0)"
    )
    parser.add_argument("--no-validate", action="store_true", help="only show")
    parser.add_argument(
        "--echo-arguments", action="store_true", help="leave out the check that such builds fail"
    )
    parser.add_argument(
        "--unsafe-exec", action="store_true", help="run tools even where nothing contains them"
    )
    args = parser.parse_args(argv)
    try:
        if Path(args.path).is_dir():
            return _folder(args)
        return _file(args)
    except (ValueError, OSError, SandboxUnavailable) as error:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(
            printable(f"error: {error}")
        )
        return 2


def _folder(args: argparse.Namespace) -> int:
    by_row, problems = environments_by_row(args.path)
    environments = list(by_row.values())
    _report(problems, len(environments))
    position = _chosen([env.id for env in environments], list(by_row), args.env, problems)
    _summary([env.record for env in environments])
    with Sandbox(2, unsafe_exec=args.unsafe_exec) as sandbox:
        if position is not None:
            env = environments[position]
            show(env.record, f"{env.id}, level L{env.level}")
            transcript(env, sandbox)
        if args.no_validate:
            return 1 if problems else 0
        found: list[list[Finding]] = []
        with OUT.status("validating") as status:
            for start in range(0, len(environments), CHUNK):
                part = environments[start : start + CHUNK]
                found += validate(part, sandbox, allow_echo=args.echo_arguments)
                status.update(f"validating {len(found)} of {len(environments)}")
    status = _verdict([env.id for env in environments], found, "all checks of tool_env_rl.validate")
    return 1 if problems else status


def _file(args: argparse.Namespace) -> int:
    by_row, problems = read_rows(args.path, parse_line)
    records, names = list(by_row.values()), [str(row) for row in by_row]
    _report(problems, len(records))
    position = _chosen(names, list(by_row), args.env, problems)
    _summary(records)
    if position is not None:
        record = records[position]
        show(record, f"row {args.env}")
        for name, answers in record.unsolved_set.items():
            OUT.print(Panel(escape(record.codes.get(name, "no code")), title=escape(f"{name} → {answers}")))
    OUT.print("A record alone holds no gold calls; what running them would show is not checked here.")
    if args.no_validate:
        return 1 if problems else 0
    found = [[*record_findings(record), *_gate_findings(record)] for record in records]
    status = _verdict(names, found, "schema, signature, plan, leak and the static gate")
    return 1 if problems else status


def _report(problems: Sequence[RowProblem], read: int) -> None:
    for problem in problems:
        OUT.print(escape(f"skipped: {problem}"), style="red", soft_wrap=True)
    if problems:
        OUT.print(f"{len(problems)} malformed rows skipped, {read} read")


def _chosen(
    names: Sequence[str], rows: Sequence[int], wanted: str, problems: Sequence[RowProblem]
) -> int | None:
    """Position of the environment to show; None, and a word about it, where that row is malformed."""
    if wanted not in names and wanted in {str(problem.line - 1) for problem in problems}:
        OUT.print(f"row {wanted} is malformed: the others are checked, none is shown")
        return None
    return choose(names, wanted, rows)


def _gate_findings(record: EnvRecord) -> list[Finding]:
    reports = {name: check(code, name) for name, code in record.codes.items()}
    return [
        Finding("gate", f"{name}: {report.reasons[0]}", name)
        for name, report in reports.items()
        if not report.passed
    ]


def _summary(records: Sequence[EnvRecord]) -> None:
    table = Table(
        "scenario", "environments", "tools", "distractors", "sub-answers", title="mean per environment"
    )
    for scenario in dict.fromkeys(record.scenario for record in records):
        rows = [record for record in records if record.scenario == scenario]
        tools = sum(len(record.tools) for record in rows) / len(rows)
        gold = sum(len(record.unsolved_set) for record in rows) / len(rows)
        answers = sum(record.unsolved_count for record in rows) / len(rows)
        cells = (str(len(rows)), f"{tools:.2f}", f"{tools - gold:.2f}", f"{answers:.2f}")
        table.add_row(escape(scenario), *cells)
    OUT.print(table)


def show(record: EnvRecord, title: str) -> None:
    shape = f"{record.scenario}, {record.split}, {title}"
    OUT.print(Panel(escape(f"{record.question}\n→ {record.answer}"), title=escape(shape)))
    table = Table("tool", "parameters (required first, marked *)", "sub-answers")
    for tool in record.tools:
        function = tool["function"]
        parameters = function.get("parameters", {})
        properties, required = parameters.get("properties", {}), parameters.get("required", [])
        if isinstance(properties, dict) and isinstance(required, list):
            keys = sorted(properties, key=lambda key: key not in required)
            shown = ", ".join(f"{key}*" if key in required else key for key in keys)
        else:
            shown = "no valid JSON Schema"
        answers = ", ".join(record.unsolved_set.get(function["name"], []))
        table.add_row(escape(function["name"]), escape(shown), escape(answers))
    OUT.print(table)


def transcript(env: Environment, sandbox: Sandbox) -> None:
    OUT.print("gold transcript", style="bold")
    for step in env.steps:
        OUT.print(escape(f"{step.id}. {step.question}"))
        if step.tool not in env.record.codes:
            OUT.print(escape(f"   {step.tool} has no code"), style="red")
            continue
        result = sandbox.call(env.record.codes[step.tool], step.tool, step.arguments)
        OUT.print(escape(f"   {step.tool}({json.dumps(step.arguments, ensure_ascii=False)})"), style="cyan")
        OUT.print(
            escape(f"   [{result.status}] {result.output}"), style="green" if result.status == "ok" else "red"
        )
    OUT.print(escape(f"{env.final} → {env.record.answer}"))


def _verdict(names: Sequence[str], found: Sequence[Sequence[Finding]], checked: str) -> int:
    failed = [name for name, findings in zip(names, found, strict=True) if findings]
    table = Table("check", "findings", "environments", "for example")
    counts = Counter(finding.check for findings in found for finding in findings)
    for name, count in counts.most_common():
        where = [
            (env, f) for env, findings in zip(names, found, strict=True) for f in findings if f.check == name
        ]
        examples = "\n".join(f"{env}: {finding.message[:200]}" for env, finding in where[:EXAMPLES])
        table.add_row(name, str(count), str(len({env for env, _ in where})), escape(examples))
    if counts:
        OUT.print(table)
    OUT.print(f"{len(names) - len(failed)} of {len(names)} environments pass: {checked}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
