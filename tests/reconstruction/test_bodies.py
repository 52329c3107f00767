"""Bodies to train the refiner on, and its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra `train`")

import torch

from navnode.errors import ConfigError
from navnode.projector.grids import centered_grid
from navnode.reconstruction import models, training
from navnode.reconstruction.network import ReaderNet, _pooled
from navnode.reconstruction.reader import BONE_KINDS
from navnode.reconstruction.reading import understood
from navnode.reconstruction.refining import SEEN
from navnode.reconstruction.training import bodies, refining
from navnode.reconstruction.training.learner import Pace, Run, last_scores
from navnode.reconstruction.training.packs import pack
from navnode.reconstruction.training.patients import Patient, Region, patients
from navnode.reconstruction.training.radiographs import SIZE, Body
from navnode.types import FloatArray, Volume
from tests.reconstruction.balls import drawn

SPACING_MM = 1.3


@pytest.fixture(scope="module")
def shaft() -> Body:
    """A leaning shaft of bone in air, so that rays meet nothing but bone."""
    axis = ((np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM).astype(np.float32)
    z, y, x = axis[:, None, None], axis[:, None], axis
    bone = np.clip(12.5 - np.hypot(x - 9 - 0.2 * z, y + 11) / SPACING_MM, 0, 1).astype(np.float32)
    hu = Volume(2000 * bone - 1000, centered_grid((SIZE,) * 3, SPACING_MM, np.zeros(3)))
    return Body(hu, bone, np.zeros_like(bone))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids of 32 voxels along each side."""
    monkeypatch.setattr(bodies, "GRID_SIZE", 32)


def exactly(line: FloatArray) -> FloatArray:
    """Outputs of a reader that knows that there is nothing but bone."""
    outline = np.where(line > 0.05, 9.0, -9.0)
    kinds = [0 * line] * len(BONE_KINDS)
    return np.stack([2.5 * line, outline, 0 * line - 2, 0 * line, 0 * line - 9, *kinds]).astype(np.float32)


