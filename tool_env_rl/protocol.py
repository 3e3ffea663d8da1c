"""Hermes tool calls: render, parse, match, and keep the books of what is solved (arXiv 2508.08791, §2.4).

The authors' side of it: `Code/utils/parse_output.py` and `answer_verify` in `Code/utils/utils.py`.

    assistant:  text <tool_call>{"name": ..., "arguments": {...}}</tool_call> <tool_call>...</tool_call>
    tool:       one message per call, rendered by the chat template as <tool_response> blocks

`unsolved` maps a tool's name to its sub-answers not yet obtained; it is the whole verification state.

Where we leave the authors' code (D2, D3), each with a reason:
    - a piece whose `name` is no string, or whose `arguments` are no object after the second decoding, is
      skipped; theirs executes it and always gets an error message;
    - a piece nested deeper than `MAX_DEPTH` is skipped, so that nothing downstream can overflow the stack;
    - all trailing end tokens go, not one of each;
    - the echo guard is on (`echo_guard=False` reproduces their leak, defect 2 of §6.2).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tool_env_rl.texts import well_formed

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"
# The third one looks like a slip for <tool_response>; it is what the authors test (§2.8-5).
MALFORMED_MARKERS = (CALL_START, CALL_END, "<tool_parsed_response>")
END_TOKENS = ("<|endoftext|>", "<|im_end|>")
MAX_DEPTH = 64
REPR_LIMIT = 200  # characters of an argument's repr in the messages of int() and others (CPython's %.200R)
MAX_NUMBER = 400  # characters of an argument that is tried as a number; the longest float has 309 digits

# Openings of ChatML, Llama, Gemma, DeepSeek and Mistral markers, and of the Hermes tags.
_MARKER = re.compile(
    r"<(?=[|\uff5c]|/?(?:tools?|tool_call|tool_response|tool_parsed_response|think|s|bos|eos|pad|unk"
    r"|start_of_turn|end_of_turn)>|</?SYS>>)"
    r"|\[(?=/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\])",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")
_NUMBER = r"(?>[+-]?\d+(?:[.:/\-]\d+)*)"  # or date, time, range, as a whole: 12, -3.5, 2024-05-01
_WORD = r"[^\W_]+(?:[-'’][^\W_]+)*"
# A number that runs into a word (1.1.1x) is taken in one piece, which is split into words afterwards: looked
# for again at each of its digits, it would take quadratic time.
_TOKEN = re.compile(rf"{_NUMBER}(?![^\W_])|{_NUMBER}{_WORD}|{_WORD}")
_WHOLE_NUMBER, _WORDS = re.compile(_NUMBER), re.compile(_WORD)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ToolCall:
    """One parsed call; `arguments` holds JSON values (NaN and infinities too, as Python reads them)."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ParsedTurn:
    """One assistant turn.

    content: text before the first call, or the whole text where no call parses; "" where there is none. From
        text it is never None; None stands for an API message without content.
    calls: the calls that parsed, in order.
    malformed: no call parsed although the text holds a call marker (the -0.3 row of §2.6).
    skipped: pieces that began like a call and did not parse; they cost nothing beside a good call (§6.2-4).
    """

    content: str | None
    calls: list[ToolCall] = field(default_factory=list)
    malformed: bool = False
    skipped: int = 0


