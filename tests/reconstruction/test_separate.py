"""Bones that touch are told apart; a slim one, or one with a waist, is not cut."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from navnode.reconstruction.reader import BONE_KINDS
from navnode.reconstruction.separate import separated, single_bones
from navnode.reconstruction.surface import likely_surface
from navnode.types import Grid, Volume

FEMUR, TIBIA, FIBULA, PATELLA, OTHER = (
    BONE_KINDS.index(name) for name in ("femur", "tibia", "fibula", "patella", "other")
)
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


def test_bones_of_known_kinds_are_cut_where_the_kind_changes() -> None:
    """A wide bridge joins them, and a few voxels are of a wrong kind."""
    body = knee(20.0)
    kinds = np.where(Z > 1, FEMUR, TIBIA).astype(np.uint8)
    kinds[(np.hypot(X, Y) < 5) & (np.abs(Z - 40) < 5)] = FIBULA
    found = single_bones(volume(body), 0.5, kinds)
    assert sorted(bone.name for bone in found) == ["femur", "tibia"]
    for bone in found:
        surface = likely_surface(bone, 0.5)
        assert surface is not None
        z_mm = surface.mesh.vertices_mm[:, 2]
        assert (z_mm.min() > -4) if bone.name == "femur" else (z_mm.max() < 6)


def test_a_bone_of_one_kind_is_not_cut_and_others_are() -> None:
    """A shaft with a thin waist is one femur; of unknown kind, its ends are two bones."""
    body = knee(4.0)
    for kind, count in ((FEMUR, 1), (OTHER, 2)):
        assert separated(volume(body), 0.5, np.full(body.shape, kind, np.uint8))[1] == count


def test_a_small_bone_apart_keeps_its_name() -> None:
    patella, femur = np.hypot(np.hypot(X, Y - 60), Z) < 8, (np.hypot(X, Y) < 14) & (np.abs(Z) < 70)
    kinds = np.where(Y > 40, PATELLA, FEMUR).astype(np.uint8)
    assert [bone.name for bone in single_bones(volume(patella | femur), 0.5, kinds)] == ["femur", "patella"]


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
