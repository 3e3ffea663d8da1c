"""Run folders: what ran, what it measured, how to go on. ``<package>/runs/<name>`` holds

config.json  environment.json  code.diff     the resolved config and the exact code
metrics.jsonl  tensorboard/  checkpoint-*/   one line per logged step; see shared.checkpoint
manifest.json                                written last: the run is complete
"""

from __future__ import annotations

import datetime
import fnmatch
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared import checkpoint, config, tables
from shared.config import refuse

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "trl", "peft", "qwen-vl-utils", "datasets", "accelerate", "mujoco")
PACKAGES += ("gymnasium", "diffusers")
Tracker = Literal["tensorboard", "trackio", "wandb"]
GENERATED = ("*/results/*", "*RESULTS.md", "*README.md", "*figures/*.png")  # results do not make code dirty


@dataclass(frozen=True)
class RunConfig:
    """Where a run is written, and what happens if it is there already."""

    seed: int = 0  # everything random derives from it
    name: str | None = None  # folder under <package>/runs; None: <preset>-seed<seed>
    output_dir: str | None = None  # the run folder itself, instead of a name
    resume: bool = False  # go on in an existing run folder
    overwrite: bool = False  # empty an existing run folder first
    trackers: tuple[Tracker, ...] = ("tensorboard",)  # metrics.jsonl is always written


def start(cfg: Any, package: str) -> Run:
    """Open the run folder of `cfg`: new, resumed (then the config must match) or, if asked to, emptied.

    Under accelerate only rank 0 asks, refuses and writes. Refusals are one line and exit code 2.
    """
    settings: RunConfig = cfg.run
    name = settings.name or f"{cfg.preset}-seed{settings.seed}"
    folder = Path(settings.output_dir) if settings.output_dir else ROOT / package / "runs" / name
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0:
        return Run(folder, cfg, package, resumed=settings.resume, main=False)
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            refuse(f"tracker {tracker} is not installed: pip install {tracker}, or change --run.trackers")
    if settings.resume and settings.overwrite:
        refuse("--run.resume and --run.overwrite exclude each other; keep one")
    resumed = False
    if folder.is_dir() and any(not p.name.endswith(".tmp") for p in folder.iterdir()):
        stored = _stored_config(folder)
        if stored is None:
            refuse(f"{folder} is not empty and holds no config.json of a run; choose another folder")
        resumed = settings.resume or (not settings.overwrite and _ask_resume(folder))
        if not resumed:
            _empty(folder)
        elif differing := _differences(stored, config.to_dict(cfg)):
            refuse(f"cannot resume {folder}: the config differs in {', '.join(differing)}")
    folder.mkdir(parents=True, exist_ok=True)
    if not resumed:
        checkpoint.write_json_atomic(folder / "config.json", config.to_dict(cfg))
    nth = len(list(folder.glob("environment*.json")))  # a resumed run may run on other code: keep both
    suffix = f".{nth}" if nth else ""
    checkpoint.write_json_atomic(folder / f"environment{suffix}.json", environment())
    checkpoint.write_text_atomic(folder / f"code{suffix}.diff", _git("diff", "HEAD") or "")
    run = Run(folder, cfg, package, resumed=resumed, main=True)
    print(f"run folder: {os.path.relpath(folder)} (preset {cfg.preset}, {'resumed' if resumed else 'new'})")
    print(f"to resume:  {run.resume_command()}", flush=True)
    return run


