"""Hostile tools with the static gate off, against each layer by itself: 0 escapes, the pool serves on.

An attack is the body of `tool(x)`; `x` tells it where to strike. It returns "ESCAPED" where it got through.
The gate must reject each of them too, but for those that only use too much.
"""

from __future__ import annotations

import os
import signal
import socket
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tool_env_rl.sandbox import Sandbox, SandboxUnavailable, check

ADD = "def add(a, b=2):\n    return a + b"
LAYERS = {"both": (), "only the filter": ("namespaces",), "only namespaces": ("seccomp",)}
SECRET = "sandbox-test-secret-7f3a"

# name: (body, statuses that contain it, whether the gate rejects it)
BLOCKED, BURNED = ("ok", "error", "killed"), ("timeout",)
ATTACKS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    # files
    "read a file": ("return ('ESCAPED', open('/etc/passwd').read())", ("error",), True),
    "read a repository file": ("return ('ESCAPED', open(x['file']).read())", ("error",), True),
    "list folders": ("import os\nreturn [('ESCAPED', os.listdir(p)) for p in ('/etc', '/root', x['folder'])]",
                     ("error",), True),
    "write a file": ("import os\nfor p in (x['folder'], '/tmp', '/', '/dev/shm', '.'):\n    try:\n"
                     "        open(p + '/escaped', 'w').write('ESCAPED')\n        return 'ESCAPED'\n"
                     "    except OSError: pass\nreturn os.getcwd()", ("ok", "error"), True),
    "make a folder, a link, a device": (
        "import os\nfor f in (os.mkdir, os.mkfifo, os.unlink, os.rmdir, lambda p: os.symlink('/', p)):\n"
        "    for p in (x['folder'] + '/escaped', '/escaped', '/tmp/escaped'):\n"
        "        try:\n            f(p)\n"
        "            return 'ESCAPED'\n        except OSError: pass", ("ok",), True),
    "remove a file": ("import os\nos.remove(x['file'])\nreturn 'ESCAPED'", ("error",), True),
    "a file through ctypes": (
        "import ctypes\nc = ctypes.CDLL(None)\nfd = c.open(b'/etc/passwd', 0)\n"
        "return 'ESCAPED' if fd >= 0 else fd", ("ok",), True),
    "import from disk": ("import sqlite3, urllib.request\nreturn 'ESCAPED'", ("error",), True),
    "memory in a file": ("import os\nfd = os.memfd_create('m')\nos.write(fd, b'x' * 10)\nreturn 'ESCAPED'",
                         ("error", "killed"), True),
    # network
    "connect": ("import socket\ns = socket.socket()\ns.connect(('127.0.0.1', x['port']))\nreturn 'ESCAPED'",
                ("error",), True),
    "datagram": ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
                 "s.sendto(b'x', ('127.0.0.1', x['port']))\nreturn 'ESCAPED'", ("error",), True),
    "local socket": ("import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect(x['abstract'])\n"
                     "return 'ESCAPED'", ("error",), True),
    "name look-up": ("import socket\nreturn ('ESCAPED', socket.getaddrinfo('example.com', 80))",
                     ("error",), True),
    # processes
    "fork": ("import os\nif os.fork() == 0:\n    os._exit(0)\nreturn 'ESCAPED'", ("error",), True),
    "fork bomb": ("import os\nn = 0\nfor _ in range(100000):\n    try:\n        n += os.fork() > 0\n"
                  "    except OSError: pass\nreturn 'ESCAPED' if n else n", ("ok",), True),
    "execute": ("import os\nos.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])", ("error",), True),
    "execute by system": ("import os\nreturn os.system('exit 0') or 'ESCAPED'", ("ok", "error"), True),
    "subprocess": ("import subprocess\nreturn ('ESCAPED', subprocess.run(['/bin/true']))", ("error",), True),
    "thread": ("import threading\nthreading.Thread(target=print).start()\nreturn 'ESCAPED'",
               ("error",), True),
    "kill the zygote": ("import os\nfor s in (9, 15, 19):\n    for p in (os.getppid(), 1, -1, x['pid']):\n"
                        "        try: os.kill(p, s)\n        except OSError: pass", BLOCKED, True),
    "signal the trainer": ("import os\nos.kill(x['pid'], 10)\nreturn 'ESCAPED'", ("error",), True),
    "debug the zygote": (
        "import ctypes, os\nc = ctypes.CDLL(None)\nfor p in (os.getppid(), x['pid']):\n"
        "    if c.ptrace(16, p, 0, 0) == 0: return 'ESCAPED'", BLOCKED, True),
    "more privileges": (
        "import ctypes, os\nc = ctypes.CDLL(None)\nfor f in (lambda: os.setuid(0), lambda: os.setgid(0), "
        "lambda: os.chroot('/'), lambda: os.setgroups([0])):\n    try:\n        f()\n"
        "        if os.getuid() == 0: return 'ESCAPED'\n    except OSError: pass\n"
        "return 'ESCAPED' if c.mount(b'none', b'/', b'proc', 0, None) == 0 else 'kept'", ("ok",), True),
    "raise the limits": ("import resource\nfor kind in (0, 6, 7, 9):\n    try:\n"
                         "        resource.setrlimit(kind, (1 << 40, 1 << 40))\n        return 'ESCAPED'\n"
                         "    except (ValueError, OSError): pass", ("ok",), True),
    # secrets
    "environment": ("import ctypes, os\nc = ctypes.CDLL(None)\nc.getenv.restype = ctypes.c_char_p\n"
                    "return [dict(os.environ), str(c.getenv(b'SANDBOX_SECRET')), str(c.getenv(b'PATH'))]",
                    ("ok",), True),
    "environment of others": (
        "import os\nfor p in ('self', '1', os.getppid(), x['pid']):\n    try:\n"
        "        return ('ESCAPED', open(f'/proc/{p}/environ').read())\n    except OSError: pass",
        ("ok",), True),
    "other calls' data": (
        "import gc\nreturn [str(o)[:200] for o in gc.get_objects() if isinstance(o, (dict, list)) "
        "and x['earlier'][::-1] in str(o)]", ("ok", "error"), True),
    "frames": ("import sys\nf, found = sys._getframe(), []\nwhile f:\n    found += [str(f.f_locals)]\n"
               "    f = f.f_back\nreturn x['earlier'][::-1] in str(found) and 'ESCAPED'", ("ok",), True),
    # using too much
    "endless loop": ("y = 1\nwhile y:\n    y += 1", BURNED, False),
    "endless regex": ("import re\nreturn re.match('(a+)+$', 'a' * 60 + 'b')", BURNED, False),
    "endless arithmetic": ("return len(str(9 ** (9 ** 9)))", (*BURNED, "error"), False),
    "recursion": ("def f(n):\n    return f(n + 1)\nreturn f(0)", ("error",), False),
    "recursion of C": ("import sys\nsys.setrecursionlimit(10**9)\nf = lambda: f()\nreturn f()",
                       ("error", "killed", "timeout"), True),
    "memory": ("return len(bytearray(8 << 30))", ("error",), False),
    "memory in steps": ("held = []\nwhile len(held) < 10**6:\n    held += [bytearray(1 << 20)]\nreturn 1",
                        ("error",), False),
    "huge result": ("return 'x' * 50_000_000", ("killed",), False),
    "huge error": ("raise ValueError('x' * 50_000_000)", ("killed",), False),
    "printing": ("import sys\nfor _ in range(50):\n    print('x' * 1_000_000, file=sys.stderr)\nprint(1)",
                 ("ok",), True),
    "sleeping": ("import time\ntime.sleep(60)\nreturn 'ESCAPED'", BURNED, True),
    # ways to end, and to refuse to
    "sys.exit": ("import sys\nsys.exit(0)", ("error",), True),
    "raise SystemExit": ("raise SystemExit('ESCAPED'[::-1])", ("error",), True),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", ("error",), True),
    "os._exit": ("import os\nos._exit(0)", ("killed",), True),
    "abort": ("import os\nos.abort()", ("killed",), True),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", ("killed",), True),
    "ignoring signals": (
        "import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass", BURNED, True),
    "catching everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass",
                            BURNED, True),
    "an alarm": ("import signal\nsignal.signal(14, lambda *_: 1 / 0)\nsignal.setitimer(0, 0.01)\n"
                 "y = 0\nwhile y < 10**6: y += 1", ("ok", "error"), True),
    "work at exit": ("import atexit, time\natexit.register(time.sleep, 60)\nreturn 1", ("ok",), True),
    # hostile values
    "raising __str__": ("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E",
                        ("error",), True),
    "endless __str__": ("class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
                        BURNED, True),
    "huge __str__": ("class E(Exception):\n    def __str__(self): return 'x' * 50_000_000\nraise E",
                     ("killed",), True),
    "exiting __str__": ("import os\nclass E(Exception):\n    def __str__(self): os._exit(0)\nraise E",
                        ("killed",), True),
    "no text from __str__": ("class R:\n    def __str__(self): return 5\nreturn R()", ("error",), True),
    "own dict": ("class D(dict):\n    def items(self): raise ZeroDivisionError\nreturn D()", ("ok",), True),
    "cyclic result": ("a = []\na.append(a)\nreturn a", ("error",), False),
    "deep result": ("a = []\nfor _ in range(10**5): a = [a]\nreturn a", ("error",), False),
    # the state of the process, and the channel
    "patched json": ("import json\njson.dumps = json.loads = lambda *a, **k: 'PATCHED'\nreturn {}",
                     ("ok",), False),
    "patched builtins": ("import builtins\nfor n in ('len', 'str', 'open', 'memoryview'):\n"
                         "    setattr(builtins, n, lambda *a: 'PATCHED')\nreturn 1", BLOCKED, True),
    "patched os.write": ("import os\nos.write = lambda *a: 10**9\nreturn 'whole'", ("ok",), True),
    "patched types": ("import gc\ngc.get_referents(dict.__dict__)[0].clear()\nreturn 1", BLOCKED, True),
    "forged answers": ("import os\nfor fd in range(64):\n    for _ in range(3):\n        try: os.write(fd, "
                       "b'o\\0\\0\\0\\6FORGED')\n        except OSError: pass\nreturn 'own'", BLOCKED, True),
    "forged rejection": ("import os\nos.write(3, b'r')\nos._exit(0)", ("killed",), True),
    "flooded channel": ("import os\nwhile True: os.write(3, b'x' * 65536)", ("killed",), True),
    "closed channel": ("import os\nos.closerange(0, 64)\nwhile True: pass", ("killed", "timeout"), True),
    "descriptors": ("import os\nreturn [fd for fd in range(4, 64) if os.read(fd, 1)]", ("error",), True),
}  # fmt: skip
BURNING = [name for name, (_, statuses, _) in ATTACKS.items() if "timeout" in statuses]


