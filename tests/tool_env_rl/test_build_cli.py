"""The commands build and inspect as a user calls them, and scripts beside a command called inspect."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tool_env_rl
from tool_env_rl import build
from tool_env_rl.records import read_environments, read_records

PACKAGE = Path(str(tool_env_rl.__file__)).parent
DEV = PACKAGE.parents[1] / "shared" / "data" / "ftrl" / "test_dev.jsonl"
KB = {
    "types": {"person": ["Ada", "Bob", "Cleo", "Dan"], "town": ["Oslo", "Rome", "Bern", "Kiel"]},
    "relations": [{"name": "home", "source": "person", "target": "town"}],
}


def inspect_main(*argv: str) -> int:
    module: Any = importlib.import_module("tool_env_rl.inspect")
    return module.main(list(argv))


def test_build_then_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "build"
    assert build.main(["--n", "4", "--out", str(folder), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "4 environments in" in said
    assert all(
        stage in said for stage in ("decompose", "document", "integrate", "scale", "deploy", "validate")
    )
    records, problems = read_records(folder / "environments.jsonl")
    assert (len(records), problems) == (4, [])
    assert inspect_main(str(folder), "--env", "2") == 0
    shown = capsys.readouterr().out
    assert "4 of 4 environments pass" in shown
    assert "gold transcript" in shown
    env = read_environments(folder)[2]
    assert all(f"[ok] {step.answer}" in shown for step in env.steps)


def test_inspect_finds_what_was_broken_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "build"
    build.main(["--n", "2", "--out", str(folder), "--workers", "1"])
    path = folder / "environments.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["codes"] = rows[1]["codes"].replace("No matching record found.", rows[1]["answer"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert inspect_main(str(folder)) == 1
    said = capsys.readouterr().out
    assert "1 of 2 environments pass" in said
    assert "perturbed" in said


def test_inspect_reads_the_authors_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not DEV.exists():
        pytest.skip(f"{DEV} is not here")
    lines = DEV.read_bytes().splitlines()[:3]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([lines[0], b'{"messages": []}', *lines[1:]]))
    assert inspect_main(str(path), "--env", "1") == 1
    said = capsys.readouterr().out
    assert "line 2, field tools: is missing" in said
    assert "1 malformed rows skipped, 3 read" in said


def test_inspect_names_bad_rows_of_a_build_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "build"
    build.main(["--n", "4", "--out", str(folder), "--workers", "1"])
    gold = [json.loads(line) for line in (folder / "gold.jsonl").read_text().splitlines()]
    gold[0]["steps"][0]["arguments"] = [1]
    del gold[1]["final"]["rule"]
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    lines = (folder / "environments.jsonl").read_text().splitlines()
    (folder / "environments.jsonl").write_text("\n".join([*lines[:3], "{"]) + "\n")
    capsys.readouterr()
    assert inspect_main(str(folder)) == 1
    said = capsys.readouterr().out
    assert "gold.jsonl, line 1, field steps[0].arguments: is a JSON list; write a JSON dict" in said
    assert "gold.jsonl, line 2, field final.rule: is missing" in said
    assert "environments.jsonl, line 4, field row: is not valid JSON" in said
    assert "3 malformed rows skipped, 1 read" in said
    assert "row 0 is malformed" in said
    assert "1 of 1 environments pass" in said
    assert inspect_main(str(folder), "--env", "2", "--no-validate") == 1
    assert gold[2]["id"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"type": "object", "required": True}, "True is not of type"),
        ({"type": "object", "properties": 5}, "at properties: must be an object"),
        ({"type": "object", "required": [["x"]]}, "is not of type"),
        ({}, '"object"'),
    ],
)
def test_inspect_names_a_bad_schema_of_the_row_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parameters: dict[str, Any], says: str
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    row = {"messages": [{"role": "user", "content": "Q"}], "solve_rate": 0, "data_source": "self/single_hop"}
    row |= {"tools": json.dumps([tool]), "codes": "{}", "unsolved_set": '{"f": ["1"]}'}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row | {"split": "train", "answer": "1"}) + "\n")
    assert inspect_main(str(path)) == 1
    said = capsys.readouterr().out
    assert "schema" in said
    assert says in " ".join(said.replace("│", " ").split())  # without the columns of the table


def test_ones_own_knowledge_base_and_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kb.json").write_text(json.dumps(KB))
    command = ["--out", str(tmp_path / "kb"), "--knowledge-base", str(tmp_path / "kb.json"), "--workers", "1"]
    assert build.main([*command, "--n", "2", "--scenario", "single_hop"]) == 0
    assert {env.record.answer for env in read_environments(tmp_path / "kb")} <= set(KB["types"]["town"])
    row = {"question": "Where lives Ada?", "answer": "Oslo"}
    step = {"relation": "home", "subject": "Ada", "answer": "Oslo"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row | {"steps": [step]}) + "\nnonsense\n")
    assert (
        build.main(
            ["--out", str(tmp_path / "own"), "--questions", str(tmp_path / "own.jsonl"), "--workers", "1"]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert "line 2, field row: is not valid JSON" in captured.err
    assert [env.record.question for env in read_environments(tmp_path / "own")] == ["Where lives Ada?"]
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    build.main(
        ["--out", str(tmp_path / "none"), "--questions", str(tmp_path / "own.jsonl"), "--workers", "1"]
    )
    report = json.loads((tmp_path / "none" / "report.json").read_text())
    assert (report["environments"], report["given_up"]) == (0, 1)
    assert report["decompose"]["reasons"] == {"steps": 1}


def test_a_question_with_a_lone_surrogate_is_built_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "Where lives \ud800 Ada?", "answer": "Oslo"}
    row |= {"steps": [{"relation": "home", "subject": "Ada", "answer": "Oslo"}]}
    odd = {"question": "Who?", "answer": "\udfff", "steps": [row["steps"][0] | {"answer": "\udfff"}]}
    bad = {"question": "Who?", "answer": "Oslo", "\ud800": 1}
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (row, odd, bad)))
    folder = tmp_path / "own"
    command = ["--out", str(folder), "--questions", str(tmp_path / "own.jsonl"), "--workers", "1"]
    for _ in range(2):  # the second goes on from what the first has written
        assert build.main(command) == 0
        assert "field \\ud800: is unknown" in capsys.readouterr().err
    assert [env.record.question for env in read_environments(folder)] == [row["question"]]
    assert inspect_main(str(folder)) == 0
    assert inspect_main(str(folder / "environments.jsonl")) == 0
    assert capsys.readouterr().out.count("Where lives \\ud800 Ada?") == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--n", "0"], "n=0 must be at least 1"),
        (["--level", "7"], "0 … 4"),
        (["--hops", "5", "2"], "shortest first"),
        (["--backend", "openai"], "needs --model"),
        (["--questions", "/no/such/file"], "No such file"),
        (["--knowledge-base", __file__], "not valid JSON"),
    ],
)
def test_refusals_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build.main(["--out", str(tmp_path / "x"), *options])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_help_documents_the_file_formats() -> None:
    text = build.parser().format_help()
    assert '"depends_on": [1]' in text
    assert '"facts": [["birthplace", "Ada", "Rome"]' in text


@pytest.mark.slow
def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle; the same command then gives what an undisturbed build gives."""
    command = [sys.executable, "-m", "tool_env_rl.build", "--n", "12", "--workers", "1", "--out"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, str(tmp_path / "killed")], **quiet)
    deployed = tmp_path / "killed" / "stages" / "5_deploy.jsonl"
    deadline = time.monotonic() + 60
    while not (deployed.exists() and deployed.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "environments.jsonl").exists()
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], check=True, **quiet)
    written = [(tmp_path / name / "environments.jsonl").read_bytes() for name in ("killed", "whole")]
    assert written[0] == written[1]


HEAVY = pytest.param("torch, transformers, mcp, openai, ", marks=pytest.mark.slow)


@pytest.mark.parametrize("heavy", ["", HEAVY])
def test_scripts_in_the_folder_get_the_standard_library(heavy: str) -> None:
    """`cd tool_env_rl && python train.py` puts the folder first on the path, as -c does."""
    code = f"import {heavy}inspect, dataclasses, sys; assert sys.path[0] == ''; print(inspect.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not Path(done.stdout.strip()).is_relative_to(PACKAGE)


@pytest.mark.parametrize("folder", [PACKAGE, PACKAGE.parent], ids=["inside", "root"])
def test_inspect_is_a_command_from_both_folders(folder: Path) -> None:
    command = [sys.executable, "-m", "tool_env_rl.inspect", "--help"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Show and validate environments" in done.stdout
