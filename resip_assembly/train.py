"""Train ResiP (arXiv 2407.16677): a residual on a frozen, behaviour-cloned diffusion policy. See README.

python train.py                                # small: floating gripper, two cores, minutes
python train.py --sim.task one_leg             # another task; any field of config.py
python train.py --preset paper-lamp            # the paper's sizes: 1,024 environments, U-Net of 66 M
python train.py --preset paper-lamp --dry-run  # the plan: sizes, memory, environment steps; runs nothing
"""

from __future__ import annotations

import dataclasses
import os
import sys

import torch

from resip_assembly import corrections, pipeline, plan, report, residual_ppo, starts, videos
from resip_assembly.config import PRESETS, Config
from resip_assembly.demos import ExpertAgent, Hopeless
from resip_assembly.diffusion_policy import ChunkAgent
from resip_assembly.env import task_named
from resip_assembly.evaluation import evaluate
from resip_assembly.pipeline import HELD_OUT
from resip_assembly.relative_features import RelativePoses
from resip_assembly.residual_policy import ResidualAgent, build_residual
from shared import config, runs, seeding


def main(cfg: Config) -> None:
    # ---- 1 run folder and logging
    run = runs.start(cfg, package="resip_assembly")
    print(f"expected time: {plan.expected_time(cfg)}; sizes and stages: --dry-run")

    # ---- 2 seeds
    seeding.seed_everything(cfg.run.seed)

    # ---- 3 demonstrations, behaviour cloning; the base is frozen from here on
    base = pipeline.base_policy(cfg, run)

    # ---- 4 held-out episodes, the same for every policy: expert and base
    held_out = pipeline.environments(cfg, cfg.eval.num_envs)
    results = report.Results(run.dir / "evaluations")
    if cfg.start is not None:
        starts.adopt(results, cfg.start, cfg, ("expert", "base"))
    if "expert" not in results:
        expert = ExpertAgent(held_out, HELD_OUT)
        results["expert"] = evaluate(held_out, expert, cfg.eval.episodes, HELD_OUT)
    if "base" not in results:
        results["base"] = evaluate(held_out, ChunkAgent(base, cfg.eval.num_envs), cfg.eval.episodes, HELD_OUT)
    for steps in cfg.eval.execute:
        if (name := f"base_{steps}") not in results:
            agent = ChunkAgent(starts.executing(base, steps), cfg.eval.num_envs)
            results[name] = evaluate(held_out, agent, cfg.eval.episodes, HELD_OUT)
    print(results.line("expert"), results.line("base"), sep="\n", flush=True)

    # ---- 5 the residual: at first exactly zero
    extra = RelativePoses(task_named(cfg.sim.task)) if cfg.features else None
    torch.manual_seed(seeding.derive_seed(cfg.run.seed, "residual"))
    residual = build_residual(cfg.residual, base.obs_dim + (extra.size if extra else 0), base.normalizer)

    # ---- 6 resume
    last = run.last_checkpoint() if run.resumed else None
    run.truncate_after(int(last.name.split("-")[-1]) - 1 if last else -1)

    # ---- 7 loop: rollout -> advantage -> update -> log -> checkpoint (residual_ppo.py)
    trained = residual_ppo.Trained()
    if cfg.ppo.iterations:
        env = pipeline.environments(
            cfg, cfg.sim.num_envs, "disabled" if cfg.ppo.reset_every_iteration else "same_step"
        )
        trained = residual_ppo.train(
            env,
            base,
            residual,
            cfg.ppo,
            cfg.run.seed,
            run.dir,
            eval_env=held_out,
            extra=extra,
            identity=pipeline.identity(cfg),
            resume_from=last,
            on_log=run.log,
        )
        env.close()

    # ---- 8 final evaluation: the last residual, mean action; the table, the curves, a film
    if cfg.ppo.iterations:
        agent = ResidualAgent(base, residual, cfg.eval.num_envs, extra, hold=cfg.ppo.hold_residual)
        recorder = corrections.Recorder(agent, task_named(cfg.sim.task))
        results["residual"] = evaluate(held_out, recorder, cfg.eval.episodes, HELD_OUT)
        corrections.write(recorder.corrections(results["residual"]), run.dir / "corrections.csv.gz")
        report.draw_run(run.dir, results)
    held_out.close()
    report.print_table(results, trained)
    if cfg.ppo.iterations and cfg.eval.video:
        videos.before_and_after(cfg, base, residual, extra, results, run.dir)

    # ---- 9 manifest, last
    run.finish(results.metrics() | dataclasses.asdict(trained))
    print(f"watch it: python -m resip_assembly.watch {os.path.relpath(run.dir)}")


if __name__ == "__main__":
    dry = "--dry-run" in sys.argv
    if dry:
        sys.argv.remove("--dry-run")
    cfg = config.parse(Config, PRESETS, default="small")
    if dry:
        plan.show(cfg)
        sys.exit()
    try:
        main(cfg)
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
    except (FloatingPointError, Hopeless) as error:  # cloning diverged; no demonstrations
        sys.exit(f"error: {error}")
    except ValueError as error:  # a folder or checkpoint that does not fit: the message says which and why
        config.refuse(str(error))