def source(body: str) -> str:
    return "def tool(x):\n" + textwrap.indent(body, "    ")


SINGLE = [pytest.param(layer, marks=pytest.mark.slow) for layer in LAYERS if layer != "both"]


@pytest.fixture(scope="module", params=["both", *SINGLE])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    patch = pytest.MonkeyPatch()
    patch.setenv("SANDBOX_SECRET", SECRET)
    try:
        with Sandbox(
            1,
            time_limit_s=1,
            wall_limit_s=5,
            memory_limit_mib=256,
            _gate=False,
            _without=LAYERS[request.param],
        ) as opened:
            yield opened
    except SandboxUnavailable as error:
        pytest.skip(f"{request.param}: {error}")
    finally:
        patch.undo()


def serves(sandbox: Sandbox) -> bool:
    answer = sandbox.call(ADD, "add", {"a": time.monotonic_ns(), "b": 0})  # never from the cache
    text = sandbox.call(
        "import json\ndef f(x):\n    return [len(str(x)), json.loads('1')]", "f", {"x": time.monotonic()}
    )
    return answer.status == text.status == "ok" and answer.output.isdigit() and text.output.endswith(", 1]")


def attack(sandbox: Sandbox, name: str, folder: Path) -> None:
    body, statuses, _ = ATTACKS[name]
    file = folder / "file"
    file.write_text("ESCAPED")
    signals: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
    earlier = f"data of another call {time.monotonic_ns()}"
    assert sandbox.call("def f(x):\n    return x", "f", {"x": earlier}).output == earlier
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as local,
    ):
        port, abstract = server.getsockname()[1], f"\0sandbox-{os.getpid()}"
        datagrams.bind(("127.0.0.1", port))
        local.bind(abstract)
        local.listen()
        strike: dict[str, Any] = {
            "file": str(file),
            "folder": str(folder),
            "port": port,
            "abstract": abstract,
        }
        strike |= {"pid": os.getpid(), "earlier": earlier[::-1]}
        result = sandbox.call(source(body), "tool", {"x": strike})
        for listening in (server, datagrams, local):
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.recv(1) if listening is datagrams else listening.accept()
    signal.signal(signal.SIGUSR1, before)
    assert result.status in statuses, result
    assert "ESCAPED" not in result.output
    assert SECRET not in result.output
    assert earlier not in result.output
    assert len(result.output) <= 70_000
    assert not signals
    assert [p.name for p in folder.iterdir()] == ["file"]
    assert file.read_text() == "ESCAPED"
    assert not Path("/tmp/escaped").exists()
    assert serves(sandbox)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in BURNING])
