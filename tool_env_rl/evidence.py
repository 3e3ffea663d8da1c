"""What the claims rest on: the outcome of every episode, kept in results/ (a few kB per run).

results/runs.jsonl         one record per run: configuration hash, commit, metrics, command
results/episodes/*.gz      a JSON line per episode or example (`evaluation.py`); of the controls too
results/curves/*.jsonl     what training logged per batch
results/layers/*.json      change of every matrix, and Solve-F1 with groups of weights exchanged
results/gates.jsonl        one record per base model: did it meet the gate, with which numbers?
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import tables
from shared.checkpoint import write_text_atomic
from tool_env_rl import evaluation
from tool_env_rl.evaluation import Evaluation
from tool_env_rl.metrics import EpisodeScore

LOGGED = ("reward", "turn/calls", "kl", "entropy", "frac_reward_zero_std", "grad_norm")  # of metrics.jsonl
Curves = dict[str, dict[int, float]]  # name → batch → value


@dataclass(frozen=True)
class Layers:
    """Claim 7, one seed.

    groups: mean primary measure of each group of matrices ("low mlp", …); s: low MLP over all others;
    low_mlp_rank from 1. matrices: (name, rho, rho_normed). grafts: Solve-F1 of each test environment with one
    group exchanged: ("reset", group) is the trained model with the base's weights there, ("only", group) the
    base model with the trained ones.
    """

    groups: dict[str, float]
    s: float
    low_mlp_rank: int
    matrices: list[tuple[str, float, float | None]]
    grafts: dict[tuple[str, str], list[float]]


@dataclass
class Evidence:
    runs: dict[tuple[str, int], Evaluation] = field(default_factory=dict)  # by arm and seed
    curves: dict[tuple[str, int], Curves] = field(default_factory=dict)
    layers: dict[int, Layers] = field(default_factory=dict)  # by seed
    controls: dict[str, list[EpisodeScore]] = field(default_factory=dict)  # by policy
    gates: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def seeds(self, *arms: str) -> list[int]:
        """Seeds that all of `arms` have a run of."""
        found = [{seed for row, seed in self.runs if row == arm} for arm in arms]
        return sorted(set.intersection(*found)) if found else []

    def of(self, arm: str, seeds: Iterable[int]) -> list[Evaluation]:
        """One per seed."""
        return [self.runs[arm, seed] for seed in seeds]


def curve_lines(metrics: Path) -> list[str]:
    """What is kept of a run's metrics.jsonl: a JSON line per batch with the LOGGED values, to 6 digits."""
    kept: dict[int, dict[str, float]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []:
        row = json.loads(line)
        values = {name: float(f"{row[name]:.6g}") for name in LOGGED if row.get(name) is not None}
        kept.setdefault(row["step"], {}).update(values)
    return [json.dumps({"step": step} | dict(sorted(kept[step].items()))) for step in sorted(kept)]


def read_curves(path: Path) -> Curves:
    """{name: {batch: value}}; empty without a file."""
    curves: Curves = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        row = json.loads(line)
        for name in row.keys() - {"step"}:
            curves.setdefault(name, {})[row["step"]] = row[name]
    return curves


def write_controls(rows: Path, kept: Path) -> None:
    """Compress the lines of `eval.py --controls`, to the same bytes every time."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(gzip.compress(rows.read_bytes(), mtime=0))


def read_controls(path: Path) -> dict[str, list[EpisodeScore]]:
    """Scores by policy."""
    found: dict[str, list[EpisodeScore]] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        row = json.loads(line)
        found.setdefault(row.pop("policy"), []).append(EpisodeScore(**row))
    return found


def write_layers(layers: Layers, path: Path) -> None:
    """As JSON, numbers to 6 digits."""

    def short(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.6g}")

    payload = {
        "groups": {name: short(value) for name, value in layers.groups.items()},
        "s": short(layers.s),
        "low_mlp_rank": layers.low_mlp_rank,
        "matrices": [[name, short(rho), short(normed)] for name, rho, normed in layers.matrices],
        "grafts": [[*key, [short(f1) for f1 in scores]] for key, scores in layers.grafts.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, json.dumps(payload) + "\n")


def read_layers(path: Path) -> Layers:
    """What `write_layers` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    matrices = [(name, rho, normed) for name, rho, normed in data["matrices"]]
    grafts = {(how, group): scores for how, group, scores in data["grafts"]}
    return Layers(data["groups"], data["s"], data["low_mlp_rank"], matrices, grafts)


def load(results: Path) -> tuple[list[dict[str, Any]], Evidence]:
    """The records that count, and what they point to. Records of a dirty tree are refused.

    Raises:
        ValueError: two runs were evaluated on different environments.
    """
    records = tables.current(tables.load_records(results / "runs.jsonl"))
    gates = tables.current(tables.load_records(results / "gates.jsonl"))
    tables.refuse_dirty([*records, *gates])
    found = Evidence()
    for record in records:
        arm, seed, path = record["arm"], record["seed"], results / record["data"]
        if arm == "layers":
            found.layers[seed] = read_layers(path)
        elif arm == "controls":
            found.controls = read_controls(path)
        else:
            found.runs[arm, seed] = evaluation.load(path)
            found.curves[arm, seed] = read_curves(results / "curves" / f"{arm}-seed{seed}.jsonl")
    _same_environments(found)
    found.gates = {(record["arm"], record["seed"]): record["gate"] for record in gates}
    return records, found


def _same_environments(evidence: Evidence) -> None:
    first: dict[str, list[str]] = {}
    for (arm, seed), run in evidence.runs.items():
        for name in ("test", "chains", "direct", "tables"):
            ids = [score.environment for score in getattr(run, name)]
            if ids and first.setdefault(name, ids) != ids:
                raise ValueError(
                    f"{arm}, seed {seed}: {name} was evaluated on other environments than in the runs before "
                    "it; run it again"
                )
