"""The rows of RESULTS.md as data: which script runs with which options, and from what it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from resip_assembly.config import (
    BASELINE_PRESETS,
    IMITATION_PRESETS,
    PRESETS,
    BaselineConfig,
    Config,
    ImitationConfig,
)
from resip_assembly.distill_config import DISTILL_PRESETS, DistillConfig
from shared import config

HERE = Path(__file__).resolve().parent
SCALE = "small"  # the preset of every arm; a paper-sized row is one command of train.py
SEEDS = (1, 2, 3)
# train.py's options for each task: demonstrations and updates that put the base of seed 0 at 30 to 70 %.
TASKS: dict[str, tuple[str, ...]] = {
    "peg_in_hole": (),
    "one_leg": ("--demos.episodes", "50", "--clone.updates", "2500", "--ppo.iterations", "80"),
}
PEG = ("peg_in_hole",)  # arms for which two tasks would take too long
SEEN = ("one_leg",)  # of students that see: the paper's task for its claim 8; the peg is beyond such images


@dataclass(frozen=True)
class Arm:
    """One training run per task and seed, and the policies that it judges."""

    row: str
    script: Literal["train", "baseline", "imitation", "distill"]
    options: tuple[str, ...]
    judged: tuple[tuple[str, str], ...]  # (evaluation of the run, policy)
    start: str | None = None  # the arm whose run it starts from
    trained: str | None = None  # the policy whose environment steps count
    tasks: tuple[str, ...] = tuple(TASKS)


BC = ("--ppo.iterations", "0")
MLP = (*BC, "--base.kind", "mlp", "--base.widths", "256")
MLP_S = (*MLP, "--base.predict", "1", "--base.execute", "1", "--clone.pad-after", "0")
MLP_C = (*MLP, "--base.predict", "8", "--base.execute", "8", "--clone.pad-after", "7")
SHORTER = tuple((f"base_{k}", f"dp_{k}") for k in (1, 2, 4))

POLICIES = {  # titles, in the tables' order
    "expert": "scripted expert (the demonstrator)",
    "mlp_s": "IL: MLP-S",
    "mlp_c": "IL: MLP-C",
    "dp": "IL: DP, the frozen base",
    "dp_4": "DP, executing 4 of its steps",
    "dp_2": "DP, executing 2",
    "dp_1": "DP, executing 1",
    "mlp_c_ppo": "RL: MLP-C + PPO",
    "dppo": "RL: DPPO",
    "rerank": "RL: DP + value re-ranking",
    "resip": "**ResiP**",
    "resip_plain": "ResiP, plain observations",
    "resip_held": "ResiP, residual held per chunk",
    "student_demos_200": "student of 200 demonstrations",
    "student_demos_1000": "student of 1,000 demonstrations",
    "student_demos_5000": "student of 5,000 demonstrations",
    "student_base": "student of 200 base rollouts",
    "student_residual": "student of 200 ResiP rollouts",
    "dagger": "DAgger, 200 episodes, ResiP teaches",
    "vision_residual_50": "student that sees, 50 ResiP rollouts",
    "vision_residual_100": "student that sees, 100 ResiP rollouts",
    "vision_residual_200": "student that sees, 200 ResiP rollouts",
    "vision_demos_200": "student that sees, 200 demonstrations",
    "vision_base_200": "student that sees, 200 base rollouts",
    "dp_med": "DP, initial spread doubled",
    "resip_med": "ResiP, initial spread doubled",
}


def _student(data: str, episodes: int, start: str, updates: int | None = None, row: str = "") -> Arm:
    row = row or f"student_{data}"
    options = ("--data", data, "--episodes", str(episodes))
    options += ("--updates", str(updates)) if updates else ()
    return Arm(row, "imitation", options, (("student", row),), start)


def _seeing(row: str, teacher: str, start: str, *episodes: int) -> Arm:
    """Students of rendered rollouts, judged on the episodes of every other policy."""
    options = ("--teacher", teacher, "--episodes", *map(str, episodes), "--eval.episodes", "256")
    judged = tuple((f"student-{n}", f"{row}_{n}") for n in episodes)
    return Arm(row, "distill", options, judged, start, tasks=SEEN)


def _on_peg(row: str, options: tuple[str, ...]) -> Arm:
    """An ablation of ResiP on one task."""
    return Arm(row, "train", options, (("residual", row),), "dp", row, PEG)


# In the order in which they run: a start before what starts from it, the main rows before the ablations.
ARMS = (
    Arm(
        "dp",
        "train",
        (*BC, "--eval.execute", "1", "2", "4"),
        (("expert", "expert"), ("base", "dp"), *SHORTER),
    ),
    Arm("resip", "train", (), (("residual", "resip"),), "dp", "resip"),
    Arm("mlp_c", "train", MLP_C, (("base", "mlp_c"),)),
    Arm("mlp_s", "train", MLP_S, (("base", "mlp_s"),)),
    Arm("mlp_c_ppo", "baseline", ("--kind", "mlp_ppo"), (("mlp_ppo", "mlp_c_ppo"),), "mlp_c", "mlp_c_ppo"),
    _student("residual", 200, "resip"),
    _student("demos", 200, "dp", row="student_demos_200"),
    _student("base", 200, "dp"),
    _on_peg("resip_held", ("--ppo.hold-residual",)),
    _on_peg("resip_plain", ("--no-features",)),
    Arm("dppo", "baseline", ("--kind", "dppo"), (("dppo", "dppo"),), "dp", "dppo", PEG),
    Arm("rerank", "baseline", ("--kind", "rerank"), (("rerank", "rerank"),), "dp", "rerank", PEG),
    Arm(
        "resip_med",
        "train",
        ("--sim.randomness", "med"),
        (("base", "dp_med"), ("residual", "resip_med")),
        trained="resip_med",
        tasks=PEG,
    ),
    replace(_student("demos", 1000, "dp", 6000, "student_demos_1000"), tasks=PEG),
    replace(_student("demos", 5000, "dp", 6000, "student_demos_5000"), tasks=PEG),
    replace(_student("dagger", 200, "resip", row="dagger"), tasks=PEG),
    _seeing("vision_residual", "residual", "resip", 50, 100, 200),
    _seeing("vision_demos", "expert", "resip", 200),
    _seeing("vision_base", "base", "resip", 200),
)


@dataclass(frozen=True)
class Job:
    """One run of one script."""

    arm: Arm
    task: str
    seed: int

    @property
    def row(self) -> str:
        return f"resip_assembly/{self.task}/{self.arm.row}"

    @property
    def name(self) -> str:
        return f"{self.task}-{self.arm.row}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return HERE / "runs" / "reproduce" / self.name

    @property
    def start(self) -> Job | None:
        """The run that this one waits for."""
        if self.arm.start is None:
            return None
        return replace(self, arm=next(arm for arm in ARMS if arm.row == self.arm.start))

    @property
    def options(self) -> list[str]:
        """Arguments of the script, relative to the package folder; one thread, as a worker has one core."""
        words = ["--preset", SCALE]
        if self.arm.script == "train":
            words += ["--sim.task", self.task, "--sim.threads", "1", "--eval.no-video", *TASKS[self.task]]
        words += self.arm.options
        if self.arm.script == "baseline":  # the residual's number of iterations: equal environment steps
            words += ["--loop.iterations", str(residual_config(self.task).ppo.iterations)]
        if self.start is not None:
            words += ["--start", str(self.start.folder.relative_to(HERE))]
        words += ["--run.seed", str(self.seed), "--run.output-dir", str(self.folder.relative_to(HERE))]
        return words

    @property
    def command(self) -> str:
        return " ".join([f"cd resip_assembly && python {self.arm.script}.py", *self.options])

    @property
    def config(self) -> Config | BaselineConfig | ImitationConfig | DistillConfig:
        """What the script will run; an option that it does not know ends the process."""
        if self.arm.script == "train":
            return config.parse(Config, PRESETS, args=self.options)
        if self.arm.script == "baseline":
            return config.parse(BaselineConfig, BASELINE_PRESETS, args=self.options)
        if self.arm.script == "distill":
            return config.parse(DistillConfig, DISTILL_PRESETS, args=self.options)
        return config.parse(ImitationConfig, IMITATION_PRESETS, args=self.options)

    @property
    def env_steps(self) -> int:
        """Environment steps of training with rewards."""
        if self.arm.trained is None:
            return 0
        cfg = residual_config(self.task)
        return cfg.sim.num_envs * cfg.ppo.rollout_steps * cfg.ppo.iterations

    def done(self) -> bool:
        return (self.folder / "manifest.json").is_file()


def residual_config(task: str) -> Config:
    """Of arm resip."""
    return config.parse(Config, PRESETS, args=["--preset", SCALE, "--sim.task", task, *TASKS[task]])


def jobs() -> list[Job]:
    """All runs, arm by arm."""
    return [Job(arm, task, seed) for arm in ARMS for seed in SEEDS for task in arm.tasks]
