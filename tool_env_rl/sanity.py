"""Sanity controls (sheet §7.8): "confirmed" is a control behaving as it must."""

from __future__ import annotations

from tool_env_rl.evaluation import LEAKY
from tool_env_rl.evidence import Evidence
from tool_env_rl.metrics import summarize
from tool_env_rl.resampling import Statistic, difference, statistic
from tool_env_rl.verdicts import Verdict, decide, verdict


def random_reward(e: Evidence) -> list[Verdict]:
    """A random reward must not improve: refuted where it clearly does."""
    arms = ("random", "base")
    if not e.seeds(*arms):
        return []
    gain = statistic("gain in Solve-F1", difference(e, *arms, "solve_f1"))
    statement = "RL on a random reward does not improve"
    return [verdict(e, "control i", arms, statement, [gain], not gain.above, gain.above)]


def scripted(e: Evidence) -> list[Verdict]:
    """Shotgun below the oracle; the oracle at 1, 1, 1; silent at 1, 0, 0; the echo attack on leaky tools at 0
    with the guard and above 0 without."""
    if not e.controls:
        return []
    m = {policy: summarize(scores)["all"] for policy, scores in e.controls.items()}
    oracle, silent, shotgun, echo = (m[p] for p in ("oracle", "silent", "shotgun", LEAKY))
    keys = ("solve_p", "solve_r", "solve_f1")
    rows: list[tuple[str, str, str, list[tuple[str, float]], bool]] = [
        (
            "control ii",
            "shotgun",
            "calling every tool scores below the oracle",
            [("Solve-F1", shotgun["solve_f1"])],
            shotgun["solve_f1"] < oracle["solve_f1"],
        ),
        (
            "control iii",
            "oracle",
            "the oracle is perfect",
            [(key, oracle[key]) for key in keys],
            all(oracle[key] == 1 for key in keys),
        ),
        (
            "control iv",
            "silent",
            "never calling has Solve-P 1 and nothing else",
            [(key, silent[key]) for key in keys],
            [silent[key] for key in keys] == [1, 0, 0],
        ),
        (
            "control v",
            LEAKY,
            "passing the answer as an argument earns nothing with the guard",
            [("Solve-F1", echo["solve_f1"]), ("without the guard", echo["solve_f1_unguarded"])],
            echo["solve_f1"] == 0 < echo["solve_f1_unguarded"],
        ),
    ]
    return [
        Verdict(
            claim,
            policy,
            statement,
            tuple(Statistic(name, value) for name, value in shown),
            decide(holds, not holds),
            len(e.controls[policy]),
            1,
        )
        for claim, policy, statement, shown, holds in rows
    ]
