"""Poses from three points and their rays, and which spot is which point."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from navnode.types import Matrix

__all__ = ["matched", "rigid_of", "three_point"]


def three_point(points: Matrix, rays: Matrix) -> tuple[Matrix, Matrix]:
    """Distances (K, 3) along three rays that span triangles congruent to some of (N, 3, 3), and their indices (K,).

    Grunert's quartic in v = s3 / s1 (Haralick et al. 1994, eq. 9), all triangles at once.
    """
    a2 = ((points[:, 1] - points[:, 2]) ** 2).sum(axis=1)
    b2 = ((points[:, 0] - points[:, 2]) ** 2).sum(axis=1)
    c2 = ((points[:, 0] - points[:, 1]) ** 2).sum(axis=1)
    area = np.linalg.norm(np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]), axis=1)
    usable = np.flatnonzero((b2 > 1e-6) & (area > 0.05 * np.maximum(np.maximum(a2, b2), c2)))
    a2, b2, c2 = a2[usable], b2[usable], c2[usable]
    ca, cb, cg = float(rays[1] @ rays[2]), float(rays[0] @ rays[2]), float(rays[0] @ rays[1])
    p, q, r = (a2 - c2) / b2, (a2 + c2) / b2, (b2 - c2) / b2
    a4 = (p - 1) ** 2 - 4 * c2 / b2 * ca**2
    a3 = 4 * (p * (1 - p) * cb - (1 - q) * ca * cg + 2 * c2 / b2 * ca**2 * cb)
    a1 = 4 * (-p * (1 + p) * cb + 2 * a2 / b2 * cg**2 * cb - (1 - q) * ca * cg)
    a0 = (1 + p) ** 2 - 4 * a2 / b2 * cg**2
    a2_ = 2 * (p**2 - 1 + 2 * p**2 * cb**2 + 2 * r * ca**2 - 4 * q * ca * cb * cg + 2 * (b2 - a2) / b2 * cg**2)
    lead = np.where(np.abs(a4) < 1e-12, 1e-12, a4)
    companion = np.zeros((len(usable), 4, 4))
    companion[:, [1, 2, 3], [0, 1, 2]] = 1.0
    companion[:, :, 3] = -np.stack([a0, a1, a2_, a3], axis=1) / lead[:, None]
    roots = np.linalg.eigvals(companion)
    real = (np.abs(roots.imag) < 1e-4 * np.maximum(np.abs(roots.real), 1.0)) & (roots.real > 0.1) & (roots.real < 10)
    row, column = np.nonzero(real)
    v = roots.real[row, column]
    p, q, a2, b2, c2 = p[row], q[row], a2[row], b2[row], c2[row]
    below = 2 * (cg - v * ca)
    u = ((p - 1) * v**2 - 2 * p * cb * v + 1 + p) / np.where(np.abs(below) < 1e-9, 1e-9, below)
    s1 = np.sqrt(np.maximum(b2, 0) / np.maximum(1 + v**2 - 2 * v * cb, 1e-12))
    s2, s3 = u * s1, v * s1
    closes = np.abs(s1**2 + s2**2 - 2 * s1 * s2 * cg - c2) < 1e-3 * np.maximum(c2, 1.0)
    closes &= (s2 > 0) & np.isfinite(s1)
    return usable[row[closes]], np.stack([s1, s2, s3], axis=1)[closes]


def rigid_of(a: Matrix, b: Matrix) -> Matrix:
    """b_from_a (K, 4, 4) between congruent triangles (K, 3, 3), rows being corners."""

    def frames(t: Matrix) -> Matrix:
        x = t[:, 1] - t[:, 0]
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        z = np.cross(x, t[:, 2] - t[:, 0])
        z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        return np.stack([x, np.cross(z, x), z], axis=2)

    rotation = frames(b) @ np.swapaxes(frames(a), 1, 2)
    pose = np.tile(np.eye(4), (len(a), 1, 1))
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = b.mean(axis=1) - np.einsum("nij,nj->ni", rotation, a.mean(axis=1))
    return pose


def matched(at_px: Matrix, expected_px: Matrix, within_px: float) -> tuple[Matrix, Matrix]:
    """One-to-one matches with the smallest sum of squared distances.

    Args:
        at_px, expected_px: (N, 2) spots and (M, 2) beads; NaN: not in the picture.

    Returns:
        (K,) indices of the spots, and of their beads.
    """
    distance = np.linalg.norm(at_px[:, None] - np.nan_to_num(expected_px, nan=1e6), axis=2)
    cost = np.minimum(distance, within_px) ** 2
    spots, beads = linear_sum_assignment(cost)
    near = distance[spots, beads] < within_px
    return spots[near], beads[near]
