"""Refinement: evidence from views, the network that learns from it, and its engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ComputeError, ConfigError
from navnode.projector import MU_WATER_PER_MM, Projector
from navnode.reconstruction import Method, choice, engines, models
from navnode.reconstruction.bones import Bones
from navnode.reconstruction.lift import lift, solid
from navnode.reconstruction.reader import BONE_KINDS, CANVAS_PX
from navnode.reconstruction.reading import Reading, thickness
from navnode.reconstruction.refining import (
    BLOCK,
    COARSE,
    FINE,
    LEAST_SIDE_MM,
    SEEN,
    SPACINGS_MM,
    Refiner,
    evidence,
    own_grid,
)
from navnode.types import CArm, Grid, Matrix, Volume
from tests.reconstruction.balls import ball, views

GRID = Grid(32, 4.0)
CARM = CArm(CANVAS_PX, CANVAS_PX, (1.5, 1.5), 1000.0, (127.5, 127.5))
ANGLES_DEG = (0.0, 90.0, 40.0)


def two_rods() -> np.ndarray:
    """Cylinders along z, side by side: lifted from two views, they leave ghosts."""
    axis = (np.arange(GRID.size) - (GRID.size - 1) / 2) * GRID.spacing_mm
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = (np.hypot(x + 28, y + 20) < 14) | (np.hypot(x - 25, y - 22) < 14)
    return np.repeat(inside[None], GRID.size, 0)


def read_of(body: np.ndarray, angles_deg: tuple[float, ...] = ANGLES_DEG) -> tuple[list[Reading], list[Matrix]]:
    """Exact readings of a body, and their poses."""
    projector = Projector(Volume(body * np.float32(1000 / MU_WATER_PER_MM) - 1000, GRID.volume_from_index))
    poses = [g.pose_at(np.zeros(3), 650.0, orbital_deg=angle) for angle in angles_deg]
    readings = []
    for pose in poses:
        mm = projector.render(CARM, pose)
        bone, nothing = (mm > 1).astype(np.float32), np.zeros_like(mm)
        kinds = np.stack([np.ones_like(mm), *np.zeros((len(BONE_KINDS) - 1, *mm.shape))])  # all of the first
        readings.append(Reading(CARM, 0.05 * mm, 1.0, mm, bone, np.ones_like(mm), nothing, nothing, kinds))
    return readings, poses


def lifted(readings: list[Reading], poses: list[Matrix]) -> Volume:
    return lift([thickness(reading, pose) for reading, pose in zip(readings, poses, strict=True)], GRID)


def test_order_and_repetition_of_views_do_not_matter() -> None:
    readings, poses = read_of(two_rods())
    occupancy = lifted(readings, poses)
    one = evidence(occupancy, readings, poses, GRID)
    other = evidence(occupancy, readings[::-1], poses[::-1], GRID)
    assert one.fine.shape == (FINE, 32, 32, 32) and one.coarse.shape == (COARSE, 16, 16, 16)
    np.testing.assert_allclose(one.fine, other.fine, atol=1e-6)
    np.testing.assert_allclose(one.coarse, other.coarse, atol=1e-5)
    twice = evidence(occupancy, readings * 2, poses * 2, GRID)
    np.testing.assert_allclose(one.fine, twice.fine, atol=1e-6)


def test_a_voxel_gets_what_the_views_show_at_its_place() -> None:
    body = two_rods()
    readings, poses = read_of(body)
    made = evidence(lifted(readings, poses), readings, poses, GRID)
    above, mean, least = made.fine
    inside = body & np.roll(body, 1, 2) & np.roll(body, -1, 2)
    inside[:4] = inside[-4:] = False  # the cone leaves the rods' ends
    assert np.median(least[inside]) == 1 and (mean >= least).all()
    assert least[~body].mean() < 0.2
    assert above[inside].mean() > 0.2 and above[~body].mean() < -0.2
    # Millimetres of bone on the canvas around one voxel's pixel.
    at_mm = GRID.volume_from_index[:3, :3] @ np.full(3, 8.5) + GRID.volume_from_index[:3, 3]
    expected = []
    for reading, pose in zip(readings, poses, strict=True):
        x, y, z = g.transform(g.inverse(pose), at_mm[None])[0]
        u, v = (127.5 + at / z * 1000.0 / 1.5 for at in (x, y))
        near = reading.bone_mm[round(v) - 4 : round(v) + 5, round(u) - 4 : round(u) + 5]
        expected.append(near.mean() / 20)
    assert made.coarse[1, 4, 4, 4] == pytest.approx(np.mean(expected), abs=0.1)
    assert made.coarse[2, 4, 4, 4] == pytest.approx(min(expected), abs=0.1)


def test_unmeasured_views_give_no_evidence() -> None:
    readings, poses = read_of(two_rods())
    hidden = [
        replace(reading, **{name: np.full_like(getattr(reading, name), np.nan) for name in ("line_integrals", "bone")})
        for reading in readings
    ]
    made = evidence(lifted(readings, poses), hidden, poses, GRID)
    assert not made.coarse[SEEN].any() and not made.fine[1:].any()
    assert np.isfinite(made.fine).all() and np.isfinite(made.coarse).all()
    with pytest.raises(ComputeError, match="no view"):
        evidence(lifted(readings, poses), [], [], GRID)


@pytest.mark.parametrize(
    "asked",
    [Grid(128, 2.0), Grid(60, 5.0, (3.0, 0.0, 9.0)), Grid(256, 1.0), Grid(16, 20.0), Grid(64, 1.0, (0.0, 5.0, 0.0))],
)
def test_refinement_uses_voxels_that_the_network_knows(asked: Grid) -> None:
    own = own_grid(asked)
    assert own.size * own.spacing_mm == pytest.approx(max(asked.size * asked.spacing_mm, LEAST_SIDE_MM))
    assert own.center_mm == asked.center_mm
    assert SPACINGS_MM[0] * 0.97 < own.spacing_mm < SPACINGS_MM[1] * 1.03
    assert own_grid(own) == own


def test_a_grid_is_padded_to_blocks() -> None:
    readings, poses = read_of(two_rods())
    whole = evidence(lifted(readings, poses), readings, poses, GRID)
    small = Grid(20, 4.0, (-24.0, -24.0, -24.0))  # the first voxels of the same grid
    occupancy = Volume(lifted(readings, poses).voxels[:20, :20, :20], small.volume_from_index)
    made = evidence(occupancy, readings, poses, small)
    assert made.fine.shape[1:] == (2 * BLOCK,) * 3
    np.testing.assert_allclose(made.fine[1:, :20, :20, :20], whole.fine[1:, :20, :20, :20], atol=1e-3)


def test_the_hash_covers_all_models() -> None:
    """A session records what made its volumes, the reader and the refiner included."""
    assert choice.model_hash(Method.LEARNED) not in ("", models.card_hash(models.SHIPPED))
    assert choice.model_hash(Method.SART) == ""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run on one thread: in steps this small, threads mostly wait for each other."""
    torch = pytest.importorskip("torch", reason="training needs the extra `train`")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.long
