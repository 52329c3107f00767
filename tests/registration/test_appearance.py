"""The X-ray chain that is fitted along with the pose: what it says must be what was put in."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from navnode import geometry as g
from navnode import native
from navnode.files.volumes import read_volume
from navnode.projector import Projector
from navnode.projector.grids import coarsened
from navnode.registration.appearance import POSE_SCALE, Observed, XrayImage, fitted, modelled
from navnode.registration.tracking import gauss_newton_step, moved_by
from navnode.simulation.scenario import carm_of_size
from navnode.xray.chain import XrayChain

PIVOT_MM = 700.0
CARM = carm_of_size(64)


@pytest.fixture(scope="module")
def projector(procedural_ct) -> Projector:
    return Projector(coarsened(read_volume(procedural_ct), 3.0), precision="float32")


@pytest.fixture(scope="module")
def pose() -> np.ndarray:
    return g.pose_at(np.zeros(3), PIVOT_MM, orbital_deg=25, angulation_deg=8)


def chain(line: np.ndarray) -> np.ndarray:
    """Counts of a chain that hardens, scatters, and is brighter on one side; no noise."""
    v, u = np.mgrid[-1 : 1 : 1j * line.shape[0], -1 : 1 : 1j * line.shape[1]]
    primary = 0.5 * np.exp(-line) + 0.5 * np.exp(-0.85 * line)
    return (40_000 * np.exp(0.1 * u - 0.05 * v) * (primary + 0.004)).astype(np.float32)


def observe(counts: np.ndarray, *, scatter: bool = True) -> Observed:
    return XrayImage(counts, CARM).observed(64, scatter=scatter)


@pytest.mark.long
def test_the_chain_is_explained(projector, pose):
    line = projector.render(CARM, pose)
    observed = observe(chain(line))
    fit = fitted(observed, line.ravel(), rounds=6)
    assert fit.noise < 0.01 and fit.similarity > 0.9995 and fit.inliers > 0.9
    assert 0.8 < fit.contrast < 1.0, "the mean of the two attenuations"
    assert -0.1 < fit.bend < 0.0, "the beam hardens"
    residual = -np.log(observed.counts) - modelled(observed, line.ravel(), fit)
    assert np.median(np.abs(residual[line.ravel() > 0.1])) < 0.01


def test_without_scatter_terms_scatter_is_not_explained(projector, pose):
    line = projector.render(CARM, pose)
    counts = chain(line)
    without = fitted(observe(counts, scatter=False), line.ravel(), rounds=6).noise
    assert without > 2 * fitted(observe(counts), line.ravel(), rounds=6).noise


@pytest.mark.parametrize("rounds", [4, 40])
@pytest.mark.parametrize("case", [0, 6, 17])
def test_hardly_any_light_and_a_tool_do_not_mislead_it(case, rounds):
    """Scatter and primary rays used to take turns in explaining too much, and some came to nothing after many rounds:
    a noise of 0.1 to 1.1."""
    v, u = np.mgrid[0:1:512j, 0:1:512j]
    open_px = 10 + 2 * case
    line = 3 + 0.05 * case + 0.25 * np.sin(6 * u + case) * np.cos(4 * v) + 0.3 * np.exp(-(((u - 0.5) / 0.1) ** 2))
    line[:, :open_px] *= np.sqrt(np.linspace(0, 1, open_px))
    tool = np.zeros_like(line)
    tool[200:215, 100:400] = 5
    seen = XrayChain(scatter_fraction=0.07).expose(
        (line + tool).astype(np.float32), carm_of_size(512), 0.6, np.random.default_rng(case)
    )
    observed = XrayImage(seen, carm_of_size(512)).observed(64)
    fit = fitted(
        observed, cv2.resize(line.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA).ravel(), rounds=rounds
    )
    assert fit.noise < 0.03 and 0.7 < fit.contrast < 1.4


def test_the_step_leads_to_the_truth(projector, pose):
    """What is eliminated must not take the pose with it: Gauss-Newton converges from 3 mm and 1.5 degrees."""
    observed = observe(chain(projector.render(CARM, pose)))
    at = pose @ g.exp(np.array([0.02, -0.015, 0.02, 2.0, -1.5, 4.0]), (0, 0, PIVOT_MM))
    fit = None
    for _ in range(12):
        line, jacobian = projector.render(CARM, at, jacobian=True, pivot_mm=PIVOT_MM)
        fit = fitted(observed, line.ravel(), jacobian, fit)
        at = moved_by(gauss_newton_step(fit), at, PIVOT_MM)
    off = g.log(g.inverse(pose) @ at, (0, 0, PIVOT_MM)) * POSE_SCALE
    assert np.abs(off[[0, 1, 2, 3, 4]]).max() < 0.2 and abs(off[5]) < 1.0


def test_several_poses_are_linearised_together(projector, pose):
    """Two bodies that share the pose's derivatives in halves: a block each as of one, and what both have in common."""
    line, jacobian = projector.render(CARM, pose, jacobian=True, pivot_mm=PIVOT_MM)
    observed, near = observe(chain(line)), line.ravel() * np.float32(1.01)
    jacobian = jacobian.reshape(6, -1)
    left = np.arange(jacobian.shape[1]) % 64 < 32
    halves = np.concatenate([np.where(left, jacobian, 0), np.where(left, 0, jacobian)]).astype(np.float32)
    one, both = fitted(observed, near, jacobian), fitted(observed, near, halves)
    together = np.concatenate([np.eye(6), np.eye(6)], axis=1)
    scale = np.abs(one.hessian).max()
    assert (
        both.hessian.shape == (12, 12)
        and np.abs(together @ both.hessian @ together.T - one.hessian).max() < 1e-3 * scale
    )
    assert np.abs(together @ both.gradient - one.gradient).max() < 1e-3 * np.abs(one.gradient).max()
    single = fitted(observed, near, np.ascontiguousarray(halves[:6]))
    assert np.abs(both.hessian[:6, :6] - single.hessian).max() < 1e-3 * np.abs(single.hessian).max()


