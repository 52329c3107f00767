"""The reconstruction benchmark: bodies by group, every method, and the parts by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET

from navnode.bench import reconstruction
from navnode.bench.gallery import Gallery
from navnode.bench.reconstruction import BONE_HU, Subject
from navnode.bench.volumes import PartFigures
from navnode.errors import ConfigError
from navnode.files.volumes import write_volume
from navnode.projector.grids import AIR_HU, centered_grid
from navnode.reconstruction.lungs import LungsFound
from navnode.types import Grid, Volume
from tests.reconstruction.balls import drawn

pytestmark = pytest.mark.long


def leg(path: Path) -> Path:
    """A shaft of bone in flesh, coarse enough to render fast."""
    size, spacing_mm = 80, 3.0
    axis = (np.arange(size) - (size - 1) / 2) * spacing_mm
    y, x = np.meshgrid(axis, axis, indexing="ij")
    far = np.hypot(x - 8, y + 6)
    hu = np.select([far < 6, far < 15, np.hypot(x, y) < 65], [-20.0, 1200.0, 40.0], AIR_HU).astype(np.float32)
    write_volume(Volume(np.repeat(hu[None], size, 0), centered_grid((size,) * 3, spacing_mm, np.zeros(3))), path)
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="pictures need the extra `bench`")
    folder = tmp_path_factory.mktemp("cts")
    gallery = Gallery(folder / "report.html")
    path = leg(folder / "leg.nii.gz")
    report = reconstruction.run(
        [Subject(path, "limbs", limb=True)], peers=False, counts=(2,), threads=2, gallery=gallery
    )
    return report, (folder / "report.html").read_text()


def test_bone_that_is_read_beats_a_threshold_of_hu(measured):
    report, _ = measured
    methods = report.groups["limbs"]["2"]
    learned, sart = methods["learned"], methods["SART"]
    assert learned.dice_fixed > sart.dice and learned.assd_mm < sart.assd_mm
    assert learned.threshold < 1 < BONE_HU
    assert 0 <= learned.within_95_bone <= 1 and learned.within_95 > 0.8
    assert report.count == {"limbs": 1} and set(report.bodies) == {"leg.nii.gz"}


def test_parts_are_measured_by_themselves(measured):
    report, _ = measured
    parts = report.parts["limbs"]["2"]
    assert 0 < parts.thickness_error_mm < 10 and parts.outline_dice > 0.8
    assert parts.lift_true_dice > 0.8 and parts.lift_true_dice > parts.lift_read_dice - 0.1


def test_a_report_has_tables_and_pictures(measured):
    report, page = measured
    learned = report.groups["limbs"]["2"]["learned"]
    for text in (f"{learned.dice_fixed:.3f}", f"{learned.psnr_db:.1f}", "limbs (1)", "lift of true thickness", "SART"):
        assert text in page
    assert page.count("data:image/png;base64,") == 1 and "http" not in page


def test_another_kind_of_file_is_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match=r"a report is \.html, a picture \.png"):
        Gallery(Path("report.pdf"))


def test_only_patients_that_nothing_was_trained_on_are_held_out(tmp_path):
    for name in ("sts_004", "sts_011", "sts_901"):
        drawn(tmp_path, name)
    subjects = reconstruction.held_out(tmp_path, 8)
    assert [subject.path.name for subject in subjects] == ["sts_004.nii.gz", "sts_011.nii.gz"]
    assert all(subject.limb and subject.group == "limbs" for subject in subjects)
    assert len(reconstruction.held_out(tmp_path, 1)) == 1


def test_lungs_are_scored_where_all_views_see_some():
    size = reconstruction.SIZE
    lungs, seen = np.zeros((2, size, size, size), bool)
    lungs[40:80, 40:80, 30:70], seen[:, :, :50] = True, True
    case = reconstruction.BodyCase("chest", (), (), np.zeros(1), lungs, seen, np.zeros(3), lungs)
    grid = Grid(size, reconstruction.SPACING_MM)
    half = Grid(size // 2, 2 * reconstruction.SPACING_MM)

    class Finds:
        def __init__(self, found):
            self.found = found

        def lungs(self, views, grid):
            if self.found is None:
                return None
            return LungsFound(Volume(self.found[::2, ::2, ::2].astype(np.float32), half.volume_from_index))

    right, beyond = lungs & seen, np.zeros_like(lungs)
    beyond[40:80, 40:80, 30:40] = True  # half of what is seen
    scores = [reconstruction._lung_dice(Finds(found), case, grid) for found in (lungs, right, beyond, None)]
    assert scores == pytest.approx([1, 1, 2 / 3, 0], abs=0.06)  # voxels of the lungs' grid are twice as large
    nothing = replace(case, lungs=np.zeros_like(lungs))
    assert reconstruction._lung_dice(Finds(lungs), nothing, grid) is UNSET


def test_a_body_without_lung_does_not_hide_the_others_lungs():
    rows = [PartFigures(outline_dice=0.9, lung_dice=dice) for dice in (0.8, UNSET, 0.6)]
    assert reconstruction._median(rows, PartFigures).lung_dice == 0.7
    assert reconstruction._median(rows[1:2], PartFigures).lung_dice is UNSET
    without = [*rows, PartFigures(lung_dice=0.7)]
    assert reconstruction._median(without, PartFigures).outline_dice is UNSET
