"""Scripted experts with a human's imperfections, in place of the paper's SpaceMouse demonstrations (§2.2).

A script is a generator per environment: it looks at the true poses and yields where it wants the hand. The
driver turns that into an action the way the authors' recorder does: an absolute pose at most 2.5 cm and
0.35 rad ahead of the measured one, plus slowly varying noise, at a speed drawn per episode, with pauses. So
the demonstrations are imprecise and differ from each other, and the scripts retry when a part jams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resip_assembly import rotations
from resip_assembly.env import parts
from resip_assembly.env.tasks import mug_on_arm
from resip_assembly.env.vector import ARM_ACTION_DIM, DELTA_POSITION_M, DELTA_ROTATION_RAD, AssemblyVectorEnv
from shared.seeding import derive_seed

Array = NDArray[np.float64]

NOISE_POSITION_M, NOISE_ROTATION_RAD = 0.0025, math.radians(0.7)  # stationary std, far from contact
NOISE_MEMORY = 0.8  # AR(1)
PAUSE_PROBABILITY = 0.015  # per step; a pause lasts 1-4 steps
TURN_RAD = 0.3  # per step, before the episode's speed
DOWN = np.diag([1.0, -1.0, -1.0])  # hand pointing down, its x axis forward


def up(height: float) -> Array:
    """(3,) a vector of this height, m."""
    return np.array([0.0, 0.0, height])


@dataclass
class Style:
    """Drawn once per episode: how this operator works."""

    speed: float  # times the script's step lengths
    grasp_offset: Array  # (3,) m in the part's frame
    approach_m: float  # height above a part before going down


@dataclass
class Wish:
    """Where a script wants one hand: position (3,) m, rotation (3, 3), fingers, and how carefully."""

    position: Array
    rotation: Array
    close: bool
    step_m: float = 0.025
    noise: float = 1.0


Script = Generator[list[Wish], None, None]
Pose = tuple[Array, Array]  # position (3,) m and rotation (3, 3)


class Cell:
    """One environment as its script sees it: true poses in the world frame, one hand chosen by `arm`."""

    def __init__(self, env: AssemblyVectorEnv, i: int, rng: np.random.Generator, arm: int = 0) -> None:
        self.env, self.i, self.rng, self.arm = env, i, rng, arm
        self.style = Style(
            speed=rng.uniform(0.8, 1.25),
            grasp_offset=rng.uniform(-1, 1, 3) * [0.0015, 0.0015, 0.003],
            approach_m=rng.uniform(0.03, 0.05),
        )

    @property
    def position(self) -> Array:
        return self.hand(self.arm)[0]

    @property
    def rotation(self) -> Array:
        return self.hand(self.arm)[1]

    @property
    def width(self) -> float:
        return float(self.env.simulator.width[self.i, self.arm])

    def hand(self, arm: int) -> Pose:
        """Measured position (3,) and rotation (3, 3) of a hand."""
        simulator = self.env.simulator
        quat = simulator.ee_quat[self.i, arm]
        return simulator.ee_pos[self.i, arm].copy(), rotations.quat_wxyz_to_matrix(quat)

    def stay(self, arm: int) -> Wish:
        return Wish(*self.hand(arm), close=False)

    def part(self, name: str) -> Pose:
        """Position (3,) and rotation (3, 3) of a part."""
        k = self.env.task.part_index(name)
        simulator = self.env.simulator
        return simulator.part_pos[self.i, k].copy(), rotations.quat_wxyz_to_matrix(
            simulator.part_quat[self.i, k]
        )

    def hand_for(self, name: str, position: Array, rotation: Array) -> Pose:
        """The hand pose that brings the held part `name` to a pose, given how it sits in the fingers now."""
        part_pos, part_rot = self.part(name)
        turn = rotation @ part_rot.T
        return position + turn @ (self.position - part_pos), turn @ self.rotation

    def seat_pose(self, into: str, seat: Pose, above: float) -> Pose:
        """World pose of a part `above` its seat, which is given in the frame of `into`."""
        origin, frame = self.part(into)
        return origin + frame @ (seat[0] + up(above)), frame @ seat[1]

    # ---- moves: each yields wishes until it is done

    def go(
        self,
        position: ArrayLike,
        rotation: Array,
        close: bool,
        *,
        step_m: float = 0.025,
        near_m: float = 0.006,
        noise: float = 1.0,
        limit: int = 40,
    ) -> Script:
        """Straight to a pose; done within `near_m` and 4 degrees, or after `limit` steps."""
        position = np.asarray(position, dtype=np.float64)
        for _ in range(limit):
            yield [Wish(position, rotation, close, step_m, noise)]
            if np.linalg.norm(self.position - position) < near_m and _angle(rotation, self.rotation) < 0.07:
                return

    def squeeze(self, close: bool, steps: int) -> Script:
        """Stay and close, or open, the fingers: at least `steps`, until they stand still."""
        position, rotation = self.position, self.rotation
        for step in range(12):
            width = self.width
            yield [Wish(position, rotation, close, noise=0.3)]
            if step >= steps - 1 and abs(self.width - width) < 0.0005:
                return

    def grasp(self, position: Array, rotation: Array) -> Script:
        """Above, down, close: down is along the hand's z axis."""
        above = position - self.style.approach_m * rotation[:, 2]
        yield from self.go(above, rotation, False, near_m=0.008)
        yield from self.go(position, rotation, False, step_m=0.018, near_m=0.0018, noise=0.25, limit=20)
        yield from self.squeeze(True, int(self.rng.integers(3, 6)))

    def carry(
        self,
        name: str,
        pose: Callable[[], Pose],
        near_m: float = 0.004,
        step_m: float = 0.025,
        noise: float = 1.0,
        limit: int = 40,
    ) -> Script:
        """Bring the held part to a (possibly moving) pose of the part."""
        for _ in range(limit):
            position, rotation = pose()
            yield [Wish(*self.hand_for(name, position, rotation), True, step_m, noise)]
            part_pos, part_rot = self.part(name)
            if np.linalg.norm(part_pos - position) < near_m and _angle(rotation, part_rot) < 0.05:
                return

    def insert(self, name: str, into: str, seat: Pose, height_m: float, push_m: float) -> Script:
        """Lower the held part onto `seat`, its pose in `into`'s frame; on a jam lift, shift and retry."""

        def at(height: float, shift: Array) -> Pose:
            origin, frame = self.part(into)
            return origin + frame @ (seat[0] + [*shift, height]), frame @ seat[1]

        def above_seat() -> float:
            origin, frame = self.part(into)
            return float((frame.T @ (self.part(name)[0] - origin) - seat[0])[2])

        shift = np.zeros(2)
        for attempt in range(12):
            yield from self.carry(
                name, lambda s=shift: at(height_m, s), near_m=0.0012, step_m=0.012, noise=0.3, limit=15
            )
            lowest, stuck = above_seat(), 0
            while stuck < 4:
                target = max(above_seat() - 0.008 * self.style.speed, -push_m)
                yield [Wish(*self.hand_for(name, *at(target, shift)), True, step_m=0.012, noise=0.2)]
                if above_seat() < 0.002:
                    return
                stuck = stuck + 1 if above_seat() > lowest - 0.0005 else 0
                lowest = min(lowest, above_seat())
            shift = self.rng.normal(0, 0.0004 * (1 + attempt / 3), 2)

    def let_go(self) -> Script:
        """Open the fingers, back off along the hand's axis and upwards."""
        yield from self.squeeze(False, 3)
        back = self.position - 0.06 * self.rotation[:, 2] + up(0.05)
        yield from self.go(back, self.rotation, False, near_m=0.02)

    def screw(self, name: str, into: str, seat: Pose, angle: float, push_m: float) -> Script:
        """Turn the seated part clockwise by `angle`, pressing it down."""
        turned, step = 0.0, 0.22 * self.style.speed
        for _ in range(40):
            turned = min(turned + step, angle)
            origin, frame = self.part(into)
            position = origin + frame @ (seat[0] - up(push_m))
            rotation = frame @ _matrix([0, 0, -turned]) @ seat[1]
            yield [Wish(*self.hand_for(name, position, rotation), True, step_m=0.02, noise=0.2)]
            if turned == angle and _angle(self.part(name)[1], rotation) < 0.1:
                return

    def push(self, name: str, into: str, seat: Pose, push_m: float) -> Script:
        """Keep the part on its seat, pressing down, until the episode ends."""
        while True:
            origin, frame = self.part(into)
            position = origin + frame @ (seat[0] - up(push_m))
            yield [Wish(*self.hand_for(name, position, frame @ seat[1]), True, step_m=0.008, noise=0.2)]