@pytest.mark.parametrize("parameters", [5, 78])
def test_a_number_of_derivatives_that_is_none_of_bodies_is_refused(projector, pose, parameters):
    observed = observe(chain(projector.render(CARM, pose)))
    with pytest.raises(ValueError, match="parameters"):
        fitted(observed, np.ones(64 * 64, np.float32), np.zeros((parameters, 64 * 64), np.float32))


@pytest.mark.parametrize("instruction_set", native.instruction_sets())
def test_instruction_sets_agree(projector, pose, instruction_set):
    """Sums are made in float, in another order, and exp and log differ in the last bits: 1e-3 of what matters."""
    line, jacobian = projector.render(CARM, pose, jacobian=True, pivot_mm=PIVOT_MM)
    observed = observe(chain(line))
    near = line.ravel() * np.float32(1.01)
    best, this = (fitted(observed, near, jacobian, instruction_set=name) for name in (None, instruction_set))
    assert this.similarity == pytest.approx(best.similarity, abs=1e-5)
    assert this.noise == pytest.approx(best.noise, rel=1e-2)
    assert np.linalg.norm(this.hessian - best.hessian) < 1e-2 * np.linalg.norm(best.hessian)


def test_a_tool_is_an_outlier(projector, pose):
    line = projector.render(CARM, pose)
    counts = chain(line)
    counts[10:50, 30:33] *= 0.2
    fit = fitted(observe(counts), line.ravel(), rounds=6)
    assert fit.noise < 0.03 and 0.85 < fit.inliers < 0.99


@pytest.mark.parametrize("counts", [0.0, 1e-30, 65_535.0], ids=["dark", "nothing", "saturated"])
def test_an_empty_image_says_nothing(projector, pose, counts):
    line, jacobian = projector.render(CARM, pose, jacobian=True)
    fit = fitted(observe(np.full((64, 64), counts, np.float32)), line.ravel(), jacobian)
    assert np.isfinite(fit.hessian).all() and np.isfinite(fit.gradient).all() and fit.similarity < 0.1


def test_a_volume_out_of_sight_says_nothing(projector, pose):
    nothing = np.zeros(64 * 64, np.float32)
    fit = fitted(observe(chain(projector.render(CARM, pose))), nothing, np.zeros((6, 64 * 64), np.float32))
    assert fit.noise == np.inf and fit.similarity == 0.0


def test_binned_pixels_stand_for_their_centres():
    """A mean over pixels is not what the ray through the middle counts; the difference is taken out to second order."""
    fine = carm_of_size(96)
    v, u = np.mgrid[:96, :96]
    light = 20_000 * np.exp(-3 * np.exp(-((u - 47.5) ** 2 + (v - 47.5) ** 2) / (2 * 9.0**2)))
    binned, carm = XrayImage(light.astype(np.float32), fine).binned(32)
    k, j = np.mgrid[:32, :32]
    at_centre = 20_000 * np.exp(-3 * np.exp(-((3 * j + 1 - 47.5) ** 2 + (3 * k + 1 - 47.5) ** 2) / (2 * 9.0**2)))
    plain = light.reshape(32, 3, 32, 3).mean(axis=(1, 3))
    assert carm.width_px == 32
    assert np.abs(binned - at_centre).max() < 0.2 * np.abs(plain - at_centre).max()


def test_noise_is_known_from_the_image():
    rng = np.random.default_rng(0)
    for gain in (0.25, 1.0, 4.0):
        counts = gain * rng.poisson(2_000, (192, 192))
        trust = XrayImage(counts.astype(np.float32), carm_of_size(192)).observed(192).trust
        expected = 0.03**2 / (0.03**2 + 1 / 2_000)
        assert np.median(trust) == pytest.approx(expected, rel=0.15)


def test_a_misread_image_sees_what_a_misread_detector_would(projector, pose):
    off_centre = replace(CARM, principal_point_px=(30.0, 35.5))
    image = XrayImage(chain(projector.render(off_centre, pose)), off_centre)
    points = np.array([[10.0, -20.0, 650.0], [-35.0, 5.0, 720.0]])
    u, v = g.project(off_centre, np.eye(4), points).T
    as_read = image.binned(64)[0]
    for misread, axes, picture, expected in zip(
        image.misread(),
        ([[-1, 0], [0, 1]], [[1, 0], [0, -1]], [[0, 1], [-1, 0]], [[0, -1], [1, 0]]),
        (as_read[:, ::-1], as_read[::-1], np.rot90(as_read), np.rot90(as_read, -1)),
        ((63 - u, v), (u, 63 - v), (v, 63 - u), (63 - v, u)),
        strict=True,
    ):
        counts, carm = misread.binned(64)
        assert np.allclose(counts, picture)
        misread_from_carm = np.eye(4)
        misread_from_carm[:2, :2] = axes
        assert np.allclose(g.project(carm, misread_from_carm, points), np.stack(expected, axis=1))
