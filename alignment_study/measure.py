"""How well does a model already know a task, and which RL shortcuts are then worth trying?

    python -m alignment_study.measure MODEL TASK [--samples 64 --problems 200 --data-dir DIR --out DIR]

MODEL is a hub id, a local folder, or smollm2 (the offline model); TASK is any name of `tasks.load_task`.
Prints pass@k with 95 % intervals over problems, strict and lenient, the contamination probe, and a verdict
(pass@16: strong from 0.8, weak up to 0.3). Writes measure.json, samples.jsonl (one row per sample) and
pass_at_k.png. Never trains.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from alignment_study import contamination, pass_at_k, sampling
from alignment_study.pass_at_k import VERDICT_K, Point
from alignment_study.sampling import Sample
from alignment_study.tasks import Task, check_golds, load_task
from shared import checkpoint, gpu, runs
from shared.config import refuse
from shared.pretrained import smollm2

# What the paper reports per verdict (sheet §1 and §5, tables A-C), and nothing beyond it.
ADVICE = {
    "strong": """Shortcuts that gained in the paper's strongly aligned settings, none as much as RL on the
correct reward (Qwen2.5-7B on MATH500: 40.8 before, 71.0 with it):
  - negative samples only: 68.7
  - one training example: 65.2
  - majority vote as the reward: 62.1
  - random reward with format gate: 57.5. It teaches the form: try the plain format reward first
  - incorrect reward with format gate: 57.0. Distrust it: as released, the code of this reward is the correct
    reward, and in this repository's pilot it inverted the policy on the family it trained on
A gain shows that the skill was there already; it is no evidence that the reward teaches.""",
    "weak": """The paper's weakly aligned settings give no reason to try a shortcut (Qwen2.5-7B on SynLogic:
1.5 before RL): majority vote 1.8, negative samples only 1.5, incorrect reward 0.0, one example no gain; the
10.2 of the random reward with format gate is probably the form being learnt. What worked:
  - RL on the correct reward: 42.6
  - positive samples only: 24.8
Choosing a better single example did not help either.""",
    "intermediate": """The paper bins its settings by eye and has none in between, so nothing of it carries
