"""Train FTRL (arXiv 2508.08791): environments → trajectories → states → one-turn RL, re-sampled 3 times.

python train.py                            # small: a 1 M Llama, built environments, two cores, minutes
python train.py --algo.algorithm reinforce_pp --algo.reward rate          # any algorithm and reward
python train.py --preset pretrained        # SmolLM2-135M-Instruct, or --model.name HUB_ID
python train.py --preset paper --data.train-file train.jsonl --data.test-file test.jsonl   # Qwen2.5-7B
python train.py --preset paper --dry-run   # the plan; builds and downloads nothing
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState

from shared import checkpoint, config, gpu, runs, seeding
from shared.pretrained import smollm2
from shared.runs import Run
from tool_env_rl import base_model, environment_sets, eval, evaluation, gate, plan, states
from tool_env_rl.callbacks import RunCallback
from tool_env_rl.chat_templates import with_tools
from tool_env_rl.config import PRESETS, TOY, Config, to_grpo_config
from tool_env_rl.environment_sets import Sets
from tool_env_rl.episodes import model_policy
from tool_env_rl.example import show_example
from tool_env_rl.progress import StageBar
from tool_env_rl.records import EnvRecord, read_records, write_records
from tool_env_rl.sandbox import Sandbox
from tool_env_rl.texts import printable
from tool_env_rl.trainer import ToolGRPO


def main(cfg: Config) -> None:
    # ---- 1 run folder and logging
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is how our engine plugs in
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)  # TRL's old spelling
    transformers.utils.logging.disable_progress_bar()  # a bar per small file would hide the progress line
    run = runs.start(cfg, package="tool_env_rl")
    print(f"expected time: {plan.expected_time(cfg)}; sizes and stages: --dry-run")

    # ---- 2 seeds and device
    seeding.seed_everything(cfg.run.seed)
    gpu.keep_buffers()

    with Sandbox(unsafe_exec=cfg.data.unsafe_exec) as sandbox, StageBar() as bar:
        # ---- 3 data: environments
        print(f"sandbox: {', '.join(sandbox.protections) or 'no protection'}")
        with PartialState().main_process_first():  # the others read what the first has written
            sets = environment_sets.load(cfg, sandbox, bar.update)
        if sets.test_gold and run.main:
            show_example(sets.test_gold, sandbox)

        # ---- 4 model: the instruct model, or its stand-in
        with PartialState().main_process_first():
            start = start_folder(cfg, sandbox, bar)
        model, tokenizer = load_model(start, cfg)
        if cfg.model.name == TOY and cfg.base.gate != "off" and not run.resumed:
            report = gate.measure(model, tokenizer, cfg, sets.dev_gold, sandbox, bar.turns("gate"))
            gate.enforce(report, cfg.base.gate)
        alone = (
            int(os.environ.get("WORLD_SIZE", "1")) == 1
        )  # else evaluation is a command of its own: eval.py
        before = None
        if cfg.eval.before and alone:
            path = run.dir / "episodes-before.jsonl"
            before = eval.evaluate_once(model, tokenizer, cfg, sets, sandbox, path, bar.turns("before RL"))

        # ---- 5 optimizer and schedule: in to_grpo_config, new in every iteration
        # ---- 6 resume: finished iterations are kept; the one that was stopped goes on from its checkpoint
        # ---- 7 loop: trajectories → states → one-turn RL; the next iteration starts from this one's model
        folder = start
        for iteration in range(1, cfg.algo.iterations + 1):
            folder = run_iteration(cfg, run, iteration, folder, sets, sandbox, bar)

        # ---- 8 final evaluation
        metrics: dict[str, float] = {}
        if alone:
            model, tokenizer = load_model(folder, cfg)
            path = run.dir / "episodes-after.jsonl"
            after = eval.evaluate_once(model, tokenizer, cfg, sets, sandbox, path, bar.turns("after RL"))
            metrics = evaluation.summary(after)

    # ---- 9 manifest, last
    if alone:
        eval.print_tables({"before RL": before, "after RL": after} if before else {"": after})
    run.finish(metrics)
    if run.main:
        print(f"model:    {os.path.relpath(folder)}")
        print(f"evaluate: python -m tool_env_rl.eval {os.path.relpath(folder)} --preset {cfg.preset}")


def start_folder(cfg: Config, sandbox: Sandbox, bar: StageBar) -> str:
    """Folder or hub id of the model that RL starts from."""
    if cfg.model.name == TOY:
        return str(base_model.load_or_train(cfg, sandbox, bar.update))
    return str(smollm2()) if cfg.model.name == "smollm2" else cfg.model.name


def load_model(start: str, cfg: Config) -> tuple[Any, Any]:
    """(model on the device, tokenizer); weights train in float32."""
    revision = cfg.model.revision if start == cfg.model.name else None
    model, tokenizer = gpu.load_causal_lm(start, revision=revision)
    return model.to(gpu.device()), with_tools(tokenizer)


def run_iteration(
    cfg: Config, run: Run, iteration: int, start: str, sets: Sets, sandbox: Sandbox, bar: StageBar
) -> str:
    """One launch of the authors': sample states with the model in `start`, train on them; the new folder."""
    folder = run.dir / f"iteration-{iteration}"
    if checkpoint.problem(folder / "model") is None:
        return str(folder / "model")
    folder.mkdir(exist_ok=True)
    model, tokenizer = load_model(start, cfg)
    found = sampled_states(cfg, iteration, folder / "states.jsonl", model, tokenizer, sets, sandbox, bar)
    kept, prompts, left_out = states.prompts(
        found, tokenizer, thinking=cfg.model.thinking, max_prompt_tokens=cfg.data.max_prompt_tokens
    )
    print(f"iteration {iteration}: {len(kept)} states, {left_out} too long", flush=True)
    world_size, updates = int(os.environ.get("WORLD_SIZE", "1")), cfg.algo.updates_per_batch
    grpo_config = to_grpo_config(cfg, folder, len(kept), world_size)
    batches = grpo_config.max_steps // updates
    offset = (iteration - 1) * batches
    callback = RunCallback(run, f"RL {iteration}/{cfg.algo.iterations}", updates, offset)
    seeding.seed_everything(seeding.derive_seed(cfg.run.seed, "RL", iteration) % 2**32)
    trainer = ToolGRPO(
        model=model,
        args=grpo_config,
        processing_class=tokenizer,
        callbacks=[callback],
        states=kept,
        prompts=prompts,
        sandbox=sandbox,
        algo=cfg.algo,
        thinking=cfg.model.thinking,
    )
    last = checkpoint.last_complete(folder) if run.resumed else None
    run.truncate_after(offset + (int(last.name.split("-")[-1]) // updates if last else 0))
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if callback.interrupted:
        sys.exit(f"stopped by Ctrl-C; to go on: {run.resume_command()}")
    trainer.save_model(str(folder / "model"))
    trainer.accelerator.wait_for_everyone()
    if run.main:
        checkpoint.mark_complete(folder / "model")
    trainer.accelerator.wait_for_everyone()
    return str(folder / "model")


def sampled_states(
    cfg: Config,
    iteration: int,
    path: Path,
    model: Any,
    tokenizer: Any,
    sets: Sets,
    sandbox: Sandbox,
    bar: StageBar,
) -> list[EnvRecord]:
    """The iteration's states, in the authors' JSONL format in `path`; read back where they are there."""
    if not path.exists():
        records = states.chosen_environments(sets.train, cfg.algo.environments, cfg.run.seed, iteration)
        seed = seeding.derive_seed(cfg.run.seed, "trajectories", iteration)
        policy = model_policy(model, tokenizer, cfg, cfg.algo.collect_temperature, seed)
        turns = bar.turns(f"iteration {iteration}: trajectories")
        found = states.collect(
            records, policy, sandbox,
            max_turns=cfg.algo.max_turns, drop_thoughts=cfg.algo.drop_thoughts, on_turn=turns,
        )  # fmt: skip
        write_records(path, found)
    found, problems = read_records(path, on_problem=lambda p: print(printable(f"skipped: {p}")))
    if problems:
        print(
            f"iteration {iteration}: {len(problems)} malformed states skipped, {len(found)} read", flush=True
        )
    return found


if __name__ == "__main__":
    if "--dry-run" in sys.argv:
        sys.argv.remove("--dry-run")
        plan.show(config.parse(Config, PRESETS, default="small"))
    else:
        cfg = config.parse(Config, PRESETS, default="small")
        try:
            main(cfg)
        except gate.GateClosed as closed:
            sys.exit(str(closed))
        except KeyboardInterrupt:  # outside the RL loop, which saves first
            sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
