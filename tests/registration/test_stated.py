"""A C-arm whose geometry is not what is said of it: alone, an X-ray of it looks like a patient who lies elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from navnode import config
from navnode import geometry as g
from navnode.files.volumes import read_volume
from navnode.projector import Projector
from navnode.registration import evidence_in, judged_together, register_counts
from navnode.registration.answer import FrameRegistration
from navnode.registration.appearance import XrayImage
from navnode.registration.carm import stated as carm_as_stated
from navnode.registration.carm.descent import linearised
from navnode.registration.carm.stated import Evidence, StatedGeometry, contradicted, evidence, of_one_carm, worse
from navnode.registration.single import register_jointly
from navnode.simulation.scenario import carm_of_size
from navnode.types import CArm, Effort, Frame, RegistrationRequest, Status, Validity, Volume
from navnode.xray.chain import XrayChain
from tests.registration.cases import CARM, PIVOT_MM, TIMES, away

LAUNCH = Path(__file__).parents[2] / "launch"


def moved(u_px: float, v_px: float) -> CArm:
    (u, v) = CARM.principal_point_px
    return replace(CARM, principal_point_px=(u + u_px, v + v_px))


def larger(share: float) -> CArm:
    (su, sv) = CARM.pixel_spacing_mm
    return replace(CARM, pixel_spacing_mm=(su * share, sv * share))


WRONG = {
    "centre": moved(-55, 65),
    "other centre": moved(75, 40),
    "zoom": larger(0.8),
    "wide": larger(1.25),
    "focal length 2 % longer": larger(0.98),
    "focal length 2 % shorter": larger(1.02),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.long
def test_an_image_of_another_geometry_is_not_valid(torso, name):
    found = [
        register_counts(
            torso.registration, torso.counts(t_s), WRONG[name], away(torso, t_s, 5, 2, k), PIVOT_MM, Effort.FIND
        )
        for k, t_s in enumerate(TIMES[:3])
    ]
    assert all(each.validity.status is not Status.VALID for each in found)
    if "centre" in name:  # a wrong zoom is mostly found by what the image looks like
        assert all("principal point is not what is stated" in each.validity.reason for each in found)
    if "focal" in name:  # the patient as if 15 mm nearer or farther
        assert all("focal length (or pixel size) is not what is stated" in each.validity.reason for each in found)


@pytest.mark.long
@pytest.mark.parametrize(("deg", "mm"), [(1.5, 3.0), (3.0, 6.0)])
def test_poses_that_do_not_belong_together_are_no_matter_of_the_geometry(torso, deg, mm):
    """A tracker that is wrong between two views bends what each says of its C-arm, which is as it is stated."""
    wrong = g.exp(np.array([0.0, np.deg2rad(deg), 0.0, mm, 0.0, 0.0]), (0.0, 0.0, PIVOT_MM))
    poses = [torso.scenario.volume_from_carm(t_s) for t_s in (0.5, 9.0)]
    exposures = [
        (torso.counts(t_s), CARM, pose @ off, PIVOT_MM, 0)
        for t_s, pose, off in zip((0.5, 9.0), poses, (np.eye(4), wrong), strict=True)
    ]
    found = register_jointly(torso.registration, exposures, Effort.REFINE)
    assert all(each.validity.status is not Status.VALID for each in found)
    assert not any("geometry" in each.validity.reason for each in found)


def test_what_fits_better_is_what_is_right(torso):
    """To first order: half a percent of the focal length, and pixels."""
    for stated, focal, u_px, v_px in ((moved(20, -15), 0.0, -20, 15), (larger(1.06), 0.06, 0, 0)):
        seen = []
        for k, t_s in enumerate(TIMES[:4]):
            image = XrayImage(torso.counts(t_s), stated)
            fit = torso.registration.fit(image, away(torso, t_s, 2, 1, k), PIVOT_MM)
            seen.append(evidence(torso.registration, image, fit.volume_from_carm, PIVOT_MM))
        off = np.linalg.solve(
            np.sum([each.information for each in seen], axis=0), np.sum([each.gradient for each in seen], axis=0)
        )
        pixel_mm = stated.pixel_spacing_mm[0]
        assert abs(off[0] - focal) < 0.025
        assert np.abs(off[1:] / pixel_mm - (u_px, v_px)).max() < 8


def told(torso, stated: CArm, t_s: float, k: int = 0) -> tuple[Evidence, np.ndarray]:
    """What an image says, and the geometry that fits it: a share, px, px."""
    image = XrayImage(torso.counts(t_s), stated)
    fit = torso.registration.fit(image, away(torso, t_s, 2, 1, k), PIVOT_MM)
    own = evidence(torso.registration, image, fit.volume_from_carm, PIVOT_MM)
    return own, np.linalg.solve(own.information, own.gradient) / (1.0, *stated.pixel_spacing_mm)


def test_steps_go_the_whole_way_where_the_first_goes_half(torso, monkeypatch):
    """A centre that is off by 19 px, one image."""
    stated = moved(15, -12)
    stepped = [told(torso, stated, t_s)[1][1:] for t_s in TIMES[:4]]
    monkeypatch.setattr("navnode.registration.carm.stated._STEPS", 0)
    first = [told(torso, stated, t_s)[1][1:] for t_s in TIMES[:4]]
    off, off_at_first = (np.linalg.norm(np.add(each, (15, -12)), axis=1) for each in (stepped, first))
    assert np.median(off) < 0.6 * np.median(off_at_first)
    assert off.max() < 6


def test_a_step_that_loses_the_image_is_not_believed(torso, monkeypatch):
    """What was said before it stands, instead of nothing."""
    stated = moved(15, -12)
    own, _ = told(torso, stated, TIMES[0])
    monkeypatch.setattr("navnode.registration.carm.stated._ASTRAY", 0.0)
    before, _ = told(torso, stated, TIMES[0])
    monkeypatch.setattr("navnode.registration.carm.stated._STEPS", 0)
    first, _ = told(torso, stated, TIMES[0])
    assert np.array_equal(before.gradient, first.gradient) and not np.allclose(own.gradient, first.gradient)


@pytest.mark.parametrize(("blur_px", "own"), [(0.0, 1.0), (3.0, 0.0)])
def test_noise_that_neighbours_share_is_told_from_that_of_pixels(torso, blur_px, own):
    """What is smooth is what a model leaves, and weighs up to 25 times as much as photons."""
    level = torso.registration.fine
    image = XrayImage(torso.counts(TIMES[0]), CARM)
    observed = level.observed(image)
    pose = torso.registration.fit(image, away(torso, TIMES[0], 1, 0, 0), PIVOT_MM).volume_from_carm
    before = linearised(level.projector, observed, pose, PIVOT_MM, None)
    noise = np.random.default_rng(3).normal(size=(observed.carm.height_px, observed.carm.width_px))
    noise = cv2.GaussianBlur(noise, (0, 0), blur_px) if blur_px else noise
    counts = observed.counts * np.exp(0.03 * noise / noise.std()).ravel().astype(np.float32)
    after = linearised(level.projector, replace(observed, counts=counts), pose, PIVOT_MM, None)
    grown = after.noise**2 - before.noise**2
    assert grown > 0.01**2
    assert abs((after.own_noise**2 - before.own_noise**2) / grown - own) < 0.15
    assert after.weight < after.sharp_weight < 25.1 * after.weight


def test_the_stated_geometry_is_believed_where_it_is_right(torso):
    together = StatedGeometry()
    for k, t_s in enumerate(TIMES):
        image = XrayImage(torso.counts(t_s), CARM)
        fit = torso.registration.fit(image, away(torso, t_s, 3, 1, k), PIVOT_MM)
        own = evidence(torso.registration, image, fit.volume_from_carm, PIVOT_MM)
        assert contradicted([own]) is None
        together.add(own)
        assert together.verdict(CARM) is None


def test_an_image_that_says_nothing_shows_nothing():
    """It is not VALID by itself; one that says something beside it is enough."""
    nothing = Evidence(CARM, np.eye(4), PIVOT_MM, np.zeros((3, 3)), np.zeros(3))
    unshown = (Status.DEGRADED, "the image does not show whether the C-arm's geometry is as stated")
    assert contradicted([nothing]) == unshown
    assert contradicted([nothing, says(0, 0)]) is None and contradicted([]) is None


@pytest.mark.parametrize("moved_mm", [(2.5, 0, 0), (0, 2.5, 0), (0, 0, 25)])
def test_parts_that_moved_against_each_other_are_told(torso, procedural_ct, moved_mm):
    """Half of the torso since the CT, in the C-arm's frame: VALID alone may be the other half."""
    volume = read_volume(procedural_ct)
    at = torso.scenario.volume_from_carm(TIMES[0])
    half = volume.voxels.shape[0] // 2
    lower, upper = volume.voxels.copy(), volume.voxels.copy()
    lower[half:], upper[:half] = -1000, -1000
    below, above = (Projector(Volume(part, volume.volume_from_index, "")) for part in (lower, upper))
    carm = carm_of_size(256)
    for way, told_so in ((np.zeros(3), False), (np.array(moved_mm), True)):
        line = below.render(carm, at) + above.render(carm, at @ g.rigid(None, tuple(-way)))
        image = XrayImage(XrayChain().expose(line, CARM, 1.0, np.random.default_rng(0)), CARM)
        fit = torso.registration.fit(image, at, PIVOT_MM)
        own = evidence(torso.registration, image, fit.volume_from_carm, PIVOT_MM)
        assert (own.bent > 10) == told_so, own.bent
    bent = replace(own, gradient=np.zeros(3))
    assert contradicted([bent]) == (Status.DEGRADED, "parts of the patient have moved against each other since the CT")


