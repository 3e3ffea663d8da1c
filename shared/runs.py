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


def start(cfg: Any, package: str, script: str = "train") -> Run:
    """Open the run folder of `cfg`: new, resumed (the config must match) or emptied; refusals exit with 2.
    `script` of the package is what the printed command resumes."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL would report every trainer it builds
    settings: RunConfig = cfg.run
    name = settings.name or f"{cfg.preset}-seed{settings.seed}"
    folder = Path(settings.output_dir or ROOT / package / "runs" / name)
    if int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0:
        return Run(folder, cfg, package, script, resumed=settings.resume, main=False)
    for tracker in settings.trackers:
        if importlib.util.find_spec(tracker) is None:
            refuse(f"tracker {tracker} is not installed: pip install {tracker}, or change --run.trackers")
    if settings.resume and settings.overwrite:
        refuse("--run.resume and --run.overwrite exclude each other; keep one")
    in_use = folder.is_dir() and any(not p.name.endswith(".tmp") for p in folder.iterdir())
    resumed = in_use and _resumes(folder, cfg)
    if not resumed:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json_atomic(folder / "config.json", config.to_dict(cfg))
    nth = len(list(folder.glob("environment*.json")))  # a resumed run may run on other code: keep both
    suffix = f".{nth}" if nth else ""
    checkpoint.write_json_atomic(folder / f"environment{suffix}.json", environment())
    checkpoint.write_text_atomic(folder / f"code{suffix}.diff", _git("diff", "HEAD"))
    run = Run(folder, cfg, package, script, resumed=resumed, main=True)
    print(f"run folder: {os.path.relpath(folder)} (preset {cfg.preset}, {'resumed' if resumed else 'new'})")
    print(f"to resume:  {run.resume_command()}", flush=True)
    return run


def _resumes(folder: Path, cfg: Any) -> bool:
    """Whether the run in `folder` goes on; else it is emptied. What is not a run of `cfg` is refused."""
    try:
        stored = config.flatten(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        stored = {}
    if not {"preset", "run.seed", "run.overwrite"} <= stored.keys():
        refuse(f"{folder} is not empty and holds no config.json of a run; choose another folder")
    resume = cfg.run.resume
    if not (resume or cfg.run.overwrite):
        if _world() > 1 or not (sys.stdin.isatty() and sys.stdout.isatty()):
            refuse(f"run folder {folder} exists; go on with --run.resume or start again with --run.overwrite")
        answer = input(f"run folder {folder} exists: [r]esume, [o]verwrite or [a]bort? ").strip().lower()[:1]
        if answer not in ("r", "o"):
            refuse("stopped; nothing was changed")
        resume = answer == "r"
    if not resume:
        for path in sorted(folder.iterdir(), key=lambda p: p.name == "config.json"):  # it goes last
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return False
    now = config.flatten(config.to_dict(cfg))
    fixed = sorted(k for k in stored | now if not k.startswith("run.") or k == "run.seed")
    pairs = {k: (stored.get(k), now.get(k)) for k in fixed}
    if differing := [f"{k} ({old!r} there, {new!r} now)" for k, (old, new) in pairs.items() if old != new]:
        refuse(f"cannot resume {folder}: the config differs in {', '.join(differing)}")
    return True


class Run:
    """An open run folder; made by `start`. Under accelerate only the main process writes."""

    def __init__(
        self, folder: Path, cfg: Any, package: str, script: str = "train", *, resumed: bool, main: bool
    ) -> None:
        self.dir, self.cfg, self.resumed, self.main = folder, cfg, resumed, main
        self.package, self.script = package, script
        self._trackers: list[tuple[Any, Any]] | None = None  # (log(values, step), close())
        self._purge_step: int | None = None

    @property
    def finished(self) -> bool:
        return (self.dir / "manifest.json").is_file()

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Append one line to metrics.jsonl and tell the trackers. NaN and infinity are stored as null."""
        if not self.main:
            return
        values = checkpoint.plain(metrics)
        with open(self.dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._trackers is None:
            self._trackers = [self._open_tracker(name) for name in self.cfg.run.trackers]
        for log, _ in self._trackers:
            log({k: v for k, v in values.items() if isinstance(v, int | float)}, step)

    def truncate_after(self, step: int) -> None:
        """Forget metrics beyond `step`, the step of the checkpoint that a resumed run goes on from."""
        path = self.dir / "metrics.jsonl"
        if self.main and path.exists():
            self._close()
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step]  # whole lines
            checkpoint.write_text_atomic(path, "".join(kept))
            self._purge_step = step + 1

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, named on stdout; with several processes ask only if `resumed`."""
        return checkpoint.last_complete(self.dir, on_skip=print if self.main else lambda line: None)

    def resume_command(self) -> str:
        """The shell command that goes on with this run."""
        launch = "python -m" if _world() == 1 else "accelerate launch --config_file <the same file> -m"
        folder = os.path.relpath(self.dir)
        words = [f"{self.package}.{self.script}", "--config", f"{folder}/config.json", "--run.resume"]
        words += ["--run.output-dir", folder] if self.cfg.run.output_dir else []
        return f"{launch} {shlex.join(words)}"

    def finish(self, metrics: dict[str, Any]) -> None:
        """Close the trackers and write manifest.json, which makes the run complete."""
        if self.main:
            self._close()
            manifest = {"metrics": checkpoint.plain(metrics), "config_hash": config.config_hash(self.cfg)}
            checkpoint.write_json_atomic(self.dir / "manifest.json", manifest | environment())

    def _close(self) -> None:
        for _, close in self._trackers or ():
            close()
        self._trackers = None

    def _open_tracker(self, name: str) -> tuple[Any, Any]:
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(self.dir / name), purge_step=self._purge_step)
            return lambda values, step: [board.add_scalar(k, values[k], step) for k in values], board.close
        module = importlib.import_module(name)
        module.init(project=self.package, name=self.dir.name, config=config.to_dict(self.cfg))
        return lambda values, step: module.log(values, step=step), module.finish


def environment() -> dict[str, Any]:
    """commit, dirty (generated results aside; True without git), hardware, versions, command and date."""
    from shared import gpu

    commit = _git("rev-parse", "HEAD").strip() or "unknown"
    changed = _git("status", "--porcelain", "--no-renames", "--untracked-files=all", "-z").split("\0")
    code = [e for e in changed if e and not any(fnmatch.fnmatch(e[3:], pattern) for pattern in GENERATED)]
    there = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    versions = {"python": platform.python_version()}
    versions |= {name: there.get(name, "not installed") for name in PACKAGES}
    # As typed at the repository root, without this machine's paths or accelerate's ``-u``.
    words = [word.replace(f"{ROOT}{os.sep}", "") for word in sys.orig_argv[1:] if word != "-u"]
    inside = os.path.relpath(Path.cwd(), ROOT)
    place = "" if inside.startswith(".") else f"cd {inside} && "
    launch = "python" if _world() == 1 else f"accelerate launch --num_processes {_world()}"
    found = {"commit": commit, "dirty": bool(code) or commit == "unknown", "hardware": gpu.hardware()}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return found | {"versions": versions, "command": f"{place}{launch} {shlex.join(words)}", "date": date}


def append_record(path: Path | str, **fields: Any) -> dict[str, Any]:
    """Append an evaluation, with what `environment` measures, to a results file and the disk; returns it.

    ValueError names those of `tables.REQUIRED` that are missing. NaN and infinity are stored as null.
    """
    measured = {name: value for name, value in environment().items() if name != "command"}
    record = checkpoint.plain(fields | measured)
    if missing := [name for name in tables.REQUIRED if name not in record]:
        raise ValueError(f"the record of row {fields.get('row')!r} lacks {', '.join(missing)}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        glue = b"\n" if size and file.read(1) != b"\n" else b""  # a half-written line stays a line of its own
        file.write(glue + json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return record


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _git(*arguments: str) -> str:
    """What git prints, or nothing if it is missing or fails."""
    if not shutil.which("git"):
        return ""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, errors="replace")
    return "" if done.returncode else done.stdout
