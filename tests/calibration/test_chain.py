"""Hand-eye, flex, patient, temporal, phantom and flat field."""

import numpy as np
import pytest
import trimesh

from calibration.flatfield import flatfield
from calibration.flex import flex
from calibration.handeye import handeye
from calibration.patient import expected_tre_mm, fitted, patient
from calibration.phantom import phantom, phantom_from_stream
from calibration.temporal import temporal
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.types import Mesh
from tests.calibration.scenes import TIP, bent, shots, touching, wandering

# --- hand-eye ---


@pytest.mark.long
def test_hand_eye_with_an_outlier():
    errors, covered = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        markers, xrays, truth, _ = shots(20, rng, sigma_mm=0.05, sigma_deg=0.01)
        wrong = rng.integers(20)
        markers[wrong] = markers[wrong] @ g.exp(np.array([0.02, 0.01, 0.05, 5, -8, 10]))
        found = handeye(markers, xrays)
        assert found.passed and found.quality["rejected"] == [wrong]
        off = np.array(found.result.marker_from_carm)[:3, 3] - truth[:3, 3]
        turn = g.rotation_log((g.inverse(truth) @ np.array(found.result.marker_from_carm))[:3, :3])
        errors.append((np.linalg.norm(off), np.rad2deg(np.linalg.norm(turn))))
        covered.append(np.abs(off) < 1.96 * found.quality["sigma_translation_mm"])
    assert (np.median(errors, axis=0) < (0.5, 0.1)).all()
    assert 0.88 <= np.mean(covered) <= 0.99


def test_hand_eye_does_not_depend_on_order_or_frame():
    rng = np.random.default_rng(1)
    markers, xrays, _, _ = shots(15, rng)
    order, moved = rng.permutation(15), g.exp(np.array([0.3, 1, 2, 500, 20, 3.0]))
    one, other = handeye(markers, xrays), handeye(np.array([moved @ m for m in markers])[order], xrays[order])
    assert np.abs(np.subtract(one.result.marker_from_carm, other.result.marker_from_carm)).max() < 1e-6


def test_hand_eye_with_a_phantom_that_moves():
    rng = np.random.default_rng(2)
    markers, xrays, truth, tracker_from_phantom = shots(12, rng)
    phantom_marker_from_phantom = g.exp(np.array([0.3, 0.1, 0.2, 50, 20, 3.0]))
    moves = [g.exp(rng.normal(0, [0.05] * 3 + [30] * 3)) for _ in markers]
    markers = np.array([m @ a for m, a in zip(moves, markers, strict=True)])
    phantoms = np.array([m @ tracker_from_phantom @ g.inverse(phantom_marker_from_phantom) for m in moves])
    free = handeye(markers, xrays, phantoms)
    known = handeye(markers[:4], xrays[:4], phantoms[:4], phantom_marker_from_phantom)
    for found in (free, known):
        assert found.passed, found.reason
        assert np.linalg.norm(np.array(found.result.marker_from_carm)[:3, 3] - truth[:3, 3]) < 2.0
    assert np.shape(free.result.phantom_marker_from_phantom) == (4, 4)


def test_hand_eye_that_cannot_be_known_fails_with_its_code():
    rng = np.random.default_rng(3)
    markers, xrays, _, _ = shots(20, rng)
    assert handeye(markers[:5], xrays[:5]).code == "too_few"
    assert handeye(*shots(20, rng, one_axis=True)[:2]).code == "axes"
    assert handeye(np.repeat(markers[:1], 8, 0), np.repeat(xrays[:1], 8, 0)).code == "spread"
    assert handeye(markers, xrays[::-1]).code in ("residual", "too_many_rejected")
    with pytest.raises(ConfigError, match="must be equal"):
        handeye(markers[:5], xrays)


# --- flex ---


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.long
def test_a_c_arm_that_bends(both):
    rng = np.random.default_rng(4)
    angles = np.array([[o, a] for o in np.linspace(-1, 1, 9) for a in ((-0.4, 0, 0.4) if both else (0,))])
    angles = angles if both else np.stack([np.linspace(-1.6, 1.6, 25), np.zeros(25)], axis=1)
    made = [bent(*angle) for angle in angles]
    poses = np.array([p @ g.exp(rng.normal(0, [1e-4] * 3 + [0.1] * 3), (0, 0, 620)) for _, p in made])
    wanted = (angles[:-1] + angles[1:]) / 2
    found = flex([c for c, _ in made], poses, angles, wanted)
    assert found.passed, found.reason
    off = [
        np.linalg.norm(np.array(at.volume_from_carm)[:3, 3] - bent(*angle)[1][:3, 3])
        for at, angle in zip(found.result.at, wanted, strict=True)
    ]
    assert np.median(off) < 0.3 and max(off) < 1.0 and found.quality["rigid_rms_mm"] > 1.5
    sdd = [
        at.carm.source_to_detector_mm - bent(*a)[0].source_to_detector_mm
        for at, a in zip(found.result.at, wanted, strict=True)
    ]
    assert np.abs(sdd).max() < 0.5