@pytest.mark.parametrize("t_s", TIMES)
def test_a_pose_that_is_a_little_off_bends_nobody(torso, monkeypatch, t_s):
    """As that of a frame that was tracked may be; seen from there alone, each of these patients is bent."""
    image, off = XrayImage(torso.counts(t_s), CARM), np.array([-0.0039, -0.001, 0.01, 0.5932, -1.4773, -0.0234])
    pose = torso.scenario.volume_from_carm(t_s) @ g.exp(off, (0, 0, PIVOT_MM))
    assert not evidence(torso.registration, image, pose, PIVOT_MM).bent > 10
    monkeypatch.setattr(carm_as_stated, "_RIGID_STEPS", 0)
    assert evidence(torso.registration, image, pose, PIVOT_MM).bent > 10


def test_what_an_image_hardly_tells_it_must_not_contradict():
    """Off by 7 % of the width, give or take 4 %: no contradiction, but a tenth and more is as likely as nothing."""
    width_mm = CARM.width_px * CARM.pixel_spacing_mm[0]
    information = np.diag([1e4, (0.04 * width_mm) ** -2, (0.001 * width_mm) ** -2])
    for off, shown in ((0.02, True), (0.07, False)):
        gradient = information @ np.array([0.0, off * width_mm, 0.0])
        assert (contradicted([Evidence(CARM, np.eye(4), PIVOT_MM, information, gradient)]) is None) == shown


