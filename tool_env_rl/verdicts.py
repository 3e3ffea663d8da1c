"""What a claim's rule returns, and when there is enough to decide on (sheet §7.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tool_env_rl.evidence import Evidence
from tool_env_rl.resampling import Statistic

Word = Literal["confirmed", "refuted", "inconclusive"]
MIN_SEEDS, MIN_ENVIRONMENTS = 3, 100


@dataclass(frozen=True)
class Verdict:
    claim: str
    arm: str  # the row it is about
    statement: str
    statistics: tuple[Statistic, ...]
    verdict: Word
    n: int  # environments per seed
    seeds: int


def decide(confirmed: bool, refuted: bool) -> Word:
    """Both at once, which the sheet does not exclude, is inconclusive."""
    if bool(confirmed) == bool(refuted):
        return "inconclusive"
    return "confirmed" if confirmed else "refuted"


def verdict(
    e: Evidence,
    claim: str,
    arms: Sequence[str],
    statement: str,
    found: Sequence[Statistic],
    confirmed: bool,
    refuted: bool,
) -> Verdict:
    """The verdict on what was found for `arms[0]`; inconclusive where `arms` share too few seeds."""
    seeds = e.seeds(*arms)
    n = len(e.runs[arms[0], seeds[0]].test)
    enough = len(seeds) >= MIN_SEEDS and n >= MIN_ENVIRONMENTS
    word = decide(confirmed, refuted) if enough else "inconclusive"
    return Verdict(claim, arms[0], statement, tuple(found), word, n, len(seeds))
