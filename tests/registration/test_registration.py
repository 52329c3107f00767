"""2D/3D registration of simulated X-rays, on anatomy drawn here and on the real CTs when they are at hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from navnode import geometry as g
from navnode.files.volumes import read_volume
from navnode.projector import Projector
from navnode.registration import ImageRegistration, Sequence, register, register_counts
from navnode.simulation.scenario import Scenario, carm_of_size, scenario_for
from navnode.types import Effort, Status, View, Volume
from navnode.xray.chain import METAL_PER_MM, Detector, cylinder_chords_mm
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
    from navnode.xray.counts import line_integrals

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
def test_mirrored_or_turned_images_of_real_cts_are_never_valid(path):
    """A cropped block of bone has an outline like its mirror image's; what tells them apart is that the other fits."""
    misread = (np.fliplr, np.flipud, np.rot90)
    case = Case(read_volume(path))
    for k, t_s in enumerate(TIMES):
        start = away(case, t_s, 6.0, 3.0, k)
        for how in misread:
            counts = np.ascontiguousarray(how(case.counts(t_s)))
            found = register_counts(case.registration, counts, CARM, start, PIVOT_MM, Effort.FIND)
            assert found.validity.status is not Status.VALID, (t_s, how, found.similarity)


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


def across_mm(case: Case, found, t_s: float) -> float:
    return case.errors_mm(found.volume_from_carm, t_s)[0]


def burned_in(counts: np.ndarray) -> np.ndarray:
    for where, value in (((10, 40), 65_535.0), ((260, 500), 0.0)):
        cv2.putText(counts, "12:34 PATIENT L", where, cv2.FONT_HERSHEY_SIMPLEX, 1.0, value, 2)
    return counts


def collimated(counts: np.ndarray) -> np.ndarray:
    counts[:, :90] = counts[:, -110:] = counts[:60] = 3
    return counts


def dead_lines(counts: np.ndarray) -> np.ndarray:
    counts[100] = counts[:, 300] = 0
    return counts


BLEMISHED = {
    "burned-in text": burned_in,
    "collimated": collimated,
    "a dead row and column": dead_lines,
    "twice as bright": lambda counts: np.minimum(counts.astype(np.uint32) * 2, 65_535).astype(np.uint16),
    "a tenth of the counts": lambda counts: counts // 10,
    "32-bit": lambda counts: counts.astype(np.float32),
}


@pytest.mark.parametrize("name", BLEMISHED)
def test_blemished_images_still_register(torso, name):
    for k, t_s in enumerate(TIMES[:3]):
        counts = BLEMISHED[name](torso.counts(t_s))
        found = register_counts(torso.registration, counts, CARM, away(torso, t_s, 6, 3, k), PIVOT_MM, Effort.FIND)
        assert found.validity.usable, (t_s, found.validity.reason)
        assert across_mm(torso, found, t_s) < 0.5


