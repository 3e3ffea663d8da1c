"""The dose-response curve and the measured ratio of updates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from alignment_study import dose_response, families, update_ratio
from alignment_study.arms import Base
from alignment_study.dose_response import RATIO, VARIANTS
from alignment_study.evidence import Evidence, Key
from alignment_study.pretrain import Settings, new_model
from alignment_study.resampling import World
from alignment_study.signed_samples import signed_advantages
from alignment_study.tasks import load_task
from alignment_study.update_ratio import prompt_gradient, ratio_of


def card(**pass16: float) -> dict[str, Any]:
    dial = [
        {"folder": f"checkpoint-{k[1:]}", "step": int(k[1:]), "weak_pass16": v} for k, v in pass16.items()
    ]
    return {"dial": dial}


def test_checkpoints_nearest_to_the_targets_in_order() -> None:
    """The pilot's run (§7.5) and one that learns in a jump."""
    assert dose_response.checkpoints(card(s550=0.35, s600=0.47, s650=0.7, s700=0.83, s800=0.94)) == [
        "checkpoint-600", "checkpoint-700", "checkpoint-800",
    ]  # fmt: skip
    jumped = card(s475=0.3, s500=0.99, s525=0.99, s550=1.0)
    assert dose_response.checkpoints(jumped) == ["checkpoint-475", "checkpoint-500", "checkpoint-525"]
    with pytest.raises(ValueError, match="the card lists 2 later checkpoints, 3 are needed"):
        dose_response.checkpoints(card(s500=0.5, s525=0.6))


def test_jobs_are_all_variants_from_each_checkpoint() -> None:
    planned = dose_response.jobs(Base("one", 2), card(s600=0.5, s700=0.8, s800=0.95))
    assert 3 * len(planned) == dose_response.RUNS
    assert {j.variant.row for j in planned} == set(VARIANTS)
    assert all(j.dial and j.trained == "weak" and j.seed == 2 for j in planned)


def levels(study: SimpleNamespace, weak: tuple[float, ...], gr: dict[str, tuple[float, ...]]) -> list[World]:
    """Worlds whose base knows more and more; ground truth gains 0.4 from each."""
    dial = Evidence(trained=("weak",))
    for i, p in enumerate(weak):
        rates = {v: {"L": p + 0.4 * gr.get(v, (0,) * len(weak))[i]} for v in VARIANTS[1:]}
        e = study.world(f"level {i}", base={**study.BASE, "L": p}, ground_truth={"L": p + 0.4}, **rates)
        dial.runs |= {k: r for k, r in e.runs.items() if k.trained == "weak"}
    return [World(dial, name, stream="dial") for name in dial.worlds()]


WEAK = (0.02, 0.03, 0.04, 0.06)


def test_what_rises_with_alignment_is_confirmed_and_what_does_not_is_refuted(study: SimpleNamespace) -> None:
    rising, falling = (0.0, 0.3, 0.6, 0.9), (0.9, 0.6, 0.3, 0.1)
    gr = {"majority": rising, "one_shot": falling, "negative": rising, "positive": (0.9, 0.9, 0.9, 0.9)}
    found = {r.variant: r for r in dose_response.relations(levels(study, WEAK, gr))}
    assert found["majority"].correlation.estimate == 1
    assert (found["majority"].verdict, found["one_shot"].verdict) == ("confirmed", "refuted")
    assert found[RATIO].verdict == "confirmed"
    assert (found["random"].predicted, found["positive"].verdict) == (False, "inconclusive")
    assert dose_response.relations([]) == []


def test_levels_draw_the_same_seeds_and_items(study: SimpleNamespace) -> None:
    a, b = levels(study, WEAK[:2], {})
    np.testing.assert_array_equal(a.drawn_seeds, b.drawn_seeds)
    own = World(a.evidence, "level 0")
    assert (own.drawn_seeds != a.drawn_seeds).any()


@pytest.mark.parametrize(("inside", "expected"), [(8, "confirmed"), (0, "refuted")])
def test_one_example_within_its_subtask(study: SimpleNamespace, inside: int, expected: str) -> None:
    """Claim 8; the first level's example is too hard to count."""
    found = levels(study, WEAK[:2], {})
    dial = found[0].evidence
    study.change(dial, "one_shot", example=study.example(0.05))
    for key, run in list(dial.runs.items()):
        if key.variant == "one_shot" and key.world == "level 1":
            own = np.array(run.items["weak", 20].subtasks) == "+0"
            run.items["weak", 20].strict[:] = np.where(own, inside, 0)
            dial.runs[key] = type(run)(run.items, run.curves, study.example(0.2))
    verdict = dose_response.within_subtask(found)
    assert verdict is not None
    assert (verdict.claim, verdict.verdict, verdict.seeds) == ("8", expected, 3)
    assert verdict.statistics[0].estimate == pytest.approx(inside / 16, abs=0.02)


