"""Built environments, a sandbox, and constructed outcomes of runs that several files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tool_env_rl import resampling
from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.pipeline import BuildSettings, build
from tool_env_rl.evaluation import LEAKY, Evaluation, TableScore
from tool_env_rl.evidence import Evidence
from tool_env_rl.metrics import EpisodeScore
from tool_env_rl.records import SCENARIOS, Environment
from tool_env_rl.rotbench import LEVELS
from tool_env_rl.sandbox import Sandbox


@pytest.fixture(scope="session")
def tools_sandbox() -> Iterator[Sandbox]:
    with Sandbox(1) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def toy_environments(tools_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> list[Environment]:
    """Eight environments at L0 and L4, two of each scenario."""
    folder: Path = tmp_path_factory.mktemp("environments") / "built"
    settings = BuildSettings(n=8, seed=5, levels=(4, 0))
    return build(settings, folder, DeterministicBackend(), tools_sandbox).environments


# ---- constructed outcomes of runs, for claims and tables

ENVIRONMENTS = 120


def _flags(share: float, n: int) -> list[bool]:
    """The first part is right: outcomes of different shares are nested."""
    return [i < round(share * n) for i in range(n)]


def _score(number: int, right: bool, calls: int = 2, **counts: int) -> EpisodeScore:
    """Two sub-answers, all solved or none."""
    solved = dict.fromkeys(("solved", "solved_strict", "solved_unguarded"), 2 * right) | counts
    scenario = SCENARIOS[number % len(SCENARIOS)]
    return EpisodeScore(f"env-{number}", scenario, 2, calls, turns=2, answer_correct=right, **solved)


def _scores(share: float | dict[str, float], n: int = ENVIRONMENTS, calls: int = 2) -> list[EpisodeScore]:
    if isinstance(share, dict):
        size = n // len(SCENARIOS)
        flags = [i // len(SCENARIOS) < round(share[SCENARIOS[i % len(SCENARIOS)]] * size) for i in range(n)]
    else:
        flags = _flags(share, n)
    return [_score(i, right, calls) for i, right in enumerate(flags)]


def _run(n: int, options: dict[str, Any]) -> Evaluation:
    chains = [_score(i, right) for i, right in enumerate(_flags(options["chains"], 100))]
    found = Evaluation(_scores(options["right"], n, options["calls"]), chains)
    found.direct = [_score(i, False, 0) for i in range(100)]
    flags = _flags(options["noisy"], 20)
    found.noisy = [(level, dict.fromkeys(("TS", "PI", "CF"), float(f))) for level in LEVELS for f in flags]
    right = _flags(options["tables"], 100)
    found.tables = [TableScore(f"table-{i}", "ask", r, True, 1) for i, r in enumerate(right)]
    for level, share in enumerate(options["levels"]):
        found.levels += [(level, score) for score in _scores(share, 40)]
    found.general = {task: _flags(options["general"], 100) for task in ("copy", "reverse", "add")}
    return found


def _world(seeds: int = 3, environments: int = ENVIRONMENTS, **arms: dict[str, Any]) -> Evidence:
    """Runs of `arms`, with what their options say; a tuple under "right" has a share for each seed."""
    found = Evidence()
    for arm, options in arms.items():
        defaults = {"right": 0.5, "calls": 2, "chains": 0.2, "noisy": 0.5, "tables": 0.1, "general": 0.9}
        full = defaults | {"levels": (0.5,) * 5, "reward": (0.5, 0.5)} | options
        for seed in range(1, seeds + 1):
            right = full["right"]
            mine = full | {"right": right[seed - 1] if isinstance(right, tuple) else right}
            found.runs[arm, seed] = _run(environments, mine)
            curve = dict(enumerate(full["reward"], start=1))
            found.curves[arm, seed] = {"reward": curve, "turn/calls": dict.fromkeys(curve, full["calls"] / 2)}
    return found


def _controls() -> dict[str, list[EpisodeScore]]:
    leaky = [_score(i, False, solved_unguarded=1) for i in range(8)]
    silent, shotgun = [_score(i, False, 0) for i in range(8)], [_score(i, True, 8) for i in range(8)]
    return {"oracle": _scores(1.0, 8), "silent": silent, "shotgun": shotgun, LEAKY: leaky}


@pytest.fixture
def ftrl(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Constructed evidence, and fewer resamples: no outcome here hangs on the third digit of an interval."""
    drawn = (resampling._seed_draws, resampling._counts)
    monkeypatch.setattr(resampling, "RESAMPLES", 400)
    for cached in drawn:
        cached.cache_clear()
    yield SimpleNamespace(world=_world, scores=_scores, controls=_controls)
    for cached in drawn:
        cached.cache_clear()
