"""The front door: presets, fields, config files, and what a wrong line says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from shared import config
from shared.runs import RunConfig

RUN = RunConfig()


@dataclass(frozen=True)
class Algo:
    lr: float = 1e-6  # Tab. 5
    group_size: int = 8
    gate: Literal["correct", "tag"] = "correct"
    clip: tuple[float, float] = (0.2, 0.28)
    betas: tuple[int, ...] = ()
    cap: int | None = None
    note: str | None = "a"
    kl: bool = True

    def __post_init__(self) -> None:
        if self.group_size % 2:
            raise ValueError(f"group_size={self.group_size} is odd; use {self.group_size + 1}")


@dataclass(frozen=True)
class Config:
    preset: str = "small"
    algo: Algo = Algo()
    run: RunConfig = RUN


PRESETS = {"smoke": Config(algo=Algo(group_size=2)), "small": Config(), "paper": Config(algo=Algo(lr=1e-7))}


def parse(line: str) -> Config:
    return config.parse(Config, PRESETS, args=line.split())


def test_default_preset_and_the_name_of_a_preset_are_filled_in():
    assert parse("") == Config()
    assert parse("--preset smoke") == Config(preset="smoke", algo=Algo(group_size=2))


@pytest.mark.parametrize(
    "line",
    ["--preset smoke --algo.lr 1e-3", "--algo.lr 1e-3 --preset smoke", "--algo.lr=1e-3 --preset=smoke"],
)
def test_preset_may_stand_anywhere(line: str):
    assert parse(line) == Config(preset="smoke", algo=Algo(lr=1e-3, group_size=2))


def test_every_kind_of_field_can_be_set():
    line = "--algo.gate tag --algo.clip 0.1 0.3 --algo.betas 1 2 --algo.cap 5 --algo.note None --algo.no-kl"
    line += " --run.trackers --run.seed 3 --algo.group_size 4"
    expected = Algo(gate="tag", clip=(0.1, 0.3), betas=(1, 2), cap=5, note=None, kl=False, group_size=4)
    assert parse(line) == Config(algo=expected, run=RunConfig(seed=3, trackers=()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--preset smal", "error: unknown preset smal; did you mean small? (has smoke, small, paper)"),
        ("--algo.lrr 1e-6", "error: unknown field --algo.lrr; did you mean --algo.lr?"),
        ("--lr=1e-6", "error: unknown field --lr; did you mean --algo.lr?"),
        ("--run.output_dri x", "error: unknown field --run.output-dri; did you mean --run.output-dir?"),
        ("--zzz", "error: unknown field --zzz"),
        ("--algo.kl no", "error: unexpected no; write --field VALUE, or --switch and --no-switch"),
        ("--preset", "error: --preset needs a value"),
        ("--preset --algo.lr 1", "error: --preset needs a value"),
        ("--preset smoke --preset small", "error: --preset is given twice: smoke and small; keep one"),
        ("--config missing.json", "error: --config missing.json: No such file or directory"),
    ],
)
def test_a_wrong_line_is_one_sentence_on_stderr_and_exit_2(line: str, message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(line)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err) == (2, "", message + "\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--algo.lr fast", ["--algo.lr", "fast"]),
        ("--algo.gate both", ["--algo.gate", "both", "correct"]),
        ("--algo.group-size 3", ["group_size=3 is odd; use 4"]),
        ("--run.trackers mlflow", ["mlflow", "tensorboard"]),
    ],
)
def test_a_wrong_value_names_field_and_value_with_exit_2(line: str, words: list[str], capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(line)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert all(word in err for word in words)


def test_config_file_repeats_a_run_but_not_its_answer_about_the_folder(tmp_path):
    run = RunConfig(seed=7, name="x", resume=True, overwrite=True)
    cfg = Config(preset="paper", algo=Algo(betas=(1,), cap=3), run=run)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict(cfg)))
    kept = dataclasses.replace(cfg, run=RunConfig(seed=7, name="x"))
    assert parse(f"--config {file}") == kept
    assert parse(f"--config {file} --run.seed 8") == dataclasses.replace(
        kept, run=RunConfig(seed=8, name="x")
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"preset": "small"}'])
def test_broken_config_file_is_named(text: str, tmp_path, capsys):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        parse(f"--config {file}")
    err = capsys.readouterr().err
    assert stopped.value.code == 2
    assert err.startswith(f"error: --config {file}: ")
    assert err.count("\n") == 1


def test_config_and_preset_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--config x.json --preset smoke")
    assert stopped.value.code == 2
    assert "--config and --preset exclude each other" in capsys.readouterr().err


def test_help_lists_presets_fields_and_the_presets_own_defaults(capsys):
    said = {}
    for flag in ("--help", "--help-verbose"):
        with pytest.raises(SystemExit) as stopped:
            parse(f"{flag} --preset paper")
        said[flag] = capsys.readouterr().out
        assert stopped.value.code == 0
    for text in ("smoke | small (default) | paper", "--config FILE", "1e-07", "--run.resume"):
        assert text in said["--help"]
    assert "Tab. 5" in said["--help-verbose"]  # the source of a value is its comment


@pytest.mark.parametrize(
    "cfg",
    [
        *PRESETS.values(),
        Config(algo=Algo(lr=1, clip=(float("inf"), 0.1), betas=(1, 2), cap=0, note=None, kl=False)),
        Config(run=RunConfig(seed=2**40, output_dir="a b/é", trackers=())),
    ],
)
def test_round_trip_through_json_compares_equal(cfg: Config):
    back = config.from_dict(Config, json.loads(json.dumps(config.to_dict(cfg))))
    assert back == cfg
    assert type(back.algo.clip) is tuple
    assert type(back.algo.lr) is float


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("algo", "lrr", 1.0, r"unknown key algo\.lrr; did you mean algo\.lr\?"),
        ("algo", "lr", "1", r"algo\.lr='1' is not of type float"),
        ("algo", "lr", True, r"algo\.lr=True is not of type float"),
        ("algo", "kl", 1, r"algo\.kl=1 is not of type bool"),
        ("algo", "group_size", True, r"algo\.group_size=True is not of type int"),
        ("algo", "clip", [0.1], r"algo\.clip=\[0\.1\]"),
        ("algo", "cap", "x", r"algo\.cap='x'"),
        ("algo", "gate", "both", r"algo\.gate='both'"),
        ("run", "seed", None, r"run\.seed=None is not of type int"),
    ],
)
def test_from_dict_refuses_unknown_keys_and_wrong_types(group, key, value, message):
    d = config.to_dict(Config())
    d[group][key] = value
    with pytest.raises(config.ConfigError, match=message):
        config.from_dict(Config, d)


def test_from_dict_refuses_missing_keys_and_a_value_for_a_group():
    d = config.to_dict(Config())
    del d["algo"]["lr"]
    with pytest.raises(config.ConfigError, match=r"missing key algo\.lr"):
        config.from_dict(Config, d)
    with pytest.raises(config.ConfigError, match=r"algo=3 is not a group of fields"):
        config.from_dict(Config, d | {"algo": 3})


def test_hash_depends_on_fields_and_seed_but_not_on_the_folder():
    base = config.config_hash(Config())
    run = RunConfig(name="other", output_dir="/x", resume=True, overwrite=True, trackers=())
    assert config.config_hash(Config(run=run)) == base
    assert config.config_hash(Config(run=RunConfig(seed=1))) != base
    assert config.config_hash(Config(algo=Algo(lr=2e-6))) != base
    assert config.config_hash(Config(algo=Algo(lr=1))) == config.config_hash(Config(algo=Algo(lr=1.0)))
    assert len(base) == 12
    assert int(base, 16) >= 0


def test_hash_is_the_same_in_another_process(tmp_path):
    script = tmp_path / "other.py"
    script.write_text(
        "from dataclasses import dataclass\nfrom shared import config\nfrom shared.runs import RunConfig\n"
        "@dataclass(frozen=True)\nclass C:\n    preset: str = 'small'\n"
        "    words: tuple[str, ...] = ('b', 'a')\n    run: RunConfig = RunConfig()\n"
        "print(config.config_hash(C()))\n"
    )
    found = set()
    for salt in ("1", "2"):
        env = {"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
        found.add(done.stdout.strip())
    assert len(found) == 1
    assert len(found.pop()) == 12
