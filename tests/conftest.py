"""Session set-up: one thread, no network; a test that tries the network fails, even if it hides the error."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

OFFLINE = Path(__file__).parent / "offline"


def pytest_configure(config: pytest.Config) -> None:
    """Limit and guard this process and its children; a run of the marker `network` is not guarded."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any test imports torch
    if "network" in config.option.markexpr and "not network" not in config.option.markexpr:
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    handle, log = tempfile.mkstemp(prefix="offline-guard-", suffix=".log")
    os.close(handle)
    os.environ["OFFLINE_GUARD_LOG"] = log
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
    spec = importlib.util.spec_from_file_location("offline_guard", OFFLINE / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    config.add_cleanup(lambda: Path(log).unlink(missing_ok=True))


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fail the test during which this process or a child tried to leave the machine."""
    log = Path(os.environ.get("OFFLINE_GUARD_LOG", os.devnull))
    before = log.read_text() if log.is_file() else ""
    yield
    after = log.read_text() if log.is_file() else ""
    assert after == before, f"the test tried the network: {after[len(before) :].strip()}"
