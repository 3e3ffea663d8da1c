"""Build environments by all five stages, from invented facts, a knowledge base or questions of your own.

    python -m tool_env_rl.build --n 200 --out DIR
    python -m tool_env_rl.build --backend openai --model NAME --base-url URL --questions FILE.jsonl --out DIR

DIR then holds environments.jsonl (the authors' format), gold.jsonl (gold calls), stages/ (what each stage
accepted and rejected) and report.json. A build that was stopped goes on when the same command is given
again; --n may grow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tool_env_rl import knowledge_base
from tool_env_rl.build_env import sources
from tool_env_rl.build_env.backends import open_backend
from tool_env_rl.build_env.decompose import Hops
from tool_env_rl.build_env.pipeline import BuildReport, BuildSettings, build
from tool_env_rl.build_env.stage import Json
from tool_env_rl.records import SCENARIOS
from tool_env_rl.sandbox import Sandbox, SandboxUnavailable
from tool_env_rl.texts import printable

STOPPED = 3  # exit status if the backend could not go on
ERRORS = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def parser() -> argparse.ArgumentParser:
    """The command line; the file formats are those of `sources` and `knowledge_base`."""
    formats = f"--questions: {sources.__doc__}\n--knowledge-base: {knowledge_base.__doc__}"
    kind = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        "tool_env_rl.build", description=__doc__, epilog=formats, formatter_class=kind
    )
    add = made.add_argument
    add("--out", required=True, metavar="DIR", help="folder of the build; made, or gone on with")
    add("--n", type=int, default=200, help="environments to build (default 200)")
    add("--backend", choices=("deterministic", "openai", "hf"), default="deterministic", help="who writes")
    add("--questions", metavar="FILE.jsonl", help="build from your own questions; see below")
    add("--knowledge-base", metavar="FILE.json", help="draw questions from your own facts; see below")
    add("--seed", type=int, default=0, help="decides everything that is drawn (default 0)")
    add("--split", choices=("train", "test"), default="train", help="other splits draw other environments")
    add(
        "--level",
        type=int,
        nargs="+",
        default=[4],
        metavar="L",
        help="complexity 0 … 4, taken in turn (default 4)",
    )
    add(
        "--scenario",
        nargs="+",
        default=list(SCENARIOS),
        choices=SCENARIOS,
        help="in equal shares (default all)",
    )
    add("--hops", type=int, nargs=2, default=[2, 4], metavar=("MIN", "MAX"), help="chain length of multi_hop")
    add("--unseen", action="store_true", help="chains with compositions that ordinary builds leave out")
    add(
        "--echo-arguments", action="store_true", help="reproduce the argument-echo leak of the authors' tools"
    )
    add("--workers", type=int, default=2, help="sandbox processes (default 2)")
    add("--unsafe-exec", action="store_true", help="run tool code even where the sandbox cannot contain it")
    model = made.add_argument_group("openai and hf")
    model.add_argument("--model", help="model name, or folder for hf")
    model.add_argument("--base-url", help="openai: the endpoint; its key is read from OPENAI_API_KEY")
    model.add_argument(
        "--max-calls", type=int, default=10_000, help="openai: calls of this command (default 10000)"
    )
    model.add_argument("--max-tokens", type=int, default=20_000_000, help="openai: tokens of this command")
    model.add_argument(
        "--max-new-tokens", type=int, default=2048, help="hf: length of one answer (default 2048)"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Build; returns the exit status: 0 done, 3 stopped by the backend (the next call continues)."""
    args = parser().parse_args(argv)
    try:
        hops = Hops(*args.hops, unseen=args.unseen)
        settings = BuildSettings(
            args.n, args.seed, args.split, tuple(args.scenario), tuple(args.level), hops, args.echo_arguments
        )
        kb = knowledge_base.load(args.knowledge_base) if args.knowledge_base else None
        questions = _questions(args.questions) if args.questions else None
        backend = open_backend(args.backend, **_options(args))
        with (
            Sandbox(args.workers, unsafe_exec=args.unsafe_exec) as sandbox,
            Progress(
                TextColumn("building"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=ERRORS
            ) as progress,
        ):
            task = progress.add_task("building", total=None)
            report = build(
                settings, args.out, backend, sandbox, kb=kb, questions=questions,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )  # fmt: skip
    except (ValueError, OSError, ImportError, SandboxUnavailable) as error:
        refuse(str(error))
    except KeyboardInterrupt:
        ERRORS.print(f"interrupted; what was built is kept in {args.out}, the same command goes on")
        return 130
    _show(report)
    if report.stopped:
        ERRORS.print(f"stopped: {report.stopped}")
        ERRORS.print(
            f"{len(report.environments)} environments are kept in {args.out}; the same command goes on"
        )
        return STOPPED
    print(f"{len(report.environments)} environments in {args.out}")
    print(f"look at them: python -m tool_env_rl.inspect {args.out}")
    return 0


def refuse(message: str) -> NoReturn:
    """One sentence on stderr, exit status 2."""
    ERRORS.print(printable(f"error: {message}"))
    sys.exit(2)


def _questions(path: str) -> list[Json]:
    items, problems = sources.read_questions(path)
    for problem in problems:
        ERRORS.print(printable(f"skipped: {problem}"))
    if problems:
        ERRORS.print(f"{len(problems)} malformed rows skipped, {len(items)} questions read")
    if not items:
        raise ValueError(
            f"{path} holds no usable question; see python -m tool_env_rl.build --help for the format"
        )
    return items


def _options(args: argparse.Namespace) -> dict[str, object]:
    if args.backend == "deterministic":
        return {}
    if not args.model:
        raise ValueError(f"--backend {args.backend} needs --model")
    if args.backend == "hf":
        return {"model": args.model, "max_new_tokens": args.max_new_tokens, "seed": args.seed}
    budget = {"max_calls": args.max_calls, "max_tokens": args.max_tokens}
    cache = Path(args.out).with_name(Path(args.out).name + "-cache")
    return {"model": args.model, "base_url": args.base_url, "cache": cache} | budget


def _show(report: BuildReport) -> None:
    table = Table("stage", "accepted", "rejected", "reasons")
    for name, count in report.counts.items():
        reasons = ", ".join(f"{reason} {times}" for reason, times in count.reasons.most_common())
        table.add_row(name, str(count.accepted), str(count.rejected), reasons)
    Console().print(table)
    if report.given_up:
        print(f"{report.given_up} environments given up: every attempt was rejected; stages/ says why")


if __name__ == "__main__":
    sys.exit(main())