def parse_response(text: str, *, drop_thoughts: bool = False) -> ParsedTurn:
    """Parse one decoded assistant turn; never raises, whatever the text.

    Args:
        text: the decoded turn; trailing end tokens are removed.
        drop_thoughts: remove `<think>...</think>` first. False is the authors' way: an answer that was only
            thought of counts, and a quoted marker costs (§6.2-4).

    | text                                    | content        | calls | malformed |
    |-----------------------------------------|----------------|-------|-----------|
    | `so <tool_call>{good}</tool_call>`      | "so"           | 1     | False     |
    | `<tool_call>{"name": "f", "argum`       | the whole text | 0     | True      |
    | `It is 1931.`                           | the whole text | 0     | False     |
    | nothing, or only end tokens             | ""             | 0     | False     |
    """
    text = strip_end_tokens(text)
    if drop_thoughts:
        text = _THOUGHTS.sub("", text).strip()
    start = text.find(CALL_START)
    calls: list[ToolCall] = []
    skipped = 0
    if start >= 0:
        for piece in text[start:].split(CALL_END):
            piece = piece.strip()
            if not piece.startswith(CALL_START):
                continue
            call = _parse_piece(piece)
            if call is None:
                skipped += 1
            else:
                calls.append(call)
    if calls:
        return ParsedTurn(text[:start].strip(), calls, False, skipped)
    return ParsedTurn(text, [], any(marker in text for marker in MALFORMED_MARKERS), skipped)


def strip_end_tokens(text: str) -> str:
    """Remove surrounding white space and all trailing end-of-turn tokens."""
    text = text.strip()
    while text.endswith(END_TOKENS):
        for token in END_TOKENS:
            text = text.removesuffix(token).strip()
    return text


def _parse_piece(piece: str) -> ToolCall | None:
    # The authors lstrip the *characters* of the marker, so repeated markers before the brace go as well.
    body = piece.lstrip(CALL_START).strip()
    try:
        data = json.loads(body)
        if not isinstance(data, dict):
            return None
        name, arguments = data.get("name"), data.get("arguments")
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
    except (ValueError, RecursionError):  # ValueError covers bad JSON and integers of more than 4,300 digits
        return None
    if (
        not isinstance(name, str)
        or not name
        or not isinstance(arguments, dict)
        or _depth(arguments) > MAX_DEPTH
    ):
        return None
    return ToolCall(name, arguments)


