"""The hand and what carries it: a floating body, or a Franka Panda.

Both are driven alike: the target pose is a mocap body, and six actuators per hand pull the fingertip site
towards it along and about the target's axes (MuJoCo's `site`/`refsite` transmission): Cartesian impedance
control, in C, without inverse kinematics. It plays the part of the authors' differential IK and joint PD.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names live in compiled modules that pyright cannot read)
from __future__ import annotations

from pathlib import Path
from typing import Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env.parts import CONTACT_SOLREF, FIXTURE, FLOOR, GRIPPER, PART_SOLIMP
from resip_assembly.env.tasks import Randomness, Task

RobotName = Literal["floating", "panda"]
ROBOTS: tuple[RobotName, ...] = ("floating", "panda")

TCP_M = 0.1034  # fingertip centre in the hand's frame (Franka's)
POSITION_GAIN, POSITION_DAMPING, POSITION_FORCE = 1500.0, 100.0, 60.0  # N/m, N s/m, N (feasibility note §1)
ROTATION_GAIN, ROTATION_DAMPING, ROTATION_TORQUE = 100.0, 8.0, 12.0  # N m/rad, N m s/rad, N m
GRIP_GAIN, GRIP_FORCE = 1500.0, 40.0  # N/m, N: 20 N per finger
FINGER_DAMPING = 200.0  # N s/m: closes at 0.1 m/s; faster fingers eject the part (sheet §7.3)
GRIP_CLOSED_M = -0.03  # of one finger: keeps the force at its limit on a part of any width
FINGER_ARMATURE = 0.5  # kg: fingers lighter than a few times the part chatter on it and lose it
PAD_FRICTION = [1.2, 0.01, 0.0001]
WRIST_CAMERA = [0.112, 0.698, 0.698, 0.112]  # looks along the fingers, 18 degrees inwards
PANDA_START = (-0.0263, 0.3759, 0.1249, -2.1383, -0.0943, 2.4965, 0.0192 + np.pi / 4)
PANDA_XML = Path(__file__).parent / "assets" / "panda" / "panda.xml"


def add_floating_hand(spec: mujoco.MjSpec, prefix: str, arm: int) -> mujoco.MjsBody:
    """A weightless hand on a free joint, with the inertia of an arm behind it: a light hand answers a new
    target with a jerk that turns the part in its fingers."""
    hand = spec.worldbody.add_body(name=f"{prefix}hand", gravcomp=1)
    hand.add_freejoint(name=f"{prefix}hand")
    hand.mass, hand.inertia, hand.explicitinertial = 2.0, [0.05] * 3, True
    return hand


def add_panda(spec: mujoco.MjSpec, prefix: str, arm: int) -> mujoco.MjsBody:
    """A Panda at the origin, a second one facing it; the six servos act on its hand through its joints."""
    position, quat = [([0, 0, 0], [1, 0, 0, 0]), ([1.3, 0, 0], [0, 0, 0, 1])][arm]
    frame = spec.worldbody.add_frame(pos=position, quat=quat)
    spec.attach(mujoco.MjSpec.from_file(str(PANDA_XML)), prefix=prefix, frame=frame)
    return spec.body(f"{prefix}hand")


def add_fingers(spec: mujoco.MjSpec, hand: mujoco.MjsBody, prefix: str) -> None:
    """Palm, two coupled fingers with two pad spheres each, the fingertip site and the grip actuator."""
    hand.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0, 0, 0.03],
        size=[0.025, 0.08, 0.03],
        contype=GRIPPER,
        conaffinity=FLOOR | FIXTURE,
        mass=0,
        rgba=[0.9, 0.9, 0.92, 1],
    )
    hand.add_camera(name=f"{prefix}wrist", pos=[0.07, 0, 0.01], quat=WRIST_CAMERA, fovy=70)
    hand.add_site(name=f"{prefix}ee", pos=[0, 0, TCP_M], group=4)
    for side, name in ((1, "left"), (-1, "right")):
        finger = hand.add_body(name=f"{prefix}{name}_finger", pos=[0, 0, 0.0584], gravcomp=1)
        finger.add_joint(
            name=f"{prefix}{name}_finger",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, side, 0],
            range=[0, 0.04],
            limited=True,
            armature=FINGER_ARMATURE,
            damping=[FINGER_DAMPING, 0, 0],
            solref_limit=CONTACT_SOLREF,
            solimp_limit=[0.99, 0.999, 0.001, 0.5, 2],
        )
        finger.mass, finger.inertia, finger.explicitinertial = 0.05, [2e-5] * 3, True
        finger.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[0, side * 0.011, 0.025],
            size=[0.008, 0.005, 0.027],
            contype=0,
            conaffinity=0,
            rgba=[0.25, 0.25, 0.25, 1],
        )
        # the two fingers' pads on opposite diagonals: four contacts hold a part in all six directions
        for diagonal in (1, -1):
            finger.add_geom(
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                pos=[diagonal * 0.0045, side * 0.004, 0.045 + side * diagonal * 0.006],
                size=[0.004, 0, 0],
                contype=GRIPPER,
                conaffinity=FLOOR | FIXTURE,
                condim=4,
                priority=2,
                friction=PAD_FRICTION,
                solref=CONTACT_SOLREF,
                solimp=PART_SOLIMP,
                rgba=[0.1, 0.1, 0.1, 1],
            )
    spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT,
        name1=f"{prefix}left_finger",
        name2=f"{prefix}right_finger",
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        data=[0, 1] + [0] * 10,
        solref=CONTACT_SOLREF,
    )
    tendon = spec.add_tendon(name=f"{prefix}grip")
    tendon.wrap_joint(f"{prefix}left_finger", 0.5)
    tendon.wrap_joint(f"{prefix}right_finger", 0.5)
    _add_servo(
        spec,
        f"{prefix}grip",
        (GRIP_GAIN, 0.0, GRIP_FORCE),
        trntype=mujoco.mjtTrn.mjTRN_TENDON,
        target=f"{prefix}grip",
        gear=[1, 0, 0, 0, 0, 0],
    )


def add_cartesian_servo(spec: mujoco.MjSpec, prefix: str) -> None:
    """The target (a mocap body) and six actuators that pull the fingertip site onto it."""
    target = spec.worldbody.add_body(name=f"{prefix}target", mocap=True)
    target.add_site(name=f"{prefix}target", group=4)
    gains = [(POSITION_GAIN, POSITION_DAMPING, POSITION_FORCE)] * 3
    gains += [(ROTATION_GAIN, ROTATION_DAMPING, ROTATION_TORQUE)] * 3
    for axis, servo in enumerate(gains):
        _add_servo(
            spec,
            f"{prefix}servo{axis}",
            servo,
            trntype=mujoco.mjtTrn.mjTRN_SITE,
            target=f"{prefix}ee",
            refsite=f"{prefix}target",
            gear=list(np.eye(6)[axis]),
        )


def draw_hands(
    task: Task, robot: RobotName, level: Randomness, rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """Initial joint positions of every arm: (7,) free-joint pose of the hand, or (7,) joint angles."""
    hands = []
    for position, rotvec in zip(task.hand_position, task.hand_rotation, strict=True):
        if robot == "panda":
            hands.append(PANDA_START + rng.uniform(-level.hand_rad, level.hand_rad, 7))
            continue
        tip = position + rng.uniform(-level.hand_m, level.hand_m, 3)
        tilt = rotations.rotvec_to_quat_wxyz(rng.uniform(-level.hand_rad, level.hand_rad, 3))
        quat = rotations.quat_multiply(tilt, rotations.rotvec_to_quat_wxyz(rotvec))
        hands.append(np.concatenate([tip - TCP_M * rotations.quat_wxyz_to_matrix(quat)[:, 2], quat]))
    return hands


def _add_servo(
    spec: mujoco.MjSpec, name: str, servo: tuple[float, float, float], **transmission: object
) -> None:
    """force = clip(gain * (ctrl - length) - damping * velocity, +-limit)."""
    gain, damping, limit = servo
    spec.add_actuator(
        name=name,
        gaintype=mujoco.mjtGain.mjGAIN_FIXED,
        gainprm=[gain] + [0] * 9,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        biasprm=[0, -gain, -damping] + [0] * 7,
        forcelimited=True,
        forcerange=[-limit, limit],
        **transmission,
    )