def cropped(volume: Volume) -> Volume:
    voxels = np.full_like(volume.voxels, -1000)
    k, j, i = (n // 5 for n in voxels.shape)
    inside = (slice(k, -k), slice(j, -j), slice(i, -i))
    voxels[inside] = volume.voxels[inside]
    return Volume(voxels, volume.volume_from_index, "cropped")


def with_table(volume: Volume) -> Volume:
    voxels = volume.voxels.copy()
    voxels[:, :6, :] = 400.0
    return Volume(voxels, volume.volume_from_index, "with a table")


def with_metal(volume: Volume) -> Volume:
    voxels = volume.voxels.copy()
    k, j, i = (n // 2 for n in voxels.shape)
    voxels[k - 30 : k + 30, j - 3 : j + 3, i + 20 : i + 26] = 3000.0
    return Volume(voxels, volume.volume_from_index, "with metal")


def without_a_slice(volume: Volume) -> Volume:
    middle = len(volume.voxels) // 2
    return Volume(np.delete(volume.voxels, slice(middle, middle + 3), axis=0), volume.volume_from_index, "a gap")


@pytest.mark.parametrize("change", [cropped, with_table, with_metal, without_a_slice])
def test_a_volume_that_is_not_what_was_imaged_is_not_valid_where_it_is_wrong(torso, procedural_ct, change):
    """The image shows the body as it is: what the CT has too much or too little must not carry the pose away."""
    registration = ImageRegistration(change(read_volume(procedural_ct)))
    for k, t_s in enumerate(TIMES[:4]):
        start = away(torso, t_s, 5, 3, k)
        found = register_counts(registration, torso.counts(t_s), CARM, start, PIVOT_MM, Effort.FIND)
        wrong = across_mm(torso, found, t_s) > 1.0
        assert not (wrong and found.validity.status is Status.VALID), (t_s, found.similarity)


@pytest.mark.parametrize(("mm", "deg"), [(3, 1), (20, 8)])
def test_an_image_of_an_inverted_detector_says_so(torso, mm, deg):
    found = register_counts(
        torso.registration, WRONG["inverted"](torso, 0.5), CARM, away(torso, 0.5, mm, deg, 0), PIVOT_MM, Effort.FIND
    )
    assert found.validity.status is Status.INVALID and "inverted" in found.validity.reason


def test_far_away_starts_are_found(torso):
    """What the name of a station leaves open."""
    for k, t_s in enumerate(TIMES[:4]):
        start = away(torso, t_s, 80, 25, k)
        found = register_counts(torso.registration, torso.counts(t_s), CARM, start, PIVOT_MM, Effort.SEARCH)
        assert found.validity.usable and across_mm(torso, found, t_s) < 0.5, (t_s, found.validity.reason)


def test_a_sequence_is_followed_and_a_lost_frame_does_not_lead_away(torso):
    times = np.arange(2.0, 4.0, 1 / 15)
    sequence = Sequence(torso.registration, torso.scenario.isocentre_mm)
    start = away(torso, times[0], 4, 2, 0)
    first = register_counts(torso.registration, torso.counts(times[0]), CARM, start, PIVOT_MM, Effort.FIND)
    assert sequence.begin(first).validity.usable
    for k, t_s in enumerate(times[1:]):
        lost = 10 <= k < 13
        found = sequence.follow(fog(torso, t_s) if lost else torso.counts(t_s), CARM)
        assert found.validity.usable is not lost, (t_s, found.validity.reason)
        assert lost or across_mm(torso, found, t_s) < 0.5


def test_a_long_sequence_stays_rigid(torso):
    """Extrapolating from extrapolated poses must not blow up what rounding leaves: it once did, after 35 frames."""
    sequence = Sequence(torso.registration, torso.scenario.isocentre_mm)
    times = np.arange(2.0, 4.0, 1 / 30)
    start = away(torso, times[0], 4, 2, 0)
    sequence.begin(register_counts(torso.registration, torso.counts(times[0]), CARM, start, PIVOT_MM, Effort.FIND))
    for t_s in times[1:]:
        found = sequence.follow(torso.counts(t_s), CARM)
        assert g.is_rigid(found.volume_from_carm, 1e-9) and across_mm(torso, found, t_s) < 0.5, t_s


def test_two_views_fix_each_others_depth(torso, procedural_ct):
    motion = g.exp(np.array([0.05, -0.08, 0.1, 8.0, -12.0, 10.0]), torso.scenario.isocentre_mm)
    from navnode.xray.counts import line_integrals

    views = [
        View(line_integrals(torso.counts(t), 20_000.0), CARM, motion @ torso.scenario.volume_from_carm(t))
        for t in (0.5, 9.0)
    ]
    found = register(read_volume(procedural_ct), views, joint=True)
    for t_s, each in zip((0.5, 9.0), found, strict=True):
        across, depth = torso.errors_mm(each.volume_from_carm, t_s)
        assert each.validity.status is Status.VALID and across < 0.2 and depth < 0.3
        assert each.sigma[5] < 0.5, "what one view leaves open the other one sees"


def test_a_pose_that_is_none_and_a_volume_of_air_are_survived(torso):
    air = Volume(np.full((20, 20, 20), -1000, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    registration = ImageRegistration(air)
    for effort in Effort:
        start = torso.scenario.volume_from_carm(0.5)
        found = register_counts(registration, torso.counts(0.5), CARM, start, PIVOT_MM, effort)
        assert found.validity.status is Status.INVALID and found.validity.reason