def test_attack(sandbox: Sandbox, name: str, tmp_path: Path) -> None:
    attack(sandbox, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BURNING)
def test_attack_that_uses_up_its_time(sandbox: Sandbox, name: str, tmp_path: Path) -> None:
    attack(sandbox, name, tmp_path)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_gate_rejects_the_attack(name: str) -> None:
    body, _, rejected = ATTACKS[name]
    assert check(source(body), "tool").passed != rejected


def test_patches_end_with_their_call(sandbox: Sandbox) -> None:
    patch = "import json, datetime, re\njson.dumps = len\nre.match = print\njson.JSONEncoder = None\nreturn 1"
    sandbox.call(source(patch), "tool", {"x": 1})
    after = "def f(t):\n    import json, re\n    return {'m': bool(re.match('a', 'a')), 'j': json.dumps([t])}"
    assert sandbox.call(after, "f", {"t": 3}).output == '{"m": true, "j": "[3]"}'
    counter = "seen = []\ndef f(i):\n    seen.append(i)\n    return len(seen)"
    assert [sandbox.call(counter, "f", {"i": i}).output for i in range(3)] == ["1", "1", "1"]


def test_nothing_of_an_attack_runs_on(sandbox: Sandbox) -> None:
    """After each call only supervisor and zygote are left, however the call ended."""
    for name in ("fork bomb", "thread", "work at exit", "closed channel", "os._exit"):
        sandbox.call(source(ATTACKS[name][0]), "tool", {"x": {"again": name}})
        (worker,) = sandbox._running
        (zygote,) = (
            Path(f"/proc/{worker._process.pid}/task/{worker._process.pid}/children").read_text().split()
        )
        assert Path(f"/proc/{zygote}/task/{zygote}/children").read_text() == ""
