"""Camera images of the worlds, with visual domain randomisation, and a wrapper that observes them (§2.10).

Images are rendered from poses alone, apart from the simulation: rollouts can be rendered again later, with
other looks, and a policy that plans every few steps renders only then.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

import copy
import math
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env.rendering import make_renderer, render
from resip_assembly.env.scenes import Scene
from resip_assembly.env.simulation import Simulator
from resip_assembly.env.tasks import Task
from resip_assembly.env.vector import ARM_STATE_DIM, AssemblyVectorEnv
from shared.seeding import derive_seed

Looks = Literal["none", "base", "full"]  # how far colours, lights and cameras are redrawn in every frame

# Sheet §2.10. Lights: with this probability each is switched off with p = 0.5; colour from warm to white;
# intensity 3000 to 8000, here relative to the middle of that range.
SWITCHING, OFF = 0.75, 0.5
WARM, WHITE = np.array([0.789, 0.715, 0.622]), np.ones(3)
INTENSITY = (3000 / 5500, 8000 / 5500)
LIGHT_SUM = 0.8  # diffuse light of all lamps together at the middle intensity [OURS]: half of it is nominal
PART_TINT = {"base": np.array([0.984, 0.889, 0.843]), "full": np.full(3, 0.5)}  # up to white
FINER = 2  # rendered pixels per pixel of the image, in each direction
TABLE_NOISE, TABLE_FULL = 0.01, (0.5, 1.0)
# standard deviations of camera position (m) and rotation (rad)
CAMERA_NOISE = {"front": (0.0025, math.radians(0.5)), "wrist": (0.00075, math.radians(0.25))}


def camera_names(task: Task) -> tuple[str, ...]:
    """The policy's cameras: front, and one on each wrist."""
    return ("front", *(f"arm{k}_wrist" for k in range(task.arms)))


def poses(simulator: Simulator) -> NDArray[np.float32]:
    """(N, P): all that an image of each world depends on, joint positions and the poses of mocap bodies."""
    return np.array(
        [np.concatenate([d.qpos, d.mocap_pos.ravel(), d.mocap_quat.ravel()]) for d in simulator.data],
        dtype=np.float32,
    )


