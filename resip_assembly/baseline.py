"""Train what ResiP is compared with (sheet §2.9), from the base policy of a finished run of train.py.

python baseline.py --kind mlp_ppo --start runs/mlp-c       # PPO on the chunked MLP, kept near the clone
python baseline.py --kind dppo --start runs/small-seed0    # fine-tune the denoising steps
python baseline.py --kind rerank --start runs/small-seed0  # frozen; best of 20 chunks by a learned value

Task, simulator, held-out episodes: those of the run it starts from. Environment steps per iteration: the
residual's at the same scale.
"""

from __future__ import annotations

import dataclasses
import sys

import torch

from resip_assembly import pipeline, report, starts
from resip_assembly.baselines import chunk_rollouts
from resip_assembly.baselines.dppo import DPPO
from resip_assembly.baselines.mlp_ppo import MlpPPO
from resip_assembly.baselines.value_reranking import ValueReranking
from resip_assembly.behaviour_cloning import MlpPolicy
from resip_assembly.config import BASELINE_PRESETS, BaselineConfig
from resip_assembly.diffusion_policy import ChunkPolicy, DiffusionPolicy
from resip_assembly.evaluation import evaluate
from resip_assembly.pipeline import HELD_OUT
from shared import config, gpu, runs, seeding


def build(cfg: BaselineConfig, base: ChunkPolicy) -> chunk_rollouts.Learner:
    """The learner of `cfg.kind`; ValueError if the base is of the wrong kind for it."""
    if cfg.kind == "mlp_ppo":
        if not isinstance(base, MlpPolicy):
            raise ValueError(
                f"--kind mlp_ppo fine-tunes an MLP, the base of {cfg.start} is a "
                f"{type(base).__name__}; start from a run with --base.kind mlp"
            )
        return MlpPPO(base, cfg.mlp_ppo)
    if not isinstance(base, DiffusionPolicy):
        raise ValueError(
            f"--kind {cfg.kind} needs a diffusion policy, the base of {cfg.start} is a "
            f"{type(base).__name__}; start from another run"
        )
    return DPPO(base, cfg.dppo) if cfg.kind == "dppo" else ValueReranking(base, cfg.rerank)


def main(cfg: BaselineConfig) -> None:
    # ---- 1 run folder and logging
    start = starts.start_config(cfg.start)
    base = starts.start_base(cfg.start, start)
    torch.manual_seed(seeding.derive_seed(cfg.run.seed, cfg.kind))
    learner = build(cfg, base).to(gpu.device())
    cfg = starts.named(cfg, cfg.kind)
    run = runs.start(cfg, "resip_assembly", "baseline")

    # ---- 2 seeds
    seeding.seed_everything(cfg.run.seed)

    # ---- 3 held-out episodes, as of every other policy; the base was judged on them
    held_out = pipeline.environments(start, start.eval.num_envs)
    results = report.Results(run.dir / "evaluations")
    starts.adopt(results, cfg.start, start, ("base",))

    # ---- 4 resume
    last = run.last_checkpoint() if run.resumed else None
    run.truncate_after(int(last.name.split("-")[-1]) - 1 if last else -1)

    # ---- 5 loop: rollout of chunks -> advantage -> update -> log -> checkpoint (baselines/)
    env = pipeline.environments(start, start.sim.num_envs)
    trained = chunk_rollouts.train(
        learner,
        env,
        cfg.loop,
        cfg.run.seed,
        run.dir,
        eval_env=held_out,
        identity=pipeline.identity(start),
        resume_from=last,
        on_log=run.log,
    )
    env.close()

    # ---- 6 final evaluation: the last policy; the table
    agent = learner.agent(start.eval.num_envs)
    results[cfg.kind] = evaluate(held_out, agent, start.eval.episodes, HELD_OUT)
    held_out.close()
    report.print_table(results, trained)

    # ---- 7 manifest, last
    run.finish(results.metrics() | dataclasses.asdict(trained))


if __name__ == "__main__":
    try:
        main(config.parse(BaselineConfig, BASELINE_PRESETS, default="small"))
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
    except ValueError as error:  # a folder or checkpoint that does not fit: the message says which and why
        config.refuse(str(error))
