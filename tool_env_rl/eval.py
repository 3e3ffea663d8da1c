"""Evaluate a model on built or given environments; never trains (sheet §4.1, §7.7). Decoding is greedy.

    python eval.py runs/small-seed0                                # a run's final model, the small sets
    python eval.py HUB_ID --preset pretrained --data.test-file test.jsonl
    python eval.py base --eval.levels 100                          # the small preset's model before RL
    python eval.py --controls                                      # oracle, silent, shotgun, echo attack

Prints Solve-P, Solve-R and Solve-F1 per scenario with 95 % bootstrap intervals over environments, under
substring matching and, beside it, whole-token matching; final-answer accuracy, calls per turn and parse
failures; OOD-1 (longer chains, unseen compositions), OOD-2 (perturbed names), OOD-3 (a table that tools
change) and the tasks without tools. One row per episode goes to `episodes-*.jsonl`; tables are made from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from shared import config, gpu, stats
from shared.checkpoint import write_json_atomic, write_text_atomic
from tool_env_rl import (
    base_model,
    controls,
    environment_sets,
    gate,
    general_tasks,
    name_noise,
    repeatability,
    table_tasks,
)
from tool_env_rl.chat_templates import with_tools
from tool_env_rl.config import PRESETS, TOY, Config
from tool_env_rl.environment_sets import Sets
from tool_env_rl.episodes import Policy, Transcript, model_policy, of_environments, play
from tool_env_rl.evaluation import LEAKY, Evaluation, load, save, summary
from tool_env_rl.metrics import EpisodeScore, solve_scores, summarize
from tool_env_rl.progress import StageBar
from tool_env_rl.sandbox import Sandbox

MEASURES = ("solve_p", "solve_r", "solve_f1")
BASE, CONTROLS = "base", "--controls"
OnTurn = Callable[[int, int], None]


def run_episodes(
    policy: Policy,
    transcripts: Sequence[Transcript],
    sandbox: Sandbox,
    cfg: Config,
    on_turn: OnTurn = lambda turn, still_open: None,
) -> list[EpisodeScore]:
    """Play and score; `algo.max_turns` turns at most."""
    return [t.score for t in play(transcripts, policy, sandbox, on_turn=on_turn, **_limits(cfg))]


def _limits(cfg: Config) -> dict[str, Any]:
    return {"max_turns": cfg.algo.max_turns, "drop_thoughts": cfg.algo.drop_thoughts}


def evaluate(
    model: Any, tokenizer: Any, cfg: Config, sets: Sets, sandbox: Sandbox, on_turn: OnTurn
) -> Evaluation:
    """All sets that the config asks for."""
    policy, toy = model_policy(model, tokenizer, cfg, temperature=0.0), cfg.model.name == TOY

    def played(transcripts: Sequence[Transcript]) -> list[EpisodeScore]:
        return run_episodes(policy, transcripts, sandbox, cfg, on_turn)

    test = of_environments(sets.test_gold) or [Transcript(r, str(i)) for i, r in enumerate(sets.test)]
    found = Evaluation(played(test))
    if sets.chains_gold:
        found.chains = played(of_environments(sets.chains_gold))
        bare = [(env.id, replace(env.record, tools=[], codes={})) for env in sets.chains_gold]
        found.direct = played([Transcript(record, name) for name, record in bare])
    if cfg.eval.noisy and toy:
        found.noisy = name_noise.evaluate(policy, sets.test_gold[: cfg.eval.noisy])
    if cfg.eval.tables and toy:
        tasks = table_tasks.build(cfg.eval.tables)
        found.tables = table_tasks.play(tasks, policy, on_turn=on_turn, **_limits(cfg))
    for level, environments in sets.levels_gold.items():
        found.levels += [(level, score) for score in played(of_environments(environments))]
    if cfg.eval.general and toy:
        found.general = general_tasks.right(model, tokenizer, cfg.eval.general, seed=0)
    if cfg.eval.repeat and sets.test_gold:
        found.repeat = repeatability.measure(policy, cfg, sets.test_gold)
    return found


def evaluate_once(
    model: Any, tokenizer: Any, cfg: Config, sets: Sets, sandbox: Sandbox, path: Path, on_turn: OnTurn
) -> Evaluation:
    """`evaluate`, or what a run that was stopped has already written to `path`."""
    if not path.exists():
        save(evaluate(model, tokenizer, cfg, sets, sandbox, on_turn), path)
    return load(path)


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
    ("chains/Direct", "OOD-1: answer right, Direct (no tools)", "{:.3f}"),
    ("chains/Mandatory", "OOD-1: answer right, Mandatory", "{:.3f}"),
    ("chains/Free", "OOD-1: answer right, Free", "{:.3f}"),
    ("chains/all/solve_f1", "OOD-1: Solve-F1", "{:.3f}"),
    ("noisy/TS", "OOD-2: tool selection, %", "{:.1f}"),
    ("noisy/PI", "OOD-2: parameter names, %", "{:.1f}"),
    ("noisy/CF", "OOD-2: whole call, %", "{:.1f}"),
    ("tables/right", "OOD-3: table and answers right", "{:.3f}"),
    *((f"general/{task}", f"no tools: {task}", "{:.3f}") for task in general_tasks.GENERAL_TASKS),
    *((f"levels/{level}", f"Solve-F1 at level L{level}", "{:.3f}") for level in range(5)),
)


def run_controls(cfg: Config, sets: Sets, sandbox: Sandbox, bar: StageBar) -> dict[str, list[EpisodeScore]]:
    """Scores of the scripted policies on the test set, and of the echo attack on tools that repeat arguments
    too ("echo, leaky tools"); then print them."""
    played = [(name, policy, sets.test_gold) for name, policy in controls.CONTROLS.items()]
    leaky = environment_sets.leaky(cfg, sandbox, bar.update)
    played.append((LEAKY, controls.echo, leaky))
    table = Table("policy", "Solve-P", "Solve-R", "Solve-F1", "F1 without echo guard", title="controls")
    found: dict[str, list[EpisodeScore]] = {}
    for name, policy, environments in played:
        found[name] = run_episodes(policy, of_environments(environments), sandbox, cfg)
        means = summarize(found[name])["all"]
        table.add_row(name, *(f"{means[key]:.3f}" for key in (*MEASURES, "solve_f1_unguarded")))
    Console().print(table)
    return found


def main(cfg: Config, model_name: str) -> None:
    """Evaluate a run folder, checkpoint or hub id, the config's base model ("base"), or the controls."""
    transformers.utils.logging.disable_progress_bar()  # a bar per small file would hide the progress line
    out = Path(cfg.run.output_dir) if cfg.run.output_dir else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_json_atomic(out / "config.json", config.to_dict(cfg))
    if model_name == CONTROLS:  # scripts are not trained
        cfg = replace(cfg, data=replace(cfg.data, train=1))
    with Sandbox(unsafe_exec=cfg.data.unsafe_exec) as sandbox, StageBar() as bar:
        sets = environment_sets.load(cfg, sandbox, bar.update)
        if model_name == CONTROLS:
            scores = run_controls(cfg, sets, sandbox, bar)
            rows = [{"policy": name, **asdict(score)} for name, of in scores.items() for score in of]
            path = (out or Path.cwd()) / f"controls-{cfg.preset}.jsonl"
            write_text_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
            print(f"one row per episode: {path}")
            return
        if model_name == BASE:
            folder = base_model.load_or_train(cfg, sandbox, bar.update)
        else:
            inside = Path(model_name, "model")
            folder = inside if inside.is_dir() else Path(model_name)
        name = str(folder.resolve()) if folder.is_dir() else model_name
        model, tokenizer = gpu.load_causal_lm(name, getattr(torch, cfg.model.precision))
        model, tokenizer = model.to(gpu.device()), with_tools(tokenizer)
        out = out or (folder if folder.is_dir() else Path.cwd())
        if model_name == BASE and cfg.base.gate != "off":
            report = gate.measure(model, tokenizer, cfg, sets.dev_gold, sandbox, bar.turns("gate"))
            write_json_atomic(out / gate.REPORT_FILE, asdict(report) | {"failures": report.failures})
            gate.enforce(report, cfg.base.gate)
        found = evaluate(model, tokenizer, cfg, sets, sandbox, bar.turns("evaluating"))
    path = out / f"episodes-{cfg.preset}.jsonl"
    save(found, path)
    print_tables({"": found})
    print(f"one row per episode: {path}; mean over scenarios: {_macro(found.test):.3f} Solve-F1")


def _macro(scores: Sequence[EpisodeScore]) -> float:
    table = summarize(scores)
    return fmean(row["solve_f1"] for name, row in table.items() if name != "all")


if __name__ == "__main__":
    if len(sys.argv) < 2 or (sys.argv[1].startswith("-") and sys.argv[1] != CONTROLS):
        usage = (
            "usage: python -m tool_env_rl.eval MODEL|base|--controls [--preset NAME] [--data.test-file FILE]"
        )
        sys.exit(usage)
    chosen = config.parse(Config, PRESETS, default="small", args=sys.argv[2:])
    if sys.argv[1] == BASE and chosen.model.name != TOY:
        sys.exit(f"base is the model of presets with model.name {TOY!r}; name a folder or hub id instead")
    try:
        main(chosen, sys.argv[1])
    except gate.GateClosed as closed:
        print(closed, file=sys.stderr)
        sys.exit(gate.CLOSED)
