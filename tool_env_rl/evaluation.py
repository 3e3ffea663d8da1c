"""What one model scored: a JSON line per episode or example. Tables and claims are made of these lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from shared.checkpoint import write_text_atomic
from tool_env_rl import rotbench, toolhop
from tool_env_rl.metrics import EpisodeScore, summarize

LEAKY = "echo, leaky tools"  # the echo attack on environments whose tools repeat their arguments


@dataclass(frozen=True)
class TableScore:
    """One OOD-3 episode (`table_tasks.py`).

    right: the table is as the user wants it and every question was answered; table_right: the first of both.
    """

    environment: str
    kind: str
    right: bool
    table_right: bool
    calls: int


@dataclass
class Evaluation:
    """All sets of one model; a set that was not asked for is empty.

    test: in domain. chains: OOD-1, with tools; direct: the same questions without tools. noisy: OOD-2, level
    and {TS, PI, CF} in 0 or 1 per environment. tables: OOD-3. levels: the questions of one seed at complexity
    0 … 4. general: whether each example without tools was right, by task. repeat: two runs of `test`,
    compared (`repeatability.py`).
    """

    test: list[EpisodeScore]
    chains: list[EpisodeScore] = field(default_factory=list)
    direct: list[EpisodeScore] = field(default_factory=list)
    noisy: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    tables: list[TableScore] = field(default_factory=list)
    levels: list[tuple[int, EpisodeScore]] = field(default_factory=list)
    general: dict[str, list[bool]] = field(default_factory=dict)
    repeat: dict[str, Any] = field(default_factory=dict)


def chain_answers(free: EpisodeScore, direct: EpisodeScore) -> dict[toolhop.Scenario, bool]:
    """ToolHop's three scenarios (§4.2) of one question. Mandatory: right, and a tool was called (D11)."""
    right = bool(free.answer_correct)
    return {"Direct": bool(direct.answer_correct), "Mandatory": right and free.calls > 0, "Free": right}


def to_lines(found: Evaluation) -> str:
    """One JSON line per episode, example or measurement."""
    rows: list[dict[str, Any]] = []
    for name in ("test", "chains", "direct", "tables"):
        rows += [{"set": name, **asdict(score)} for score in getattr(found, name)]
    rows += [{"set": "noisy", "level": level, **flags} for level, flags in found.noisy]
    rows += [{"set": "levels", "level": level, **asdict(score)} for level, score in found.levels]
    for task, flags in found.general.items():
        rows += [{"set": "general", "task": task, "right": right} for right in flags]
    rows += [{"set": "repeat", **found.repeat}] if found.repeat else []
    return "".join(json.dumps(row) + "\n" for row in rows)


def of_lines(lines: Iterable[str]) -> Evaluation:
    """What `to_lines` wrote."""
    found = Evaluation([])
    for line in lines:
        row = json.loads(line)
        name = row.pop("set")
        if name == "noisy":
            found.noisy.append((row.pop("level"), row))
        elif name == "levels":
            found.levels.append((row.pop("level"), EpisodeScore(**row)))
        elif name == "general":
            found.general.setdefault(row["task"], []).append(row["right"])
        elif name == "repeat":
            found.repeat = row
        else:
            kind = TableScore if name == "tables" else EpisodeScore
            getattr(found, name).append(kind(**row))
    return found


def save(found: Evaluation, path: Path) -> None:
    """Write `to_lines`, compressed (to the same bytes every time) where the name ends in .gz."""
    text = to_lines(found)
    if path.suffix == ".gz":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        write_text_atomic(path, text)


def load(path: Path) -> Evaluation:
    """What `save` wrote."""
    data = path.read_bytes()
    return of_lines((gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines())


def summary(found: Evaluation) -> dict[str, float]:
    """Flat metrics: test/all/solve_f1, chains/AC, noisy/TS, tables/right, levels/4, general/copy, …"""
    flat: dict[str, float] = {}
    for name, scores in (("test", found.test), ("chains", found.chains)):
        if scores:
            for scenario, row in summarize(scores).items():
                flat |= {f"{name}/{scenario}/{key}": value for key, value in row.items()}
    if found.direct:
        answers = [chain_answers(*pair) for pair in zip(found.chains, found.direct, strict=True)]
        for scenario in toolhop.SCENARIOS:
            flat[f"chains/{scenario}"] = fmean(answer[scenario] for answer in answers)
        flat["chains/AC"] = fmean(flat[f"chains/{scenario}"] for scenario in toolhop.SCENARIOS)
    if found.noisy:
        means = rotbench.summarize(found.noisy).get("all", {})
        flat |= {f"noisy/{measure}": value for measure, value in means.items()}
    if found.tables:
        flat["tables/right"] = fmean(score.right for score in found.tables)
    for level in sorted({level for level, _ in found.levels}):
        scores = [score for of, score in found.levels if of == level]
        flat[f"levels/{level}"] = summarize(scores)["all"]["solve_f1"]
    return flat | {f"general/{task}": fmean(flags) for task, flags in found.general.items()}
