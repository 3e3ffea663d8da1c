"""The environments of a run: built once per settings and seed, kept in the cache folder, or read from files.

base (what the base model is shown), train (RL), dev and test come from disjoint seeds. chains is OOD-1 (5 to
6 hops, compositions of relations that no other set has), OOD-2 is made of the test set by `name_noise.py`,
level-0 … level-4 ask the questions of one seed at rising complexity.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shared import checkpoint
from shared.pretrained import cache_root
from shared.seeding import derive_seed
from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.decompose import Hops
from tool_env_rl.build_env.pipeline import BuildSettings, build
from tool_env_rl.build_env.scale import LEVELS
from tool_env_rl.config import TOY, Config
from tool_env_rl.records import Environment, EnvRecord, read_environments, read_records
from tool_env_rl.sandbox import Sandbox
from tool_env_rl.texts import printable

Progress = Callable[[str, float], None]  # (stage, done in [0, 1])
CHAIN_HOPS = Hops(5, 6, unseen=True)
FORMAT = 1  # raise it when the pipeline builds other environments for the same settings


@dataclass(frozen=True)
class Sets:
    """Records that RL samples from and that are tested on; `gold` where they were built, else empty."""

    train: list[EnvRecord]
    test: list[EnvRecord]
    dev_gold: list[Environment]
    test_gold: list[Environment]
    chains_gold: list[Environment]
    levels_gold: dict[int, list[Environment]]


def settings(cfg: Config) -> dict[str, BuildSettings]:
    """What is built for each set; the test sets do not depend on the run's seed."""
    train = BuildSettings(
        cfg.data.train,
        seed=derive_seed(cfg.run.seed, "train") % 2**31,
        levels=cfg.data.levels,
        scenarios=cfg.data.scenarios,
    )
    wanted = {
        "train": None if cfg.data.train_file else train,
        "dev": BuildSettings(cfg.data.dev, seed=1) if cfg.data.dev and cfg.model.name == TOY else None,
        "test": (
            BuildSettings(cfg.data.test, seed=2, split="test")
            if cfg.data.test and not cfg.data.test_file
            else None
        ),
        "chains": (
            BuildSettings(cfg.eval.chains, seed=3, split="test", scenarios=("multi_hop",), hops=CHAIN_HOPS)
            if cfg.eval.chains
            else None
        ),
    }
    if cfg.eval.levels:
        same = BuildSettings(cfg.eval.levels, seed=4, split="test")
        wanted |= {f"level-{level}": replace(same, levels=(level,)) for level in LEVELS}
    return {name: found for name, found in wanted.items() if found is not None}


def load(cfg: Config, sandbox: Sandbox, on_progress: Progress) -> Sets:
    """All sets of a run.

    Raises:
        ValueError: a file without a usable row.
    """
    built = {name: _built(wanted, name, sandbox, on_progress) for name, wanted in settings(cfg).items()}
    gold = {f"{name}_gold": built.get(name, []) for name in ("dev", "test", "chains")}
    if cfg.data.train_file:
        train = _read(cfg.data.train_file, cfg.data.train)
    else:
        train = [env.record for env in built["train"]]
    test = [env.record for env in gold["test_gold"]]
    if cfg.data.test_file:
        test = _read(cfg.data.test_file, cfg.data.test)
    levels = {level: built[f"level-{level}"] for level in LEVELS if f"level-{level}" in built}
    return Sets(train, test, **gold, levels_gold=levels)


def for_base(cfg: Config, sandbox: Sandbox, on_progress: Progress) -> list[Environment]:
    """What the base model is shown; RL and the tests have others."""
    seed = derive_seed(cfg.run.seed, "base environments") % 2**31
    wanted = BuildSettings(cfg.base.environments, seed=seed, levels=cfg.base.levels)
    return _built(wanted, "base-environments", sandbox, on_progress)


def leaky(cfg: Config, sandbox: Sandbox, on_progress: Progress) -> list[Environment]:
    """Environments whose tools repeat their arguments, for the echo attack (§6.2-2); as many as dev has.

    Without chains: there a tool that repeats an argument gives away the step before.
    """
    kinds = ("single_hop", "parallel_single_hop")
    count = max(1, cfg.data.dev)
    wanted = BuildSettings(count, seed=6, split="test", scenarios=kinds, echo_arguments=True)
    return _built(wanted, "leaky", sandbox, on_progress)


def _built(wanted: BuildSettings, name: str, sandbox: Sandbox, on_progress: Progress) -> list[Environment]:
    text = json.dumps([FORMAT, asdict(wanted)], sort_keys=True)
    folder = cache_root() / "tool_env_rl" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if checkpoint.problem(folder) is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Built aside and then moved: runs that start together do not write into one folder.
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))

        def tell(done: int, total: int) -> None:
            on_progress(f"building {name} environments", done / total)

        try:
            build(wanted, part, DeterministicBackend(), sandbox, on_progress=tell)
            checkpoint.mark_complete(part)
            if checkpoint.problem(folder) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return read_environments(folder)


def _read(path: str, count: int) -> list[EnvRecord]:
    records, problems = read_records(
        Path(path).expanduser(), on_problem=lambda p: print(printable(f"skipped: {p}"))
    )
    if not records:
        raise ValueError(
            f"{path} has no usable row ({len(problems)} malformed); give the authors' JSONL format"
        )
    return records[:count]


def describe(cfg: Config) -> dict[str, str]:
    """Set name → where it comes from; for --dry-run."""
    found = {name: f"{wanted.n} built, levels {wanted.levels}" for name, wanted in settings(cfg).items()}
    if cfg.model.name == TOY:
        found["base"] = f"{cfg.base.environments} built, levels {cfg.base.levels}, if its model is not kept"
    if cfg.data.train_file:
        found["train"] = f"{cfg.data.train_file}, at most {cfg.data.train}"
    if cfg.data.test_file:
        found["test"] = f"{cfg.data.test_file}, at most {cfg.data.test}"
    return found