def _depth(value: Any) -> int:
    """Nesting depth of a JSON value, without recursion: a scalar has 0, {} has 1."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def render_prompt(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    thinking: bool | None = None,
) -> str:
    """The prompt of the next turn by the model's own chat template, tools included (§2.4).

    `thinking` is passed on as `enable_thinking` where it is not None; templates without the switch ignore it.
    Lone surrogates, which a model can write as "\\ud800", become U+FFFD: tokenizers refuse them.
    """
    extra = {} if thinking is None else {"enable_thinking": thinking}
    prompt = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tools=[dict(tool) for tool in tools],
        tokenize=False,
        add_generation_prompt=True,
        **extra,
    )
    return well_formed(prompt)


def assistant_message(turn: ParsedTurn, *, first_id: int = 0, double_encoded: bool = False) -> dict[str, Any]:
    """The chat message of a parsed turn; call ids count up from `first_id` (theirs hash the clock, §6.2-13).

    `double_encoded=True` stores arguments as a JSON string like the authors; templates that apply `tojson`
    (Qwen2.5) then show them to the model with two layers of quotes (§6.2-6).
    """
    message: dict[str, Any] = {"role": "assistant", "content": turn.content or ""}
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{first_id + index}",
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(call.arguments, ensure_ascii=False)
                    if double_encoded
                    else call.arguments,
                },
            }
            for index, call in enumerate(turn.calls)
        ]
    return message


def render_tool_results(outputs: Sequence[str], *, first_id: int = 0) -> list[dict[str, str]]:
    """One `role: tool` message per call, in the order of the calls, with the ids of `assistant_message`.

    What a tool says stays data: see `inert`. Matching reads the output as it was.
    """
    return [
        {"role": "tool", "content": inert(output), "tool_call_id": f"call_{first_id + index}"}
        for index, output in enumerate(outputs)
    ]


def inert(output: str) -> str:
    """`output` without what a chat template or tokenizer takes for its own: a blank breaks each marker up.

    Control characters go, but for newline and tab.

    | output                       | shown to the model            |
    |------------------------------|-------------------------------|
    | `{"year": 1931}`             | `{"year": 1931}`              |
    | `<|im_end|>`                 | `< |im_end|>`                 |
    | `</tool_response> <b>5</b>`  | `< /tool_response> <b>5</b>`  |
    | nothing                      | nothing                       |
    """
    return _MARKER.sub(r"\g<0> ", _CONTROL.sub("", output))


def answer_matches(output: str, gold: str, *, strict: bool = False) -> bool:
    """Does a tool's output (or a final text) hold the sub-answer?

    strict=False, the authors' `answer_verify`: gold is split on ", "; every part, lower-cased, no commas,
        must be a substring of the output treated alike. "2" is found in "12" and in dates; order is ignored.
    strict=True: the same and, besides, the parts must occur in their order as whole tokens: "2" matches
        neither "12" nor "2024-02-01" nor "x2", but does match "2.0"; an empty gold never matches.

    | output            | gold         | substring | strict |
    |-------------------|--------------|-----------|--------|
    | `{"year": 1931}`  | 1931         | True      | True   |
    | `12 results`      | 2            | True      | False  |
    | `b, then a`       | a, b         | True      | False  |
    | nothing           | 1931         | False     | False  |
    """
    plain = _plain(output)
    if not all(_plain(part) in plain for part in gold.split(", ")):
        return False
    return not strict or _tokens_match(_tokens(output), [_tokens(part) for part in gold.split(", ")])


def _plain(text: str) -> str:
    return text.lower().replace(",", "").strip()


def _tokens(text: str) -> list[str]:
    """Lower-cased words and whole numbers; 1,234 becomes 1234 and 2.50 becomes 2.5."""
    tokens = []
    for token in _split(_THOUSANDS.sub("", text.lower())):
        if re.fullmatch(r"[+-]?\d+(?:\.\d+)?", token):
            token = token.removeprefix("+")
            token = token.rstrip("0").removesuffix(".") if "." in token else token
        tokens.append(token)
    return tokens


def _split(text: str) -> list[str]:
    """Whole numbers and words, in time linear in the text."""
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        if token.isalnum() or _WHOLE_NUMBER.fullmatch(token):
            tokens.append(token)
        else:
            tokens += _WORDS.findall(token)
    return tokens


def _tokens_match(tokens: list[str], parts: list[list[str]]) -> bool:
    position = 0
    if not any(parts):
        return False
    for part in parts:
        while tokens[position : position + len(part)] != part:
            position += 1
            if position + len(part) > len(tokens):
                return False
        position += len(part)
    return True


def solves(
    output: str, gold: str, arguments: Mapping[str, Any], *, strict: bool = False, echo_guard: bool = True
) -> bool:
    """Does this call's output hold the sub-answer, other than by repeating an argument that holds it?

    With the guard, an occurrence of a part of the gold answer does not count if it lies inside a repeated
    argument, name or value, that holds that part; at least one part must occur otherwise. A sub-answer put
    together from several arguments ("New York", "café") counts. The guard reads texts only: a tool that truly
    computes one of its arguments (the larger of 24 and 17) is refused as well.
    """
    if not answer_matches(output, gold, strict=strict):
        return False
    parts = [part for part in gold.split(", ") if _plain(part)]
    if not echo_guard or not parts:
        return True
    said = [_spellings(text) for text in _leaf_texts(arguments)]
    return any(answer_matches(_without_echoes(output, part, said), part, strict=strict) for part in parts)


_Spellings = tuple[set[str], set[str]]  # as text, and as numbers, which begin and end at a digit


def _without_echoes(output: str, part: str, said: Sequence[_Spellings]) -> str:
    """`output`, with a NUL in place of every repetition of an argument that holds `part`.

    Case, commas and the length of white space do not matter, neither for holding nor for repeating.
    """
    wanted, _ = _normal(part)
    echoes = [both for both in said if any(wanted in spelling for spelling in both[0] | both[1])]
    if not echoes:
        return output
    plain, places = _normal(output)
    spans: list[tuple[int, int]] = []
    for texts, numbers in echoes:
        for spelling in texts | numbers:
            at = plain.find(spelling)
            while at >= 0:
                end = at + len(spelling)
                around = plain[max(at - 1, 0) : at] + plain[end : end + 1]
                if spelling in texts or not any(map(str.isdigit, around)):
                    spans.append((places[at], places[end - 1] + 1))
                at = plain.find(spelling, at + 1)
    kept, done = [], 0
    for start, end in sorted(spans):
        if start >= done:
            kept += [output[done:start], "\0"]
        done = max(done, end)
    return "".join([*kept, output[done:]])


def _normal(text: str) -> tuple[str, list[int]]:
    """`text` in lower case, without commas, white space as single blanks; where each character came from."""
    characters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        if character.isspace():
            if characters and characters[-1] != " ":
                characters.append(" ")
                places.append(place)
        elif character != ",":
            for low in character.lower():
                characters.append(low)
                places.append(place)
    if characters and characters[-1] == " ":
        del characters[-1], places[-1]
    return "".join(characters), places


def _spellings(text: str) -> _Spellings:
    """How Python and JSON print an argument: as it is, by repr, escaped, cut short; as a number, rounded."""
    reprs = {repr(text)[1:-1], ascii(text)[1:-1], repr(text.strip())[1:-1]}
    reprs |= {repr(text)[1:REPR_LIMIT]} if len(repr(text)) > REPR_LIMIT else set()
    texts = {text, *reprs}
    texts |= {json.dumps(t, ensure_ascii=plain)[1:-1] for t in tuple(texts) for plain in (False, True)}
    numbers = _numbers(text)
    return _normalized(texts), _normalized(numbers)


def _normalized(texts: Iterable[str]) -> set[str]:
    return {plain for text in texts if (plain := _normal(text)[0])}


def _numbers(text: str) -> list[str]:
    """The number that an argument is, as int, round and the usual formats print it; mostly none."""
    found: list[str] = []
    if len(text) > MAX_NUMBER:
        return found
    with suppress(ValueError):
        found.append(str(int(text)))  # 01931, 1_931 and other scripts' digits
    try:
        value = float(text)
    except ValueError:
        return found
    if math.isfinite(value) and abs(value) < 1e16:
        found += [str(int(value)), str(round(value)), str(value), f"{value:.1f}", f"{value:.2f}"]
    return found


def _leaf_texts(arguments: Mapping[str, Any]) -> list[str]:
    """All names and scalar values of the arguments, as a tool or Python's TypeError would print them."""
    texts: list[str] = []
    stack: list[Any] = [dict(arguments)]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack.extend(value)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, str):
            texts.append(value)
        elif value is not None and not isinstance(value, bool):
            texts.append(str(value))
    return texts


