"""One environment's tools over MCP, with the official client: stdio by a process, HTTP in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client

from tool_env_rl import serve
from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.pipeline import BuildSettings, build
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


def test_a_missing_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main([str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
