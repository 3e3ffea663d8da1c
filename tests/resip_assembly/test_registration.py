"""Anyone's `gymnasium.make` finds the environments, the way gymnasium asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from resip_assembly.env import TASKS
from resip_assembly.registration import ENVIRONMENTS, register_envs


def test_every_task_has_a_name() -> None:
    assert {task.name: task.env_id for task in TASKS.values()} == {
        task: name for name, task in ENVIRONMENTS.items()
    }


def test_registering_twice_does_no_harm() -> None:
    before = dict(gymnasium.registry)
    register_envs()
    assert dict(gymnasium.registry) == before


@pytest.mark.parametrize("name", ["resip_assembly:resip_assembly/OneLeg-v0", "resip_assembly/OneLeg-v0"])
def test_gymnasium_makes_them(tmp_path: Path, name: str) -> None:
    code = (
        "import warnings; warnings.simplefilter('error'); import sys, gymnasium; "
        f"{'' if ':' in name else 'import resip_assembly; '}"
        "assert 'mujoco' not in sys.modules; "
        f"env = gymnasium.make({name!r}, randomness='med'); "
        "obs, info = env.reset(seed=3); print(obs.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(58,)"
