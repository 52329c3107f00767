"""The shipped reader: the bone that it finds in X-rays, and that bone in space."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.reconstruction.bones import Bones
from navnode.reconstruction.reader import CANVAS_PX
from navnode.reconstruction.reading import Reader, on_canvas
from navnode.types import CArm, Grid, View, Volume

SIZE, SPACING_MM = 96, 2.0
GRID = centered_grid((SIZE,) * 3, SPACING_MM, np.zeros(3))
CARM = CArm(300, 240, (1.2, 1.3), 1050.0, (140.0, 118.0))
ANGLES_DEG = (0.0, 90.0)


def thigh() -> tuple[Volume, np.ndarray]:
    """A thigh with a shaft of bone, cortex around marrow; its HU and its solid bone."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    y, x = np.meshgrid(axis, axis, indexing="ij")
    far = np.hypot(x - 10, y + 6)
    flesh = np.hypot(x, y) < 70
    slice_hu = np.select([far < 6, far < 14, flesh], [-20.0, 1300.0, 40.0], AIR_HU).astype(np.float32)
    return Volume(np.repeat(slice_hu[None], SIZE, 0), GRID), np.repeat((far < 14)[None], SIZE, 0)


def views(volume: Volume, carm: CArm = CARM) -> list[View]:
    projector = Projector(volume)
    poses = [g.pose_at(np.zeros(3), 680.0, orbital_deg=angle) for angle in ANGLES_DEG]
    return [View(projector.render(carm, pose), carm, pose) for pose in poses]


def test_the_canvas_shows_the_same_view() -> None:
    """Rendered with the canvas's C-arm, the patient looks the same; the pixel size is as stated."""
    hu, _ = thigh()
    view = views(hu)[0]
    line, measured, canvas, pixel_mm = on_canvas(view, np.zeros(3))
    assert line.shape == measured.shape == (CANVAS_PX, CANVAS_PX)
    again = Projector(hu).render(canvas, view.volume_from_carm)
    inside = measured & (np.abs(again) > 0.5)
    assert np.median(np.abs(again - line)[inside]) < 0.02 and inside.sum() > 1000
    on_detector = canvas.pixel_spacing_mm[0] * 680.0 / canvas.source_to_detector_mm
    assert on_detector == pytest.approx(pixel_mm, rel=0.02)


def test_a_shaft_is_read_and_lifted_as_solid_bone() -> None:
    hu, bone = thigh()
    made = Bones(threads=2).find(views(hu), Grid(SIZE, SPACING_MM))
    found, middle = made.likely.voxels >= made.threshold, slice(SIZE // 4, -SIZE // 4)
    one, other = found[middle], bone[middle]
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.8
    surface = made.surface()
    assert surface is not None and len(surface.mesh.triangles) > 500


def test_where_nothing_was_measured_nothing_is_read() -> None:
    hu, _ = thigh()
    view = views(hu)[0]
    view.line_integrals[:100] = np.nan
    reading = Reader(threads=2).read(view, np.zeros(3))
    assert np.isnan(reading.bone_mm[:60]).all() and np.isfinite(reading.bone_mm[160, 128])


def test_unreadable_views_are_refused_with_the_reason() -> None:
    hu, _ = thigh()
    view = views(hu)[0]
    with pytest.raises(ComputeError, match="between"):
        on_canvas(view, view.volume_from_carm[:3, 3] - 100 * view.volume_from_carm[:3, 2])
    view.line_integrals[:] = np.nan
    with pytest.raises(ComputeError, match="saturated"):
        on_canvas(view, np.zeros(3))