def test_claim_8_needs_an_example_that_is_solved_at_times(study: SimpleNamespace) -> None:
    found = levels(study, WEAK[:2], {})
    study.change(found[0].evidence, "one_shot", example=study.example(0.09))
    assert dose_response.within_subtask(found) is None


def test_load_takes_level_0_from_the_grid(study: SimpleNamespace, tmp_path: Path) -> None:
    from alignment_study.arms import Job, variant

    rates = {v: {"L": 0.1} for v in VARIANTS[1:]}
    grid, later = study.world(**rates), study.world(base={**study.BASE, "L": 0.05}, **rates)
    later.runs = {k: r for k, r in later.runs.items() if k.trained == "weak"}
    study.write(
        later,
        tmp_path,
        lambda k: Job(variant(k.variant), "one", "weak", k.seed, f"checkpoint-{500 + k.seed}"),
    )
    records, found = dose_response.load(tmp_path, grid)
    assert len(records) == 18
    assert [w.name for w in found] == ["level 0", "level 1"]
    assert found[1].base("weak")[0] == pytest.approx(0.05, abs=0.001)
    del grid.runs[Key("one", "weak", "negative", 2)]
    assert dose_response.load(tmp_path, grid)[1] == []  # not before all runs are there


# ---- the update ratio


class Bandit(torch.nn.Module):
    """Softmax over arms as a one-token language model; arm 0 is right."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(probabilities).log())
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.logits.expand(*input_ids.shape, -1)})


def test_gradient_of_a_bandit_by_hand() -> None:
    """d log pi(a) / d logits = e_a - pi."""
    model, pi = Bandit([0.2, 0.3, 0.5]), np.array([0.2, 0.3, 0.5])
    found = prompt_gradient(model, [9], [[0], [2], [1]], [1.0, -2.0, 0.0]).numpy()
    np.testing.assert_allclose(found, (np.eye(3)[0] - pi) - 2 * (np.eye(3)[2] - pi), atol=1e-6)
    assert prompt_gradient(model, [9], [[0]], [0.0]).tolist() == [0, 0, 0]


def test_longer_completions_are_summed_and_padding_does_not_count() -> None:
    model = Bandit([0.2, 0.3, 0.5])
    together = prompt_gradient(model, [9], [[0, 1, 1], [2]], [1.0, 0.5])
    apart = prompt_gradient(model, [9], [[0, 1, 1]], [1.0]) + prompt_gradient(model, [9], [[2]], [0.5])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_the_law_holds_on_a_bandit(p: float) -> None:
    """NSR / PSR = p / (1 - p), from groups of 16 drawn at random (sheet §2.7)."""
    pi, rng = np.array([p, *(1 - p) * np.array([0.1, 0.2, 0.3, 0.4])]), np.random.default_rng(0)
    negative, positive = np.zeros((40, 2, 5)), np.zeros((40, 2, 5))
    for prompt in range(40):
        for half in range(2):
            for _ in range(50):
                arms = rng.choice(5, 16, p=pi)
                for store, mode in ((negative, "negative"), (positive, "positive")):
                    advantages = np.array(signed_advantages((arms == 0).astype(float).tolist(), mode))
                    store[prompt, half] += advantages @ (np.eye(5)[arms] - pi)
    ratio, norm = ratio_of(negative, positive, np.ones(40))
    assert ratio == pytest.approx(p / (1 - p), abs=0.05)
    assert norm > 0
    low, high = update_ratio._interval(negative, positive, rng.multinomial(40, np.full(40, 1 / 40), 200))
    assert low < ratio < high


def test_measure_bins_prompts_and_is_a_function_of_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_ratio, "COUNTED", 8)
    monkeypatch.setattr(update_ratio, "GROUPS", 1)
    monkeypatch.setattr(update_ratio, "MIN_PROMPTS", 2)
    monkeypatch.setattr(update_ratio, "RESAMPLES", 20)
    drawn = iter([[1.0, 0.0] * 4 + [1.0, 0.0] * 16, [0.0] * 40, [1.0, 0.0] * 20, [0.0] * 40] * 2)
    monkeypatch.setattr(update_ratio.rewards, "score_group", lambda *a, **k: next(drawn))
    tokenizer = families.tokenizer()
    model = new_model(Settings(hidden=16, layers=1, heads=2), tokenizer)
    task = load_task("caesar", split="train", n=4, seed=0)
    first = update_ratio.measure(model, tokenizer, task, 1)
    assert first == update_ratio.measure(model, tokenizer, task, 1)
    (found,) = first  # the two prompts that are never solved are in no bin
    assert (found.prompts, found.p, found.law) == (2, 0.5, 1.0)
    assert np.isfinite([found.ratio, found.low, found.high, found.norm]).all()
