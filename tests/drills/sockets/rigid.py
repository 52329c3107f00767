"""Rigid transforms, for a room that borrows nothing from the node: 4x4, mm, `a_from_b` takes points in b to a."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def rotation(*turn_rad: float) -> Matrix:
    """(3, 3) from a rotation vector, by Rodrigues' formula."""
    turn = np.array(turn_rad, float)
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = turn / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def rigid(turned: Matrix | None = None, moved_mm: tuple[float, ...] | Matrix = (0.0, 0.0, 0.0)) -> Matrix:
    at = np.eye(4)
    at[:3, :3] = np.eye(3) if turned is None else turned
    at[:3, 3] = moved_mm
    return at


def inverse(a_from_b: Matrix) -> Matrix:
    turned = a_from_b[:3, :3].T
    return rigid(turned, -turned @ a_from_b[:3, 3])


def angle_deg(one: Matrix, other: Matrix) -> float:
    """Between two orientations; accurate for small ones, too."""
    between = one[:3, :3].T @ other[:3, :3]
    sine = np.linalg.norm([between[2, 1] - between[1, 2], between[0, 2] - between[2, 0], between[1, 0] - between[0, 1]])
    return float(np.degrees(np.arctan2(sine / 2, (np.trace(between) - 1) / 2)))


def apart_mm(one: Matrix, other: Matrix, at_mm: Matrix | tuple[float, ...] = (0.0, 0.0, 0.0)) -> float:
    """How far apart two transforms put one point."""
    point = np.append(np.asarray(at_mm, float), 1.0)
    return float(np.linalg.norm(((one - other) @ point)[:3]))
