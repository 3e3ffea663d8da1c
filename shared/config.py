"""The front door of every script: ``--preset NAME`` and any field (``--algo.lr 1e-6``), or ``--config FILE``.

A config is a frozen dataclass with a field ``preset: str``, a nested ``run: shared.runs.RunConfig`` and the
paper's own groups. Fields are bool, int, float, str, Literal, tuple, ``X | None`` or another dataclass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

T = TypeVar("T")


class ConfigError(ValueError):
    """A config that cannot be built; the message names key and value."""


def parse(config_type: type[T], presets: dict[str, T], default: str = "small", args: Any = None) -> T:
    """Read a config from `args` (a list of str) or ``sys.argv[1:]``; bad input ends the process."""
    import tyro  # 0.3 s, and only scripts need it

    try:
        rest, front = _split_front(list(sys.argv[1:] if args is None else args))
        base = _base(config_type, presets, front.get("--preset", default), front.get("--config"))
        names = " | ".join(f"{n} (default)" if n == default else n for n in presets)
        about = f"--preset {names}, or --config FILE, a run's config.json. Values below: {base.preset}."
        shown = {"description": about, "compact_help": True}  # -H adds what each field means
        config, unknown = tyro.cli(config_type, default=base, args=rest, return_unknown_args=True, **shown)
    except ConfigError as error:
        refuse(str(error))
    if bad := next((word.split("=")[0].replace("_", "-") for word in unknown if word.startswith("--")), ""):
        flags = ["--" + name.replace("_", "-") for name in flatten(to_dict(base))]
        refuse(f"unknown field {bad}{_did_you_mean(bad, flags)}")
    if unknown:
        refuse(f"unexpected {unknown[0]}; write --field VALUE, or --switch and --no-switch")
    return config


def refuse(message: str) -> NoReturn:
    """End the process for bad input: one line on stderr, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested dicts that JSON can hold; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(group: dict[str, Any], at: str = "") -> dict[str, Any]:
    """``{"algo.lr": 0.1, ...}`` of a config's `to_dict`."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        flat |= flatten(value, f"{at}{name}.") if isinstance(value, dict) else {at + name: value}
    return flat


def from_dict(config_type: type[T], d: dict[str, Any], _at: str = "") -> T:
    """The inverse of `to_dict`; ConfigError names an unknown or missing key or a value of the wrong type."""
    if not isinstance(d, dict):
        raise ConfigError(f"{_at.rstrip('.') or 'config'}={d!r} is not a group of fields")
    hints = typing.get_type_hints(config_type)
    if unknown := [_at + name for name in d if name not in hints]:
        raise ConfigError(f"unknown key {unknown[0]}{_did_you_mean(unknown[0], [_at + n for n in hints])}")
    if missing := [name for name in hints if name not in d]:
        raise ConfigError(f"missing key {_at}{missing[0]}; the keys there are: {', '.join(d) or 'none'}")
    return config_type(**{name: _decode(hint, d[name], _at + name) for name, hint in hints.items()})


def config_hash(config: Any) -> str:
    """12 hex digits over every field but the ``run`` group, plus ``run.seed``; the same in every process."""
    d = to_dict(from_dict(type(config), to_dict(config)))  # so that 1 in a float field hashes like 1.0
    d["run"] = {"seed": d["run"]["seed"]}
    return hashlib.sha256(json.dumps(d, sort_keys=True).encode()).hexdigest()[:12]


def _split_front(args: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--preset X`` and ``--config X`` (also with ``=``) out of the line."""
    rest: list[str] = []
    front: dict[str, str] = {}
    words = iter(args)
    for word in words:
        flag, _, value = word.partition("=")
        if flag not in ("--preset", "--config"):
            rest.append(word)
        elif not (value := value or next(words, "")) or value.startswith("--"):
            raise ConfigError(f"{flag} needs a value")
        elif flag in front:
            raise ConfigError(f"{flag} is given twice: {front[flag]} and {value}; keep one")
        else:
            front[flag] = value
    if len(front) == 2:
        raise ConfigError("--config and --preset exclude each other: a config.json names its preset itself")
    return rest, front


def _base(config_type: Any, presets: dict[str, Any], name: str, file: str | None) -> Any:
    """The config before any field of the line: that of `file`, else the preset `name`."""
    if file is None:
        if name not in presets:
            known = f"{_did_you_mean(name, list(presets))} (has {', '.join(presets)})"
            raise ConfigError(f"unknown preset {name}{known}")
        return dataclasses.replace(presets[name], preset=name)
    try:
        config = from_dict(config_type, json.loads(Path(file).read_text()))
    except (OSError, ValueError) as error:  # no file, broken JSON, another version, a __post_init__ check
        raise ConfigError(f"--config {file}: {getattr(error, 'strerror', error)}") from error
    run = dataclasses.replace(config.run, resume=False, overwrite=False)  # answers about a folder of then
    return dataclasses.replace(config, run=run)


def _did_you_mean(word: str, options: list[str]) -> str:
    same_leaf = [o for o in options if o.strip("-").split(".")[-1] == word.strip("-").split(".")[-1]]
    close = same_leaf or difflib.get_close_matches(word, options, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _decode(hint: Any, value: Any, at: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(Any, hint), value, at + ".")
    if origin in (Union, types.UnionType):
        for option in inner:
            with contextlib.suppress(ConfigError):
                return _decode(option, value, at)
    elif origin is tuple and isinstance(value, list):
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(each) == len(value):
            return tuple(_decode(t, v, at) for t, v in zip(each, value, strict=True))
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif value in inner if origin is Literal else type(value) is hint:  # bool, int, str and None
        return value
    raise ConfigError(f"{at}={value!r} is not of type {hint.__name__ if isinstance(hint, type) else hint}")
