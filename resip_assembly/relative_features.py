"""Extra inputs of the residual: where each pair is relative to its assembled pose. Ours; the paper uses none.

They are functions of the observation alone, so nothing is seen that the base policy does not see; they only
spare the small network the composition of two poses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resip_assembly import rotations
from resip_assembly.env.tasks import Task
from resip_assembly.env.vector import ARM_STATE_DIM

UNIT_M, UNIT_RAD = 0.01, 0.3  # one unit: the base's placement errors are some millimetres and degrees
FINE = 10  # the same once more in units this much smaller: the peg's play is a tenth of a millimetre


class RelativePoses:
    """For each pair that `task` wants assembled, 6 numbers: position and rotation vector of the second part
    relative to its nearest reference pose, in the first part's frame, in units of 10 mm and 0.3 rad. Then all
    of them again in units of 1 mm and 0.03 rad."""

    def __init__(self, task: Task) -> None:
        self._start = ARM_STATE_DIM * task.arms
        unique = {(goal.first, goal.second): goal for goal in reversed(task.goals)}
        self._pairs = []
        for goal in reversed(unique.values()):
            positions, rotvecs = (np.array(part) for part in zip(*goal.references, strict=True))
            indices = (task.part_index(goal.first), task.part_index(goal.second))
            self._pairs.append((*indices, positions, rotations.rotvec_to_quat_wxyz(rotvecs)))
        self.size = 2 * 6 * len(self._pairs)

    def __call__(self, obs: NDArray) -> NDArray[np.float32]:
        """Raw observations (N, D) to features (N, size); `residual_features` clips them."""
        found = []
        for first, second, positions, quats in self._pairs:
            (p1, q1), (p2, q2) = self._pose(obs, first), self._pose(obs, second)
            inverse = rotations.quat_conjugate(q1)
            relative = np.einsum("nij,nj->ni", rotations.quat_wxyz_to_matrix(inverse), p2 - p1)
            offsets = relative[:, None] - positions
            nearest = np.linalg.norm(offsets, axis=-1).argmin(-1)
            offset = offsets[np.arange(len(obs)), nearest]
            turn = rotations.quat_multiply(
                rotations.quat_multiply(inverse, q2), rotations.quat_conjugate(quats[nearest])
            )
            found += [offset / UNIT_M, rotations.quat_wxyz_to_rotvec(turn) / UNIT_RAD]
        coarse = np.concatenate(found, axis=-1)
        return np.concatenate([coarse, FINE * coarse], axis=-1).astype(np.float32)

    def _pose(self, obs: NDArray, part: int) -> tuple[NDArray, NDArray]:
        """Position (N, 3) and quaternion wxyz (N, 4) of a part."""
        at = self._start + 7 * part
        return obs[:, at : at + 3].astype(float), rotations.xyzw_to_wxyz(obs[:, at + 3 : at + 7])
