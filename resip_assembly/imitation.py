"""Clone a fresh student from other data than 50 demonstrations (sheet §2.9, §2.10; claims 6 to 9).

python imitation.py --data residual --start runs/small-seed0 --episodes 200  # rollouts of base + residual
python imitation.py --data base --start runs/small-seed0 --episodes 200      # of the base alone
python imitation.py --data demos --start runs/small-seed0 --episodes 5000    # data scaling
python imitation.py --data dagger --start runs/small-seed0 --episodes 200    # the teacher labels

Only successful episodes are kept, with 8 steps of holding. Task, simulator, architecture and held-out
episodes are those of the run it starts from.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from resip_assembly import behaviour_cloning, demos, pipeline, report, residual_ppo, starts, students
from resip_assembly.config import IMITATION_PRESETS, Config, ImitationConfig
from resip_assembly.demos import Demonstrations
from resip_assembly.diffusion_policy import ChunkAgent, ChunkPolicy
from resip_assembly.evaluation import Agent, evaluate
from resip_assembly.normalization import Normalizer
from resip_assembly.pipeline import HELD_OUT
from shared import checkpoint, config, gpu, runs, seeding
from shared.runs import Run


def lessons(cfg: ImitationConfig, start: Config, run: Run) -> Demonstrations:
    """The episodes to clone, recorded once per run."""
    folder = run.dir / "demonstrations"
    if checkpoint.problem(folder):
        sim, seed = start.sim, seeding.derive_seed(cfg.run.seed, "lessons") % 2**31
        if cfg.data == "demos":
            found = demos.record(
                sim.task,
                cfg.episodes,
                randomness=sim.randomness,
                robot=sim.robot,
                action_mode=sim.action_mode,
                seed=seed,
                threads=sim.threads,
            )
        else:
            env = pipeline.environments(start, start.eval.num_envs)
            agent: Agent
            if cfg.data == "base":
                agent = ChunkAgent(starts.start_base(cfg.start, start), env.num_envs)
            else:
                agent = starts.start_residual(cfg.start, start, env.num_envs)
            found = students.record(env, agent, cfg.data, cfg.episodes, seed)
            env.close()
        demos.save(found, folder)
    return demos.load(folder)


def student(cfg: ImitationConfig, start: Config, run: Run) -> ChunkPolicy:
    """Cloned once per run, from the lessons or by DAgger."""
    folder, name, device = run.dir / "student", pipeline.identity(start), gpu.device()
    if checkpoint.problem(folder / "policy"):
        clone = replace(start.clone, updates=cfg.updates or start.clone.updates)
        torch.manual_seed(seeding.derive_seed(cfg.run.seed, "student"))
        if cfg.data == "dagger":
            env = pipeline.environments(start, cfg.dagger_envs)
            teacher = starts.start_residual(cfg.start, start, cfg.dagger_envs)
            policy = behaviour_cloning.build_policy(start.base, teacher.base.normalizer).to(device)
            students.dagger(env, teacher, policy, clone, cfg.episodes, cfg.run.seed, folder, name)
            env.close()
        else:
            taught = lessons(cfg, start, run)
            normalizer = Normalizer.fit(taught.observations, taught.actions)
            policy = behaviour_cloning.build_policy(start.base, normalizer).to(device)
            last = checkpoint.last_complete(folder) if run.resumed else None
            where = {"folder": folder, "resume_from": last, "identity": name}
            behaviour_cloning.train(policy, taught.episodes, clone, cfg.run.seed, **where)
        behaviour_cloning.save_policy(policy, start.base, folder / "policy", name)
    return behaviour_cloning.load_policy(folder / "policy", name, device).freeze()


def main(cfg: ImitationConfig) -> None:
    # ---- 1 run folder and logging
    start = starts.start_config(cfg.start)
    if cfg.data in ("residual", "dagger"):
        starts.start_residual(cfg.start, start, 1)  # refuses before anything is written
    cfg = starts.named(cfg, f"{cfg.data}-{cfg.episodes}")
    run = runs.start(cfg, "resip_assembly", "imitation")

    # ---- 2 seeds
    seeding.seed_everything(cfg.run.seed)

    # ---- 3 the lessons, and the student
    policy = student(cfg, start, run)

    # ---- 4 the held-out episodes of every other policy; the table
    held_out = pipeline.environments(start, start.eval.num_envs)
    results = report.Results(run.dir / "evaluations")
    starts.adopt(results, cfg.start, start, ("expert", "base"))
    agent = ChunkAgent(policy, start.eval.num_envs)
    results["student"] = evaluate(held_out, agent, start.eval.episodes, HELD_OUT)
    held_out.close()
    report.print_table(results, residual_ppo.Trained())

    # ---- 5 manifest, last
    run.finish(results.metrics())


if __name__ == "__main__":
    try:
        main(config.parse(ImitationConfig, IMITATION_PRESETS, default="small"))
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
    except (FloatingPointError, demos.Hopeless) as error:  # cloning diverged; a policy that never succeeds
        sys.exit(f"error: {error}")
    except ValueError as error:  # a folder that does not fit: the message says which and why
        config.refuse(str(error))
