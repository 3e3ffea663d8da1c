"""Runs in the sandbox's processes, never in the trainer: a supervisor, a warm zygote, one child per call.

    supervisor    waits; ends the zygote when the program that started it is gone
    └─ zygote     locked in, has the allowed modules loaded; reads requests, forks, measures, kills, replies
       └─ child   gives up the rest, checks and runs one tool, writes one answer, ends

The zygote runs nothing of a tool's source and parses nothing that a child wrote: from the child's pipe it
takes bytes up to a limit and passes them on. The child holds that pipe and no other descriptor of use.

Request: 4 bytes length, then JSON {code, name, arguments, gate}. Reply: 1 byte outcome, 4 bytes length, text.
"""

from __future__ import annotations

import codecs
import ctypes
import datetime
import gc
import importlib
import io
import json
import math
import os
import pkgutil
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, cast

from tool_env_rl.sandbox import jail, static_gate

OK, ERROR, REJECTED = b"o", b"e", b"r"  # a child says one of these; the zygote knows the others
CPU_TIMEOUT, WALL_TIMEOUT, KILLED, FLOODED = b"t", b"w", b"k", b"f"
PASSED = b"p"  # the child's first byte, before it runs the source: a tool cannot claim to be rejected
NOW = datetime.datetime(2025, 8, 14)  # every tool's clock: the day of the authors' release
ANSWER = 3  # the child's descriptor
GONE = select.POLLHUP | select.POLLERR


def main(settings: dict[str, Any], site: str) -> None:
    """Supervise one zygote until it or the program with process id `settings["parent"]` ends."""
    channel, null = os.dup(0), os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    preload(site)
    without: list[str] = settings["without"]
    protections = ["separate process", "empty environment", "resource limits"]
    namespaces = [] if "namespaces" in without else jail.enter_namespaces()
    zygote = os.fork()
    if zygote == 0:
        jail.die_with_parent()  # also before privileges change, which clears it
        serve(channel, settings, protections + namespaces, namespaces)
    os.close(channel)  # or the program's end would not be seen as the end of its requests
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    # Not PR_SET_PDEATHSIG: it acts when the *thread* that started this process ends.
    while os.getppid() == settings["parent"] and os.waitpid(zygote, os.WNOHANG) == (0, 0):
        signal.sigtimedwait({signal.SIGCHLD}, 0.2)
    with suppress(ProcessLookupError):
        os.kill(zygote, signal.SIGKILL)
    os._exit(0)


def preload(site: str) -> None:
    """Load what tools may import, because a call cannot open a file; then stop the clock."""
    sys.path.append(site)  # for dateutil and pytz
    for name in (*sorted(static_gate.MODULES), "_strptime", "unicodedata", "encodings.idna"):
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
    for encoding in ("ascii", "latin-1", "utf-8-sig", "utf-16-le", "cp1252"):
        codecs.lookup(encoding)
    if "pytz" in sys.modules:
        _load_zones(sys.modules["pytz"])
    stop_clock()
    os.environ.clear()
    sys.path.clear()
    gc.collect()
    gc.freeze()  # a child's garbage collection then does not copy the zygote's pages


def _load_zones(pytz: Any) -> None:
    """Serve pytz's time zone files from memory."""
    names = set(pytz._all_timezones_unchecked) | {"zone.tab", "iso3166.tab"}
    files = {name: pkgutil.get_data("pytz", f"zoneinfo/{name}") for name in sorted(names)}

    def open_resource(name: str) -> io.BytesIO:
        if name not in files:
            raise FileNotFoundError(name)
        return io.BytesIO(files[name] or b"")

    pytz.open_resource = open_resource


def stop_clock() -> None:
    """Make today, now, utcnow and time.time say `NOW`, in the C types themselves: the classes stay."""

    def today(cls: type[datetime.date]) -> datetime.date:
        return cls(NOW.year, NOW.month, NOW.day)

    def now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
        if tz is None:
            return cls(NOW.year, NOW.month, NOW.day)
        return tz.fromutc(cls(NOW.year, NOW.month, NOW.day, tzinfo=tz))

    def utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
        return now(cls)

    for owner, functions in ((datetime.date, (today,)), (datetime.datetime, (today, now, utcnow))):
        members = cast("dict[str, Any]", gc.get_referents(owner.__dict__)[0])
        members.update({function.__name__: classmethod(function) for function in functions})
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))
    seconds = NOW.replace(tzinfo=datetime.UTC).timestamp()
    time.time = lambda: seconds


def serve(channel: int, settings: dict[str, Any], protections: list[str], namespaces: list[str]) -> NoReturn:
    """The zygote: lock itself in, say what is active and what a child can still do, then answer requests."""
    if namespaces:
        protections += jail.empty_root()
    protections += jail.drop_privileges()
    jail.die_with_parent()
    seal = jail.install_seccomp
    if "seccomp" not in settings["without"] and fork_call(channel, settings, seal, say_ok)[0] == OK:
        protections.append("system call filter")
    else:
        seal = _nothing
    _, doors = fork_call(channel, settings, seal, probe)
    _reply(channel, OK, json.dumps({"protections": protections, "doors": json.loads(doors)}).encode())
    while True:
        _serve_one(channel, settings, seal)


