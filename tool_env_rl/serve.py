"""Offer the tools of one environment over MCP, so that any agent can be tried against it.

    python -m tool_env_rl.serve DIR --env ID                       # stdio: the agent starts this command
    python -m tool_env_rl.serve DIR --env ID --transport http      # streamable HTTP at http://127.0.0.1:8000/mcp

The question is the server's instructions and its prompt `question`. Tool code runs in the sandbox only. DIR
is a folder of tool_env_rl.build or a JSONL file in the authors' format (then ID is a row, from 0).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import anyio

from tool_env_rl.document_checks import argument_findings, document_findings
from tool_env_rl.records import EnvRecord, choose, read_environments, read_records
from tool_env_rl.sandbox import Sandbox, SandboxUnavailable


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

    tools = {tool["function"]["name"]: tool for tool in record.tools}
    usable = {name for name, tool in tools.items() if not document_findings(tool)}

    async def list_tools(context: Any, params: Any) -> Any:
        listed = [
            types.Tool(
                name=name,
                description=tool["function"].get("description", ""),
                input_schema=tool["function"].get("parameters") or {"type": "object"},
            )
            for name, tool in tools.items()
            if name in usable
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(context: Any, params: Any) -> Any:
        name, arguments = params.name, params.arguments or {}
        if name not in usable or name not in record.codes:
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
        content = types.TextContent(type="text", text=record.messages[0]["content"])
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    return Server(
        "tool_env_rl",
        instructions=record.messages[0]["content"],
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
    )


async def serve_stdio(server: Any) -> None:
    """Serve on standard input and output until the client leaves."""
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def load_record(path: str, wanted: str) -> EnvRecord:
    """The record with id `wanted` of a build folder, or row `wanted` of a JSONL file; ValueError if none."""
    if Path(path).is_dir():
        environments = read_environments(path)
        return environments[choose([env.id for env in environments], wanted)].record
    records, _ = read_records(path)
    return records[choose([str(row) for row in range(len(records))], wanted)]


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
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