@pytest.mark.long
def test_flex_that_cannot_be_known_fails_with_its_code():
    angles = np.stack([np.linspace(-1, 1, 16), np.zeros(16)], axis=1)
    carms, poses = [bent(*a)[0] for a in angles], np.array([bent(*a)[1] for a in angles])
    assert flex(carms, poses, angles, np.array([[1.2, 0.0]])).code == "extrapolation"
    assert flex(carms[:8], poses[:8], angles[:8]).code == "too_few"
    narrow = np.stack([np.linspace(-0.3, 0.3, 16), np.zeros(16)], axis=1)
    assert flex([bent(*a)[0] for a in narrow], np.array([bent(*a)[1] for a in narrow]), narrow).code == "coverage"
    gap = np.delete(np.arange(16), [6, 7, 8])
    assert flex([carms[n] for n in gap], poses[gap], angles[gap]).code == "coverage"
    again = np.concatenate([poses, poses[:2] @ g.rigid(None, (2.0, 0, 0))])
    assert flex([*carms, *carms[:2]], again, np.concatenate([angles, angles[:2]])).code == "not_repeatable"
    holed = poses.copy()
    holed[4], holed[9] = np.eye(4), np.nan
    found = flex(carms, holed, angles)
    assert found.passed and found.quality["rejected"] == [4, 9] and found.quality["n_used"] == 14
    rng = np.random.default_rng(5)
    shaken = np.array([p @ g.rigid(None, tuple(rng.normal(0, 4, 3))) for p in poses])
    assert flex(carms, shaken, angles).code == "residual"


# --- patient ---


def points(rng, count=8, sigma_mm=0.3):
    volume = rng.uniform(-60, 60, (count, 3))
    volume_from_patient = g.exp(np.array([0.5, 0.2, 1, 100, 20, 30.0]))
    touched = g.transform(g.inverse(volume_from_patient), volume) + rng.normal(0, sigma_mm / np.sqrt(3), volume.shape)
    return volume, touched, volume_from_patient


def named(array):
    return {f"p{n}": row for n, row in enumerate(array)}


def test_points_and_the_error_to_be_expected():
    volume, touched, truth = points(np.random.default_rng(6))
    found = patient(named(volume), named(touched))
    assert found.passed and np.abs(np.array(found.result.volume_from_patient) - truth).max() < 1.0
    target, fle, off = np.array([30.0, 80, -20]), 0.5, []
    for seed in range(1500):
        noisy = volume + np.random.default_rng(seed).normal(0, fle / np.sqrt(3), volume.shape)
        off.append(np.linalg.norm(g.transform(fitted(noisy, volume), target) - target))
    said = patient(named(volume), named(touched), targets_mm={"t": target}, fle_mm=fle).quality["tre_mm"]["t"]
    assert said == pytest.approx(np.sqrt(np.mean(np.square(off))), rel=0.15)
    assert said == expected_tre_mm(volume, target, fle)


def test_one_wrong_point_is_left_out_and_named():
    volume, touched, _ = points(np.random.default_rng(7))
    touched[3] += [0, 0, 9]
    found = patient(named(volume), named(touched))
    assert found.passed and found.quality["rejected_labels"] == ["p3"]
    touched[5] -= [9, 0, 0]
    assert patient(named(volume), named(touched)).code == "residual"


def test_points_that_were_mistaken_fail_with_their_code():
    volume, touched, truth = points(np.random.default_rng(8))
    swapped = touched.copy()
    swapped[[3, 5]] = swapped[[5, 3]]
    found = patient(named(volume), named(swapped))
    assert found.code == "correspondence" and "p3" in found.reason and "p5" in found.reason
    assert patient(named(volume), named(touched * [1, 1, -1])).code == "mirrored"
    assert patient(named(volume[:3]), named(touched[:3])).code == "too_few"
    line = np.outer(np.arange(6) * 20.0, [1, 0, 0])
    assert patient(named(line), named(g.transform(g.inverse(truth), line))).code == "collinear"
    far = {"t": np.array([900.0, 0, 0])}
    assert patient(named(volume), named(touched), targets_mm=far, fle_mm=1.0).code == "tre"
    assert patient(named(volume), {"other": touched[0]}).code == "too_few"


