"""A C-arm calibrated from pictures of beads: nobody says where the phantom is, or which bead is which."""

import json
from dataclasses import replace

import cv2
import msgspec
import numpy as np
import pytest

from calibration.carm import PhantomShot, carm, glance
from calibration.distortion import Distortion
from calibration.heard import Heard
from calibration.room import Room
from calibration.samples import newest_shot
from navnode import config
from navnode import geometry as g
from navnode.errors import ConfigError
from navnode.simulation.beads import Beads, exposed, helix, rendered
from navnode.types import CArm

SIZE = 640
TRUE = CArm(SIZE, SIZE, (0.45, 0.45), 1020.0, (326.0, 313.0))
NOMINAL = CArm(SIZE, SIZE, (0.45, 0.45), 1000.0, (319.5, 319.5))
PHANTOM = helix(26)
IDS = [f"b{n}" for n in range(26)]


def intensifier(raw_px):
    """Cushion and spiral of 20 px in the corners."""
    at = (raw_px - (SIZE - 1) / 2) / (SIZE / 2)
    far = (at**2).sum(axis=-1, keepdims=True)
    return raw_px - 5.0 * at * far - 3.0 * np.stack([-at[..., 1], at[..., 0]], axis=-1) * far


def taken(count, seed, *, bend=None, missing=0.1, phantom=PHANTOM, spread=1.0, tilt=0.0, true=TRUE):
    """Shots with text, a collimator's edge and missing beads; their poses, and which beads were there."""
    rng = np.random.default_rng(seed)
    shots, poses, there = [], [], []
    for _ in range(count):
        orbital, angulation = spread * rng.uniform(-40, 40), spread * rng.uniform(-30, 30)
        turned = g.exp(np.array([tilt, 0, 0, 0, 0, 0]))
        pose = (
            turned
            @ g.exp(spread * np.append(rng.normal(0, 0.3, 3), rng.normal(0, 8, 3)))
            @ g.pose_at(
                np.zeros(3), 680 + spread * rng.uniform(-60, 60), orbital_deg=orbital, angulation_deg=angulation
            )
        )
        kept = rng.random(len(phantom.diameters_mm)) >= missing
        beads = Beads(phantom.positions_mm[kept], phantom.diameters_mm[kept])
        counts = exposed(rendered(beads, true, pose, undistorted=bend), rng)
        cv2.putText(counts, "L AP 70kV oO8", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 2000, 2)
        counts[:, : rng.integers(10, 50)] //= 50
        shots.append(PhantomShot(counts, NOMINAL))
        poses.append(pose)
        there.append(kept)
    return shots, poses, there


def calibrated(shots, **more):
    return carm(shots, IDS, PHANTOM.positions_mm, PHANTOM.diameters_mm, threads=2, **more)


@pytest.mark.parametrize("bend", [None, intensifier], ids=["flat panel", "image intensifier"])
@pytest.mark.long
def test_geometry_distortion_and_every_beads_name(bend):
    shots, poses, there = taken(4 if bend is None else 7, 3, bend=bend)
    found = calibrated(shots)
    assert found.passed, found.reason
    assert found.quality["gates"]["n_used"] == (3 if bend is None else 6)
    assert found.quality["sigma_sdd_mm"] <= found.quality["gates"]["sigma_sdd_mm"] == pytest.approx(10.2, rel=0.01)
    told = found.result.carm
    assert told.source_to_detector_mm == pytest.approx(1020, rel=0.003)
    assert np.abs(np.subtract(told.principal_point_px, TRUE.principal_point_px)).max() < 2
    assert found.quality["rms_px"] < 0.3 and (bend is None) == (found.result.distortion.model == "none")
    seen = expected = 0
    for view, pose, kept in zip(found.result.views, poses, there, strict=True):
        at = g.project(TRUE, g.inverse(pose), PHANTOM.positions_mm)
        clear = kept & ((at > 65) & (at < SIZE - 15)).all(axis=1)
        names = [IDS.index(bead.id) for bead in view.beads]
        raw = np.array([bead.image_px for bead in view.beads])
        ideal = raw if bend is None else bend(raw)
        assert np.linalg.norm(ideal - at[names], axis=1).max() < 1.5, "a bead has another's name"
        assert kept[names].all(), "a bead was found that is not there"
        seen, expected = seen + int(clear[names].sum()), expected + int(clear.sum())
    assert seen >= 0.97 * expected
    nodes = np.stack(np.meshgrid(np.arange(0, 641, 64.0), np.arange(0, 641, 64.0)), axis=-1)
    grid = np.array(found.result.distortion.undistorted_px)
    assert grid.shape == nodes.shape
    inside = np.linalg.norm(nodes - 320, axis=-1) < 320

    def rays(pixels, sdd, middle):
        return (pixels - middle) / sdd * 1020

    truth = rays(nodes if bend is None else bend(nodes), 1020, TRUE.principal_point_px)
    off = rays(grid, told.source_to_detector_mm, told.principal_point_px) - truth
    assert np.sqrt(np.mean(off[inside] ** 2)) < 1.5
    # What of it is no turn of the C-arm: the distortion itself.
    plane = np.column_stack([np.ones(inside.sum()), nodes[inside]])
    bent = off[inside] - plane @ np.linalg.lstsq(plane, off[inside], None)[0]
    assert np.sqrt(np.mean(bent**2)) < 0.5


