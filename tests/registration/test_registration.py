"""2D/3D registration of simulated X-rays, on anatomy drawn here."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from navnode import geometry as g
from navnode.files.volumes import read_volume
from navnode.registration import FilmRegistration, ImageRegistration, register, register_counts
from navnode.registration.appearance import XrayImage, fitted
from navnode.types import Effort, Status, View, Volume
from tests.registration.cases import CARM, PIVOT_MM, TIMES, Case, away


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


def wrongly_believed(case: Case, name: str, times: tuple[float, ...]) -> list[tuple[float, Effort, float]]:
    """Where what shows something else is not INVALID."""
    believed = []
    for t_s in times:
        for effort in (Effort.TRACK, Effort.SEARCH):
            start = away(case, t_s, 3.0, 1.0, TIMES.index(t_s))
            found = register_counts(case.registration, WRONG[name](case, t_s), CARM, start, PIVOT_MM, effort)
            if found.validity.status is not Status.INVALID:
                believed.append((t_s, effort, found.similarity))
    return believed


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.long
def test_what_shows_something_else_is_never_valid(torso, name):
    assert not wrongly_believed(torso, name, TIMES[:1])


@pytest.mark.slow  # the test above, from other sides
def test_what_shows_something_else_is_never_valid_from_other_sides(torso):
    assert not {name: found for name in WRONG if (found := wrongly_believed(torso, name, TIMES[1:4]))}


def test_photon_noise_takes_nothing_from_the_likeness_and_adds_nothing_where_there_is_none(torso):
    """An X-ray of a sixteenth of the photons is as like its CT as before, and as unlike it somewhere else."""
    for number, t_s in enumerate(TIMES[:3]):
        plain = torso.counts(t_s)
        noisy = np.random.default_rng(number).poisson(plain * 0.06).astype(np.uint16)
        alike = []
        for counts in (plain, noisy):
            observed = XrayImage(counts, CARM).observed(128)
            for off_mm in (0.0, 8.0):
                pose = torso.scenario.volume_from_carm(t_s) @ g.rigid(None, (off_mm, 0.0, 0.0))
                predicted = torso.registration.fine.projector.render(observed.carm, pose).ravel()
                alike.append(fitted(observed, predicted, rounds=4).similarity)
        right, wrong, noisy_right, noisy_wrong = alike
        assert noisy_right == pytest.approx(right, abs=0.002) and noisy_right < 1
        assert noisy_wrong == pytest.approx(wrong, abs=0.02) and noisy_wrong < right - 0.02


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
@pytest.mark.long
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


@pytest.mark.long
def test_far_away_starts_are_found(torso):
    """What the name of a station leaves open."""
    for k, t_s in enumerate(TIMES[:4]):
        start = away(torso, t_s, 80, 25, k)
        found = register_counts(torso.registration, torso.counts(t_s), CARM, start, PIVOT_MM, Effort.SEARCH)
        assert found.validity.usable and across_mm(torso, found, t_s) < 0.5, (t_s, found.validity.reason)


def test_a_sequence_is_followed_and_a_lost_frame_does_not_lead_away(torso):
    times = np.arange(2.0, 4.0, 1 / 15)
    sequence = FilmRegistration(torso.registration, torso.scenario.isocentre_mm)
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
    sequence = FilmRegistration(torso.registration, torso.scenario.isocentre_mm)
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
