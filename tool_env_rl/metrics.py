"""Solve-P, Solve-R and Solve-F1, per environment and per scenario (arXiv 2508.08791, §4.1).

n sub-answers, C calls in the whole episode, S solved:

    Solve-P = S / C (1 if C = 0)      Solve-R = S / n      Solve-F1 = 2S / (C + n)

F1 is taken per environment and averaged; it is not computed from mean P and R. The final answer's text plays
no part. A model that never calls a tool has Solve-P 1: read it with Solve-R beside it.

Three ways of counting S stand side by side: substring matching with the echo guard (`solved`), whole-token
matching with it (`_strict`), and the authors' own, substring without a guard (`_unguarded`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tool_env_rl.protocol import ParsedTurn, apply_results, count_unsolved


def solve_scores(total: int, calls: int, solved: int) -> tuple[float, float, float]:
    """(Solve-P, Solve-R, Solve-F1) of one environment, each in [0, 1].

    | n | C | S | P   | R    | F1    |
    |---|---|---|-----|------|-------|
    | 4 | 5 | 3 | 0.6 | 0.75 | 0.667 |
    | 4 | 0 | 0 | 1   | 0    | 0     |
    | 2 | 2 | 2 | 1   | 1    | 1     |

    Raises:
        ValueError: no sub-answer, a negative count, or more solved than calls or sub-answers.
    """
    if total < 1 or calls < 0 or not 0 <= solved <= min(calls, total):
        raise ValueError(
            f"need total >= 1 and 0 <= solved <= min(calls, total); got total={total}, calls={calls}, "
            f"solved={solved}"
        )
    return (solved / calls if calls else 1.0, solved / total, 2 * solved / (calls + total))


@dataclass(frozen=True)
class EpisodeScore:
    """Counts of one finished episode.

    turns: assistant turns, with or without calls.
    malformed_turns: turns with a call marker and no parsed call.
    skipped_calls: pieces that did not parse, also those beside good calls.
    answer_correct: the last turn holds the final answer; None where it was not looked at.
    """

    environment: str
    scenario: str
    total: int
    calls: int
    solved: int
    solved_strict: int
    solved_unguarded: int
    turns: int
    malformed_turns: int = 0
    skipped_calls: int = 0
    answer_correct: bool | None = None


@dataclass
class EpisodeCounter:
    """Books of a running episode under all three matchings.

    unsolved: sub-answers when it starts.
    started_at: share solved before; above 0 where it starts from an RL state.
    """

    environment: str
    scenario: str
    unsolved: Mapping[str, Sequence[str]]
    started_at: float = 0.0
    calls: int = field(default=0, init=False)
    turns: int = field(default=0, init=False)
    malformed_turns: int = field(default=0, init=False)
    skipped_calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        fresh = {name: list(answers) for name, answers in self.unsolved.items()}
        self.remaining = self.remaining_strict = self.remaining_unguarded = fresh

    def add_turn(self, turn: ParsedTurn, outputs: Sequence[str]) -> int:
        """Book one assistant turn with one output per call; returns q, what it solved (substring, guard)."""
        self.turns += 1
        self.calls += len(turn.calls)
        self.malformed_turns += turn.malformed
        self.skipped_calls += turn.skipped
        self.remaining_strict, _ = apply_results(self.remaining_strict, turn.calls, outputs, strict=True)
        self.remaining_unguarded, _ = apply_results(
            self.remaining_unguarded, turn.calls, outputs, echo_guard=False
        )
        self.remaining, solved = apply_results(self.remaining, turn.calls, outputs)
        return solved

    @property
    def solve_rate(self) -> float:
        """Solved share of all the environment's sub-answers, in [0, 1]: for `turn_reward` and RL states."""
        left = count_unsolved(self.remaining)
        total = count_unsolved(self.unsolved) / (1 - self.started_at) if self.started_at < 1 else left
        return 1 - left / total if left else 1.0

    def score(self, answer_correct: bool | None = None) -> EpisodeScore:
        """The finished episode's counts."""
        total = count_unsolved(self.unsolved)
        return EpisodeScore(
            environment=self.environment,
            scenario=self.scenario,
            total=total,
            calls=self.calls,
            solved=total - count_unsolved(self.remaining),
            solved_strict=total - count_unsolved(self.remaining_strict),
            solved_unguarded=total - count_unsolved(self.remaining_unguarded),
            turns=self.turns,
            malformed_turns=self.malformed_turns,
            skipped_calls=self.skipped_calls,
            answer_correct=answer_correct,
        )


def summarize(episodes: Sequence[EpisodeScore]) -> dict[str, dict[str, float]]:
    """Means per scenario, in order of first appearance, then over all environments under "all".

    Keys: solve_p, solve_r, solve_f1, the same with `_strict` and `_unguarded`; solve_p_called (environments
    with a call; absent if none); pooled_r (solved / sub-answers over all, §6.2-5); answer_accuracy (absent if
    not looked at); calls and turns (means per episode), calls_per_turn; malformed_turn_rate;
    skipped_call_rate (skipped / attempted); n.

    Raises:
        ValueError: no episode, or one named "all".
    """
    if not episodes:
        raise ValueError("summarize needs at least one episode; the list is empty")
    scenarios = list(dict.fromkeys(episode.scenario for episode in episodes))
    if "all" in scenarios:
        raise ValueError('scenario "all" is the name of the mean over everything; rename the scenario')
    table = {name: _means([e for e in episodes if e.scenario == name]) for name in scenarios}
    return {**table, "all": _means(episodes)}


def _means(episodes: Sequence[EpisodeScore]) -> dict[str, float]:
    ways = {"": "solved", "_strict": "solved_strict", "_unguarded": "solved_unguarded"}
    scores = {
        suffix: [solve_scores(e.total, e.calls, getattr(e, count)) for e in episodes]
        for suffix, count in ways.items()
    }
    calls, skipped = _total(episodes, lambda e: e.calls), _total(episodes, lambda e: e.skipped_calls)
    turns = _total(episodes, lambda e: e.turns)
    row = {"n": float(len(episodes))}
    for suffix, triples in scores.items():
        for index, name in enumerate(("solve_p", "solve_r", "solve_f1")):
            row[name + suffix] = fmean(triple[index] for triple in triples)
    if called := [triple[0] for triple, e in zip(scores[""], episodes, strict=True) if e.calls]:
        row["solve_p_called"] = fmean(called)
    row["pooled_r"] = _total(episodes, lambda e: e.solved) / _total(episodes, lambda e: e.total)
    if graded := [e.answer_correct for e in episodes if e.answer_correct is not None]:
        row["answer_accuracy"] = fmean(graded)
    row["calls"], row["turns"] = calls / len(episodes), turns / len(episodes)
    row["calls_per_turn"] = calls / turns if turns else 0.0
    row["malformed_turn_rate"] = _total(episodes, lambda e: e.malformed_turns) / turns if turns else 0.0
    row["skipped_call_rate"] = skipped / (calls + skipped) if calls + skipped else 0.0
    return row


def _total(episodes: Iterable[EpisodeScore], count: Callable[[EpisodeScore], int]) -> int:
    return sum(map(count, episodes))
