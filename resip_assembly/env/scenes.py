"""From a task and a robot to one compiled MuJoCo model, and the indices the simulator reads and writes."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env import robots
from resip_assembly.env.parts import CONTACT_SOLREF, FIXTURE, FLOOR, PART_FRICTION, PART_SOLIMP
from resip_assembly.env.tasks import Part, Task, task_named

TIMESTEP_S = 0.005  # 10 ms loses the grasp (feasibility note §1)
CONTROL_STEP_S = 0.1  # 10 Hz, sheet §2.1
SUBSTEPS = 20
ARENA_BYTES = 1 << 20  # per world: 256 worlds stay far below 1 GB

# Cameras of films: at this distance, in this direction, from so far (m) above the assembly place. "detail" is
# for parts of a few centimetres; it looks in under the hand.
FILM_CAMERAS = {"close": (0.35, (0.7, -0.45, 0.5), 0.0), "detail": (0.16, (0.7, -0.45, 0.38), 0.013)}
SPARE_LIGHTS = ([0.2, 0.5, 1.2], [0.2, -0.5, 1.2], [1.0, 0.5, 1.2], [1.0, -0.5, 1.2], [1.2, 0.0, 0.8])

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Scene:
    """A compiled model and where things are in it; A arms, P parts."""

    task: Task
    robot: robots.RobotName
    model: mujoco.MjModel
    hand_qpos: tuple[slice, ...]  # per arm: free joint (7) or the Panda's joints (7)
    ee_site: tuple[int, ...]
    target_mocap: Indices  # (A,)
    finger_qpos: Indices  # (A, 2)
    grip_actuator: Indices  # (A,)
    part_body: Indices  # (P,)
    part_mocap: Indices  # (P,), -1 for none
    part_qpos: Indices  # (P,), first of 7, -1 for none
    free_dof: Indices  # (free parts, 6)


@cache
def build_scene(task_name: str, robot: robots.RobotName = "floating") -> Scene:
    """Compile once per process: all worlds of a task share the model."""
    task = task_named(task_name)
    if robot not in robots.ROBOTS:
        raise ValueError(f"unknown robot {robot!r}; there are {', '.join(robots.ROBOTS)}")
    spec = mujoco.MjSpec()
    spec.modelname = f"{task.name}-{robot}"
    spec.memory = ARENA_BYTES
    _set_options(spec)
    _add_world(spec, task)
    prefixes = [f"arm{k}_" for k in range(task.arms)]
    add_arm = robots.add_panda if robot == "panda" else robots.add_floating_hand
    for k, prefix in enumerate(prefixes):
        robots.add_fingers(spec, add_arm(spec, prefix, k), prefix)
        robots.add_cartesian_servo(spec, prefix)
    for k, part in enumerate(task.parts):
        _add_part(spec, part, k)
    return _indexed(task, robot, spec.compile(), prefixes)


def _set_options(spec: mujoco.MjSpec) -> None:
    """The settings that hold a grasp (feasibility note §1): fewer than about 20 line-search iterations with
    elliptic cones shoot the part out of the fingers at metres per second."""
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 3
    option.iterations = 50
    option.ls_iterations = 50
    # a bad state is reported and ends the episode; by default MuJoCo resets the world behind our back
    option.disableflags = mujoco.mjtDisableBit.mjDSBL_AUTORESET


def looking(direction: list[float], right: list[float]) -> NDArray[np.float64]:
    """Quaternion of a camera that looks along `direction` with `right` on its right (both of any length)."""
    z = -np.array(direction) / np.linalg.norm(direction)
    x = np.array(right) / np.linalg.norm(right)
    return rotations.matrix_to_quat_wxyz(np.stack([x, np.cross(z, x), z], axis=-1))


def assembly_place(task: Task) -> NDArray[np.float64]:
    """(3,) m: where the first pair comes together, before any random offset."""
    goal = task.goals[0]
    part = task.parts[task.part_index(goal.first)]
    if part.kind == "held":  # the hands meet
        return np.mean(task.hand_position, axis=0)
    return np.array(part.position) + np.mean([position for position, _ in goal.references], axis=0)


def _add_world(spec: mujoco.MjSpec, task: Task) -> None:
    spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[1, 1, 0.1],
        pos=[0.4, 0, 0],
        contype=FLOOR,
        conaffinity=0,
        friction=PART_FRICTION,
        solref=CONTACT_SOLREF,
        solimp=PART_SOLIMP,
        rgba=[0.45, 0.45, 0.47, 1],
    )
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.35] * 3, [0.35] * 3
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0.6, 0.4, 1.2],
        dir=[-0.2, -0.3, -1],
        diffuse=[0.5] * 3,
    )
    for place in SPARE_LIGHTS:  # off; visual domain randomisation switches them on
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=place,
            dir=[0.5 - place[0], -place[1], -place[2]],
            active=False,
        )
    spec.worldbody.add_camera(
        name="front", pos=[1.05, 0, 0.55], quat=looking([-0.6, 0, -0.5], [0, 1, 0]), fovy=45
    )
    for name, (distance, view, above) in FILM_CAMERAS.items():
        backwards = np.array(view) / np.linalg.norm(view)
        spec.worldbody.add_camera(
            name=name,
            pos=assembly_place(task) + [0, 0, above] + distance * backwards,
            quat=looking(list(-backwards), [-backwards[1], backwards[0], 0]),
            fovy=35,
        )


def _add_part(spec: mujoco.MjSpec, part: Part, arm: int) -> None:
    if part.kind == "held":
        position, quat = nominal_pose(part)
        body = spec.body(f"arm{arm}_hand").add_body(
            name=part.name, pos=position + np.array([0, 0, robots.TCP_M]), quat=quat, gravcomp=1
        )
    else:
        body = spec.worldbody.add_body(name=part.name, mocap=part.kind == "fixture")
    part.geometry(body)
    if part.kind == "free":
        body.add_freejoint(name=part.name)
    elif part.kind == "fixture":
        for geom in body.geoms:  # a free part's geometry used as a fixture collides like one
            geom.contype, geom.conaffinity = FIXTURE, 0


def _indexed(task: Task, robot: robots.RobotName, model: mujoco.MjModel, prefixes: list[str]) -> Scene:
    def hand_qpos(prefix: str) -> slice:
        start = model.joint(f"{prefix}joint1" if robot == "panda" else f"{prefix}hand").qposadr[0]
        return slice(start, start + 7)

    def finger(prefix: str, side: str) -> int:
        return model.joint(f"{prefix}{side}_finger").qposadr[0]

    bodies = [model.body(part.name).id for part in task.parts]
    free = [model.joint(p.name) if p.kind == "free" else None for p in task.parts]
    return Scene(
        task=task,
        robot=robot,
        model=model,
        hand_qpos=tuple(hand_qpos(p) for p in prefixes),
        ee_site=tuple(model.site(f"{p}ee").id for p in prefixes),
        target_mocap=np.array([model.body(f"{p}target").mocapid[0] for p in prefixes]),
        finger_qpos=np.array([[finger(p, "left"), finger(p, "right")] for p in prefixes]),
        grip_actuator=np.array([model.actuator(f"{p}grip").id for p in prefixes]),
        part_body=np.array(bodies),
        part_mocap=np.array([model.body_mocapid[b] for b in bodies]),
        part_qpos=np.array([-1 if joint is None else joint.qposadr[0] for joint in free]),
        free_dof=np.array([np.arange(6) + j.dofadr[0] for j in free if j is not None], np.intp).reshape(
            -1, 6
        ),
    )


def nominal_pose(part: Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Position (3,) m and quaternion wxyz (4,) before any random offset."""
    return np.array(part.position), rotations.rotvec_to_quat_wxyz(part.rotation)
