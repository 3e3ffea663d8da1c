"""What the claims rest on: the outcome of every held-out episode, kept in results/ (a few kB per run).

results/runs.jsonl       one record per run: configuration hash, commit, metrics, command
results/episodes/*.gz    policy, episode, success, length, reward, reason, phase
results/corrections/*.gz the residual's corrections (`corrections.py`)
"""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resip_assembly import corrections
from resip_assembly.corrections import Corrections
from resip_assembly.evaluation import Evaluation
from shared import tables

COLUMNS = ("policy", "episode", "success", "length", "reward", "reason", "phase")
Key = tuple[str, str, int]  # task, policy, training seed


@dataclass(frozen=True)
class Episodes:
    """Outcomes of E held-out episodes, in the same order for every policy of a task and randomness."""

    success: NDArray[np.bool_]  # (E,)
    phase: tuple[str, ...]  # (E,) where it was lost (`taxonomy.py`)


@dataclass
class Evidence:
    episodes: dict[Key, Episodes] = field(default_factory=dict)
    corrections: dict[tuple[str, int], Corrections] = field(default_factory=dict)  # by task and seed
    env_steps: dict[Key, int] = field(default_factory=dict)  # of training with rewards

    def tasks(self) -> list[str]:
        return sorted({task for task, _, _ in self.episodes}, reverse=True)  # peg_in_hole first

    def seeds(self, task: str, *policies: str) -> list[int]:
        """Training seeds that all of `policies` have been judged with."""
        found = [{s for t, p, s in self.episodes if (t, p) == (task, policy)} for policy in policies]
        return sorted(set.intersection(*found))

    def success(self, task: str, policy: str, seeds: list[int]) -> NDArray[np.float64]:
        """(E, seeds) outcomes of the same episodes."""
        columns = [self.episodes[task, policy, seed].success for seed in seeds]
        return np.stack(columns, axis=1).astype(float)

    def corrections_of(self, task: str) -> list[Corrections]:
        """One per training seed."""
        return [found for (t, _), found in sorted(self.corrections.items()) if t == task]

    def lost(self, task: str, policy: str) -> list[str]:
        """Phases of all episodes of all seeds."""
        found = [e.phase for (t, p, _), e in sorted(self.episodes.items()) if (t, p) == (task, policy)]
        return [phase for phases in found for phase in phases]


def write_episodes(judged: dict[str, tuple[Evaluation, list[str]]], path: Path) -> None:
    """`judged`: evaluation and phases by policy. Compressed to the same bytes every time."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for policy, (found, phases) in judged.items():
        rows = zip(found.success, found.length, found.reward, found.reason, phases, strict=True)
        for episode, (success, length, reward, reason, phase) in enumerate(rows):
            writer.writerow([policy, episode, int(success), int(length), f"{reward:g}", reason, phase])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_episodes(path: Path) -> dict[str, Episodes]:
    """Outcomes by policy."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    found = {}
    for policy in dict.fromkeys(row["policy"] for row in rows):
        of = [row for row in rows if row["policy"] == policy]
        success = np.array([row["success"] == "1" for row in of])
        found[policy] = Episodes(success, tuple(row["phase"] for row in of))
    return found


def load(results: Path) -> tuple[list[dict[str, Any]], Evidence]:
    """The records that count, and what they point to. Records of a dirty tree are refused."""
    records = tables.current(tables.load_records(results / "runs.jsonl"))
    tables.refuse_dirty(records)
    evidence = Evidence()
    for record in records:
        task, seed = record["task"], record["seed"]
        for policy, episodes in read_episodes(results / record["episodes"]).items():
            evidence.episodes[task, policy, seed] = episodes
            if policy == record["trained"]:
                evidence.env_steps[task, policy, seed] = record["metrics"]["env_steps"]
        if record.get("corrections"):
            evidence.corrections[task, seed] = corrections.read(results / record["corrections"])
    return records, evidence
