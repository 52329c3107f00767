"""A picture's geometry from the jig's beads, against projections written out by themselves."""

from dataclasses import replace

import numpy as np
import pytest

from navnode import geometry as g
from navnode.jig import jig_for
from navnode.jig.located import LEAST_BEADS, locate_spots
from navnode.types import Status
from tests.conftest import slow
from tests.jig.pictures import cropped, seen

JIG = replace(jig_for(), measured=True, sigma_mm=0.0)
LIMB_MM = np.array([(x, y, z) for x in (-40, 0, 40) for y in (-40, 0, 40) for z in (-60, 0, 60)], float)


def located(picture, jig=JIG):
    return locate_spots(picture.at_px, picture.size_px, jig)


def wrong_names(picture, found):
    """How many beads have another's name."""
    true = [picture.ids[int(np.linalg.norm(picture.at_px - at, axis=1).argmin())] for at in found.spots_px]
    return sum(name != right for name, right in zip(found.ids, true, strict=True))


def errors(picture, found):
    """Focal length (a share), limb across the rays (mm), rotation (degrees)."""
    true_px, depth_mm = picture.project(LIMB_MM)
    at = g.project(found.carm, g.inverse(found.jig_from_carm), LIMB_MM)
    turned = g.rotation_log(found.jig_from_carm[:3, :3] @ picture.rotation)
    off_mm = (np.linalg.norm(at - true_px, axis=1) * depth_mm / picture.focal_px).max()
    return abs(found.focal_px / picture.focal_px - 1), off_mm, np.rad2deg(np.linalg.norm(turned))


@pytest.mark.parametrize("angle_deg", [0, 30, 60, 90])
def test_all_beads_give_the_geometry(angle_deg):
    picture = seen(np.random.default_rng(3 + angle_deg), JIG, missing=0.0, angle_deg=angle_deg)
    found = located(picture)
    assert found.validity.status is Status.VALID
    assert not found.mirrored
    assert wrong_names(picture, found) == 0
    focal, limb_mm, turned_deg = errors(picture, found)
    assert focal < 0.003 and limb_mm < 0.3 and turned_deg < 0.2


def test_without_noise_it_is_exact():
    picture = seen(np.random.default_rng(1), JIG, missing=0.2, noise_px=0.0)
    focal, limb_mm, turned_deg = errors(picture, located(picture))
    assert focal < 1e-3 and limb_mm < 0.02 and turned_deg < 0.1


def test_a_mirrored_picture_is_found_and_told():
    picture = seen(np.random.default_rng(5), JIG, mirrored=True)
    found = located(picture)
    assert found.mirrored
    assert found.validity.status is Status.DEGRADED and "mirrored" in found.validity.reason
    assert wrong_names(picture, found) == 0
    assert errors(picture, found)[0] < 0.01


def test_pixel_spacing_gives_millimetres():
    picture = seen(np.random.default_rng(6), JIG, missing=0.1)
    found = locate_spots(picture.at_px, picture.size_px, JIG, 0.3)
    assert found.carm.pixel_spacing_mm == (0.3, 0.3)
    assert found.carm.source_to_detector_mm == pytest.approx(0.3 * picture.focal_px, rel=0.01)
    nominal = located(picture)
    assert np.allclose(nominal.jig_from_carm, found.jig_from_carm)


@pytest.mark.parametrize("number", range(6))
def test_without_pixel_spacing_the_detector_is_behind_what_it_shows(number):
    picture = seen(np.random.default_rng(60 + number), JIG, missing=0.1)
    nominal = located(picture)
    depth_mm = g.transform(g.inverse(nominal.jig_from_carm), JIG.positions_mm)[:, 2]
    assert nominal.carm.source_to_detector_mm >= max(1000.0, depth_mm.max())
    assert nominal.carm.source_to_detector_mm / nominal.carm.pixel_spacing_mm[0] == pytest.approx(nominal.focal_px)