class Cameras:
    """Renders poses in a copy of the scene's model, whose looks are redrawn without compiling.

    Args:
        scene: of the worlds.
        height: of the images, pixels.
        width: of the images, pixels.
        looks: "none" is the scene as it is. The authors' parts are white; ours keep their colours, times the
            tint that the authors draw ("base": nearly white, "full": darker, any hue).

    Raises:
        NoRendering: this machine has no OpenGL.
        ValueError: unknown looks, or images of no pixels.
    """

    def __init__(self, scene: Scene, height: int, width: int, looks: Looks = "none") -> None:
        if looks not in ("none", *PART_TINT):
            raise ValueError(f"unknown looks {looks!r}; there are none, {', '.join(PART_TINT)}")
        if min(height, width) < 1:
            raise ValueError(f"images of {height} x {width} pixels; both must be at least 1")
        self.looks: Looks = looks
        self.height, self.width = height, width
        self.names = camera_names(scene.task)
        self.model = copy.copy(scene.model)
        self._nominal = copy.copy(scene.model)
        self._data = mujoco.MjData(self.model)
        self._part_geoms = [np.flatnonzero(self.model.geom_bodyid == body) for body in scene.part_body]
        self._table = np.flatnonzero(self.model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
        # Four pixels averaged for each of the image: as smooth as OpenGL's own four samples, and cheaper.
        self.model.vis.quality.offsamples = 0
        self.model.vis.global_.offheight = max(self.model.vis.global_.offheight, FINER * height)
        self.model.vis.global_.offwidth = max(self.model.vis.global_.offwidth, FINER * width)
        self._renderer = make_renderer(self.model, FINER * height, FINER * width)

    def images(self, pose: NDArray[np.float32], *seed: str | int) -> NDArray[np.uint8]:
        """(C, height, width, 3) for one pose (P,) of `poses`; the looks are a function of `seed`."""
        if self.looks != "none":
            self._redraw(np.random.default_rng(derive_seed("resip_assembly.looks", *seed)))
        model, data = self.model, self._data
        data.qpos[:], mocap = pose[: model.nq], pose[model.nq :]
        data.mocap_pos[:] = mocap[: 3 * model.nmocap].reshape(-1, 3)
        data.mocap_quat[:] = mocap[3 * model.nmocap :].reshape(-1, 4)
        mujoco.mj_kinematics(model, data)
        return np.stack([_averaged(render(self._renderer, model, data, name)) for name in self.names])

    def close(self) -> None:
        self._renderer.close()

    def _redraw(self, rng: np.random.Generator) -> None:
        """New lights, colours and camera poses, each from its nominal value."""
        model, nominal = self.model, self._nominal
        switching = rng.random() < SWITCHING
        model.light_active[:] = ~(switching & (rng.random(model.nlight) < OFF))
        share = rng.uniform(*INTENSITY, (model.nlight, 1)) * LIGHT_SUM / model.nlight
        model.light_diffuse[:] = share * rng.uniform(WARM, WHITE, (model.nlight, 3))

        tints = rng.uniform(PART_TINT[self.looks], 1, (len(self._part_geoms), 3))
        if rng.random() < 0.5:  # one colour for all parts, or one for each
            tints[:] = tints[0]
        for geoms, tint in zip(self._part_geoms, tints, strict=True):
            model.geom_rgba[geoms, :3] = nominal.geom_rgba[geoms, :3] * tint
        table = nominal.geom_rgba[self._table, :3] + rng.normal(0, TABLE_NOISE, 3)
        if self.looks == "full":
            table = rng.uniform(*TABLE_FULL, 3)
        model.geom_rgba[self._table, :3] = np.clip(table, 0, 1)

        for name in self.names:
            camera = model.camera(name).id
            position_m, angle_rad = CAMERA_NOISE["front" if name == "front" else "wrist"]
            model.cam_pos[camera] = nominal.cam_pos[camera] + rng.normal(0, position_m, 3)
            turn = rotations.rotvec_to_quat_wxyz(rng.normal(0, angle_rad, 3))
            model.cam_quat[camera] = rotations.quat_multiply(nominal.cam_quat[camera], turn)


def _averaged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(k h, k w, 3) to (h, w, 3), k = FINER: the mean of each k x k block, rounded."""
    height, width = (length // FINER for length in pixels.shape[:2])
    blocks = pixels.reshape(height, FINER, width, FINER, 3).astype(np.uint16)
    return ((blocks.sum((1, 3)) + FINER**2 // 2) // FINER**2).astype(np.uint8)


class ImageObservations(gymnasium.vector.VectorWrapper):
    """Observes {"state": (N, 16 A) the robot's own, "front", "arm0_wrist": (N, height, width, 3) uint8}.

    Where the parts are is to be seen, not told. Every step renders every world: about 15 ms each in software,
    so that a policy that plans every eighth step is better served by `Cameras`. `info["final_obs"]` of a
    same-step autoreset stays the state vector.
    """

    def __init__(
        self, env: AssemblyVectorEnv, height: int = 240, width: int = 320, looks: Looks = "none"
    ) -> None:
        super().__init__(env)
        self.simulated = env
        self.cameras = Cameras(env.scene, height, width, looks)
        self.state_dim = ARM_STATE_DIM * env.task.arms
        whole, image = (
            env.single_observation_space,
            gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8),
        )
        assert isinstance(whole, gymnasium.spaces.Box)
        state = gymnasium.spaces.Box(whole.low[: self.state_dim], whole.high[: self.state_dim])
        self.single_observation_space = gymnasium.spaces.Dict(
            {"state": state, **dict.fromkeys(self.cameras.names, image)}
        )
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._seen(obs, info), info

    def step(self, actions: Any) -> tuple[dict[str, NDArray], Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(actions)
        return self._seen(obs, info), reward, terminated, truncated, info

    def close(self, **kwargs: Any) -> None:
        self.cameras.close()
        super().close(**kwargs)

    def _seen(self, obs: NDArray[np.float32], info: dict[str, Any]) -> dict[str, NDArray]:
        env = self.simulated
        when = zip(poses(env.simulator), env.episode.tolist(), info["elapsed_steps"].tolist(), strict=True)
        images = np.stack([self.cameras.images(pose, i, *at) for i, (pose, *at) in enumerate(when)])
        return {
            "state": obs[:, : self.state_dim],
            **{name: images[:, k] for k, name in enumerate(self.cameras.names)},
        }