def bone() -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(4, 40)
    vertices = ball.vertices * [1, 1.4, 0.8]
    vertices[:, 0] += 0.004 * vertices[:, 1] ** 2
    return trimesh.Trimesh(vertices, ball.faces)


def as_mesh(surface) -> Mesh:
    return Mesh(surface.vertices.astype(np.float32), surface.faces.astype(np.uint32))


def test_a_surface_refines_what_few_points_say():
    rng, surface = np.random.default_rng(9), bone()
    truth = g.exp(np.array([0.5, 0.2, 1, 100, 20, 30.0]))
    corners = surface.vertices[[10, 500, 1500]]
    touched = g.transform(g.inverse(truth), corners) + rng.normal(0, 1.0, (3, 3))
    rubbed, _ = trimesh.sample.sample_surface(surface, 300, seed=1)
    cloud = g.transform(g.inverse(truth), rubbed) + rng.normal(0, 0.2, rubbed.shape)
    cloud[:20] += rng.normal(0, 15, (20, 3))
    given = {"surface_points_mm": cloud, "mesh": as_mesh(surface), "gates": {"tre_mm": 10.0, "spread_mm": 5.0}}
    found = patient(named(corners), named(touched), **given)
    assert found.passed, found.reason
    there = g.transform(np.array(found.result.volume_from_patient), g.transform(g.inverse(truth), rubbed))
    assert np.linalg.norm(there - rubbed, axis=1).max() < 0.5
    assert found.quality["surface_sigma_mm"] < 0.5
    for none in (np.zeros((0, 3)), np.full((3, 3), np.nan)):
        assert (
            patient(named(corners), named(touched), **{**given, "surface_points_mm": none}).code == "surface_residual"
        )
    far = {**given, "surface_points_mm": rng.uniform(-150, 150, (300, 3))}
    assert patient(named(corners), named(touched), **far).code == "surface_residual"
    ball = trimesh.creation.icosphere(4, 40)
    corners = ball.vertices[[10, 500, 1500]]
    rubbed, _ = trimesh.sample.sample_surface(ball, 300, seed=1)
    given |= {"surface_points_mm": g.transform(g.inverse(truth), rubbed), "mesh": as_mesh(ball)}
    assert patient(named(corners), named(g.transform(g.inverse(truth), corners)), **given).code == "surface_sigma"


# --- temporal ---


def test_the_lag_of_signals_and_of_pictures():
    tracker_s, image_s, errors = np.arange(0, 12, 1 / 100), np.arange(0.2, 11.5, 1 / 30), []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        lag = rng.uniform(-0.2, 0.2)
        poses = np.array(
            [g.rigid(None, tuple(np.array([0.6, 0.8, 0]) * wandering(t) + rng.normal(0, 0.1, 3))) for t in tracker_s]
        )
        seen = -2.5 * wandering(image_s - lag) + rng.normal(0, 0.5, len(image_s))
        found = temporal(tracker_s, poses, image_s, seen)
        assert found.passed and found.result.sign in (-1, 1)
        errors.append(abs(found.result.image_lag_ns / 1e6 - 1e3 * lag))
    assert max(errors) < 2.0
    y, x = np.mgrid[:100, :120]
    rng = np.random.default_rng(11)
    pictures = np.array(
        [
            2000
            - 1500 * np.exp(-((x - 60 - 0.6 * wandering(t - 0.04)) ** 2 + (y - 50) ** 2) / 80)
            + 200 * np.sin(x / 5)
            + rng.normal(0, 20, x.shape)
            for t in image_s
        ]
    )
    found = temporal(tracker_s, poses, image_s, pictures)
    assert found.passed and found.result.image_lag_ns == pytest.approx(40e6, abs=2e6)


def test_motions_without_an_answer_fail_with_their_code():
    tracker_s, image_s, rng = np.arange(0, 12, 1 / 100), np.arange(0.2, 11.5, 1 / 30), np.random.default_rng(12)

    def code(tracker, image, times=image_s, **more):
        return temporal(tracker_s, tracker, times, image, **more).code

    moved = wandering(tracker_s)
    assert code(10 * np.sin(tracker_s * 4 * np.pi), np.sin((image_s - 0.1) * 4 * np.pi)) == "ambiguous"
    assert code(moved, wandering(image_s - 0.6)) == "at_limit"
    assert code(moved, wandering(image_s - 0.6), max_lag_s=1.0) == ""
    assert code(moved, rng.normal(size=len(image_s))) == "correlation"
    assert code(0.05 * moved, wandering(image_s)) == "no_motion"
    assert code(moved, wandering(image_s), image_s + 20) == "overlap"
    assert code(moved, wandering(image_s)[::-1], image_s[::-1]) == "", "rows may come in any order"
    assert code(moved, np.zeros(0), np.zeros(0)) == "overlap"
    assert code(moved, np.full(len(image_s), 100.0)) == "correlation"
    with pytest.raises(ConfigError, match="distinct"):
        code(moved, wandering(image_s), np.repeat(image_s[0], len(image_s)))