over untested. RL on the correct reward gained in all its settings; compare a shortcut with that.""",
}
SOURCE = "arXiv 2508.21188; numbers as relayed by a public reading note of its ICLR version"


@dataclass(frozen=True)
class Settings:
    """What to measure, and how (the paper's own n, temperature and top-p are not known)."""

    model: tyro.conf.Positional[str]  # hub id, local folder, or smollm2
    task: tyro.conf.Positional[str]  # a wrong name lists them
    samples: int = 64  # per problem
    problems: int = 200
    temperature: float = 1.0
    top_p: float = 1.0
    k: tuple[int, ...] = ()  # of pass@k; empty: 1, 2, 4, ... up to samples
    max_new_tokens: int | None = None  # of an answer; None: the task's own
    data_dir: str | None = None  # folder with local JSONL copies, instead of the hub
    revision: str | None = None  # of a hub model
    seed: int = 0
    out: Annotated[
        str | None, tyro.conf.arg(help="folder for the files; default runs/measure-MODEL-TASK")
    ] = None

    def check(self) -> None:
        """ValueError for numbers that do not fit; not in __post_init__, where tyro would reword it."""
        if self.samples < 1 or self.problems < 1:
            raise ValueError(f"--samples {self.samples} --problems {self.problems}: need at least 1 of both")
        if bad := [k for k in self.k if not 1 <= k <= self.samples]:
            raise ValueError(
                f"k={bad[0]} > n={self.samples} samples: pass@k needs 1 <= k <= n; use --samples {max(bad)} "
                "or a smaller --k"
                if bad[0] > 0
                else f"k={bad[0]}: pass@k needs k >= 1"
            )

    @property
    def ks(self) -> list[int]:
        return sorted({*(self.k or pass_at_k.grid(self.samples))})


@dataclass(frozen=True)
class Measurement:
    """Everything that is printed and written."""

    strict: list[Point]
    lenient: list[Point]
    chance: list[float] | None
    format_rate: float
    truncated: float
    failures: int
    effective_groups: float | None
    probes: list[contamination.Probe]
    verdict: str
    reason: str
    seconds: float


def measure(
    model: Any, tokenizer: Any, task: Task, settings: Settings
) -> tuple[Measurement, list[list[Sample]]]:
    """Sample, grade and probe; the second value holds every sample.

    Raises:
        ValueError: a k larger than `samples`, or gradings that all failed.
    """
    start = time.monotonic()
    rows = sampling.sample(
        model,
        tokenizer,
        task,
        samples=settings.samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
        title="sampling",
    )
    strict = [[s.strict for s in group] for group in rows]
    lenient = [[s.lenient for s in group] for group in rows]
    every = [s for group in rows for s in group]
    if settings.samples < VERDICT_K:
        verdict, reason = "none", f"the rule needs pass@{VERDICT_K}: use --samples {VERDICT_K} or more"
    else:
        (point,) = pass_at_k.curve(strict, [VERDICT_K], settings.seed)
        verdict, reason = pass_at_k.alignment(point)
        (other,) = pass_at_k.curve(lenient, [VERDICT_K], settings.seed)
        if (name := pass_at_k.alignment(other)[0]) != verdict:
            reason += f"; graded leniently it is {name} ({other.value:.3f}), so part of the distance is form"
    measured = Measurement(
        strict=pass_at_k.curve(strict, settings.ks, settings.seed),
        lenient=pass_at_k.curve(lenient, settings.ks, settings.seed),
        chance=[pass_at_k.chance(task.answer_space, k) for k in settings.ks] if task.answer_space else None,
        format_rate=sampling.mean(rows, "formatted"),
        truncated=sum(not s.finished for s in every) / len(every),
        failures=sum(s.strict is None for s in every),
        effective_groups=effective_groups(strict) if settings.samples >= VERDICT_K else None,
        probes=contamination.probe(model, tokenizer, task, title="probing"),
        verdict=verdict,
        reason=reason,
        seconds=time.monotonic() - start,
    )
    return measured, rows


def effective_groups(grades: list[list[bool | None]], group_size: int = VERDICT_K) -> float:
    """Share of groups of `group_size` samples with a right and a wrong one: only they have a gradient under a
    0/1 reward (§2.9, 1 - p^G - (1-p)^G), estimated without bias per problem."""
    shares = []
    for row in grades:
        n, c = sum(g is not None for g in row), sum(bool(g) for g in row)
        if n >= group_size:
            some_right = pass_at_k.pass_at_k(n, c, group_size)
            shares.append(some_right + pass_at_k.pass_at_k(n, n - c, group_size) - 1)
    return sum(shares) / len(shares) if shares else float("nan")


def show(measured: Measurement, task: Task, settings: Settings) -> None:
    """The tables and the verdict on stdout."""
    table = Table(
        title=f"pass@k of {settings.model} on {task.name}: {len(task.problems)} problems x "
        f"{settings.samples} samples, temperature {settings.temperature:g}, top-p {settings.top_p:g} "
        "[95 % over problems]"
    )
    chance = measured.chance or [None] * len(measured.strict)
    for column in ("k", "strict", "lenient", *(["guessing"] if measured.chance else [])):
        table.add_column(column, justify="right")
    for strict, lenient, guess in zip(measured.strict, measured.lenient, chance, strict=True):
        cells = [f"{p.value:.3f} [{p.low:.3f}, {p.high:.3f}]" for p in (strict, lenient)]
        table.add_row(str(strict.k), *cells, *([] if guess is None else [f"{guess:.3f}"]))
    probes = Table(title="contamination: greedy continuation of a part of each question [95 %]")
    for column in ("part given", "exact match", "ROUGE-L", "right answer"):
        probes.add_column(column, justify="right")
    for row in measured.probes:
        cells = [
            "{:.3f} [{:.3f}, {:.3f}]".format(*x) for x in (row.exact_match, row.rouge_l, row.answer_accuracy)
        ]
        probes.add_row(f"{row.share:.0%}", *cells)
    console = Console(width=None if Console().is_terminal else 110)
    console.print(table, probes)
    print(
        f"right form {measured.format_rate:.3f}, cut off {measured.truncated:.3f}, failed gradings "
        f"{measured.failures}"
    )
    if measured.effective_groups is not None:
        print(
            f"groups of {VERDICT_K} with a gradient under the correct reward, before dynamic sampling: "
            f"{measured.effective_groups:.3f}"
        )
    print(f"\nverdict: {measured.verdict}. {measured.reason}")
    if measured.verdict in ADVICE:
        print(f"\n{ADVICE[measured.verdict]}\n({SOURCE})")
    if measured.effective_groups == 0:
        print("No sample separates right from wrong here: RL on the correct reward has no signal either.")


def save(
    measured: Measurement, rows: list[list[Sample]], task: Task, settings: Settings, folder: Path
) -> None:
    """measure.json, samples.jsonl and pass_at_k.png in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(s), ensure_ascii=False) + "\n" for group in rows for s in group)
    checkpoint.write_text_atomic(folder / "samples.jsonl", "".join(lines))
    record = {"settings": asdict(settings), "task": task.name, "problems": len(task.problems)}
    record |= {"measurement": asdict(measured), "environment": runs.environment()}
    checkpoint.write_json_atomic(folder / "measure.json", checkpoint.plain(record))
    _plot(measured, f"{Path(settings.model).name} on {task.name}", folder / "pass_at_k.png")


def _plot(measured: Measurement, title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, points in (("strict", measured.strict), ("lenient", measured.lenient)):
        ks = [p.k for p in points]
        (line,) = axes.plot(ks, [p.value for p in points], marker="o", label=name)
        axes.fill_between(
            ks, [p.low for p in points], [p.high for p in points], color=line.get_color(), alpha=0.2
        )
    if measured.chance:
        axes.plot([p.k for p in measured.strict], measured.chance, color="grey", ls=":", label="guessing")
    for bound in (pass_at_k.STRONG, pass_at_k.WEAK):
        axes.axhline(bound, color="grey", lw=0.6)
    axes.set(xscale="log", xlabel="k", ylabel="pass@k [95 % over problems]", ylim=(-0.02, 1.02), title=title)
    axes.set_xticks([p.k for p in measured.strict], [str(p.k) for p in measured.strict])
    axes.minorticks_off()
    axes.legend()
    part = path.with_name(f".{path.name}.tmp")
    figure.savefig(part, format="png", dpi=150)
    part.replace(path)


def main(args: list[str] | None = None) -> None:
    """Measure one model on one task; bad input ends the process with one line."""
    try:
        settings = tyro.cli(Settings, args=args, description=__doc__)
        settings.check()
        split = "train" if settings.task == "deepscaler" else "test"
        task = load_task(
            settings.task, split=split, n=settings.problems, seed=settings.seed, data_dir=settings.data_dir
        )
        check_golds(task)
        if settings.max_new_tokens:
            task = replace(task, max_new_tokens=settings.max_new_tokens)
        name = smollm2() if settings.model == "smollm2" else settings.model
        model, tokenizer = gpu.load_causal_lm(name, revision=settings.revision)
        measured, rows = measure(model.to(gpu.device()).eval(), tokenizer, task, settings)
    except (ValueError, OSError, RuntimeError) as error:
        refuse(str(error))
    label = f"measure-{Path(settings.model).name}-{Path(settings.task).name.replace(':', '-')}"
    folder = Path(settings.out or runs.ROOT / "alignment_study" / "runs" / label)
    save(measured, rows, task, settings, folder)
    show(measured, task, settings)
    print(f"\n{measured.seconds:.0f} s; files: {folder}")


if __name__ == "__main__":
    main()
