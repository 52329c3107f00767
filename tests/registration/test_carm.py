"""A C-arm that is known only roughly, found from X-rays of a body whose shadows are known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from navnode import geometry as g
from navnode.projector import Projector
from navnode.registration import ImageRegistration
from navnode.registration.appearance import NOTHING
from navnode.registration.carm import Shot, calibrate, ray_derivatives
from navnode.registration.carm.verdict import blamed
from navnode.registration.fit import Fit
from navnode.types import CArm, Status, Volume

SIZE, SPACING_MM = 140, 1.5
TRUE = CArm(340, 340, (0.83, 0.83), 1050.0, (174.0, 161.5))
ROUGH = replace(TRUE, source_to_detector_mm=1050.0 * 1.08, principal_point_px=(174.0 - 32.0, 161.5 + 27.0))
"""Eight percent too far, and off by a tenth of the image."""
DISTANCE_MM = 700.0
PIVOT = (0.0, 0.0, DISTANCE_MM)


class Body:
    """Soft tissue with bones, all Gaussian, around the origin."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.centers = [np.zeros(3)]
        self.shapes = [np.diag(1 / np.array([31.0, 25.0, 31.0]))]
        self.densities = [1.0]
        for _ in range(40):
            turn = g.rotation_exp(rng.normal(size=3))
            self.centers.append(rng.uniform(-1, 1, 3) * (50, 36, 52))
            self.shapes.append(np.diag(1 / rng.uniform(2.5, 9, 3)) @ turn)
            self.densities.append(float(rng.choice([0.6, 0.45, 0.3])))
        at = (np.arange(SIZE) - (SIZE - 1) / 2) * SPACING_MM
        density = np.zeros((SIZE,) * 3, np.float32)
        for center, shape, share in zip(self.centers, self.shapes, self.densities, strict=True):
            reach = 4.5 / np.linalg.norm(shape, axis=1).min()
            near = [np.flatnonzero(np.abs(at - middle) <= reach) for middle in center]
            i, j, k = (at[places] - middle for places, middle in zip(near, center, strict=True))
            x, y, z = i[None, None, :], j[None, :, None], k[:, None, None]
            squared = sum((row[0] * x + row[1] * y + row[2] * z) ** 2 for row in shape)
            density[np.ix_(near[2], near[1], near[0])] += np.float32(share) * np.exp(-squared / 2).astype(np.float32)
        volume_from_index = np.diag([SPACING_MM] * 3 + [1.0])
        volume_from_index[:3, 3] = at[0]
        self.volume = Volume(density * 1000 - 1000, volume_from_index)

    def counts(self, carm: CArm, volume_from_carm: np.ndarray, seed: int = 0) -> np.ndarray:
        """Photons behind the body."""
        u = np.arange(carm.width_px) - carm.principal_point_px[0]
        v = np.arange(carm.height_px) - carm.principal_point_px[1]
        across, down = np.meshgrid(u * carm.pixel_spacing_mm[0], v * carm.pixel_spacing_mm[1])
        ray = np.stack([across, down, np.full_like(across, carm.source_to_detector_mm)], axis=-1)
        ray = ray @ volume_from_carm[:3, :3].T
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        line = np.zeros(across.shape)
        for center, shape, share in zip(self.centers, self.shapes, self.densities, strict=True):
            d, o = ray @ shape.T, shape @ (volume_from_carm[:3, 3] - center)
            a, b = (d * d).sum(-1), d @ o
            line += share * 0.02 * np.sqrt(2 * np.pi / a) * np.exp((b * b / a - o @ o) / 2)
        return np.random.default_rng(seed).poisson(50_000 * np.exp(-line)).astype(np.uint16)


@pytest.fixture(scope="module")
def body() -> Body:
    return Body(3)


@pytest.fixture(scope="module")
def registration(body) -> ImageRegistration:
    return ImageRegistration(body.volume)


POSES = [
    g.pose_at(np.array([4.0, -3.0, 6.0]), DISTANCE_MM, orbital_deg=8.0, angulation_deg=4.0),
    g.pose_at(np.array([-5.0, 2.0, 1.0]), DISTANCE_MM + 25, orbital_deg=83.0, angulation_deg=-9.0, roll_deg=5.0),
    g.pose_at(np.array([2.0, 6.0, -4.0]), DISTANCE_MM - 20, orbital_deg=44.0, angulation_deg=32.0, roll_deg=-4.0),
]
OFF = [
    np.array([0.06, -0.04, 0.08, 9.0, -12.0, 20.0]),
    np.array([-0.05, 0.08, 0.03, -10.0, 6.0, -25.0]),
    np.array([0.04, 0.03, -0.07, 4.0, 9.0, 15.0]),
]
STARTS = [pose @ g.exp(xi, PIVOT) for pose, xi in zip(POSES, OFF, strict=True)]
MOTION = STARTS[0] @ g.inverse(POSES[0])
TOGETHER = [MOTION @ pose for pose in POSES]


