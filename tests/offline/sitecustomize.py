"""Network guard for the tests: Python loads this file at start-up when its folder is on PYTHONPATH.

A connection or a name look-up that leaves this machine raises, and is first written to the file
OFFLINE_GUARD_LOG, because libraries swallow such errors and fall back. tests/conftest.py sets both
variables, so subprocesses are guarded too.
"""

from __future__ import annotations

import ipaddress
import os
import socket


def local(address: object) -> bool:
    """True for Unix sockets, loopback addresses, and this machine's own names."""
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(address, tuple) and str(host).startswith(("/", "\0")):
        return True
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


def guarded(owner: object, name: str, position: int) -> None:
    original = getattr(owner, name)

    def call(*args: object, **kwargs: object) -> object:
        target = args[position] if len(args) > position else kwargs.get("host")
        if name == "getaddrinfo":
            target = (target,)
        if not local(target):
            with open(os.environ["OFFLINE_GUARD_LOG"], "a") as log:
                log.write(f"{name} {target!r}\n")
            raise ConnectionError(f"the tests are offline: {name} to {target!r}")
        return original(*args, **kwargs)

    setattr(owner, name, call)


if os.environ.get("OFFLINE_GUARD_LOG"):
    guarded(socket.socket, "connect", 1)
    guarded(socket.socket, "connect_ex", 1)
    guarded(socket, "getaddrinfo", 0)
