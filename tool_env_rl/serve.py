"""Offer the tools of one environment over MCP, so that any agent can be tried against it.

    python -m tool_env_rl.serve DIR --env ID                       # stdio: the agent starts this command
    python -m tool_env_rl.serve DIR --env ID --transport http      # streamable HTTP at http://127.0.0.1:8000/mcp

The question is the server's instructions and its prompt `question`. Tool code runs in the sandbox only. DIR
is a folder of tool_env_rl.build or a JSONL file in the authors' format (then ID is a row, from 0).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import anyio

from tool_env_rl.document_checks import argument_findings, document_findings
from tool_env_rl.records import EnvRecord, choose, environments_by_row, parse_line, read_rows
from tool_env_rl.sandbox import Sandbox, SandboxUnavailable
from tool_env_rl.texts import printable, to_json, well_formed


def make_server(record: EnvRecord, sandbox: Sandbox) -> Any:
    """An MCP server (`mcp.server.Server`) with the record's tools; errors of a tool are results, not
    failures.

    Arguments are checked against the tool's schema first, so that a wrong call is answered with what is
    wrong.
    """
    try:
        from mcp import types
        from mcp.server import Server
    except ImportError:
        raise ImportError("serving needs the MCP package: pip install mcp") from None

    question = well_formed(record.messages[0].get("content") or "")
    tools = {tool["function"]["name"]: tool for tool in record.tools}
    usable = tools.keys() - unusable(record).keys()

    async def list_tools(context: Any, params: Any) -> Any:
        listed = [
            types.Tool(
                name=name,
                description=well_formed(tool["function"].get("description", "")),
                input_schema=json.loads(well_formed(to_json(tool["function"]["parameters"]))),
            )
            for name, tool in tools.items()
            if name in usable
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: Any) -> Any:
        name, arguments = params.name, params.arguments or {}
        if name not in usable:
            return reply(f"Error: there is no tool {name!r}; tools are {', '.join(sorted(usable))}.", True)
        if wrong := argument_findings(tools[name], arguments, "the call"):
            return reply(f"Error: {wrong[0].message}", True)
        result = await anyio.to_thread.run_sync(sandbox.call, record.codes[name], name, arguments)
        return reply(result.output, result.status != "ok")

    def reply(text: str, is_error: bool) -> Any:
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)

    async def list_prompts(context: Any, params: Any) -> Any:
        return types.ListPromptsResult(
            prompts=[types.Prompt(name="question", description="What to find out")]
        )

    async def get_prompt(context: Any, params: Any) -> Any:
        content = types.TextContent(type="text", text=question)
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    return Server(
        "tool_env_rl",
        instructions=question,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
    )


def unusable(record: EnvRecord) -> dict[str, str]:
    """Tools that are not offered, and why: no valid document, or no code."""
    found: dict[str, str] = {}
    for tool in record.tools:
        name = tool["function"]["name"]
        if findings := document_findings(tool):
            found[name] = findings[0].message
        elif name not in record.codes:
            found[name] = f"tool {name} has no code"
    return found


async def serve_stdio(server: Any) -> None:
    """Serve on standard input and output until the client leaves."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def load_record(path: str, wanted: str) -> EnvRecord:
    """The record with id `wanted` of a build folder, or of row `wanted`; ValueError if there is none.

    Malformed rows are named on stderr and keep their number.
    """
    if Path(path).is_dir():
        environments, problems = environments_by_row(path)
        names = [env.id for env in environments.values()]
        records = {row: env.record for row, env in environments.items()}
    else:
        records, problems = read_rows(path, parse_line)
        names = [str(row) for row in records]
    for problem in problems:
        _say(f"skipped: {problem}")
    if problems:
        _say(f"{len(problems)} malformed rows skipped, {len(records)} read")
    return list(records.values())[choose(names, wanted, list(records))]


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tool_env_rl.serve", description=__doc__, formatter_class=kind)
    parser.add_argument("path", help="folder of tool_env_rl.build, or a JSONL file in the authors' format")
    parser.add_argument("--env", default="0", help="id of the environment, or its row from 0 (default 0)")
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    parser.add_argument("--host", default="127.0.0.1", help="http: address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="http: port (default 8000)")
    parser.add_argument(
        "--unsafe-exec", action="store_true", help="run tools even where nothing contains them"
    )
    args = parser.parse_args(argv)
    try:
        record = load_record(args.path, args.env)
        missing = unusable(record)
        for reason in missing.values():
            _say(f"not offered: {reason}")
        if missing:
            _say(f"{len(missing)} tools not offered, {len(record.tools) - len(missing)} are")
        with Sandbox(1, unsafe_exec=args.unsafe_exec) as sandbox:
            server = make_server(record, sandbox)
            if args.transport == "stdio":
                anyio.run(serve_stdio, server)
            else:
                import uvicorn

                app = server.streamable_http_app(host=args.host)
                print(f"serving {record.question!r} at http://{args.host}:{args.port}/mcp", file=sys.stderr)
                uvicorn.run(app, host=args.host, port=args.port, log_level="warning")
    except (ValueError, OSError, ImportError, SandboxUnavailable) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
