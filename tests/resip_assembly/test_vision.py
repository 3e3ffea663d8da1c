"""Camera images: a function of the pose, looks redrawn without touching the scene, the wrapper's contract."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from resip_assembly.env import make_vector, rendering, scenes, vision
from resip_assembly.env.rendering import NoRendering
from resip_assembly.env.vision import Cameras, ImageObservations, poses
from shared.seeding import derive_seed

SIZE = (48, 64)


@pytest.fixture(scope="module")
def env():
    env = make_vector("peg_in_hole", 2, threads=1, autoreset="disabled")
    env.reset(seed=4)
    return env


def cameras(env, looks: vision.Looks = "none", size: tuple[int, int] = SIZE) -> Cameras:
    try:
        return Cameras(env.scene, *size, looks)
    except NoRendering as error:
        pytest.skip(str(error))


def test_images_are_a_function_of_the_pose_alone(env) -> None:
    seen = cameras(env)
    now = poses(env.simulator)
    first, second = (seen.images(pose) for pose in now)
    assert first.shape == (2, *SIZE, 3)
    assert first.dtype == np.uint8
    assert all(image.std() > 5 for image in first)
    assert not np.array_equal(first[0], second[0])  # other initial states
    assert np.array_equal(seen.images(now[0], 7), first)  # without randomisation the seed says nothing
    renderer = rendering.make_renderer(seen.model, 2 * SIZE[0], 2 * SIZE[1])
    live = rendering.render(renderer, env.scene.model, env.simulator.data[0], "front").astype(float)
    quarters = [live[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    assert np.abs(first[0] - np.mean(quarters, axis=0)).max() <= 2  # poses are stored as float32
    renderer.close()
    seen.close()


def test_images_are_as_smooth_as_opengls_own(env) -> None:
    """Four pixels in one against four samples per pixel: the same picture but for a few edges."""
    seen = cameras(env)
    renderer = rendering.make_renderer(env.scene.model, *SIZE)  # the scene's own model: four samples
    ours = seen.images(poses(env.simulator)[0])[0].astype(float)
    theirs = rendering.render(renderer, env.scene.model, env.simulator.data[0], "front").astype(float)
    assert np.abs(ours - theirs).mean() < 1.5
    renderer.close()
    seen.close()


def test_the_detail_camera_shows_where_the_peg_goes(env) -> None:
    try:
        renderer = rendering.make_renderer(env.scene.model)
    except NoRendering as error:
        pytest.skip(str(error))
    renderer.enable_segmentation_rendering()
    hole = np.flatnonzero(env.scene.model.geom_bodyid == env.scene.part_body[1])
    for data in env.simulator.data:  # wherever the reset put it
        shown = {
            name: np.isin(rendering.render(renderer, env.scene.model, data, name)[..., 0], hole)
            for name in ("close", "detail")
        }
        assert shown["detail"].sum() > 4 * shown["close"].sum() > 0
        rows, columns = np.nonzero(shown["detail"])
        assert 80 < rows.min() < rows.max() < 210  # room above it for the peg
        assert 60 < columns.min() < columns.max() < 260
    renderer.close()


@pytest.mark.parametrize("looks", ["base", "full"])
def test_looks_are_redrawn_within_the_sheets_ranges(env, looks: vision.Looks) -> None:
    seen = cameras(env, looks)
    nominal, model = env.scene.model, seen.model
    before = nominal.geom_rgba.copy(), nominal.cam_pos.copy(), nominal.light_diffuse.copy()
    hole = np.flatnonzero(model.geom_bodyid == env.scene.part_body[1])[0]
    peg = np.flatnonzero(model.geom_bodyid == env.scene.part_body[0])[0]
    drawn: dict[str, list[NDArray]] = {
        name: [] for name in ("tint", "table", "front", "lit", "same", "light")
    }
    for k in range(200):
        seen._redraw(np.random.default_rng(derive_seed(k)))
        tints = [model.geom_rgba[g, :3] / nominal.geom_rgba[g, :3] for g in (peg, hole)]
        drawn["tint"].append(tints[0])
        drawn["same"].append(np.allclose(*tints))
        drawn["table"].append(model.geom_rgba[seen._table[0], :3].copy())
        drawn["front"].append(model.camera("front").pos - nominal.camera("front").pos)
        drawn["lit"].append(model.light_active.copy())
        drawn["light"].append(model.light_diffuse.copy())
    tint, table, front, lit, light = (
        np.array(drawn[name]) for name in ("tint", "table", "front", "lit", "light")
    )
    low = {"base": [0.984, 0.889, 0.843], "full": [0.5] * 3}[looks]
    assert (tint >= np.array(low) - 1e-6).all()
    assert (tint <= 1 + 1e-6).all()
    assert np.ptp(tint, axis=0).min() > 0.8 * (1 - max(low))
    assert 0.35 < np.mean(drawn["same"]) < 0.65
    if looks == "full":
        assert table.min() >= 0.5
        assert np.ptp(table, axis=0).min() > 0.4
    else:
        assert np.abs(table - nominal.geom_rgba[seen._table[0], :3]).std() < 0.02
    assert 0.8 * 0.0025 < front.std() < 1.2 * 0.0025
    assert model.nlight == 6  # sheet §2.10
    assert abs(lit.mean() - (1 - 0.75 * 0.5)) < 0.06
    assert lit.all(axis=1).mean() > 0.2  # with probability 0.25 none is switched off
    assert (light[..., 0] >= light[..., 2]).mean() > 0.7  # warm to white
    total = light[..., 0].sum(-1)
    assert total.min() > vision.LIGHT_SUM * 0.789 * 3000 / 5500
    assert total.max() < vision.LIGHT_SUM * 8000 / 5500
    after = nominal.geom_rgba, nominal.cam_pos, nominal.light_diffuse
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))  # the simulator's own model
    seen.close()


def test_looks_are_a_function_of_their_seed(env) -> None:
    seen = cameras(env, "full")
    pose = poses(env.simulator)[0]
    one, other = seen.images(pose, 1, 2), seen.images(pose, 1, 3)
    assert not np.array_equal(one, other)
    assert np.array_equal(seen.images(pose, 1, 2), one)
    seen.close()


def test_the_wrapper_hides_the_parts_and_shows_them(env) -> None:
    cameras(env).close()
    seen = ImageObservations(make_vector("peg_in_hole", 2, threads=1, autoreset="disabled"), *SIZE)
    obs, _ = seen.reset(seed=4)
    assert seen.observation_space.contains(obs)
    assert set(obs) == {"state", "front", "arm0_wrist"}
    assert obs["state"].shape == (2, 16)
    plain, _ = env.reset(seed=4)
    assert np.array_equal(obs["state"], plain[:, :16])
    action = np.zeros((2, 10), np.float32)
    action[:, :3], action[:, 3:9] = plain[:, :3] - [0, 0, 0.02], plain[:, 3:9]
    later, *_ = seen.step(action)
    assert not np.array_equal(later["arm0_wrist"], obs["arm0_wrist"])
    assert np.array_equal(later["state"], env.step(action)[0][:, :16])
    seen.close()


def test_two_arms_have_two_wrists() -> None:
    assert vision.camera_names(scenes.task_named("bimanual")) == ("front", "arm0_wrist", "arm1_wrist")


@pytest.mark.parametrize("task", ["peg_in_hole", "one_leg", "mug_rack", "bimanual"])
def test_the_close_camera_looks_at_the_assembly_place(task: str) -> None:
    model = scenes.build_scene(task).model
    place = scenes.assembly_place(scenes.task_named(task))
    camera = model.camera("close")
    towards = place - camera.pos
    assert np.linalg.norm(towards) == pytest.approx(0.35)
    rotation = np.empty(9)
    scenes.mujoco.mju_quat2Mat(rotation, camera.quat)
    assert -rotation.reshape(3, 3)[:, 2] @ towards == pytest.approx(0.35)  # along the optical axis
    assert abs(rotation.reshape(3, 3)[2, 0]) < 1e-9  # level


def test_bad_looks_and_sizes_are_named(env) -> None:
    with pytest.raises(ValueError, match="unknown looks 'wild'; there are none, base, full"):
        Cameras(env.scene, 8, 8, "wild")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images of 0 x 8 pixels"):
        Cameras(env.scene, 0, 8)
