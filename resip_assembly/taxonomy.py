"""Where a failed episode was lost, read off its last observation: the phases that the paper's videos show.

| phase                 | the part that was to be assembled, at the end of the episode |
| --------------------- | ------------------------------------------------------------ |
| never grasped         | rests where and as it lay at the start                       |
| dropped               | has moved or toppled, and is not between the fingers         |
| held, not inserted    | is between the fingers                                       |
| inserted, not screwed | is assembled, the next pair (of one_leg: the turn) is not    |
| simulator             | no state to judge: NaN, blow-up                              |
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env import scenes
from resip_assembly.env.tasks import Randomness, Task
from resip_assembly.env.vector import ARM_STATE_DIM, FAILURES, TAG_POSITION, TAG_QUAT
from resip_assembly.evaluation import Evaluation

SUCCESS = "success"
PHASES = ("never grasped", "dropped", "held, not inserted", "inserted, not screwed", "simulator")
REACH_M = 0.13  # from the fingertips to the origin of a held part: the hood is taken 11 cm above its own
SHUT_M, OPEN_M = 0.004, 0.006  # fingers closer than this hold nothing; nor do those this near to their limit
MOVED_M, TILTED_RAD = 0.02, math.radians(20)  # beyond what a reset does


def phases(task: Task, randomness: str, evaluation: Evaluation) -> list[str]:
    """One word of PHASES per episode, or SUCCESS."""
    level = task.randomness[randomness]
    return [
        SUCCESS
        if success
        else "simulator"
        if reason in FAILURES
        else "inserted, not screwed"
        if reward > 0
        else _of_part(task, level, obs.astype(float))
        for success, reason, reward, obs in zip(
            evaluation.success, evaluation.reason, evaluation.reward, evaluation.final_obs, strict=True
        )
    ]


def _of_part(task: Task, level: Randomness, obs: NDArray[np.float64]) -> str:
    """Phase of the first goal's free part in one observation (D,)."""
    goal = task.goals[0]
    names = [name for name in (goal.second, goal.first) if task.parts[task.part_index(name)].kind == "free"]
    if not names:  # both are fixed to hands
        return "held, not inserted"
    index = task.part_index(names[0])
    part, start = task.parts[index], ARM_STATE_DIM * task.arms + 7 * index
    turn = rotations.quat_wxyz_to_matrix(TAG_QUAT)
    position = TAG_POSITION + turn @ obs[start : start + 3]
    quat = rotations.quat_multiply(TAG_QUAT, rotations.xyzw_to_wxyz(obs[start + 3 : start + 7]))
    hand, width = obs[:3], obs[ARM_STATE_DIM - 1]
    between = SHUT_M < width < task.max_gripper_width - OPEN_M
    if between and np.linalg.norm(hand - position) < REACH_M:
        return "held, not inserted"
    nominal, upright = scenes.nominal_pose(part)
    offset = np.abs(position - nominal)
    # at a reset a part turns about the vertical only, so the height of its axes in the world stays
    heights = [rotations.quat_wxyz_to_matrix(q)[2] for q in (quat, upright)]
    tilt = math.acos(np.clip(heights[0] @ heights[1], -1, 1))
    still = (offset[:2] < level.part_m + MOVED_M).all() and offset[2] < MOVED_M and tilt < TILTED_RAD
    return "never grasped" if still else "dropped"
