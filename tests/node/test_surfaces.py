"""Surfaces for consoles: how many triangles they keep, what is said of the error, and which is the newest."""

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import marching_cubes

from navnode.config import OutputsSection
from navnode.errors import ComputeError
from navnode.igtl import PolyData, cells
from navnode.node import surfaces
from navnode.node.decimation import Decimated, decimated, decimated_apart
from navnode.node.surfaces import Surfaces
from navnode.types import Mesh


def bumpy(size: int, bumps_mm: float = 3.0) -> Mesh:
    """A closed, bumpy ball of 40 mm."""
    grid_mm = np.stack(np.meshgrid(*[np.linspace(-50, 50, size)] * 3, indexing="ij"))
    radius_mm = np.linalg.norm(grid_mm, axis=0) + bumps_mm * np.prod(np.sin(grid_mm / 6), axis=0)
    points, triangles, _, _ = marching_cubes(radius_mm, 40.0, spacing=(100 / (size - 1),) * 3)
    return Mesh(points.astype(np.float32) - 50, triangles.astype(np.uint32))


def message(mesh: Mesh, device: str = "BoneModel") -> PolyData:
    return PolyData(device=device, points_mm=mesh.vertices_mm, polygons=cells(mesh.triangles), metadata={"Views": "2"})


def test_a_ball_stays_a_ball_and_states_its_error():
    """Measured independently: distance from the centre, which is 40 mm on the true surface."""
    whole = bumpy(60, bumps_mm=0.0)
    fewer = decimated_apart(whole, 2_000)
    assert len(whole.triangles) > 15_000 and 1_000 < len(fewer.mesh.triangles) <= 2_000
    off_mm = np.abs(np.linalg.norm(fewer.mesh.vertices_mm, axis=1) - 40)
    assert 0 < fewer.error_95_mm <= fewer.error_most_mm < 1.0
    assert off_mm.max() < fewer.error_most_mm + 0.05
    edges = np.sort(fewer.mesh.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert set(np.unique(edges, axis=0, return_counts=True)[1]) == {2}, "it is no longer closed"


@settings(max_examples=8, deadline=None)
@given(st.integers(300, 3_000), st.floats(0, 4))
def test_no_sampled_point_is_farther_than_stated(most, bumps_mm):
    """By brute force: vertices to densely sampled points of the other surface."""
    whole = bumpy(26, bumps_mm)
    fewer = decimated(whole, most)
    assert len(fewer.mesh.triangles) <= most
    corners = fewer.mesh.vertices_mm[fewer.mesh.triangles]
    weights = np.random.default_rng(1).dirichlet((1, 1, 1), 20)
    dense_mm = np.einsum("wc,tcx->twx", weights, corners).reshape(-1, 3)
    some = whole.vertices_mm[:: max(1, len(whole.vertices_mm) // 100)]
    nearest_mm = np.linalg.norm(some[:, None] - dense_mm, axis=2).min(axis=1)
    spacing_mm = np.sqrt(np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1))
    assert nearest_mm.max() <= fewer.error_most_mm + spacing_mm.max()


def test_large_surfaces_are_decimated_beside_the_loop():
    published: list[tuple[PolyData, str]] = []

    async def run() -> None:
        each = Surfaces(1_500, lambda surface: published.append((surface, threading.current_thread().name)))
        each(message(bumpy(40)))
        assert not published, "the loop waited for it"
        each(message(bumpy(12), "LungModel"))
        async with asyncio.timeout(60):
            while len(published) < 2:
                await asyncio.sleep(0.02)
        each.close()

    asyncio.run(run())
    (small, _), (bone, thread) = published
    assert small.device == "LungModel" and "DecimationErrorMm" not in small.metadata
    assert bone.device == "BoneModel" and len(bone.triangles) <= 1_500 and thread == threading.main_thread().name
    assert bone.metadata["Views"] == "2" and int(bone.metadata["TrianglesBefore"]) > 1_500
    assert 0 < float(bone.metadata["DecimationError95Mm"]) <= float(bone.metadata["DecimationErrorMm"]) < 3


def test_an_older_surface_never_follows_a_newer_one():
    published: list[PolyData] = []
    newest = bumpy(12)

    async def run() -> None:
        each = Surfaces(1_500, published.append)
        each(message(bumpy(40)))
        each(message(newest))  # small: at once
        await asyncio.get_running_loop().run_in_executor(each._turns, lambda: None)  # behind the first one
        await asyncio.sleep(0.05)
        each.close()

    asyncio.run(run())
    assert [len(surface.triangles) for surface in published] == [len(newest.triangles)]


def test_what_cannot_be_decimated_goes_out_whole(monkeypatch, caplog):
    def refuse(mesh: Mesh, most: int) -> Decimated:
        raise ComputeError("too odd")

    monkeypatch.setattr(surfaces, "decimated_apart", refuse)
    published: list[PolyData] = []
    whole = bumpy(30)

    async def run() -> None:
        each = Surfaces(100, published.append)
        each(message(whole))
        async with asyncio.timeout(10):
            while not published:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert len(published[0].triangles) == len(whole.triangles) and "too odd" in caplog.text
    assert "DecimationErrorMm" not in published[0].metadata


def test_nonsense_is_refused_with_its_reason():
    with pytest.raises(ComputeError, match="decimation failed"):
        decimated_apart(Mesh(np.full((30, 3), np.nan, np.float32), np.arange(30, dtype=np.uint32).reshape(-1, 3)), 4)


def test_all_triangles_on_request():
    published: list[PolyData] = []
    Surfaces(0, published.append)(message(bumpy(30)))
    assert len(published) == 1 and OutputsSection().most_triangles == 50_000
