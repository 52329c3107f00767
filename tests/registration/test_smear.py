"""Images that something smeared while they were exposed, although no tracker saw it move."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from navnode import geometry as g
from navnode.projector import Projector
from navnode.registration import ImageRegistration, register_counts
from navnode.registration.appearance import XrayImage
from navnode.registration.smear import MAX_SMEAR_MM, SEEN_SMEAR_MM, anticipate, smeared
from navnode.simulation.scenario import DETECTOR_MM, carm_of_size
from navnode.types import Effort, Status, Volume
from navnode.xray.chain import XrayChain
from tests.conftest import slow
from tests.registration.cases import CARM, PIVOT_MM, RENDERED_PX, TIMES, Case, away, exposed_while_moving

pytestmark = pytest.mark.long

DIRECTIONS = (0.0, 45.0, 90.0, 120.0)


def smear_of(case: Case, counts: np.ndarray, t_s: float):
    fit = SimpleNamespace(volume_from_carm=case.scenario.volume_from_carm(t_s))
    return smeared(case.registration, XrayImage(counts, CARM), fit, PIVOT_MM)


@pytest.mark.parametrize("t_s", TIMES)
def test_sharp_images_are_not_refused(torso, t_s):
    for noise in range(3):
        counts = exposed_while_moving(torso, t_s, 0.0, 0.0, noise)
        assert smear_of(torso, counts, t_s).mm < SEEN_SMEAR_MM
        start = away(torso, t_s, 0.8, 0.3, noise)
        found = register_counts(torso.registration, counts, CARM, start, PIVOT_MM, Effort.TRACK)
        assert found.validity.usable, found.validity.reason


@pytest.mark.parametrize("length_px", [2, 4, 8, 16])
@pytest.mark.parametrize("angle_deg", DIRECTIONS)
def test_smear_is_measured_along_its_direction(torso, length_px, angle_deg):
    true_mm = length_px * DETECTOR_MM / CARM.width_px * PIVOT_MM / CARM.source_to_detector_mm
    measured = [smear_of(torso, exposed_while_moving(torso, t_s, length_px, angle_deg), t_s) for t_s in TIMES]
    lengths_mm = [smear.mm for smear in measured]
    off_deg = [np.rad2deg(np.arctan2(smear.along[1], smear.along[0])) - angle_deg for smear in measured]
    print(length_px, angle_deg, f"{true_mm:.1f} mm:", np.round(lengths_mm, 1), np.round(off_deg))
    if length_px <= 4:
        assert max(lengths_mm) < MAX_SMEAR_MM, "too little to be told from none"
        return
    assert abs(np.median(lengths_mm) - true_mm) < 1.3
    if length_px == 16:
        assert min(lengths_mm) > MAX_SMEAR_MM
        assert all(abs((off + 90) % 180 - 90) < 15 for off in off_deg)


@pytest.mark.risk("wrong-image")
@pytest.mark.parametrize("effort", [Effort.TRACK, Effort.REFINE])
@pytest.mark.parametrize("angle_deg", DIRECTIONS)
def test_an_image_of_something_that_moved_is_not_valid(torso, effort, angle_deg):
    for k, t_s in enumerate(TIMES):
        counts, start = exposed_while_moving(torso, t_s, 16, angle_deg), away(torso, t_s, 0.8, 0.3, k)
        found = register_counts(torso.registration, counts, CARM, start, PIVOT_MM, effort)
        assert found.validity.status is not Status.VALID, t_s
        if "smeared" in found.validity.reason:
            assert not found.informative, "it says nothing about the pose"


def test_a_smear_that_may_be_none_is_counted_in_sigma(torso):
    sharper, larger = 0, 0
    for k, t_s in enumerate(TIMES):
        start = away(torso, t_s, 0.8, 0.3, k)
        for length_px in (0, 9):
            counts = exposed_while_moving(torso, t_s, length_px, 0.0)
            found = register_counts(torso.registration, counts, CARM, start, PIVOT_MM, Effort.REFINE)
            if found.validity.usable:
                sharper += length_px == 0 and found.sigma[3] < 0.3
                larger += length_px > 0 and found.sigma[3] > SEEN_SMEAR_MM / np.sqrt(12)
    assert sharper == len(TIMES) and larger > 0


def test_what_the_detector_blurs_of_a_single_shaft_is_no_smear():
    """Along itself a shaft has next to no detail: how blurred an image is there, nobody can tell."""
    z, y, x = np.mgrid[-90:90:2.0, -60:60:1.0, -60:60:1.0].astype(np.float32)
    hu, shaft_mm = np.full(x.shape, -1000, np.float32), np.hypot(x - 0.12 * z, y)
    hu[np.hypot(x, 1.15 * y) < 48 + 0.05 * z] = 40
    hu[shaft_mm < 14], hu[shaft_mm < 8] = 1100, 0
    volume_from_index = np.diag([1.0, 1.0, 2.0, 1.0])
    volume_from_index[:3, 3] = (-60.0, -60.0, -90.0)
    limb, carm = Volume(hu, volume_from_index), carm_of_size(256)
    registration, projector, random = ImageRegistration(limb, 1), Projector(limb), np.random.default_rng(0)
    for deg in (0.0, 30.0, 60.0, 90.0):
        fit = SimpleNamespace(volume_from_carm=g.pose_at(np.zeros(3), PIVOT_MM, orbital_deg=deg))
        light = cv2.GaussianBlur(np.exp(-projector.render(carm, fit.volume_from_carm)), (0, 0), 1.5)
        counts = random.poisson(20_000 * light).astype(np.uint16)
        assert smeared(registration, XrayImage(counts, carm), fit, PIVOT_MM).mm == 0.0, deg


def turned(case: Case, t_s: float, deg: float, axis: int, noise: int) -> np.ndarray:
    """An X-ray over which the C-arm turned about the anatomy; the middle of the turn is at the time."""
    at, carm, steps = case.scenario.volume_from_carm(t_s), carm_of_size(RENDERED_PX), max(1, round(6 * deg) | 1)
    poses = [at @ turn(axis, deg * along) for along in np.linspace(-0.5, 0.5, steps)]
    light = np.mean([np.exp(-case._projector.render(carm, pose)) for pose in poses], axis=0)
    return XrayChain().expose(-np.log(light), CARM, 1.0, np.random.default_rng(noise))


def turn(axis: int, deg: float) -> np.ndarray:
    return g.exp(np.deg2rad(deg) * np.eye(6)[axis], (0.0, 0.0, PIVOT_MM))


@pytest.mark.parametrize(("deg", "refused"), [(0.0, 0), (2.0, 0), (6.0, len(TIMES)), (10.0, len(TIMES))])
@pytest.mark.parametrize("axis", [0, slow(1)])
def test_a_carm_that_turns_about_the_anatomy_smears_too(torso, deg, refused, axis):
    """The frame before tells how it turns: parts of the image move both ways, and no direction is smeared."""
    measured_mm = []
    for noise, t_s in enumerate(TIMES):
        torso.registration.placed = torso.scenario.volume_from_carm(t_s) @ turn(axis, -4.0)
        measured_mm.append(smear_of(torso, turned(torso, t_s, deg, axis, noise), t_s).mm)
    print(f"{deg:.0f} deg, {np.deg2rad(deg) * 60:.1f} mm:", np.round(measured_mm, 1))
    assert sum(mm > MAX_SMEAR_MM for mm in measured_mm) == refused


@pytest.mark.parametrize(
    ("deg", "at_first"), [(0.02, 0), (1.0, 1), (2.0, 3)], ids=["breathing", "slow sweep", "quick sweep"]
)
def test_what_goes_on_as_before_is_rendered_between_two_images(torso, monkeypatch, deg, at_first):
    """Once it is known how the C-arm moves, no image waits for a projection."""
    registration = torso.registration
    monkeypatch.setattr(registration, "expected", None)
    monkeypatch.setattr(registration, "placed", None)
    monkeypatch.setattr(registration, "way", None)
    at, carm = torso.scenario.volume_from_carm(TIMES[0]), carm_of_size(RENDERED_PX)
    projector, rendered, waits = registration.fine.projector, [], []

    class Counting:
        def render(self, *arguments):
            rendered.append(arguments)
            return projector.render(*arguments)

    monkeypatch.setattr(registration, "fine", dataclasses.replace(registration.fine, projector=Counting()))
    for k in range(8):
        fit = SimpleNamespace(volume_from_carm=at @ turn(1, k * deg))
        line = torso._projector.render(carm, fit.volume_from_carm)
        image = XrayImage(XrayChain().expose(line, CARM, 1.0, np.random.default_rng(k)), CARM)
        rendered.clear()
        smeared(registration, image, fit, PIVOT_MM)
        waits.append(len(rendered))
        anticipate(registration, PIVOT_MM)
    assert waits == [1, at_first, 0, 0, 0, 0, 0, 0]
