"""The difficulty tag that opens every AdaCtrl response (authors' `rl_dataset.py`, `naive.py`).

The tag is the user interface of the method: the model writes it (adaptive mode), or the user writes it for
the model as the first characters of the assistant turn (forced modes). "Budget" is nothing but the tag.
"""

from __future__ import annotations

import re
from typing import Literal

Difficulty = Literal["easy", "hard"]
Mode = Literal["adaptive", "easy", "hard"]

TAG_TEXT: dict[str, str] = {"easy": "[Easy]", "hard": "[Hard]"}
MODES: tuple[Mode, ...] = ("adaptive", "easy", "hard")

_TAG = re.compile(r"\[(easy|hard)\]", re.IGNORECASE | re.ASCII)


def parse_tag(response: str) -> Difficulty | None:
    """Read the tag from the first 6 characters of a response, in any case.

    A leading space, newline or markup means "no tag", and so does an empty response. The authors' parser does
    not check the opening bracket and raises on an empty response; this one does neither (D2).

    | response        | result |
    |-----------------|--------|
    | `"[Easy] 4"`    | easy   |
    | `"[HARD]..."`   | hard   |
    | `" [Easy] 4"`   | None   |
    | `""`            | None   |
    """
    match = _TAG.match(response)
    return match.group(1).lower() if match else None  # type: ignore[return-value]


def forced_prefix(mode: Mode) -> str:
    """Text appended right after the chat template's generation prompt: `""`, `"[Easy]"` or `"[Hard]"`."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not one of {', '.join(MODES)}")
    return "" if mode == "adaptive" else TAG_TEXT[mode]
