"""The frame: layout, imports, packaging, make targets, and nothing that leaves the machine."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from functools import cache
from pathlib import Path

import pytest

import shared

REPO = Path(__file__).resolve().parent.parent
PAPERS = ("alignment_study", "tool_env_rl", "resip_assembly", "cls_rl", "adactrl")
PACKAGES = ("shared", *PAPERS)
TARGETS = ("help", "setup", "demo", "test", "lint", "train", "reproduce", "tables", "bench", "clean")
NAMED = ("torch", "transformers", "trl", "peft", "qwen-vl-utils")
NAMED += ("datasets", "accelerate", "mujoco", "gymnasium", "diffusers")


@cache
def repo_files() -> tuple[Path, ...]:
    """Files git tracks or would track; without git, all files outside caches and the environment."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") and (REPO / ".git").exists():
        names = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout.split(
            "\0"
        )
        found = [REPO / name for name in names if name]
    else:
        skipped = {".venv", "runs", "__pycache__", ".git", ".pytest_cache", ".ruff_cache", ".hypothesis"}
        found = [path for path in REPO.rglob("*") if not skipped & set(path.relative_to(REPO).parts)]
    return tuple(sorted(path for path in found if path.is_file()))


def python_files(folder: str) -> list[Path]:
    return [p for p in repo_files() if p.suffix == ".py" and p.relative_to(REPO).parts[0] == folder]


def imported_names(path: Path) -> set[str]:
    """Top-level names that `path` imports, at any depth of nesting; '.' stands for a relative import."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else str(node.module).partition(".")[0])
    return names


def make(*args: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *args], cwd=cwd, capture_output=True, text=True, env=env, timeout=60)


def pyproject() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text())


# --- imports -----------------------------------------------------------------------------------------------


def test_shared_is_this_repository() -> None:
    assert Path(str(shared.__file__)).resolve() == REPO / "shared" / "__init__.py"


@pytest.mark.parametrize("folder", PACKAGES)
def test_no_module_shadows_stdlib_or_dependency(folder: str) -> None:
    """A script's folder comes first on the path: adactrl/datasets.py would replace Hugging Face's. What lies
    deeper (tool_env_rl/commands/inspect.py) is not on it."""
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    taken |= {requirement.replace("-", "_") for requirement in requirement_names()}
    taken |= {"evaluate", "tokenizers", "vllm", "deepspeed", "wandb", "trackio", "torchvision"}
    paths = [p.relative_to(REPO / folder).parts for p in python_files(folder)]
    first = {Path(parts[0]).stem for parts in paths} - {"__init__", "__main__"}
    assert not first & (taken - set(PACKAGES))


@pytest.mark.parametrize("folder", [*PACKAGES, "benchmarks", "tests"])
def test_imports_are_absolute_and_point_downwards(folder: str) -> None:
    """No relative import; shared imports no paper; a paper imports no other paper."""
    allowed = {"shared": set(), "benchmarks": set(PAPERS), "tests": set(PAPERS)}.get(folder, {folder})
    for path in python_files(folder):
        names = imported_names(path)
        assert "." not in names, f"{path.relative_to(REPO)}: relative import; write it absolutely"
        assert not names & (set(PAPERS) - allowed), f"{path.relative_to(REPO)} imports another paper"


@pytest.mark.parametrize("paper", PAPERS)
def test_scripts_are_imported_by_nobody(paper: str) -> None:
    """train.py and reproduce.py run as __main__; what others need must live in another module."""
    for path in [*python_files(paper), *python_files("shared")]:
        assert not re.search(rf"(from|import) {paper}\.(train|reproduce)\b", path.read_text()), path.name


def test_shared_stays_thin() -> None:
    lines = {p.name: len(p.read_text().splitlines()) for p in python_files("shared")}
    assert sum(lines.values()) <= 1500, lines


def test_tests_have_no_packages() -> None:
    assert not [p for p in python_files("tests") if p.name == "__init__.py"]


# --- packaging ---------------------------------------------------------------------------------------------


def requirement_names(group: str = "") -> set[str]:
    project = pyproject()["project"]
    lines = project["optional-dependencies"][group] if group else project["dependencies"]
    return {re.match(r"[A-Za-z0-9_.-]+", line).group().lower() for line in lines}  # type: ignore[union-attr]


def test_pyproject_lists_packages_and_dependencies() -> None:
    data = pyproject()
    assert data["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    assert set(NAMED) <= requirement_names()
    for line in data["project"]["dependencies"]:
        if re.match(r"(trl|transformers|mujoco|gymnasium)\b", line):
            assert "<" in line, f"{line}: needs an upper bound"


def test_constraints_pin_every_dependency() -> None:
    lines = [
        ln for ln in (REPO / "constraints.txt").read_text().splitlines() if ln and not ln.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", line) for line in lines), lines
    pins = {line.partition("==")[0].lower().replace("_", "-"): line.partition("==")[2] for line in lines}
    assert pins["torch"] == "2.13.0"
    assert requirement_names() | requirement_names("dev") | requirement_names("pretrained") <= set(pins)
    for name in NAMED:
        assert importlib.metadata.version(name).partition("+")[0] == pins[name], f"{name}: run make setup"


@pytest.mark.parametrize("paper", PAPERS)
def test_paper_folder_says_what_it_is(paper: str) -> None:
    docstring = ast.get_docstring(ast.parse((REPO / paper / "__init__.py").read_text()))
    assert docstring
    assert re.search(r"arXiv 2\d{3}\.\d{5}", docstring)
    assert len((REPO / paper / "__init__.py").read_text().splitlines()) < 10
    if not (REPO / paper / "train.py").exists():
        assert "Not built yet" in docstring
        assert "Not built yet" in (REPO / paper / "README.md").read_text()


# --- make and CI -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", *PAPERS])
def test_every_makefile_has_every_target(folder: str) -> None:
    listed = make("help", cwd=REPO / folder)
    assert listed.returncode == 0, listed.stderr
    assert {*TARGETS} <= set(re.findall(r"^  ([a-z-]+) ", listed.stdout, re.MULTILINE))
    for target in TARGETS:
        dry = make("-n", target, cwd=REPO / folder)
        assert dry.returncode == 0, f"{folder}: make {target}: {dry.stderr}"


@pytest.mark.parametrize("paper", [p for p in PAPERS if not (REPO / p / "train.py").exists()])
def test_unbuilt_paper_says_so(paper: str) -> None:
    assert f"{paper} is not built yet" in make("help", cwd=REPO / paper).stdout
    stamp = make("-n", "-p", "setup", cwd=REPO / paper).stdout
    name = re.search(r"^STAMP := (.+)$", stamp, re.MULTILINE)
    assert name
    for target in ("train", "demo", "reproduce"):
        done = make("-o", name.group(1), target, cwd=REPO / paper)  # -o: take the environment as it is
        assert done.returncode != 0
        assert f"{paper} is not built yet" in done.stderr


def test_ci_runs_the_readme_test_command() -> None:
    commands = [ln for ln in (REPO / ".ci" / "run").read_text().splitlines() if ln and not ln.startswith("#")]
    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "make test"
    assert re.search(r"^make test\b", (REPO / "README.md").read_text(), re.MULTILINE)
    assert os.access(REPO / ".ci" / "run", os.X_OK)


def test_readme_tree_names_what_exists() -> None:
    tree = (REPO / "README.md").read_text().partition("## Files")[2].split("```")[1]
    here = ""
    named = set()
    for line in filter(None, tree.splitlines()):
        if not line.startswith(" "):
            here = line.split()[0] if line.split()[0].endswith("/") else ""
            named |= set(re.findall(r"^\S+(?: \S+\.mk)?", line)[0].split())
        else:
            named.add(here + line.split()[0])
    assert not [name for name in named if not (REPO / name).exists()]
    assert {f"shared/{p.name}" for p in python_files("shared")} - {"shared/__init__.py"} <= named


# --- nothing of this machine, nothing off this machine -----------------------------------------------------


def test_no_machine_path_or_registry_host_is_tracked() -> None:
    folders = "|".join(["work", "root", "home", "Users"])
    hosts = "|".join(["pypi", "pythonhosted", "npmjs", "crates"])
    pattern = re.compile(rf"(?<![\w.~}}-])/(?:{folders})/\w|\b(?:{hosts})\.(?:org|io)\b|/opt/py" + "pi")
    found = []
    for path in repo_files():
        if path.suffix in {".png", ".gif", ".safetensors", ".pt", ".gz", ".npz"}:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(REPO)}:{number}: {match.group()}")
    assert not found, found


def child(code: str, log: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh Python under the network guard, with `log` as its list of attempts."""
    full = {**os.environ, "OFFLINE_GUARD_LOG": str(log), **env}
    full.pop("HF_HUB_OFFLINE")
    return subprocess.run([sys.executable, "-c", code], cwd=REPO, env=full, capture_output=True, text=True)


