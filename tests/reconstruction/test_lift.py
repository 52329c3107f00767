"""Lifting known bodies from exact thicknesses."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.projector import MU_WATER_PER_MM, Projector
from navnode.projector.grids import centered_grid
from navnode.reconstruction.lift import disagreement, lift, solid
from navnode.types import CArm, Grid, View, Volume

SIZE, SPACING_MM = 64, 3.0
GRID = centered_grid((SIZE,) * 3, SPACING_MM, np.zeros(3))
CARM = CArm(128, 128, (2.5, 2.5), 1000.0, (63.5, 63.5))


def rods(*middles_mm: tuple[float, float], radius_mm: float = 16) -> np.ndarray:
    """Cylinders along z."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = np.zeros((SIZE, SIZE), bool)
    for at_x, at_y in middles_mm:
        inside |= np.hypot(x - at_x, y - at_y) < radius_mm
    return np.repeat(inside[None], SIZE, 0)


def thicknesses(body: np.ndarray, count: int) -> list[View]:
    """Exact thicknesses of a body from ``count`` directions round z."""
    projector = Projector(Volume(body * np.float32(1000 / MU_WATER_PER_MM) - 1000, GRID))
    poses = [g.pose_at(np.zeros(3), 650.0, orbital_deg=180.0 * n / count + 10) for n in range(count)]
    return [View(projector.render(CARM, pose), CARM, pose) for pose in poses]


def dice(views: list[View], body: np.ndarray) -> float:
    lifted = solid(lift(views, Grid(SIZE, SPACING_MM)))
    middle = slice(SIZE // 4, -SIZE // 4)  # rays leave the grid at its ends
    one, other = lifted[middle], body[middle]
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_one_bone_needs_two_views() -> None:
    body = rods((8, -5))
    assert dice(thicknesses(body, 2), body) > 0.93


def test_bones_side_by_side_need_more_views() -> None:
    body = rods((-28, -20), (25, 22), radius_mm=14)
    two, four = (dice(thicknesses(body, count), body) for count in (2, 4))
    assert four > max(0.9, two)


def test_bones_of_two_kinds_leave_no_ghosts() -> None:
    one, other = rods((-28, -20), radius_mm=14), rods((25, 22), radius_mm=14)
    body, grid = one | other, Grid(SIZE, SPACING_MM)
    views, kinds = thicknesses(body, 2), [thicknesses(one, 2), thicknesses(other, 2)]
    middle = slice(SIZE // 4, -SIZE // 4)

    def found(told_apart: list[list[View]]) -> float:
        lifted, truth = solid(lift(views, grid, kinds=told_apart))[middle], body[middle]
        return float(2 * (lifted & truth).sum() / (lifted.sum() + truth.sum()))

    assert found([]) < 0.7
    assert found(kinds) > 0.9


def test_bone_of_a_kind_that_one_view_mistakes_is_not_lost() -> None:
    one, other = rods((-28, -20), radius_mm=14), rods((25, 22), radius_mm=14)
    body, grid = one | other, Grid(SIZE, SPACING_MM)
    views, (ones, others) = thicknesses(body, 2), (thicknesses(one, 2), thicknesses(other, 2))
    nothing = View(0 * views[1].line_integrals, CARM, views[1].volume_from_carm)
    mistaken = [[ones[0], views[1]], [others[0], nothing]]
    lifted = lift(views, grid, kinds=mistaken).voxels
    middle = slice(SIZE // 4, -SIZE // 4)
    assert lifted[middle][other[middle]].mean() > 0.35


def test_lifted_bone_agrees_with_its_views() -> None:
    body = rods((0, 10), (30, -20))
    views = thicknesses(body, 3)
    lifted = lift(views, Grid(SIZE, SPACING_MM))
    assert lifted.voxels.min() >= 0 and lifted.voxels.max() <= 1
    projector = Projector(Volume(lifted.voxels * np.float32(1000 / MU_WATER_PER_MM) - 1000, GRID))
    for view in views:
        assert view.volume_from_carm is not None
        bone = view.line_integrals > 1
        off = np.abs(projector.render(view.carm, view.volume_from_carm) - view.line_integrals)[bone]
        assert off.mean() < 2.5


def test_views_disagree_if_one_has_a_wrong_pose() -> None:
    body = rods((-28, -20), (25, 22), radius_mm=14)
    views, grid = thicknesses(body, 4), Grid(SIZE, SPACING_MM)
    agreeing = disagreement(views, lift(views, grid).voxels, grid)
    first = views[0]
    assert first.volume_from_carm is not None
    turned = g.exp(np.array([0, 0, np.deg2rad(25), 0, 0, 0]), np.zeros(3)) @ first.volume_from_carm
    mixed = [View(first.line_integrals, CARM, turned), *views[1:]]
    disagreeing = disagreement(mixed, lift(mixed, grid).voxels, grid)
    assert agreeing < 0.2 and disagreeing > 2 * agreeing


def test_lifting_onto_an_odd_grid() -> None:
    body = rods((8, -5))
    odd = Grid(SIZE - 1, SPACING_MM, (-SPACING_MM / 2,) * 3)  # the same voxels without the last along each axis
    lifted = solid(lift(thicknesses(body, 2), odd))
    one, other = lifted[16:-16], body[16:-17, :-1, :-1]
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.93


def test_unmeasured_pixels_exclude_no_bone() -> None:
    body = rods((0, 0))
    views = thicknesses(body, 4)
    hidden = views[0].line_integrals.copy()
    hidden[:, 50:] = np.nan
    views[0] = View(hidden, views[0].carm, views[0].volume_from_carm)
    assert dice(views, body) > 0.9


def test_views_without_bone_lift_none_and_no_views_are_an_error() -> None:
    views = thicknesses(rods(), 2)
    assert not solid(lift(views, Grid(SIZE, SPACING_MM))).any()
    with pytest.raises(ComputeError, match="no view"):
        lift([], Grid())
