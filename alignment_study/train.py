"""One cell of the study (arXiv 2508.21188), on the task the base model knows and on the one it does not.

python train.py                             # small: pre-trains a 0.1 M Llama, then two RL runs; minutes
python train.py --algo.reward random        # incorrect, format, majority, entropy, random_ungated
python train.py --algo.samples one_shot     # negative, positive; --families aligned or weak for one run
python train.py --world two                 # the same algorithms, the families' roles swapped
python train.py --preset pretrained --data.data-dir DIR     # SmolLM2-135M-Instruct, or --base HUB_ID
python train.py --preset paper --dry-run    # the plan: models, data, memory, tokens; downloads nothing
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial

import transformers
from accelerate import PartialState
from transformers import PrinterCallback

from alignment_study import base_models, data, eval, plan, story
from alignment_study.callbacks import RunCallback
from alignment_study.config import PRESETS, UPDATES_PER_STEP, Config, to_grpo_config
from alignment_study.trainer import AlignmentGRPO, NonFiniteLoss, to_dataset
from shared import checkpoint, config, gpu, runs, seeding


def main(cfg: Config) -> None:
    # ---- 1 run folder and logging
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is how our sampler plugs in
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # TRL's old spelling
    transformers.utils.logging.disable_progress_bar()  # a bar per file would hide the progress line
    run = runs.start(cfg, package="alignment_study")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    alone = world_size == 1  # with several processes evaluation is a command of its own: eval.py
    print(f"expected time: {plan.expected_time(cfg)}; sizes and stages: --dry-run")

    # ---- 2 seeds and device
    seeding.seed_everything(cfg.run.seed)
    gpu.keep_buffers()

    # ---- 3 data, and the base model both runs start from
    try:
        train_tasks = {role: data.training_task(cfg, name) for role, name in cfg.cells.items()}
        test_tasks = data.evaluation_tasks(cfg)
        with PartialState().main_process_first():
            base = base_models.prepare(cfg, run.dir)
    except (ValueError, OSError, RuntimeError) as error:  # bad golds, no such task or model, gate not met
        config.refuse(str(error))

    for role, task in train_tasks.items():
        cell = story.cell_run(run, cfg, role)
        if cell.finished and cell is not run:
            print(f"{task.name} ({role}): finished before")
            continue

        # ---- 4 model: the base, and what it can do before RL, which is the alignment
        seeding.seed_everything(cfg.run.seed)
        model, tokenizer = base_models.load(cfg, base)
        measure = partial(eval.evaluate_at, tokenizer=tokenizer, tasks=test_tasks, cfg=cfg, folder=cell.dir)
        if alone:
            measure(model, step=0)
        problems = list(task.problems)
        if cfg.algo.samples == "one_shot":
            problems = data.one_shot_copies(cfg, task, model, tokenizer, cell.dir)

        # ---- 5 optimizer and schedule: in to_grpo_config
        callback = RunCallback(cell, f"RL on {task.name} ({role})", cfg.eval.every if alone else 0, measure)
        trainer = AlignmentGRPO(
            model=model,
            args=to_grpo_config(cfg, cell.dir, world_size),
            train_dataset=to_dataset(problems, chat=bool(tokenizer.chat_template)),
            processing_class=tokenizer,
            reward=cfg.algo.reward,
            samples=cfg.algo.samples,
            verify=data.reward_verifier(task, released=cfg.algo.released),
            dynamic_sampling=cfg.algo.dynamic_sampling,
            released=cfg.algo.released,
            chance=cfg.algo.chance,
            positive_weight=cfg.algo.positive_weight,
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)  # RunCallback prints the progress

        # ---- 6 resume
        last = cell.last_checkpoint() if run.resumed else None
        cell.truncate_after(int(last.name.split("-")[-1]) // UPDATES_PER_STEP if last else -1)

        # ---- 7 loop: sample -> reward -> filter -> advantage -> update -> log -> checkpoint (trainer.py)
        if cfg.algo.steps:
            try:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
            except NonFiniteLoss as error:
                sys.exit(f"error: {error}\nto go on from the last good checkpoint: {run.resume_command()}")
            finally:
                callback.restore()
            if callback.interrupted:
                sys.exit(f"stopped by Ctrl-C; to go on: {run.resume_command()}")
        trainer.save_model(str(cell.dir / "model"))
        trainer.accelerator.wait_for_everyone()

        # ---- 8 final evaluation
        if alone:
            measure(model, step=cfg.algo.steps)
        if run.main:
            checkpoint.mark_complete(cell.dir / "model")
        if cell is not run:
            cell.finish(eval.metrics(eval.read_all(cell.dir, cfg.tasks)))

    # ---- 9 the stories, and the manifest last
    if run.main:
        metrics = story.tell(cfg, run.dir) if alone else {}
        run.finish(metrics)
        folder = os.path.relpath(run.dir)
        if alone:
            print(f"curves:   {folder}/{story.PICTURE}; one row per item: evaluations/ of each run")
        print(f"evaluate: python -m alignment_study.eval {os.path.relpath(story.folders(cfg, run.dir)[-1])}")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    if "--dry-run" in sys.argv:
        sys.argv.remove("--dry-run")
        plan.show(config.parse(Config, PRESETS, default="small"))
    else:
        cfg = config.parse(Config, PRESETS, default="small")
        try:
            main(cfg)
        except KeyboardInterrupt:  # outside the training loops, which save first
            sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
