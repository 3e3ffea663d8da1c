"""Evaluate a checkpoint in the three user modes; never trains (the paper's protocol).

    python eval.py runs/small-seed0                          # the generated tiers
    python eval.py CHECKPOINT --preset paper --data.data-dir DIR     # GSM8K, MATH500, AIME24, AIME25

One row per sample goes to `samples-PRESET.jsonl` beside the checkpoint; tables are made from those rows. A
grader failure is None: it is counted, and left out of the accuracy, never scored as wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from adactrl import benchmarks, chains
from adactrl.benchmarks import Problem
from adactrl.calibration import auc, balanced_accuracy
from adactrl.config import PRESETS, Config
from adactrl.data import eval_sets, prompt_text
from adactrl.rewards import difficulty_label
from adactrl.tags import MODES, TAG_TEXT, Difficulty, Mode, forced_prefix, parse_tag
from shared import answers, config, gpu, rollouts, stats
from shared.checkpoint import write_text_atomic
from shared.rollouts import Sampling
from shared.runs import Run
from shared.seeding import derive_seed


@dataclass(frozen=True)
class Sample:
    """One graded response. `length` counts tokens with the end token and without a forced tag."""

    set: str
    problem: str
    mode: Mode
    tag: Difficulty | None
    correct: bool | None
    length: int
    truncated: bool
    text: str


def sample_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    cfg: Config,
    mode: Mode,
    samples: int,
    sampling: Sampling,
    seed: int,
) -> list[Sample]:
    """`samples` graded responses to each problem, problem-major. The forced tag is part of the prompt."""
    prefix = forced_prefix(mode)
    prompts = [prompt_text(tokenizer, p.question, cfg.data, prefix) for p in problems]
    drawn = rollouts.generate(
        model,
        tokenizer(prompts, add_special_tokens=False)["input_ids"],
        samples=samples,
        sampling=sampling,
        stop_ids=[tokenizer.eos_token_id],  # type: ignore[list-item]
        generator=torch.Generator(device=model.device).manual_seed(seed),
    )
    texts = tokenizer.batch_decode(drawn.completion_ids, skip_special_tokens=True)
    repeated = [p for p in problems for _ in range(samples)]
    graded = answers.grade_many(texts, [p.answer for p in repeated])
    return [
        Sample(p.source, p.id, mode, parse_tag(prefix + text), ok, len(ids), not ended, prefix + text)
        for p, text, ok, ids, ended in zip(
            repeated, texts, graded, drawn.completion_ids, drawn.finished, strict=True
        )
    ]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    cfg: Config,
    modes: Sequence[Mode] = MODES,
    split: chains.Split = "test",
    title: str = "evaluating",
) -> list[Sample]:
    """Every evaluation set in every mode, at the paper's evaluation temperature and top-p."""
    sampling = Sampling(cfg.algo.max_completion_tokens, cfg.eval.temperature, cfg.eval.top_p)
    sets = eval_sets(cfg, split)
    rows: list[Sample] = []
    work: list[tuple[Mode, str]] = [(mode, name) for mode in modes for name in sets]
    for mode, name in track(work, title, console=Console(stderr=True), disable=not sys.stderr.isatty()):
        repeats = benchmarks.BENCHMARKS[name].repeats if name in benchmarks.BENCHMARKS else 1
        seed = derive_seed(cfg.run.seed, "evaluate", split, mode, name)
        rows += sample_responses(
            model, tokenizer, sets[name], cfg, mode, cfg.eval.samples * repeats, sampling, seed
        )
    return rows


def summarise(rows: Sequence[Sample]) -> dict[str, float]:
    """Accuracy with its Wilson interval, lengths, tag shares, truncation and grader failures of some samples.

    The interval treats samples as independent; differences between arms are bootstrapped over problems
    instead.
    """
    graded = [r for r in rows if r.correct is not None]
    right = sum(bool(r.correct) for r in graded)
    low, high = stats.wilson(right, len(graded))
    lengths = np.array([r.length for r in rows])
    return {
        "n": len(rows),
        "accuracy": right / len(graded) if graded else float("nan"),
        "accuracy_low": low,
        "accuracy_high": high,
        "length": float(lengths.mean()),
        "length_median": float(np.median(lengths)),
        "truncated": sum(r.truncated for r in rows) / len(rows),
        "easy_tag": sum(r.tag == "easy" for r in rows) / len(rows),
        "hard_tag": sum(r.tag == "hard" for r in rows) / len(rows),
        "grader_failures": len(rows) - len(graded),
    }


