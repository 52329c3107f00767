"""Bones that touch are told apart; a slim one, or one with a waist, is not cut."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from navnode.reconstruction.separate import separated, single_bones
from navnode.reconstruction.surface import likely_surface
from navnode.types import Grid, Volume

GRID = Grid(80, 2.0)
AXIS = (np.arange(GRID.size) - (GRID.size - 1) / 2) * GRID.spacing_mm
Z, Y, X = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")


def volume(inside: np.ndarray) -> Volume:
    return Volume(inside.astype(np.float32), GRID.volume_from_index)


def knee(bridge_mm: float) -> np.ndarray:
    """Two thick ends that face each other, joined by a bridge of a radius."""
    upper = (np.hypot(X, Y) < 14 + 10 * np.exp(-((Z - 12) ** 2) / 300)) & (Z > 4) & (Z < 70)
    lower = (np.hypot(X + 4, Y) < 14 + 10 * np.exp(-((Z + 12) ** 2) / 300)) & (Z < -2) & (Z > -70)
    return upper | lower | ((np.hypot(X - 8, Y) < bridge_mm) & (np.abs(Z) < 10))


@pytest.mark.parametrize("bridge_mm", [0.0, 4.0, 7.0])
def test_ends_joined_by_a_thin_bridge_are_two_bones(bridge_mm: float) -> None:
    bones = single_bones(volume(knee(bridge_mm)), 0.5)
    assert len(bones) == 2
    spans = []
    for bone in bones:
        surface = likely_surface(bone, 0.5)
        assert surface is not None
        mesh = trimesh.Trimesh(surface.mesh.vertices_mm, surface.mesh.triangles, process=False)
        assert mesh.is_watertight and mesh.is_winding_consistent
        spans.append((float(surface.mesh.vertices_mm[:, 2].min()), float(surface.mesh.vertices_mm[:, 2].max())))
    (low, _), (_, high) = sorted(spans)
    assert low == pytest.approx(-70, abs=3) and high == pytest.approx(70, abs=3)
    assert sorted(spans)[0][1] < sorted(spans)[1][0] + 8


def test_a_slim_bone_with_a_waist_is_one() -> None:
    slim = np.hypot(X, Y) < 6.5 - 1.5 * np.exp(-(Z**2) / 200)
    _, count = separated(volume(slim & (np.abs(Z) < 70)), 0.5)
    assert count == 1


def test_a_shaft_and_its_wide_end_are_one() -> None:
    femur = (np.hypot(X, Y) < 13) & (np.abs(Z) < 70) | (X**2 + Y**2 + (Z - 45) ** 2 < 26**2)
    assert separated(volume(femur), 0.5)[1] == 1


def test_bones_apart_are_numbered_whole_and_keep_their_places() -> None:
    small, large = X**2 + Y**2 + (Z - 50) ** 2 < 12**2, X**2 + Y**2 + (Z + 30) ** 2 < 25**2
    numbers, count = separated(volume(small | large), 0.5)
    assert count == 2
    for ball in (small, large):
        (number,) = np.unique(numbers[ball])
        assert number > 0 and (numbers == number).sum() == ball.sum()
    first, second = single_bones(volume(small | large), 0.5)
    for bone, ball, at_mm in ((first, large, -30.0), (second, small, 50.0)):
        index = np.argwhere(bone.voxels > 0.5)[:, ::-1]
        places = index @ bone.volume_from_index[:3, :3].T + bone.volume_from_index[:3, 3]
        assert len(index) == ball.sum() and np.allclose(places.mean(axis=0), (0, 0, at_mm), atol=0.5)


def test_nothing_is_no_bone() -> None:
    assert separated(volume(X > 1e9), 0.5)[1] == 0 and single_bones(volume(X > 1e9), 0.5) == []