def peg_in_hole(cell: Cell) -> Script:
    """Grasp the standing peg across its 10 mm side, turn it to the hole, lower it."""
    while True:
        peg_pos, peg_rot = cell.part("peg")
        hand = _nearest_half_turn(_upright(peg_rot) @ DOWN, cell.rotation)
        grip = peg_pos + peg_rot @ (cell.style.grasp_offset + up(0.034))
        yield from cell.grasp(grip, hand)
        if cell.width < 0.004:  # closed on nothing
            yield from cell.go(cell.position + up(0.05), hand, False)
            continue
        yield from cell.go(
            cell.position + up(cell.rng.uniform(0.025, 0.04)), cell.rotation, True, near_m=0.012
        )
        seat = (np.zeros(3), np.eye(3))
        yield from cell.carry(
            "peg", lambda: cell.seat_pose("hole", (np.zeros(3), np.eye(3)), 0.03), near_m=0.005
        )
        yield from cell.insert("peg", "hole", seat, height_m=parts.PEG_HOLE[2] + 0.004, push_m=0.003)
        if np.linalg.norm(cell.part("peg")[0] - cell.part("hole")[0]) < 0.01:
            yield from cell.push("peg", "hole", seat, push_m=0.003)
        yield from cell.squeeze(False, 3)


