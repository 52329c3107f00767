"""Rendered X-rays, and training of the reader on a synthetic patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra `train`")

from navnode.errors import ConfigError
from navnode.reconstruction.reader import CANVAS_PX, CHANNELS, OUTPUTS, reading_channels
from navnode.reconstruction.training import radiographs, reading
from navnode.reconstruction.training.learner import Pace, Run, last_scores
from navnode.reconstruction.training.patients import Region, labelled, patients, region_of
from tests.reconstruction.balls import drawn


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of CTs and of X-rays rendered from them: one patient to train on, one to validate on."""
    cts, xrays = tmp_path_factory.mktemp("cts"), tmp_path_factory.mktemp("xrays")
    drawn(cts, "sts_901")
    drawn(cts, "sts_028")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radiographs, "_BODIES", {Region.LIMB: 1, Region.HEAD: 1, Region.TRUNK: 1})
        radiographs.render_all(patients(cts), xrays, rounds=1)
    return cts, xrays


@pytest.mark.long
def test_thickness_is_the_length_of_the_ray_in_bone(folders: tuple[Path, Path], tmp_path: Path) -> None:
    cts, _ = folders
    source = labelled(patients(cts)[0], tmp_path)
    rng = np.random.default_rng(0)
    shot = radiographs.radiographs(radiographs.body(source, rng, change=False), rng, validate=True)
    diameter_mm = 2 * 12.5 * 1.5
    for bone_mm in shot.bone_mm.astype(float):
        middle = bone_mm[CANVAS_PX // 2 - 20 : CANVAS_PX // 2 + 20]
        assert np.median(middle.max(axis=1)) == pytest.approx(diameter_mm, abs=2.5)
        # Chords across a cylinder sum to its cross-section.
        assert np.median(middle.sum(axis=1)) == pytest.approx(np.pi / 4 * diameter_mm**2, rel=0.1)
    assert not shot.lungs_mm.any()


def test_validation_patients_are_never_trained_on(folders: tuple[Path, Path]) -> None:
    _, xrays = folders
    names = {path.name for path in xrays.glob("*.npz")}
    assert names == {"limbs-sts_901-000.train.npz", "limbs-sts_028-000.validate.npz"}
    assert region_of(next(xrays.glob("*.npz"))) is Region.LIMB


def test_rendering_resumes_where_it_stopped(folders: tuple[Path, Path]) -> None:
    cts, xrays = folders
    first = {path: path.stat().st_mtime_ns for path in xrays.glob("*.npz")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radiographs, "_BODIES", {Region.LIMB: 1, Region.HEAD: 1, Region.TRUNK: 1})
        assert radiographs.render_all(patients(cts), xrays, rounds=1) == 2
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_unmeasured_pixels_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    line = rng.uniform(0, 5, (CANVAS_PX, CANVAS_PX)).astype(np.float32)
    measured = np.zeros(line.shape, bool)
    measured[60:200, 40:220] = True
    one = reading_channels(line, measured, 1.0)
    other = reading_channels(np.where(measured, line, np.nan).astype(np.float32), measured, 1.0)
    assert one.shape == (CHANNELS, CANVAS_PX, CANVAS_PX)
    assert np.isfinite(other).all()
    np.testing.assert_array_equal(one, other)


def test_degraded_x_rays_keep_their_anatomy() -> None:
    clean = np.zeros((CANVAS_PX, CANVAS_PX), np.float32)
    clean[64:192, 64:192] = 2.0
    for seed in range(12):
        seen, measured = reading.worse(clean, 1.0, np.random.default_rng(seed))
        assert np.isfinite(seen).all()
        inside, outside = measured & (clean > 0), measured & (clean == 0)
        if inside.sum() > 500 and outside.sum() > 500:
            assert np.median(seen[inside]) > np.median(seen[outside]) + 0.3


@pytest.mark.long
def test_training_resumes_and_learns(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, xrays = folders
    losses: list[float] = []

    def train(steps: int) -> int:
        ended = len(losses) + steps
        return reading.train(
            xrays,
            tmp_path,
            Pace(warm_up=4, score_every=12),
            Run(
                batch=2,
                workers=0,
                until=lambda: len(losses) >= ended,
                report=lambda step, loss: losses.append(loss),
            ),
        )

    assert train(6) == 6
    assert train(24) == 30
    assert np.median(losses[-12:]) < 0.85 * np.median(losses[:6])
    assert last_scores(reading.files_in(tmp_path).scores, reading.Score).keys() == {"limbs"}


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rendered X-rays"):
        reading.train(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="holds no CTs"):
        patients(tmp_path)


def test_the_network_takes_any_canvas_of_whole_blocks() -> None:
    import torch

    from navnode.reconstruction.network import ReaderNet

    network = ReaderNet()
    for height, width in ((CANVAS_PX, CANVAS_PX), (128, 192)):
        output = network(torch.zeros(1, CHANNELS, height, width))
        assert output.shape == (1, OUTPUTS, height, width)


@pytest.mark.long
def test_a_knee_made_of_surfaces_is_solid(tmp_path: Path) -> None:
    import trimesh

    from navnode.reconstruction.training import posed

    leg = tmp_path / "vhf_hra"
    leg.mkdir()
    sizes = {"femur_L": (22, 110, 75), "tibia_L": (20, 110, -45), "fibula_L": (8, 110, -45), "patella_L": (18, 20, 10)}
    for name, (radius_mm, length_mm, z_mm) in sizes.items():
        surface = trimesh.creation.cylinder(radius=radius_mm, height=length_mm)
        surface.apply_translation((40 if name == "fibula_L" else 0, 45 if name == "patella_L" else 0, z_mm))
        np.savez(leg / f"{name}.npz", v=surface.vertices.astype(np.float32), f=surface.faces.astype(np.int32))
    bones = posed.knee(tmp_path, "vhf_hra")
    for bone in bones:
        radius_mm, length_mm, _ = sizes[f"{bone.name}_L"]
        volume = (bone.channels[0] < -12.7).sum() * 1.0
        assert volume == pytest.approx(np.pi * radius_mm**2 * length_mm, rel=0.08)
    body = posed.posed(bones, np.random.default_rng(4))
    hu, solid = body.hu.voxels, body.bone > 0.99
    assert solid.any()
    assert np.median(hu[solid]) > 0  # marrow and trabeculae are denser than the fat around them
    assert hu[body.bone > 0.5].max() > 500  # and there is a cortex
    assert (hu < -900).any()


def test_a_surface_with_a_hole_is_refused(tmp_path: Path) -> None:
    import trimesh

    from navnode.reconstruction.training import posed

    surface = trimesh.creation.box((20, 20, 60))
    (tmp_path / "vhf_hra").mkdir()
    np.savez(tmp_path / "vhf_hra" / "femur_L.npz", v=surface.vertices, f=surface.faces[1:])
    with pytest.raises(ConfigError, match="not closed"):
        posed.knee(tmp_path, "vhf_hra")
