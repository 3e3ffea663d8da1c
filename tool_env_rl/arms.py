"""The rows of RESULTS.md as data: which script runs with which options, and what it waits for (sheet §7.8).

Everything that sets how long a reproduction takes is here and in the preset `small`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from shared import config
from tool_env_rl.config import PRESETS, Config

HERE = Path(__file__).resolve().parent
SCALE = "small"
SEEDS = (1, 2, 3)
SPARE_SEEDS = (4, 5, 6)  # take the place, in order, of seeds whose base model does not meet the gate
LEVEL_ENVIRONMENTS = 100  # per complexity level, for the base model
OPTIONAL = ("unscaled", "one_scenario", "multi_turn", "thinking_grpo")  # run where named; no claim needs them
# Seconds on one thread beside another process, from recorded runs; only for the plan.
SECONDS = {"controls": 40, "base": 1000, "train": 260, "layers": 140}
LONGER = {"multi_turn": 3.0, "thinking_grpo": 1.5}  # times SECONDS["train"]

Kind = Literal["controls", "base", "train", "layers"]


@dataclass(frozen=True)
class Arm:
    """One row: a base model, or RL from one. `options` is what differs from plain GRPO with the F1 reward."""

    row: str
    title: str
    options: tuple[str, ...] = ()
    base: str | None = "base"  # the row that RL starts from; None: this is a base model


# Thoughts need room. The gate is reported, not enforced: this base answers claim 8 as it is.
THINKING = (
    "--model.thinking",
    "True",
    "--data.max-prompt-tokens",
    "320",
    "--algo.max-completion-tokens",
    "64",
)
REWARDS = {"precision": "q / p", "rate": "q", "pr": "q² / p"}

# In the order in which they run: the claims' main rows first, and a base model well before what needs it.
ARMS = (
    Arm("base", "base model", base=None),
    Arm("grpo", "GRPO, 2q / (p + 1)"),
    Arm("reinforce_pp", "Reinforce++, 2q / (p + 1)", ("--algo.algorithm", "reinforce_pp")),
    Arm("random", "control: GRPO, random reward", ("--algo.random-reward",)),
    *(Arm(kind, f"GRPO, {title}", ("--algo.reward", kind)) for kind, title in REWARDS.items()),
    Arm("unscaled", "GRPO without complexity scaling (L0)", ("--data.levels", "0")),
    Arm("one_scenario", "GRPO on single-hop questions only", ("--data.scenarios", "single_hop")),
    Arm("thinking_base", "base model that thinks", (*THINKING, "--base.gate", "report"), base=None),
    Arm("multi_turn", "GRPO end to end, whole episodes", ("--algo.mode", "multi_turn")),
    Arm("thinking_grpo", "GRPO, thinking", THINKING, base="thinking_base"),
)
TITLES = {arm.row: arm.title for arm in ARMS}
TRAINED = tuple(arm.row for arm in ARMS if arm.base)


def arm(row: str) -> Arm:
    """The arm of that name."""
    return next(a for a in ARMS if a.row == row)


@dataclass(frozen=True)
class Job:
    """One process. `row` is an arm, "controls" (scripted policies) or "layers" (what RL changed, claim 7)."""

    row: str
    seed: int

    @property
    def kind(self) -> Kind:
        if self.row in ("controls", "layers"):
            return self.row  # type: ignore[return-value]
        return "train" if arm(self.row).base else "base"

    @property
    def name(self) -> str:
        return f"{self.row}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return HERE / "runs" / "reproduce" / self.name

    @property
    def output(self) -> Path:
        """The file that is there when the job is done."""
        names: dict[Kind, str] = {"train": "manifest.json", "layers": "layers.json"}
        return self.folder / names.get(self.kind, f"{self._rows}-{SCALE}.jsonl")

    @property
    def _rows(self) -> str:
        return "controls" if self.kind == "controls" else "episodes"

    @property
    def episodes(self) -> Path:
        """One line per episode of the job."""
        return self.folder / "episodes-after.jsonl" if self.kind == "train" else self.output

    @property
    def options(self) -> list[str]:
        """The config, relative to the package folder."""
        words = ["--preset", SCALE]
        if self.row == "base":
            words += ["--eval.levels", str(LEVEL_ENVIRONMENTS), "--eval.repeat"]
        if self.kind == "train":  # the base model has been measured by its own job
            words += ["--base.gate", "off", "--eval.no-before"]
        words += arm(self.row).options if self.kind in ("base", "train") else ()
        return [*words, "--run.seed", str(self.seed), "--run.output-dir", str(self.folder.relative_to(HERE))]

    @property
    def arguments(self) -> list[str]:
        """Of python, in the package folder."""
        script = {"controls": ["eval.py", "--controls"], "base": ["eval.py", "base"], "train": ["train.py"]}
        return [*script.get(self.kind, ["grafting.py"]), *self.options]

    @property
    def command(self) -> str:
        return " ".join(["cd tool_env_rl && python", *self.arguments])

    @property
    def config(self) -> Config:
        """What the script will run; an option that it does not know ends the process."""
        return _parsed(tuple(self.options))

    @property
    def seconds(self) -> float:
        """Guessed, for the plan."""
        return SECONDS[self.kind] * LONGER.get(self.row, 1.0)

    def done(self) -> bool:
        return self.output.is_file() and not self.stale()

    def stale(self) -> bool:
        """Whether the folder holds a run with other settings."""
        path = self.folder / "config.json"
        if not path.exists():
            return False
        there = config.flatten(json.loads(path.read_text(encoding="utf-8")))
        now = config.flatten(config.to_dict(self.config))
        return any(there.get(key) != now.get(key) for key in there | now if not key.startswith("run."))


@cache
def _parsed(options: tuple[str, ...]) -> Config:
    # Kept: tyro is not safe in threads, so reproduce.py asks for every job's config before it starts any.
    return config.parse(Config, PRESETS, args=list(options))


CONTROLS = Job("controls", 0)


def base_jobs(seeds: tuple[int, ...]) -> list[Job]:
    """The base models that everything else starts from."""
    return [Job("base", seed) for seed in seeds]


def jobs(seeds: tuple[int, ...]) -> list[Job]:
    """All that waits for the base models, arm by arm; then what waits for these."""
    return [CONTROLS, *(Job(a.row, seed) for a in ARMS if a.row != "base" for seed in seeds)]


def layer_jobs(seeds: tuple[int, ...]) -> list[Job]:
    """Comparison of GRPO's weights with the base model's, scaled by the random-reward run's."""
    return [Job("layers", seed) for seed in seeds]


def compared(layers: Job) -> list[Job]:
    """The runs whose weights a layers job reads."""
    return [Job(row, layers.seed) for row in ("grpo", "random")]
