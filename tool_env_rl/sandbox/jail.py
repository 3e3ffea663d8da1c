"""What Linux can take from a process: other processes, network, files, privileges, system calls, resources.

Every step is tried by itself, and none needs root: as root the namespaces are made directly, otherwise inside
a user namespace. `seccomp` works for anybody, and alone already leaves no file, socket or process to be had.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
# Constants of personality.h, sched.h, mount.h, prctl.h, seccomp.h and audit.h.
ADDR_NO_RANDOMIZE, QUERY = 0x40000, 0xFFFFFFFF
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
SECCOMP_MODE_FILTER, RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 2, 0x80000000, 0x50000, 0x7FFF0000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06

# System calls that computing, and answering on a pipe that is open already, need: nothing that opens,
# connects, starts, signals or changes anything. getrandom is left out too: results must not depend on it.
# By machine: its audit architecture, its number of pivot_root, the numbers of the calls.
SYSTEM_CALLS: dict[str, tuple[int, int, dict[str, int]]] = {
    "x86_64": (0xC000003E, 155, {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24,
        "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "uname": 63,
        "gettimeofday": 96, "getrusage": 98, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107,
        "getegid": 108, "getppid": 110, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
        "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
        "exit_group": 231,
    }),
    "aarch64": (0xC00000B7, 41, {
        "close": 57, "lseek": 62, "read": 63, "write": 64, "fstat": 80, "exit": 93, "exit_group": 94,
        "futex": 98, "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
        "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132, "rt_sigaction": 134,
        "rt_sigprocmask": 135, "rt_sigreturn": 139, "times": 153, "uname": 160, "getrusage": 165,
        "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176,
        "getegid": 177, "gettid": 178, "brk": 214, "munmap": 215, "mremap": 216, "mmap": 222,
        "mprotect": 226, "madvise": 233,
    }),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


@contextmanager
def fixed_addresses() -> Iterator[None]:
    """Programs that this thread starts inside have the same memory addresses in every run, where Linux can.

    The order of a set with None or NaN in it, which hash as their address, is then the same as well.
    """
    before = _libc.personality(ctypes.c_ulong(QUERY)) if hasattr(_libc, "personality") else -1
    changed = before >= 0 and _libc.personality(ctypes.c_ulong(before | ADDR_NO_RANDOMIZE)) >= 0
    try:
        yield
    finally:
        if changed:
            _libc.personality(ctypes.c_ulong(before))


def enter_namespaces() -> list[str]:
    """Own process ids (from the next fork on), network, mounts; returns what was granted, maybe nothing."""
    kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    uid, gid = os.getuid(), os.getgid()
    try:
        if uid != 0 or _libc.unshare(kinds) != 0:
            _do("unshare", kinds | CLONE_NEWUSER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except (OSError, AttributeError):  # AttributeError: not Linux
        return []
    return ["process namespace", "network namespace"]


def empty_root() -> list[str]:
    """Make an empty, read-only root the only file system; needs the namespaces of `enter_namespaces`."""
    _, pivot_root, _ = SYSTEM_CALLS.get(platform.machine(), (0, 0, {}))
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    try:
        _do("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        _do("mount", b"none", b"/tmp", b"tmpfs", flags, b"size=4k,mode=555")
        os.chdir("/tmp")
        _do("syscall", pivot_root, b".", b".")  # the old root now lies over the new one
        _do("umount2", b".", MNT_DETACH)
        os.chdir("/")
        _do("mount", None, b"/", None, MS_REMOUNT | MS_RDONLY | flags, None)
    except (OSError, AttributeError):
        return []
    return ["empty read-only root"]


def drop_privileges() -> list[str]:
    """Become nobody if root, give up all capabilities for good, close this memory to debuggers."""
    done = []
    if os.getuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError:  # a container that knows only root
            pass
        else:
            done.append("unprivileged user")
    try:
        _do("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _do("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
        _do("capset", struct.pack("II", 0x20080522, 0), struct.pack("6I", *[0] * 6))
        done.append("no capabilities")
    except (OSError, AttributeError):
        pass
    return done


def die_with_parent() -> None:
    """Be killed when the parent, a process of one thread, dies. Does nothing where the kernel cannot."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """Hard limits of this process: address space, CPU seconds, no files, no further processes or threads."""
    if platform.system() != "Linux":  # elsewhere some of these calls fail; the probe tells what stays open
        return
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def seccomp_program() -> bytes:
    """The filter: calls in `SYSTEM_CALLS` pass, others fail with EPERM. Empty where there is none."""
    if platform.system() != "Linux" or platform.machine() not in SYSTEM_CALLS:
        return b""
    architecture, _, calls = SYSTEM_CALLS[platform.machine()]
    steps = [
        (LOAD_WORD, 0, 0, 4),  # the architecture: another one numbers its calls differently
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, RET_KILL_PROCESS),
        (LOAD_WORD, 0, 0, 0),  # the number of the call
    ]
    steps += [(JUMP_EQUAL, len(calls) - i, 0, number) for i, number in enumerate(calls.values())]
    steps += [(RETURN, 0, 0, RET_ERRNO | errno.EPERM), (RETURN, 0, 0, RET_ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def install_seccomp() -> None:
    """Filter this process's system calls for good. Raises OSError where the kernel refuses."""
    if not SECCOMP_PROGRAM:
        raise OSError(errno.ENOSYS, f"no system call filter for {platform.system()} {platform.machine()}")
    _do("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filled = _Program(len(SECCOMP_PROGRAM) // 8, SECCOMP_PROGRAM)
    _do("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filled), 0, 0)


def _do(name: str, *arguments: object) -> None:
    """Call libc's `name`; OSError if it fails."""
    long = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(_libc, name)(*long) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


SECCOMP_PROGRAM = seccomp_program()  # made once: every call installs it
