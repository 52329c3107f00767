import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.reconstruction import reconstruct
from navnode.reconstruction.surface import bone_surface
from navnode.types import CArm, View, Volume
from navnode.volumes import centered_grid

CARM = CArm(64, 64, (4.0, 4.0), 1000.0, (31.5, 31.5))


def ball(radius_mm: float = 30.0, hu: float = 400.0) -> Volume:
    volume_from_index = centered_grid((64, 64, 64), 2.0, np.zeros(3))
    k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
    distance = np.sqrt((i - 10) ** 2 + j**2 + (k + 6) ** 2)
    return Volume((-1000 + (hu + 1000) / (1 + np.exp(distance - radius_mm))).astype(np.float32), volume_from_index)


def views(volume: Volume, angles_deg) -> list[View]:
    projector = Projector(volume)
    made = []
    for angle in np.deg2rad(angles_deg):
        volume_from_carm = g.rigid(g.rotation_exp(np.array([0.0, angle, 0.0]))) @ g.rigid(None, (0, 0, -650.0))
        made.append(View(projector.render(CARM, volume_from_carm), CARM, volume_from_carm))
    return made


def test_a_ball_from_four_views_is_where_it_was():
    truth = ball()
    made = reconstruct(views(truth, (0, 45, 90, 135)), size=64, spacing_mm=2.0)
    inside = truth.voxels > -300
    assert made.voxels[inside].mean() == pytest.approx(truth.voxels[inside].mean(), abs=150)
    bright = np.argwhere(made.voxels > -300).mean(axis=0)
    assert np.allclose(bright, np.argwhere(inside).mean(axis=0), atol=1.0)


def test_more_views_are_better():
    truth = ball()
    errors = []
    for count in (2, 4, 8):
        made = reconstruct(views(truth, np.linspace(0, 180, count, endpoint=False)), size=64, spacing_mm=2.0)
        errors.append(np.sqrt(np.mean((made.voxels - truth.voxels) ** 2)))
    assert errors[0] > errors[1] > errors[2]


def test_unmeasured_pixels_are_not_taken_for_air():
    truth = ball()
    given = views(truth, (0, 60, 120))
    with_gaps = []
    for view in given:
        line = view.line_integrals.copy()
        line[:, :8] = np.nan
        with_gaps.append(View(line, view.carm, view.volume_from_carm))
    made = reconstruct(with_gaps, size=64, spacing_mm=2.0)
    assert np.isfinite(made.voxels).all()
    assert made.voxels[truth.voxels > 0].mean() > 0


@pytest.mark.parametrize(
    ("angles", "reason"), [((), "0 view"), ((30,), "1 view"), ((10, 10), "same way"), ((0, 5), "same way")]
)
def test_too_little_is_said(angles, reason):
    with pytest.raises(ComputeError, match=reason):
        reconstruct(views(ball(), angles), size=32)


def test_a_view_without_a_pose_is_named():
    good = views(ball(), (0, 60))
    with pytest.raises(ComputeError, match="view 2 has no pose"):
        reconstruct([*good, View(good[0].line_integrals, CARM, None)], size=32)


def test_the_bone_surface_is_closed_and_faces_outward():
    mesh = bone_surface(ball(hu=900.0))
    edges = {}
    for a, b, c in mesh.triangles.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            edges[edge] = edges.get(edge, 0) + 1
    assert all(count == 1 and (b, a) in edges for (a, b), count in edges.items())
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, k]].astype(np.float64) for k in range(3))
    volume_mm3 = np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6
    radius_mm = np.cbrt(volume_mm3 * 3 / (4 * np.pi))  # positive only when faces look outward
    assert radius_mm == pytest.approx(30.0, abs=1.5)
    assert np.allclose(mesh.vertices_mm.mean(axis=0), (10, 0, -6), atol=0.7)


def test_no_bone_no_surface():
    assert bone_surface(Volume(np.full((20, 20, 20), -900, np.float32), np.eye(4))) is None
