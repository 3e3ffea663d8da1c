"""CLS-RL's rewards (arXiv 2503.16188, section 2 of the paper; authors' `grpo.py`, `grpo_direct.py`).

Every function is pure, takes one completion and gives 0 or 1. The completion is decoded without special
tokens, so `<think>` and `<answer>` must be ordinary tokens of the tokenizer.

    Thinking (CLS-RL)     format_reward + accuracy_reward
    No-Thinking           equality_reward
    Think-After-Answer    answer_first_format_reward + accuracy_reward
    Adaptive-Thinking     adaptive_format_reward + accuracy_reward
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, cast

Method = Literal["thinking", "no_thinking", "answer_first", "adaptive"]
METHODS: tuple[Method, ...] = ("thinking", "no_thinking", "answer_first", "adaptive")

_THINK_ANSWER = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_ANSWER_REASON = re.compile(r"<answer>.*?</answer>\s*<reason>.*?</reason>", re.DOTALL)
_ANSWER_ONLY = re.compile(r"<answer>.*?</answer>", re.DOTALL)
_ANSWER_ON_ONE_LINE = re.compile(r"<answer>(.*?)</answer>")  # no DOTALL, unlike the evaluation: authors' code


def format_reward(text: str) -> float:
    """1 iff the whole completion is a think block, white space, an answer block; nothing before or after.

    | completion                                     | reward |
    |------------------------------------------------|--------|
    | `<think>round</think> <answer>rose</answer>`   | 1      |
    | `<answer>rose</answer>`                        | 0      |
    | `<think>round</think><answer>rose</answer>` + newline | 0 |
    | (empty)                                        | 0      |

    Tags are case-sensitive; the lazy dots cross newlines, so further tags inside a block still match.
    """
    return float(_THINK_ANSWER.fullmatch(text) is not None)


def answer_first_format_reward(text: str) -> float:
    """Think-After-Answer: 1 iff the completion is an answer block, white space, a reason block."""
    return float(_ANSWER_REASON.fullmatch(text) is not None)


def adaptive_format_reward(text: str) -> float:
    """Adaptive-Thinking: 1 for a think block and an answer block, or an answer block with no think tag."""
    if _THINK_ANSWER.fullmatch(text):
        return 1.0
    return float(_ANSWER_ONLY.fullmatch(text) is not None and "<think>" not in text)


def accuracy_reward(text: str, label: str, rule: Literal["string", "authors"] = "string") -> float:
    """1 iff the completion's first one-line answer block equals the label, ignoring case and outer space.

    | completion (label "rose")                          | reward |
    |----------------------------------------------------|--------|
    | `<think>round</think><answer> Rose </answer>`      | 1      |
    | `<answer>The flower is a rose</answer>`            | 0      |
    | `rose` (no tags: the whole completion is compared) | 1      |
    | (empty)                                            | 0      |

    An answer block with a newline in it is not found (the authors' regular expression).

    Args:
        label: the class name, bare or in answer tags as the authors' `solution` column has it.
        rule: "authors" first asks math_verify, which finds a number in any text: "2012 Audi" then earns the
            reward of "2012 BMW". The paper has no such step; "string" leaves it out (D1).
    """
    if rule not in ("string", "authors"):
        raise ValueError(f"rule={rule!r} is not one of string, authors")
    if rule == "authors" and _math_verify_agrees(text, label):
        return 1.0
    return float(_one_line_answer(text).lower() == class_name(label).lower())


def equality_reward(text: str, label: str) -> float:
    """No-Thinking: 1 iff the raw completion *is* the class name; case, space and punctuation all count.

    | completion (label "rose") | reward |
    |---------------------------|--------|
    | `rose`                    | 1      |
    | `Rose`                    | 0      |
    | `rose` + newline          | 0      |
    | (empty)                   | 0      |

    Only the label is stripped (authors' `grpo_direct.py`).
    """
    return float(text == class_name(label))


def class_name(label: str) -> str:
    """The stripped class name out of `label` or `<answer> label </answer>`; ValueError if it is empty."""
    name = _one_line_answer(label)
    if not name:
        raise ValueError(f"label={label!r} holds no class name; give at least one visible character")
    return name


def _one_line_answer(text: str) -> str:
    found = _ANSWER_ON_ONE_LINE.search(text)
    return (found.group(1) if found else text).strip()


def _math_verify_agrees(text: str, label: str) -> bool:
    import math_verify  # pyright: ignore[reportMissingTypeStubs]

    parse = cast("Callable[[str], list[object]]", math_verify.parse)
    verify = cast("Callable[[object, object], bool]", math_verify.verify)
    try:
        return bool(verify(parse(text), parse(label)))
    except Exception:  # the authors go on with the string rule
        return False


REWARDS: dict[Method, tuple[Callable[[str, str], float], ...]] = {
    "thinking": (lambda text, label: format_reward(text), accuracy_reward),
    "no_thinking": (equality_reward,),
    "answer_first": (lambda text, label: answer_first_format_reward(text), accuracy_reward),
    "adaptive": (lambda text, label: adaptive_format_reward(text), accuracy_reward),
}


def total_reward(method: Method, text: str, label: str) -> float:
    """Unweighted sum of the method's rewards: 0, 1 or 2 (No-Thinking: 0 or 1)."""
    return sum(reward(text, label) for reward in REWARDS[method])
