"""A CT whose bones move by themselves, in one X-ray after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from navnode import geometry as g
from navnode.files.volumes import read_volume
from navnode.registration.bodies import Articulated
from navnode.types import Effort, Status
from tests.registration.bones import CARM, articulated, camera, moved, patient
from tests.registration.cases import CARM as LARGE
from tests.registration.cases import PIVOT_MM, TIMES, away, exposed_while_moving

DEPTH_MM = 700.0


@pytest.fixture(scope="module")
def ct():
    volume, labels = patient((1, 2))
    return volume, labels[:1]  # the other bone is the one with the marker


@pytest.fixture(scope="module")
def registration(ct):
    return Articulated(*ct, ["Femur"], threads=1)


def shown(ct, volume_from_body, degrees):
    return articulated(ct[0], ct[1], [volume_from_body], degrees)


def off_mm(found, true, center_mm):
    """Across the beam, and along it."""
    shift = g.transform(g.inverse(found), center_mm) - g.transform(g.inverse(true), center_mm)
    return float(np.hypot(*shift[:2])), abs(float(shift[2]))


def test_a_bone_that_moved_since_ct_is_found_and_followed(ct, registration):
    body, rng = registration.bodies[0], np.random.default_rng(3)
    volume_from_body = moved(body, rng, 8.0, 8.0)
    start = camera(20.0) @ g.exp(np.array([0.02, -0.02, 0.01, 4.0, -3.0, 5.0]), (0, 0, DEPTH_MM))
    starts, effort, lost = [start, start], Effort.REFINE, [True]
    for step in range(5):
        truth = camera(20.0 + step)
        shot = shown(ct, volume_from_body, 20.0 + step)
        rest, bone = registration.register(shot.counts, CARM, starts, DEPTH_MM, effort, lost, step)
        across_mm, along_mm = off_mm(rest.volume_from_carm, truth, np.zeros(3))
        assert across_mm < 0.3 and along_mm < 2.0
        true = g.inverse(volume_from_body) @ truth
        across_mm, along_mm = off_mm(bone.volume_from_carm, true, body.center_mm)
        assert across_mm < 0.5 and along_mm < 6.0
        off = g.log(g.inverse(bone.volume_from_carm) @ true, (0, 0, DEPTH_MM))
        covariance = bone.covariance + np.diag([0, 0, 0, 0, 0, 1.0])
        assert off @ np.linalg.solve(covariance, off) < 40, "its covariance covers the error"
        assert bone.validity.status is Status.VALID, bone.validity.reason
        volume_from_body = volume_from_body @ g.exp(np.array([0.005, 0, 0, 0.3, 0.2, 0.0]), body.center_mm)
        near = camera(21.0 + step) @ g.exp(np.array([1e-3, 0, 0, 0.4, 0.3, 0.0]), (0, 0, DEPTH_MM))
        starts = [near, bone.volume_from_carm @ g.inverse(rest.volume_from_carm) @ near]
        effort, lost = Effort.TRACK, [False]


def test_a_bone_that_is_not_that_patients_is_not_valid(registration):
    other, labels = patient((3, 2))
    pose = camera(10.0)
    shot = articulated(other, labels[:1], [np.eye(4)], 10.0)
    _, bone = registration.register(shot.counts, CARM, [pose, pose], DEPTH_MM, Effort.REFINE, [True])
    assert bone.validity.status is not Status.VALID


def test_a_bone_that_is_gone_is_invalid_and_the_ct_is_not(ct, registration):
    pose = camera(0.0)
    away = g.rigid(None, (0.0, 0.0, 400.0))
    shot = shown(ct, away, 0.0)
    rest, bone = registration.register(shot.counts, CARM, [pose, pose], DEPTH_MM, Effort.REFINE, [True])
    assert bone.validity.status is Status.INVALID
    assert off_mm(rest.volume_from_carm, pose, np.zeros(3))[0] < 0.5


def test_a_bone_outside_of_the_picture_says_so(ct, registration):
    pose = camera(0.0)
    shot = shown(ct, np.eye(4), 0.0)
    outside = g.rigid(None, (0.0, 0.0, -400.0)) @ pose
    bone = registration.register(shot.counts, CARM, [pose, outside], DEPTH_MM, Effort.TRACK)[1]
    assert bone.validity.status is Status.INVALID and "does not show it" in bone.validity.reason
    assert not bone.informative


def test_a_blank_picture_says_nothing_about_bones(registration):
    blank = np.full((CARM.height_px, CARM.width_px), 500, np.uint16)
    both = registration.register(blank, CARM, [camera(0.0)] * 2, DEPTH_MM, Effort.REFINE, [True])
    assert [one.validity.status for one in both] == [Status.INVALID] * 2
    assert not any(one.informative for one in both)


def test_the_same_x_ray_gives_the_same_answer(ct):
    shot, answers = shown(ct, g.rigid(None, (3.0, 2.0, 0.0)), 30.0), []
    for _ in range(2):
        registration = Articulated(*ct, ["Femur"], threads=1)
        start = [camera(30.0) @ g.rigid(None, (2.0, 1.0, 0.0))] * 2
        answers.append(registration.register(shot.counts, CARM, start, DEPTH_MM, Effort.REFINE, [True], 9))
    assert all(np.array_equal(a.volume_from_carm, b.volume_from_carm) for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize("film", [False, True])
def test_bones_are_found_in_the_grey_values_of_a_display(ct, film):
    registration = Articulated(*ct, ["Femur"], threads=1)
    body, volume_from_body = registration.bodies[0], g.rigid(None, (4.0, 3.0, 1.0))
    counts = shown(ct, volume_from_body, 15.0).counts
    light = np.clip(counts / np.percentile(counts, 99.5), np.exp(-4.5), 1.0)
    grey = np.round(-255 * np.log(light) / 4.5 if film else 255 * light**0.5).astype(np.uint16)
    truth = camera(15.0)
    start = [truth @ g.rigid(None, (2.0, -2.0, 3.0))] * 2
    rest, bone = registration.register(grey, CARM, start, DEPTH_MM, Effort.REFINE, [True])
    assert off_mm(rest.volume_from_carm, truth, np.zeros(3))[0] < 0.4
    assert off_mm(bone.volume_from_carm, g.inverse(volume_from_body) @ truth, body.center_mm)[0] < 0.6
    assert bone.validity.status is not Status.INVALID, bone.validity.reason


@pytest.mark.parametrize("moved_px", [0, 16])
def test_an_image_in_which_all_moved_while_it_was_exposed_is_refused(torso, procedural_ct, moved_px):
    volume, t_s = read_volume(procedural_ct), TIMES[2]
    label = volume.voxels > 200
    label[: len(label) // 2] = False  # the upper half of the skeleton
    trunk = Articulated(volume, [label], ["Thorax"])
    counts = exposed_while_moving(torso, t_s, moved_px, 30.0)  # 6.4 mm at the anatomy
    start = [away(torso, t_s, 0.5, 0.1, 1)] * 2
    both = trunk.register(counts, LARGE, start, PIVOT_MM, Effort.REFINE, [True])
    if moved_px:
        assert [one.validity.status for one in both] == [Status.INVALID] * 2
        assert all("smeared" in one.validity.reason and not one.informative for one in both), both[0].validity
    else:
        assert both[0].validity.status is Status.VALID and "smeared" not in both[1].validity.reason


@pytest.mark.parametrize("turned", [np.fliplr, np.flipud, np.rot90])
def test_a_mirrored_or_turned_image_makes_no_bone_valid(ct, registration, turned):
    shot = shown(ct, g.rigid(None, (3.0, 1.0, 0.0)), 40.0)
    start = [camera(40.0) @ g.rigid(None, (3.0, -2.0, 5.0))] * 2
    counts = np.ascontiguousarray(turned(shot.counts))
    both = registration.register(counts, CARM, start, DEPTH_MM, Effort.FIND, [True])
    assert not [one.validity for one in both if one.validity.status is Status.VALID]


def test_nothing_is_valid_where_the_carm_is_another_than_is_stated(torso, procedural_ct):
    volume, t_s = read_volume(procedural_ct), TIMES[1]
    label = volume.voxels > 200
    label[: len(label) // 2] = False  # the upper half of the skeleton
    trunk = Articulated(volume, [label], ["Thorax"])
    (u, v), start = LARGE.principal_point_px, [away(torso, t_s, 3, 1, 1)] * 2
    right, wrong = (
        trunk.register(torso.counts(t_s), carm, start, PIVOT_MM, Effort.REFINE, [True])
        for carm in (LARGE, replace(LARGE, principal_point_px=(u + 60, v - 50)))
    )
    assert right[0].validity.status is Status.VALID
    assert "geometry" in wrong[0].validity.reason
    assert not [one.validity for one in wrong if one.validity.status is Status.VALID]
