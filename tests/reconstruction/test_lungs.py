"""Lungs found in X-rays: what the network gets, its engines, and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.projector import MU_WATER_PER_MM, Projector
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.reconstruction import engines, models
from navnode.reconstruction.bones import Bones
from navnode.reconstruction.lift import solid
from navnode.reconstruction.lungs import BLOCK, CHANNELS, SEEN, LungRefiner, evidence, lifted, lung_grid
from navnode.reconstruction.reader import BONE_KINDS, CANVAS_PX, LUNG_SCALE_MM
from navnode.reconstruction.reading import Reading
from navnode.types import CArm, Grid, Matrix, View, Volume

GRID = Grid(32, 8.0)
CARM = CArm(CANVAS_PX, CANVAS_PX, (1.5, 1.5), 1000.0, (127.5, 127.5))


def two_lungs(grid: Grid = GRID, *, forward_mm: float = 0.0, deep_mm: float = 62.0) -> np.ndarray:
    """Two ellipsoids beside each other, the left one longer and lower, the right one further forward."""
    axis = (np.arange(grid.size) - (grid.size - 1) / 2) * grid.spacing_mm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    each = [
        ((x - s * 58) / 40) ** 2 + ((y - s * forward_mm) / deep_mm) ** 2 + ((z - 15 * s) / (85 - 15 * s)) ** 2 < 1
        for s in (-1, 1)
    ]
    return np.any(each, axis=0)


def read_of(body: np.ndarray, angles_deg: tuple[float, ...] = (0.0, 90.0)) -> tuple[list[Reading], list[Matrix]]:
    """Exact readings of lungs on the grid, and their poses."""
    projector = Projector(Volume(body * np.float32(1000 / MU_WATER_PER_MM) - 1000, GRID.volume_from_index))
    poses = [g.pose_at(np.zeros(3), 650.0, orbital_deg=angle) for angle in angles_deg]
    readings = []
    for pose in poses:
        mm = projector.render(CARM, pose)
        nothing, line = np.zeros_like(mm), 4 - 0.015 * mm
        kinds = np.zeros((len(BONE_KINDS), *mm.shape), np.float32)
        lung = (mm > 1).astype(np.float32)
        readings.append(Reading(CARM, line, 1.0, nothing, nothing, np.ones_like(mm), mm, lung, kinds))
    return readings, poses


def test_order_and_repetition_of_views_do_not_matter() -> None:
    readings, poses = read_of(two_lungs(), (0.0, 90.0, 40.0))
    occupancy = lifted(readings, poses, GRID)
    one = evidence(occupancy, readings, poses, GRID)
    assert one.shape == (CHANNELS, 32, 32, 32) and 32 % BLOCK == 0
    np.testing.assert_allclose(one, evidence(occupancy, readings[::-1], poses[::-1], GRID), atol=1e-5)
    twice = evidence(occupancy, readings * 2, poses * 2, GRID)
    np.testing.assert_allclose(np.delete(one, 2, 0), np.delete(twice, 2, 0), atol=1e-5)  # but for their number


def test_a_voxel_gets_what_the_views_show_at_its_place() -> None:
    body = two_lungs()
    readings, poses = read_of(body)
    made = evidence(lifted(readings, poses, GRID), readings, poses, GRID)
    mean, least, most = made[4:10], made[10:16], made[16:22]
    inside = body & np.roll(body, 2, 2) & np.roll(body, -2, 2) & np.roll(body, 2, 0) & np.roll(body, -2, 0)
    assert np.median(least[0][inside]) == pytest.approx(1)
    assert (least <= mean + 1e-5).all() and (mean <= most + 1e-5).all()
    assert made[0][inside].mean() > 0 > made[0][~body].mean()
    assert made[SEEN][inside].min() == 1
    # Along y through a lung's middle, and along x through both.
    middle = made[:, 16, 16, 16 + 7]
    assert middle[4 + 1] * LUNG_SCALE_MM == pytest.approx((124 + 160) / 2, rel=0.12)
    assert middle[10 + 1] * LUNG_SCALE_MM == pytest.approx(124, rel=0.12)


def test_unmeasured_views_give_no_evidence() -> None:
    readings, poses = read_of(two_lungs())
    nothing = np.full_like(readings[0].lungs, np.nan)
    hidden = [replace(each, line_integrals=nothing, lungs=nothing, lungs_mm=nothing) for each in readings]
    made = evidence(lifted(hidden, poses, GRID), hidden, poses, GRID)
    assert np.isfinite(made).all() and not made[SEEN].any() and not made[4:].any()


@pytest.mark.parametrize(("size", "spacing_mm"), [(128, 2.0), (64, 4.0), (75, 3.4), (200, 1.0), (127, 2.1)])
def test_lungs_are_found_around_the_same_center_on_coarser_voxels(size: int, spacing_mm: float) -> None:
    grid = Grid(size, spacing_mm, (5.0, -3.0, 40.0))
    found = lung_grid(grid)
    assert found.center_mm == grid.center_mm and 3.0 <= found.spacing_mm <= 5.1
    assert found.size * found.spacing_mm >= min(size * spacing_mm, 384) - 1e-6


def test_engines_find_the_same_lungs(monkeypatch: pytest.MonkeyPatch) -> None:
    readings, poses = read_of(two_lungs())
    grid = Grid(96, 2.5)  # 48 voxels of 5 mm: three blocks
    network = LungRefiner(models.SHIPPED_LUNGS, threads=2, exactly=True)
    found = network.find(readings, poses, grid).likely
    assert found.voxels.shape == (48, 48, 48) and network.engine == "OpenVINO fp32"
    again = LungRefiner(models.SHIPPED_LUNGS, threads=1, exactly=True).find(readings, poses, grid).likely
    np.testing.assert_allclose(found.voxels, again.voxels, atol=1e-4)
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(engines, "_installed", lambda name: name == "onnxruntime")
    other = LungRefiner(models.SHIPPED_LUNGS, threads=2).find(readings, poses, grid).likely
    np.testing.assert_allclose(found.voxels, other.voxels, atol=1e-3)  # FP32 in another order of summation


def test_a_model_whose_file_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes((models.SHIPPED_LUNGS / "card.json").read_bytes())
    content = bytearray((models.SHIPPED_LUNGS / models.LUNGS_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / models.LUNGS_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="does not match the hash"):
        LungRefiner(tmp_path)


@pytest.fixture(scope="module")
def chest() -> tuple[Volume, np.ndarray]:
    """A trunk with lungs, spine, ribs and sternum, and where its lungs are."""
    grid = Grid(160, 2.5)
    axis = (np.arange(grid.size) - (grid.size - 1) / 2) * grid.spacing_mm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    lungs, around = two_lungs(grid), np.hypot(x / 118, y / 84)
    ribs = (np.abs(around - 0.96) < 0.04) & (np.mod(z + 0.35 * y, 26) < 9)
    kinds = [np.hypot(x, y + 70) < 17, np.hypot(x / 2, y - 76) < 7, ribs, lungs, np.hypot(x / 140, y / 105) < 1]
    hu = np.select(kinds, [350.0, 300.0, 500.0, -830.0, 40.0], AIR_HU).astype(np.float32)
    return Volume(hu, centered_grid((grid.size,) * 3, grid.spacing_mm, np.zeros(3))), lungs


def chest_views(chest: Volume, angles_deg: tuple[float, ...]) -> list[View]:
    carm = CArm(256, 256, (1.5, 1.5), 1050.0, (127.5, 127.5))
    projector = Projector(chest)
    poses = [g.pose_at(np.zeros(3), 680.0, orbital_deg=angle) for angle in angles_deg]
    return [View(projector.render(carm, pose), carm, pose) for pose in poses]


def true_on(chest: tuple[Volume, np.ndarray], likely: Volume) -> np.ndarray:
    """Which voxels of a volume are lung."""
    indices = np.argwhere(np.ones(likely.voxels.shape, bool))[:, ::-1].astype(float)
    at_mm = g.transform(likely.volume_from_index, indices)
    i, j, k = np.round(g.transform(np.linalg.inv(chest[0].volume_from_index), at_mm)).astype(int).T
    return chest[1][k, j, i].reshape(likely.voxels.shape)


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    return 2 * (found & true).sum() / (found.sum() + true.sum())


@pytest.mark.parametrize("angles_deg", [(0.0, 90.0), (0.0, 45.0, 90.0, 135.0)])
@pytest.mark.parametrize("center_mm", [(0.0, 0.0, 0.0), (9.0, -7.0, 13.0)])
@pytest.mark.long
def test_lungs_of_a_drawn_chest_are_found(
    chest: tuple[Volume, np.ndarray], angles_deg: tuple[float, ...], center_mm: tuple[float, float, float]
) -> None:
    """A body unlike any in training: most of its lungs all the same, each of them on its side."""
    views, bones, grid = chest_views(chest[0], angles_deg), Bones(threads=2), Grid(center_mm=center_mm)
    found = bones.lungs(views, grid)
    assert found is not None
    true, lung = true_on(chest, found.likely), found.likely.voxels > 0.5
    middle = lung.shape[2] // 2
    for side in (np.s_[:, :, :middle], np.s_[:, :, middle:]):
        assert overlap(lung[side], true[side]) > 0.8
    fine, coarse = found.surface(), found.surface(coarsely=True)
    assert fine is not None and coarse is not None
    assert fine.volume_cm3 == pytest.approx(coarse.volume_cm3, rel=0.05)
    assert len(fine.mesh.triangles) > 3 * len(coarse.mesh.triangles)
    middles_mm = [each.mesh.vertices_mm.mean(axis=0) for each in (fine, coarse)]
    np.testing.assert_allclose(*middles_mm, atol=2.0)


def test_a_lung_is_found_on_its_side() -> None:
    """The network's mirror images are put back before they are averaged."""
    body = two_lungs()
    body[:, :, GRID.size // 2 :] = False
    readings, poses = read_of(body)
    found = LungRefiner(models.SHIPPED_LUNGS, threads=2).find(readings, poses, Grid(96, 2.5)).likely.voxels > 0.5
    assert found.sum() > 500 and found[:, :, :24].sum() > 0.9 * found.sum()


def test_a_view_in_which_lungs_were_overlooked_does_not_cut_them_away(chest: tuple[Volume, np.ndarray]) -> None:
    bones, views, grid = Bones(threads=2), chest_views(chest[0], (0.0, 45.0, 90.0, 135.0)), Grid()
    readings = bones.readings(views, grid)
    poses = [view.volume_from_carm for view in views if view.volume_from_carm is not None]
    blind = replace(readings[1], lungs=0 * readings[1].lungs, lungs_mm=0 * readings[1].lungs_mm)
    kept = [readings[0], blind, *readings[2:]]
    found = LungRefiner(models.SHIPPED_LUNGS, threads=2).find(kept, poses, grid).likely
    true, by_lift = true_on(chest, found), np.asarray(solid(lifted(kept, poses, lung_grid(grid))), bool)
    assert overlap(found.voxels > 0.5, true) > max(0.7, overlap(by_lift, true) + 0.2)


def test_what_is_mistaken_for_lung_in_a_limb_is_none() -> None:
    """Patches of lung that a reader sees in a leg, at no place that both views agree on, or small."""
    axis = (np.arange(GRID.size) - (GRID.size - 1) / 2) * GRID.spacing_mm
    y, x = np.meshgrid(axis, axis, indexing="ij")
    flesh = np.repeat((np.hypot(x, y) < 70)[None], GRID.size, 0)
    readings, poses = read_of(flesh)
    mistaken = []
    for reading, half_px in zip(readings, (12, 6), strict=True):
        patch, none = np.zeros((2, *reading.lungs.shape), np.float32)
        patch[128 - half_px : 128 + half_px, 128 - half_px : 128 + half_px] = 1
        line = 0.018 * reading.lungs_mm  # of flesh
        mistaken.append(replace(reading, line_integrals=line, lungs=none + 0.9 * patch, lungs_mm=none + 30 * patch))
    found = LungRefiner(models.SHIPPED_LUNGS, threads=2).find(mistaken, poses, Grid(96, 2.5))
    assert found.surface() is None


def test_a_missing_model_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED_LUNGS", tmp_path)
    with pytest.raises(ConfigError, match="no model"):
        Bones(threads=1)


@pytest.mark.long
def test_the_network_starts_from_the_lift_and_learns() -> None:
    torch = pytest.importorskip("torch", reason="training needs the extra `train`")
    from navnode.reconstruction.network import LungNet
    from navnode.reconstruction.training.refining import dice, objective, weight_of

    body = two_lungs(forward_mm=36, deep_mm=30)  # one before the other: the lift makes four of them
    readings, poses = read_of(body)
    occupancy = lifted(readings, poses, GRID)
    shown = torch.from_numpy(evidence(occupancy, readings, poses, GRID))[None]
    true = torch.from_numpy(body.astype(np.float32))[None, None]
    torch.manual_seed(0)
    network = LungNet()
    with torch.no_grad():
        begun = network(shown)[0, 0].numpy() >= 0
    assert np.array_equal(begun, solid(occupancy))
    optimiser = torch.optim.AdamW(network.parameters(), lr=4e-4)
    for _ in range(100):
        loss, _ = objective(network(shown), true, weight_of(shown[:, SEEN : SEEN + 1]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        learned = network(shown)[0, 0].numpy() >= 0
    assert dice(learned, body) > dice(begun, body) + 0.1


@pytest.mark.long
def test_chests_are_rendered_learned_from_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "onnx", "onnxscript", "openvino", "matplotlib"):
        pytest.importorskip(package)
    sitk = pytest.importorskip("SimpleITK")
    from navnode.reconstruction import models, training
    from navnode.reconstruction.training import bodies, lungs
    from navnode.reconstruction.training.learner import last_scores

    grid = Grid(64, 6.0)
    axis = (np.arange(grid.size) - (grid.size - 1) / 2) * grid.spacing_mm
    y, x = np.meshgrid(axis, axis, indexing="ij")
    hu = np.where(np.hypot(x / 140, y / 105) < 1, 40, AIR_HU)[None] + np.zeros((grid.size, 1, 1))
    hu[two_lungs(grid)] = -830
    hu[:, np.hypot(x, y + 75) < 18] = 400
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    image.SetSpacing((grid.spacing_mm,) * 3)
    cts, out = tmp_path / "cts", tmp_path / "run"
    for region, name in (("trunks", "one"), ("trunks", "lidc_0314"), ("limbs", "sts_901")):
        (cts / region).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(cts / region / f"{name}.nii.gz"))
    monkeypatch.setattr(lungs, "_BODIES", 2)
    monkeypatch.setattr(bodies, "GRID_SIZE", 64)
    settings = {"rounds": 1, "hours": 1e-6, "device": "cpu", "threads": 1}
    report = training.run_lungs(cts, out, **settings)
    assert (report.steps, report.bodies) == (1, 3)  # no limb
    assert models.read_card(out / "lung_model").training == {
        "steps": 1,
        "bodies": 3,
        "data": ["1 trunks"],
        "held_out": ["lidc_0314"],
    }
    kept = bodies.read(next((out / "chests").glob("*.validate.npz")))
    assert kept.lungs is not None and kept.lungs.max() == 255
    assert not last_scores(lungs.files_in(out).scores, lungs.Score)

    def train(folder: Path, steps: int, start: Path | None = None) -> int:
        left = iter(range(steps - 1))
        return lungs.train(
            out / "chests",
            models.SHIPPED_READER,
            folder,
            lungs.Pace(score_every=2),
            lungs.Run(workers=0, start=start, until=lambda: next(left, None) is None),
        )

    assert train(out, 1) == 2  # from its checkpoint
    found = last_scores(lungs.files_in(out).scores, lungs.Score)
    assert found.keys() == {"trunks_2", "trunks_4"} and all(0 < each.found_least <= 1 for each in found.values())
    readings, poses = read_of(two_lungs())
    made = LungRefiner(out / "lung_model", threads=1).find(readings, poses, Grid(96, 2.5))
    assert np.isfinite(made.likely.voxels).all()
    assert train(tmp_path / "on", 2, start=out / "lung_model") == 3  # the model was trained for one step


def test_training_without_bodies_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra `train`")
    from navnode.reconstruction.training import lungs

    with pytest.raises(ConfigError, match="no rendered bodies"):
        lungs.train(tmp_path, models.SHIPPED_READER, tmp_path)
