"""Rotations for the simulator: numpy, float64, batched over leading axes (`...`).

Quaternions are wxyz (MuJoCo's order) unless a name says xyzw (the observation's order, authors' code). A 6-D
rotation is the **first two rows** of the rotation matrix, as in pytorch3d, which the authors use.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_TINY = 1e-9  # below this length a direction carries no information


def quat_wxyz_to_matrix(quat: ArrayLike) -> Array:
    """(..., 4) quaternions of any non-zero length -> (..., 3, 3); ValueError for another last axis."""
    w, x, y, z = np.moveaxis(_normalised(_last_axis(quat, 4, "quaternion")), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quat_wxyz(matrix: ArrayLike) -> Array:
    """(..., 3, 3) rotations -> (..., 4) with w >= 0: the largest of the four components is divided by."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape[-2:] != (3, 3):
        raise ValueError(f"shape {m.shape} of a rotation matrix must end in (3, 3)")
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    # row k holds 4 q_k q for component k of q: four scaled copies of the same quaternion
    copies = np.empty((*m.shape[:-2], 4, 4))
    copies[..., 0, 0] = 1 + trace
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        copies[..., 0, k + 1] = copies[..., k + 1, 0] = m[..., j, i] - m[..., i, j]
        copies[..., k + 1, k + 1] = 1 - trace + 2 * m[..., k, k]
        copies[..., i + 1, j + 1] = copies[..., j + 1, i + 1] = m[..., i, j] + m[..., j, i]
    best = np.argmax(np.diagonal(copies, axis1=-2, axis2=-1), axis=-1)[..., None, None]
    quat = _normalised(np.take_along_axis(copies, best, axis=-2)[..., 0, :])
    return np.where(quat[..., :1] < 0, -quat, quat)


def quat_wxyz_to_rot6d(quat: ArrayLike) -> Array:
    """(..., 4) -> (..., 6): rows one and two of the rotation matrix, each of length one."""
    matrix = quat_wxyz_to_matrix(quat)
    return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)


def rot6d_to_matrix(rot6d: ArrayLike) -> Array:
    """(..., 6) -> (..., 3, 3) by Gram-Schmidt: b1 = x1/|x1|, b2 = the rest of x2, b3 = b1 x b2.

    A row without a direction (length 0, or x2 parallel to x1) is replaced by a coordinate axis, so that any
    finite input gives a rotation.
    """
    x = _last_axis(rot6d, 6, "6-D rotation")
    b1 = _direction(x[..., :3], fallback=np.broadcast_to([1.0, 0.0, 0.0], x[..., :3].shape))
    least = np.eye(3)[np.argmin(np.abs(b1), axis=-1)]  # the axis furthest from b1
    fallback = _direction(least - (least * b1).sum(-1, keepdims=True) * b1, fallback=least)
    b2 = _direction(x[..., 3:] - (x[..., 3:] * b1).sum(-1, keepdims=True) * b1, fallback=fallback)
    return np.stack([b1, b2, np.cross(b1, b2)], axis=-2)


def rot6d_to_quat_wxyz(rot6d: ArrayLike) -> Array:
    """(..., 6) -> (..., 4) with w >= 0; inverse of `quat_wxyz_to_rot6d` up to the quaternion's sign."""
    return matrix_to_quat_wxyz(rot6d_to_matrix(rot6d))


def quat_multiply(left: ArrayLike, right: ArrayLike) -> Array:
    """Hamilton product of (..., 4) wxyz quaternions: first `right`, then `left`."""
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate([w, v], axis=-1)


def quat_conjugate(quat: ArrayLike) -> Array:
    """(..., 4) -> (..., 4): the inverse of a unit quaternion."""
    return np.asarray(quat, dtype=np.float64) * [1.0, -1.0, -1.0, -1.0]


def rotvec_to_quat_wxyz(rotvec: ArrayLike) -> Array:
    """(..., 3) axis times angle, rad -> (..., 4)."""
    v = _last_axis(rotvec, 3, "rotation vector")
    half = np.linalg.norm(v, axis=-1, keepdims=True) / 2
    return np.concatenate([np.cos(half), np.sinc(half / np.pi) * v / 2], axis=-1)


def quat_wxyz_to_rotvec(quat: ArrayLike) -> Array:
    """(..., 4) -> (..., 3) axis times angle in [0, pi]."""
    q = _normalised(_last_axis(quat, 4, "quaternion"))
    q = np.where(q[..., :1] < 0, -q, q)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return q[..., 1:] * np.where(sine < _TINY, 2.0, angle / np.maximum(sine, _TINY))


def wxyz_to_xyzw(quat: ArrayLike) -> Array:
    """(..., 4): the order of the observation's part poses."""
    return np.roll(np.asarray(quat, dtype=np.float64), -1, axis=-1)


def xyzw_to_wxyz(quat: ArrayLike) -> Array:
    """(..., 4): MuJoCo's order."""
    return np.roll(np.asarray(quat, dtype=np.float64), 1, axis=-1)


def _last_axis(value: ArrayLike, size: int, name: str) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.shape[-1:] != (size,):
        raise ValueError(f"shape {array.shape} of a {name} must end in {size}")
    return array


def _normalised(quat: Array) -> Array:
    length = np.linalg.norm(quat, axis=-1, keepdims=True)
    if (length < _TINY).any():
        raise ValueError("a quaternion of length 0 is no rotation; use (1, 0, 0, 0) for none")
    return quat / length


def _direction(vector: Array, fallback: Array) -> Array:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.where(length < _TINY, fallback, vector / np.maximum(length, _TINY))
