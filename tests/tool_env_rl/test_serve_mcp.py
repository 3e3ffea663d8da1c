"""One environment's tools over MCP, with the official client: stdio by a process, HTTP in memory."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client

from tool_env_rl import serve
from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.pipeline import BuildSettings, build
from tool_env_rl.document_checks import argument_findings, document_findings
from tool_env_rl.records import Environment, read_environments
from tool_env_rl.sandbox import Sandbox


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mcp") / "build"
    with Sandbox(1) as sandbox:
        build(BuildSettings(n=2, scenarios=("multi_hop",)), made, DeterministicBackend(), sandbox)
    return made


def environment(folder: Path, row: int) -> Environment:
    return read_environments(folder)[row]


async def play(session: ClientSession | Client, env: Environment) -> None:
    """The gold calls solve every step; wrong calls are answered, not failures of the server."""
    listed = {tool.name: tool for tool in (await session.list_tools()).tools}
    documents = {tool["function"]["name"]: tool["function"] for tool in env.record.tools}
    assert {name: tool.input_schema for name, tool in listed.items()} == {
        name: function["parameters"] for name, function in documents.items()
    }
    for step in env.steps:
        result = await session.call_tool(step.tool, step.arguments)
        assert (result.is_error, result.content[0].text) == (False, step.answer)
    first = env.steps[0]
    wrong = await session.call_tool(first.tool, {})
    assert wrong.is_error
    assert "is a required property" in wrong.content[0].text
    missing = await session.call_tool("no_such_tool", {})
    assert missing.is_error
    assert "there is no tool 'no_such_tool'" in missing.content[0].text
    prompt = await session.get_prompt("question")
    assert prompt.messages[0].content.text == env.record.messages[0]["content"]


@pytest.mark.slow
def test_a_client_plays_an_environment_over_stdio(folder: Path) -> None:
    env = environment(folder, 1)
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "tool_env_rl.serve", str(folder), "--env", env.id]
    )

    async def run() -> None:
        async with stdio_client(command) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            with anyio.fail_after(60):
                await play(session, env)

    anyio.run(run)


def test_a_client_plays_an_environment_in_memory(folder: Path) -> None:
    env = environment(folder, 0)

    async def run() -> None:
        with Sandbox(1) as sandbox:
            async with Client(serve.make_server(env.record, sandbox)) as client:
                await play(client, env)

    anyio.run(run)


def test_records_are_found_by_id_row_or_file(folder: Path) -> None:
    env = environment(folder, 1)
    assert serve.load_record(str(folder), env.id) == env.record
    assert serve.load_record(str(folder), "1") == env.record
    assert serve.load_record(str(folder / "environments.jsonl"), "1") == env.record
    with pytest.raises(ValueError, match="no environment '7'"):
        serve.load_record(str(folder), "7")


def file_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "environments.jsonl").read_text().splitlines()]


def test_a_bad_row_is_named_and_does_not_shift_the_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "environments.jsonl").read_text().splitlines()
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(["{}", *lines]) + "\n")
    assert serve.load_record(str(path), "1") == environment(folder, 0).record
    said = capsys.readouterr().err
    assert f"skipped: {path}, line 1, field messages: is missing" in said
    assert "1 malformed rows skipped, 2 read" in said
    assert serve.main([str(path), "--env", "0"]) == 2
    assert "there is no environment '0'; rows are 1 … 2" in capsys.readouterr().err


def test_a_bad_gold_row_costs_its_own_environment(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "environments.jsonl").write_bytes((folder / "environments.jsonl").read_bytes())
    lines = (folder / "gold.jsonl").read_text().splitlines()
    (tmp_path / "gold.jsonl").write_text(f"[]\n{lines[1]}\n")
    env = environment(folder, 1)
    assert serve.load_record(str(tmp_path), "1") == serve.load_record(str(tmp_path), env.id) == env.record
    assert "gold.jsonl, line 1, field row: is a JSON list" in capsys.readouterr().err


BROKEN_TOOLS = [
    ({"description": 5}, "description must be text"),
    (
        {"parameters": {"type": "object", "required": True}},
        "at the top.required: True is not of type 'array'",
    ),
    (
        {"parameters": {"type": "object", "properties": {"x": {"$ref": "#/$defs/none"}}}},
        "$ref '#/$defs/none' leads to nothing inside the document",
    ),
    (
        {"parameters": {"type": "object", "properties": {"x": {"items": {"$ref": "http://[/x"}}}}},
        "$ref 'http://[/x' leads to nothing",
    ),
]


@pytest.mark.parametrize(("change", "says"), BROKEN_TOOLS)
def test_an_unusable_tool_is_named_and_not_offered(folder: Path, change: dict, says: str) -> None:
    record = environment(folder, 0).record
    first, *others = record.tools
    broken = replace(record, tools=[{**first, "function": first["function"] | change}, *others])
    name = first["function"]["name"]
    assert says in serve.unusable(broken)[name]

    async def run() -> None:
        with Sandbox(1) as sandbox:
            async with Client(serve.make_server(broken, sandbox)) as client:
                assert name not in {tool.name for tool in (await client.list_tools()).tools}
                assert (await client.call_tool(name, {})).is_error

    anyio.run(run)


def test_main_says_what_it_does_not_offer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = file_rows(folder)[0]
    tools = json.loads(row["tools"])
    tools[0]["function"]["description"] = 5
    codes = json.loads(row["codes"])
    del codes[tools[1]["function"]["name"]]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row | {"tools": json.dumps(tools), "codes": json.dumps(codes)}) + "\n")
    monkeypatch.setattr(serve.anyio, "run", lambda *_: None)
    assert serve.main([str(path)]) == 0
    said = capsys.readouterr().err
    assert "description must be text" in said
    assert "has no code" in said
    assert f"2 tools not offered, {len(tools) - 2} are" in said


@pytest.mark.parametrize("references", [{"$ref": "#/properties/x"}, {"$ref": "#"}])
def test_a_schema_that_refers_to_itself_is_answered(references: dict) -> None:
    parameters = {"type": "object", "properties": {"x": references}}
    tool = {"function": {"name": "f", "parameters": parameters}}
    assert document_findings(tool) == []
    nested: dict = {}
    for _ in range(5000):
        nested = {"x": nested}
    (found,) = argument_findings(tool, nested, "the call")
    assert "nested too deeply" in found.message


def test_texts_without_utf8_form_are_served(folder: Path) -> None:
    record = environment(folder, 0).record
    first, *others = record.tools
    odd = {**first, "function": first["function"] | {"description": "x\ud800"}}
    odd_record = replace(record, tools=[odd, *others], messages=[{"role": "user", "content": "Q\ud800"}])

    async def run() -> None:
        with Sandbox(1) as sandbox:
            async with Client(serve.make_server(odd_record, sandbox)) as client:
                tools = (await client.list_tools()).tools
                assert tools[0].description == "x\ufffd"
                prompt = await client.get_prompt("question")
                assert prompt.messages[0].content.text == "Q\ufffd"

    anyio.run(run)


def test_a_missing_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main([str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
