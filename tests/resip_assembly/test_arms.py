"""The plan of the reproduction, and the presets that it and the paper's runs use."""

from __future__ import annotations

from pathlib import Path

import pytest

from resip_assembly import arms, reproduce, result_figures
from resip_assembly.arms import ARMS, POLICIES, SEEDS, Job, jobs
from resip_assembly.behaviour_cloning import BaseConfig
from resip_assembly.config import BASELINE_PRESETS, IMITATION_PRESETS, PRESETS, BaselineConfig, Config
from resip_assembly.env import TASKS
from shared import config


def job(row: str, task: str = "peg_in_hole", seed: int = 1) -> Job:
    return Job(next(arm for arm in ARMS if arm.row == row), task, seed)


def test_every_command_is_understood_and_has_its_seed() -> None:
    for one in (j for j in jobs() if j.seed == SEEDS[-1]):
        assert one.config.run.seed == 3
        assert one.config.preset == "small"
        assert one.command.startswith(f"cd resip_assembly && python {one.arm.script}.py --preset small ")


def test_runs_come_after_those_they_start_from() -> None:
    order = jobs()
    assert len({j.folder for j in order}) == len(order) == sum(3 * len(arm.tasks) for arm in ARMS)
    for one in order:
        if one.start is not None:
            assert order.index(one.start) < order.index(one)
            assert f"--start runs/reproduce/{one.start.name} " in one.command


def test_rewarded_arms_have_equal_environment_steps() -> None:
    steps: dict[str, int] = {}
    for arm in ARMS:
        for task in arm.tasks if arm.trained else ():
            one = Job(arm, task, 1)
            cfg = one.config
            sim = arms.residual_config(task).sim
            if isinstance(cfg, BaselineConfig):
                execute = 8 if one.start is None else one.start.config.base.execute
                steps[one.name] = sim.num_envs * cfg.loop.decisions * execute * cfg.loop.iterations
            else:
                steps[one.name] = cfg.sim.num_envs * cfg.ppo.rollout_steps * cfg.ppo.iterations
            assert steps[one.name] == one.env_steps
    for task in arms.TASKS:
        assert len({n for name, n in steps.items() if name.startswith(task)}) == 1
    assert len(steps) >= 9


def test_arms_differ_from_resip_in_what_their_name_says() -> None:
    def fields(row: str) -> dict:
        return config.flatten(config.to_dict(job(row).config))

    resip = fields("resip")
    for row, differs in (
        ("resip_plain", {"features": False}),
        ("resip_held", {"ppo.hold_residual": True}),
        ("resip_med", {"sim.randomness": "med", "start": None}),
        ("dp", {"ppo.iterations": 0, "eval.execute": [1, 2, 4], "start": None}),
    ):
        changed = {k: v for k, v in fields(row).items() if v != resip[k] and k != "run.output_dir"}
        assert changed == differs, row
    assert (fields("mlp_s")["base.predict"], fields("mlp_s")["base.execute"]) == (1, 1)
    assert (fields("mlp_c")["base.predict"], fields("mlp_c")["base.execute"]) == (8, 8)


def test_what_is_judged_has_a_title() -> None:
    judged = [policy for arm in ARMS for _, policy in arm.judged]
    assert sorted(judged) == sorted(POLICIES)
    assert set(result_figures.BARS) <= set(POLICIES)
    assert {arm.trained for arm in ARMS if arm.trained} == {*result_figures.LEARNERS, "resip_med"}


