"""KOR-Bench (arXiv 2410.06526): five categories of 250 questions about rules that the prompt gives.

Questions, rules and the way each rule's answers are compared are the authors' (repository at COMMIT); the
prompt and the code are ours. Answers stand in [[ ]]. Stricter than theirs: nothing but [[ ]] counts as an
answer (they fall back to a box or single brackets), sets are compared by elements, not by the characters in
them, the numbers of a matrix keep their signs, a puzzle that asks for one of several words gets a whole word,
one that asks for operators keeps its numbers, and expressions are parsed, never evaluated. Laxer: the rows of
a truth table may come in any order, as their code means but for its first and last row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from alignment_study import sources, verifiers
from alignment_study.synlogic.reading import MAX_CHARS, arithmetic

CATEGORIES = ("operation", "logic", "cipher", "puzzle", "counterfactual")
COMMIT = "bb8194dff8e51e2e2247cf62aa9932c3d57d53d7"
REPOSITORY = "KOR-Bench/KOR-Bench"  # of GitHub
URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/data"
FOLDER = "kor_bench"  # in data_dir: the repository's folder data under this name
TASKS = {f"kor-{category}": category for category in CATEGORIES}

# Questions of "operation", by idx, whose answers the authors compare as mathematics (LaTeX, complex numbers).
_MATHEMATICS = {18, 73, 74, 77, 94, 115, 116, 117, 121, 122, 123, 125, 131, 132, 134, 135, 136, 141, 143, 149}
_MATHEMATICS |= {*range(145, 148), *range(151, 157), 160, 161, 162, 164, 165, 166, 170, 206, 209}
_MATHEMATICS |= {*range(211, 216), 217, 218}
_BOUNDS = {178, 179}  # solution sets of inequalities
_NUMBER = re.compile(r"-?[0-9]+(?:[./][0-9]+)?")


class Item(NamedTuple):
    """One question."""

    id: str
    question: str
    rule: str
    title: str
    answer: str
    verify: Callable[[str], bool | None]


def load(category: str, data_dir: Path | str | None) -> list[Item]:
    """All questions of a category, from `data_dir`/kor_bench/CATEGORY/{rule,sample}.jsonl or downloaded.

    Raises:
        ValueError: a row without a field or of no rule. FileNotFoundError, ConnectionError: no such file.
    """
    rules = {str(row["idx"]): row for at, row in _rows(category, "rule", data_dir, ("idx", "rule_content"))}
    items: list[Item] = []
    for at, row in _rows(category, "sample", data_dir, ("idx", "question", "answer", "rule_id")):
        if (rule := rules.get(str(row["rule_id"]))) is None:
            raise ValueError(
                f"{at}: no rule {row['rule_id']!r} in the {category} rules; use both files of one version"
            )
        id, answer = f"kor-{category}/{row['idx']}", _one(category, row)
        question, content = str(row["question"]), str(rule["rule_content"])
        title = f"{row['rule_id']} {rule.get('title', '')}".strip()
        items.append(Item(id, question, content, title, answer, _verifier(category, row)))
    if not items:
        raise ValueError(f"kor-{category} holds no rows")
    return items


def _one(category: str, row: Mapping[str, Any]) -> str:
    """The stored answer, or the first of several where a puzzle asks for one of them."""
    answer, separator = str(row["answer"]), {"2": ",", "4": " ", "10": "\n"}.get(str(row["rule_id"]))
    if category != "puzzle" or separator is None:
        return answer
    return f"[[{(inner(answer) or '').split(separator)[0].strip()}]]"


def _verifier(category: str, row: Mapping[str, Any]) -> Callable[[str], bool | None]:
    def verify(answer: str) -> bool | None:
        return grade(category, answer, str(row["answer"]), rule=str(row["rule_id"]), idx=int(row["idx"]))

    return verify


def grade(category: str, answer: str, gold: str, *, rule: str, idx: int) -> bool | None:
    """Whether the answer's first [[ ]] is right for a question; without one it is wrong. None: the grader for
    mathematics failed."""
    found, wanted = inner(answer), inner(gold)
    if found is None or wanted is None:
        return False
    if category == "logic":
        return _rows_of(found, rule == "5") == _rows_of(wanted, rule == "5")
    if category == "puzzle":
        return _puzzle(found, wanted, rule)
    if category == "operation":
        return _operation(found, wanted, rule, idx)
    return _clean(found) == _clean(wanted)


def inner(text: str) -> str | None:
    """What stands between the first [[ and the ]] after it."""
    start = text.find("[[") if len(text) <= MAX_CHARS else -1
    end = text.find("]]", start + 2)
    if start < 0 or end < 0:
        return None
    while text.startswith("]]", end + 1):  # [[[c]φ]]]: the last of three
        end += 1
    return text[start + 2 : end].strip()


def _clean(text: str) -> str:
    return re.sub(r'["\s\[\]]', "", text)


def _rows_of(text: str, any_order: bool) -> Sequence[str]:
    """Logic: parts by semicolons; those of a truth table (rule 5) may come in any order."""
    parts = re.sub(r'["\s.]', "", text).split(";")
    return sorted(part.strip("[]") for part in parts) if any_order else parts


def _operation(found: str, wanted: str, rule: str, idx: int) -> bool | None:
    if idx in _BOUNDS:
        return _bounds(found) == _bounds(wanted)
    if rule == "18":
        return _elements(found) == _elements(wanted)
    if rule in ("23", "24", "25"):
        return _NUMBER.findall(found) == _NUMBER.findall(wanted)
    alternatives, golds = _alternatives(found), _alternatives(wanted)
    if idx in _MATHEMATICS and "or" in wanted:
        return len(alternatives) == len(golds) and _pair_off(alternatives, golds)
    if idx in _MATHEMATICS:
        return verifiers.mathematics(found.rpartition("=")[2].replace("$", ""), wanted)
    return sorted(alternatives) == sorted(golds)


def _alternatives(text: str) -> list[str]:
    return [_clean(part) for part in re.split(r"\\text\{\s*or\s*\}|or", text)]


def _pair_off(alternatives: list[str], golds: list[str]) -> bool | None:
    """Whether every gold has an equal among the alternatives."""
    verdicts = [[verifiers.mathematics(a, gold) for a in alternatives] for gold in golds]
    if any(verdict is None for row in verdicts for verdict in row):
        return None
    return all(any(row) for row in verdicts)


def _bounds(text: str) -> list[tuple[str, Fraction]]:
    text = text.replace("\\leq", "≤").replace("\\geq", "≥").replace("\\le", "≤").replace("\\ge", "≥")
    found = re.findall(r"([≥≤])\s*(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)", text)
    return sorted((sign, Fraction(number)) for sign, number in found)


def _elements(text: str) -> list[str]:
    return sorted(part for part in re.split(r"[\s,{}\\]+", text) if part)


def _puzzle(found: str, wanted: str, rule: str) -> bool:
    if rule == "1":
        return _letters(found) == _letters(wanted)
    if rule == "2":
        return _letters(found) in wanted.lower().split(",")
    if rule == "3":
        return sorted(re.findall(r"\w+", found.lower())) == sorted(wanted.split())
    if rule == "4":
        return _letters(found) in wanted.split()
    if rule == "5":
        return sorted("".join(found.split()).split(",")) == sorted(wanted.split(","))
    if rule == "9":  # operators to fill in
        return _signs(found) == _signs(wanted)
    if rule == "10":
        return _twenty_four(found, wanted)
    if rule == "18":  # arrows, which are no word characters
        return re.sub(r"[,\s\[\]]", "", found) == re.sub(r"[,\s\[\]]", "", wanted)
    return re.sub(r"\W", "", found) == re.sub(r"\W", "", wanted)


def _twenty_four(found: str, wanted: str) -> bool:
    """24 from the numbers of the stored solution, the first of them if it stores several, each once."""
    expression = _signs(found).partition("=")[0]
    used, given = (sorted(re.findall(r"[0-9]+", text)) for text in (expression, wanted.split("\n")[0]))
    return used == given and arithmetic(expression) == 24


def _signs(text: str) -> str:
    """Without white space and with ASCII operators."""
    return "".join(text.split()).translate(str.maketrans("×÷−", "*/-"))


def _letters(text: str) -> str:
    return re.sub(r"[^A-Za-z]", "", text).lower()


def _rows(
    category: str, part: str, data_dir: Path | str | None, fields: Sequence[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Any]]
    if data_dir:
        path = Path(data_dir).expanduser() / FOLDER / category / f"{part}.jsonl"
        if not path.is_file():
            raise FileNotFoundError(
                f"no {FOLDER}/{category}/{part}.jsonl in {data_dir}; copy the folder data of {REPOSITORY} "
                f"there as {FOLDER}"
            )
        found = list(sources.local_rows(path))
    else:
        import datasets

        url = f"{URL}/{category}/{part}.jsonl"
        try:
            found = [
                (f"kor-{category} {part} {i}", row)
                for i, row in enumerate(datasets.load_dataset("json", data_files=url, split="train"))
            ]
        except Exception as error:  # offline, moved: a dozen types
            fix = f"connect once, or give --data-dir with {FOLDER}/{category}/{part}.jsonl"
            raise ConnectionError(f"cannot load {url} ({error}); {fix}") from error
    for at, row in found:
        if not isinstance(row, Mapping) or any(row.get(name) is None for name in fields):
            raise ValueError(f"{at}: needs {', '.join(fields)}; restore the row")
    return found
