"""The plan of the reproduction."""

from __future__ import annotations

from typing import Any

import pytest

from alignment_study import arms, dose_response, reproduce, result_figures
from alignment_study.arms import MIN_ITEMS, MIN_SAMPLES, SEEDS, TITLES, VARIANTS, Base, Job, jobs, variant
from alignment_study.families import WORLDS
from shared import config

BUDGET_MINUTES = 90  # issue: on two cores


def fields(row: str, trained: Any = "weak") -> dict[str, Any]:
    return config.flatten(config.to_dict(Job(variant(row), "one", trained, 1).config))


def test_the_grid_is_every_variant_family_world_and_seed() -> None:
    whole = [job for world in WORLDS for job in jobs(world)]
    assert len(whole) == len({job.folder for job in whole}) == 12 * 2 * 2 * 3
    assert {v.row for v in VARIANTS} == {
        "ground_truth", "random", "format", "incorrect", "majority", "entropy", "negative", "positive",
        "one_shot", "one_shot_random", "random_ungated", "no_dynamic",
    }  # fmt: skip
    assert SEEDS == (1, 2, 3)  # seed 0 is for tuning
    assert all(job.variant.row == "ground_truth" for job in whole[:6])  # nothing can be judged without it


@pytest.mark.parametrize(
    ("row", "differs"),
    [
        ("random", {"algo.reward": "random"}),
        ("format", {"algo.reward": "format"}),
        ("incorrect", {"algo.reward": "incorrect"}),
        ("majority", {"algo.reward": "majority"}),
        ("entropy", {"algo.reward": "entropy"}),
        ("random_ungated", {"algo.reward": "random_ungated"}),
        ("negative", {"algo.samples": "negative"}),
        ("positive", {"algo.samples": "positive"}),
        ("one_shot", {"algo.samples": "one_shot"}),
        ("one_shot_random", {"algo.samples": "one_shot", "algo.selection": "random"}),
        ("no_dynamic", {"algo.dynamic_sampling": False}),
    ],
)
def test_variants_differ_from_ground_truth_in_what_their_name_says(row: str, differs: dict) -> None:
    """So learning rate and steps are the same for all."""
    reference = fields("ground_truth")
    changed = {k: v for k, v in fields(row).items() if v != reference[k] and k != "run.output_dir"}
    assert changed == differs
    assert reference["algo.selection"] == "near_half"


@pytest.mark.parametrize(("world", "weak"), [("one", "caesar"), ("two", "rearrange")])
def test_families_swap_roles_between_worlds(world: Any, weak: str) -> None:
    cfg = Job(variant("random"), world, "weak", 3).config
    assert (cfg.world, cfg.train_family, cfg.run.seed) == (world, weak, 3)
    assert cfg.eval.tasks == (WORLDS[cfg.world].aligned, WORLDS[cfg.world].transfer, weak)
    assert (cfg.eval.problems, cfg.eval.samples, cfg.eval.every) == (MIN_ITEMS, MIN_SAMPLES, 10)
    assert (MIN_ITEMS, MIN_SAMPLES) == (128, 16)
    assert cfg.base == f"runs/base-{world}-seed3/model"
    assert Job(variant("random"), world, "aligned", 3).config.train_family == WORLDS[cfg.world].aligned


def test_the_dial_starts_from_later_checkpoints_and_looks_at_the_weak_family_only() -> None:
    job = Job(variant("majority"), "one", "weak", 2, "checkpoint-700")
    assert job.config.base == "runs/base-one-seed2/checkpoint-700"
    assert job.config.eval.tasks == ("caesar",)
    assert job.row == "alignment_study/one/weak/checkpoint-700/majority"
    assert job.folder != Job(variant("majority"), "one", "weak", 2).folder


def test_every_command_is_understood() -> None:
    for v in VARIANTS:
        job = Job(v, "two", "aligned", 1)
        assert job.config.preset == "small"
        assert job.command.startswith("cd alignment_study && python train.py --preset small ")
    assert Base("two", 4).command == (
        "cd alignment_study && python pretrain.py --world two --seed 4 --out runs/base-two-seed4"
    )


def test_titles_and_looks_are_complete() -> None:
    assert set(result_figures.LOOKS) == set(TITLES)
    assert set(dose_response.VARIANTS) <= set(TITLES)
    colors = [(look.color, look.hollow) for look in result_figures.LOOKS.values()]
    assert len(set(colors)) == len(colors)


def test_dry_run_prints_every_command_and_the_budget(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--dry-run"])
    reproduce.main()
    *commands, total = capsys.readouterr().out.splitlines()
    assert len(commands) == 6 + 144
    assert all(": cd alignment_study && python " in line for line in commands)
    assert total.startswith("6 base models and 144 RL runs, ")
    planned = reproduce.minutes(6 * reproduce.BASE_S + 144 * reproduce.RUN_S)
    assert f"about {planned:.0f} minutes on 2 workers" in total
    assert planned <= BUDGET_MINUTES
    assert dose_response.RUNS == 54
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--dry"])
    with pytest.raises(SystemExit, match="unknown --dry; use --dose, --dry-run, --tables or none of them"):
        reproduce.main()


def test_base_models_lie_where_train_looks_for_them() -> None:
    from alignment_study import base_models

    assert Base("one", 2).folder == base_models.BASES / "base-one-seed2"
    assert arms.HERE / "runs" == base_models.BASES
