"""The verifiable reward of one assistant turn (arXiv 2508.08791, §2.6; authors' `reward_score/tool.py`).

    p  calls that parsed in this turn
    q  still-unsolved sub-answers that those calls resolve
    t  sub-answers unsolved before the turn

    R = 2q / (p + 1), the harmonic mean of step precision q/p and step recall q/1       `kind="f1"`
    ablations, other branches alike: q/p  "precision",  q  "rate",  q²/p  "pr"

The reward belongs on the last token of the turn; there is no discount and no credit across turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from tool_env_rl.protocol import apply_results, count_unsolved, parse_response

RewardKind = Literal["f1", "precision", "rate", "pr"]

EMPTY, MALFORMED, STOPPED_AFTER_ALL = -0.5, -0.3, 0.5


def solve_f1(num_calls: int, num_solved: int) -> float:
    """2q / (p + 1), in [0, 2).

    | p | q | reward |
    |---|---|--------|
    | 1 | 1 | 1      |
    | 2 | 2 | 4/3    |
    | 2 | 1 | 2/3    |
    | 3 | 0 | 0      |

    Raises:
        ValueError: p < 1, or q outside [0, p].
    """
    _check_counts(num_calls, num_solved)
    return 2 * num_solved / (num_calls + 1)


def call_reward(num_calls: int, num_solved: int, kind: RewardKind = "f1") -> float:
    """First row of §2.6 for one of the four rewards; p = `num_calls` >= 1, q = `num_solved` <= p."""
    _check_counts(num_calls, num_solved)
    if kind == "f1":
        return solve_f1(num_calls, num_solved)
    if kind == "precision":
        return num_solved / num_calls
    if kind == "rate":
        return float(num_solved)
    if kind == "pr":
        return num_solved * num_solved / num_calls
    raise ValueError(f"kind={kind!r} is not a reward; use one of {', '.join(get_args(RewardKind))}")


def turn_reward(
    response: str,
    *,
    executed: Sequence[str],
    unsolved: dict[str, list[str]],
    solve_rate: float,
    answer: str | None,
    kind: RewardKind = "f1",
    strict: bool = False,
    echo_guard: bool = True,
    drop_thoughts: bool = False,
) -> float:
    """Reward of one assistant turn; the branches are tested in the order of the table.

    Args:
        response: the decoded turn.
        executed: outputs of the calls that `parse_response` finds, in order; ignored if it finds none.
        unsolved: tool name → sub-answers unsolved before the turn; left unchanged.
        solve_rate: solved share before the turn, in [0, 1].
        answer: final answer; None skips its branch. An empty one is in every text, as in the authors' code.
        kind: reward of a turn with calls.
        strict: whole-token matching of tool outputs. The final answer is always matched as the authors do.
        echo_guard: repeating an argument earns nothing; False reproduces the authors' leak (§6.2-2).
        drop_thoughts: leave `<think>` text out; False is the authors' way (§6.2-4).

    | turn                                                     | reward      |
    |----------------------------------------------------------|-------------|
    | at least one parsed call                                 | 2q / (p + 1)|
    | no call, nothing else                                    | -0.5        |
    | no call, but a call marker                               | -0.3        |
    | no call, the final answer is in the text                 | 1 / (1 + t) |
    | no call, no answer, everything solved before             | 0.5         |
    | otherwise                                                | 0           |

    Raises:
        ValueError: unknown `kind`, or calls without one output each.
    """
    if kind not in get_args(RewardKind):
        raise ValueError(f"kind={kind!r} is not a reward; use one of {', '.join(get_args(RewardKind))}")
    turn = parse_response(response, drop_thoughts=drop_thoughts)
    if turn.calls:
        _, solved = apply_results(unsolved, turn.calls, executed, strict=strict, echo_guard=echo_guard)
        return call_reward(len(turn.calls), solved, kind)
    if not turn.content:
        return EMPTY
    if turn.malformed:
        return MALFORMED
    if answer is not None and _plain(answer) in _plain(turn.content):
        return 1 / (1 + count_unsolved(unsolved))
    if solve_rate == 1.0:
        return STOPPED_AFTER_ALL
    return 0.0


def _plain(text: str) -> str:
    # Unlike a sub-answer, the final answer is not split on ", ": all of it must be there in one piece.
    return text.lower().replace(",", "").strip()


def _check_counts(num_calls: int, num_solved: int) -> None:
    if num_calls < 1 or not 0 <= num_solved <= num_calls:
        raise ValueError(
            f"need num_calls >= 1 and 0 <= num_solved <= num_calls; got num_calls={num_calls}, "
            f"num_solved={num_solved}: one call solves at most one sub-answer"
        )