@pytest.mark.skipif("OFFLINE_GUARD_LOG" not in os.environ, reason="this run asks for the network")
def test_guard_stops_and_records_what_leaves_the_machine(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import socket
        for act in (lambda: socket.socket().connect(("192.0.2.1", 9)),
                    lambda: socket.socket().connect_ex(("192.0.2.1", 9)),
                    lambda: socket.getaddrinfo("hub.invalid", 443)):
            try:
                act()
            except ConnectionError as error:
                print(error)
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname()).close()
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    """)
    done = child(code, tmp_path / "log")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the tests are offline") == 3
    attempts = (tmp_path / "log").read_text()
    assert "connect ('192.0.2.1', 9)" in attempts
    assert "connect_ex ('192.0.2.1', 9)" in attempts
    assert "getaddrinfo ('hub.invalid',)" in attempts


@pytest.mark.slow
def test_importing_everything_opens_no_socket(tmp_path: Path) -> None:
    """Every module of shared and of the built papers, without HF_HUB_OFFLINE: not even loopback."""
    files = [p for folder in PACKAGES for p in python_files(folder) if p.name != "__main__.py"]
    modules = [".".join(p.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__") for p in files]
    code = textwrap.dedent(f"""
        import importlib, socket
        def refuse(self, *args):
            raise RuntimeError(f"a socket was opened: {{args}}")
        socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = refuse
        for name in {modules!r}:
            importlib.import_module(name)
    """)
    done = child(code, tmp_path / "log")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "log").exists(), (tmp_path / "log").read_text()
