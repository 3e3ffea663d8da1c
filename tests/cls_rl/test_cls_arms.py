"""The plan of the reproduction."""

from __future__ import annotations

from typing import Any

import pytest

from cls_rl import arms
from cls_rl.arms import ABLATED, ABLATIONS, MAIN, MAIN_SETS, MATRIX_SEED, SEEDS, SWEPT, TITLES, TUNED, Job
from cls_rl.config import PRESETS
from cls_rl.data_sets import CLASSES, SETS
from shared import config


def fields(row: str, setting: str = "few_shot", name: str = ABLATED, seed: int = 1) -> dict[str, Any]:
    return config.flatten(config.to_dict(Job("train", row, setting, name, seed).config))


def test_the_blocks_are_the_issues_grid() -> None:
    found = arms.blocks()
    grid = len(MAIN) * len(MAIN_SETS) * len(SEEDS)
    assert (len(MAIN), MAIN_SETS, SEEDS) == (4, ("animals", "food"), (1, 2, 3))
    assert {name: len(found[name]) for name in ("few_shot", "base_to_new")} == dict.fromkeys(
        ("few_shot", "base_to_new"), grid
    )
    assert len(found["zero"]) == 2 * 2 * 3  # prompts, settings, seeds: one process answers all sets
    assert len(found["empty"]) == len(MAIN_SETS) * 3
    assert sum(job.kind == "train" for job in found["lists"]) == 2 * 2 * 3  # lengths, losses, seeds
    assert len(found["ablations"]) == len(ABLATIONS) * 3
    transfers = [job for job in found["matrix"] if job.kind == "transfer"]
    assert len(transfers) == 2 * len(SETS) + (2 + 2 * 3)  # + seeds 2, 3 of no_thinking, and two variants
    assert {(j.arm, j.data_set) for j in transfers if j.seed == MATRIX_SEED} >= {
        (row, name) for row in ("thinking", "no_thinking") for name in SETS
    }
    far = [job for job in found["matrix"] if job.kind == "zero"]  # the far domain before tuning
    assert {(job.arm, job.data_set, *job.tested) for job in far} == {
        (arm, "digits", "digits") for arm in ("zero_thinking", "zero_no_thinking")
    }


def test_every_job_is_planned_once_and_after_its_start() -> None:
    order = arms.jobs()
    assert len({job.folder for job in order}) == len(order)
    assert len({(job.row, job.seed) for job in order if job.kind != "lists"}) == sum(
        job.kind != "lists" for job in order
    )
    for job in order:
        if job.start is not None:
            assert order.index(job.start) < order.index(job), job.name
    assert arms.jobs(["empty"]) == arms.blocks()["empty"]
    assert not set(arms.sweep()) & set(order)


@pytest.mark.parametrize(
    ("row", "differs"),
    [
        ("sft_completion", {"algo.objective": "sft_completion"}),
        ("sft_full_text", {"algo.objective": "sft_full_text", "algo.method": "thinking"}),
        ("thinking", {"algo.method": "thinking"}),
        ("answer_first", {"algo.method": "answer_first"}),
        ("adaptive", {"algo.method": "adaptive"}),
        ("thinking_bnpo", {"algo.method": "thinking", "algo.loss": "bnpo"}),
        ("thinking_kl0", {"algo.method": "thinking", "algo.beta": 0.0}),
        ("no_thinking_kl0", {"algo.beta": 0.0}),
        ("no_thinking_long", {"algo.steps": arms.LONGER * arms.STEPS}),
    ],
)
def test_arms_differ_from_no_thinking_in_what_their_name_says(row: str, differs: dict[str, Any]) -> None:
    """So updates, prompts per update and pictures are the same for all; learning rates were swept."""
    reference = fields("no_thinking")
    free = ("run.output_dir", "algo.lr")
    changed = {k: v for k, v in fields(row).items() if v != reference[k] and k not in free}
    assert changed == differs
    assert fields(row)["algo.lr"] == TUNED[row].learning_rate


