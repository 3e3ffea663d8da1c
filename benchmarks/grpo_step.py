"""One whole GRPO step: AdaCtrl's trainer with our rollout engine against a stock TRL GRPOTrainer.

Same policy (the shipped cold start), same prompts, group size, rewards, loss, updates and sampling settings;
both sides take turns in one process. Prints `ratio: X` (stock seconds over ours, median of the rounds'
ratios) and the peak memory.

    python benchmarks/grpo_step.py [--rounds 5] [--threads 2] [--record]
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
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from adactrl import chains
from adactrl.cold_start import SHIPPED, load_policy
from adactrl.config import PRESETS, Config, to_grpo_config
from adactrl.data import messages
from adactrl.rewards import group_rewards
from adactrl.tags import Difficulty, parse_tag
from adactrl.trainer import DifficultyAwareGRPO
from shared import answers, gpu, rollouts

STEPS = 3  # measured per round and side, after one step that is not


class StepTimer(TrainerCallback):
    """Seconds per RL step, the first one left out; `sampling` is the part before the updates."""

    def __init__(self, updates_per_step: int) -> None:
        self.updates_per_step, self.started, self.seconds, self.sampling = updates_per_step, 0.0, 0.0, 0.0

    def watch(self, trainer: GRPOTrainer) -> None:
        """Time the trainer's sampling: generation, grading, rewards, advantages, old log-probabilities."""
        sample = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            began = time.perf_counter()
            output = sample(inputs)
            if self.started:
                self.sampling += (time.perf_counter() - began) / STEPS
            return output

        trainer._generate_and_score_completions = timed

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.updates_per_step:
            self.started = time.perf_counter()
        if state.global_step == state.max_steps:
            self.seconds = (time.perf_counter() - self.started) / STEPS


def benchmark_config() -> Config:
    """The small preset, every group kept, so that both sides sample and train on the same number of rows."""
    cfg = PRESETS["small"]
    algo = replace(cfg.algo, filter="none", prompts_per_generation=cfg.algo.prompts_per_step, steps=STEPS + 1)
    return replace(cfg, algo=algo)


def prompts(cfg: Config) -> Dataset:
    drawn = chains.rl_problems(256, seed=0)
    rows = [{"prompt": messages(c.question, cfg.data), "answer": c.answer, "tier": t} for t, c in drawn]
    return Dataset.from_list(rows)


def stock_reward(cfg: Config) -> Any:
    """AdaCtrl's reward as a TRL reward function; in one process a group's samples are neighbours."""

    def adactrl(completions: list, completion_ids: list, answer: list, **columns: Any) -> list[float]:
        texts = [c[0]["content"] for c in completions]
        correct = [bool(ok) for ok in answers.grade_many(texts, answer)]
        size, found = cfg.algo.group_size, []
        for i in range(0, len(texts), size):
            part = slice(i, i + size)
            lengths = [len(ids) for ids in completion_ids[part]]
            tags: list[Difficulty | None] = [parse_tag(text) for text in texts[part]]
            found += group_rewards(
                correct[part],
                tags,
                lengths,
                max_length=cfg.algo.max_completion_tokens,
                overlong_buffer=cfg.algo.overlong_buffer,
            )
        return found

    return adactrl


def seconds_per_step(side: str, cfg: Config, dataset: Dataset, folder: str) -> tuple[float, float]:
    """Of a whole step, and of its sampling."""
    model, tokenizer = load_policy(SHIPPED, cfg)
    timer = StepTimer(cfg.algo.updates_per_step)
    args = to_grpo_config(cfg, Path(folder))
    args.save_strategy = "no"
    common = {
        "model": model,
        "args": args,
        "train_dataset": dataset,
        "processing_class": tokenizer,
        "callbacks": [timer],
    }
    if side == "ours":
        trainer = DifficultyAwareGRPO(**common, algo=cfg.algo, rollout_func=rollouts.trl_rollout_func())
    else:
        args.reward_weights = None
        trainer = GRPOTrainer(**common, reward_funcs=stock_reward(cfg))
        trainer.remove_callback(PrinterCallback)
    timer.watch(trainer)
    trainer.train()
    return timer.seconds, timer.sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", action="store_true", help="append the figures to benchmarks/results")
    options = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(options.threads)
    gpu.keep_buffers()
    transformers.utils.logging.disable_progress_bar()
    cfg = benchmark_config()
    dataset = prompts(cfg)
    times: dict[str, list[float]] = {"ours": [], "stock": []}
    sampling: dict[str, list[float]] = {"ours": [], "stock": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):  # the first turn warms up
            order = ("ours", "stock") if turn % 2 else ("stock", "ours")
            for side in order:
                seconds, before = seconds_per_step(side, cfg, dataset, folder)
                if turn:
                    times[side].append(seconds)
                    sampling[side].append(before)
            if turn:
                print(
                    f"round {turn}: ours {times['ours'][-1]:.2f} s, stock {times['stock'][-1]:.2f} s",
                    flush=True,
                )
    ratios = [stock / ours for stock, ours in zip(times["stock"], times["ours"], strict=True)]
    rows = cfg.algo.prompts_per_step * cfg.algo.group_size
    print(f"{rows} rows, {cfg.algo.updates_per_step} updates, {gpu.hardware()}, {options.threads} threads")
    for side, seconds in times.items():
        whole, before = statistics.median(seconds), statistics.median(sampling[side])
        print(f"{side}: {whole:.2f} s per step: {before:.2f} s sampling, {whole - before:.2f} s updates")
    print(f"ratio: {statistics.median(ratios):.2f}")
    print(f"peak memory of the process: {gpu.peak_memory_gib():.2f} GiB")
    if options.record:
        title = f"`grpo_step.py`: a whole step, {rows} rows, {cfg.algo.updates_per_step} updates"
        sides = times["ours"], times["stock"], ratios
        wall_s = time.monotonic() - began
        _records.save("grpo_step/small", title, "s", *sides, threads=options.threads, wall_s=wall_s, goal=1.8)


if __name__ == "__main__":
    main()