@pytest.fixture(scope="module")
def three():
    """Three good shots."""
    return taken(3, 6)[0]


def empty(count):
    rng = np.random.default_rng(5)
    return [PhantomShot(rng.poisson(15_000, (SIZE, SIZE)).astype(np.uint16), NOMINAL) for _ in range(count)]


def another_phantom():
    beads = Beads(np.random.default_rng(7).uniform(-50, 50, (26, 3)), PHANTOM.diameters_mm)
    return taken(1, 8, phantom=beads)[0]


@pytest.mark.parametrize(
    ("shots", "code"),
    [
        (lambda three: empty(3), "no_beads"),
        (lambda three: another_phantom(), "no_match"),
        (lambda three: three[:2], "too_few"),
        (lambda three: [*three, *empty(3)], "too_many_rejected"),
    ],
    ids=["empty", "of another phantom", "two", "half of them empty"],
)
@pytest.mark.long
def test_shots_that_say_nothing_fail_with_their_code(three, shots, code):
    assert calibrated(shots(three)).code == code


def at_distances(distances_mm):
    shots = [taken(1, 20 + n, true=replace(TRUE, source_to_detector_mm=mm))[0] for n, mm in enumerate(distances_mm)]
    return [shot for (shot,) in shots]


@pytest.mark.long
def test_shots_of_several_geometries_are_named_and_a_c_arm_that_bends_is_not():
    mixed = calibrated(at_distances([1000.0, 1050.0, 1000.0, 1050.0, 1000.0]))
    assert mixed.code == "mixed" and mixed.quality["rms_px"] < 0.3
    assert mixed.quality["sdd_apart_mm"] == pytest.approx(27, abs=6)
    bends = calibrated(at_distances([1017.0, 1023.0, 1020.0, 1024.0, 1018.0]))
    assert bends.passed and 1 < bends.quality["sdd_apart_mm"] < 6
    assert calibrated(at_distances([1020.0] * 3)).quality["sdd_apart_mm"] == 0


def test_a_flat_phantom_seen_from_the_front_says_nothing_of_the_distance():
    flat = Beads(PHANTOM.positions_mm * [0.9, 0.9, 0], PHANTOM.diameters_mm)
    frontal, _, _ = taken(3, 9, spread=0.05, missing=0.0, phantom=flat, tilt=np.deg2rad(90))
    found = carm(frontal, IDS, flat.positions_mm, flat.diameters_mm, distortion="none")
    assert found.code == "sigma"


def test_distortion_needs_more_shots_and_a_model_that_there_is(three):
    assert calibrated(three, distortion="poly3").code == "too_few"
    with pytest.raises(ConfigError, match="unknown model"):
        calibrated(three, distortion="magic")


def test_distortion_has_an_inverse():
    rng = np.random.default_rng(10)
    bent = Distortion("poly5", rng.normal(0, 2, 34), (640, 512))
    at = rng.uniform(0, 511, (200, 2))
    assert np.abs(bent.distorted(bent.undistorted(at)) - at).max() < 1e-6
    assert bent.grid().shape == (9, 11, 2)


def test_one_shot_is_looked_at_by_itself_while_others_come(tmp_path):
    shots, _, _ = taken(1, 3)
    number, residual_px = glance(shots[0], PHANTOM.positions_mm, PHANTOM.diameters_mm)
    assert number >= 8 and 0.0 < residual_px < 10.0
    assert glance(empty(1)[0], PHANTOM.positions_mm, PHANTOM.diameters_mm) is None
    beads = [
        {"id": id_, "position_mm": at, "diameter_mm": across}
        for id_, at, across in zip(IDS, PHANTOM.positions_mm.tolist(), PHANTOM.diameters_mm.tolist(), strict=True)
    ]
    (tmp_path / "phantom.json").write_text(json.dumps({"schema": "navnode/phantom/1", "name": "p", "beads": beads}))
    loaded, replace = config.load("demo.toml"), msgspec.structs.replace
    geometry = {"width_px": SIZE, "height_px": SIZE, "pixel_spacing_mm": NOMINAL.pixel_spacing_mm}
    geometry |= {
        "principal_point_px": NOMINAL.principal_point_px,
        "source_to_detector_mm": NOMINAL.source_to_detector_mm,
    }
    room = Room(
        replace(
            loaded,
            carm=replace(loaded.carm, **geometry),
            calibration=replace(loaded.calibration, phantom=str(tmp_path / "phantom.json")),
        )
    )
    heard = Heard()
    assert newest_shot(room, heard) is None
    for n, shot in enumerate([shots[0], empty(1)[0]], 1):
        heard.add("XRay", n, frame=shot.counts)
        seen = newest_shot(room, heard)
        assert seen.number == n and seen.of == len(IDS)
        assert (seen.beads, seen.residual_px) == ((number, residual_px) if n == 1 else (0, None))
