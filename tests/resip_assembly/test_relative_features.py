"""The residual's relative features, against SciPy's rotations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from resip_assembly.env.tasks import TASKS
from resip_assembly.relative_features import FINE, UNIT_M, UNIT_RAD, RelativePoses


@pytest.mark.parametrize("name", list(TASKS))
def test_offset_and_rotation_from_the_nearest_reference(name: str) -> None:
    task = TASKS[name]
    features = RelativePoses(task)
    pairs = list(dict.fromkeys((goal.first, goal.second) for goal in task.goals))
    assert features.size == 12 * len(pairs)
    rng = np.random.default_rng(0)
    n, start = 5, 16 * task.arms
    obs = rng.normal(size=(n, start + 7 * len(task.parts))).astype(np.float32)
    expected = np.zeros((n, 6 * len(pairs)))
    for i, row in enumerate(obs):
        for part in range(len(task.parts)):
            row[start + 7 * part + 3 : start + 7 * part + 7] = Rotation.random(rng=rng).as_quat()
        for k, (first, second) in enumerate(pairs):
            goal = next(g for g in task.goals if (g.first, g.second) == (first, second))
            position, rotvec = goal.references[i % len(goal.references)]
            offset, turn = 0.0005 * rng.normal(size=3), Rotation.from_rotvec(0.2 * rng.normal(size=3))
            at, to = (start + 7 * task.part_index(name) for name in (first, second))
            base = Rotation.from_quat(row[at + 3 : at + 7])
            row[to : to + 3] = row[at : at + 3] + base.apply(offset + position)
            row[to + 3 : to + 7] = (base * turn * Rotation.from_rotvec(rotvec)).as_quat()
            expected[i, 6 * k : 6 * k + 6] = [*offset / UNIT_M, *turn.as_rotvec() / UNIT_RAD]
    both = np.concatenate([expected, FINE * expected], axis=1)
    np.testing.assert_allclose(features(obs), both, atol=5e-3)
