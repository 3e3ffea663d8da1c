"""Compare the boxed answer of a response with the gold; a grader that failed says ``None``, never ``False``.

math-verify runs in worker processes killed from outside: big-integer arithmetic does not see its SIGALRM.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import resource
import select
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from subprocess import DEVNULL, PIPE, Popen

WORKERS = min(4, os.cpu_count() or 1)
SCAN_CHARS = 1_000_000  # read of the boxes that a text opens and does not close
ANSWER_CHARS = 2_000  # longer than any gold; such a request fits into a pipe, so writing it cannot block

_OPEN = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a character, not a brace
_PLAIN = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+\.?[0-9]*|\.[0-9]+)")
_DIGITS = re.compile(r"[0-9]+(?: [0-9]+)+")  # "3 1 4 1": a sequence, equal if equal as written
_idle: list[Popen[bytes]] = []
_failed: list[str] = []
_slots = threading.BoundedSemaphore(WORKERS)


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete ``\boxed{...}`` or ``\fbox{...}`` (nested: the inner), or ``None``."""
    left, end = SCAN_CHARS, text.rfind("}") + 1
    at = {name: text.rfind(name, 0, end) for name in ("\\boxed", "\\fbox")}
    while left > 0 and (start := max(at.values())) >= 0:
        name = max(at, key=at.__getitem__)
        at[name], left = text.rfind(name, 0, start), left - len(name)
        if (opened := _OPEN.match(text, start, end)) is None:
            continue
        depth = 1
        for brace in _BRACE.finditer(text, opened.end(), min(end, opened.end() + left)):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                return text[opened.end() : brace.start()]
        left, end = left - (end - start), start  # a box around an unclosed box is unclosed: linear time
    return None


def grade(response: str, gold: str) -> bool | None:
    """Whether the last box equals the gold; no box is False, ``None`` a failed grader (see `failures`)."""
    return _compare(last_boxed(response), gold, 5.0)


def grade_many(responses: list[str], golds: list[str], timeout_s: float = 5.0) -> list[bool | None]:
    """`grade` per pair, equal pairs once, each in ``timeout_s`` seconds; ValueError on unequal lengths."""
    if len(responses) != len(golds) or timeout_s <= 0:
        raise ValueError(f"{len(responses)} responses, {len(golds)} golds, {timeout_s=}: equal many, > 0 s")
    pairs = list(zip(map(last_boxed, responses), golds, strict=True))
    unique = list(dict.fromkeys(pairs))
    with ThreadPoolExecutor(max_workers=WORKERS) as threads:
        verdicts = threads.map(lambda pair: _compare(pair[0], pair[1], timeout_s), unique)
        grades = dict(zip(unique, verdicts, strict=True))
    return [grades[pair] for pair in pairs]


def failures() -> dict[str, int]:
    """Comparisons of this process that gave ``None``: timeout, crash, error (exception), gold (unusable)."""
    return dict(Counter(_failed))


def _compare(answer: str | None, gold: str, timeout_s: float) -> bool | None:
    if answer is None or len(answer) > ANSWER_CHARS:
        return answer == gold
    left, right = _normalise(answer), _normalise(gold[: ANSWER_CHARS + 1])
    if not right or len(gold) > ANSWER_CHARS:
        return _failed.append("gold")
    if not left or left == right:
        return left == right
    if _PLAIN.fullmatch(left) and _PLAIN.fullmatch(right) and "%" not in answer + gold:
        return Fraction(left.replace(",", "")) == Fraction(right.replace(",", ""))
    if _DIGITS.fullmatch(right):
        return False
    verdict = _ask_worker(answer.strip().rstrip("."), gold, timeout_s)
    return verdict == "True" if verdict in ("True", "False") else _failed.append(verdict)


def _normalise(answer: str) -> str:
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", answer)
    text = text.replace("\\!", "").replace("{,}", ",").replace("\u2212", "-")
    text = re.sub(r"\\?[$%]", "", re.sub(r"(?:\s|~|\\[ ,;:])+", " ", text)).strip().rstrip(".")
    return re.sub(r" (?![0-9A-Za-z])|(?<![0-9A-Za-z]) ", "", text)  # keeps "1 1/2", which is not 11/2


def _ask_worker(answer: str, gold: str, timeout_s: float) -> str:
    with _slots:
        worker, reply = _take_worker(), "crash"
        try:
            assert worker.stdin
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.write((json.dumps([answer, gold, timeout_s]) + "\n").encode())
                reply = _read(worker, timeout_s)
        finally:  # also on Ctrl-C: a worker that still has to reply must not serve again
            _kill(worker) if reply in ("timeout", "crash") else _idle.append(worker)
    return reply


def _take_worker() -> Popen[bytes]:
    with contextlib.suppress(IndexError):
        while (worker := _idle.pop()).poll() is not None:
            _kill(worker)  # somebody else did, while it was idle: close its pipes
        return worker
    command = [sys.executable, "-P", __file__]  # -P: the modules beside this file stay off its path
    worker = Popen(command, bufsize=0, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True)
    if _read(worker, timeout_s=120) != "ready":
        _kill(worker)
        raise RuntimeError(f"no answer checker; pip install math-verify, or see {' '.join(command)}")
    return worker


def _read(worker: Popen[bytes], timeout_s: float) -> str:
    assert worker.stdout
    poller, replies = select.poll(), worker.stdout.fileno()
    poller.register(replies, select.POLLIN)
    return (os.read(replies, 64).decode().strip() or "crash") if poller.poll(timeout_s * 1000) else "timeout"


def _kill(worker: Popen[bytes]) -> None:
    worker.kill()
    worker.communicate()


def _forget_workers() -> None:
    global _slots  # in a forked child, where the thread that holds it is missing
    _idle.clear()  # the parent's; this closes the child's copies of their pipes
    _failed.clear()
    _slots = threading.BoundedSemaphore(WORKERS)


def _verify(answer: str, gold: str) -> str:
    from math_verify import LatexExtractionConfig, parse, verify

    boxed = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]
    options = {"extraction_mode": "first_match", "parsing_timeout": None, "raise_on_error": True}
    try:
        # The whole box is read or nothing: by default a right fraction inside nonsense would count.
        golds, answers = (parse(f"\\boxed{{{text}}}", boxed, **options) for text in (gold, answer))
        if all(isinstance(part, str) for part in golds):
            return "gold"  # only math-verify's fallback, the string itself
        return str(verify(golds, answers, timeout_seconds=None, raise_on_error=True))
    except Exception:
        return "error"


def _serve() -> None:
    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # bytes of address space
    sys.stdout = sys.stderr  # what a library prints is no reply
    _verify("1", "\\frac{2}{2}")
    os.write(1, b"ready\n")
    for line in sys.stdin:
        answer, gold, timeout_s = json.loads(line)
        signal.alarm(int(timeout_s) + 10)  # ends this process, should the one that would kill it be gone
        os.write(1, _verify(answer, gold).encode() + b"\n")
        signal.alarm(0)


atexit.register(lambda: [_kill(worker) for worker in _idle])
os.register_at_fork(after_in_child=_forget_workers)
if __name__ == "__main__":
    _serve()
