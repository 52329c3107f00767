"""What is wrong with bodies and pictures of them is named, and never VALID: for bones of a CT, and for bones alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.registration.bodies import Articulated, Body, BodyRegistration, Shot, WholeRegistration
from navnode.registration.bodies.anywhere import apart
from navnode.types import Effort, Status, Volume
from tests.registration.bones import CARM, articulated, bone, camera, patient, taken

RIGHT_MM = 1.0
LEFT, RIGHT = (-17.0, 0.0, 0.0), (17.0, 6.0, 4.0)
"""Centers of the patient's bones."""


def with_metal(shot: Shot, boxes: list[tuple[np.ndarray, np.ndarray]]) -> Shot:
    """An X-ray with metal boxes, (center, size) in mm."""
    counts = shot.counts.copy()
    signs = np.array(np.meshgrid(*[[-0.5, 0.5]] * 3)).reshape(3, -1).T
    for center_mm, size_mm in boxes:
        corners = g.project(shot.carm, g.inverse(shot.world_from_carm), center_mm + signs * size_mm)
        mask = np.zeros(counts.shape, np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(corners).astype(np.int32)), 1)
        counts[mask > 0] = 0
    return replace(shot, counts=counts)


def plate(center: tuple[float, float, float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """A plate along a bone that hides most of it, from both sides."""
    return [(np.array(center), np.array([22.0, 22.0, 50.0]))]


def beads(center: tuple[float, float, float]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [(np.array(center) + rng.uniform(-20, 20, 3), np.full(3, 2.5)) for _ in range(10)]


def wrong_and_valid(bodies, poses, fits):
    """Bodies that are VALID where they are not."""
    return [
        fit.name
        for body, pose, fit in zip(bodies, poses, fits, strict=True)
        if fit.validity.status is Status.VALID and apart(body, pose, fit.world_from_body)[0] > RIGHT_MM
    ]


# --- bones of a CT ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ct():
    volume, labels = patient((1, 2))
    bodies = [Body.of(volume, label, name, 1) for label, name in zip(labels, ("Left", "Right"), strict=True)]
    poses = [g.rigid(None, (3.0, -2.0, 2.0)), g.rigid(None, (-2.0, 3.0, 1.0))]
    return volume, labels, bodies, poses, [articulated(volume, labels, poses, degrees) for degrees in (0.0, 80.0)]


def whole(ct, shots=None, starts=None):
    volume, labels, bodies, _, own = ct
    return WholeRegistration(volume, labels, bodies, shots or own).register(starts or [np.eye(4)] * 2)


def test_a_label_map_of_another_ct_is_named(ct):
    volume, labels = ct[:2]
    with pytest.raises(ConfigError, match="another CT"):
        Body.of(volume, np.roll(labels[0], (0, 18, 9), (0, 1, 2)), "Femur", 1)
    with pytest.raises(ConfigError, match=r"no bone|another CT"):
        Body.of(volume, np.roll(labels[0], -30, 1), "Femur", 1)


def test_an_empty_label_is_named(ct):
    with pytest.raises(ConfigError, match="no bone"):
        Body.of(ct[0], np.zeros(ct[0].voxels.shape, bool), "Femur", 1)


def test_a_bone_of_a_ct_outside_of_the_pictures_is_named_alone(ct):
    far = g.rigid(None, (0.0, 0.0, 400.0))
    outside, there = whole(ct, starts=[far, np.eye(4)])
    assert outside.validity.status is Status.INVALID and outside.validity.reason
    assert not wrong_and_valid(ct[2][1:], ct[3][1:], [there])


@pytest.mark.slow
def test_a_mirrored_ct_is_not_valid(ct):
    volume, labels, *_, shots = ct
    mirrored = Volume(np.ascontiguousarray(volume.voxels[:, :, ::-1]), volume.volume_from_index, "mirrored")
    flipped = [np.ascontiguousarray(label[:, :, ::-1]) for label in labels]
    bodies = [Body.of(mirrored, label, "mirrored", 1) for label in flipped]
    fits = WholeRegistration(mirrored, flipped, bodies, shots).register([np.eye(4)] * 2)
    assert all(fit.validity.status is not Status.VALID and fit.validity.reason for fit in fits)


def test_a_plate_that_was_not_there_at_ct_is_named(ct):
    shots = [with_metal(shot, plate(LEFT)) for shot in ct[-1]]
    fits = whole(ct, shots)
    assert fits[0].validity.status is not Status.VALID and fits[0].validity.reason
    assert not wrong_and_valid(ct[2], ct[3], fits)


@pytest.mark.slow
def test_beads_that_were_not_there_at_ct_make_nothing_wrong_valid(ct):
    fits = whole(ct, [with_metal(shot, beads(LEFT)) for shot in ct[-1]])
    assert not wrong_and_valid(ct[2], ct[3], fits)
    assert all(fit.validity.reason for fit in fits if fit.validity.status is not Status.VALID)


@pytest.mark.parametrize("metal", [plate, beads])
def test_metal_that_was_not_there_at_ct_makes_nothing_wrong_valid_while_followed(ct, metal):
    volume, labels, bodies, poses, _ = ct
    registration = Articulated(volume, labels[:1], ["Left"], threads=1)
    shot = with_metal(articulated(volume, labels, [poses[0], np.eye(4)], 0.0), metal(LEFT))
    pose = camera(0.0)
    _, found = registration.register(shot.counts, CARM, [pose, pose], 700.0, Effort.REFINE, [True])
    off = g.transform(g.inverse(found.volume_from_carm), bodies[0].center_mm)
    off -= g.transform(g.inverse(g.inverse(poses[0]) @ pose), bodies[0].center_mm)
    assert found.validity.status is not Status.VALID or np.hypot(*off[:2]) < RIGHT_MM
    assert found.validity.status is Status.VALID or found.validity.reason
    assert metal is beads or found.validity.status is not Status.VALID


# --- bones alone -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone():
    volumes = [bone(1, LEFT), bone(2, RIGHT)]
    poses = [g.rigid(None, (3.0, -2.0, 2.0)), g.rigid(None, (-2.0, 3.0, 1.0))]
    bodies = [Body.of(volume, None, name, 1) for volume, name in zip(volumes, ("Left", "Right"), strict=True)]
    return bodies, poses, [taken(volumes, poses, degrees) for degrees in (0.0, 80.0)]


@pytest.mark.long
def test_bones_that_are_exchanged_are_not_valid(alone):
    bodies, poses, shots = alone
    across = np.subtract(RIGHT, LEFT)
    starts = [g.rigid(None, across), g.rigid(None, -across)]
    fits = BodyRegistration(shots).register(bodies, starts)
    assert not wrong_and_valid(bodies, poses, fits)
    assert all(fit.validity.reason for fit in fits if fit.validity.status is not Status.VALID)


def test_a_plate_over_a_bone_is_named(alone):
    bodies, poses, shots = alone
    fits = BodyRegistration([with_metal(shot, plate(LEFT)) for shot in shots]).register(bodies, [np.eye(4)] * 2)
    assert fits[0].validity.status is not Status.VALID and fits[0].validity.reason
    assert not wrong_and_valid(bodies, poses, fits)


@pytest.mark.slow
def test_beads_make_nothing_wrong_valid(alone):
    bodies, poses, shots = alone
    fits = BodyRegistration([with_metal(shot, beads(LEFT)) for shot in shots]).register(bodies, [np.eye(4)] * 2)
    assert not wrong_and_valid(bodies, poses, fits)
