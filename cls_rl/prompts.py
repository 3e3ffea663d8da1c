"""The one prompt builder of training and evaluation (authors' notebook, `grpo.py`, `grpo_direct.py`).

The authors' evaluation words its prompts differently from training; `wording="authors_test"` gives theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from cls_rl.rewards import Method

Wording = Literal["training", "authors_test"]

QUESTION = "What type of object is in the photo?"
QUESTIONS = {  # Table 8; every other data set asks QUESTION
    "dtd": "What type of texture is in the photo?",
    "eurosat": "What type of object is in the centered satellite photo?",
    "fgvc": "What type of aircraft is in the photo?",
    "ucf": "What actions is the person performing in the photo?",
}
OPEN_QUESTION = "What type of {kind} is in the photo?"  # open-set: flower, food, animal, object

# The first two are the authors' words; the last two follow the paper's description (no code is public).
SUFFIXES: dict[Method, str] = {
    "thinking": (
        "Please output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    ),
    "no_thinking": "Please directly output the answer.",
    "answer_first": (
        "Please first output the answer in <answer> </answer> tags"
        " and then a brief reasoning in <reason> </reason> tags."
    ),
    "adaptive": (
        "Please first judge whether thinking is needed. If it is, output the thinking process in"
        " <think> </think> and final answer in <answer> </answer> tags; if not, output only the answer in"
        " <answer> </answer> tags."
    ),
}
AUTHORS_TEST_SUFFIXES: dict[Method, str] = {
    **SUFFIXES,
    "thinking": (
        "First output the thinking process in <think> </think> and final answer in <answer> </answer> tags."
    ),
    "no_thinking": "Please directly output the answer name.",
}
EMPTY_THOUGHT = "<think></think>"  # first characters of the reply: thinking removed at inference (Table 17)


def problem(options: Sequence[str], question: str = QUESTION) -> str:
    """Question, newline, space and the list of names, kept raw: `... one from list [ a, b].`

    Without options the question alone (open-set). Names with commas stay as they are (authors' data).
    """
    return f"{question}\n Please choose one from list [ {', '.join(options)}]." if options else question


def user_text(
    method: Method, options: Sequence[str], question: str = QUESTION, wording: Wording = "training"
) -> str:
    """The text after the image: the problem, newline, space and the method's instruction.

    wording="authors_test" puts one space instead and uses the wording of the authors' evaluation (D3).
    """
    if method not in SUFFIXES:
        raise ValueError(f"method={method!r} is not one of {', '.join(SUFFIXES)}")
    if wording == "training":
        return f"{problem(options, question)}\n {SUFFIXES[method]}"
    if wording == "authors_test":
        return f"{problem(options, question)} {AUTHORS_TEST_SUFFIXES[method]}"
    raise ValueError(f"wording={wording!r} is not one of training, authors_test")


def messages(text: str) -> list[dict[str, Any]]:
    """One user turn, image before text, no system turn: the chat template then adds its own."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def solution(label: str) -> str:
    """The authors' `solution` column and their SFT target."""
    return f"<answer> {label} </answer>"


def sft_target(method: Method, label: str) -> str:
    """What SFT learns to answer: the bare name under the direct prompt, else the name in answer tags."""
    return label if method == "no_thinking" else solution(label)
