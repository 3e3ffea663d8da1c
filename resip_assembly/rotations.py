"""Rotations for the simulator: numpy, float64, batched over leading axes (`...`).

Quaternions are wxyz (MuJoCo's order) unless a name says xyzw (the observation's order, authors' code). A 6-D
rotation is the **first two rows** of the rotation matrix, as in pytorch3d, which the authors use.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_TINY = 1e-9  # below this length a direction carries no information

# A rotation matrix from the 16 products q_i q_j of a quaternion's components, 4 i + j being their index:
# element k is 2 (FIRST[k] + SIGN[k] SECOND[k]), and one minus that on the diagonal.
_TO_MATRIX_FIRST = np.array([10, 6, 7, 6, 5, 11, 7, 11, 5])
_TO_MATRIX_SECOND = np.array([15, 3, 2, 3, 15, 1, 2, 1, 10])
_TO_MATRIX_SIGN = np.array([1.0, -1, 1, 1, 1, -1, -1, 1, 1])
# And 4 q_i q_j from the 9 elements of the matrix: FIRST + SIGN SECOND, but for i = j.
_TO_QUAT_FIRST = np.array([0, 7, 2, 3, 7, 0, 1, 2, 2, 1, 0, 5, 3, 2, 5, 0])
_TO_QUAT_SECOND = np.array([0, 5, 6, 1, 5, 0, 3, 6, 6, 3, 0, 7, 1, 6, 7, 0])
_TO_QUAT_SIGN = np.array([0.0, -1, -1, -1, -1, 0, 1, 1, -1, 1, 0, 1, -1, 1, 1, 0])
_XYZW, _WXYZ = np.array([1, 2, 3, 0]), np.array([3, 0, 1, 2])
_NEXT, _LAST = np.array([1, 2, 0]), np.array([2, 0, 1])  # the other two axes, in cyclic order


def quat_wxyz_to_matrix(quat: ArrayLike) -> Array:
    """(..., 4) quaternions of any non-zero length -> (..., 3, 3); ValueError for another last axis."""
    q = _normalised(_last_axis(quat, 4, "quaternion"))
    products = (q[..., :, None] * q[..., None, :]).reshape(*q.shape[:-1], 16)
    matrix = 2 * (products[..., _TO_MATRIX_FIRST] + _TO_MATRIX_SIGN * products[..., _TO_MATRIX_SECOND])
    matrix[..., ::4] = 1 - matrix[..., ::4]
    return matrix.reshape(*q.shape[:-1], 3, 3)


def matrix_to_quat_wxyz(matrix: ArrayLike) -> Array:
    """(..., 3, 3) rotations -> (..., 4) with w >= 0: the largest of the four components is divided by."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape[-2:] != (3, 3):
        raise ValueError(f"shape {m.shape} of a rotation matrix must end in (3, 3)")
    elements = m.reshape(-1, 9)
    diagonal = elements[:, ::4]
    trace = diagonal[:, :1] + diagonal[:, 1:2] + diagonal[:, 2:]
    # row k holds 4 q_k q for component k of q: four scaled copies of the same quaternion
    copies = elements[:, _TO_QUAT_FIRST] + _TO_QUAT_SIGN * elements[:, _TO_QUAT_SECOND]
    copies[:, :1] = 1 + trace
    copies[:, 5::5] = 1 - trace + 2 * diagonal
    best = np.argmax(copies[:, ::5], axis=-1)
    quat = copies.reshape(-1, 4, 4)[np.arange(len(copies)), best]
    quat = _normalised(quat).reshape(*m.shape[:-2], 4)
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
    b1 = _direction(x[..., :3], lambda: np.broadcast_to([1.0, 0.0, 0.0], x[..., :3].shape))

    def across() -> Array:
        least = np.eye(3)[np.argmin(np.abs(b1), axis=-1)]  # the axis furthest from b1
        return _direction(least - (least * b1).sum(-1, keepdims=True) * b1, lambda: least)

    b2 = _direction(x[..., 3:] - (x[..., 3:] * b1).sum(-1, keepdims=True) * b1, across)
    return np.stack([b1, b2, _cross(b1, b2)], axis=-2)


def rot6d_to_quat_wxyz(rot6d: ArrayLike) -> Array:
    """(..., 6) -> (..., 4) with w >= 0; inverse of `quat_wxyz_to_rot6d` up to the quaternion's sign."""
    return matrix_to_quat_wxyz(rot6d_to_matrix(rot6d))


def quat_multiply(left: ArrayLike, right: ArrayLike) -> Array:
    """Hamilton product of (..., 4) wxyz quaternions: first `right`, then `left`."""
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True)
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + _cross(a[..., 1:], b[..., 1:])
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
    return np.asarray(quat, dtype=np.float64)[..., _XYZW]


def xyzw_to_wxyz(quat: ArrayLike) -> Array:
    """(..., 4): MuJoCo's order."""
    return np.asarray(quat, dtype=np.float64)[..., _WXYZ]


def _last_axis(value: ArrayLike, size: int, name: str) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.shape[-1:] != (size,):
        raise ValueError(f"shape {array.shape} of a {name} must end in {size}")
    return array


def _normalised(quat: Array) -> Array:
    length = _length(quat)
    if (length < _TINY).any():
        raise ValueError("a quaternion of length 0 is no rotation; use (1, 0, 0, 0) for none")
    return quat / length


def _direction(vector: Array, fallback: Callable[[], Array]) -> Array:
    length = _length(vector)
    short = length < _TINY
    if not short.any():
        return vector / length
    return np.where(short, fallback(), vector / np.maximum(length, _TINY))


# numpy's own `linalg.norm` and `cross` check their arguments for longer than they compute


def _length(vector: Array) -> Array:
    """(..., 1)."""
    return np.sqrt(np.add.reduce(vector * vector, axis=-1, keepdims=True))


def _cross(a: Array, b: Array) -> Array:
    return a[..., _NEXT] * b[..., _LAST] - a[..., _LAST] * b[..., _NEXT]
