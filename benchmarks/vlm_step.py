"""One GRPO update of a vision-language model: cls_rl's trainer against a stock TRL GRPOTrainer.

Same policy (the shipped checkpoint), pictures, prompts (lists of 24 names), group size, rewards, loss, KL and
sampling settings; both sides take turns in one process. Prints `ratio: X` (stock seconds over ours, median of
the rounds' ratios), the peak memory, and the images per second of a greedy evaluation.

    python benchmarks/vlm_step.py [--method thinking] [--rounds 3] [--threads 2] [--record]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import _records
import torch
import transformers
from datasets import Dataset, Image
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from cls_rl import eval, model
from cls_rl.config import PRESETS, Config, to_grpo_config
from cls_rl.data import Prompts, Task, load_task
from cls_rl.prompts import user_text
from cls_rl.trainer import ClassificationGRPO, reward_functions
from shared import gpu

UPDATES = 3  # measured per round and side, after one that is not
GOALS = {"no_thinking": 2.0, "thinking": 4.0}  # seconds of one update
TOKENS = {"no_thinking": 12, "thinking": 48}


class Timer(TrainerCallback):
    """Seconds per update, the first one left out."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.started = time.perf_counter()
        if state.global_step == state.max_steps:
            self.seconds = (time.perf_counter() - self.started) / UPDATES


def benchmark_config(method: Any, source: str, name: str) -> Config:
    """The small preset, few-shot: 8 prompts x 8 samples."""
    cfg = PRESETS["small"]
    algo = replace(
        cfg.algo, method=method, max_completion_tokens=TOKENS[method], steps=UPDATES + 1, save_every=1000
    )
    data = replace(cfg.data, setting="few_shot", source=source, set=name)
    return replace(cfg, algo=algo, data=data, model=replace(cfg.model, name="shipped"))


def seconds_per_update(side: str, cfg: Config, task: Task, policy: Any, folder: str) -> float:
    bundle, timer = model.load(policy), Timer()
    args = to_grpo_config(cfg, Path(folder), UPDATES + 1)
    args.save_strategy = "no"
    if side == "ours":
        prompts = Prompts(task.train, task.picture, bundle, cfg.algo.method)
        ClassificationGRPO(prompts, cfg.algo, args, callbacks=[timer]).train()
        return timer.seconds
    texts = [user_text(cfg.algo.method, q.options, q.question) for q in task.train]
    rows = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": text}] for text in texts],
            "image": [task.picture(q.image, bundle.side) for q in task.train],
            "label": [q.label for q in task.train],
        }
    ).cast_column("image", Image())
    trainer = GRPOTrainer(
        model=bundle.model,
        args=args,
        reward_funcs=[_of_texts(f) for f in reward_functions(cfg.algo.method, "string")],
        train_dataset=rows,
        processing_class=bundle.processor,
        callbacks=[timer],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.generation_config.suppress_tokens = bundle.vision_ids
    trainer.train()
    return timer.seconds


def _of_texts(reward: Any) -> Any:
    """The reward on TRL's conversational completions."""

    def score(completions: list[Any], label: list[str], **columns: Any) -> list[float]:
        return reward([c[0]["content"] for c in completions], label)

    score.__name__ = reward.__name__
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--method", choices=tuple(GOALS), default="no_thinking")
    parser.add_argument("--policy", default=str(model.SHIPPED), help="checkpoint folder")
    parser.add_argument("--source", choices=("drawings", "folder"), default="drawings")
    parser.add_argument("--set", default="animals", help="data set, or a split's folder with --source folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", action="store_true", help="append the figures to benchmarks/results")
    options = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(options.threads)
    gpu.keep_buffers()
    transformers.utils.logging.disable_progress_bar()
    cfg = benchmark_config(options.method, options.source, options.set)
    task = load_task(cfg.data, 0)
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):  # the first turn warms up
            for side in ("ours", "stock") if turn % 2 else ("stock", "ours"):
                seconds = seconds_per_update(side, cfg, task, options.policy, folder)
                if turn:
                    times[side].append(seconds)
            if turn:
                print(
                    f"round {turn}: ours {times['ours'][-1]:.2f} s, stock {times['stock'][-1]:.2f} s",
                    flush=True,
                )
    ratios = [stock / ours for stock, ours in zip(times["stock"], times["ours"], strict=True)]
    rows = cfg.algo.prompts_per_step * cfg.algo.group_size
    print(f"{rows} completions per update, {gpu.hardware()}, {options.threads} threads")
    for side, seconds in times.items():
        print(f"{side}: {statistics.median(seconds):.2f} s per update")
    print(f"goal: {GOALS[options.method]:.0f} s per update on two idle cores")
    print(f"ratio: {statistics.median(ratios):.2f}")
    bundle = model.load(options.policy)
    started = time.perf_counter()
    records = eval.evaluate(bundle, task, cfg, count=512)
    print(f"evaluation: {len(records) / (time.perf_counter() - started):.0f} images per second")
    print(f"peak memory of the process: {gpu.peak_memory_gib():.2f} GiB")
    if options.record:
        title = f"`vlm_step.py`: a GRPO update, {rows} completions, {options.method}"
        wall_s = time.monotonic() - began
        sides = times["ours"], times["stock"], ratios
        row = f"vlm_step/{options.method}"
        _records.save(row, title, "s", *sides, threads=options.threads, wall_s=wall_s)


if __name__ == "__main__":
    main()