def test_one_image_that_contradicts_speaks_of_all_of_its_carm():
    right, wrong = says(0, 0), says(1, 30)
    assert contradicted([wrong]) is not None and of_one_carm([right]) is None
    assert of_one_carm([right, wrong])[0] is contradicted([wrong])[0]
    nothing = Evidence(CARM, np.eye(4), PIVOT_MM, np.zeros((3, 3)), np.zeros(3))
    assert of_one_carm([right, nothing]) is None, "what one does not show the other does"


def test_views_of_one_carm_are_judged_together(torso):
    """One of two is DEGRADED for the C-arm's geometry: so is the other, and a view of another C-arm is not."""
    image, other = torso.counts(TIMES[0]), moved(-35, 35)
    start = torso.scenario.volume_from_carm(TIMES[0])
    wrong, right = (
        register_counts(torso.registration, image, carm, start, PIVOT_MM, Effort.FIND) for carm in (other, CARM)
    )
    assert "geometry" in wrong.validity.reason and right.validity.status is Status.VALID
    believed = replace(wrong, validity=Validity(Status.VALID))
    fits = [replace(wrong, validity=Validity(Status.DEGRADED)), believed, right]
    carms = (other, other, CARM)
    said = [evidence_in(torso.registration, image, carm, fit) for carm, fit in zip(carms, fits, strict=True)]
    judged = judged_together(fits, said)
    assert [each.validity.status is Status.VALID for each in judged] == [False, False, True]
    assert "geometry" in judged[1].validity.reason


@pytest.mark.parametrize("part", range(3))
def test_a_direction_of_which_nothing_is_known_is_named(part):
    """Every part of the geometry must be shown: errors of 12 % excluded, with 95 %."""
    width_mm = CARM.width_px * CARM.pixel_spacing_mm[0]
    for sigma, shown in ((0.07, True), (0.076, False)):
        sigmas = np.full(3, 0.01)
        sigmas[part] = sigma
        information = np.diag((sigmas * (1.0, width_mm, width_mm)) ** -2.0)
        own = Evidence(CARM, np.eye(4), PIVOT_MM, information, np.zeros(3))
        assert (contradicted([own]) is None) == shown


def says(k: int, sigmas: float) -> Evidence:
    """An image from a direction of its own: the principal point is sigmas of 2.8 % of the width from what is stated."""
    pose, sigma_mm = np.eye(4), 0.028 * CARM.width_px * CARM.pixel_spacing_mm[0]
    pose[0, 3] = 100 * k
    information = np.diag([1e4, sigma_mm**-2, sigma_mm**-2])
    return Evidence(CARM, pose, PIVOT_MM, information, np.array([0.0, sigmas / sigma_mm, 0.0]))


def wants(together: StatedGeometry, one: Evidence) -> bool:
    return together.wants(CARM, one.volume_from_carm, PIVOT_MM)


def test_images_speak_together():
    """Each says a little: two sigma and more, and eight of them more than five."""
    together = StatedGeometry()
    for k in range(8):
        assert wants(together, says(k, 2.4)) and contradicted([says(k, 2.4)]) is None
        together.add(says(k, 2.4))
        assert not wants(together, says(k, 2.4))
    assert together.verdict(moved(1, 1)) is None  # says nothing of another C-arm
    status, reason = together.verdict(CARM)
    assert status is Status.INVALID and "principal point" in reason