def by_cell(rows: Sequence[Sample]) -> dict[tuple[str, Mode], list[Sample]]:
    """Samples per (evaluation set, mode), in the order they came."""
    cells: dict[tuple[str, Mode], list[Sample]] = {}
    for row in rows:
        cells.setdefault((row.set, row.mode), []).append(row)
    return cells


def summary(rows: Sequence[Sample]) -> dict[str, float]:
    """`summarise` of every cell as flat metrics `set/mode/name`."""
    return {
        f"{name}/{mode}/{key}": value
        for (name, mode), cell in by_cell(rows).items()
        for key, value in summarise(cell).items()
    }


def evaluate_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cfg: Config, path: Path, title: str
) -> list[Sample]:
    """`evaluate`, or what an earlier start of the same run has already written to `path`."""
    if not path.exists():
        rows = evaluate(model, tokenizer, cfg, modes=modes_of(cfg), title=title)
        save_samples(rows, path)
    return load_samples(path)


def modes_of(cfg: Config) -> Sequence[Mode]:
    """The R1 baseline knows no tags, so it is only asked adaptively (that is, with nothing forced)."""
    return MODES if cfg.sft.style == "adactrl" else ("adaptive",)


def save_samples(rows: Sequence[Sample], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def load_samples(path: Path) -> list[Sample]:
    return [Sample(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- difficulty estimation (claims 5-7): does the tag agree with the label that 16 rollouts give?
# ------------------


@dataclass(frozen=True)
class Probe:
    """One held-out prompt: the label from its G rollouts at temperature 1, the tags among them, P([Easy])."""

    set: str
    problem: str
    accuracy: float
    label: Difficulty
    easy_share: float
    p_easy: float

    @property
    def majority(self) -> Difficulty:
        """The tag of most rollouts; a tie is hard."""
        return "easy" if self.easy_share > 0.5 else "hard"


def probe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cfg: Config, count: int = 60
) -> list[Probe]:
    """Labels and tags of `count` held-out problems per set, by the rule of training (G rollouts, temperature
    1)."""
    size = cfg.algo.group_size
    found = []
    for name, problems in eval_sets(cfg, "validation").items():
        some = problems[:count]
        rows = sample_responses(
            model,
            tokenizer,
            some,
            cfg,
            "adaptive",
            size,
            Sampling(cfg.algo.max_completion_tokens),
            derive_seed(cfg.run.seed, "probe", name),
        )
        p_easy = easy_probability(model, tokenizer, some, cfg)
        for i, problem in enumerate(some):
            group = rows[i * size : (i + 1) * size]
            correct = [bool(r.correct) for r in group]
            share = sum(r.tag == "easy" for r in group) / size
            label = difficulty_label(correct, cfg.algo.threshold)
            found.append(Probe(name, problem.id, sum(correct) / size, label, share, p_easy[i]))
    return found


@torch.no_grad()
def easy_probability(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], cfg: Config
) -> list[float]:
    """P([Easy]) / (P([Easy]) + P([Hard])) as the first tokens of the response, from the model's own
    log-probs."""
    scores = []
    for problem in problems:
        prompt = tokenizer(prompt_text(tokenizer, problem.question, cfg.data), add_special_tokens=False)[
            "input_ids"
        ]
        log_p = []
        for tag in TAG_TEXT.values():
            ids = tokenizer(tag, add_special_tokens=False)["input_ids"]
            logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0, len(prompt) - 1 : -1]
            log_p.append(logits.float().log_softmax(-1)[range(len(ids)), ids].sum().item())
        scores.append(1 / (1 + np.exp(log_p[1] - log_p[0])))
    return scores