def insert_lying(cell: Cell, name: str, into: str, seat: Pose, grip_z: float, over_m: float) -> Script:
    """Grasp a lying part across its axis, tip it upright over its hole, lower it."""
    while True:
        position, rotation = cell.part(name)
        yield from cell.grasp(
            position + rotation @ (cell.style.grasp_offset + up(grip_z)), _across(rotation[:, 0])
        )
        if cell.width > 0.02:
            break
        yield from cell.go(cell.position + up(0.06), cell.rotation, False)  # closed on nothing
    height = cell.rng.uniform(0.09, 0.12)
    yield from cell.go([*cell.position[:2], height], cell.rotation, True, near_m=0.015)
    yield from cell.carry(name, lambda: cell.seat_pose(into, seat, over_m), near_m=0.006)
    yield from cell.insert(name, into, seat, height_m=parts.LEG_SPIGOT_LENGTH + 0.004, push_m=0.003)


def place_on_top(
    cell: Cell, name: str, into: str, seat: Pose, grip_z: float, over_m: float, near: float
) -> Script:
    """Grasp a standing part at its knob, lift it over `into`, lower it until it sits; start again if it
    slipped."""
    while True:
        position, rotation = cell.part(name)
        hand = _nearest_half_turn(_upright(rotation) @ DOWN, DOWN)
        yield from cell.go(position + up(grip_z + 0.06), hand, False, near_m=0.02)
        yield from cell.grasp(position + rotation @ (cell.style.grasp_offset + up(grip_z)), hand)
        lift = cell.seat_pose(into, seat, over_m)[0][2] - cell.part(name)[0][2]
        yield from cell.go(cell.position + up(lift), cell.rotation, True, near_m=0.01)
        yield from cell.carry(name, lambda: cell.seat_pose(into, seat, over_m), near_m=0.006)
        yield from cell.insert(name, into, seat, height_m=near + 0.004, push_m=0.003)
        yield from cell.squeeze(False, 3)
        yield from cell.go(cell.position + up(0.06), cell.rotation, False, near_m=0.02)


def one_leg(cell: Cell) -> Script:
    """Insert the leg in the left hole near the robot; then take it again from above and turn it."""
    seat = (np.array(cell.env.task.goals[0].references[1][0]), np.eye(3))
    yield from insert_lying(cell, "leg4", "top", seat, grip_z=0.032, over_m=0.045)
    if len(cell.env.task.goals) == 1:
        yield from cell.push("leg4", "top", seat, push_m=0.003)
    while True:  # as often as it takes
        yield from cell.let_go()
        position, rotation = cell.part("leg4")
        # the hand's x axis then points to the left, from where a wrist can turn clockwise by over a quarter
        yield from cell.grasp(position + up(0.030), _across(rotation[:, 0]))
        yield from cell.screw("leg4", "top", seat, math.radians(110), push_m=0.002)


def round_table(cell: Cell) -> Script:
    """Leg into the top, foot onto the leg."""
    first, second = (np.array(goal.references[0][0]) for goal in cell.env.task.goals)
    yield from insert_lying(cell, "leg", "top", (first, np.eye(3)), grip_z=0.038, over_m=0.045)
    yield from cell.let_go()
    hub = parts.ROUND_BASE_PLATE + parts.ROUND_BASE_HUB / 2
    yield from place_on_top(
        cell, "base", "leg", (second, np.eye(3)), grip_z=hub, over_m=0.045, near=parts.ROUND_LEG_STUD
    )


def lamp(cell: Cell) -> Script:
    """Bulb into the base, hood over the bulb."""
    first, second = (np.array(goal.references[0][0]) for goal in cell.env.task.goals)
    yield from insert_lying(cell, "bulb", "base", (first, np.eye(3)), grip_z=0.055, over_m=0.045)
    yield from cell.let_go()
    yield from place_on_top(
        cell,
        "hood",
        "bulb",
        (second, np.eye(3)),
        grip_z=parts.HOOD_HEIGHT + 0.010,
        over_m=parts.HOOD_HEIGHT + 0.02,
        near=parts.HOOD_SOCKET,
    )


