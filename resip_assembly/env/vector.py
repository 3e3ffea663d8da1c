"""The vector environment: the paper's observations, actions, rewards and ends of episodes (sheet §2.3, §3.1).

Shapes: N environments, P parts, G goals, A arms, D = single_observation_space.shape[0].
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from resip_assembly import rotations
from resip_assembly.env import robots, scenes
from resip_assembly.env.simulation import Simulator, Threads
from resip_assembly.env.tasks import Part, Randomness, check_level, pose_is_assembled
from shared.seeding import derive_seed

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

ARM_ACTION_DIM = 10  # position 3, 6-D rotation 6, gripper 1
ARM_STATE_DIM = 16  # position 3, 6-D rotation 6, linear and angular velocity 6, gripper width 1
GRIPPER_HYSTERESIS = 0.019  # sheet §2.3
DELTA_POSITION_M, DELTA_ROTATION_RAD = 0.025, 0.35  # sheet §2.2
# Frame of the part poses of single-arm tasks: Euler (pi, 0, pi/2) at (0.3015, 0, 0) of the base (sheet §3.1)
TAG_POSITION = np.array([0.3015, 0.0, 0.0])
TAG_QUAT = np.array([0.0, np.sqrt(0.5), np.sqrt(0.5), 0.0])
_TO_TAG = rotations.quat_conjugate(TAG_QUAT)
_TO_TAG_MATRIX = rotations.quat_wxyz_to_matrix(_TO_TAG)
WORKSPACE_M = np.array([[-0.1, -0.7, -0.05], [1.0, 0.7, 0.8]])  # a part outside it is lost
MAX_OVERLAP_M, DRAWS = 0.001, 20  # of an initial state: a deeper one is drawn again, at most so many times
OBS_LIMIT = 100.0  # m, m/s, rad/s: no sane state comes near
MAX_SPEED = np.array([10.0, 300.0])  # m/s and rad/s of a free part: more is a solver failure, not a push

RESET_OPTIONS = ("reset_mask", "mask")  # Gymnasium's name, and ours of before
FAILURES = ("nan", "blow-up", "nan action")  # no step is taken from such a state

ActionMode = Literal["absolute", "delta"]
Autoreset = Literal["same_step", "disabled"]


class AssemblyVectorEnv(gymnasium.vector.VectorEnv):
    """N worlds of one task. Episode e of environment i starts from a state that is a function of (seed, task,
    randomness, i, e) alone.

    `step` returns +1 in the step in which a not yet assembled pair is first assembled, `terminated` when all
    are, `truncated` with `info["truncation_reason"]`: "time limit", "nan", "blow-up", "out of workspace" or
    "nan action". `info` also has success, assembled (N, G), elapsed_steps, episode and, with same-step
    autoreset, final_obs: (N, D), valid where an episode ended (`_final_obs`).
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        randomness: str = "low",
        seed: int = 0,
        threads: Threads = None,
        *,
        robot: robots.RobotName = "floating",
        action_mode: ActionMode = "absolute",
        max_episode_steps: int | None = None,
        autoreset: Autoreset = "same_step",
    ) -> None:
        self.scene = scenes.build_scene(task, robot)
        self.task = self.scene.task
        check_level(self.task, randomness)
        for name, value in {
            "num_envs": num_envs,
            "threads": threads,
            "max_episode_steps": max_episode_steps,
        }.items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        modes = {"same_step": AutoresetMode.SAME_STEP, "disabled": AutoresetMode.DISABLED}
        for name, value, known in (
            ("action_mode", action_mode, ("absolute", "delta")),
            ("autoreset", autoreset, modes),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; there are {', '.join(known)}")
        self.num_envs, self.randomness, self.robot, self.action_mode = (
            num_envs,
            randomness,
            robot,
            action_mode,
        )
        self.max_episode_steps = max_episode_steps or self.task.max_episode_steps
        self.metadata = {"autoreset_mode": modes[autoreset], "render_modes": []}
        self.autoreset = autoreset
        self.simulator = Simulator(self.scene, num_envs, threads)

        dim = ARM_STATE_DIM * self.task.arms + 7 * len(self.task.parts)
        self.single_observation_space = gymnasium.spaces.Box(-OBS_LIMIT, OBS_LIMIT, (dim,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (ARM_ACTION_DIM * self.task.arms,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        n, goals = num_envs, len(self.task.goals)
        pairs = [(self.task.part_index(g.first), self.task.part_index(g.second)) for g in self.task.goals]
        self._joined = np.unique(pairs)  # parts that a goal names
        self._pairs = [tuple(pair) for pair in np.searchsorted(self._joined, pairs).tolist()]  # in that order
        self._nominal_quat = np.array(
            [self._in_part_frame(*scenes.nominal_pose(p))[1] for p in self.task.parts]
        )
        self._seed = np.full(n, seed, dtype=np.int64)
        self._episode = np.full(n, -1, dtype=np.int64)
        self._elapsed = np.zeros(n, dtype=np.int64)
        self._close = np.zeros((n, self.task.arms), dtype=bool)
        self._assembled = np.zeros((n, goals), dtype=bool)
        self._held = np.zeros((n, goals), dtype=np.int64)  # control steps in a row in the goal pose
        self._twist = np.zeros((n, goals))  # rad, clockwise, while seated
        self._heading = np.zeros((n, goals))
        self._reason = np.full(n, "", dtype=object)
        self._obs = np.zeros((n, dim), dtype=np.float32)

    # ---- the gymnasium interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start the next episode of every environment, or of `options={"reset_mask": (N,) bool}` only (or
        "mask", a synonym); a seed starts again at episode 0. ValueError names any other option."""
        mask = self._chosen(options or {})
        if seed is not None:
            self._seed[mask], self._episode[mask] = seed, -1
        self._start_episodes(mask)
        return self._obs.copy(), self._info()

    def step(
        self, actions: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Bools, Bools, dict[str, Any]]:
        """Actions (N, 10 A), clipped to [-1, 1]: target position (m, robot-base frame), 6-D rotation, gripper
        (< 0 opens). Without autoreset an ended environment goes on, `terminated` or `truncated` staying set;
        one with a bad state stands still until its reset."""
        if (self._episode < 0).any():
            raise RuntimeError("step before reset: call env.reset() first")
        actions = np.asarray(actions, dtype=np.float64)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions of shape {actions.shape} must have shape {self.action_space.shape}")
        failed = np.isin(self._reason, FAILURES)
        self._reason[~failed] = ""
        finite = np.asarray(np.isfinite(actions).all(-1))
        self._reason[~finite & ~failed] = "nan action"
        worlds = np.flatnonzero(finite & ~failed)
        target_pos, target_quat = self._targets(np.where(finite[:, None], actions, 0.0), worlds)
        self.simulator.step(worlds, target_pos, target_quat, self._close)
        self._elapsed[worlds] += 1

        newly = self._check_goals(worlds)
        terminated = np.asarray(self._assembled.all(-1))
        self._check_truncation(terminated)
        truncated = np.asarray(self._reason != "", dtype=bool)
        sound = ~np.isin(self._reason, FAILURES)
        terminated &= sound
        earned = np.asarray(newly.any(-1)) & sound
        reward = np.where(earned, np.float32(1), np.float32(0))

        self._observe(worlds[~self.simulator.bad[worlds]])  # a bad world keeps its last good observation
        info = self._info(terminated)
        done = terminated | truncated
        if self.autoreset == "same_step" and done.any():
            info["final_obs"], info["_final_obs"] = self._obs.copy(), done
            self._start_episodes(done)
        return self._obs.copy(), reward, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        self.simulator.close()

    @property
    def episode(self) -> NDArray[np.int64]:
        """(N,) number of the running episode of each environment."""
        return self._episode

    # ---- exact resume

    def state(self) -> dict[str, NDArray]:
        """A snapshot as arrays; `set_state` continues bit for bit, also in another process."""
        names = (
            "_seed",
            "_episode",
            "_elapsed",
            "_close",
            "_assembled",
            "_held",
            "_twist",
            "_heading",
            "_obs",
        )
        arrays = {name[1:]: getattr(self, name).copy() for name in names}
        return arrays | {"physics": self.simulator.get_state(), "reason": self._reason.astype(str)}

    def set_state(self, state: dict[str, NDArray]) -> None:
        """Go on from a `state()` of the same task, robot and number of environments; else ValueError."""
        self.simulator.set_state(state["physics"])
        for name, value in state.items():
            if name == "reason":
                self._reason = np.array(value.tolist(), dtype=object)
            elif name != "physics":
                setattr(self, f"_{name}", np.array(value))

    # ---- reset

    def _chosen(self, options: dict[str, Any]) -> Bools:
        """(N,) which environments `reset` is asked for: all without a mask."""
        if unknown := [name for name in options if name not in RESET_OPTIONS]:
            raise ValueError(f"unknown reset option {unknown[0]!r}; there is reset_mask (or mask)")
        if len(options) > 1:
            raise ValueError("options['reset_mask'] and options['mask'] mean the same; give one")
        for name, value in options.items():
            mask = np.asarray(value)
            if mask.shape != (self.num_envs,) or mask.dtype != bool:
                raise ValueError(
                    f"options[{name!r}] of shape {mask.shape}, {mask.dtype} must be ({self.num_envs},) bool"
                )
            return mask
        return np.ones(self.num_envs, dtype=bool)

    def _start_episodes(self, mask: Bools) -> None:
        ended = np.flatnonzero(mask)
        self._episode[ended] += 1
        for i in ended.tolist():
            parts = (int(self._seed[i]), self.task.name, self.randomness, i, int(self._episode[i]))
            self._place(i, np.random.default_rng(derive_seed("resip_assembly.env", *parts)))
        self.simulator.settle(ended)
        for array in (self._elapsed, self._close, self._assembled, self._held, self._twist):
            array[ended] = 0
        self._reason[ended] = ""
        self._observe(ended)

    def _place(self, i: int, rng: np.random.Generator) -> None:
        """Draw the initial state of world i until no bodies overlap; after DRAWS draws the least deep one."""
        shallowest, kept = np.inf, None
        for _ in range(DRAWS):
            drawn = self._draw(rng)
            self.simulator.place(i, *drawn)
            depth = self.simulator.overlap(i)
            if depth <= MAX_OVERLAP_M:
                return
            if depth < shallowest:
                shallowest, kept = depth, drawn
        assert kept is not None
        self.simulator.place(i, *kept)

    def _draw(self, rng: np.random.Generator) -> tuple[list[Array], Array, Array]:
        """Obstacle, parts, then hands, in this order: what `Simulator.place` takes."""
        level = self.task.randomness[self.randomness]
        offsets: dict[str, tuple[Array, float]] = {
            "obstacle": (rng.uniform(-level.obstacle_m, level.obstacle_m, 2), 0.0)
        }
        poses = []
        for part in self.task.parts:
            if part.name not in offsets:
                offsets[part.name] = offsets.get(part.moves_with or "") or _draw_offset(part, level, rng)
            poses.append(_moved(part, *offsets[part.name]))
        hands = robots.draw_hands(self.task, self.scene.robot, level, rng)
        return hands, np.array([p for p, _ in poses]), np.array([q for _, q in poses])

    # ---- step

    def _targets(self, actions: Array, worlds: NDArray[np.intp]) -> tuple[Array, Array]:
        """Actions -> targets (N, A, 3), quaternions (N, A, 4) in the base frame; updates the grip."""
        command = np.clip(actions, -1, 1).reshape(self.num_envs, self.task.arms, ARM_ACTION_DIM)
        position, quat = command[..., :3], rotations.rot6d_to_quat_wxyz(command[..., 3:9])
        if self.action_mode == "delta":
            rotvec = rotations.quat_wxyz_to_rotvec(quat)
            angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
            rotvec = rotvec * np.minimum(1, DELTA_ROTATION_RAD / np.maximum(angle, 1e-9))
            position = self.simulator.ee_pos + np.clip(position, -DELTA_POSITION_M, DELTA_POSITION_M)
            quat = rotations.quat_multiply(self.simulator.ee_quat, rotations.rotvec_to_quat_wxyz(rotvec))
        grip = command[worlds, :, 9]
        self._close[worlds] = np.where(np.abs(grip) > GRIPPER_HYSTERESIS, grip > 0, self._close[worlds])
        return position, quat

    def _check_goals(self, worlds: NDArray[np.intp]) -> Bools:
        """Update the latches of the stepped worlds; (N, G) true where a goal is met for the first time."""
        newly = np.zeros_like(self._assembled)
        poses = self._joined_poses()
        known: dict[tuple[int, ...], tuple[Array, ...]] = {}  # a pair may have two goals: insert, screw
        for g, (goal, pair) in enumerate(zip(self.task.goals, self._pairs, strict=True)):
            if pair not in known:
                position, matrix = _relative_pose(*poses, *pair)
                known[pair] = position, matrix, np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
            position, matrix, heading = known[pair]
            met = pose_is_assembled(goal, position, matrix)
            if goal.twist_rad:
                turned = -np.angle(np.exp(1j * (heading - self._heading[:, g])))
                seated = met & self._assembled[:, :g].all(-1)
                self._twist[worlds, g] += np.where(seated, turned, 0.0)[worlds]
                met = seated & (self._twist[:, g] >= goal.twist_rad)
            self._heading[:, g] = heading
            self._held[worlds, g] = np.where(met, self._held[:, g] + 1, 0)[worlds]
            newly[worlds, g] = ((self._held[:, g] >= goal.hold_steps) & ~self._assembled[:, g])[worlds]
        newly[self.simulator.bad] = False
        self._assembled |= newly
        return newly

    def _check_truncation(self, terminated: Bools) -> None:
        """Write the reason of every episode that cannot go on; success and time limit exclude each other."""
        simulator = self.simulator
        lost = ((simulator.part_pos < WORKSPACE_M[0]) | (simulator.part_pos > WORKSPACE_M[1])).any((1, 2))
        for reason, found in (
            ("nan", simulator.bad),
            ("blow-up", (simulator.part_speed > MAX_SPEED).any((1, 2))),
            ("out of workspace", lost & ~terminated),
            ("time limit", (self._elapsed >= self.max_episode_steps) & ~terminated),
        ):
            self._reason[found & (self._reason == "")] = reason

    def _joined_poses(self) -> tuple[Array, Array]:
        """(N, J, 3), (N, J, 3, 3) of the parts that goals name; some rotation where a state is bad."""
        simulator = self.simulator
        quat = simulator.part_quat[:, self._joined]
        if simulator.bad.any():
            quat[simulator.bad] = [1.0, 0.0, 0.0, 0.0]
        return simulator.part_pos[:, self._joined], rotations.quat_wxyz_to_matrix(quat)

    # ---- observation

    def _observe(self, worlds: NDArray[np.intp]) -> None:
        if not len(worlds):
            return
        simulator, n = self.simulator, len(worlds)
        rows: Any = slice(None) if n == self.num_envs else worlds  # all of them: without copies
        velocity = [simulator.ee_linear[rows], simulator.ee_angular[rows]]
        if self.task.arms > 1:  # the authors' two-arm environment has MuJoCo's order, rotation first
            velocity.reverse()
        ee_rot6d = rotations.quat_wxyz_to_rot6d(simulator.ee_quat[rows])
        arm_state = [simulator.ee_pos[rows], ee_rot6d, *velocity, simulator.width[rows][..., None]]
        position, quat = self._in_part_frame(simulator.part_pos[rows], simulator.part_quat[rows])
        # of the two signs the one nearer to the part's nominal rotation, so that no episode sees it jump
        sign = np.where((quat * self._nominal_quat).sum(-1, keepdims=True) < 0, -1.0, 1.0)
        part_state = [position, rotations.wxyz_to_xyzw(sign * quat)]
        obs = [np.concatenate(state, axis=-1).reshape(n, -1) for state in (arm_state, part_state)]
        self._obs[rows] = np.clip(np.concatenate(obs, axis=-1), -OBS_LIMIT, OBS_LIMIT)

    def _in_part_frame(self, position: Array, quat: Array) -> tuple[Array, Array]:
        """World poses (..., 3), (..., 4) in the frame of the observation's part poses."""
        if self.task.arms > 1:
            return position, quat
        return (position - TAG_POSITION) @ _TO_TAG_MATRIX.T, rotations.quat_multiply(_TO_TAG, quat)

    def _info(self, success: Bools | None = None) -> dict[str, Any]:
        return {
            "success": np.zeros(self.num_envs, dtype=bool) if success is None else success.copy(),
            "assembled": self._assembled.copy(),
            "truncation_reason": self._reason.copy(),
            "elapsed_steps": self._elapsed.copy(),
            "episode": self._episode.copy(),
        }


def _relative_pose(pos: Array, matrix: Array, first: int, second: int) -> tuple[Array, Array]:
    """T_first^-1 T_second: (N, 3) m and (N, 3, 3)."""
    inverse = np.swapaxes(matrix[:, first], -1, -2)
    return np.einsum("nij,nj->ni", inverse, pos[:, second] - pos[:, first]), inverse @ matrix[:, second]


def _draw_offset(part: Part, level: Randomness, rng: np.random.Generator) -> tuple[Array, float]:
    offset = part.spread * rng.uniform(-level.part_m, level.part_m, 2)
    return offset, part.spread * rng.uniform(-level.part_rad, level.part_rad)


def _moved(part: Part, offset: Array, yaw: float) -> tuple[Array, Array]:
    position, quat = scenes.nominal_pose(part)
    turned = rotations.quat_multiply(rotations.rotvec_to_quat_wxyz([0, 0, yaw]), quat)
    return position + np.array([*offset, 0.0]), turned
