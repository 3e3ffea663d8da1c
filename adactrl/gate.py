"""The go / no-go gate between cold start and RL at small scale.

The comparison of arms means something only if the cold-started policy has the situation the paper starts
from: easy problems solved either way, middling ones better with long reasoning, hard ones often wrong even
so, and both tags still explored everywhere. A run that fails the gate is inconclusive, never refuted.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adactrl.config import Config
from adactrl.data import eval_sets
from adactrl.eval import Sample, by_cell, sample_responses, summarise
from adactrl.tags import MODES
from shared import checkpoint
from shared.rollouts import Sampling
from shared.runs import Run
from shared.seeding import derive_seed


@dataclass(frozen=True)
class Check:
    """One condition: low <= value <= high."""

    name: str
    value: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        return self.low <= round(self.value, 9) <= self.high


def conditions(rows: list[Sample]) -> list[Check]:
    """The conditions on samples of tiers T1-T3 in all three modes; p_E and p_H are forced-tag
    accuracies."""
    cells = {cell: summarise(members) for cell, members in by_cell(rows).items()}
    p_easy = {tier: cells[tier, "easy"]["accuracy"] for tier in ("T1", "T2", "T3")}
    p_hard = {tier: cells[tier, "hard"]["accuracy"] for tier in ("T1", "T2", "T3")}
    checks = [
        Check("T1 p_E", p_easy["T1"], 0.80, 0.99),  # solved always, its groups would all be filtered out
        Check("T1 p_H - p_E", p_hard["T1"] - p_easy["T1"], -1.0, 0.15),
        Check("T2 p_H - p_E", p_hard["T2"] - p_easy["T2"], 0.10, 0.50),
        Check("T3 p_E", p_easy["T3"], 0.0, 0.30),
        Check("T3 p_H", p_hard["T3"], 0.20, 0.60),
    ]
    for tier in ("T1", "T2", "T3"):
        shares = cells[tier, "adaptive"]
        checks.append(Check(f"{tier} minority tag", min(shares["easy_tag"], shares["hard_tag"]), 0.05, 0.5))
        checks.append(Check(f"{tier} valid tag", shares["easy_tag"] + shares["hard_tag"], 0.95, 1.0))
    return checks


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cfg: Config, count: int = 200
) -> list[Check]:
    """Samples `count` validation problems per tier in each mode at the training temperature."""
    rows: list[Sample] = []
    for name, problems in eval_sets(cfg, "validation").items():
        for mode in MODES:
            seed = derive_seed(cfg.run.seed, "gate", name, mode)
            sampling = Sampling(cfg.algo.max_completion_tokens, cfg.algo.temperature)
            rows += sample_responses(model, tokenizer, problems[:count], cfg, mode, 1, sampling, seed)
    return conditions(rows)


def report(checks: list[Check]) -> str:
    """One line per condition."""
    return "\n".join(
        f"  {'ok  ' if c.passed else 'FAIL'} {c.name:<16} {c.value:.3f}  (needs {c.low:.2f} to {c.high:.2f})"
        for c in checks
    )


def enforce(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cfg: Config, run: Run) -> None:
    """Measure the gate once per run and write `gate.json`; `refuse` ends the run if a condition fails."""
    path = run.dir / "gate.json"
    if path.exists():
        checks = [Check(**check) for check in json.loads(path.read_text())]
    else:
        checks = measure(model, tokenizer, cfg)
        checkpoint.write_json_atomic(path, [asdict(check) for check in checks])
    print("gate after cold start (validation problems, temperature 1):\n" + report(checks), flush=True)
    if cfg.gate == "refuse" and not all(check.passed for check in checks):
        sys.exit(
            "the gate failed: comparing rewards would mean nothing. Change --sft.steps, or pass --gate report"
        )