def mug_rack(cell: Cell) -> Script:
    """Take the mug from above, thread its handle on the arm from the arm's end, let it down."""
    along = cell.rng.uniform(0.038, 0.052)
    stations = [(parts.RACK_ARM_LENGTH + 0.035, 0.016), (along, 0.016), (along, -0.004)]  # m along, above
    while True:
        position, rotation = cell.part("mug")
        hand = _upright(rotation) @ DOWN
        grip = position + rotation @ (cell.style.grasp_offset + up(0.022))
        yield from cell.grasp(grip, hand)
        yield from cell.go(cell.position + up(0.14), cell.rotation, True, near_m=0.02)
        for k, (along_m, above_m) in enumerate(stations):
            seat = (np.array(mug_on_arm(along_m, above_m)), np.eye(3))
            threading = k > 0
            yield from cell.carry(
                "mug",
                lambda seat=seat: cell.seat_pose("rack", seat, 0.0),
                near_m=0.002 if threading else 0.006,
                step_m=0.012 if threading else 0.025,
                noise=0.4 if threading else 1.0,
                limit=20,
            )
        yield from cell.squeeze(False, 3)
        yield from cell.go(cell.position + up(0.06), cell.rotation, False, near_m=0.02)


def bimanual(cell: Cell) -> Script:
    """The second hand holds still; the first aligns the peg before the hole and pushes it in."""
    waiting = cell.hand(1)
    depth = cell.rng.uniform(0.012, 0.02)

    def wishes(before: float, step_m: float, noise: float) -> list[Wish]:
        position, rotation = cell.part("hole")
        target = cell.hand_for("peg", position + rotation @ up(before), rotation)
        return [Wish(*target, False, step_m, noise), Wish(*waiting, False, noise=0.2)]

    def error(before: float) -> tuple[float, float]:
        (hole_pos, hole_rot), (peg_pos, peg_rot) = cell.part("hole"), cell.part("peg")
        offset = hole_rot.T @ (peg_pos - hole_pos) - up(before)
        return float(np.linalg.norm(offset)), _angle(hole_rot, peg_rot)

    while True:
        for _ in range(30):
            yield wishes(depth, 0.025, 1.0 if error(depth)[0] > 0.02 else 0.15)
            if error(depth)[0] < 0.0012 and error(depth)[1] < 0.02:
                break
        before = depth
        for _ in range(25):
            before = max(before - 0.004 * cell.style.speed, -0.001)
            yield wishes(before, 0.012, 0.1)


SCRIPTS: dict[str, Callable[[Cell], Script]] = {
    "peg_in_hole": peg_in_hole,
    "one_leg": one_leg,
    "one_leg_insert": one_leg,
    "round_table": round_table,
    "lamp": lamp,
    "mug_rack": mug_rack,
    "bimanual": bimanual,
}


class Expert:
    """One operator for one environment and one episode: follows the task's script, imperfectly."""

    def __init__(self, script: Callable[[Cell], Script], rng: np.random.Generator) -> None:
        self._script, self._rng, self._pause = script, rng, 0

    def begin(self, env: AssemblyVectorEnv, i: int) -> None:
        """Watch environment i of `env`, which has just been reset."""
        self._cell = Cell(env, i, self._rng)
        self._wishes = self._script(self._cell)
        self._noise = np.zeros((env.task.arms, 6))
        self._last = np.stack([self._action(arm, self._cell.stay(arm)) for arm in range(env.task.arms)])

    def act(self) -> Array:
        """(A, 10) action: one entry per hand."""
        if self._pause == 0 and self._rng.random() < PAUSE_PROBABILITY:
            self._pause = int(self._rng.integers(1, 5))
        if self._pause:
            self._pause -= 1
            return self._last
        fresh = self._rng.normal(size=self._noise.shape)
        self._noise = NOISE_MEMORY * self._noise + math.sqrt(1 - NOISE_MEMORY**2) * fresh
        self._last = np.stack([self._action(arm, wish) for arm, wish in enumerate(next(self._wishes))])
        return self._last

    def _action(self, arm: int, wish: Wish) -> Array:
        """Measured pose, plus a step towards the wish, plus noise, clipped as the authors' recorder does."""
        position, rotation = self._cell.hand(arm)
        step = _shortened(wish.position - position, wish.step_m * self._cell.style.speed)
        turn = _shortened(_rotvec(wish.rotation @ rotation.T), TURN_RAD * self._cell.style.speed)
        step = step + wish.noise * NOISE_POSITION_M * self._noise[arm, :3]
        turn = turn + wish.noise * NOISE_ROTATION_RAD * self._noise[arm, 3:]
        target = _matrix(_shortened(turn, DELTA_ROTATION_RAD)) @ rotation
        position = position + np.clip(step, -DELTA_POSITION_M, DELTA_POSITION_M)
        return np.concatenate([position, target[:2].ravel(), [1.0 if wish.close else -1.0]])