def _serve_one(channel: int, settings: dict[str, Any], seal: Callable[[], object]) -> None:
    # A function of its own: what is local here would else be there for the next child to find.
    request = _receive(channel, int.from_bytes(_receive(channel, 4)))
    _reply(channel, *fork_call(channel, settings, seal, partial(run_tool, request)))


def fork_call(
    channel: int,
    settings: dict[str, Any],
    seal: Callable[[], object],
    call: Callable[[], object],
) -> tuple[bytes, bytes]:
    """Run `call` in a sealed child; returns the outcome and what it wrote, at most the output limit."""
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            jail.die_with_parent()
            os.dup2(answer, ANSWER)
            os.closerange(ANSWER + 1, 64)
            jail.limit_resources(settings["memory_bytes"], settings["cpu_s"])
            seal()
            call()
            status = 0
        finally:
            os._exit(status)
    os.close(answer)
    written, stopped = _collect(channel, answers, settings)
    os.close(answers)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)  # it may have closed its pipe and gone on
    _, status, usage = os.wait4(child, 0)
    _end_the_rest()
    if stopped:
        return stopped, b""
    # Half, because the kernel's limit counts ticks and the usage is exact: they differ on a busy machine.
    if os.WIFSIGNALED(status) and usage.ru_utime + usage.ru_stime >= settings["cpu_s"] / 2:
        return CPU_TIMEOUT, b""
    if written[:1] == REJECTED:
        return REJECTED, written[1:]
    if status == 0 and written[1:2] in (OK, ERROR):
        return written[1:2], written[2:]
    return KILLED, b""


def _collect(channel: int, answers: int, settings: dict[str, Any]) -> tuple[bytes, bytes]:
    """What the child wrote until it closed the pipe, and the limit that stopped it, if one did."""
    waiting, written, end = select.poll(), bytearray(), time.monotonic() + settings["wall_s"]
    waiting.register(answers, select.POLLIN)
    waiting.register(channel, 0)
    while (left := end - time.monotonic()) > 0:
        for descriptor, event in waiting.poll(math.ceil(left * 1000)):
            if descriptor == channel and event & GONE:
                os._exit(0)  # nobody waits for the answer
            if descriptor == answers:
                part = os.read(answers, 65536)
                if not part:
                    return bytes(written), b""
                written += part
        if len(written) > settings["output_bytes"] + 2:
            return b"", FLOODED
    return b"", WALL_TIMEOUT


def _end_the_rest() -> None:
    """In an own process namespace nothing but the zygote outlives a call."""
    if os.getpid() == 1:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def run_tool(request: bytes) -> None:
    """In the child: check, run, render as the authors do, answer. What a tool patches ends with the child."""
    asked = json.loads(request)
    source, name = asked["code"], asked["name"]
    if asked["gate"]:
        report = static_gate.check(source, name)
        if not report.passed:
            os.write(ANSWER, REJECTED + encode("; ".join(report.reasons)))
            return
    os.write(ANSWER, PASSED)
    random.seed(0)  # here, because forking seeds it from the system
    write, utf8 = os.write, encode
    try:
        outcome, text = OK, utf8(_call(source, name, json.loads(asked["arguments"])))
    except BaseException as error:
        outcome, text = ERROR, utf8(_message(error))
    view = memoryview(outcome + text)
    while view:
        view = view[write(ANSWER, view) :]


def _call(source: str, name: str, arguments: dict[str, Any]) -> str:
    namespace: dict[str, Any] = {}
    exec(compile(source, "<tool>", "exec"), namespace)
    if name not in namespace:
        raise NameError(f"name {name} is not defined")
    result = namespace[name](**arguments)
    if type(result) is dict or type(result) is list:
        return json.dumps(result, ensure_ascii=False)
    return result if type(result) is str else str(result)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "its message cannot be read"


def encode(text: str) -> bytes:
    """UTF-8; halves of a surrogate pair are joined, lone ones become U+FFFD: tokenizers refuse them."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def say_ok() -> None:
    os.write(ANSWER, PASSED + OK)


def _nothing() -> None: ...


def probe() -> None:
    """In a sealed child: answer with the list of the doors that are open to it."""

    def connect() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probed:
            probed.connect(("127.0.0.1", 9))  # of a datagram socket: finds a route, sends nothing

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    doors = {"files": lambda: os.stat("/usr"), "network": connect, "processes": fork}
    found = []
    for door, attempt in doors.items():
        with suppress(OSError):
            attempt()
            found.append(door)
    os.write(ANSWER, PASSED + OK + json.dumps(found).encode())


def _receive(channel: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(channel, size - len(data))
        if not part:
            os._exit(0)  # the program closed the sandbox
        data += part
    return bytes(data)


def _reply(channel: int, outcome: bytes, text: bytes) -> None:
    view = memoryview(outcome + len(text).to_bytes(4) + text)
    while view:
        view = view[os.write(channel, view) :]
