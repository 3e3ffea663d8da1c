"""The rows of RESULTS.md as data: variants x family trained on x world x seed (sheet §7.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignment_study.config import PRESETS, Config
from alignment_study.evidence import ROLES, Role
from alignment_study.families import WORLDS, WorldName
from shared import config

HERE = Path(__file__).resolve().parent
SCALE = "small"
SEEDS = (1, 2, 3)
SPARE_SEEDS = (4, 5, 6)  # take the place, in order, of seeds whose base model does not meet the gate
TRAINED: tuple[Role, ...] = ("aligned", "weak")
MIN_ITEMS, MIN_SAMPLES = 128, 16  # per cell


@dataclass(frozen=True)
class Variant:
    """One way to reward or select: what differs from ground truth, as options of train.py."""

    row: str
    title: str
    options: tuple[str, ...] = ()
    # As the study has it, it works where the model is aligned only: a gain there, none where it is weak.
    trick: bool = False


def _one_shot(row: str, title: str, how: str) -> Variant:
    return Variant(row, title, ("--algo.samples", "one_shot", "--algo.selection", how), trick=True)


# In the order in which they run: without ground truth nothing can be judged.
VARIANTS = (
    Variant("ground_truth", "ground truth"),
    Variant("random", "random, format-gated", ("--algo.reward", "random"), trick=True),
    Variant("negative", "negative samples only (NSR)", ("--algo.samples", "negative"), trick=True),
    Variant("positive", "positive samples only (PSR)", ("--algo.samples", "positive")),
    Variant("majority", "majority vote (TTRL)", ("--algo.reward", "majority"), trick=True),
    _one_shot("one_shot", "one-shot, selected", "near_half"),
    Variant("incorrect", "incorrect, format-gated", ("--algo.reward", "incorrect"), trick=True),
    Variant("format", "format", ("--algo.reward", "format"), trick=True),
    Variant("entropy", "entropy minimisation", ("--algo.reward", "entropy"), trick=True),
    _one_shot("one_shot_random", "one-shot, random", "random"),
    Variant("random_ungated", "control: random, not gated", ("--algo.reward", "random_ungated")),
    Variant("no_dynamic", "control: ground truth, no dynamic sampling", ("--algo.no-dynamic-sampling",)),
)
TITLES = {variant.row: variant.title for variant in VARIANTS}
TRICKS = tuple(variant.row for variant in VARIANTS if variant.trick)


def variant(row: str) -> Variant:
    """The variant of that name."""
    return next(v for v in VARIANTS if v.row == row)


def family(world: WorldName, role: Role) -> str:
    """The task that plays a role in a world."""
    return getattr(WORLDS[world], role)


@dataclass(frozen=True)
class Base:
    """Pre-training of a world's base model: `model/` meets the gate, later checkpoints are the dial."""

    world: WorldName
    seed: int

    @property
    def name(self) -> str:
        return f"base-{self.world}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Where train.py looks for it too."""
        return HERE / "runs" / self.name

    @property
    def arguments(self) -> list[str]:
        """Of python, in the package folder."""
        words = ["pretrain.py", "--world", self.world, "--seed", str(self.seed)]
        return [*words, "--out", str(self.folder.relative_to(HERE))]

    @property
    def command(self) -> str:
        return " ".join(["cd alignment_study && python", *self.arguments])


@dataclass(frozen=True)
class Job:
    """One RL run. `start` is a folder of the base: `model`, or a later checkpoint for the dial."""

    variant: Variant
    world: WorldName
    trained: Role
    seed: int
    start: str = "model"

    @property
    def dial(self) -> bool:
        """Whether this is a run of the dose-response curve."""
        return self.start != "model"

    @property
    def base(self) -> Base:
        return Base(self.world, self.seed)

    @property
    def row(self) -> str:
        where = (self.world, self.trained, *([self.start] if self.dial else []))
        return "/".join(("alignment_study", *where, self.variant.row))

    @property
    def name(self) -> str:
        return f"{self.row.removeprefix('alignment_study/').replace('/', '-')}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return HERE / "runs" / "reproduce" / self.name

    @property
    def roles(self) -> tuple[Role, ...]:
        """Evaluated on all three families; on the dial only on the one trained on."""
        return (self.trained,) if self.dial else ROLES

    @property
    def options(self) -> list[str]:
        """Arguments of train.py, relative to the package folder."""
        words = ["--preset", SCALE, "--world", self.world]
        words += ["--base", str((self.base.folder / self.start).relative_to(HERE))]
        words += ["--train-family", family(self.world, self.trained), *self.variant.options]
        words += ["--eval.tasks", *(family(self.world, role) for role in self.roles)]
        words += ["--eval.problems", str(MIN_ITEMS), "--eval.samples", str(MIN_SAMPLES)]
        return [*words, "--run.seed", str(self.seed), "--run.output-dir", str(self.folder.relative_to(HERE))]

    @property
    def arguments(self) -> list[str]:
        """Of python, in the package folder; a run that was stopped goes on."""
        resume = ["--run.resume"] if (self.folder / "config.json").exists() else []
        return ["train.py", *self.options, *resume]

    @property
    def command(self) -> str:
        return " ".join(["cd alignment_study && python train.py", *self.options])

    @property
    def config(self) -> Config:
        """What the script will run; an option that it does not know ends the process."""
        return config.parse(Config, PRESETS, args=self.options)

    def done(self) -> bool:
        return (self.folder / "manifest.json").is_file()


def jobs(world: WorldName, seeds: tuple[int, ...] = SEEDS) -> list[Job]:
    """All runs of a world, variant by variant."""
    return [Job(v, world, trained, seed) for v in VARIANTS for seed in seeds for trained in TRAINED]
