"""Evaluate a model on built or given environments; never trains (sheet §4.1, §7.7). Decoding is greedy.

    python eval.py runs/small-seed0                                # a run's final model, the small sets
    python eval.py HUB_ID --preset pretrained --data.test-file test.jsonl
    python eval.py --controls                                      # oracle, silent, shotgun, echo attack

Prints Solve-P, Solve-R and Solve-F1 per scenario with 95 % bootstrap intervals over environments, under
substring matching and, beside it, whole-token matching; final-answer accuracy, calls per turn and parse
failures; OOD-1 (longer chains, unseen compositions), OOD-2 (perturbed names) and the tasks without tools. One
row per episode goes to `episodes-*.jsonl`; tables are made from those rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from shared import config, gpu, stats
from shared.checkpoint import write_text_atomic
from tool_env_rl import controls, environment_sets, general_tasks, name_noise, rotbench
from tool_env_rl.chat_templates import with_tools
from tool_env_rl.config import PRESETS, TOY, Config
from tool_env_rl.environment_sets import Sets
from tool_env_rl.episodes import Policy, Transcript, model_policy, of_environments, play
from tool_env_rl.metrics import EpisodeScore, solve_scores, summarize
from tool_env_rl.progress import StageBar
from tool_env_rl.sandbox import Sandbox

MEASURES = ("solve_p", "solve_r", "solve_f1")
OnTurn = Callable[[int, int], None]


@dataclass
class Evaluation:
    """What one model scored: one row per episode, OOD-2 flags by level, accuracy by general task."""

    test: list[EpisodeScore]
    chains: list[EpisodeScore] = field(default_factory=list)
    noisy: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    general: dict[str, float] = field(default_factory=dict)


def run_episodes(
    policy: Policy,
    transcripts: Sequence[Transcript],
    sandbox: Sandbox,
    cfg: Config,
    on_turn: OnTurn = lambda turn, still_open: None,
) -> list[EpisodeScore]:
    """Play and score; `algo.max_turns` turns at most."""
    limits: dict[str, Any] = {"max_turns": cfg.algo.max_turns, "drop_thoughts": cfg.algo.drop_thoughts}
    return [t.score for t in play(transcripts, policy, sandbox, on_turn=on_turn, **limits)]


def evaluate(
    model: Any, tokenizer: Any, cfg: Config, sets: Sets, sandbox: Sandbox, on_turn: OnTurn
) -> Evaluation:
    """All sets that the config asks for."""
    policy = model_policy(model, tokenizer, cfg, temperature=0.0)
    test = of_environments(sets.test_gold) or [Transcript(r, str(i)) for i, r in enumerate(sets.test)]
    found = Evaluation(run_episodes(policy, test, sandbox, cfg, on_turn))
    if sets.chains_gold:
        found.chains = run_episodes(policy, of_environments(sets.chains_gold), sandbox, cfg, on_turn)
    if cfg.eval.noisy and cfg.model.name == TOY:
        found.noisy = name_noise.evaluate(policy, sets.test_gold[: cfg.eval.noisy])
    if cfg.eval.general and cfg.model.name == TOY:
        found.general = general_tasks.accuracy(model, tokenizer, cfg.eval.general, seed=0)
    return found


def evaluate_once(
    model: Any, tokenizer: Any, cfg: Config, sets: Sets, sandbox: Sandbox, path: Path, on_turn: OnTurn
) -> Evaluation:
    """`evaluate`, or what a run that was stopped has already written to `path`."""
    if not path.exists():
        save(evaluate(model, tokenizer, cfg, sets, sandbox, on_turn), path)
    return load(path)


def save(found: Evaluation, path: Path) -> None:
    """One JSON line per episode, then one per other measurement."""
    rows: list[dict[str, Any]] = [{"set": "test", **asdict(score)} for score in found.test]
    rows += [{"set": "chains", **asdict(score)} for score in found.chains]
    rows += [{"set": "noisy", "level": level, **flags} for level, flags in found.noisy]
    rows += [{"set": "general", "task": task, "accuracy": a} for task, a in found.general.items()]
    write_text_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def load(path: Path) -> Evaluation:
    """What `save` wrote."""
    found = Evaluation([])
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = row.pop("set")
        if name == "noisy":
            found.noisy.append((row.pop("level"), row))
        elif name == "general":
            found.general[row["task"]] = row["accuracy"]
        else:
            getattr(found, name).append(EpisodeScore(**row))
    return found


def summary(found: Evaluation) -> dict[str, float]:
    """Flat metrics for the manifest: test/all/solve_f1, chains/answer_accuracy, noisy/TS, general/copy, …"""
    flat: dict[str, float] = {}
    for name, scores in (("test", found.test), ("chains", found.chains)):
        if scores:
            for scenario, row in summarize(scores).items():
                flat |= {f"{name}/{scenario}/{key}": value for key, value in row.items()}
    if found.noisy:
        means = rotbench.summarize(found.noisy).get("all", {})
        flat |= {f"noisy/{measure}": value for measure, value in means.items()}
    flat |= {f"general/{task}": value for task, value in found.general.items()}
    return flat


def interval(
    scores: Sequence[EpisodeScore], measure: str, count: str = "solved"
) -> tuple[float, float, float]:
    """(mean, low, high) of a Solve measure: 95 % bootstrap over environments."""
    index = MEASURES.index(measure)
    values = [solve_scores(s.total, s.calls, getattr(s, count))[index] for s in scores]
    return stats.bootstrap(values)


def print_tables(stages: dict[str, Evaluation]) -> None:
    """Solve measures per scenario and stage (before, after RL), then everything else, a column per stage."""
    solve = Table("scenario", "model", "Solve-P", "Solve-R", "Solve-F1 [95 %]", title="percent")
    first = next(iter(stages.values()))
    for scenario in [*dict.fromkeys(s.scenario for s in first.test), "all"]:
        for number, (stage, found) in enumerate(stages.items(), 1):
            scores = [s for s in found.test if scenario in (s.scenario, "all")]
            means = {m: [100 * value for value in interval(scores, m)] for m in MEASURES}
            mean, low, high = means["solve_f1"]
            cells = (f"{means['solve_p'][0]:.1f}", f"{means['solve_r'][0]:.1f}")
            last = number == len(stages)
            solve.add_row(scenario, stage, *cells, f"{mean:.1f} [{low:.1f}, {high:.1f}]", end_section=last)
    more = Table("", *stages, title="all environments")
    flat = [summary(found) for found in stages.values()]
    for key, label, form in _OTHERS:
        if key in flat[0]:
            more.add_row(label, *(form.format(row[key]) for row in flat))
    Console().print(solve)
    Console().print(more)


_OTHERS = (
    ("test/all/solve_f1_strict", "Solve-F1, whole-token matching", "{:.3f}"),
    ("test/all/solve_f1_unguarded", "Solve-F1, the authors' matching (no echo guard)", "{:.3f}"),
    ("test/all/answer_accuracy", "final answer right", "{:.3f}"),
    ("test/all/calls_per_turn", "calls per turn", "{:.2f}"),
    ("test/all/malformed_turn_rate", "turns that did not parse", "{:.3f}"),
    ("chains/all/answer_accuracy", "OOD-1: final answer right", "{:.3f}"),
    ("chains/all/solve_f1", "OOD-1: Solve-F1", "{:.3f}"),
    ("noisy/TS", "OOD-2: tool selection, %", "{:.1f}"),
    ("noisy/PI", "OOD-2: parameter names, %", "{:.1f}"),
    ("noisy/CF", "OOD-2: whole call, %", "{:.1f}"),
    *((f"general/{task}", f"no tools: {task}", "{:.3f}") for task in general_tasks.GENERAL_TASKS),
)


def print_controls(cfg: Config, sets: Sets, sandbox: Sandbox) -> dict[str, dict[str, float]]:
    """What the scripted policies score on the test set; {policy: measures}."""
    table = Table("policy", "Solve-P", "Solve-R", "Solve-F1", "F1 without echo guard", title="controls")
    found: dict[str, dict[str, float]] = {}
    for name, policy in controls.CONTROLS.items():
        scores = run_episodes(policy, of_environments(sets.test_gold), sandbox, cfg)
        found[name] = summarize(scores)["all"]
        keys = (*MEASURES, "solve_f1_unguarded")
        table.add_row(name, *(f"{found[name][key]:.3f}" for key in keys))
    Console().print(table)
    return found


def main(cfg: Config, model_name: str | None) -> None:
    """Evaluate a run folder, checkpoint or hub id; without one, the controls."""
    with Sandbox(unsafe_exec=cfg.data.unsafe_exec) as sandbox, StageBar() as bar:
        sets = environment_sets.load(cfg, sandbox, bar.update)
        if model_name is None:
            print_controls(cfg, sets, sandbox)
            return
        inside = Path(model_name, "model")
        folder = inside if inside.is_dir() else Path(model_name)
        name = str(folder.resolve()) if folder.is_dir() else model_name
        model, tokenizer = gpu.load_causal_lm(name, getattr(torch, cfg.model.precision))
        tokenizer = with_tools(tokenizer)
        found = evaluate(model.to(gpu.device()), tokenizer, cfg, sets, sandbox, bar.turns("evaluating"))
    path = (folder if folder.is_dir() else Path.cwd()) / f"episodes-{cfg.preset}.jsonl"
    save(found, path)
    print_tables({"": found})
    print(f"one row per episode: {path}; mean over scenarios: {_macro(found.test):.3f} Solve-F1")


def _macro(scores: Sequence[EpisodeScore]) -> float:
    table = summarize(scores)
    return fmean(row["solve_f1"] for name, row in table.items() if name != "all")


if __name__ == "__main__":
    if len(sys.argv) < 2 or (sys.argv[1].startswith("-") and sys.argv[1] != "--controls"):
        sys.exit("usage: python -m tool_env_rl.eval MODEL|--controls [--preset NAME] [--data.test-file FILE]")
    chosen = config.parse(Config, PRESETS, default="small", args=sys.argv[2:])
    main(chosen, None if sys.argv[1] == "--controls" else sys.argv[1])
