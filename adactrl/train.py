"""Train AdaCtrl (arXiv 2505.18822): cold start, then difficulty-aware GRPO. Differs: D1-D9, README.

python train.py                            # small: a 0.26 M Llama, generated problems, two cores, minutes
python train.py --preset pretrained        # SmolLM2-135M-Instruct, or --model.name HUB_ID, on GSM8K
accelerate launch --config_file accelerate/zero3.yaml train.py --preset paper    # Qwen2.5-7B, DeepMath
python train.py --preset paper --dry-run   # the plan: models, data, memory, tokens; downloads nothing
"""

from __future__ import annotations

import os
import sys
import warnings

from adactrl import cold_start, eval, figures, gate, plan
from adactrl.callbacks import RunCallback
from adactrl.config import PRESETS, Config, to_grpo_config
from adactrl.data import rl_dataset
from adactrl.trainer import DifficultyAwareGRPO
from shared import checkpoint, config, gpu, rollouts, runs, seeding


def main(cfg: Config) -> None:
    # ---- 1 run folder and logging
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is how our engine plugs in
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # TRL's old spelling
    run = runs.start(cfg, package="adactrl")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    grpo_config = to_grpo_config(cfg, run.dir, world_size)
    print(f"expected time: {plan.expected_time(cfg)}; sizes and stages: --dry-run")

    # ---- 2 seeds and device
    seeding.seed_everything(cfg.run.seed)
    gpu.keep_buffers()

    # ---- 3 data
    train_set = rl_dataset(cfg)

    # ---- 4 model: the cold-started policy
    model, tokenizer = cold_start.policy(cfg, run)
    alone = world_size == 1  # with several processes evaluation is a command of its own: eval.py
    before = None
    if alone:
        if cfg.gate != "off":
            gate.enforce(model, tokenizer, cfg, run)
        if cfg.eval.before and cfg.algo.steps:
            before = eval.evaluate_once(
                model, tokenizer, cfg, run.dir / "samples-before.jsonl", "evaluating before RL"
            )

    # ---- 5 optimizer and schedule: in to_grpo_config
    callback = RunCallback(run, "RL", cfg.algo.updates_per_step)
    trainer = DifficultyAwareGRPO(
        model=model,
        args=grpo_config,
        train_dataset=train_set,
        processing_class=tokenizer,
        algo=cfg.algo,
        rollout_func=None if cfg.algo.vllm else rollouts.trl_rollout_func(),
        callbacks=[callback, eval.ProbeCallback(run, tokenizer, cfg)],
        on_groups=figures.SampleWriter(run.dir),
    )

    # ---- 6 resume
    last = run.last_checkpoint() if run.resumed else None
    run.truncate_after(int(last.name.split("-")[-1]) // cfg.algo.updates_per_step if last else -1)

    # ---- 7 loop: rollout -> reward -> advantage -> update -> log -> checkpoint (adactrl/trainer.py)
    if cfg.algo.steps:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        if callback.interrupted:
            sys.exit(f"stopped by Ctrl-C; to go on: {run.resume_command()}")
    trainer.save_model(str(run.dir / "model"))
    trainer.accelerator.wait_for_everyone()

    # ---- 8 final evaluation
    metrics: dict[str, float] = {}
    if alone:
        after = eval.evaluate_once(
            model, tokenizer, cfg, run.dir / "samples-after.jsonl", "evaluating after RL"
        )
        metrics = eval.summary(after)
        if cfg.data.task == "chains" and cfg.sft.style == "adactrl":
            probes = eval.probe(model, tokenizer, cfg)
            eval.save_probes(probes, run.dir / "probes-after.jsonl")
            metrics |= {f"probe/{name}": value for name, value in eval.agreement(probes).items()}
        eval.print_table(before, after)
        figures.draw_run(run.dir)

    # ---- 9 manifest, last
    if run.main:
        checkpoint.mark_complete(run.dir / "model")
    run.finish(metrics)
    if run.main:
        folder = os.path.relpath(run.dir)
        print(f"model:    {folder}/model")
        question = "3 1 4 1 : rev +2 swap" if cfg.data.task == "chains" else "What is 7 times 8?"
        print(f"try it:   python -m adactrl.generate {folder} --mode easy '{question}'")
        print(f"evaluate: python -m adactrl.eval {folder}/model --preset {cfg.preset}")
    trainer.accelerator.end_training()  # closes the process group: without it gloo may abort at exit


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
