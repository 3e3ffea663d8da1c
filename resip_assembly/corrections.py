"""How large the residual's corrections are, and where (claim 11): |αμ| in mm by distance to the goal pose."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resip_assembly.env.tasks import Task
from resip_assembly.env.vector import ARM_ACTION_DIM
from resip_assembly.evaluation import Evaluation
from resip_assembly.relative_features import UNIT_M, RelativePoses
from resip_assembly.residual_policy import ResidualAgent, residual_features

BINS_MM = (0.0, 10.0, 30.0, 100.0)  # lower ends; the last is open
LARGE_MM = 20.0
COLUMNS = ("episode", "from_mm", "steps", "median_mm", "large")


@dataclass(frozen=True)
class Corrections:
    """Of E episodes, per bin of BINS_MM."""

    steps: NDArray[np.int64]  # (E, B) in this bin
    median_mm: NDArray[np.float64]  # (E, B) of the position's correction; NaN without a step
    large: NDArray[np.int64]  # (E, B) steps corrected by more than LARGE_MM


def median(values: NDArray[np.float64]) -> float:
    """Of those that are not NaN; NaN if none is."""
    found = values[~np.isnan(values)]
    return float(np.median(found)) if found.size else float("nan")


class Recorder:
    """An `evaluation.Agent` that acts as the residual does, and remembers how far it moved each target.

    The distance is that of the task's first pair from its assembled pose.
    """

    def __init__(self, agent: ResidualAgent, task: Task) -> None:
        self.agent, self._relative = agent, RelativePoses(task)
        self._rounds: list[list[NDArray]] = []  # per round and step (2, N): correction, distance, mm

    def reset(self, mask: np.ndarray) -> None:
        self.agent.reset(mask)
        self._rounds.append([])

    def act(self, obs: np.ndarray) -> np.ndarray:
        agent = self.agent
        normalizer = agent.base.normalizer
        features = residual_features(obs, normalizer, agent.extra)
        planned = normalizer.denormalize_action(agent.queue.current(features[:, : agent.base.obs_dim]))
        action = agent.act(obs)
        moved = (action - planned).reshape(len(obs), -1, ARM_ACTION_DIM)[..., :3]
        correction = np.linalg.norm(moved, axis=-1).max(-1)
        distance = np.linalg.norm(self._relative(obs)[:, :3], axis=-1) * UNIT_M
        self._rounds[-1].append(1000 * np.stack([correction, distance]))
        return action

    def corrections(self, evaluation: Evaluation) -> Corrections:
        """Of the episodes of `evaluation`, which this agent has just played."""
        shape = (len(evaluation.length), len(BINS_MM))
        steps, large = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        median = np.full(shape, np.nan)
        played = [np.stack(history, axis=-1) for history in self._rounds]  # (2, N, T) each
        for episode, (i, length) in enumerate(zip(evaluation.env, evaluation.length, strict=True)):
            correction, distance = played[episode // played[0].shape[1]][:, i, :length]
            bins = np.searchsorted(BINS_MM, distance, side="right") - 1
            for b in np.unique(bins):
                found = correction[bins == b]
                steps[episode, b], median[episode, b] = len(found), np.median(found)
                large[episode, b] = (found > LARGE_MM).sum()
        return Corrections(steps, median, large)


def write(found: Corrections, path: Path) -> None:
    """A line per episode and bin with steps in it, compressed to the same bytes every time."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for e, b in zip(*np.nonzero(found.steps), strict=True):
        row = (found.steps[e, b], f"{found.median_mm[e, b]:.3f}", found.large[e, b])
        writer.writerow([e, f"{BINS_MM[b]:g}", *row])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read(path: Path) -> Corrections:
    """Inverse of `write`, to the printed digits; episodes without any step are not there."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    shape = (1 + max(int(row["episode"]) for row in rows), len(BINS_MM))
    found = Corrections(np.zeros(shape, np.int64), np.full(shape, np.nan), np.zeros(shape, np.int64))
    for row in rows:
        at = int(row["episode"]), BINS_MM.index(float(row["from_mm"]))
        found.steps[at], found.large[at] = int(row["steps"]), int(row["large"])
        found.median_mm[at] = float(row["median_mm"])
    return found
