"""N worlds of one scene, each with its own `MjData`, stepped in native threads or by MuJoCo Warp.

MuJoCo releases the GIL inside `mj_step`, so a thread pool over worlds uses all cores and each world keeps its
own solver warm start. Arrays: N worlds, A arms, P parts.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env import robots
from resip_assembly.env.scenes import SUBSTEPS, Scene
from resip_assembly.env.warp_physics import Backend, WarpPhysics

Threads = int | Backend | None  # native threads (None: one per core), or MuJoCo Warp
Array = NDArray[np.float64]

STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # with controls, targets and warm start: continuing is exact
_BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADQACC) + 1)  # and BADQVEL
_SITE = int(mujoco.mjtObj.mjOBJ_SITE)

# The environment reports bad states itself; MuJoCo would also write a line per event to a log file.
mujoco.set_mju_user_warning(lambda message: None)


class _Views:
    """Arrays of one world that share memory with its `MjData`: asking the bindings for them at every step
    would cost as much as three physics steps."""

    def __init__(self, scene: Scene, data: mujoco.MjData) -> None:
        self.targets = [(data.mocap_pos[k], data.mocap_quat[k]) for k in scene.target_mocap]
        self.ctrl = data.ctrl
        self.sources = (data.qpos, data.qvel, data.xpos, data.xquat, data.site_xpos, data.site_xmat)
        self.sources += (data.warning.number[_BAD],)


class Simulator:
    """`step` advances the chosen worlds by one control step and refreshes the arrays below.

    ee_pos (N, A, 3) m, ee_quat (N, A, 4) wxyz with w >= 0, ee_linear, ee_angular (N, A, 3) in the world frame
    (m/s, rad/s), width (N, A) m, part_pos (N, P, 3), part_quat (N, P, 4) wxyz, part_speed (N, F, 2): m/s and
    rad/s of the free parts; bad (N,): MuJoCo met a non-finite or huge number (Warp: or too many contacts).
    """

    def __init__(self, scene: Scene, num_envs: int, threads: Threads = None) -> None:
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
        self._raw = tuple(np.zeros((n, *s.shape), s.dtype) for s in self._views[0].sources)
        self._warned = self._raw[-1]
        self._twist = np.zeros((n, a, 6))
        self._copies = [  # per world: where to, from where
            [(raw[i, ...], source) for raw, source in zip(self._raw, views.sources, strict=True)]
            for i, views in enumerate(self._views)
        ]
        self._velocities = [list(zip(scene.ee_site, self._twist[i], strict=True)) for i in range(n)]
        self._warp = WarpPhysics(scene.model, self.data, threads) if isinstance(threads, str) else None
        native = 1 if isinstance(threads, str) else threads or os.cpu_count() or 1
        self.threads = max(1, min(native, num_envs))
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._state_size = mujoco.mj_stateSize(scene.model, STATE)
        self._probe = mujoco.MjData(scene.model)

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

    def overlap(self, i: int) -> float:
        """How deep bodies of world i stand inside each other, m, 0 if none does: computed in other memory,
        because the world's contacts and warm start are part of what follows."""
        model, data, probe = self.scene.model, self.data[i], self._probe
        probe.qpos[:], probe.mocap_pos[:], probe.mocap_quat[:] = data.qpos, data.mocap_pos, data.mocap_quat
        mujoco.mj_kinematics(model, probe)
        mujoco.mj_collision(model, probe)
        return -float(probe.contact.dist.min(initial=0.0))

    def settle(self, worlds: NDArray[np.intp]) -> None:
        """Refresh the arrays of worlds just placed, and set the hands' targets to where the hands are."""
        for i in worlds.tolist():
            self._read(i)
        self._refresh(worlds)
        for i in worlds.tolist():
            self._aim(i, self.ee_pos, self.ee_quat)

    def step(self, worlds: NDArray[np.intp], target_pos: Array, target_quat: Array, close: Array) -> None:
        """One control step of `worlds`: targets (N, A, 3), (N, A, 4), fingers closed where `close` (N, A)."""
        grip = np.where(close, robots.GRIP_CLOSED_M, self.scene.task.max_gripper_width / 2)
        if self._warp is not None:
            for i in worlds.tolist():
                self._aim(i, target_pos, target_quat, grip)
            bad = self._warp.step(worlds)
            for i in worlds.tolist():
                self._read(i)
            self._warned[worlds[bad]] = 1
        elif self._pool is None:
            self._advance(worlds, target_pos, target_quat, grip)
        else:  # small blocks, because a world in contact takes longer
            blocks = np.array_split(worlds, min(len(worlds), 4 * self.threads) or 1)
            list(self._pool.map(lambda block: self._advance(block, target_pos, target_quat, grip), blocks))
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

    def _advance(self, worlds: NDArray[np.intp], target_pos: Array, target_quat: Array, grip: Array) -> None:
        model, data = self.scene.model, self.data
        for i in worlds.tolist():
            self._aim(i, target_pos, target_quat, grip)
            mujoco.mj_step(model, data[i], SUBSTEPS)
            self._read(i)

    def _aim(self, i: int, target_pos: Array, target_quat: Array, grip: Array | None = None) -> None:
        """Targets of world i (rows of (N, A, ...) arrays); the fingers stay as they are without `grip`."""
        views = self._views[i]
        for arm, (position, quat) in enumerate(views.targets):
            position[...], quat[...] = target_pos[i, arm], target_quat[i, arm]
        if grip is not None:
            views.ctrl[self.scene.grip_actuator] = grip[i]

    def _read(self, i: int) -> None:
        """Copy the kinematics of the state just reached; `mj_step` leaves those of one step before."""
        model, data = self.scene.model, self.data[i]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        for target, source in self._copies[i]:
            target[...] = source
        for site, velocity in self._velocities[i]:
            mujoco.mj_objectVelocity(model, data, _SITE, site, velocity, 0)

    def _refresh(self, worlds: NDArray[np.intp]) -> None:
        """The public arrays of `worlds` from the copies, all at once."""
        scene, n, sites = self.scene, len(worlds), list(self.scene.ee_site)
        rows: Any = slice(None) if n == self.num_envs else worlds  # all of them: without copies
        qpos, qvel, xpos, xquat, site_xpos, site_xmat, warned = (raw[rows] for raw in self._raw)
        bad = np.asarray(warned.any(-1) | ~np.isfinite(qvel).all(-1) | ~np.isfinite(qpos).all(-1))
        self.bad[rows] = bad
        self.ee_pos[rows] = site_xpos[:, sites]
        matrix = site_xmat[:, sites].reshape(n, len(sites), 3, 3)
        if bad.any():
            matrix = np.where(bad[:, None, None, None], np.eye(3), matrix)
        self.ee_quat[rows] = rotations.matrix_to_quat_wxyz(matrix)
        self.ee_angular[rows], self.ee_linear[rows] = self._twist[rows, :, :3], self._twist[rows, :, 3:]
        self.width[rows] = qpos[:, scene.finger_qpos].sum(-1)
        self.part_pos[rows], self.part_quat[rows] = xpos[:, scene.part_body], xquat[:, scene.part_body]
        velocity = qvel[:, scene.free_dof].reshape(n, len(scene.free_dof), 2, 3)
        self.part_speed[rows] = np.linalg.norm(velocity, axis=-1)