def test_a_run_is_what_the_grid_says() -> None:
    cfg = Job("train", "no_thinking", "base_to_new", "flags", 3).config
    assert (cfg.preset, cfg.data.set, cfg.data.setting, cfg.run.seed) == ("small", "flags", "base_to_new", 3)
    assert (cfg.eval.images, cfg.eval.before, cfg.eval.every, cfg.algo.steps) == (480, False, 0, arms.STEPS)
    assert Job("train", "thinking", "few_shot", "food", 1).config.eval.every == arms.CURVE_EVERY
    assert Job("train", "thinking", "few_shot", "nature", 1).config.eval.every == 0
    assert cfg.data.shots == 4


def test_short_lists_are_trained_on_from_a_folder() -> None:
    job = Job("train", "sft_full_text", "lists_5", ABLATED, 2)
    assert job.start is not None
    assert (job.config.data.source, job.config.data.set) == ("folder", f"runs/reproduce/{job.start.name}")
    assert job.start.command.startswith(f"cd cls_rl && python list_lengths.py {ABLATED} --names 5 ")
    assert job.row == f"cls_rl/lists_5/{ABLATED}/sft_full_text"
    assert max(arms.LIST_LENGTHS) < CLASSES


def test_evaluations_start_from_the_tuned_model_and_keep_its_prompt() -> None:
    transfer = Job("transfer", "thinking", "few_shot", "food", MATRIX_SEED)
    assert transfer.start == Job("train", "thinking", "few_shot", "food", MATRIX_SEED)
    assert transfer.start is not None
    assert transfer.config.model.name == f"runs/reproduce/{transfer.start.name}/model"
    assert transfer.config.algo.method == "thinking"
    assert transfer.tested == [*(name for name in SETS if name != "food"), "digits"]
    empty = Job("empty", arms.EMPTY, "few_shot", "food", 2)
    assert (empty.config.eval.empty_thought, empty.config.algo.method, empty.tested) == (
        True,
        "thinking",
        ["food"],
    )
    zero = Job("zero", "zero_no_thinking", "base_to_new", "all", 1)
    assert (zero.config.model.name, zero.config.algo.method) == ("shipped", "no_thinking")
    assert (zero.config.data.setting, zero.tested) == ("base_to_new", list(MAIN_SETS))
    assert zero.command.split(" --sets ")[1].split() == zero.tested


def test_the_folder_changes_with_whatever_decides_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        of = (
            Job("train", "thinking", "few_shot", "food", 1),
            Job("transfer", "thinking", "few_shot", "food", 1),
        )
        return [job.name for job in of]

    first = names()
    assert names() == first
    monkeypatch.setattr(arms, "_shipped", lambda: "another checkpoint")
    assert all(a != b for a, b in zip(first, names(), strict=True))
    monkeypatch.undo()
    assert names() == first
    monkeypatch.setitem(arms.LEARNING_RATES, "thinking", 9e-9)
    changed = names()
    assert all(a != b for a, b in zip(first, changed, strict=True))  # the model that is evaluated, too
    assert [a.rpartition("-")[0] for a in first] == [b.rpartition("-")[0] for b in changed]


def test_learning_rates_are_swept_equally_on_a_set_of_their_own() -> None:
    planned = arms.sweep()
    assert {(job.data_set, job.seed, job.kind) for job in planned} == {(SWEPT, 0, "train")}
    assert SWEPT not in MAIN_SETS
    assert 0 not in SEEDS
    tried = {arm.row: [job.rate for job in planned if job.arm == arm.row] for arm in MAIN}
    assert len({len(rates) for rates in tried.values()}) == 1
    for row, rates in tried.items():
        assert arms.LEARNING_RATES[row] in rates
    assert [job.config.algo.lr for job in planned] == [job.rate for job in planned]
    assert len({job.folder for job in planned}) == len(planned)


def test_what_is_planned_has_a_title() -> None:
    assert {job.arm for job in arms.jobs() if job.kind != "lists"} == set(TITLES)
    assert PRESETS[arms.SCALE].model.name == "shipped"
