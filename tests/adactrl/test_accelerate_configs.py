"""The accelerate configs, read by accelerate itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[2] / "adactrl" / "accelerate"
EXPECTED = {
    "cpu2": (DistributedType.MULTI_GPU, 2, "no"),  # torchrun: accelerate starts one process for MULTI_CPU
    "ddp": (DistributedType.MULTI_GPU, 8, "bf16"),
    "fsdp2": (DistributedType.FSDP, 8, "bf16"),
    "zero2": (DistributedType.DEEPSPEED, 8, "bf16"),
    "zero3": (DistributedType.DEEPSPEED, 8, "bf16"),
}


def test_the_folder_holds_these_configs() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_it(name: str) -> None:
    loaded = load_config_from_file(str(FOLDER / f"{name}.yaml"))  # refuses unknown keys
    assert (loaded.distributed_type, loaded.num_processes, loaded.mixed_precision) == EXPECTED[name]
    assert loaded.num_machines == 1
    assert loaded.use_cpu is (name == "cpu2")


@pytest.mark.parametrize("name", EXPECTED)
def test_launch_takes_every_option_of_it(name: str) -> None:
    """Keys of the nested groups that `accelerate launch` does not know would be ignored without a word."""
    parser = launch_command_parser()
    known = {action.dest for action in parser._actions}
    loaded = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert {*loaded.deepspeed_config, *loaded.fsdp_config} <= known
    args = parser.parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), "train.py"])
    args, *_ = _validate_launch_command(args)
    assert args.num_processes == EXPECTED[name][1]
    assert args.use_fsdp is (name == "fsdp2")
    assert args.use_deepspeed is name.startswith("zero")
    if name == "fsdp2":
        assert args.fsdp_version == 2
    if args.use_deepspeed:
        assert args.zero_stage == int(name[-1])
        assert "[deepspeed]" in (FOLDER / f"{name}.yaml").read_text()


def test_the_folder_does_not_shadow_accelerate() -> None:
    """Run from inside, adactrl/ comes first on the path; a folder without __init__.py gives way."""
    code = "import importlib.util as u; print(u.find_spec('accelerate').origin)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True
    )
    assert "site-packages" in done.stdout


@pytest.mark.slow
def test_cpu2_starts_two_gloo_processes_that_talk(tmp_path: Path) -> None:
    script = tmp_path / "talk.py"
    script.write_text(
        textwrap.dedent("""
        import torch
        from accelerate import PartialState
        state = PartialState(cpu=True)
        total = torch.tensor([state.process_index + 1.0])
        torch.distributed.all_reduce(total)
        said = f"{state.process_index} of {state.num_processes} {state.backend} {total.item():g}"
        print(said + "\\n", end="", flush=True)
        state.destroy_process_group()
        """)
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "cpu2.yaml")]
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [*launch, str(script)],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(re.findall(r"\d of \d \w+ \d", done.stdout)) == ["0 of 2 gloo 3", "1 of 2 gloo 3"]