# --- phantom ---


def test_targets_touched_in_a_stream():
    rng = np.random.default_rng(13)
    targets = {f"t{n}": rng.uniform(-60, 60, 3) for n in range(6)}
    volume_from_patient = g.exp(np.array([0.2, 0.1, 0.4, 30, 40, 50]))

    def measured(path):
        stylus, marker = [], []
        for at in path:
            rotation = g.rotation_exp(np.array([0.1, 0.3, rng.normal(0, 0.05)]))
            tracker_from_patient = g.exp(np.array([0.1, 0.2, 0.1, 100, 0, -1500.0]))
            place = g.transform(tracker_from_patient @ g.inverse(volume_from_patient), at)
            stylus.append(g.rigid(rotation, place - rotation @ TIP))
            marker.append(tracker_from_patient)
        stylus[5] = np.full((4, 4), np.nan)
        return phantom_from_stream(targets, np.array(stylus), np.array(marker), TIP, volume_from_patient)

    places = list(targets.values())
    for _ in range(5):
        found = measured(touching(places, rng))
        assert found.passed and found.quality["touches"] == 6 and found.quality["tre_mm"]["max"] < 0.3
    assert measured(touching(places[:5], rng)).code == "missing_target"
    assert measured(touching([*places, places[0]], rng)).code == "missing_target"
    shifted = measured(touching(places, rng, bias=(2.5, 0, 0)))
    assert shifted.code == "residual" and shifted.quality["bias_mm"] == pytest.approx([2.5, 0, 0], abs=0.2)
    assert measured(touching(places, rng, order=[1, 0, 2, 3, 4, 5])).code == "residual"


def test_targets_by_label():
    targets = named(np.random.default_rng(14).uniform(-60, 60, (5, 3)))
    assert phantom(targets, targets).quality["tre_mm"]["max"] == 0.0
    assert phantom(targets, dict(list(targets.items())[:4])).code == "missing_target"
    few = dict(list(targets.items())[:3])
    assert phantom(few, few).code == "too_few"


# --- flat field ---


def exposures(rng, *, level=20_000.0, drift=0.0, dead=0.002, shadow=1.0, noise=3.0):
    x = np.mgrid[:128, :160][1]
    offset = rng.normal(100, 2, x.shape)
    gain = 1 + 0.1 * np.sin(x / 40) + rng.normal(0, 0.02, x.shape)
    bad = rng.random(x.shape) < dead
    gain[bad] = 0
    dark = np.array([offset + rng.normal(0, noise, x.shape) for _ in range(8)])
    flat = []
    for n in range(10):
        light = level * gain * (1 - drift * n / 9) * np.where((n >= 5) & (x > 60) & (x < 75), shadow, 1.0)
        flat.append(offset + rng.poisson(np.maximum(light, 0)) + rng.normal(0, noise, x.shape))
    return *(np.clip(np.array(part), 0, 65535).astype(np.uint16) for part in (dark, flat)), bad


def test_a_detector_that_is_corrected():
    dark, flat, bad = exposures(np.random.default_rng(15))
    found = flatfield(dark, flat)
    assert found.passed and (found.arrays["bad"] == bad).mean() > 0.999
    corrected = (flat[3].astype(np.float32) - found.arrays["dark"]) * found.arrays["gain"]
    assert corrected[~bad].std() / corrected[~bad].mean() < 1.2 / np.sqrt(20_000) * np.sqrt(1.1)
    assert found.result.i0 == pytest.approx(20_000, rel=0.08)
    assert {tuple(p) for p in found.result.bad_pixels} == {(u, v) for v, u in np.argwhere(found.arrays["bad"])}


def test_detectors_that_cannot_be_corrected_fail_with_their_code():
    rng = np.random.default_rng(16)
    dark, flat, _ = exposures(rng)
    assert flatfield(flat, dark).code == "no_signal"
    assert flatfield(dark[:3], flat).code == "too_few"
    assert flatfield(dark, flat[:, :100]).code == "shape"
    assert flatfield(dark, np.minimum(flat.astype(int) * 4, 65535).astype(np.uint16)).code == "saturated"
    assert flatfield(*exposures(rng, drift=0.05)[:2]).code == "drift"
    assert flatfield(*exposures(rng, dead=0.05)[:2]).code == "bad_pixels"
    assert flatfield(*exposures(rng, shadow=0.9)[:2]).code == "residual"
    assert flatfield(*exposures(rng, level=100)[:2]).code == "no_signal"
