"""The problems of a run: what is trained on, what is tested on, and that the two never meet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignment_study import kor_bench, one_shot, sampling, verifiers
from alignment_study.config import Config
from alignment_study.families import Split
from alignment_study.rewards import Verify
from alignment_study.sources import SETS
from alignment_study.tasks import Problem, Task, check_golds, load_task
from shared import checkpoint
from shared.seeding import derive_seed

EVERYTHING = 10**7
EXAMPLE_FILE = "one_shot.json"
TEST_SEED = 0  # all seeds and arms answer the same test problems


def training_task(cfg: Config, name: str) -> Task:
    """The training problems of a task, golds checked.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as `load_task` and `check_golds`, or fewer problems
            than the groups of a step.
    """
    task = _load(cfg, name, "train", cfg.data.train_problems, cfg.run.seed)
    if (found := len(task.problems)) < cfg.algo.prompts_per_step and cfg.algo.samples != "one_shot":
        raise ValueError(
            f"{name} has {found} training problems, fewer than the algo.prompts_per_step="
            f"{cfg.algo.prompts_per_step} groups of a step; lower that or bring more problems"
        )
    return task


def evaluation_tasks(cfg: Config) -> dict[str, Task]:
    """Name -> the test problems of every evaluated task, golds checked; the same for every seed and arm."""
    return {name: _load(cfg, name, "test", cfg.eval.problems, TEST_SEED) for name in cfg.tasks}


def reward_verifier(task: Task, *, released: bool) -> Verify | None:
    """What the reward grades with; None, equality, is what the authors' math reward has (`released`)."""
    return None if released and task.verify is verifiers.mathematics else task.verify


def slug(name: str) -> str:
    """A task's name in file names: rg:chain_sum is rg-chain_sum, a JSONL file its stem."""
    return Path(name).name.removesuffix(".jsonl").replace(":", "-")


# ---- one-shot RL


@dataclass(frozen=True)
class Example:
    """The only training problem, and the base model's accuracy on it (None: chosen by its history)."""

    id: str
    subtask: str
    accuracy: float | None
    how: str
    prompt: str


def one_shot_copies(cfg: Config, task: Task, model: Any, tokenizer: Any, folder: Path) -> list[Problem]:
    """A step's copies of the selected problem (RQ2); which one it is goes to `folder`/one_shot.json.

    Raises:
        ValueError: a history that cannot be read, or that knows none of the problems.
    """
    algo, by_id = cfg.algo, {p.id: p for p in task.problems}
    path = folder / EXAMPLE_FILE
    if path.exists():
        chosen = json.loads(path.read_text(encoding="utf-8"))["id"]
    else:
        if algo.history:
            history = _history(Path(algo.history).expanduser(), by_id)
        else:
            history = _base_accuracies(cfg, task, model, tokenizer)
        chosen = one_shot.select(history, algo.selection, cfg.run.seed)
        accuracy = None if algo.history else history[chosen][0]
        found = Example(chosen, by_id[chosen].subtask, accuracy, algo.selection, by_id[chosen].prompt)
        checkpoint.write_json_atomic(path, vars(found))
    return one_shot.copies(by_id[chosen], algo.prompts_per_step)


def _base_accuracies(cfg: Config, task: Task, model: Any, tokenizer: Any) -> dict[str, list[float]]:
    """The base's accuracy on `algo.candidates` training problems, a group of answers each."""
    order = sorted(task.problems, key=lambda p: derive_seed(cfg.run.seed, "candidates", p.id))
    some = replace(task, problems=tuple(order[: cfg.algo.candidates]))
    groups = sampling.sample(
        model,
        tokenizer,
        some,
        samples=cfg.algo.group_size,
        temperature=cfg.algo.temperature,
        top_p=cfg.algo.top_p,
        seed=derive_seed(cfg.run.seed, "candidates"),
        title="measuring candidates",
    )
    return {group[0].problem: [sampling.mean([group])] for group in groups}


def _history(path: Path, known: Mapping[str, Problem]) -> dict[str, list[float]]:
    try:
        history = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read algo.history={path} ({error}); give a run's history.json") from error
    if not (found := {name: past for name, past in history.items() if name in known}):
        raise ValueError(f"{path} knows none of the training problems; give one of a run on this family")
    return found


def _load(cfg: Config, name: str, split: Split, n: int, seed: int) -> Task:
    where = name
    if name.endswith(".jsonl") and cfg.data.data_dir:
        where = str(Path(cfg.data.data_dir).expanduser() / name)
    both: tuple[Split, Split] = ("train", "test")
    tests_only = name.endswith(".jsonl") or name in kor_bench.TASKS
    sides: list[Split] = ["test"] if tests_only else list(SETS.get(name, both))
    used_twice = name in (cfg.aligned, cfg.weak, cfg.train_family) and name in cfg.tasks
    divide = len(sides) == 1 and used_twice
    source = split if split in sides else sides[0]
    count = EVERYTHING if divide else n
    task = load_task(where, split=source, n=count, seed=seed, data_dir=cfg.data.data_dir)
    if divide:  # no split of its own: a hash of the question sends 20 % to the test side
        mine = [p for p in task.problems if _is_test(p) == (split == "test")]
        mine.sort(key=lambda p: derive_seed(seed, "pick", p.id))
        task = replace(task, split=split, problems=tuple(mine[:n]))
        if not mine:
            raise ValueError(f"{name} has no {split} problems after a hash split of 80/20; bring more rows")
    check_golds(task)
    return replace(task, max_new_tokens=cfg.algo.max_completion_tokens)


def _is_test(problem: Problem) -> bool:
    return hashlib.blake2b(problem.question.encode(), digest_size=4).digest()[0] % 5 == 0