def test_refinement_starts_from_the_lift_and_improves_on_it() -> None:
    torch = pytest.importorskip("torch", reason="training needs the extra `train`")
    from navnode.reconstruction.network import Refinement
    from navnode.reconstruction.training import refining

    body = two_rods()
    readings, poses = read_of(body, ANGLES_DEG[:2])
    occupancy = lifted(readings, poses)
    made = evidence(occupancy, readings, poses, GRID)
    parts = (made.fine, made.coarse, made.pictures, made.pixels_from_coarse.astype(np.float32))
    given = [torch.from_numpy(part)[None] for part in parts]
    bone = torch.from_numpy(body.astype(np.float32))[None, None]
    torch.manual_seed(0)
    network = Refinement()
    with torch.no_grad():
        begun = network(*given)[0, 0].numpy() >= 0
    assert np.array_equal(begun, solid(occupancy))
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-4)
    losses = []
    for _ in range(44):
        loss, parts = refining.objective(network(*given), bone, refining.weights(given[1]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(parts["loss"])
    assert np.median(losses[-5:]) < 0.75 * losses[0]
    with torch.no_grad():
        learned = network(*given)[0, 0].numpy() >= 0
    assert refining.dice(learned, body) > refining.dice(begun, body) + 0.05


@pytest.mark.long
def test_engines_agree_with_torch_on_grids_of_any_size(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="training needs the extra `train`")
    for package in ("onnx", "onnxscript", "openvino", "onnxruntime"):
        pytest.importorskip(package)
    from navnode.reconstruction.network import Refinement
    from navnode.reconstruction.training.export import export_refiner

    torch.manual_seed(0)
    network = Refinement().eval()
    with torch.no_grad():
        for weights in network.parameters():
            if not weights.abs().max() > 0:
                torch.nn.init.normal_(weights, 0.0, 0.02)
            weights.copy_(weights.half().float())  # exported in half precision
    torch.save({"averaged": network.state_dict()}, tmp_path / "refiner.pt")
    folder = tmp_path / "refiner_model"
    export_refiner(tmp_path / "refiner.pt", folder, {"steps": 0}, {"limbs": {"dice": 0.5}})
    card = models.read_card(folder)
    assert card.name == "refiner" and card.metrics["limbs"]["dice"] == 0.5
    readings, poses = read_of(two_rods())
    refiner = Refiner(folder, threads=1, exactly=True)
    for size in (GRID.size, 40):
        grid = Grid(size, 4.0)
        occupancy = Volume(np.random.default_rng(0).random(grid.shape, np.float32), grid.volume_from_index)
        made = evidence(occupancy, readings, poses, grid)
        fine, coarse, pictures, pixels = (
            torch.from_numpy(part)[None]
            for part in (made.fine, made.coarse, made.pictures, made.pixels_from_coarse.astype(np.float32))
        )
        mirrored = pixels.clone()  # voxel i of the mirror image is voxel c - 1 - i
        mirrored[..., 3] += (coarse.shape[-1] - 1) * mirrored[..., 0]
        mirrored[..., 0] *= -1
        with torch.no_grad():
            logit = network(fine, coarse, pictures, pixels)
            logit = (logit + network(fine.flip(-1), coarse.flip(-1), pictures, mirrored).flip(-1)) / 2
        expected = torch.sigmoid(logit)[0, 0, :size, :size, :size].numpy()
        found = refiner.refine(occupancy, readings, poses, grid).likely.voxels
        # OpenCV rounds positions to a 32nd of a pixel, so a voxel on a picture's edge may fall outside.
        assert np.quantile(np.abs(found - expected), 0.999) < 0.01
    for path in folder.glob("*.onnx"):
        assert not any(trace in path.read_bytes() for trace in (b"site-packages", b"network.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "SHIPPED_REFINER", folder)
        likely = Bones(threads=2).find(views(ball(), (0, 80)), Grid(32, 4.0)).likely
    assert likely.voxels.shape == (32, 32, 32) and 0 <= likely.voxels.min() <= likely.voxels.max() <= 1


def test_a_missing_refiner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model"):
        engines.load_refiner(tmp_path)
