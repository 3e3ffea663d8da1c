"""The runs behind RESULTS.md as data: arms x settings x data sets x seeds, block by block.

Every count of the reproduction stands here: sets, seeds, updates, test images, learning rates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from cls_rl import data_sets
from cls_rl.config import PRESETS, SHIPPED, Config
from cls_rl.rewards import Method
from shared import checkpoint, config

HERE = Path(__file__).resolve().parent
SCALE = "small"
SEEDS = (1, 2, 3)
MAIN_SETS = ("animals", "food")
ABLATED = "animals"  # the set of the ablations
SWEPT = "office"  # learning rates are chosen on this set, and nothing is judged on it
MATRIX_SEED = 1  # of the transfer matrix: from all sets of `data_sets.SETS` to each other and to `FAR`
STEPS = 60  # updates of every arm
LONGER = 3  # times as many of arm no_thinking_long
TEST_IMAGES = 480  # per test set, evenly over its drawings
CURVE_EVERY, CURVE_IMAGES = 10, 96  # held-out accuracy during the few-shot runs of the main sets
LIST_LENGTHS = (5, 12)  # besides the 24 names of few_shot (claim 3)

# Chosen by `reproduce.py --sweep`: equally many candidates per arm, on SWEPT, with seed 0.
RL_RATES, SFT_RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4), (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
LEARNING_RATES = {"sft_completion": 3e-4, "sft_full_text": 1e-5, "thinking": 3e-5, "no_thinking": 1e-5}

Kind = Literal["train", "zero", "lists", "transfer", "empty"]
Block = Literal["zero", "few_shot", "base_to_new", "empty", "lists", "ablations", "matrix"]


@dataclass(frozen=True)
class Arm:
    """One way to tune: the method whose prompt is used in training and testing, and options of train.py."""

    row: str
    title: str
    method: Method
    options: tuple[str, ...] = ()
    rate_of: str = ""  # the arm whose learning rate it has; "" is its own

    @property
    def learning_rate(self) -> float:
        return LEARNING_RATES[self.rate_of or self.row]

    @property
    def supervised(self) -> bool:
        return self.row.startswith("sft_")


def _variant(row: str, title: str, of: Literal["thinking", "no_thinking"], *options: str) -> Arm:
    return Arm(row, title, of, options, of)


MAIN = (
    Arm("sft_completion", "SFT, completion loss", "no_thinking", ("--algo.objective", "sft_completion")),
    Arm("sft_full_text", "SFT, full-text loss", "thinking", ("--algo.objective", "sft_full_text")),
    Arm("thinking", "Thinking (CLS-RL)", "thinking"),
    Arm("no_thinking", "No-Thinking", "no_thinking"),
)
ABLATIONS = (
    Arm("answer_first", "Think-After-Answer", "answer_first", rate_of="thinking"),
    Arm("adaptive", "Adaptive-Thinking", "adaptive", rate_of="thinking"),
    _variant("thinking_bnpo", "Thinking, mean over tokens", "thinking", "--algo.loss", "bnpo"),
    _variant("thinking_kl0", "Thinking, no KL", "thinking", "--algo.beta", "0"),
    _variant("no_thinking_kl0", "No-Thinking, no KL", "no_thinking", "--algo.beta", "0"),
    _variant(
        "no_thinking_long",
        f"No-Thinking, {LONGER} x the updates",
        "no_thinking",
        "--algo.steps",
        str(LONGER * STEPS),
    ),
)
EXPLAINING = ("no_thinking", "no_thinking_kl0", "no_thinking_long")  # tested on every set: does KL matter?
TUNED = {arm.row: arm for arm in (*MAIN, *ABLATIONS)}
ZERO: dict[Method, str] = {"thinking": "zero_thinking", "no_thinking": "zero_no_thinking"}
EMPTY = "empty_thought"
TITLES = {
    "zero_thinking": "before tuning, thinking prompt",
    "zero_no_thinking": "before tuning, direct prompt",
    **{arm.row: arm.title for arm in MAIN},
    EMPTY: "Thinking, empty thought at inference",
    **{arm.row: arm.title for arm in ABLATIONS},
}


@dataclass(frozen=True)
class Job:
    """One script in a run folder. `data_set` is "all" where the untuned model answers several sets."""

    kind: Kind
    arm: str  # of TITLES; of LISTS none
    setting: str  # few_shot, base_to_new, or lists_<names>
    data_set: str
    seed: int
    rate: float | None = None  # of the sweep

    @property
    def row(self) -> str:
        words = ["cls_rl", self.setting, self.data_set, self.arm]
        words += [f"{self.rate:g}"] if self.rate else []
        return "/".join(words + (["transfer"] if self.kind == "transfer" else []))

    @property
    def script(self) -> str:
        return {"train": "train.py", "lists": "list_lengths.py"}.get(self.kind, "transfer.py")

    @cached_property
    def start(self) -> Job | None:
        """The job that must be finished before."""
        if self.kind in ("transfer", "empty"):
            tuned = "thinking" if self.kind == "empty" else self.arm
            return replace(self, kind="train", arm=tuned)
        if self.kind == "train" and self.setting.startswith("lists_"):
            return replace(self, kind="lists", arm="lists")
        return None

    @cached_property
    def arguments(self) -> list[str]:
        """Of the script, but for seed and folder."""
        if self.kind == "lists":
            names = self.setting.removeprefix("lists_")
            return [self.data_set, "--names", names, "--images", str(TEST_IMAGES)]
        words = ["--preset", SCALE, "--eval.images", str(TEST_IMAGES)]
        if self.kind == "train":
            return [*words, *self._training()]
        method = next((m for m, row in ZERO.items() if row == self.arm), None)
        method = method or ("thinking" if self.kind == "empty" else TUNED[self.arm].method)
        model = self.start.folder / "model" if self.start else None
        words += ["--model.name", str(model.relative_to(HERE)) if model else SHIPPED]
        words += ["--algo.method", method, "--data.setting", self.setting]
        words += ["--eval.empty-thought"] if self.kind == "empty" else []
        return [*words, "--sets", *self.tested]

    def _training(self) -> list[str]:
        arm = TUNED[self.arm]
        if self.start is None:
            words = ["--data.set", self.data_set, "--data.setting", self.setting]
        else:
            words = ["--data.source", "folder", "--data.set", str(self.start.folder.relative_to(HERE))]
        words += ["--algo.method", arm.method, "--algo.lr", f"{self.rate or arm.learning_rate:g}"]
        words += ["--algo.steps", str(STEPS), *arm.options, "--eval.no-before"]
        curve = self.setting == "few_shot" and self.data_set in MAIN_SETS
        words += ["--eval.every", str(CURVE_EVERY if curve else 0), "--eval.curve-images", str(CURVE_IMAGES)]
        return words

    @property
    def tested(self) -> list[str]:
        """Data sets that the final model answers."""
        if self.data_set == "all":
            return list(data_sets.SETS if self.setting == "few_shot" else MAIN_SETS)
        if self.kind == "transfer":
            return [name for name in data_sets.ALL if name != self.data_set]
        return [self.data_set]

    @property
    def stem(self) -> str:
        """Row and seed as a file name."""
        return f"{self.row.removeprefix('cls_rl/').replace('/', '-')}-seed{self.seed}"

    @cached_property
    def name(self) -> str:
        """Ends in a digest of settings, seed and shipped model, so that no folder holds another run."""
        words = [*self.arguments, str(self.seed), config.config_hash(PRESETS[SCALE]), _shipped()]
        digest = hashlib.sha256(" ".join(words).encode()).hexdigest()[:6]
        return f"{self.stem}-{digest}"

    @property
    def folder(self) -> Path:
        return HERE / "runs" / "reproduce" / self.name

    @property
    def options(self) -> list[str]:
        """All arguments of the script, relative to the package folder."""
        out = str(self.folder.relative_to(HERE))
        if self.kind == "lists":
            return [*self.arguments, "--seed", str(self.seed), "--out", out]
        return ["--run.seed", str(self.seed), "--run.output-dir", out, *self.arguments]

    @property
    def command(self) -> str:
        return " ".join([f"cd cls_rl && python {self.script}", *self.options])

    @property
    def config(self) -> Config:
        """What train.py or transfer.py will run; an option that it does not know ends the process."""
        words = self.options
        return config.parse(
            Config, PRESETS, args=words[: words.index("--sets")] if "--sets" in words else words
        )

    def done(self) -> bool:
        return (self.folder / ("split.json" if self.kind == "lists" else "manifest.json")).is_file()


def _shipped() -> str:
    """Sizes and hashes of the files that every run starts from; nothing before they are shipped."""
    marker = HERE / "checkpoint" / checkpoint.MARKER
    return marker.read_text(encoding="utf-8") if marker.is_file() else ""


def blocks() -> dict[Block, list[Job]]:
    """All runs in the order in which they run: a start before what needs it, the main claims first."""
    few_shot = _grid("few_shot", MAIN_SETS)
    long_lists = [arm for arm in MAIN if arm.supervised]
    lists = [
        Job("train", arm.row, f"lists_{n}", ABLATED, seed)
        for n in LIST_LENGTHS for seed in SEEDS for arm in long_lists
    ]  # fmt: skip
    ablations = [Job("train", arm.row, "few_shot", ABLATED, seed) for arm in ABLATIONS for seed in SEEDS]
    tuned = [
        Job("train", row, "few_shot", name, MATRIX_SEED)
        for name in data_sets.SETS for row in ZERO
    ]  # fmt: skip
    far = [Job("zero", row, "few_shot", name, MATRIX_SEED) for name in data_sets.FAR for row in ZERO.values()]
    explaining = [Job("train", row, "few_shot", ABLATED, seed) for row in EXPLAINING for seed in SEEDS]
    return {
        "zero": [
            Job("zero", row, setting, "all", seed)
            for setting in ("few_shot", "base_to_new") for seed in SEEDS for row in ZERO.values()
        ],
        "few_shot": few_shot,
        "base_to_new": _grid("base_to_new", MAIN_SETS),
        "empty": [replace(j, kind="empty", arm=EMPTY) for j in few_shot if j.arm == "thinking"],
        "lists": _with_starts(lists),
        "ablations": ablations,
        "matrix": _unique([*far, *tuned, *(replace(job, kind="transfer") for job in [*tuned, *explaining])]),
    }  # fmt: skip


def _grid(setting: str, names: Iterable[str]) -> list[Job]:
    return [Job("train", arm.row, setting, name, seed) for name in names for seed in SEEDS for arm in MAIN]


def _with_starts(planned: list[Job]) -> list[Job]:
    return _unique([*(job.start for job in planned if job.start is not None), *planned])


def _unique(planned: Iterable[Job]) -> list[Job]:
    return list(dict.fromkeys(planned))


def jobs(wanted: Iterable[Block] = ()) -> list[Job]:
    """All runs of the wanted blocks (none named: of all), each once."""
    found = blocks()
    return _unique([job for name in found if not wanted or name in set(wanted) for job in found[name]])


def sweep() -> list[Job]:
    """Every learning rate of every main arm, on SWEPT with seed 0."""
    return [
        Job("train", arm.row, "few_shot", SWEPT, 0, rate)
        for arm in MAIN for rate in (SFT_RATES if arm.supervised else RL_RATES)
    ]  # fmt: skip
