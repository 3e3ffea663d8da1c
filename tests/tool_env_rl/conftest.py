"""Built environments and a sandbox that several files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tool_env_rl.build_env.backends import DeterministicBackend
from tool_env_rl.build_env.pipeline import BuildSettings, build
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox


@pytest.fixture(scope="session")
def tools_sandbox() -> Iterator[Sandbox]:
    with Sandbox(1) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def toy_environments(tools_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> list[Environment]:
    """Eight environments at L0 and L4, two of each scenario."""
    folder: Path = tmp_path_factory.mktemp("environments") / "built"
    settings = BuildSettings(n=8, seed=5, levels=(4, 0))
    return build(settings, folder, DeterministicBackend(), tools_sandbox).environments
