"""Few-shot tune a vision-language model by rule-based RL (CLS-RL, arXiv 2503.16188). Differs: D1-D5, README.

python train.py                             # small: No-Thinking-RL of the shipped model, two cores, minutes
python train.py --algo.method thinking      # CLS-RL itself; --algo.objective sft_full_text: a baseline
python train.py --data.source folder --data.set splits/mine     # your own images (python -m cls_rl.folders)
accelerate launch --config_file accelerate/zero3.yaml train.py --preset paper-qwen2-vl-2b --data.data-dir DIR
python train.py --preset paper-qwen2-vl-2b --dry-run     # the plan: sizes, memory, updates; downloads nothing
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import transformers

from cls_rl import eval, plan, report
from cls_rl.callbacks import CurveCallback, RunCallback
from cls_rl.config import PRESETS, Config, lora_config, to_grpo_config, to_sft_config, updates
from cls_rl.data import Prompts, load_task
from cls_rl.model import save
from cls_rl.sft import ClassificationSFT
from cls_rl.trainer import ClassificationGRPO
from shared import checkpoint, config, gpu, runs, seeding
from shared.decoding import unwrap

T = TypeVar("T")


def main(cfg: Config) -> None:
    # ---- 1 run folder and logging
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # TRL's old spelling
    transformers.utils.logging.disable_progress_bar()  # one per file would hide the progress line
    run = runs.start(cfg, package="cls_rl")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    print(f"expected time: {plan.expected_time(cfg)}; sizes: --dry-run")

    # ---- 2 seeds and device
    seeding.seed_everything(cfg.run.seed)
    gpu.keep_buffers()

    # ---- 3 data
    task = _checked(load_task, cfg.data, cfg.run.seed)
    steps = updates(cfg, len(task.train))
    cells = ", ".join(f"{name} {len(queries)}" for name, queries in task.tests.items())
    print(f"{task.name}: {len(task.train)} training images, {steps} updates; test images: {cells}")

    # ---- 4 model
    bundle = _checked(eval.load_bundle, cfg)
    train_set = Prompts(task.train, task.picture, bundle, cfg.algo.method, max_tokens=cfg.max_prompt_tokens)
    alone = world_size == 1  # with several processes evaluation is a command of its own: eval.py
    before = None
    if alone and cfg.eval.before:
        before = eval.evaluate_once(bundle, task, cfg, run.dir / "records-before.csv.gz")

    # ---- 5 optimizer and schedule: in to_grpo_config and to_sft_config
    callback = RunCallback(run, "RL" if cfg.algo.objective == "rl" else "SFT")
    every = cfg.eval.every if alone else 0
    curve = CurveCallback(run, every, lambda: eval.curve_point(bundle, task, cfg))
    common = {"callbacks": [callback, curve], "peft_config": lora_config(cfg)}
    if cfg.algo.objective == "rl":
        args = to_grpo_config(cfg, run.dir, steps, world_size)
        trainer = ClassificationGRPO(train_set, cfg.algo, args, **common)
    else:
        trainer = ClassificationSFT(
            train_set, cfg.algo, to_sft_config(cfg, run.dir, steps, world_size), **common
        )

    # ---- 6 resume
    last = run.last_checkpoint() if run.resumed else None
    run.truncate_after(int(last.name.split("-")[-1]) if last else -1)

    # ---- 7 loop: rollout -> reward -> advantage -> update -> log -> checkpoint (cls_rl/trainer.py)
    if steps:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        if callback.interrupted:
            sys.exit(f"stopped by Ctrl-C; to go on: {run.resume_command()}")
    split = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    policy = unwrap(trainer.model)
    if cfg.model.lora_rank and not split:
        policy = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
    tuned = replace(bundle, model=policy)
    if split:  # gathers the weights; with LoRA the folder holds the adapter alone
        trainer.save_model(str(run.dir / "model"))
    elif run.main:
        save(tuned, run.dir / "model")
    trainer.accelerator.wait_for_everyone()

    # ---- 8 final evaluation
    metrics: dict[str, float] = {}
    if alone:
        after = eval.evaluate_once(tuned, task, cfg, run.dir / "records-after.csv.gz")
        metrics = eval.summary(after)
        eval.print_table(before, after)
        sheet = report.write_sheet(task, after, run.dir / "contact-sheet.png")
        print(f"pictures: {os.path.relpath(sheet)} (x: wrong, the true name in brackets)")
        report.draw_curves(run.dir)

    # ---- 9 manifest, last
    if run.main and split:
        checkpoint.mark_complete(run.dir / "model")
    run.finish(metrics)
    if run.main:
        folder = os.path.relpath(run.dir)
        print(f"model:    {folder}/model")
        print(f"try it:   python -m cls_rl.classify {folder}/model IMAGE --names cat,dog,owl")
        print(f"evaluate: python -m cls_rl.eval {folder}")
    trainer.accelerator.end_training()  # closes the process group: without it gloo may abort at exit


def _checked(load: Callable[..., T], *arguments: Any) -> T:
    """What `load` gives; bad data or a missing model ends the process with its one sentence."""
    try:
        return load(*arguments)
    except (ValueError, RuntimeError, OSError) as error:
        config.refuse(str(error))


if __name__ == "__main__":
    dry = "--dry-run" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--dry-run"]
    cfg = config.parse(Config, PRESETS, default="small")
    try:
        plan.show(cfg) if dry else main(cfg)
    except KeyboardInterrupt:  # outside the training loops, which save first
        sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