def test_dry_run_prints_every_command_and_the_total(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--dry-run"])
    reproduce.main()
    *commands, total = capsys.readouterr().out.splitlines()
    assert len(commands) == len(jobs())
    assert all(": cd resip_assembly && python " in line for line in commands)
    assert total.startswith(f"{len(jobs())} runs, ")
    assert f"{sum(j.env_steps for j in jobs()) / 1e6:,.1f} M environment steps" in total
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--dry"])
    with pytest.raises(
        SystemExit, match="unknown --dry; use --dry-run, --tables, neither, or arms: dp, resip"
    ):
        reproduce.main()
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--dry-run", "dppo"])
    reproduce.main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 runs, ")


def test_an_arm_alone_brings_what_it_starts_from_and_records_that_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "HERE", tmp_path)
    wanted = job("student_residual", "one_leg")
    dp, resip = job("dp", "one_leg"), job("resip", "one_leg")
    assert reproduce.waiting_of([wanted], []) == {dp: True, resip: True, wanted: True}
    assert list(reproduce.waiting_of([wanted], [])) == [dp, resip, wanted]

    records = [
        {"row": one.row, "seed": one.seed, "config_hash": config.config_hash(one.config)}
        for one in (dp, resip, wanted)
    ]
    assert reproduce.waiting_of([wanted], records[:2]) == {dp: False, resip: False, wanted: True}
    for one in (dp, resip):  # on this machine too
        one.folder.mkdir(parents=True)
        (one.folder / "manifest.json").write_text("{}")
    assert reproduce.waiting_of([wanted], records[:2]) == {wanted: True}
    wanted.folder.mkdir()
    (wanted.folder / "manifest.json").write_text("{}")
    assert reproduce.waiting_of([dp, resip, wanted], records) == {}
    assert reproduce.waiting_of([wanted], records[:2]) == {wanted: True}  # done, to be recorded


# ---- the paper's values (sheet §2.6 - §2.9, §3.1)


@pytest.mark.parametrize(
    ("task", "envs", "steps", "horizons"),
    [
        ("one_leg", 1024, 700, (32, 8)),
        ("round_table", 1024, 1000, (32, 8)),
        ("lamp", 1024, 1000, (32, 8)),
        ("mug_rack", 1024, 400, (32, 8)),
        ("peg_in_hole", 1024, 200, (8, 4)),
        ("bimanual", 256, 500, (64, 16)),
    ],
)
def test_paper_presets(task: str, envs: int, steps: int, horizons: tuple[int, int]) -> None:
    cfg = PRESETS[f"paper-{task}"]
    assert (cfg.preset, cfg.sim.task, cfg.sim.robot) == (f"paper-{task}", task, "panda")
    assert (cfg.sim.num_envs, cfg.ppo.rollout_steps, cfg.sim.max_episode_steps) == (envs, steps, steps)
    assert (cfg.base.predict, cfg.base.execute) == horizons
    assert 0.99e9 < cfg.sim.num_envs * cfg.ppo.rollout_steps * cfg.ppo.iterations <= 1e9
    assert (cfg.residual.residual_scale, cfg.residual.parametrisation) == (0.1, "normalised")
    assert (cfg.ppo.gamma, cfg.ppo.epochs, cfg.ppo.target_kl, cfg.features) == (0.999, 50, 0.1, False)
    assert cfg.residual.learn_std == (cfg.ppo.entropy_coef > 0)
    baseline = BASELINE_PRESETS[f"paper-{task}"]
    assert baseline.loop.decisions == steps // horizons[1]
    late = task in ("peg_in_hole", "mug_rack", "bimanual")
    assert baseline.mlp_ppo.init_logstd == (-4 if late else -5)
    assert baseline.mlp_ppo.kl_coef == (0.5 if late else 1.0)


def test_there_is_a_paper_preset_for_every_task_of_the_paper() -> None:
    assert {name.removeprefix("paper-") for name in PRESETS if name.startswith("paper-")} == set(TASKS) - {
        "one_leg_insert"
    }
    assert set(BASELINE_PRESETS) == set(IMITATION_PRESETS) == set(PRESETS)
    for name, cfg in PRESETS.items():
        assert cfg.preset == name
        assert config.from_dict(Config, config.to_dict(cfg)) == cfg


def test_bad_values_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"eval.execute=\[40\] of chunks of base.predict=32 steps"):
        Config(eval=type(Config().eval)(execute=(8, 40)), base=BaseConfig())
    with pytest.raises(ValueError, match=r"loop\.iterations=0 must be at least 1"):
        BaselineConfig(loop=type(BaselineConfig().loop)(iterations=0))
