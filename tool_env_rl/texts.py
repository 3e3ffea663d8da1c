"""Texts that hold anything: lone surrogates, as JSON's "\\ud800" gives them, have no UTF-8 form."""

from __future__ import annotations

import json
from typing import Any


def well_formed(text: str) -> str:
    """`text` for a tokenizer or a client: halves of a surrogate pair joined, lone ones U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def printable(text: str) -> str:
    r"""`text` for a console: lone surrogates as \udxxx."""
    return text.encode("utf-8", "backslashreplace").decode()


def to_json(value: Any, **options: Any) -> str:
    """`value` as JSON that can be written as UTF-8: with escapes where a lone surrogate needs one."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text if well_formed(text) == text else json.dumps(value, **options)
