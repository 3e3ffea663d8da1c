"""MuJoCo Warp as stepping backend: refusals, and one control step against native threads, on Warp's CPU.

The slow tests compile Warp's kernels, minutes per scene the first time.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from resip_assembly.config import PRESETS, Config
from resip_assembly.demos import ExpertAgent
from resip_assembly.env import make_vector, warp_physics
from shared import config

installed = pytest.mark.skipif(
    importlib.util.find_spec("mujoco_warp") is None, reason="needs mujoco-warp (the extra 'warp')"
)


def test_the_config_names_the_backend() -> None:
    assert PRESETS["paper"].sim.threads is None
    for given, stored in (("warp", "warp"), ("warp-cpu", "warp-cpu"), ("3", 3)):
        cfg = config.parse(Config, PRESETS, args=["--preset", "smoke", "--sim.threads", given])
        assert cfg.sim.threads == stored
        assert config.from_dict(Config, config.to_dict(cfg)) == cfg
    with pytest.raises(SystemExit):
        config.parse(Config, PRESETS, args=["--preset", "smoke", "--sim.threads", "wrap"])


def test_what_cannot_run_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown threads='wrap'; a number of native threads, 'warp' or"):
        make_vector("peg_in_hole", 1, threads="wrap")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "warp", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[warp\]" at .* or give a number of native'):
        make_vector("peg_in_hole", 1, threads="warp")


@installed
@pytest.mark.slow
def test_warp_without_cuda_is_refused() -> None:
    import warp

    if warp.is_cuda_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ValueError, match="threads='warp' needs a CUDA device and this machine has none"):
        make_vector("peg_in_hole", 1, threads="warp")


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("task", "moments"), [("peg_in_hole", (0, 18, 45)), ("one_leg", (0, 20, 50))])
def test_a_control_step_is_that_of_native_threads(
    task: str, moments: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rest, while the expert grasps, and with the part in its place."""
    native = make_vector(task, 3, threads=1, autoreset="disabled")
    warped = make_vector(task, 3, threads="warp-cpu", autoreset="disabled")
    obs, _ = native.reset(seed=1)
    start, _ = warped.reset(seed=1)
    np.testing.assert_array_equal(start, obs)  # Warp has no part in it
    expert, contacts, moved = ExpertAgent(native, 1), [], 0.0
    for t in range(moments[-1] + 1):
        before, action = native.state(), expert.act(obs)
        here = native.simulator.ee_pos.copy()
        obs, *rest = native.step(action)
        if t not in moments:
            continue
        warped.set_state(before)
        seen, *found = warped.step(action)
        one, two = native.simulator, warped.simulator
        moved = max(moved, np.abs(one.ee_pos - here).max())
        contacts.append(max(data.ncon for data in one.data))
        np.testing.assert_allclose(two.ee_pos, one.ee_pos, atol=1e-4)  # m; float32 and another solver
        np.testing.assert_allclose(two.part_pos, one.part_pos, atol=1e-4)
        np.testing.assert_allclose(two.part_quat, one.part_quat, atol=2e-3)
        np.testing.assert_allclose(seen, obs, atol=5e-3)  # velocities too
        assert two.data[0].time == pytest.approx(one.data[0].time)
        for a, b in zip(found[:3], rest[:3], strict=True):
            np.testing.assert_array_equal(a, b)
    assert contacts[-1] > contacts[0]
    assert moved > 0.005  # m: fifty times the tolerance

    # a world without an action stands still, a bad one is reported, the third goes on
    kept = warped.state()["physics"]
    action[0] = np.nan
    warped.simulator.data[1].qpos[:] = np.nan
    _, _, terminated, truncated, info = warped.step(action)
    assert info["truncation_reason"].tolist()[:2] == ["nan action", "nan"]
    assert truncated[:2].all()
    assert not terminated[:2].any()
    after = warped.state()["physics"]
    np.testing.assert_array_equal(after[0], kept[0])
    assert np.isfinite(after[2]).all()
    assert not np.array_equal(after[2], kept[2])

    # contacts that do not fit are lost: such a state is not to be trusted
    monkeypatch.setattr(warp_physics, "CONTACTS", 1)
    crowded = make_vector(task, 3, threads="warp-cpu", autoreset="disabled")
    crowded.reset(seed=1)
    crowded.set_state(native.state())
    *_, info = crowded.step(np.where(np.isfinite(action), action, 0.0))
    assert info["truncation_reason"].tolist() == ["nan"] * 3
    for env in (native, warped, crowded):
        env.close()
