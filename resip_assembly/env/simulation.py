"""N worlds of one scene, each with its own `MjData`, stepped in native threads.

MuJoCo releases the GIL inside `mj_step`, so a thread pool over worlds uses all cores and each world keeps its
own solver warm start. Arrays: N worlds, A arms, P parts.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env import robots
from resip_assembly.env.scenes import SUBSTEPS, Scene

Array = NDArray[np.float64]

STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # with controls, targets and warm start: continuing is exact
_BAD = (
    int(mujoco.mjtWarning.mjWARN_BADQPOS),
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
)

# The environment reports bad states itself; MuJoCo would also write a line per event to a log file.
mujoco.set_mju_user_warning(lambda message: None)


class _Views:
    """Arrays of one world that share memory with its `MjData`: asking the bindings for them at every step
    would cost as much as three physics steps."""

    def __init__(self, scene: Scene, data: mujoco.MjData) -> None:
        self.target_pos = [data.mocap_pos[k] for k in scene.target_mocap]
        self.target_quat = [data.mocap_quat[k] for k in scene.target_mocap]
        self.ctrl = data.ctrl
        self.sources = (data.qpos, data.qvel, data.xpos, data.xquat, data.site_xpos, data.site_xmat)


class Simulator:
    """`step` advances the chosen worlds by one control step and refreshes the arrays below.

    ee_pos (N, A, 3) m, ee_quat (N, A, 4) wxyz with w >= 0, ee_linear, ee_angular (N, A, 3) in the world frame
    (m/s, rad/s), width (N, A) m, part_pos (N, P, 3), part_quat (N, P, 4) wxyz, part_speed (N, F, 2): m/s and
    rad/s of the free parts; bad (N,): MuJoCo met a non-finite or huge number.
    """

    def __init__(self, scene: Scene, num_envs: int, threads: int | None = None) -> None:
        self.scene, self.num_envs = scene, num_envs
        self.data = [mujoco.MjData(scene.model) for _ in range(num_envs)]
        n, a, p = num_envs, scene.task.arms, len(scene.task.parts)
        self.ee_pos, self.ee_quat = np.zeros((n, a, 3)), np.zeros((n, a, 4))
        self.ee_linear, self.ee_angular = np.zeros((n, a, 3)), np.zeros((n, a, 3))
        self.width = np.zeros((n, a))
        self.part_pos, self.part_quat = np.zeros((n, p, 3)), np.zeros((n, p, 4))
        self.part_speed = np.zeros((n, len(scene.free_dof), 2))
        self.bad = np.zeros(n, dtype=bool)
        self._views = [_Views(scene, data) for data in self.data]
        self._raw = tuple(np.zeros((n, *source.shape)) for source in self._views[0].sources)
        self._twist = np.zeros((n, a, 6))
        self._warned = np.zeros((n, len(_BAD)), dtype=np.int64)
        self.threads = max(1, min(threads or os.cpu_count() or 1, num_envs))
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._state_size = mujoco.mj_stateSize(scene.model, STATE)

    def place(self, i: int, hand: list[Array], part_pos: Array, part_quat: Array) -> None:
        """Start world i: `hand` holds each arm's joint positions (a pose of 7 for the floating hand), the
        parts stand at (P, 3), (P, 4) with the fingers open and everything at rest. `settle` must follow."""
        scene, data = self.scene, self.data[i]
        mujoco.mj_resetData(scene.model, data)
        for where, joints in zip(scene.hand_qpos, hand, strict=True):
            data.qpos[where] = joints
        data.qpos[scene.finger_qpos] = scene.task.max_gripper_width / 2
        data.ctrl[scene.grip_actuator] = scene.task.max_gripper_width / 2
        for k, (mocap, qpos) in enumerate(zip(scene.part_mocap, scene.part_qpos, strict=True)):
            if mocap >= 0:
                data.mocap_pos[mocap], data.mocap_quat[mocap] = part_pos[k], part_quat[k]
            if qpos >= 0:
                data.qpos[qpos : qpos + 7] = np.concatenate([part_pos[k], part_quat[k]])

    def settle(self, worlds: NDArray[np.intp]) -> None:
        """Refresh the arrays of worlds just placed, and set the hands' targets to where the hands are."""
        for i in worlds:
            self._read(i)
        self._refresh(worlds)
        for i in worlds:
            self._aim(i, self.ee_pos[i], self.ee_quat[i])

    def step(self, worlds: NDArray[np.intp], target_pos: Array, target_quat: Array, close: Array) -> None:
        """One control step of `worlds`: targets (N, A, 3), (N, A, 4), fingers closed where `close` (N, A)."""
        grip = np.where(close, robots.GRIP_CLOSED_M, self.scene.task.max_gripper_width / 2)
        for i in worlds:
            self._aim(i, target_pos[i], target_quat[i])
            self._views[i].ctrl[self.scene.grip_actuator] = grip[i]
        if self._pool is None:
            self._advance(worlds)
        else:  # small blocks, because a world in contact takes longer
            blocks = np.array_split(worlds, min(len(worlds), 4 * self.threads) or 1)
            list(self._pool.map(self._advance, blocks))
        self._refresh(worlds)

    def get_state(self) -> Array:
        """(N, S): everything that MuJoCo needs to go on exactly."""
        state = np.empty((self.num_envs, self._state_size))
        for i, data in enumerate(self.data):
            mujoco.mj_getState(self.scene.model, data, state[i], STATE)
        return state

    def set_state(self, state: Array) -> None:
        if state.shape != (self.num_envs, self._state_size):
            raise ValueError(
                f"state of shape {state.shape} is not ({self.num_envs}, {self._state_size}): it was saved "
                "from another task, robot or number of environments"
            )
        for i, data in enumerate(self.data):
            mujoco.mj_resetData(self.scene.model, data)
            mujoco.mj_setState(self.scene.model, data, state[i], STATE)
            self._read(i)
        self._refresh(np.arange(self.num_envs))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _advance(self, worlds: NDArray[np.intp]) -> None:
        for i in worlds:
            mujoco.mj_step(self.scene.model, self.data[i], SUBSTEPS)
            self._read(i)

    def _aim(self, i: int, position: Array, quat: Array) -> None:
        views = self._views[i]
        for arm in range(len(position)):
            views.target_pos[arm][:], views.target_quat[arm][:] = position[arm], quat[arm]

    def _read(self, i: int) -> None:
        """Copy the kinematics of the state just reached; `mj_step` leaves those of one step before."""
        model, data = self.scene.model, self.data[i]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        for target, source in zip(self._raw, self._views[i].sources, strict=True):
            target[i] = source
        for arm, site in enumerate(self.scene.ee_site):
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, site, self._twist[i, arm], 0)
        numbers = data.warning.number
        self._warned[i] = [numbers[kind] for kind in _BAD]

    def _refresh(self, worlds: NDArray[np.intp]) -> None:
        """The public arrays of `worlds` from the copies, all at once."""
        scene = self.scene
        qpos, qvel, xpos, xquat, site_xpos, site_xmat = (raw[worlds] for raw in self._raw)
        sites, n = list(scene.ee_site), len(worlds)
        self.bad[worlds] = (
            self._warned[worlds].any(-1) | ~np.isfinite(qvel).all(-1) | ~np.isfinite(qpos).all(-1)
        )
        self.ee_pos[worlds] = site_xpos[:, sites]
        matrix = np.where(
            self.bad[worlds, None, None, None], np.eye(3), site_xmat[:, sites].reshape(n, len(sites), 3, 3)
        )
        self.ee_quat[worlds] = rotations.matrix_to_quat_wxyz(matrix)
        self.ee_angular[worlds], self.ee_linear[worlds] = np.split(self._twist[worlds], 2, axis=-1)
        self.width[worlds] = qpos[:, scene.finger_qpos].sum(-1)
        self.part_pos[worlds], self.part_quat[worlds] = xpos[:, scene.part_body], xquat[:, scene.part_body]
        velocity = qvel[:, scene.free_dof].reshape(n, len(scene.free_dof), 2, 3)
        self.part_speed[worlds] = np.linalg.norm(velocity, axis=-1)
