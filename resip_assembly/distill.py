"""Distil a teacher of the state into a policy that sees (arXiv 2407.16677; sheet §2.10, claim 8).

python distill.py --start runs/small-seed0                      # 50, 100, 200 rollouts: a scaling curve
python distill.py --start runs/small-seed0 --episodes 50,100 --teacher base   # without the residual
python distill.py --start runs/small-seed0 --looks full         # stronger visual domain randomisation
python distill.py --preset paper --start RUN --vision.encoder facebook/dinov2-small

Successful rollouts of the teacher are rendered with visual domain randomisation, a diffusion policy is cloned
from the images, and judged on held-out episodes in which it sees what the cameras render.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from resip_assembly import behaviour_cloning, image_data, pipeline, report, residual_ppo, starts
from resip_assembly.config import Config
from resip_assembly.demos import ExpertAgent
from resip_assembly.diffusion_policy import ChunkAgent
from resip_assembly.distill_config import DISTILL_PRESETS, DistillConfig
from resip_assembly.env import task_named
from resip_assembly.env.vector import ARM_STATE_DIM, AssemblyVectorEnv
from resip_assembly.evaluation import Agent, evaluate
from resip_assembly.image_data import ImageData
from resip_assembly.normalization import Normalizer
from resip_assembly.pipeline import HELD_OUT
from resip_assembly.vision_student import (
    VisionAgent,
    VisionPolicy,
    build_student,
    image_samples,
    load_student,
    save_student,
)
from shared import checkpoint, config, gpu, runs, seeding
from shared.runs import Run


def agent(name: str, cfg: DistillConfig, start: Config, env: AssemblyVectorEnv, seed: int) -> Agent:
    """A teacher: the run's residual on its base, its base alone, or the scripted expert."""
    if name == "residual":
        return starts.start_residual(cfg.start, start, env.num_envs)
    if name == "base":
        return ChunkAgent(starts.start_base(cfg.start, start), env.num_envs)
    return ExpertAgent(env, seed)


def images(what: str, name: str, episodes: int, cfg: DistillConfig, start: Config, run: Run) -> ImageData:
    """`episodes` successful rollouts of the teacher `name`, recorded once per run, in images/`what`."""
    folder = Path(cfg.data or run.dir / "images") / what
    if cfg.data is None:
        env, seed = (
            pipeline.environments(start, cfg.num_envs),
            seeding.derive_seed(cfg.run.seed, what) % 2**31,
        )
        options = {"height": cfg.vision.height, "width": cfg.vision.width, "looks": cfg.looks, "seed": seed}
        image_data.record(folder, env, agent(name, cfg, start, env, seed), name, episodes, **options)
        env.close()
    found = image_data.load(folder)
    image_data.check(found.card, start.sim, cfg.vision)
    return found.first(episodes)


def student(
    taught: ImageData, cfg: DistillConfig, start: Config, folder: Path, resumed: bool
) -> VisionPolicy:
    """Cloned from `taught` once per run; the normalizer is fitted on that data too."""
    name, device = pipeline.identity(start), gpu.device()
    if checkpoint.problem(folder / "policy"):
        arms = task_named(start.sim.task).arms
        torch.manual_seed(seeding.derive_seed(cfg.run.seed, "student"))
        normalizer = Normalizer.fit(taught.obs[:, : arms * ARM_STATE_DIM], taught.actions)
        policy = build_student(cfg.policy, cfg.vision, taught.card.cameras, normalizer).to(device)
        samples = image_samples(policy, taught, cfg.clone.pad_after)
        last = checkpoint.last_complete(folder) if resumed else None
        where = {"folder": folder, "resume_from": last, "identity": name}
        behaviour_cloning.train(policy, samples, cfg.clone, cfg.run.seed, **where)
        save_student(policy, cfg.policy, folder / "policy", name)
    return load_student(folder / "policy", name, device)


def draw_curve(results: report.Results, teacher: str, episodes: list[int], path: Path) -> Path:
    """Success over the number of rollouts, with Wilson intervals, and the teacher as a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    found = [results[f"student-{n}"].summary() for n in episodes]
    rate, low, high = (
        np.array([s[key] for s in found]) for key in ("success", "success_low", "success_high")
    )
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axis.errorbar(episodes, rate, [rate - low, high - rate], fmt="o-", capsize=3, label="student, images")
    axis.axhline(results[teacher].rate, color="tab:red", ls="--", lw=1, label=f"teacher: {teacher}, state")
    axis.set(xscale="log", xlabel="rollouts", ylabel="success rate [95 % interval]", ylim=(0, 1.02))
    axis.set_xticks(episodes, [str(n) for n in episodes])
    axis.minorticks_off()
    axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def main(cfg: DistillConfig) -> None:
    # ---- 1 run folder and logging
    start = starts.start_config(cfg.start)
    name = cfg.run.name or f"{cfg.preset}-distilled-{cfg.teacher}-seed{cfg.run.seed}"
    cfg = replace(cfg, run=replace(cfg.run, name=name))
    run = runs.start(cfg, "resip_assembly", "distill")

    # ---- 2 seeds
    seeding.seed_everything(cfg.run.seed)

    # ---- 3 data: the teacher's successful rollouts, and demonstrations
    rollouts = images("rollouts", cfg.teacher, max(cfg.episodes), cfg, start, run)
    shown = []
    if cfg.demonstrations:
        shown.append(images("demonstrations", "expert", cfg.demonstrations, cfg, start, run))

    # ---- 4 held-out episodes, the same as for every other policy
    held_out = pipeline.environments(start, cfg.eval.num_envs)
    results = report.Results(run.dir / "evaluations")
    if cfg.teacher not in results:
        teacher = agent(cfg.teacher, cfg, start, held_out, HELD_OUT)
        results[cfg.teacher] = evaluate(held_out, teacher, cfg.eval.episodes, HELD_OUT)

    # ---- 5 a student per amount of data: clone, then judge
    for n in sorted(cfg.episodes):
        name = f"student-{n}"
        if name in results:
            continue
        taught = image_data.joined([*shown, rollouts.first(n)])
        seeing = VisionAgent(student(taught, cfg, start, run.dir / name, run.resumed), held_out)
        results[name] = evaluate(held_out, seeing, cfg.eval.episodes, HELD_OUT)
        seeing.close()
        print(results.line(name), flush=True)
    held_out.close()

    # ---- 6 the table, the curve
    report.print_table(results, residual_ppo.Trained())
    curve = draw_curve(results, cfg.teacher, sorted(cfg.episodes), run.dir / "scaling.png")
    print(f"success over the number of rollouts: {os.path.relpath(curve)}")

    # ---- 7 manifest, last
    run.finish(results.metrics())


if __name__ == "__main__":
    words = [part for word in sys.argv[1:] for part in re.split(r"(?<=\d),(?=\d)", word)]  # 50,100 as 50 100
    try:
        main(config.parse(DistillConfig, DISTILL_PRESETS, default="small", args=words))
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C; the same command with --run.resume goes on")
    except FloatingPointError as error:  # cloning diverged: the message says which checkpoint is kept
        sys.exit(f"error: {error}")
    except (ValueError, RuntimeError) as error:  # a folder that does not fit, no OpenGL, a hopeless teacher
        config.refuse(str(error))