class Run:
    """An open run folder; made by `start`. Only the main process writes."""

    def __init__(self, folder: Path, cfg: Any, package: str, *, resumed: bool, main: bool) -> None:
        self.dir, self.cfg, self.package, self.resumed, self.main = folder, cfg, package, resumed, main
        self._lines: Any = None
        self._trackers: list[tuple[Any, Any]] = []  # (log(values, step), close())
        self._purge_step: int | None = None

    @property
    def finished(self) -> bool:
        """The manifest exists."""
        return (self.dir / "manifest.json").is_file()

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Append one line to metrics.jsonl and tell the trackers. NaN and infinity are stored as null."""
        if not self.main:
            return
        if self._lines is None:
            self._lines = open(self.dir / "metrics.jsonl", "a", encoding="utf-8", buffering=1)  # noqa: SIM115
            self._trackers = [self._open_tracker(name) for name in self.cfg.run.trackers]
        values = checkpoint.plain(metrics)
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for log, _ in self._trackers:
            log({k: v for k, v in values.items() if isinstance(v, int | float)}, step)

    def truncate_after(self, step: int) -> None:
        """Forget metrics beyond `step`, the step of the checkpoint that a resumed run goes on from."""
        path = self.dir / "metrics.jsonl"
        if self.main and path.exists():
            self._close()
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            checkpoint.write_text_atomic(path, "".join(line for line in lines if _step(line) <= step))
            self._purge_step = step + 1

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint; it and those passed over are named on stdout.

        With several processes ask only if `resumed`: rank 0 may still be emptying the folder.
        """
        return checkpoint.last_complete(self.dir, on_skip=print if self.main else lambda line: None)

    def resume_command(self) -> str:
        """The shell command that goes on with this run."""
        launch = "python -m" if _world() == 1 else "accelerate launch --config_file <the same file> -m"
        folder = os.path.relpath(self.dir)
        words = [f"{self.package}.train", "--config", f"{folder}/config.json", "--run.resume"]
        words += ["--run.output-dir", folder] if self.cfg.run.output_dir else []
        return f"{launch} {shlex.join(words)}"

    def finish(self, metrics: dict[str, Any]) -> None:
        """Close the trackers and write manifest.json, which makes the run complete."""
        if self.main:
            self._close()
            manifest = {"metrics": checkpoint.plain(metrics), "config_hash": config.config_hash(self.cfg)}
            checkpoint.write_json_atomic(self.dir / "manifest.json", manifest | environment())

    def _close(self) -> None:
        for _, close in self._trackers:
            close()
        if self._lines is not None:
            self._lines.close()
        self._lines, self._trackers = None, []

    def _open_tracker(self, name: str) -> tuple[Any, Any]:
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(self.dir / name), purge_step=self._purge_step)
            return lambda values, step: [board.add_scalar(k, values[k], step) for k in values], board.close
        module = importlib.import_module(name)
        module.init(project=self.package, name=self.dir.name, config=config.to_dict(self.cfg))
        return lambda values, step: module.log(values, step=step), module.finish


def environment() -> dict[str, Any]:
    """commit, dirty (generated results aside; True without git), versions, hardware, command and date."""
    from shared import gpu

    there = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    versions = {name: there.get(name, "not installed") for name in PACKAGES}
    commit = (_git("rev-parse", "HEAD") or "unknown").strip()
    status = _git("status", "--porcelain", "--no-renames", "--untracked-files=all", "-z") or ""
    changed = [entry[3:] for entry in status.split("\0") if entry]
    code = [name for name in changed if not any(fnmatch.fnmatch(name, g) for g in GENERATED)]
    found = {"commit": commit, "dirty": bool(code) or commit == "unknown", "hardware": gpu.hardware()}
    found |= {"versions": {"python": platform.python_version(), **versions}, "command": _command()}
    return found | {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def append_record(
    path: Path | str, *, row: str, preset: str, seed: int, metrics: dict, command: str, **fields: Any
) -> dict[str, Any]:
    """Append one finished evaluation to a results file, on disk before this returns; gives the record back.

    `fields` holds scale, config_hash, wall_s and n (ValueError if one is missing) and any extras. commit,
    dirty, versions, hardware and date are measured here; NaN and infinity are stored as null.
    """
    given = {"row": row, "preset": preset, "seed": seed, "metrics": metrics, **fields}
    record = checkpoint.plain(given | environment() | {"command": command})
    if missing := [name for name in tables.REQUIRED if name not in record]:
        raise ValueError(f"the record of row {row!r} lacks {', '.join(missing)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        glue = b"\n" if size and file.read(1) != b"\n" else b""  # a half-written line stays a line of its own
        file.write(glue + json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return record


def _command() -> str:
    """The command as typed at the repository root, without this machine's paths or accelerate's ``-u``."""
    words = [word.replace(f"{ROOT}{os.sep}", "") for word in sys.orig_argv[1:] if word != "-u"]
    inside = os.path.relpath(Path.cwd(), ROOT)
    place = "" if inside.startswith(".") else f"cd {inside} && "
    launch = "python" if _world() == 1 else f"accelerate launch --num_processes {_world()}"
    return f"{place}{launch} {shlex.join(words)}"


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, errors="replace")
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _stored_config(folder: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return stored if stored["preset"] and {"seed", "overwrite"} <= set(stored["run"]) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _differences(stored: dict[str, Any], now: dict[str, Any], at: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(stored.keys() | now.keys()):
        old, new = stored.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{at}{key}.")
        elif old != new and (at != "run." or key == "seed"):
            found.append(f"{at}{key} ({old!r} there, {new!r} now)")
    return found


def _ask_resume(folder: Path) -> bool:
    if _world() > 1 or not (sys.stdin.isatty() and sys.stdout.isatty()):
        refuse(f"run folder {folder} exists; go on with --run.resume or start again with --run.overwrite")
    answer = input(f"run folder {folder} exists: [r]esume, [o]verwrite or [a]bort? ").strip().lower()[:1]
    if answer not in ("r", "o"):
        refuse("stopped; nothing was changed")
    return answer == "r"


def _empty(folder: Path) -> None:
    for path in sorted(folder.iterdir(), key=lambda p: p.name == "config.json"):  # our signature goes last
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # the half-written last line of a killed run
