"""Rotations: rows not columns, wxyz not xyzw, against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from resip_assembly import rotations


def random_rotations(n: int = 200) -> Rotation:
    return Rotation.random(n, random_state=0)


def wxyz(rotation: Rotation) -> np.ndarray:
    return np.roll(rotation.as_quat(), 1, axis=-1)


def test_rot6d_is_the_first_two_rows() -> None:
    """A quarter turn about z has rows (0, -1, 0), (1, 0, 0); its columns would be (0, 1, 0), (-1, 0, 0)."""
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        rotations.quat_wxyz_to_rot6d([half, 0, 0, half]), [0, -1, 0, 1, 0, 0], atol=1e-15
    )


def test_matrix_agrees_with_scipy() -> None:
    r = random_rotations()
    np.testing.assert_allclose(rotations.quat_wxyz_to_matrix(wxyz(r)), r.as_matrix(), atol=1e-14)
    np.testing.assert_allclose(rotations.matrix_to_quat_wxyz(r.as_matrix()), canonical(wxyz(r)), atol=1e-14)


def canonical(quat: np.ndarray) -> np.ndarray:
    return np.where(quat[..., :1] < 0, -quat, quat)


def test_round_trip_keeps_leading_axes() -> None:
    quat = wxyz(random_rotations()).reshape(4, 50, 4)
    rot6d = rotations.quat_wxyz_to_rot6d(quat)
    assert rot6d.shape == (4, 50, 6)
    np.testing.assert_allclose(rotations.rot6d_to_quat_wxyz(rot6d), canonical(quat), atol=1e-13)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_round_trip(axis: int) -> None:
    quat = np.eye(4)[axis + 1]
    back = rotations.rot6d_to_quat_wxyz(rotations.quat_wxyz_to_rot6d(quat))
    np.testing.assert_allclose(np.abs(back), np.abs(quat), atol=1e-12)


def test_gram_schmidt_by_hand() -> None:
    """x1 = (0, 2, 0), x2 = (3, 3, 0): b1 = y, b2 = x, b3 = y x x = -z."""
    np.testing.assert_allclose(
        rotations.rot6d_to_matrix([0, 2, 0, 3, 3, 0]), [[0, 1, 0], [1, 0, 0], [0, 0, -1]], atol=1e-15
    )


@pytest.mark.parametrize("rot6d", [[0] * 6, [1, 2, 3, 2, 4, 6], [0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0]])
def test_degenerate_rot6d_is_still_a_rotation(rot6d: list[float]) -> None:
    matrix = rotations.rot6d_to_matrix(rot6d)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_multiply_conjugate_and_rotation_vector() -> None:
    a, b = random_rotations(50), Rotation.random(50, random_state=1)
    np.testing.assert_allclose(
        canonical(rotations.quat_multiply(wxyz(a), wxyz(b))), canonical(wxyz(a * b)), atol=1e-13
    )
    np.testing.assert_allclose(
        canonical(rotations.quat_conjugate(wxyz(a))), canonical(wxyz(a.inv())), atol=1e-14
    )
    np.testing.assert_allclose(rotations.quat_wxyz_to_rotvec(wxyz(a)), a.as_rotvec(), atol=1e-12)
    np.testing.assert_allclose(
        canonical(rotations.rotvec_to_quat_wxyz(a.as_rotvec())), canonical(wxyz(a)), atol=1e-13
    )
    np.testing.assert_allclose(rotations.quat_wxyz_to_rotvec(rotations.rotvec_to_quat_wxyz([0, 0, 0])), 0)


def test_xyzw_order() -> None:
    np.testing.assert_array_equal(rotations.wxyz_to_xyzw([1, 2, 3, 4]), [2, 3, 4, 1])
    np.testing.assert_array_equal(rotations.xyzw_to_wxyz([2, 3, 4, 1]), [1, 2, 3, 4])


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) of a quaternion must end in 4"):
        rotations.quat_wxyz_to_rot6d([1, 0, 0])
    with pytest.raises(ValueError, match=r"must end in 6"):
        rotations.rot6d_to_quat_wxyz(np.zeros((2, 9)))
    with pytest.raises(ValueError, match="length 0"):
        rotations.quat_wxyz_to_rot6d([0, 0, 0, 0])


def test_they_equal_the_textbook_to_the_last_bit() -> None:
    """Recorded results rest on these bits: faster ways must give the same, the sign of zero included."""
    rng = np.random.default_rng(4)
    quat = np.concatenate([rng.normal(size=(50, 4)), rng.integers(0, 2, (50, 4)) + np.eye(4)[0]])
    w, x, y, z = (quat / np.linalg.norm(quat, axis=-1, keepdims=True)).T
    expected = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    matrix = rotations.quat_wxyz_to_matrix(quat)
    assert matrix.tobytes() == expected.tobytes()

    back = rotations.matrix_to_quat_wxyz(matrix)
    for m, found in zip(matrix, back, strict=True):
        t = m[0, 0] + m[1, 1] + m[2, 2]
        copies = np.array(
            [
                [1 + t, m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
                [m[2, 1] - m[1, 2], 1 - t + 2 * m[0, 0], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2]],
                [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], 1 - t + 2 * m[1, 1], m[2, 1] + m[1, 2]],
                [m[1, 0] - m[0, 1], m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], 1 - t + 2 * m[2, 2]],
            ]
        )
        row = copies[np.argmax(np.diag(copies))]
        row = row / np.linalg.norm(row, axis=-1, keepdims=True)
        assert found.tobytes() == np.where(row[:1] < 0, -row, row).tobytes()

    left, right = quat, quat[::-1]
    product = rotations.quat_multiply(left, right)
    scalar = left[:, :1] * right[:, :1] - (left[:, 1:] * right[:, 1:]).sum(-1, keepdims=True)
    vector = left[:, :1] * right[:, 1:] + right[:, :1] * left[:, 1:] + np.cross(left[:, 1:], right[:, 1:])
    assert product.tobytes() == np.concatenate([scalar, vector], axis=-1).tobytes()
