"""The pool of sandbox workers, its cache and its counters: the side that lives in the calling program."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import queue
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tool_env_rl.sandbox import jail, worker

Status = Literal["ok", "error", "rejected", "timeout", "killed"]

MAX_ARGUMENT_BYTES = 1_000_000
START_S = 60.0  # a worker that has not reported by then is broken
GRACE_S = 5.0  # beyond a call's wall time, before its worker is taken for lost
_START = (
    "import json, sys; sys.path.append(sys.argv[1]); from tool_env_rl.sandbox.worker import main; "
    "main(json.loads(sys.argv[3]), sys.argv[2])"
)
# Of an object in memory, as Python prints it: <T object at 0x7f…>, <code object f at 0x7f…, file "…">, cells
# and weak references. Other texts keep their hexadecimal numbers.
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+(?=>|, file [\"']|: \w+ object at 0x|: empty>|; to '|; dead>)")
_STATUS: dict[bytes, Status] = {
    worker.OK: "ok", worker.ERROR: "error", worker.REJECTED: "rejected", worker.KILLED: "killed",
    worker.FLOODED: "killed", worker.CPU_TIMEOUT: "timeout", worker.WALL_TIMEOUT: "timeout",
}  # fmt: skip


class SandboxUnavailable(RuntimeError):
    """This machine cannot contain untrusted code, or the workers do not start."""


@dataclass(frozen=True)
class ToolResult:
    """What a call gave. `output` is what the model reads, always valid Unicode.

    status: ok; error (the tool raised, or its result or arguments are not JSON); rejected (by the gate);
    timeout; killed (it ended its process, or wrote more than the output limit). Except with ok, the output
    begins as the authors' does: "an error occured when call NAME: ".
    """

    output: str
    status: Status


class Sandbox:
    """Runs model-written tools in worker processes. Use it as a context manager; safe to share among threads.

    Raises SandboxUnavailable on entry where a probe in a worker could open a file, a network connection or a
    process, unless `unsafe_exec` says that all code to come is trusted. Results are a function of source and
    arguments: no clock, no randomness, one hash seed, a fresh copy of the interpreter's state for every call.

    Args:
        workers: processes, each answering one call at a time.
        unsafe_exec: run even if the machine offers no isolation; warns then.
        time_limit_s: CPU time of one call, rounded up to whole seconds.
        wall_limit_s: time of one call on the clock (authors' code: 10); such a time-out is not cached.
        memory_limit_mib: address space of one call; what goes beyond raises MemoryError in the tool.
        output_limit_bytes: of the rendered result in UTF-8; a longer one is "killed".
        cache_size: number of results kept.

    Attributes:
        counts: returned results by status, and under "cached" how many of them ran nothing.
    """

    def __init__(
        self,
        workers: int = min(4, os.cpu_count() or 1),
        *,
        unsafe_exec: bool = False,
        time_limit_s: float = 2.0,
        wall_limit_s: float = 10.0,
        memory_limit_mib: int = 512,
        output_limit_bytes: int = 65_536,
        cache_size: int = 100_000,
        _gate: bool = True,
        _without: Iterable[str] = (),
    ) -> None:
        # `_gate` and `_without` ("namespaces", "seccomp") let the tests attack each layer by itself.
        sizes = (workers, time_limit_s, wall_limit_s, memory_limit_mib, output_limit_bytes, cache_size)
        if min(sizes) <= 0 or memory_limit_mib < 128:
            raise ValueError(
                f"{workers=}, {time_limit_s=}, {wall_limit_s=}, {memory_limit_mib=}, {output_limit_bytes=}, "
                f"{cache_size=}: all must be above 0, and the memory at least 128 MiB, which Python takes"
            )
        self._workers, self._unsafe_exec, self._gate = workers, unsafe_exec, _gate
        self._wall_s, self._output_bytes, self._cache_size = wall_limit_s, output_limit_bytes, cache_size
        self._cpu_s = math.ceil(time_limit_s)
        self._settings = {
            "memory_bytes": memory_limit_mib << 20,
            "cpu_s": self._cpu_s,
            "wall_s": wall_limit_s,
            "output_bytes": output_limit_bytes,
            "without": list(_without),
        }
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, str, str], ToolResult] = OrderedDict()
        self._passed: set[tuple[str, str]] = set()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # None: one to start
        self._running: set[_Worker] = set()
        self._process = 0  # the one that may call
        self.counts: Counter[str] = Counter()
        self.protections: tuple[str, ...] = ()

    def __enter__(self) -> Sandbox:
        self._process = os.getpid()
        try:
            for started in [self._start() for _ in range(self._workers)]:
                self._admit(started)
                self._idle.put(started)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and whatever they run."""
        self._process = 0
        with self._lock:
            running = list(self._running)
            self._running.clear()
        for stopped in running:
            stopped.stop()
        self._idle = queue.LifoQueue()

    def call(self, code: str, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call function `name` of the source `code` with JSON `arguments`; nothing in them raises here."""
        return self.call_many([(code, name, arguments)])[0]

    def call_many(self, calls: Iterable[tuple[str, str, dict[str, Any]]]) -> list[ToolResult]:
        """`call` on each (code, name, arguments), one per worker at a time; equal ones run once."""
        if self._process != os.getpid():
            raise RuntimeError(
                f"this Sandbox is not open in process {os.getpid()}: enter one there as a context manager"
            )
        asked = [_request(*call) for call in calls]
        requests = {request.key: request for request in asked if isinstance(request, _Request)}
        with self._lock:
            results = {key: self._cache[key] for key in requests if key in self._cache}
            for key in results:
                self._cache.move_to_end(key)
        todo = [request for key, request in requests.items() if key not in results]
        if len(todo) == 1:
            results[todo[0].key] = self._run(todo[0])
        elif todo:
            with _threads(self._workers) as threads:
                results.update(zip((r.key for r in todo), threads.map(self._run, todo), strict=True))
        returned = [results[r.key] if isinstance(r, _Request) else r for r in asked]
        with self._lock:
            self.counts.update(result.status for result in returned)
            self.counts["cached"] += sum(isinstance(r, _Request) for r in asked) - len(todo)
        return returned

    def _run(self, request: _Request) -> ToolResult:
        """Run on an idle worker, and keep the result unless it depended on the machine's load."""
        checked = request.key[:2]
        body = json.dumps(
            {
                "code": request.code,
                "name": request.name,
                "arguments": request.key[2],
                "gate": self._gate and checked not in self._passed,
            }
        ).encode()
        for _ in range(2):  # once more if the worker was ended from outside
            serving = self._idle.get()
            try:
                if serving is None:
                    self._admit(serving := self._start())
                outcome, text = serving.ask(body, self._wall_s + GRACE_S)
            except BaseException as error:
                self._drop(serving)
                if isinstance(error, TimeoutError):
                    outcome, text = worker.WALL_TIMEOUT, ""
                    break
                if not isinstance(error, (OSError, EOFError)):
                    raise
            else:
                self._idle.put(serving)
                break
        else:
            return ToolResult(request.failed("its worker died twice"), "killed")
        result = ToolResult(self._render(request, outcome, text), _STATUS[outcome])
        with self._lock:
            if outcome != worker.REJECTED:
                self._passed.add(checked)
            if outcome != worker.WALL_TIMEOUT:
                self._cache[request.key] = result
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return result

    def _render(self, request: _Request, outcome: bytes, text: str) -> str:
        causes = {
            worker.REJECTED: f"rejected: {text}",
            worker.CPU_TIMEOUT: f"timed out after {self._cpu_s} s of computing",
            worker.WALL_TIMEOUT: f"timed out after {self._wall_s:g} s",
            worker.FLOODED: f"its output has more than {self._output_bytes} bytes",
            worker.KILLED: "it ended its process",
        }
        text = _ADDRESS.sub("at 0x0", text)  # differs from run to run
        return text if outcome == worker.OK else request.failed(causes.get(outcome, text))

    def _start(self) -> _Worker:
        started = _Worker(self._settings)
        with self._lock:
            self._running.add(started)
        return started

    def _admit(self, started: _Worker) -> None:
        """Wait until the worker is locked in; SandboxUnavailable if it is not, and that was not allowed."""
        report = started.report()
        self.protections = tuple(report["protections"])
        if not report["doors"]:
            return
        message = (
            f"tool code could reach {', '.join(report['doors'])} here: the kernel ({platform.platform()}) "
            "grants neither a system call filter nor namespaces"
        )
        if not self._unsafe_exec:
            raise SandboxUnavailable(
                f"{message}; run where it does, or pass unsafe_exec=True if you trust all tool code"
            )
        warnings.warn(f"{message}; running it anyway, as unsafe_exec asks", RuntimeWarning, stacklevel=3)

    def _drop(self, serving: _Worker | None) -> None:
        """End a worker that failed; the next call on its place starts another."""
        if serving is not None:
            with self._lock:
                self._running.discard(serving)
            serving.stop()
        self._idle.put(None)


@dataclass(frozen=True)
class _Request:
    key: tuple[str, str, str]  # hash of the source, name, arguments as JSON with sorted names
    code: str
    name: str

    def failed(self, cause: str) -> str:
        """The authors' words for a call that gave no result (their spelling)."""
        return worker.encode(f"an error occured when call {self.name[:200]}: {cause}").decode()


def _request(code: str, name: str, arguments: dict[str, Any]) -> _Request | ToolResult:
    # The order inside nested objects is kept: a tool that echoes one shows it.
    key, problem = "", ""
    if not isinstance(arguments, dict) or not all(isinstance(k, str) for k in arguments):
        problem = f"the arguments must be an object with names, not {type(arguments).__name__}"
    else:
        try:
            key = json.dumps({k: arguments[k] for k in sorted(arguments)})
        except (TypeError, ValueError, RecursionError) as error:
            problem = f"the arguments are not JSON: {error}"
    if len(key) > MAX_ARGUMENT_BYTES:
        problem = f"the arguments have {len(key)} bytes, more than {MAX_ARGUMENT_BYTES}"
    source_hash = hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()
    request = _Request((source_hash, name, key), code, name)
    return ToolResult(request.failed(problem), "error") if problem else request


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads whose waiting work is dropped when the caller is interrupted."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """One supervisor process with its zygote, and the socket to it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._socket, theirs = socket.socketpair()
        package = Path(__file__).resolve().parents[2]
        paths = [str(package), sysconfig.get_paths()["purelib"]]
        with theirs, jail.fixed_addresses():
            self._process = subprocess.Popen(
                # -s -P -S: nothing of the user's or the current folder, no site hooks; the hash seed bars -I
                [sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", _START, *paths,
                 json.dumps(settings | {"parent": os.getpid()})],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"}, cwd="/", start_new_session=True,
            )  # fmt: skip

    def report(self) -> dict[str, list[str]]:
        """The worker's first message: its protections, and the doors that its probe found open."""
        try:
            return json.loads(self._receive(time.monotonic() + START_S)[1])
        except (OSError, EOFError) as error:
            self.stop()
            raise SandboxUnavailable(
                f"a sandbox worker did not start ({error}, exit code {self._process.returncode}): "
                f"see what `{sys.executable} -S -c 'import tool_env_rl.sandbox.worker'` prints"
            ) from error

    def ask(self, body: bytes, timeout_s: float) -> tuple[bytes, str]:
        """Outcome and text of one request. TimeoutError; OSError or EOFError if the worker is gone."""
        end = time.monotonic() + timeout_s
        self._socket.settimeout(timeout_s)
        self._socket.sendall(len(body).to_bytes(4) + body)
        return self._receive(end)

    def stop(self) -> None:
        """End the worker; on return none of its processes runs."""
        self._socket.close()  # the zygote ends its call and itself
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _receive(self, end: float) -> tuple[bytes, str]:
        head = self._read(5, end)
        return head[:1], self._read(int.from_bytes(head[1:]), end).decode("utf-8", "replace")

    def _read(self, size: int, end: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            part = self._socket.recv(size - len(data))
            if not part:
                raise EOFError("the sandbox worker has ended")
            data += part
        return bytes(data)
