"""Bodies, each with a pose of its own: bones made here, and a real wrist."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.files.bodies import read_bone
from navnode.files.views import read_views
from navnode.registration.bodies import Body, BodyRegistration, Shot, WholeRegistration
from navnode.registration.bodies.anywhere import apart, rotations_everywhere
from navnode.registration.bodies.equations import Momentum
from navnode.registration.bodies.joint import SCALE, descend, look
from navnode.registration.bodies.picture import Picture
from navnode.registration.bodies.whole import _SHARED_ERRORS
from navnode.types import Status, Volume
from tests.conftest import slow
from tests.registration.bones import CARM, articulated, bone, camera, moved, patient, taken

WRIST = Path(__file__).parents[3] / "shared" / "xray_real" / "wrist"


@pytest.fixture(scope="module")
def two():
    volumes = [bone(1, (-14.0, 0.0, 0.0)), bone(2, (14.0, 6.0, 4.0))]
    return volumes, [Body.of(volume, None, volume.name, 1) for volume in volumes]


def test_derivatives_are_those_of_the_shadow(two):
    body = two[1][0]
    pose, step = g.exp(np.array([0.1, -0.2, 0.05, 2.0, -3.0, 4.0]), body.center_mm), 1e-3
    shadow = body.shadow(CARM, camera(20.0), pose, jacobian=True)
    for axis in range(6):
        xi = np.zeros(6)
        xi[axis] = step / SCALE[axis]
        ends = [body.shadow(CARM, camera(20.0), pose @ g.exp(sign * xi, body.center_mm)) for sign in (1, -1)]
        whole = np.zeros((2, CARM.height_px, CARM.width_px))
        for image, end in zip(whole, ends, strict=True):
            image[end.part] = end.line
        there = (whole[0] - whole[1])[shadow.part] / (2 * step)
        mine = shadow.jacobian[axis] / SCALE[axis]
        assert np.corrcoef(there.ravel(), mine.ravel())[0, 1] > 0.98
        assert 0.9 < np.linalg.norm(mine) / np.linalg.norm(there) < 1.1


@pytest.mark.parametrize("grey", [slow(False), True], ids=["counts", "grey values with a gamma"])
@pytest.mark.long
def test_bones_that_moved_by_themselves_are_found(two, grey):
    volumes, bodies = two
    rng = np.random.default_rng(4)
    poses = [moved(body, rng, 12.0, 12.0) for body in bodies]
    shots = [taken(volumes, poses, degrees, grey) for degrees in (0.0, 80.0)]
    for body, pose, fit in zip(
        bodies, poses, BodyRegistration(shots).register(bodies, [np.eye(4), np.eye(4)]), strict=True
    ):
        mm, rad = apart(body, pose, fit.world_from_body)
        assert fit.validity.status is Status.VALID, fit.validity.reason
        assert mm < 0.3 and np.rad2deg(rad) < 2.5  # about the long axis


def test_all_bodies_together_explain_more(two):
    volumes, bodies = two
    poses = [np.eye(4), g.rigid(None, (-20.0, 0.0, 0.0))]  # one behind the other in the second view
    picture = Picture.of(*_parts(taken(volumes, poses, 90.0)), 2)
    alone = look(bodies[:1], [picture], poses[:1], derive=False).mean
    assert look(bodies, [picture], poses, derive=False).likeness[0, 0] > alone + 0.02


def _parts(shot: Shot):
    return shot.counts, shot.carm, shot.world_from_carm


@pytest.mark.parametrize("what", ["mirrored", "another bone", "not there", "another time"])
def test_what_is_wrong_is_not_valid(two, what):
    volumes, bodies = two
    pose, later = np.eye(4), g.exp(np.array([0.2, 0.1, 0.0, 9.0, 0.0, 8.0]), bodies[0].center_mm)
    shots = [taken(volumes[:1], [pose], 0.0), taken(volumes[:1], [later if what == "another time" else pose], 80.0)]
    wanted = volumes[0]
    if what == "mirrored":
        wanted = Volume(np.ascontiguousarray(wanted.voxels[:, :, ::-1]), wanted.volume_from_index, what)
    elif what == "another bone":
        wanted = bone(3, (-14.0, 0.0, 0.0))
    elif what == "not there":
        shots = [taken(volumes[1:], [pose], degrees) for degrees in (0.0, 80.0)]
    fit = BodyRegistration(shots).register([Body.of(wanted, None, what, 1)], [pose])[0]
    assert fit.validity.status is not Status.VALID and fit.validity.reason


def test_one_view_leaves_depth_open(two):
    volumes, bodies = two
    fit = BodyRegistration([taken(volumes[:1], [np.eye(4)], 0.0)]).register(bodies[:1], [np.eye(4)])[0]
    assert fit.validity.status is Status.DEGRADED and "depth" in fit.validity.reason
    across_mm, deep_mm = (np.sqrt(fit.covariance[n, n]) for n in (3, 4))  # the camera looks along y
    assert deep_mm > 3 * across_mm


def test_a_body_outside_the_pictures_is_said_to_be(two):
    volumes, bodies = two
    shots = [taken(volumes[:1], [np.eye(4)], degrees) for degrees in (0.0, 80.0)]
    fit = BodyRegistration(shots).register(bodies[:1], [g.rigid(None, (0.0, 0.0, 400.0))])[0]
    assert fit.validity.status is Status.INVALID


def test_nothing_is_no_body():
    with pytest.raises(ConfigError, match="no bone"):
        Body.of(Volume(np.full((9, 9, 9), -1000.0, np.float32), np.eye(4), "air"))


def test_rotations_are_spread_evenly():
    turns = np.stack(rotations_everywhere(1400))
    nearest = [
        np.sort(np.arccos(np.clip((np.trace(turns @ one.T, axis1=1, axis2=2) - 1) / 2, -1, 1)))[1]
        for one in turns[::70]
    ]
    assert min(nearest) > 0.1 and max(nearest) < 0.4


# --- bodies of a CT --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved_patient():
    ct, labels = patient((1, 2))
    bodies = [Body.of(ct, label, f"bone {n}", 1) for n, label in enumerate(labels)]
    rng = np.random.default_rng(7)
    poses = [moved(body, rng, 12.0, 10.0) for body in bodies]
    return ct, labels, bodies, poses, [articulated(ct, labels, poses, degrees) for degrees in (0.0, 80.0)]


def test_bones_of_a_ct_that_moved_are_found(moved_patient):
    ct, labels, bodies, poses, shots = moved_patient
    for body, pose, fit in zip(
        bodies, poses, WholeRegistration(ct, labels, bodies, shots).register([np.eye(4)] * 2), strict=True
    ):
        mm, rad = apart(body, pose, fit.world_from_body)
        assert fit.validity.status is Status.VALID, fit.validity.reason
        assert mm < 0.2 and np.rad2deg(rad) < 0.5
        assert mm < 4 * np.sqrt(np.trace(fit.covariance[3:, 3:]))


def test_starts_that_come_to_one_place_end_there(moved_patient):
    """The finest level is descended once; 0.7 mm or 0.05 rad of any body is another place."""
    ct, labels, bodies, truth, shots = moved_patient
    registration = WholeRegistration(ct, labels, bodies, shots, 1)
    first = registration._descend(truth)
    assert registration._descend(truth, found=[first]) is first
    for xi in ([0, 0, 0.06, 0, 0, 0], [0, 0, 0, 0.8, 0, 0]):
        off = [truth[0], truth[1] @ g.exp(np.array(xi, float), bodies[1].center_mm)]
        assert registration._alike(truth, truth) and not registration._alike(off, truth)


def test_sigmas_grow_with_what_neighbours_share(moved_patient):
    """As much noise, but smooth as a model's error is: five times the sigma and nearly no photons' share left."""
    ct, labels, bodies, truth, shots = moved_patient
    found = []
    for blur_px in (0.0, 4.0):
        noise = np.random.default_rng(1).normal(size=shots[0].counts.shape)
        noise = cv2.GaussianBlur(noise, (0, 0), blur_px) if blur_px else noise
        noisy = [replace(shot, counts=shot.counts * np.exp(0.15 * noise / noise.std())) for shot in shots]
        registration = WholeRegistration(ct, labels, bodies, noisy, 1)
        found.append(registration._variances(registration._descend(truth)))
    white, smooth = np.array(found)
    most = _SHARED_ERRORS**2
    assert (white < 0.4 * most).all() and (smooth > 0.84 * most).all() and (smooth <= most).all()


def test_views_of_one_direction_leave_depth_open(moved_patient, monkeypatch):
    """The same picture twice tells no more than once; what is stated of depth grows with what it may be."""
    ct, labels, bodies, poses, shots = moved_patient
    monkeypatch.setattr(WholeRegistration, "_geometry_contradicted", lambda registration, end: None)
    both = WholeRegistration(ct, labels, bodies, shots, 1).register(poses)
    for fit, other in zip(
        WholeRegistration(ct, labels, bodies, [shots[0], shots[0]], 1).register(poses), both, strict=True
    ):
        assert fit.validity.status is Status.DEGRADED and "one direction" in fit.validity.reason
        ray = fit.world_from_body[:3, :3].T @ shots[0].world_from_carm[:3, 2]
        sigma_mm, known_mm = (float(np.sqrt(ray @ each.covariance[3:, 3:] @ ray)) for each in (fit, other))
        assert sigma_mm > 2.0 > known_mm


def test_a_geometry_that_the_views_contradict_is_doubted(moved_patient):
    """Bones take its error up, 8 mm here, and look as they should."""
    ct, labels, bodies, poses, shots = moved_patient
    u, v = shots[0].carm.principal_point_px
    off = [replace(shot, carm=replace(shot.carm, principal_point_px=(u + 0.03 * CARM.width_px, v))) for shot in shots]
    fits = WholeRegistration(ct, labels, bodies, off, 1).register(poses)
    assert all(fit.validity.status is Status.DEGRADED and "C-arm's geometry" in fit.validity.reason for fit in fits)
    assert min(min(fit.likeness) for fit in fits) > 0.8


def test_steps_that_agree_go_on_and_others_do_not():
    momentum = Momentum(2)
    steps = np.zeros((2, 6))
    steps[:, 0] = 0.3, 0.3
    ways = [momentum.carried(steps, 6.0)[:, 0] for _ in range(30)]
    assert ways[0] == pytest.approx(0.3) and ways[-1] == pytest.approx(1.5, rel=0.01)
    steps[1, 0] = -0.2  # the second has gone too far
    assert momentum.carried(steps, 6.0)[:, 0] == pytest.approx([1.5, -0.2], rel=0.01)
    assert np.linalg.norm(momentum.carried(100 * steps, 6.0), axis=1) == pytest.approx(6.0)


def test_a_ct_of_another_patient_is_not_valid(moved_patient):
    shots = moved_patient[-1]
    ct, labels = patient((3, 5))
    bodies = [Body.of(ct, label, f"bone {n}", 1) for n, label in enumerate(labels)]
    fits = WholeRegistration(ct, labels, bodies, shots).register([np.eye(4)] * 2)
    assert all(fit.validity.status is not Status.VALID for fit in fits), [fit.validity for fit in fits]


def test_bones_that_changed_places_are_not_valid(moved_patient):
    ct, labels, bodies, poses, shots = moved_patient
    across = [g.rigid(None, (34.0, 6.0, 4.0)), g.rigid(None, (-34.0, -6.0, -4.0))]
    starts = [pose @ shift for pose, shift in zip(poses, across, strict=True)]
    fits = WholeRegistration(ct, labels, bodies, shots).register(starts)
    wrong = [apart(body, pose, fit.world_from_body)[0] > 2 for body, pose, fit in zip(bodies, poses, fits, strict=True)]
    assert not any(bad and fit.validity.status is Status.VALID for bad, fit in zip(wrong, fits, strict=True))


def test_pictures_of_two_moments_are_not_valid_either(moved_patient):
    ct, labels, bodies, poses, shots = moved_patient
    later = [pose @ g.rigid(None, (0.0, 3.0, 5.0)) for pose in poses]
    mixed = [shots[0], articulated(ct, labels, later, 80.0)]
    fits = WholeRegistration(ct, labels, bodies, mixed).register([np.eye(4)] * 2)
    assert all(fit.validity.status is not Status.VALID for fit in fits), [fit.apart_mm for fit in fits]


# --- a real wrist ----------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not WRIST.exists(), reason="the real X-rays are not here")


def wrist(instant: str) -> tuple[BodyRegistration, dict[str, Body], dict[str, np.ndarray]]:
    shots = [Shot(view.counts(), view.carm, view.pose()) for view in read_views(WRIST / f"views_{instant}.json")]
    reference = json.loads((WRIST / "reference_poses.json").read_text())["reference"][instant]
    bodies = {name: Body.of(read_bone(WRIST / f"{name}.nii.gz"), None, name, 1) for name in ("radius", "ulna")}
    return BodyRegistration(shots), bodies, {name: np.array(reference[name]["world_from_body"]) for name in bodies}


@real
@pytest.mark.parametrize("instant", ["0002", "0099"])
@pytest.mark.long
def test_real_bones_end_at_their_reference(instant):
    registration, bodies, reference = wrist(instant)
    for seed, (name, body) in enumerate(bodies.items()):
        near = reference[name] @ moved(body, np.random.default_rng(seed), 15.0, 15.0)
        found = registration.find(body, near)[0]
        mm, rad = apart(body, reference[name], found.world_from_body)
        assert mm < 0.5 and np.rad2deg(rad) < 2.5 and found.likeness > 0.6


@real
@pytest.mark.slow
@pytest.mark.parametrize("instant", ["0002", "0099"])
def test_real_bones_are_found_without_a_start(instant):
    registration, bodies, reference = wrist(instant)
    for fit in registration.register(list(bodies.values()), [None, None]):
        mm, rad = apart(bodies[fit.name], reference[fit.name], fit.world_from_body)
        assert fit.validity.status is Status.VALID and mm < 0.5 and np.rad2deg(rad) < 2.5


@real
@pytest.mark.slow
def test_pictures_of_two_instants_are_not_valid():
    registration, bodies, _ = wrist("0002")
    other = wrist("0099")[0]
    mixed = BodyRegistration([registration.shots[0], other.shots[1]])
    fits = mixed.register(list(bodies.values()), [None, None])
    assert all(fit.validity.status is not Status.VALID for fit in fits)


def test_descending_never_ends_worse(two):
    volumes, bodies = two
    shots = [taken(volumes, [np.eye(4), np.eye(4)], degrees) for degrees in (0.0, 80.0)]
    pictures = [Picture.of(*_parts(shot), 2) for shot in shots]
    start = [moved(body, np.random.default_rng(n), 3.0, 4.0) for n, body in enumerate(bodies)]
    assert descend(bodies, pictures, start, 8, 0.02).mean >= look(bodies, pictures, start).mean