def test_few_beads_are_told():
    picture = seen(np.random.default_rng(7), JIG, missing=0.95, false=0)
    found = located(picture)
    assert found.beads == 0 and found.validity.status is Status.INVALID
    assert str(LEAST_BEADS) in found.validity.reason


@pytest.mark.parametrize("number", [0, slow(1), slow(2), slow(3)])
@pytest.mark.long
def test_another_jig_is_told(number):
    picture = seen(np.random.default_rng(number), jig_for(seed=1), missing=0.1)
    found = located(picture)
    assert found.beads == 0 and found.validity.status is Status.INVALID
    assert "another jig" in found.validity.reason


def test_a_jig_half_outside_is_told():
    picture = seen(np.random.default_rng(8), JIG, missing=0.0, shift_px=(600.0, 0.0))
    found = located(picture)
    assert found.validity.status is not Status.VALID
    if found.beads:
        assert "half outside" in found.validity.reason
        assert wrong_names(picture, found) == 0


def cropped_wrongly(numbers) -> tuple[int, int]:
    """Laterals and AP views of which a side is cut off, so that one plate is seen face-on and of the other little is
    left: how many were located, and how many of these with wrong names or an error far beyond what is stated."""
    found, wrong = 0, 0
    for number in numbers:
        rng = np.random.default_rng(5000 + number)
        whole = seen(rng, JIG, missing=0.1, false=0, angle_deg=rng.choice([0, 90]) + rng.uniform(-6, 6))
        picture = cropped(whole, rng.uniform(0.15, 0.5), int(rng.integers(4)))
        got = located(picture)
        if not got.beads:
            continue
        focal, limb_mm, _ = errors(picture, got)
        found += 1
        wrong += bool(
            got.mirrored or wrong_names(picture, got) or focal > 4 * got.focal_sigma or limb_mm > 5 * got.limb_mm
        )
    return found, wrong


def test_what_is_left_of_a_cropped_picture_gives_the_geometry_or_nothing():
    found, wrong = cropped_wrongly(range(12))
    assert wrong == 0 and found >= 6


@pytest.mark.slow
def test_no_cropped_picture_gives_a_wrong_geometry():
    found, wrong = cropped_wrongly(range(12, 212))
    assert wrong == 0 and found >= 100


def test_a_picture_stretched_along_one_side_is_no_other_picture():
    whole = seen(np.random.default_rng(9), JIG, missing=0.0, false=0, angle_deg=0)
    stretched = replace(
        whole, at_px=whole.at_px * (0.95, 1.0), size_px=(int(0.95 * whole.size_px[0]), whole.size_px[1])
    )
    got = located(stretched)
    assert not got.beads or (not got.mirrored and got.validity.status is Status.DEGRADED)


@pytest.mark.parametrize("number", range(4))
def test_noise_alone_is_no_jig(number):
    spots = np.random.default_rng(number).uniform(0, 1024, (60, 2))
    assert locate_spots(spots, (1024, 1024), JIG).beads == 0


@pytest.mark.slow
def test_no_bead_is_taken_for_another():
    """With 40 % missing, 5 false spots; every third picture mirrored."""
    off, held = [], []
    for number in range(500):
        mirrored = number % 3 == 2
        picture = seen(np.random.default_rng(1000 + number), JIG, mirrored=mirrored)
        found = located(picture)
        if not found.beads:
            continue
        assert found.mirrored is mirrored
        assert wrong_names(picture, found) == 0
        off.append(errors(picture, found))
        held.append(off[-1][0] < 1.96 * found.focal_sigma)
    focal, limb_mm, turned_deg = np.array(off).T
    assert len(off) >= 490
    assert np.median(focal) < 0.0015 and np.percentile(focal, 90) < 0.0035
    assert np.percentile(limb_mm, 99) < 0.3
    assert np.percentile(turned_deg, 90) < 0.2
    assert np.mean(held) > 0.90