def save_probes(probes: Sequence[Probe], path: Path) -> None:
    write_text_atomic(path, "".join(json.dumps(asdict(p)) + "\n" for p in probes))


def agreement(probes: Sequence[Probe]) -> dict[str, float]:
    """Balanced agreement of the majority tag with the label, AUC of P([Easy]) against it, shares per set."""
    labels = [p.label == "easy" for p in probes]
    result = {
        "agreement": balanced_accuracy([p.majority == "easy" for p in probes], labels),
        "auc": auc([p.p_easy for p in probes], labels),
    }
    for name in dict.fromkeys(p.set for p in probes):
        members = [p for p in probes if p.set == name]
        result[f"{name}/easy_label"] = sum(p.label == "easy" for p in members) / len(members)
        result[f"{name}/easy_tag"] = sum(p.easy_share for p in members) / len(members)
        result[f"{name}/accuracy"] = sum(p.accuracy for p in members) / len(members)
    return result


class ProbeCallback(TrainerCallback):
    """Held-out labels and tags every `eval.probe_every` RL steps: how the labels evolve (claim 7).

    Training batches cannot show it: the groups that dynamic sampling keeps are a biased sample.
    """

    def __init__(self, run: Run, tokenizer: PreTrainedTokenizerBase, cfg: Config, count: int = 20) -> None:
        self.run, self.tokenizer, self.cfg, self.count = run, tokenizer, cfg, count

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.cfg.eval.probe_every and state.global_step == 0:
            self._probe(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        step, rest = divmod(state.global_step, self.cfg.algo.updates_per_step)
        if self.cfg.eval.probe_every and rest == 0 and step % self.cfg.eval.probe_every == 0:
            self._probe(model, step)

    def _probe(self, model: Any, step: int) -> None:
        found = agreement(probe(rollouts.unwrap(model), self.tokenizer, self.cfg, self.count))
        self.run.log({f"probe/{name}": value for name, value in found.items()}, step)


# ---- tables on screen
# -------------------------------------------------------------------------------------------


def print_table(before: Sequence[Sample] | None, after: Sequence[Sample]) -> None:
    """Accuracy and length per set and mode, before and after RL."""
    table = Table(title="accuracy [95 % interval] and mean response length in tokens")
    stages = (
        [("before RL", by_cell(before)), ("after RL", by_cell(after))] if before else [("", by_cell(after))]
    )
    for column in (
        "set",
        "mode",
        *(f"{what} {name}".strip() for name, _ in stages for what in ("accuracy", "length")),
    ):
        table.add_column(column, justify="left" if column in ("set", "mode") else "right")
    for name, mode in sorted(by_cell(after), key=lambda cell: (cell[0], MODES.index(cell[1]))):
        values = []
        for _, cells in stages:
            s = summarise(cells[name, mode])
            values += [
                f"{s['accuracy']:.3f} [{s['accuracy_low']:.3f}, {s['accuracy_high']:.3f}]",
                f"{s['length']:.1f}",
            ]
        label = {"adaptive": "adaptive", "easy": "force easy", "hard": "force hard"}[mode]
        table.add_row(name, label, *values, end_section=mode == MODES[-1])
    Console().print(table)


def main(cfg: Config, folder: Path) -> None:
    """Evaluate a checkpoint or run folder in every mode, print the table, write the samples into it."""
    folder = folder / "model" if (folder / "model").is_dir() else folder
    model, tokenizer = gpu.load_causal_lm(folder.resolve(), getattr(torch, cfg.model.precision))
    rows = evaluate(model.to(gpu.device()), tokenizer, cfg, modes_of(cfg))
    save_samples(rows, folder / f"samples-{cfg.preset}.jsonl")
    print_table(None, rows)
    print(
        f"one row per sample: {folder}/samples-{cfg.preset}.jsonl; grader failures: {answers.failures() or 0}"
    )


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(
            "usage: python -m adactrl.eval FOLDER [--preset NAME] [--data.data-dir DIR] [--eval.problems N]"
        )
    main(config.parse(Config, PRESETS, default="small", args=sys.argv[2:]), Path(sys.argv[1]))
