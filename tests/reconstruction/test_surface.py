"""The surface of bone: closed, facing outward, with its expected error."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from navnode.projector.grids import centered_grid
from navnode.reconstruction.surface import _closed, bone_surface, likely_surface
from navnode.types import Volume
from tests.reconstruction.balls import ball


def test_the_bone_surface_is_closed_and_faces_outward():
    surface = bone_surface(ball(hu=900.0))
    mesh = surface.mesh
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
    assert surface.volume_cm3 == pytest.approx(volume_mm3 / 1000)
    assert np.allclose(surface.size_mm, 60.0, atol=3.0) and surface.error_mm is None


def test_the_surface_of_a_probability_states_its_expected_error():
    errors_mm = []
    for blur_mm in (2.0, 5.0):
        k, j, i = np.mgrid[[slice(-63, 64, 2)] * 3].astype(float)
        likely = 1 / (1 + np.exp((np.sqrt(i**2 + j**2 + k**2) - 40) / blur_mm))
        surface = likely_surface(Volume(likely.astype(np.float32), centered_grid((64,) * 3, 2.0, np.zeros(3))))
        assert np.allclose(surface.size_mm, 80.0, atol=2.0)
        errors_mm.append(surface.error_mm)
    # Under a logistic edge, the area on either side is ln 2 times its width.
    assert errors_mm == pytest.approx([2 * 2 * np.log(2), 2 * 5 * np.log(2)], rel=0.15)
    assert likely_surface(Volume(np.zeros((20, 20, 20), np.float32), np.eye(4))) is None


def test_without_bone_there_is_no_surface():
    assert bone_surface(Volume(np.full((20, 20, 20), -900, np.float32), np.eye(4))) is None


def test_it_stays_closed_when_files_round_it():
    """Values that are hardly over the surface's put vertices a millionth of a voxel apart; half a metre from the origin
    floats of 32 bits are 0.03 um apart."""
    k, j, i = np.indices((24, 24, 24))
    likely = np.clip(0.5 + (8.5 - np.hypot(np.hypot(k - 12, j - 12), i - 12)) / 4, 0, 1).astype(np.float32)
    rng = np.random.default_rng(0)
    near = (np.abs(likely - 0.5) < 0.2) & (rng.random(likely.shape) < 0.5)
    likely[near] = 0.5 + rng.choice([-1e-6, 1e-6], np.count_nonzero(near))
    place = np.diag([2.0, 2.0, 2.0, 1.0])
    place[:3, 3] = 500.0
    made = _closed(likely.copy(), Volume(likely, place), 0.5, 0.0)
    assert made is not None
    rounded = trimesh.Trimesh(np.round(made.mesh.vertices_mm, 4), made.mesh.triangles)
    assert rounded.is_watertight and rounded.is_winding_consistent
