"""Ask a trained model, and choose how much it reasons.

    python -m adactrl.generate shipped --mode easy "3 1 4 1 : rev +2 swap"
    python -m adactrl.generate runs/small-seed0 --samples 4 < problems.txt

adaptive: the model writes its own tag. easy, hard: `[Easy]` or `[Hard]` is written for it, as the first
characters of its answer; that tag is part of the prompt, so it does not count in the length.
"""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from transformers.utils import logging

from adactrl import chains
from adactrl.config import Data
from adactrl.data import prompt_text
from adactrl.tags import MODES, forced_prefix, parse_tag
from shared import answers, checkpoint, gpu, rollouts
from shared.config import refuse

SHIPPED = Path(__file__).parent / "cold_start_checkpoint"
TINY_WORDS = 1000  # a smaller vocabulary is a word-level one of the generated task


@dataclass(frozen=True)
class Options:
    """Answer problems in one of AdaCtrl's three modes."""

    checkpoint: tyro.conf.Positional[str]  # run folder, checkpoint folder, hub id, or the word `shipped`
    problems: tyro.conf.Positional[tuple[str, ...]] = ()  # none: read from standard input, one per line
    mode: str = "adaptive"  # adaptive, easy or hard
    samples: int = 1  # responses per problem
    temperature: float = 0.7  # 0 is greedy
    top_p: float = 0.8  # share of the probability that is sampled from
    max_new_tokens: int | None = None  # length limit; 96 for the tiny models, 2048 for all others
    seed: int = 0  # the same seed gives the same responses


def find_model(name: str) -> str:
    """The folder to load, or a hub id. A run gives its final model, else its newest complete checkpoint."""
    folder = SHIPPED if name == "shipped" else Path(name).expanduser()
    if not folder.is_dir():
        local = name[0] in "./~" or name.count("/") > 1 or ("/" in name and folder.parent.is_dir())
        if name == "shipped" or local or name.startswith("runs/"):
            refuse(f"there is no folder {folder}; give a run or checkpoint folder, a hub id, or `shipped`")
        if difflib.get_close_matches(name, ["shipped"]):
            refuse(f"there is no folder {name}; did you mean shipped?")
        return name
    folder = folder.resolve()
    if run_config(folder) is not None:
        if checkpoint.problem(folder / "model") is None:
            return str(folder / "model")
        last = checkpoint.last_complete(folder, on_skip=lambda line: print(line, file=sys.stderr))
        return str(last or refuse(f"{folder} holds no complete model/ or checkpoint-*; let it train on"))
    ours = (folder / checkpoint.MARKER).exists() or run_config(folder.parent) is not None
    if ours and (reason := checkpoint.problem(folder)):
        refuse(f"{folder} cannot be used: {reason}")
    return str(folder)


def run_config(folder: Path) -> dict[str, Any] | None:
    """The `config.json` of a run folder (a model's own has no `preset`)."""
    file = folder / "config.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return stored if "preset" in stored else None


def data_of(model: str, tokenizer: Any) -> Data:
    """What the model was trained to answer, so that the prompt is the one of training."""
    for folder in Path(model).parents[:2]:  # RUN/model, RUN/cold_start/model
        if (stored := run_config(folder)) is not None:
            return Data(task=stored["data"]["task"])
    return Data(task="chains" if len(tokenizer) < TINY_WORDS else "deepmath")


def read_problems(options: Options) -> list[str]:
    """The problems on the command line, else the lines of standard input."""
    if not options.problems and sys.stdin.isatty():
        print("one problem per line; end with Ctrl-D", file=sys.stderr)
    problems = [line.strip() for line in options.problems or sys.stdin]
    return [p for p in problems if p] or refuse(
        "no problem given; write one as argument or per line of input"
    )


def check_words(problem: str, tokenizer: Any) -> None:
    """A tiny model knows few words; all others would reach it as one and the same unknown token."""
    unknown = [w for w in problem.split() if tokenizer.convert_tokens_to_ids(w) == tokenizer.unk_token_id]
    if unknown:
        example = chains.tier_problems("T2", 1, "train", seed=0)[0].question
        refuse(f"unknown words: {', '.join(dict.fromkeys(unknown))}; this tiny model solves `{example}`")


def show(problem: str, text: str, forced: bool, length: str) -> None:
    """One response: tag, length, answer and text; a frame on a terminal, plain lines in a pipe."""
    tag, answer = parse_tag(text) or "none", (answers.last_boxed(text) or "none").strip()
    facts = f"tag: {tag}{' (forced)' * forced}   length: {length}   answer: {answer}"
    if sys.stdout.isatty():
        color = {"easy": "green", "hard": "red"}.get(tag, "yellow")
        Console().print(Panel(Text(text), title=Text(problem), subtitle=Text(facts), border_style=color))
    else:
        print(f"problem: {problem}\n{facts}\n{text}\n", flush=True)


def main(args: list[str] | None = None) -> None:
    """Parse the command line, answer every problem, print every response."""
    options = tyro.cli(Options, args=args, prog="python -m adactrl.generate")
    if options.mode not in MODES:
        close = difflib.get_close_matches(options.mode.lower(), MODES, 1, 0.5) or [
            "one of " + ", ".join(MODES)
        ]
        refuse(f"unknown mode {options.mode}; did you mean {close[0]}?")
    if options.samples < 1:
        refuse(f"--samples {options.samples} is less than 1")
    name, device = find_model(options.checkpoint), gpu.device()
    logging.disable_progress_bar()
    try:
        model, tokenizer = gpu.load_causal_lm(name)
        data = data_of(name, tokenizer)
        limit = options.max_new_tokens or (96 if data.task == "chains" else 2048)
        sampling = rollouts.Sampling(limit, options.temperature, options.top_p)
    except (FileNotFoundError, ValueError) as error:
        refuse(str(error))
    tiny, prefix, problems = data.task == "chains", forced_prefix(options.mode), read_problems(options)
    for problem in problems if tiny else ():
        check_words(problem, tokenizer)
    stops = model.generation_config.eos_token_id  # chat models have several
    prompts = [prompt_text(tokenizer, problem, data, prefix) for problem in problems]
    drawn = rollouts.generate(
        model.to(device, torch.float32 if tiny or device.type == "cpu" else torch.bfloat16),
        tokenizer(prompts, add_special_tokens=False)["input_ids"],
        samples=options.samples,
        sampling=sampling,
        stop_ids=[tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [])],
        generator=torch.Generator(device=device).manual_seed(options.seed),
    )
    tag_ids = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    for row, (ids, ended) in enumerate(zip(drawn.completion_ids, drawn.finished, strict=True)):
        text = tokenizer.decode([*tag_ids, *ids], skip_special_tokens=True)
        length = f"{len(ids)} tokens{'' if ended else ' (cut off)'}"
        show(problems[row // options.samples], text, prefix != "", length)


if __name__ == "__main__":
    main()