def shots(body: Body, starts: list, carms: list | None = None, how=lambda counts: counts) -> list[Shot]:
    taken = zip(POSES, carms or [TRUE] * 3, starts, range(3), strict=False)
    return [Shot(np.ascontiguousarray(how(body.counts(carm, pose, k))), [at], k) for pose, carm, at, k in taken]


def ray_of(carm: CArm, pose: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    off_mm = (pixel - carm.principal_point_px) * carm.pixel_spacing_mm
    ray = pose[:3, :3] @ np.array([*off_mm, carm.source_to_detector_mm])
    return ray / np.linalg.norm(ray)


def pixel_of(point_mm: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Where a point is really seen."""
    x, y, z = pose[:3, :3].T @ (point_mm - pose[:3, 3])
    return TRUE.principal_point_px + np.array([x, y]) / z * TRUE.source_to_detector_mm / 0.83


POINTS_MM = np.array([[0.0, 0, 0], [30, -20, 40], [-35, 25, -30], [10, 30, 50]])


def located_mm(found) -> float:
    """How far points are from where the rays meet on which they are seen."""
    errors = []
    for point in POINTS_MM:
        total, at = np.zeros((3, 3)), np.zeros(3)
        for pose, result in zip(POSES, found.registrations, strict=False):
            ray = ray_of(found.carm, result.volume_from_carm, pixel_of(point, pose))
            across = np.eye(3) - np.outer(ray, ray)
            total, at = total + across, at + across @ result.volume_from_carm[:3, 3]
        errors.append(np.linalg.norm(np.linalg.solve(total, at) - point))
    return float(max(errors))


def test_derivatives_in_the_geometry_are_differences_of_renderings(body):
    projector, carm, pose = Projector(body.volume), TRUE.binned(4), POSES[0]
    _, jacobian = projector.render(carm, pose, jacobian=True, pivot_mm=DISTANCE_MM)
    found = ray_derivatives(carm, jacobian.reshape(6, -1), DISTANCE_MM)
    (u, v), (su, sv) = carm.principal_point_px, carm.pixel_spacing_mm

    def changed(step: np.ndarray) -> np.ndarray:
        other = replace(
            carm,
            source_to_detector_mm=carm.source_to_detector_mm * float(np.exp(step[0])),
            principal_point_px=(u + step[1] / su, v + step[2] / sv),
        )
        return projector.render(other, pose).ravel()

    for row, size in zip(range(3), (2e-3, 0.4, 0.4), strict=True):
        step = np.eye(3)[row] * size
        difference = (changed(step) - changed(-step)) / (2 * size)
        assert np.corrcoef(found[row], difference)[0, 1] > 0.99
        assert found[row] @ difference / (difference @ difference) == pytest.approx(1.0, abs=0.02)


@pytest.mark.long
def test_two_views_locate_as_if_the_geometry_were_known(body, registration):
    found = calibrate(registration, body.volume.center_mm, ROUGH, shots(body, STARTS[:2]))
    assert found.validity.status is Status.DEGRADED and "principal point" in found.validity.reason
    assert str(found.readout) == "as they are"
    off_mm = found.carm.source_to_detector_mm - TRUE.source_to_detector_mm
    off_px = np.subtract(found.carm.principal_point_px, TRUE.principal_point_px)
    assert np.all(np.abs([off_mm, *off_px]) < 3 * found.sigma), (off_mm, off_px, found.sigma)
    assert found.sigma[0] < 25  # of 84 that it was off
    assert located_mm(found) < 0.1 and found.located_mm < 0.1
    assert found.apart_deg == pytest.approx(75, abs=5)


@pytest.mark.parametrize(
    ("how", "mirrored", "turned_deg"),
    [(np.flipud, True, 180), (lambda counts: np.rot90(counts, 2), False, 180)],
)
@pytest.mark.long
def test_mirrored_and_turned_pictures_are_recognised(body, registration, how, mirrored, turned_deg):
    found = calibrate(registration, body.volume.center_mm, ROUGH, shots(body, STARTS[:2], how=how))
    assert (found.readout.mirrored, found.readout.turned_deg) == (mirrored, turned_deg)
    assert found.validity.status is Status.DEGRADED and ("mirrored" in found.validity.reason) == mirrored
    assert found.runner_up > 3


@pytest.mark.long
def test_views_that_share_one_motion_give_a_geometry_to_rely_on(body, registration):
    found = calibrate(registration, body.volume.center_mm, ROUGH, shots(body, TOGETHER), joint=True)
    assert found.validity.status is Status.VALID, found.validity.reason
    assert found.carm.source_to_detector_mm == pytest.approx(TRUE.source_to_detector_mm, abs=3 * found.sigma[0])
    assert found.carm.principal_point_px == pytest.approx(TRUE.principal_point_px, abs=0.8)
    for result, pose in zip(found.registrations, POSES, strict=True):
        seen, truly = (g.transform(g.inverse(at), POINTS_MM) for at in (result.volume_from_carm, pose))
        assert np.linalg.norm(seen - truly, axis=1).max() < 0.6 < found.patient_mm


@pytest.mark.parametrize("moved_mm", [0.0, 5.0])
@pytest.mark.long
def test_a_patient_who_moved_between_two_pictures_is_no_geometry(body, registration, moved_mm):
    """The stated geometry is right: his motion would be found as a principal point some pixels off."""
    poses = [POSES[0], g.rigid(None, (0.0, moved_mm, 0.0)) @ POSES[1]]
    taken = [Shot(body.counts(TRUE, pose, k), [TOGETHER[k]], k) for k, pose in enumerate(poses)]
    found = calibrate(registration, body.volume.center_mm, TRUE, taken, joint=True)
    assert found.validity.status is Status.DEGRADED
    assert ("the patient moved by 3 mm or more: a third view tells" in found.validity.reason) == bool(moved_mm)


def test_one_view_says_how_open_its_depth_is(body, registration):
    found = calibrate(registration, body.volume.center_mm, ROUGH, shots(body, STARTS[:1]))
    assert found.validity.status is Status.DEGRADED and "depth" in found.validity.reason
    result = found.registrations[0]
    depths = [g.transform(g.inverse(pose), np.zeros(3))[2] for pose in (result.volume_from_carm, POSES[0])]
    assert abs(depths[0] - depths[1]) < 2.5 * result.sigma[5]
    for point in POINTS_MM:
        ray = ray_of(found.carm, result.volume_from_carm, pixel_of(point, POSES[0]))
        to = point - result.volume_from_carm[:3, 3]
        assert np.linalg.norm(to - ray * (to @ ray)) < 1.0
    assert found.located_mm is None


def other_patient(body: Body) -> tuple[list[Shot], bool]:
    other = Body(11)
    return [shots(body, STARTS)[0], shots(other, STARTS)[1]], False


def two_geometries(body: Body) -> tuple[list[Shot], bool]:
    return shots(body, STARTS[:2], [TRUE, replace(TRUE, source_to_detector_mm=980.0)]), False


def one_of_them_mirrored(body: Body) -> tuple[list[Shot], bool]:
    taken = shots(body, STARTS[:2])
    return [taken[0], replace(taken[1], counts=np.ascontiguousarray(taken[1].counts[:, ::-1]))], False


def poses_that_do_not_belong_together(body: Body) -> tuple[list[Shot], bool]:
    wrong = TOGETHER[1] @ g.exp(np.array([0.0, 0.02, 0.0, 2.0, -2.0, 0.0]), PIVOT)
    return shots(body, [TOGETHER[0], wrong]), True


def nothing(body: Body) -> tuple[list[Shot], bool]:
    taken = shots(body, STARTS[:2])
    return [taken[0], replace(taken[1], counts=np.full((340, 340), 900, np.uint16))], False


@pytest.mark.parametrize(
    "wrong", [other_patient, two_geometries, one_of_them_mirrored, poses_that_do_not_belong_together, nothing]
)
@pytest.mark.long
def test_views_that_do_not_belong_together_are_refused(body, registration, wrong):
    taken, joint = wrong(body)
    found = calibrate(registration, body.volume.center_mm, ROUGH, taken, joint=joint)
    if wrong is two_geometries:  # what round bodies show of them differs little
        assert found.validity.status is not Status.VALID
        return
    assert found.validity.status is Status.INVALID, found.validity.reason
    assert all(result.validity.status is Status.INVALID for result in found.registrations)


def judged_alone(similarity: float) -> Fit:
    return Fit(np.eye(4), replace(NOTHING, similarity=similarity), 1, 0.0, np.eye(6))


@pytest.mark.parametrize(
    ("refused", "alone", "said"),
    [
        ([1], [0.99, 0.98], "view 1: unlike 1"),
        ([0], [0.98, 0.85], "view 1: image and volume do not match (similarity 0.85 by itself)"),
        ([0, 1], [0.99, 0.85], "view 1: unlike 1"),
        ([0, 1, 2], [0.99, 0.98, 0.99], "views 0, 1, 2, one of which may spoil the geometry for all: unlike 0"),
    ],
)
def test_the_view_that_spoils_the_geometry_is_named_and_no_other(refused, alone, said):
    verdicts = [(Status.INVALID, f"unlike {k}") for k in range(3)]
    assert blamed(refused, verdicts, [judged_alone(each) for each in alone]) == said


def test_views_from_one_direction_are_not_enough(body, registration):
    near = POSES[0] @ g.exp(np.array([0.1, 0.12, 0.0, 5.0, 0.0, 0.0]), PIVOT)
    taken = [shots(body, STARTS)[0], Shot(body.counts(TRUE, near), [near @ g.exp(OFF[1], PIVOT)])]
    found = calibrate(registration, body.volume.center_mm, ROUGH, taken)
    assert found.validity.status is Status.DEGRADED and "directions" in found.validity.reason
