"""Contract of `shared.answers`.

1. The last complete box counts, whatever is around it, in linear time.
2. Equal means equal in mathematics, not in spelling.
3. A wrong or unreadable answer is False; a failed grader is None and counted.
4. No response makes it hang or say True, and it still serves afterwards.
5. It works from threads, forks and a main module without a guard, and lets Python exit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import answers
from shared.answers import failures, grade, grade_many, last_boxed

REPO = Path(answers.__file__).parents[1]
PIECES = st.sampled_from(
    ["{", "}", "\\", "\\boxed{", "\\boxed", "\\fbox {", "\\{", "a", " ", "\n", "\0", "\ud800"]
)
PLAIN = st.sampled_from(["\\{", "\\}", "\\\\", "\\frac", "1", "x ", "\n", "\0", "\ud800", "é", "box"])
BALANCED = st.recursive(
    st.lists(PLAIN, max_size=4).map("".join),
    lambda inner: st.lists(st.one_of(PLAIN, inner.map("{{{}}}".format)), max_size=4).map("".join),
    max_leaves=30,
)


def boxed(answer: str) -> str:
    return f"So the answer is $\\boxed{{{answer}}}$."


def grew(before: dict[str, int]) -> dict[str, int]:
    return dict(Counter(failures()) - Counter(before))


def run_script(code: str, folder: Path, exit_code: int = 0) -> str:
    """Run ``code`` as a main module in ``folder``; returns what it prints."""
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    (folder / "script_under_test.py").write_text(code)
    command = [sys.executable, "script_under_test.py"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == exit_code, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\fbox{3}", "3"),
        ("\\boxed{1} \\fbox{2}", "2"),
        ("\\fbox{2} \\boxed{1}", "1"),
        ("\\boxed {3}", "3"),
        ("\\boxed{1} and then \\boxed{2", "1"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{1 \\boxed{2}", "2"),
        ("{ } } \\boxed{4} } {", "4"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."),
        ("\\\\boxed{6}", "6"),
        ("\\boxed{7} \\boxed", "7"),
        ("\\boxed{7} \\boxedfoo{8}", "7"),
        ("\\boxed{}", ""),
        ("\\boxed{", None),
        ("\\boxed 5", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)))
def test_last_boxed_never_raises_and_returns_balanced_content(text: str) -> None:
    content = last_boxed(text)
    assert content is None or (f"{{{content}}}" in text and last_boxed(boxed(content)) is not None)


@given(before=st.lists(PIECES).map("".join), content=BALANCED, after=st.text(alphabet="ab{ \n"))
def test_last_boxed_round_trip(before: str, content: str, after: str) -> None:
    assert last_boxed(f"{before}\n\\boxed{{{content}}}{after}") == content


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 700_000 + "}", "\\boxed{{}" * 600_000, "\\boxed" * 800_000, "\\boxed{" + "{}" * 2_500_000],
    ids=["open", "half", "bare", "braces"],
)
def test_last_boxed_is_fast_on_megabytes_without_an_answer(text: str) -> None:
    start = time.perf_counter()
    last_boxed(text)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("72", "72"),
        ("72.0", "72"),
        ("1,000", "1000"),
        ("1{,}000.", "1000"),
        ("\\$18.00", "18"),
        ("$18$", "18"),
        ("50\\%", "50"),
        ("\\text{Evelyn}", "Evelyn"),
        ("0.10", ".1"),
        ("+3", "3"),
        ("\u22123", "-3"),
        ("007", "7"),
        ("1 1/2", "1 1/2"),
    ],
)
def test_equal_strings_and_numbers_need_no_worker(
    monkeypatch: pytest.MonkeyPatch, answer: str, gold: str
) -> None:
    monkeypatch.setattr(answers, "_ask_worker", None)
    assert grade(boxed(answer), gold) is True


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("it is 8", "8"),
        (boxed("7"), "8"),
        (boxed("8") + boxed("7"), "8"),
        (boxed("0.3333333"), "0.33333333"),
        (boxed("1000"), "1,001"),
        (boxed("-5"), "5"),
        (boxed(""), "5"),
        (boxed("$"), "5"),
        (boxed("x" * 3000), "5"),
        ("", ""),
    ],
)
def test_wrong_numbers_and_missing_answers_need_no_worker(
    monkeypatch: pytest.MonkeyPatch, response: str, gold: str
) -> None:
    monkeypatch.setattr(answers, "_ask_worker", None)
    assert grade(response, gold) is False


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(0, 4))
def test_numbers_compare_exactly(a: int, b: int, decimals: int) -> None:
    def spell(n: int) -> str:
        digits = f"{abs(n):0{decimals + 1}d}"
        split = len(digits) - decimals
        return "-" * (n < 0) + digits[:split] + ("." + digits[split:] + "00" if decimals else "")

    assert grade(boxed(spell(a)), spell(b)) is (a == b)
    assert grade(boxed(f"{a:,}"), str(a)) is True


@pytest.mark.slow
def test_mathematics_decides_the_rest() -> None:
    pairs = [
        ("0.5", "\\frac{1}{2}", True),
        ("\\dfrac12", "\\frac{1}{2}", True),
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt 2}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x = 5", "5", True),
        ("5\\text{ cm}.", "5", True),
        ("0.5", "50\\%", True),
        ("\\{2, 1\\}", "\\{1, 2\\}", True),
        ("(3,\\frac{\\pi}{2})", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("11/2", "1 1/2", False),
        ("(2, 1)", "(1, 2)", False),
        ("\\text{odd}", "even", False),
        ("\\frac{1}{3}", "\\frac{1}{2}", False),
        ("x^2", "2", False),
        ("\\frac{3}", "3", False),
        ("5 or 6", "5", False),
        ("\\frac{1}{3}) \\frac{1}{2}", "\\frac{1}{2}", False),
    ]
    before = failures()
    assert grade_many([boxed(answer) for answer, _, _ in pairs], [gold for _, gold, _ in pairs]) == [
        equal for _, _, equal in pairs
    ]
    assert failures() == before


@pytest.mark.parametrize("gold", ["", " ", "$", "\\frac{3}", "1" * 3000])
def test_unusable_gold_is_none_and_counted(gold: str) -> None:
    before = failures()
    assert grade(boxed("5"), gold) is None
    assert grew(before) == {"gold": 1}
    assert grade("no box", gold) is False


HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "factorial": "99999999!",
    "sum": "\\sum_{n=1}^{10^{10}} \\frac{1}{n^2}",
    "deep": "{" * 900 + "1" + "}" * 900,
    "fractions": "\\frac{1}{" * 150 + "2" + "}" * 150,
    "parentheses": "(" * 900 + "1" + ")" * 900,
    "digits": "9" * 1900 + "!",
    "null": "\0",
    "surrogate": "\ud800",
    "protocol": '"]\n["\\frac{1}{3}", "\\frac{1}{3}", 5]\n',
    "python": "__import__('os').system('true')",
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answer_is_not_right_and_the_pool_still_serves(answer: str) -> None:
    start = time.perf_counter()
    [verdict] = grade_many([boxed(answer)], ["\\frac{1}{3}"], timeout_s=0.3)
    assert verdict is not True
    assert time.perf_counter() - start < 10  # 0.3 s and the start of a worker
    assert grade_many([boxed("\\frac{2}{6}"), boxed("\\frac{2}{5}")], ["\\frac{1}{3}"] * 2) == [True, False]


def test_timeout_is_none_and_counted_and_equal_pairs_wait_once() -> None:
    before = failures()
    start = time.perf_counter()
    assert grade_many([boxed(HOSTILE["tower"])] * 50, ["\\frac{1}{3}"] * 50, timeout_s=0.3) == [None] * 50
    assert time.perf_counter() - start < 5
    assert grew(before) == {"timeout": 1}


@pytest.mark.slow
def test_fifty_megabytes_of_text() -> None:
    start = time.perf_counter()
    assert grade("a" * 50_000_000 + boxed("7"), "7") is True
    assert grade(boxed("7") + "{" * 50_000_000, "7") is True
    assert grade("\\boxed{" * 7_000_000 + "}", "8") is False
    assert grade("\\boxed{" + "{}" * 25_000_000, "8") is False
    assert time.perf_counter() - start < 5


def test_killed_worker_is_replaced() -> None:
    assert grade(boxed("\\frac{2}{4}"), "\\frac{1}{2}") is True
    for worker in answers._idle:
        worker.kill()
        worker.wait()
    before = failures()
    assert grade(boxed("\\frac{3}{6}"), "\\frac{1}{2}") is True
    assert failures() == before


def test_many_threads() -> None:
    golds = [f"\\frac{{{n}}}{{7}}" for n in range(1, 61)]
    responses = [boxed(f"\\frac{{{2 * n}}}{{{14 if n % 2 else 15}}}") for n in range(1, 61)]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(grade, responses, golds)) == [bool(n % 2) for n in range(1, 61)]
    assert len(answers._idle) <= answers.WORKERS


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="2 responses, 1 golds"):
        grade_many(["", ""], [""])
    with pytest.raises(ValueError, match="timeout_s=0"):
        grade_many([""], [""], timeout_s=0)
    assert grade_many([], []) == []


@pytest.mark.slow
def test_script_without_guard_forks_and_exits(tmp_path: Path) -> None:
    """Nor does the worker import what lies beside the caller."""
    (tmp_path / "math_verify.py").write_text("raise RuntimeError('imported from the folder of the caller')")
    code = r"""
