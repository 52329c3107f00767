"""Bone found in X-rays: read once, judged by its shadows, split into single bones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from navnode import geometry as g
from navnode.projector import Projector
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.reconstruction import Method, Reconstructor
from navnode.reconstruction.answer import answer
from navnode.reconstruction.bones import BoneFound, Bones
from navnode.reconstruction.surface import likely_surface, skin_surface
from navnode.types import CArm, FloatArray, Grid, ReconstructionRequest, Status, View, Volume

SIZE, SPACING_MM = 128, 2.0
GRID = Grid(SIZE, SPACING_MM)
CARM = CArm(256, 256, (1.3, 1.3), 1050.0, (127.5, 127.5))


def leg() -> Volume:
    """A lower leg: a thick and a thin shaft in flesh."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
    y, x = np.meshgrid(axis, axis, indexing="ij")
    thick, thin, flesh = np.hypot(x - 12, y + 14), np.hypot(x + 24, y - 14), np.hypot(x, y) < 60
    kinds = [thick < 8, thick < 15, thin < 3, thin < 8, flesh]
    hu = np.select(kinds, [-20.0, 1300.0, -20.0, 1300.0, 40.0], AIR_HU).astype(np.float32)
    return Volume(np.repeat(hu[None], SIZE, 0), centered_grid((SIZE,) * 3, SPACING_MM, np.zeros(3)))


@pytest.fixture(scope="module")
def x_rays() -> list[View]:
    projector = Projector(leg())
    poses = [g.pose_at(np.zeros(3), 680.0, orbital_deg=angle) for angle in (0.0, 45.0, 90.0, 135.0)]
    return [View(projector.render(CARM, pose), CARM, pose) for pose in poses]


@pytest.fixture(scope="module")
def bones() -> Bones:
    return Bones(threads=2)


@pytest.fixture(scope="module")
def found(bones: Bones, x_rays: list[View]) -> BoneFound:
    return bones.find(x_rays, GRID)


def test_bone_explains_its_x_rays_and_its_error_has_an_interval(found: BoneFound) -> None:
    assert not found.contradicted and not found.doubtful
    surface = found.surface()
    assert surface is not None and surface.error_mm is not None and surface.error_95_mm is not None
    assert surface.error_95_mm[0] < surface.error_mm < surface.error_95_mm[1] < 10


def test_every_connected_bone_is_a_closed_surface(found: BoneFound) -> None:
    surface = found.surface()
    assert surface is not None
    pieces = surface.pieces()
    assert len(pieces) >= 2 and sum(len(piece.mesh.triangles) for piece in pieces) == len(surface.mesh.triangles)
    volumes = [piece.volume_cm3 for piece in pieces]
    assert volumes == sorted(volumes, reverse=True) and sum(volumes) == pytest.approx(surface.volume_cm3, rel=1e-3)
    assert pieces[0].size_mm[2] > 150
    for piece in pieces:
        mesh = trimesh.Trimesh(piece.mesh.vertices_mm, piece.mesh.triangles, process=False)
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert abs(mesh.volume) / 1000 == pytest.approx(piece.volume_cm3, rel=1e-3)


def test_each_bone_has_a_surface_and_an_error(found: BoneFound) -> None:
    whole, bones = found.surface(), found.bones()
    assert whole is not None and len(bones) >= 2
    assert sum(bone.volume_cm3 for bone in bones) == pytest.approx(whole.volume_cm3, rel=0.05)
    assert bones[0].size_mm[2] > 150 and all(bone.error_95_mm is not None for bone in bones)


def test_bone_and_its_kinds_move_to_another_grid_together(found: BoneFound) -> None:
    halves = np.zeros(found.kinds.shape, np.uint8)
    halves[SIZE // 2 :] = 1
    moved = replace(found, kinds=halves).on(Grid(75, 3.0))
    assert moved.likely.voxels.shape == moved.kinds.shape == (75, 75, 75)
    assert (moved.kinds[:37] == 0).all() and (moved.kinds[38:] == 1).all()
    assert moved.bones()


def test_a_shifted_view_contradicts_the_others(bones: Bones, x_rays: list[View]) -> None:
    """One of four X-rays is shifted: no body casts all four shadows."""
    other = replace(x_rays[1], line_integrals=np.ascontiguousarray(np.roll(x_rays[1].line_integrals, 60, axis=1)))
    mixed = [x_rays[0], other, *x_rays[2:]]
    made = bones.find(mixed, GRID)
    assert "contradict" in made.contradicted and made.doubtful == made.contradicted


@pytest.mark.long
def test_x_rays_that_contradict_each_other_yield_no_volume(x_rays: list[View]) -> None:
    shifted: FloatArray = np.ascontiguousarray(np.roll(x_rays[1].line_integrals, 60, axis=1))
    mixed = [x_rays[0], replace(x_rays[1], line_integrals=shifted), *x_rays[2:]]
    learned = Reconstructor(Method.LEARNED, threads=2)
    made = learned.reconstruct(mixed, GRID)
    assert made.status is Status.INVALID and "contradict" in made.reason and made.doubtful_bone
    request = ReconstructionRequest(1, tuple(mixed), GRID.center_mm, GRID.size, GRID.spacing_mm)
    ready = answer(learned, request, lambda: 1)
    assert ready.volume is None and "contradict" in ready.reason


@pytest.mark.long
def test_a_view_is_read_once(x_rays: list[View], monkeypatch: pytest.MonkeyPatch) -> None:
    bones = Bones(threads=2)
    reads: list[View] = []
    read = bones._reader.read
    monkeypatch.setattr(bones._reader, "read", lambda view, at: (reads.append(view), read(view, at))[1])
    bones.find(x_rays[::2], GRID)
    bones.find(x_rays[:3], GRID)
    assert len(reads) == 3
    bones.find(x_rays[:2], Grid(SIZE, SPACING_MM, (0.0, 0.0, 5.0)))
    assert len(reads) == 5
    bones.forget()
    bones.find(x_rays[:2], Grid(SIZE, SPACING_MM, (0.0, 0.0, 5.0)))
    assert len(reads) == 7


def test_without_lungs_there_is_no_lung_surface(bones: Bones, x_rays: list[View]) -> None:
    assert bones.lungs(x_rays[::2], GRID) is None


def test_skin_encloses_the_whole_body() -> None:
    """Air inside the body, as in lungs, makes no surface."""
    body = leg()
    body.voxels[40:80, 60:68, 50:58] = AIR_HU
    surface = skin_surface(body)
    assert surface is not None and len(surface.pieces()) == 1
    assert surface.volume_cm3 == pytest.approx(np.pi * 6.0**2 * 25.6, rel=0.1)
    assert skin_surface(Volume(np.full((32, 32, 32), AIR_HU, np.float32), body.volume_from_index)) is None


def test_without_bone_there_is_no_surface() -> None:
    assert likely_surface(Volume(np.zeros((32, 32, 32), np.float32), GRID.volume_from_index)) is None
