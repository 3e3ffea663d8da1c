"""Whether RL may start from a base model: the four conditions of the sheet's §7.5.

Parsable turns >= 90 %; Solve-F1 on dev in [0.20, 0.50]; the best of 8 samples at least 0.15 above greedy,
so that there is something to reinforce; tasks without tools >= 80 %.

    python -m tool_env_rl.gate [--base.tokens N]     # trains the base model, or takes the kept one
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from shared import config, gpu
from tool_env_rl import base_model, environment_sets, general_tasks
from tool_env_rl.config import PRESETS, Config
from tool_env_rl.episodes import model_policy, of_environments, play
from tool_env_rl.metrics import EpisodeScore, solve_scores
from tool_env_rl.progress import StageBar
from tool_env_rl.records import Environment
from tool_env_rl.sandbox import Sandbox

PARSABLE, F1_RANGE, HEADROOM, GENERAL = 0.90, (0.20, 0.50), 0.15, 0.80
SAMPLES = 8
REPORT_FILE = "gate.json"
CLOSED = 3  # exit code of a script that the gate stopped


class GateClosed(RuntimeError):
    """The base model is not fit for RL."""


@dataclass(frozen=True)
class GateReport:
    """What was measured on the dev environments.

    parsable: share of greedy turns that are no malformed call. solve_f1: greedy mean. best_of_8: mean of the
    best of eight samples at temperature 1. general: share right on the tasks without tools.
    """

    parsable: float
    solve_f1: float
    best_of_8: float
    general: float

    @property
    def failures(self) -> list[str]:
        """One sentence per condition that does not hold."""
        low, high = F1_RANGE
        checks = [
            (self.parsable >= PARSABLE, f"parsable turns {self.parsable:.2f} are below {PARSABLE:.2f}"),
            (low <= self.solve_f1 <= high, f"Solve-F1 {self.solve_f1:.2f} is outside {low:.2f} … {high:.2f}"),
            (
                self.best_of_8 - self.solve_f1 >= HEADROOM,
                f"best of {SAMPLES} {self.best_of_8:.2f} is less than {HEADROOM} above {self.solve_f1:.2f}",
            ),
            (self.general >= GENERAL, f"general accuracy {self.general:.2f} is below {GENERAL:.2f}"),
        ]
        return [sentence for holds, sentence in checks if not holds]

    def __str__(self) -> str:
        return (
            f"parsable {self.parsable:.2f}, Solve-F1 {self.solve_f1:.2f}, best of {SAMPLES} "
            f"{self.best_of_8:.2f}, general {self.general:.2f}"
        )


def measure(
    model: Any,
    tokenizer: Any,
    cfg: Config,
    dev: Sequence[Environment],
    sandbox: Sandbox,
    on_turn: Callable[[int, int], None] = lambda turn, still_open: None,
) -> GateReport:
    """Greedy and sampled episodes on `dev`, and the general tasks."""

    def episodes(temperature: float, samples: int) -> list[EpisodeScore]:
        policy = model_policy(model, tokenizer, cfg, temperature, cfg.run.seed)
        transcripts = of_environments([env for env in dev for _ in range(samples)])
        play(transcripts, policy, sandbox, max_turns=cfg.algo.max_turns, on_turn=on_turn)
        return [transcript.score for transcript in transcripts]

    greedy = episodes(0.0, 1)
    sampled = [_f1(score) for score in episodes(1.0, SAMPLES)]
    best = [max(sampled[i : i + SAMPLES]) for i in range(0, len(sampled), SAMPLES)]
    malformed = sum(score.malformed_turns for score in greedy) / max(1, sum(s.turns for s in greedy))
    general = general_tasks.right(model, tokenizer, max(20, cfg.eval.general), cfg.run.seed)
    return GateReport(
        1 - malformed, fmean(map(_f1, greedy)), fmean(best), fmean(map(fmean, general.values()))
    )


def enforce(report: GateReport, mode: str) -> None:
    """Print the report; GateClosed where `mode` is "refuse" and a condition does not hold."""
    print(f"base model: {report}", flush=True)
    if report.failures and mode == "refuse":
        raise GateClosed(
            f"RL does not start: {'; '.join(report.failures)}; change --base.tokens or --run.seed, or "
            "look at it all the same with --base.gate report"
        )
    for sentence in report.failures:
        print(f"gate, not enforced: {sentence}")


def _f1(score: EpisodeScore) -> float:
    return solve_scores(score.total, score.calls, score.solved)[2]


def main(cfg: Config) -> None:
    """Train the base model of a config where it is not kept, and print what the gate says."""
    with Sandbox(unsafe_exec=cfg.data.unsafe_exec) as sandbox, StageBar() as bar:
        sets = environment_sets.load(cfg, sandbox, bar.update)
        folder = base_model.load_or_train(cfg, sandbox, bar.update)
        model, tokenizer = gpu.load_causal_lm(folder)
        report = measure(model, tokenizer, cfg, sets.dev_gold, sandbox, bar.turns("gate"))
    enforce(report, "report")


if __name__ == "__main__":
    main(config.parse(Config, PRESETS, default="small"))
