"""Tasks whose answer is a word, a list, a number or a table, compared with the stored one."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from alignment_study.synlogic import reading
from alignment_study.synlogic.reading import Puzzle

_TRUTH = {"yes": True, "no": False, "是": True, "否": False}
_BOLD = re.compile(r"\*\*([^*]++)\*\*")
_LABELS = re.compile(r"[A-Za-z](?:[\s,，、]++[A-Za-z])*+")


def arc_agi(answer: str, puzzle: Puzzle) -> bool | None:
    """A list of lists of integers, equal to the stored one."""
    cells = reading.number_grid(answer)
    return None if cells is None else cells == stored(puzzle)


def boolean_expressions(answer: str, puzzle: Puzzle) -> bool | None:
    r"""\boxed{A,C}: the labels of the true options, in any order; the authors take any letter for one."""
    content = reading.box(answer)
    if content is None or not _LABELS.fullmatch(content):
        return None
    return _letters(content) == _letters(str(puzzle.answer))


def _letters(text: str) -> set[str]:
    return {letter.upper() for letter in re.findall(r"[A-Za-z]", text)}


def buggy_tables(answer: str, puzzle: Puzzle) -> bool | None:
    """{"result": [{"answer": 42.00}]}, or the number alone, with two decimals; the authors take the last such
    number of any text."""
    text = reading.unfenced(answer)
    if len(text) > reading.MAX_CHARS:
        return None
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):  # the number alone
        text = str(json.loads(text, parse_float=str)["result"][0]["answer"])
    text = text.strip().strip('"')
    return text == str(puzzle.answer).strip() if re.fullmatch(r"-?\d+\.\d\d", text) else None


def cipher(answer: str, puzzle: Puzzle) -> bool | None:
    """[["TEXT"]], with or without quotes or a code block; the authors evaluate it."""
    if (content := reading.double_brackets(reading.unfenced(answer))) is None:
        return None
    return _bare(content) == _bare(str(puzzle.answer).strip().removeprefix("[[").removesuffix("]]"))


def _bare(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def object_properties(answer: str, puzzle: Puzzle) -> bool | None:
    r"""\boxed{7}: a count."""
    count = reading.integer(reading.box(answer) or "")
    return None if count is None else count == int(puzzle.answer)


def space_reasoning(answer: str, puzzle: Puzzle) -> bool | None:
    r"""\boxed{name of the object}; case does not count."""
    content = reading.box(answer)
    return content.lower() == str(puzzle.answer).lower() if content else None


def time_sequence(answer: str, puzzle: Puzzle) -> bool | None:
    """[minutes, options]: exactly two integers, in the last brackets of the answer."""
    start = answer.rfind("[")
    end = answer.find("]", start)
    if start < 0 or end < 0 or len(answer) > reading.MAX_CHARS:
        return None
    value = reading.json_value(answer[start : end + 1].replace("，", ","))
    if not isinstance(value, list) or len(value) != 2 or any(type(n) is not int for n in value):
        return None
    gold = puzzle.metadata["records"]["answers"]
    return value == [gold["answer_maxLen"], gold["answer_nums"]]


def web_of_lies(answer: str, puzzle: Puzzle) -> bool | None:
    """**yes, no**, or 是 and 否, bold or the last line alone. The authors also find "no" inside "know"."""
    if len(answer) > reading.MAX_CHARS:
        return None
    found, gold = _truths(answer), _truths(str(puzzle.answer))
    return None if found is None or gold is None else found == gold


def _truths(text: str) -> list[bool] | None:
    bold = _BOLD.findall(text)
    line = bold[-1] if bold else (text.strip().splitlines() or [""])[-1]
    line = re.split(r"the answer is|答案是", line.lower())[-1].strip(" :：.。\n")
    words = [word.strip() for word in re.split(r"[,，、]", line)]
    return [_TRUTH[word] for word in words] if all(word in _TRUTH for word in words) else None


def word_sorting(answer: str, puzzle: Puzzle) -> bool | None:
    r"""\boxed{word1,word2}: all words in order; spaces do not count."""
    content = reading.box(answer)
    return _words(content) == _words(str(puzzle.answer)) if content else None


def _words(text: str) -> list[str]:
    return "".join(text.split()).replace("，", ",").split(",")


def word_sorting_mistake(answer: str, puzzle: Puzzle) -> bool | None:
    r"""\boxed{3}: the first wrong thought, or \boxed{No}."""
    if (content := reading.box(answer)) is None:
        return None
    if content.lower() == "no":
        return puzzle.answer in (None, "No", "no")
    number = reading.integer(content)
    return None if number is None else str(number) == str(puzzle.answer)


def zebra_puzzle(answer: str, puzzle: Puzzle) -> bool | None:
    """A JSON object (or Python's notation), equal to the stored one; "1" is not 1, order of keys is free."""
    value = reading.json_value(reading.unfenced(answer))
    return _plain(value) == _plain(stored(puzzle)) if isinstance(value, dict) else None


def stored(puzzle: Puzzle) -> Any:
    """The row's answer; where it is a JSON text, what that says."""
    return reading.json_value(puzzle.answer) if isinstance(puzzle.answer, str) else puzzle.answer


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
