"""2D/3D registration of simulated X-rays, on anatomy drawn here and on the real CTs when they are at hand."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.projector import Projector
from navnode.registration import ImageRegistration, register, register_counts
from navnode.simulation.physics import METAL_PER_MM, Detector, cylinder_chords_mm
from navnode.simulation.scenario import Scenario, carm_of_size, scenario_for
from navnode.types import Effort, Status, View, Volume
from navnode.volumes import read_volume
from tests.conftest import SHARED

CARM = carm_of_size(512)
PIVOT_MM = 700.0
TIMES = (0.5, 3.0, 5.0, 7.0, 9.0, 15.0)


class Case:
    """A CT, its scenario, and images of it with everything an X-ray chain adds."""

    def __init__(self, volume: Volume) -> None:
        self.scenario: Scenario = scenario_for(volume)
        self.registration = ImageRegistration(volume)
        self._projector = Projector(volume)

    def counts(self, t_s: float, seed: int = 0) -> np.ndarray:
        at = self.scenario.volume_from_carm(t_s)
        carm = carm_of_size(256)
        line = self._projector.render(carm, at)
        tool = g.inverse(at) @ self.scenario.volume_from_tool(t_s)
        line += METAL_PER_MM * cylinder_chords_mm(carm, tool, 2.5, 160.0)
        return Detector().expose(line, CARM, 1 + 0.1 * np.sin(t_s), np.random.default_rng(seed))

    def errors_mm(self, estimate: np.ndarray, t_s: float) -> tuple[float, float]:
        """Across and along the principal ray, at the spine."""
        targets = self.scenario.targets_mm
        true = g.transform(g.inverse(self.scenario.volume_from_carm(t_s)), targets)
        off = g.transform(g.inverse(estimate), targets) - true
        return float(np.linalg.norm(off[:, :2], axis=1).mean()), float(abs(off[:, 2].mean()))


@pytest.fixture(scope="module")
def torso(procedural_ct) -> Case:
    return Case(read_volume(procedural_ct))


def away(case: Case, t_s: float, mm: float, deg: float, seed: int) -> np.ndarray:
    direction = np.random.default_rng(seed).normal(size=(2, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    xi = np.concatenate([np.deg2rad(deg) * direction[0], mm * direction[1]])
    return case.scenario.volume_from_carm(t_s) @ g.exp(xi, (0, 0, PIVOT_MM))


@pytest.mark.parametrize(
    ("effort", "mm", "deg"), [(Effort.TRACK, 0.8, 0.3), (Effort.REFINE, 6.0, 3.0), (Effort.SEARCH, 30.0, 8.0)]
)
def test_poses_are_found(torso, effort, mm, deg):
    for k, t_s in enumerate(TIMES):
        found = register_counts(
            torso.registration, torso.counts(t_s), CARM, away(torso, t_s, mm, deg, k), PIVOT_MM, effort
        )
        across, depth = torso.errors_mm(found.volume_from_carm, t_s)
        assert found.validity.usable, found.validity.reason
        assert across < 0.4 and depth < 3.0, (t_s, across, depth)


def test_the_stated_sigma_is_of_the_errors_size(torso):
    """Not exact, but no order of magnitude: what fusion weighs by must be believable."""
    ratios = []
    for k, t_s in enumerate(TIMES):
        found = register_counts(
            torso.registration, torso.counts(t_s), CARM, away(torso, t_s, 2.0, 1.0, k), PIVOT_MM, Effort.REFINE
        )
        across, depth = torso.errors_mm(found.volume_from_carm, t_s)
        ratios += [across / np.linalg.norm(found.sigma[3:5]), depth / found.sigma[5]]
    assert 0.1 < np.median(ratios) < 2.0 and max(ratios) < 5.0


def fog(case: Case, t_s: float) -> np.ndarray:
    return np.random.default_rng(0).poisson(700, (512, 512)).astype(np.uint16)


WRONG = {
    "mirrored": lambda case, t: np.ascontiguousarray(case.counts(t)[:, ::-1]),
    "turned by 90 degrees": lambda case, t: np.ascontiguousarray(np.rot90(case.counts(t))),
    "inverted": lambda case, t: (20_000 - np.minimum(case.counts(t), 20_000)).astype(np.uint16),
    "noise": fog,
    "blank": lambda case, t: np.full((512, 512), 900, np.uint16),
    "saturated": lambda case, t: np.full((512, 512), 65_535, np.uint16),
    "lead": lambda case, t: np.random.default_rng(0).poisson(3, (512, 512)).astype(np.uint16),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_shows_something_else_is_never_valid(torso, name):
    for k, t_s in enumerate(TIMES[:4]):
        for effort in (Effort.TRACK, Effort.SEARCH):
            start = away(torso, t_s, 3.0, 1.0, k)
            found = register_counts(torso.registration, WRONG[name](torso, t_s), CARM, start, PIVOT_MM, effort)
            assert found.validity.status is Status.INVALID, (t_s, effort, found.similarity)


def test_half_the_image_saturated_still_registers(torso):
    counts = torso.counts(0.5)
    counts[:, :200] = 65_535
    found = register_counts(torso.registration, counts, CARM, away(torso, 0.5, 3, 1, 0), PIVOT_MM, Effort.REFINE)
    assert torso.errors_mm(found.volume_from_carm, 0.5)[0] < 0.6


def test_the_function_takes_views(torso, procedural_ct):
    from navnode.imaging import line_integrals

    line = line_integrals(torso.counts(0.5), 20_000.0)
    line[:40, :40] = np.nan
    view = View(line, CARM, away(torso, 0.5, 5, 2, 1), 77)
    (found,) = register(read_volume(procedural_ct), [view], pivot_mm=PIVOT_MM)
    assert found.validity.status is not Status.INVALID and found.validity.source_time_ns == 77
    assert torso.errors_mm(found.volume_from_carm, 0.5)[0] < 0.4


CTS = sorted((SHARED / "ct").glob("*.nii.gz")) if SHARED.exists() else []


@pytest.mark.skipif(not CTS, reason="the development CTs are not beside this checkout")
def test_another_patient_is_never_valid(torso):
    """X-rays of real CTs registered to the procedural torso, from the best start there is."""
    for path in CTS:
        other = Case(read_volume(path))
        for t_s in (0.5, 9.0):
            start = torso.scenario.volume_from_carm(t_s)
            found = register_counts(torso.registration, other.counts(t_s), CARM, start, PIVOT_MM, Effort.SEARCH)
            assert found.validity.status is not Status.VALID, (path.name, t_s, found.similarity)


@pytest.mark.skipif(not CTS, reason="the development CTs are not beside this checkout")
@pytest.mark.parametrize("path", CTS, ids=lambda path: path.name.split(".")[0])
def test_real_cts(path):
    """Across the beam every usable frame is right; depth is what a single view does not fix."""
    case = Case(read_volume(path))
    usable = 0
    for k, t_s in enumerate(TIMES):
        start = away(case, t_s, 6.0, 3.0, k)
        found = register_counts(case.registration, case.counts(t_s), CARM, start, PIVOT_MM, Effort.REFINE)
        across, depth = case.errors_mm(found.volume_from_carm, t_s)
        usable += found.validity.usable
        assert not found.validity.usable or (across < 1.0 and depth < 8.0), (t_s, across, depth)
    assert usable >= len(TIMES) - 1
