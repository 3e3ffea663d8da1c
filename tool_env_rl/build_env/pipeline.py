"""Runs the five stages and the validator over many environments; stops and goes on without loss.

with Sandbox() as sandbox:
    report = build(BuildSettings(n=200), folder, DeterministicBackend(), sandbox)
report.environments                       # list of tool_env_rl.records.Environment
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared import checkpoint
from shared.seeding import derive_seed
from tool_env_rl import knowledge_base
from tool_env_rl.build_env import decompose, deploy, document, integrate, scale
from tool_env_rl.build_env.artefacts import CHECKED, Artefacts, StageCounts
from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.decompose import Hops
from tool_env_rl.build_env.stage import STAGES, Backend, Json, Rejected, Stopped
from tool_env_rl.knowledge_base import KnowledgeBase, World
from tool_env_rl.plan_checks import Finding
from tool_env_rl.records import SCENARIOS, Environment, write_environments
from tool_env_rl.validate import Runs, validate

ATTEMPTS = 5  # draws per environment from a knowledge base; a question of one's own has one
CHUNK = 32  # environments whose calls go to the sandbox together
SETTINGS_FILE, REPORT_FILE = "build.json", "report.json"


@dataclass(frozen=True)
class BuildSettings:
    """What to build. Environment i has scenario i modulo their number, and so equal shares (§3.1)."""

    n: int = 200
    seed: int = 0
    split: str = "train"
    scenarios: tuple[str, ...] = SCENARIOS
    levels: tuple[int, ...] = (4,)  # complexity; several are taken in turn
    hops: Hops = field(default_factory=Hops)
    echo_arguments: bool = False  # reproduce the leak of §6.2-2; the check `echo` is then left out

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n={self.n} must be at least 1")
        if self.split not in ("train", "test"):
            raise ValueError(f"split={self.split!r} must be train or test")
        if wrong := [s for s in self.scenarios if s not in SCENARIOS] or not self.scenarios:
            raise ValueError(f"scenarios={wrong} must be among {', '.join(SCENARIOS)}, one at least")
        if not self.levels or any(level not in scale.LEVELS for level in self.levels):
            raise ValueError(f"levels={self.levels} must be among 0 … 4, one at least")


@dataclass
class BuildReport:
    """What a build folder holds after `build`."""

    environments: list[Environment]
    counts: dict[str, StageCounts]
    given_up: int  # environments for which all attempts failed
    stopped: str | None  # why the backend could not go on, if so; the next call continues


def build(
    settings: BuildSettings,
    folder: Path | str,
    backend: Backend,
    sandbox: Runs,
    *,
    kb: KnowledgeBase | None = None,
    questions: Sequence[Json] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildReport:
    """Build, or go on building, `settings.n` environments in `folder`, from `kb` or from one's own
    `questions`.

    Writes stages/, environments.jsonl (authors' format), gold.jsonl, report.json. The folder depends on
    settings, backend and sources alone, not on how often the build was stopped. `on_progress` hears (done,
    total).

    Raises:
        ValueError: the folder holds a build with other settings or sources.
    """
    folder, kb = Path(folder), kb or knowledge_base.procedural()
    _same_build(folder, settings, backend, kb, questions)
    work = _Work(settings, backend, sandbox, kb, questions, Artefacts(folder))
    total = settings.n if questions is None else min(settings.n, len(questions))
    stopped = None
    size = (
        CHUNK if isinstance(backend, DeterministicBackend) else 1
    )  # a model's answers are worth keeping at once
    try:
        for start in range(0, total, size):
            stop = min(start + size, total)
            work.fill(range(start, stop))
            on_progress(stop, total)
    except Stopped as reason:
        stopped = str(reason)
    finally:
        environments = [work.done[slot] for slot in sorted(work.done)]
        write_environments(folder, environments)
        counts = work.artefacts.counts()
        report = {name: vars(count) for name, count in counts.items()}
        report |= {"environments": len(environments), "given_up": len(work.given_up), "stopped": stopped}
        checkpoint.write_json_atomic(folder / REPORT_FILE, report)
        work.artefacts.close()
    return BuildReport(environments, counts, len(work.given_up), stopped)


def _same_build(
    folder: Path,
    settings: BuildSettings,
    backend: Backend,
    kb: KnowledgeBase,
    questions: Sequence[Json] | None,
) -> None:
    sources = json.dumps(
        [questions, kb.entities, [asdict(r) for r in kb.relations], sorted((kb.facts or {}).items())]
    )
    now: Json = json.loads(json.dumps(asdict(settings)))
    now |= {"backend": type(backend).__name__, "model": getattr(backend, "model", None)}
    now["sources"] = hashlib.sha256(sources.encode()).hexdigest()[:16]
    path = folder / SETTINGS_FILE
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        if differing := [
            k for k in sorted(now.keys() | there.keys()) if k != "n" and now.get(k) != there.get(k)
        ]:
            key = differing[0]
            found = f"{key}={there.get(key)!r}, not {now.get(key)!r}"
            raise ValueError(f"{folder} holds a build with {found}; choose another folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} is not empty and holds no {SETTINGS_FILE} of a build; choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json_atomic(path, now)


@dataclass
class _Work:
    settings: BuildSettings
    backend: Backend
    sandbox: Runs
    kb: KnowledgeBase
    questions: Sequence[Json] | None
    artefacts: Artefacts
    done: dict[int, Environment] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)

    def fill(self, slots: range) -> None:
        """Try each slot until an environment passes or its attempts are used up."""
        for attempt in range(ATTEMPTS if self.questions is None else 1):
            tried: dict[int, Json] = {}
            for slot in slots:
                if slot not in self.done:
                    data = self.stages(slot, attempt)
                    if data is not None:
                        tried[slot] = data
            for slot, env in self.passed(tried):
                self.done[slot] = env
        self.given_up |= {slot for slot in slots if slot not in self.done}

    def stages(self, slot: int, attempt: int) -> Json | None:
        """What the five stages made of a slot, each from the artefact before it; None if one rejected it."""
        seed = derive_seed(self.settings.seed, self.settings.split, slot, attempt)
        env_id, world = f"{slot:05d}-{attempt}", self.kb.world(seed)
        data: Json = {}
        for stage in STAGES:
            row = self.artefacts.rows[stage].get(env_id)
            if row is None:
                try:
                    made = (
                        self._start(slot, env_id, seed, world) if not data else self._next(stage, data, world)
                    )
                    row = self.artefacts.add(stage, env_id, data=made)
                except Rejected as rejection:
                    row = self.artefacts.add(stage, env_id, reasons=rejection.reasons)
            if not row["accepted"]:
                return None
            data = row["data"]
        return data

    def _start(self, slot: int, env_id: str, seed: int, world: World) -> Json:
        settings = self.settings
        scenario = settings.scenarios[slot % len(settings.scenarios)]
        level = settings.levels[slot // len(settings.scenarios) % len(settings.levels)]
        if self.questions is None:
            item: Json = {"scenario": scenario, "steps": decompose.draw(scenario, world, settings.hops)}
        else:
            item = self.questions[slot]
        # The numbers of the built-in facts have two digits, and so have results: a small vocabulary.
        limit = 99 if self.questions is None and self.kb is knowledge_base.procedural() else None
        head = {"id": env_id, "seed": seed, "level": level, "split": settings.split}
        head |= {"echo_arguments": settings.echo_arguments, "limit": limit}
        return head | decompose.run(item, self.backend)

    def _next(self, stage: str, data: Json, world: World) -> Json:
        if stage == "document":
            return document.run(data, self.backend)
        if stage == "integrate":
            return integrate.run(data, self.backend)
        if stage == "scale":
            return scale.run(data, self.backend, world, self._pool())
        return deploy.run(data, self.backend, world)

    def _pool(self) -> list[tuple[Json, str]]:
        """Tools of the environments before, where a model writes them: the authors' distractors (§2.2)."""
        if isinstance(self.backend, DeterministicBackend):
            return []
        records = [self.done[slot].record for slot in sorted(self.done)]
        return [(t, r.codes[t["function"]["name"]]) for r in records for t in r.tools
                if t["function"]["name"] in r.unsolved_set]  # fmt: skip

    def passed(self, tried: dict[int, Json]) -> Iterator[tuple[int, Environment]]:
        """Environments that the validator accepts; verdicts that are on file are not reached again."""
        verdicts = self.artefacts.rows[CHECKED]
        new = {slot: data for slot, data in tried.items() if data["id"] not in verdicts}
        allow_echo = self.settings.echo_arguments
        found = validate(
            [deploy.assemble(data) for data in new.values()], self.sandbox, allow_echo=allow_echo
        )
        for (slot, data), findings in zip(new.items(), found, strict=True):
            tried[slot], findings = self._repaired(data, findings)
            reasons = [(finding.check, finding.message) for finding in findings]
            # A repair changed the code of stage 5: the verdict carries what was judged.
            repaired = {"codes": tried[slot]["codes"]} if tried[slot] is not data else None
            self.artefacts.add(CHECKED, data["id"], reasons=reasons, data=repaired)
        for slot, data in tried.items():
            verdict = verdicts[data["id"]]
            if verdict["accepted"]:
                yield slot, deploy.assemble(data | verdict.get("data", {}))

    def _repaired(self, data: Json, findings: list[Finding]) -> tuple[Json, list[Finding]]:
        """Let a model write faulty tools again, with what the validator found; (last data, last findings)."""
        gold = {entry["document"]["function"]["name"] for entry in data["tools"]}
        seed_world = self.kb.world(data["seed"])
        for _ in range(self.backend.rounds - 1):
            if not findings or any(finding.tool not in gold for finding in findings):
                break
            feedback: dict[str, list[str]] = {}
            for finding in findings:
                feedback.setdefault(str(finding.tool), []).append(finding.message)
            try:
                data = deploy.run(data, self.backend, seed_world, feedback)
            except Rejected as rejection:
                return data, [Finding(check, text) for check, text in rejection.reasons]
            (findings,) = validate(
                [deploy.assemble(data)], self.sandbox, allow_echo=self.settings.echo_arguments
            )
        return data, findings