def make_expert(task: str, rng: np.random.Generator) -> Expert:
    """The operator of `task`; call `begin(env, i)` at the episode's start, then `act()` every step."""
    if task not in SCRIPTS:
        raise ValueError(f"no expert for task {task!r}; there are {', '.join(SCRIPTS)}")
    return Expert(SCRIPTS[task], rng)


class ScriptedExpert:
    """One `Expert` per environment of a vector environment, a new one in every episode.

    Actions are a function of (seed, environment, episode) and of what the environments do; they are in the
    action space of the environment, absolute or delta.
    """

    def __init__(self, env: AssemblyVectorEnv, seed: int) -> None:
        self.env, self.seed = env, seed
        self._experts: dict[int, Expert] = {}
        self._episode = np.full(env.num_envs, -1, dtype=np.int64)

    def reset(self, mask: NDArray[np.bool_] | None = None) -> None:
        """Start the chosen environments' scripts again; a new episode does it by itself."""
        self._episode[slice(None) if mask is None else np.asarray(mask, dtype=bool)] = -1

    def act(self, obs: ArrayLike, info: dict) -> NDArray[np.float32]:
        """(N, 10 A) actions. Neither argument is read: the scripts see the true poses."""
        actions = np.empty((self.env.num_envs, ARM_ACTION_DIM * self.env.task.arms), dtype=np.float32)
        for i, episode in enumerate(self.env.episode):
            if self._episode[i] != episode:
                parts_ = (self.seed, self.env.task.name, i, int(episode))
                rng = np.random.default_rng(derive_seed("resip_assembly.expert", *parts_))
                self._experts[i] = make_expert(self.env.task.name, rng)
                self._experts[i].begin(self.env, i)
                self._episode[i] = episode
            actions[i] = self._experts[i].act().ravel()
        if self.env.action_mode == "delta":
            return to_delta(actions, self.env.simulator.ee_pos, self.env.simulator.ee_quat)
        return actions


def to_delta(actions: NDArray[np.float32], position: ArrayLike, quat: ArrayLike) -> NDArray[np.float32]:
    """Absolute targets (N, 10 A) as deltas from hand poses (N, A, 3) m, (N, A, 4) wxyz: position added,
    rotation in the hand's frame, as the environment's delta mode reads them."""
    target = actions.reshape(len(actions), -1, ARM_ACTION_DIM).copy()
    wanted = rotations.rot6d_to_quat_wxyz(target[..., 3:9])
    turn = rotations.quat_multiply(rotations.quat_conjugate(quat), wanted)
    target[..., :3] -= np.asarray(position)
    target[..., 3:9] = rotations.quat_wxyz_to_rot6d(turn)
    return target.reshape(actions.shape).astype(np.float32)


def _matrix(rotvec: ArrayLike) -> Array:
    return rotations.quat_wxyz_to_matrix(rotations.rotvec_to_quat_wxyz(rotvec))


def _rotvec(matrix: Array) -> Array:
    return rotations.quat_wxyz_to_rotvec(rotations.matrix_to_quat_wxyz(matrix))


def _angle(a: Array, b: Array) -> float:
    return float(np.linalg.norm(_rotvec(a @ b.T)))


def _shortened(vector: Array, longest: float) -> Array:
    return vector * min(1.0, longest / max(float(np.linalg.norm(vector)), 1e-12))


def _across(axis: Array) -> Array:
    """The hand pointing down that closes along the horizontal part of `axis`."""
    y = np.array([axis[0], axis[1], 0.0]) / np.hypot(axis[0], axis[1])
    z = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(y, z), y, z], axis=-1)


def _upright(rotation: Array) -> Array:
    """The turn about the world's z axis that is nearest to a standing part's rotation."""
    return _matrix([0, 0, math.atan2(rotation[1, 0], rotation[0, 0])])


def _nearest_half_turn(rotation: Array, current: Array) -> Array:
    """Fingers are alike: of the two equivalent hand rotations the one closer to `current`."""
    other = rotation @ np.diag([-1.0, -1.0, 1.0])
    return min((rotation, other), key=lambda r: _angle(r, current))