@pytest.mark.usefixtures("small")
def test_a_body_read_back_is_the_same_body(shaft: Body, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    made = bodies.x_rayed(shaft, rng)
    bodies.write(tmp_path / "limbs-one-000.train.npz", made)
    kept = bodies.read(tmp_path / "limbs-one-000.train.npz")
    assert kept.carms == made.carms and kept.grid == made.grid
    assert np.array_equal(kept.bone, made.bone) and np.array_equal(kept.line, made.line)
    everywhere = np.ones(kept.line.shape[1:], bool)
    readings = [
        understood(exactly(line), line, everywhere, carm, float(pixel_mm))
        for line, carm, pixel_mm in zip(kept.line.astype(np.float32), kept.carms, kept.pixel_mm, strict=True)
    ]
    example = refining.lifted(kept, readings, list(kept.poses))
    seen_by_all = np.repeat(np.repeat(np.repeat(example.evidence.coarse[SEEN] == 1, 2, 0), 2, 1), 2, 2)
    bone = (example.bone > 0.99) & seen_by_all
    assert bone.sum() > 200
    # All four X-rays show bone where it is, and hardly anywhere else.
    assert np.mean(example.evidence.fine[2][bone]) > 0.97
    assert np.mean(example.evidence.fine[2][(example.bone == 0) & seen_by_all]) < 0.1
    assert refining.dice(example.lifted & seen_by_all, (example.bone > 0.5) & seen_by_all) > 0.85


def test_a_degraded_reading_still_resembles_the_original(shaft: Body) -> None:
    line = np.zeros((256, 256), np.float32)
    line[60:200, 100:150] = 2.0
    measured = np.ones(line.shape, bool)
    measured[:20] = False
    carm = bodies.x_rayed(shaft, np.random.default_rng(0)).carms[0]
    good = understood(exactly(line), line, measured, carm, 1.0)
    for seed in range(8):
        bad = refining.misread(good, 1.0, np.random.default_rng(seed))
        assert np.array_equal(np.isnan(bad.bone), ~measured) and np.array_equal(np.isnan(bad.bone_mm), ~measured)
        assert refining.dice(bad.bone > 0.5, good.bone > 0.5) > 0.7
        inside = good.bone > 0.5
        assert 0.4 < np.median(bad.bone_mm[inside] / good.bone_mm[inside]) < 2
        assert not np.array_equal(bad.bone_mm[inside], good.bone_mm[inside])
    same = refining.misread(good, 0.0, np.random.default_rng(0))
    np.testing.assert_allclose(same.bone_mm[measured], good.bone_mm[measured], rtol=1e-5)


@pytest.mark.usefixtures("small")
@pytest.mark.long
def test_training_the_refiner_resumes_and_is_scored(shaft: Body, tmp_path: Path) -> None:
    folder, out = tmp_path / "bodies", tmp_path / "run"
    folder.mkdir()
    rng = np.random.default_rng(1)
    bodies.write(folder / "limbs-one-000.train.npz", bodies.x_rayed(shaft, rng))
    bodies.write(folder / "limbs-two-000.validate.npz", bodies.x_rayed(shaft, rng, validate=True))
    (folder / ".half.limbs-three-000.train.npz").write_bytes(b"being written")
    torch.save({"averaged": ReaderNet().state_dict()}, tmp_path / "reader.pt")
    losses: list[float] = []

    def train(steps: int) -> int:
        ended = len(losses) + steps
        return refining.train(
            folder,
            tmp_path / "reader.pt",
            out,
            Pace(warm_up=2, score_every=3),
            Run(workers=0, until=lambda: len(losses) >= ended, report=lambda step, loss: losses.append(loss)),
            crop=32,
        )

    assert train(2) == 2
    assert train(2) == 4
    assert np.isfinite(losses).all()
    assert last_scores(refining.files_in(out).scores, refining.Score).keys() == {"limbs_2", "limbs_4"}


@pytest.mark.usefixtures("small")
def test_crops_and_mirrored_crops_keep_their_place_in_the_pictures(shaft: Body) -> None:
    """With pictures of bone as features, the mean pooled in a crop is the crop of the mean pooled in the whole."""
    seen = bodies.x_rayed(shaft, np.random.default_rng(2))
    everywhere = np.ones(seen.line.shape[1:], bool)
    readings = [
        understood(exactly(line), line, everywhere, carm, float(pixel_mm))
        for line, carm, pixel_mm in zip(seen.line.astype(np.float32), seen.carms, seen.pixel_mm, strict=True)
    ][:3]
    kept = refining._Halved.of(refining.lifted(seen, readings, list(seen.poses[:3])))
    mirrored = 0
    for seed in range(8):
        fine, _, pictures, pixels, _ = kept.cut(16, np.random.default_rng(seed))
        felt = _pooled(pictures[:, 3:4], pictures[:, -1:], pixels, (8, 8, 8), len(pictures))[0, 0].numpy()
        of_the_crop = fine[1].reshape(8, 2, 8, 2, 8, 2).mean(dim=(1, 3, 5)).numpy()
        assert np.abs(felt - of_the_crop).max() < 0.25 and np.abs(felt - of_the_crop).mean() < 0.03
        assert of_the_crop.std() > 0.05
        mirrored += bool((pixels[0, 2, 0] > 0) != (kept.pixels_from_coarse[0, 2, 0] > 0))
    assert 0 < mirrored < 8


def test_training_without_bodies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rendered bodies"):
        refining.train(tmp_path, tmp_path / "reader.pt", tmp_path)


@pytest.mark.long
def test_bodies_are_rendered_refined_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript", "openvino", "matplotlib"):
        pytest.importorskip(package)
    cts, out = tmp_path / "cts", tmp_path / "run"
    data, settings = training.Data(ct=cts, rounds=1), {"hours": 1e-6, "device": "cpu", "threads": 1}
    drawn(cts, "sts_901")
    drawn(cts, "sts_028")
    with pytest.raises(ConfigError, match="no trained reader"):
        training.run_refiner(data, out, **settings)
    with pytest.raises(ConfigError, match="name a folder of CTs"):
        training.run_refiner(training.Data(), out, reader=models.SHIPPED_READER, **settings)
    out.mkdir()
    torch.save({"averaged": ReaderNet().state_dict()}, out / "reader.pt")
    monkeypatch.setattr(bodies, "GRID_SIZE", refining.CROP)
    report = training.run_refiner(data, out, **settings)
    assert report.steps == 1 and report.bodies == 2
    names = sorted(path.name for path in (out / "bodies3d").glob("*.npz"))
    assert names == ["limbs-sts_028-000.validate.npz", "limbs-sts_901-000.train.npz"]
    facts = models.read_card(out / "refiner_model").training
    assert facts == {"steps": 1, "bodies": 2, "data": ["1 limbs"], "held_out": ["sts_028"]}
    before = (out / "bodies3d" / names[0]).stat().st_mtime_ns
    assert bodies.render_bodies(patients(cts), out / "xrays" / "labels", None, out / "bodies3d", 1) == 2
    assert (out / "bodies3d" / names[0]).stat().st_mtime_ns == before
    pack(out, tmp_path / "data.pack", most_bytes=1 << 24)
    packed, elsewhere = training.Data(pack=tmp_path / "data.pack"), tmp_path / "elsewhere"
    start = out / "refiner_model"
    report = training.run_refiner(packed, elsewhere, reader=out / "reader.pt", start=start, **settings)
    assert (report.steps, report.bodies) == (2, 2)  # where the model's training ended, one step on
    assert models.read_card(elsewhere / "refiner_model").training == {**facts, "steps": 2}


def test_rounds_mix_all_kinds_and_never_repeat_a_body() -> None:
    listed = [
        Patient(f"{region.value}_{n}", Path(f"{n}"), region, validates=n == 0) for region in Region for n in range(120)
    ]
    rounds = [list(bodies._round(listed, number, knees=True)) for number in range(2)]
    for one in rounds:
        assert not any(isinstance(who, Patient) and who.validates for who, _ in one)
        assert {who.region if isinstance(who, Patient) else who for who, _ in one} == {*Region, *bodies.posed.SUBJECTS}
    names = [{(who.name if isinstance(who, Patient) else who, number) for who, number in one} for one in rounds]
    assert not names[0] & names[1]