import os, sys
from shared.answers import failures, grade, grade_many
right, wrong, half = r"\boxed{\frac{2}{4}}", r"\boxed{\frac{3}{4}}", r"\frac{1}{2}"
print("before", grade(right, half), flush=True)
child = os.fork()
print("child" if child == 0 else "parent", grade(wrong, half), grade(right, half), failures(), flush=True)
if child == 0:
    sys.exit()
print("status", os.waitpid(child, 0)[1], flush=True)
print("late", grade_many([r"\boxed{9^{9^{9^9}}}"], [half], timeout_s=0.2))
"""
    expected = ["before True", "child False True {}", "parent False True {}", "status 0", "late [None]"]
    assert sorted(run_script(code, tmp_path).splitlines()) == sorted(expected)


def test_missing_math_verify_is_an_error_not_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("")
    code = """
import os
from shared.answers import grade
os.environ["PYTHONPATH"] = os.getcwd()
try:
    grade(r"\\boxed{x}", "y")
except RuntimeError as error:
    print(error)
"""
    assert "pip install math-verify" in run_script(code, tmp_path)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = """
import os
from shared import answers
assert answers.grade(r"\\boxed{\\frac{2}{4}}", r"\\frac{1}{2}")
print(*(worker.pid for worker in answers._idle), flush=True)
os.kill(os.getpid(), 9)
"""
    [pid] = run_script(code, tmp_path, exit_code=-9).split()
    deadline = time.monotonic() + 10
    while (worker := Path("/proc", pid, "cmdline")).exists() and worker.read_bytes():  # empty: a zombie
        assert time.monotonic() < deadline, f"worker {pid} outlived its parent"
        time.sleep(0.02)


@settings(max_examples=40, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_garbage_is_never_right(garbage: str) -> None:
    assert grade(boxed(garbage), "\\frac{17}{23}") in (False, None)


def test_sequences_of_digits_need_no_worker(monkeypatch):
    monkeypatch.setattr(answers, "_ask_worker", lambda *_: pytest.fail("asked a worker"))
    assert answers.grade(r"\boxed{ 3 1 4 1 }", "3 1 4 1") is True
    assert answers.grade(r"\boxed{ 3 1 4 2 }", "3 1 4 1") is False
    assert answers.grade(r"\boxed{ 1 4 1 }", "0 1 4 1") is False