def test_a_carm_that_returns_to_what_is_stated_is_believed_again_and_no_other():
    together = StatedGeometry()
    for k in range(8):
        together.add(says(k, 2.4))
    for number in range(1000):  # it is still off, as it shows from all sides
        assert together.verdict(CARM) is not None and wants(together, says(number % 8, 2.4))
        together.add(says(number % 8, 2.4))
    believed = []
    for _ in range(400):  # now it is not
        believed.append(together.verdict(CARM) is None)
        together.add(says(0, 0))
    assert not believed[0] and believed[-1]
    assert believed == sorted(believed)


def test_an_image_is_looked_at_again_after_a_while():
    together = StatedGeometry()
    together.add(says(0, 0))
    wanted = [wants(together, says(0, 0)) for _ in range(160) if together.verdict(CARM) is None]
    assert len(wanted) == 160 and wanted[-1] and not any(wanted[:140])
    for k in range(20):
        together.add(says(k, 0))
    assert len(together._seen) <= 8


def test_a_bent_patient_is_no_matter_of_the_carm():
    """He is DEGRADED until an image from the same direction shows otherwise; nobody looks oftener for him."""
    together = StatedGeometry()
    together.add(replace(says(0, 0), bent=12.0))
    together.add(says(1, 0))
    reason = "parts of the patient have moved against each other since the CT"
    assert together.verdict(CARM) == (Status.DEGRADED, reason) and not wants(together, says(1, 0))
    together.add(says(0, 0))
    assert together.verdict(CARM) is None
    assert contradicted([replace(says(0, 0), bent=float("nan"))]) == (Status.DEGRADED, reason)
    assert "principal point" in contradicted([replace(says(0, 9), bent=12.0)])[1]


def test_the_worse_verdict_counts():
    valid, doubted, refused = (Status.VALID, ""), (Status.DEGRADED, "a"), (Status.INVALID, "b")
    assert worse(valid, None) == valid and worse(valid, doubted) == doubted and worse(doubted, refused) == refused
    assert worse(refused, doubted) == refused and worse((Status.DEGRADED, "c"), doubted) == doubted


def test_a_picture_that_is_displaced_on_the_detector_is_doubted_at_once_and_believed_again(torso, procedural_ct):
    """A console that pans, a frame grabber whose region slips: the markers rest, and the geometry was right so far."""
    volume = read_volume(procedural_ct)
    frames = FrameRegistration(config.load(LAUNCH / "demo.toml"), volume, 1)
    plain = torso.counts(TIMES[1])
    panned = cv2.warpAffine(plain, np.float32([[1, 0, 28], [0, 1, -20]]), (512, 512), borderMode=cv2.BORDER_REPLICATE)
    pose = torso.registration.fit(XrayImage(plain, CARM), away(torso, TIMES[1], 1, 0, 0), PIVOT_MM).volume_from_carm
    said = []
    for number, counts in enumerate([plain] * 3 + [panned] * 4 + [plain] * 4):
        start = torso.registration.fit(XrayImage(counts, CARM), pose, PIVOT_MM).volume_from_carm
        request = RegistrationRequest(Frame(counts, number, number), 1, 1, start, np.eye(4), Effort.TRACK, False)
        found, _ = frames.register(request, volume)
        frames.prepare(request)
        said.append(found.validity)
    before, meanwhile, after = said[:3], said[4:7], said[9:]
    assert {each.status for each in (*before, *after)} == {Status.VALID}
    assert all("C-arm's geometry" in each.reason for each in meanwhile)


def test_frames_that_are_tracked_are_judged_by_those_before(torso, procedural_ct, monkeypatch):
    """A centre that is off: frames from a near start are tracked, and would be VALID for good."""
    volume = read_volume(procedural_ct)
    frames = FrameRegistration(config.load(LAUNCH / "demo.toml"), volume, 1)
    carm = moved(-35, 35)
    monkeypatch.setattr(frames, "_carm", carm)
    counts = torso.counts(TIMES[1])
    pose = torso.registration.fit(XrayImage(counts, carm), away(torso, TIMES[1], 1, 0, 0), PIVOT_MM).volume_from_carm
    seen: list[Validity] = []
    for number in range(4):
        request = RegistrationRequest(Frame(counts, number, number), 1, 1, pose, np.eye(4), Effort.TRACK, False)
        found, _ = frames.register(request, volume)
        frames.prepare(request)
        pose = found.volume_from_carm
        seen.append(found.validity)
    assert seen[0].status is Status.VALID  # tracked, and not judged yet
    assert all(each.status is not Status.VALID and "geometry" in each.reason for each in seen[1:])
