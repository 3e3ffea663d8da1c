"""ToolHop: load tasks and score answers (arXiv 2508.08791, §4.2; authors' `evaluation_toolhop.py`).

Three scenarios: Direct (no tools), Mandatory (must use them), Free (may); at most 9 turns. AC is the share
of right answers; the paper's table holds the mean over the three scenarios, so a third of it needs no tools.
995 queries.

Fields read: `question`, `answer`, `tools` (a map to function documents, or a list of them), `functions` (a
map from tool name to source, or a list of sources) and, optionally, `messages`, which then are the prompt.
The first form of each is what the authors' harness reads; the list form is accepted because the layout of
the hub's copy (bytedance-research/ToolHop) was not seen. The instruction's wording is ours; its demands are
the authors'.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from tool_env_rl.benchmark_files import BadTask, field, load_tasks
from tool_env_rl.protocol import answer_matches

Scenario = Literal["Direct", "Mandatory", "Free"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
MAX_TURNS = 9
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_MANDATORY = (
    "Call a tool at every step; do not use your own knowledge. The answer must come out of a tool too."
)
_FORMAT = "Write a date as YYYY-MM-DD, a name as Firstname Lastname, a number in digits and nothing else."


@dataclass(frozen=True)
class ToolHopTask:
    """One query; `tools` are OpenAI function-calling documents, `codes` maps tool names to Python source."""

    question: str
    answer: str
    tools: tuple[dict[str, Any], ...]
    codes: dict[str, str]
    messages: tuple[dict[str, Any], ...] = ()

    def prompt(self, scenario: Scenario) -> list[dict[str, Any]]:
        """Messages of the first turn: those of the row, or our instruction and the question."""
        if self.messages:
            return [dict(message) for message in self.messages]
        lines = ["Answer the question, as shortly as possible."]
        lines += [_MANDATORY] if scenario == "Mandatory" else []
        lines += [_FORMAT, "Put it between tags: <answer>your answer</answer>", f"Question: {self.question}"]
        return [{"role": "user", "content": "\n".join(lines)}]

    def tools_for(self, scenario: Scenario) -> list[dict[str, Any]]:
        """The tool documents; none in Direct."""
        return [] if scenario == "Direct" else [dict(tool) for tool in self.tools]


def load(source: str | Path, *, split: str = "test") -> tuple[list[ToolHopTask], list[str]]:
    """Tasks of a local file or hub data set, and one sentence per row left out."""
    return load_tasks(source, parse_task, split=split)


def parse_task(row: dict[str, Any]) -> ToolHopTask:
    """A task of one row; BadTask names the field."""
    tools = field(row, "tools", (dict, list))
    documents = [_document(tool) for tool in (tools.values() if isinstance(tools, dict) else tools)]
    functions = field(row, "functions", (dict, list))
    if isinstance(functions, list):
        functions = {_defined_name(source): source for source in functions}
    if not all(isinstance(source, str) for source in functions.values()):
        raise BadTask("field functions must map tool names to source texts")
    messages = field(row, "messages", list) if row.get("messages") else []
    answer = str(field(row, "answer", (str, int, float)))
    return ToolHopTask(field(row, "question", str), answer, tuple(documents), functions, tuple(messages))


def _document(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise BadTask("field tools must hold function documents")
    tool = tool if "function" in tool else {"type": "function", "function": tool}
    if not isinstance(tool["function"], dict) or not isinstance(tool["function"].get("name"), str):
        raise BadTask("field tools: a document lacks its name")
    return tool


def _defined_name(source: Any) -> str:
    try:
        functions = [n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise BadTask(f"field functions: a source is no Python ({error})") from None
    if not functions:
        raise BadTask("field functions: a source defines no function")
    return functions[-1]


def answer_correct(messages: Sequence[Mapping[str, Any]], answer: str, *, official: bool = True) -> bool:
    """Is the last assistant message right?

    official=True, the authors': it is non-empty and holds the gold answer as a substring, or the tool
        message just before it does; tags and thoughts are ignored.
    official=False: the text between <answer> tags (the last pair; without tags the text after </think>)
        holds it as whole tokens.

    | last messages                            | official | ours  |
    |------------------------------------------|----------|-------|
    | `<answer>1931</answer>`                  | True     | True  |
    | tool `1931`, assistant `I do not know`   | True     | False |
    | `<answer>19315</answer>`                 | True     | False |
    | tool `1931`, assistant nothing           | False    | False |
    """
    last = messages[-1] if messages else {}
    text = last.get("content")
    if last.get("role") != "assistant" or not isinstance(text, str) or not text:
        return False
    if not official:
        final = text.rpartition("</think>")[2]
        tagged = _ANSWER.findall(final)
        return answer_matches(tagged[-1] if tagged else final, answer, strict=True)
    if answer_matches(text, answer):
        return True
    before = messages[-2] if len(messages) > 1 else {}
    return before.get("role") == "tool" and answer_matches(str(before.get("content")), answer)


def accuracy(correct: Mapping[Scenario, Sequence[bool]]) -> dict[str, float]:
    """AC in percent per scenario present, and under "all" the mean over the three if all are there."""
    if unknown := [name for name in correct if name not in SCENARIOS]:
        raise ValueError(f"scenario {unknown[0]!r} is not one of {', '.join(SCENARIOS)}")
    if empty := [name for name, results in correct.items() if not results]:
        raise ValueError(f"scenario {empty[0]} has no result; leave it out")
    table: dict[str, float] = {name: 100 * fmean(results) for name, results in correct.items()}
    if len(table) == len(SCENARIOS):
        table["all"] = fmean(table.values())
    return table