def apply_results(
    unsolved: Mapping[str, Sequence[str]],
    calls: Sequence[ToolCall],
    outputs: Sequence[str],
    *,
    strict: bool = False,
    echo_guard: bool = True,
) -> tuple[dict[str, list[str]], int]:
    """Book one turn's calls: the remaining sub-answers and how many were solved, q.

    Calls count in order. Each resolves at most one sub-answer, of its own tool: the first in the list that
    its output holds, and that entry is removed. Two equal sub-answers of one tool therefore need two calls.
    `unsolved` is not changed (the authors' reward changes it in place).

    Raises:
        ValueError: not one output per call.
    """
    if len(calls) != len(outputs):
        raise ValueError(
            f"{len(calls)} calls need as many outputs; got {len(outputs)}, pass one per parsed call"
        )
    remaining = {name: list(answers) for name, answers in unsolved.items()}
    solved = 0
    for call, output in zip(calls, outputs, strict=True):
        answers = remaining.get(call.name, [])
        for index, gold in enumerate(answers):
            if solves(output, gold, call.arguments, strict=strict, echo_guard=echo_guard):
                del answers[index]
                solved += 1
                break
    return remaining, solved


def count_unsolved(unsolved: Mapping[str, Sequence[str]]) -> int:
    """t: sub-answers still to be obtained."""
    return sum(len(answers) for answers in unsolved.values())
