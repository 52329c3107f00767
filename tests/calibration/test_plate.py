"""Distortion by angle from pictures of a plate: every hole has its name, and the correction is right in between."""

import json
from dataclasses import replace

import cv2
import msgspec
import numpy as np
import pytest

from calibration.carm import PhantomShot, carm
from calibration.lattice import Lattice, UnclearError, holes
from calibration.plate import plate
from navnode.errors import CalibrationError, ConfigError
from navnode.files import artifacts
from navnode.files.views import read_views
from navnode.geometry import carm_document, pose_at
from navnode.offline.carm import calibrated_views
from navnode.simulation.beads import exposed, helix, rendered
from navnode.types import CArm
from navnode.xray.correction import ImageCorrection
from navnode.xray.distortion import field_of
from tests.calibration.plates import Plate
from tests.calibration.test_commands import call
from tests.conftest import slow

pytestmark = pytest.mark.long

SIZE = 384
ANGLES = [(orbital, 0.1 * orbital) for orbital in np.linspace(-1.0, 1.0, 7)]
INTENSIFIER = Plate(size_px=SIZE, pixel_mm=0.6, spacing_mm=6.6, hole_mm=2.6)


def carm_of(intensifier):
    size = intensifier.size_px
    return CArm(size, size, (intensifier.pixel_mm,) * 2, 1000.0, ((size - 1) / 2,) * 2)


def taken(intensifier, angles=ANGLES, seed=0):
    rng = np.random.default_rng(seed)
    return [PhantomShot(intensifier.picture(*at, rng), carm_of(intensifier), angles_rad=at) for at in angles]


def fitted(shots, intensifier=INTENSIFIER, **more):
    return plate(shots, Lattice(intensifier.lattice, intensifier.spacing_mm), threads=2, **more)


def off_px(field, intensifier, angles):
    """How far corrected pixels of all angles are from those of one ideal detector: one shift, rotation and scale."""
    ideal, places = [], []
    for at in angles:
        raw = field.raw_from_ideal(at).astype(float)
        v, u = np.nonzero(np.isfinite(raw[..., 0]))
        some = slice(None, None, 41)
        ideal.append(u[some] + 1j * v[some])
        places.append(intensifier.plate_mm(raw[v[some], u[some]], *at) @ [1, 1j])
    ideal, places = np.concatenate(ideal), np.concatenate(places)
    rows = np.column_stack([ideal, np.ones(len(ideal))])
    similar = np.linalg.lstsq(rows, places, None)[0]
    return np.abs(rows @ similar - places) / abs(similar[0])


@pytest.fixture(scope="module")
def shots():
    return taken(INTENSIFIER)


@pytest.fixture(scope="module")
def found(shots):
    return fitted(shots)


def test_a_pixel_is_corrected_at_angles_between_those_of_the_pictures(found):
    assert found.passed, found.reason
    assert found.quality["n_used"] == len(ANGLES) and found.quality["cv_px"] < 0.15 and found.quality["loo_px"] < 0.3
    field = field_of(msgspec.to_builtins(found.result.field))
    off = off_px(field, INTENSIFIER, [(-0.85, -0.1), (-0.2, 0.0), (0.5, 0.05), (0.95, 0.1)])
    assert np.sqrt(np.mean(off**2)) < 0.1 and off.max() < 0.3
    assert found.quality["raw_rms_px"] > 1 and found.result.largest_shift_px > 3
    assert field.turns and found.quality["fields"] == 3


@pytest.mark.parametrize(
    ("changes", "angles"),
    [
        slow({"lattice": "square", "beads": True}, ANGLES),
        ({"shutter": (0.4, 0.6), "text": True, "closed": 0.05, "noise": 3.0}, ANGLES),
        slow({"round_field": False, "turned_rad": 1.9, "cushion": 0.05}, ANGLES),
        ({}, [(orbital, angle) for orbital in (-0.8, 0.0, 0.8) for angle in (-0.5, -0.2, 0.2, 0.5)]),
    ],
    ids=["beads in squares", "shutter, text, damaged, noise", "square field", "two axes"],
)
def test_other_plates_fields_and_angles(changes, angles):
    intensifier = replace(INTENSIFIER, **changes)
    found = fitted(taken(intensifier, angles), intensifier)
    assert found.passed, found.reason
    field = field_of(msgspec.to_builtins(found.result.field))
    between = (np.array(angles[:-1]) + np.array(angles[1:]))[::3] / 2
    off = off_px(field, intensifier, [tuple(at) for at in between])
    assert np.sqrt(np.mean(off**2)) < 0.1 and off.max() < 0.4
    assert field.turns


@pytest.mark.parametrize("seed", range(10))
def test_no_hole_has_the_name_of_another(seed):
    """Any plate on any intensifier, more or less hidden, and the same plate at another angle."""
    rng = np.random.default_rng(seed)
    spacing_px, pixel_mm = rng.uniform(8, 20), rng.uniform(0.2, 0.8)
    intensifier = Plate(
        lattice=str(rng.choice(["hexagonal", "square"])),
        size_px=320,
        pixel_mm=pixel_mm,
        spacing_mm=spacing_px * pixel_mm,
        hole_mm=spacing_px * pixel_mm * rng.uniform(0.25, 0.55),
        turned_rad=rng.uniform(-3, 3),
        middle_mm=tuple(rng.uniform(-3, 3, 2)),
        cushion=rng.uniform(-0.02, 0.1),
        swirl=rng.uniform(-0.05, 0.05),
        drift_px=rng.uniform(0, 0.2 * spacing_px),
        noise=rng.choice([0.3, 1, 4]),
        round_field=bool(rng.random() < 0.7),
        shutter=(rng.uniform(-3, 3), rng.uniform(0.2, 0.9)) if rng.random() < 0.5 else None,
        beads=bool(rng.random() < 0.5),
        closed=rng.choice([0, 0.02, 0.2]),
        text=bool(rng.random() < 0.5),
    )
    named = []
    for at in ((0.0, 0.0), (rng.uniform(-0.4, 0.4), rng.uniform(-0.3, 0.3))):
        counts = intensifier.picture(*at, rng)
        lattice = Lattice(intensifier.lattice, intensifier.spacing_mm)
        seen = holes(counts, lattice, spacing_px * rng.uniform(0.88, 1.12))
        seen = seen.tied(named[0][0]) if named else seen
        named.append((seen, intensifier.nearest(intensifier.plate_mm(seen.at_px, *at))[0]))
    first, true = named[0]
    rows = np.column_stack([first.index, np.ones(len(true))])
    renamed = np.rint(np.linalg.lstsq(rows, true, None)[0])  # where indices begin, and along which steps, is free
    turns = [np.linalg.matrix_power(first.lattice.turn, n) for n in range(6)]
    assert any(np.array_equal(renamed[:2].T, turn) for turn in turns), "steps of the lattice are its nearest neighbours"
    for seen, true in named:
        assert len(seen.index) > 60
        assert np.array_equal(np.column_stack([seen.index, np.ones(len(true))]) @ renamed, true)


def test_what_is_no_such_plate_is_refused(shots):
    with pytest.raises(UnclearError):
        holes(shots[0].counts, Lattice("square", INTENSIFIER.spacing_mm), 11.0)
    with pytest.raises(UnclearError):
        holes(np.random.default_rng(0).poisson(900.0, (SIZE, SIZE)).astype(np.uint16), Lattice("square", 5.0), 11.0)
    with pytest.raises(UnclearError):
        holes(np.full((SIZE, SIZE), 900, np.uint16), Lattice("square", 5.0), 11.0)
    other = replace(INTENSIFIER, lattice="square")
    assert fitted(shots, other).code == "no_holes"
    assert (
        fitted([replace(shots[0], counts=shots[0].counts * 0), *shots[1:3]], gates={"n_used": 2}).quality["n_used"] == 2
    )


def test_a_plate_that_moved_is_noticed(shots):
    """By a fraction of the spacing between two pictures: not tied, or not explained. By all of it: the same lattice."""
    slid = [taken(replace(INTENSIFIER, middle_mm=(1.3 + dx, -0.7)), [at], 3)[0] for dx, at in ((1.0, ANGLES[2]),)]
    assert fitted([*shots[:2], *slid, *shots[3:]]).code == "residual"
    half = taken(replace(INTENSIFIER, middle_mm=(1.3 + INTENSIFIER.spacing_mm / 2, -0.7)), ANGLES[2:5], 3)
    found = fitted([*shots[:2], *half, *shots[5:]])
    assert found.code == "too_many_rejected" and found.quality["n_used"] in (3, 4)
    assert "shifted against the others" in found.reason


def test_too_little_is_said_to_be(shots):
    assert fitted(shots[:2]).code == "too_few"
    near = taken(INTENSIFIER, [(0.0, 0.0), (0.1, 0.0), (0.2, 0.0)])
    assert fitted(near).code == "coverage" and "range of the C-arm's angles" in fitted(near).reason
    shut = taken(replace(INTENSIFIER, shutter=(0.3, -0.1)), ANGLES[::2])
    assert fitted(shut).code == "coverage"
    wrong = replace(carm_of(INTENSIFIER), pixel_spacing_mm=(0.72, 0.72))
    assert fitted([replace(shot, carm=wrong) for shot in shots]).code == "spacing"


@pytest.mark.parametrize("guess", [slow(0.55), 1.7, slow(2.1)])
def test_a_guessed_size_of_pixels_is_measured(shots, guess):
    """It fails, and says what the size is; with that it passes."""
    size_mm = INTENSIFIER.pixel_mm * guess
    found = fitted([replace(shot, carm=replace(shot.carm, pixel_spacing_mm=(size_mm,) * 2)) for shot in shots[::2]])
    assert found.code == "spacing"
    told_mm = float(found.reason.rpartition("a pixel covers ")[2].removesuffix(" mm"))
    assert told_mm == pytest.approx(INTENSIFIER.pixel_mm, rel=0.05)
    stated = [replace(shot, carm=replace(shot.carm, pixel_spacing_mm=(told_mm,) * 2)) for shot in shots]
    assert fitted(stated).passed


def test_a_distortion_that_turns_is_not_taken_for_a_fixed_one(shots):
    nameless = [replace(shot, angles_rad=None) for shot in shots]
    with pytest.raises(ConfigError, match=r"views\[0\].*angles"):
        fitted(nameless)
    assert fitted(nameless, fixed=True).code == "residual"
    still = replace(INTENSIFIER, swirl=0.0, drift_px=0.0)
    found = fitted([replace(shot, angles_rad=None) for shot in taken(still, ANGLES[::2])], still, fixed=True)
    assert found.passed, found.reason
    field = field_of(msgspec.to_builtins(found.result.field))
    assert not field.turns and off_px(field, still, [(0.0, 0.0)]).max() < 0.2
    assert ImageCorrection(carm_of(still), distortion=field).refusal(None) == ""


def test_settings_that_cannot_be_are_named(shots):
    with pytest.raises(ConfigError, match="there are no pictures"):
        fitted([])
    with pytest.raises(ConfigError, match="px apart"):
        plate(shots, Lattice("hexagonal", 0.5))
    with pytest.raises(ConfigError, match="different detector modes"):
        fitted([shots[0], replace(shots[1], carm=replace(shots[1].carm, pixel_spacing_mm=(0.5, 0.5)))])


# --- what follows ----------------------------------------------------------------------------------------------------


def phantom_shots(count, seed):
    """Shots of a bead phantom on the same intensifier, and the ideal C-arm that they were made with."""
    ideal = CArm(SIZE, SIZE, (0.6, 0.6), 1010.0, (195.0, 187.0))
    rng, beads, made = np.random.default_rng(seed), helix(24), []
    cos, sin = np.cos(INTENSIFIER.turned_rad), np.sin(INTENSIFIER.turned_rad)
    back = np.array([[cos, -sin], [sin, cos]]) / INTENSIFIER.pixel_mm  # the plate lies turned on the detector
    for orbital in np.linspace(-0.9, 0.9, count):
        at = (float(orbital), float(rng.uniform(-0.1, 0.1)))
        pose = pose_at(np.zeros(3), 680.0 + rng.uniform(-50, 50), orbital_deg=np.rad2deg(orbital), angulation_deg=15.0)

        def undistorted(raw_px, at=at):
            return (INTENSIFIER.plate_mm(raw_px, *at) - INTENSIFIER.middle_mm) @ back + (SIZE - 1) / 2

        line = rendered(beads, ideal, pose, undistorted=undistorted, most_off_px=25.0)
        made.append(PhantomShot(exposed(line, rng), carm_of(INTENSIFIER), angles_rad=at))
    return made, beads, ideal


def test_a_c_arm_is_calibrated_through_the_plate(found, tmp_path):
    made, beads, ideal = phantom_shots(7, 5)
    field = field_of(msgspec.to_builtins(found.result.field))
    ids = [str(n) for n in range(len(beads.diameters_mm))]
    through = carm(made, ids, beads.positions_mm, beads.diameters_mm, plate=field, threads=2)
    assert through.passed, through.reason
    assert through.quality["rms_px"] < 0.15 and through.result.distortion.model == "plate"
    told = through.result.carm
    scale = found.result.pixel_mm / 0.6  # corrected pixels are as large as raw ones on average
    assert told.source_to_detector_mm * scale == pytest.approx(ideal.source_to_detector_mm, rel=0.004)
    without = carm(made, ids, beads.positions_mm, beads.diameters_mm, threads=2)
    off = [abs(each.quality["raw_rms_px"]) for each in (through, without)]
    assert off[1] > 5 * off[0], "without the plate the beads are far from those of any C-arm"
    assert without.quality["loo_px"] > through.quality["loo_px"]
    with pytest.raises(ConfigError, match="no other"):
        carm(made, ids, beads.positions_mm, beads.diameters_mm, plate=field, distortion="poly3")
    with pytest.raises(ConfigError, match=r"views\[6\].*outside the calibrated distortion"):
        carm(
            [*made[:6], replace(made[6], angles_rad=(1.3, 0.0))],
            ids,
            beads.positions_mm,
            beads.diameters_mm,
            plate=field,
        )

    # A file that knows the field: for pictures on disk, and as strict about their angles.
    artifacts.write(tmp_path / "carm.json", through.artifact(1, days_valid=0))
    nominal = carm_document(carm_of(INTENSIFIER))
    cv2.imwrite(str(tmp_path / "a.png"), made[2].counts)
    view = {"image": "a.png", "carm": nominal, "volume_from_carm": np.eye(4).tolist()}
    angles = dict(zip(("orbital", "angulation"), made[2].angles_rad, strict=True))

    def of(**more):
        document = {"schema": "navnode/views/1", "views": [{**view, **more}]}
        (tmp_path / "views.json").write_text(json.dumps(document))
        return calibrated_views(read_views(tmp_path / "views.json"), tmp_path / "carm.json").views[0]

    wanted = ImageCorrection(told.geometry, distortion=field).corrected(made[2].counts, made[2].angles_rad)
    assert np.array_equal(of(angles_rad=angles).counts(), wanted)
    with pytest.raises(ConfigError, match=r"views\[0\].*no C-arm angles"):
        of()


def test_what_a_field_does_not_know_it_does_not_show(found):
    field = field_of(msgspec.to_builtins(found.result.field))
    detector = ImageCorrection(carm_of(INTENSIFIER), distortion=field)
    assert detector.refusal((0.3, 0.0)) == ""
    assert "outside the calibrated distortion" in detector.refusal((1.2, 0.0))
    assert "no C-arm angles" in detector.refusal(None)
    made = detector.corrected(np.full((SIZE, SIZE), 1000, np.uint16), (0.3, 0.0))
    assert made[SIZE // 2, SIZE // 2] == 1000
    assert made[0, 0] == made[-1, -1] == 65_535, "no hole was seen in the corners"


@pytest.mark.parametrize(
    "changes",
    [
        {"grid_step_px": 32},
        {"angles_rad": None},
        {"shifts_px": [[[[0.0, 0.0]]]]},
        {"shifts_px": [[[[float("nan"), 0.0]] * 7] * 7] * 9},
        {"shifts_px": [[[[900.0 * n, 0.0] for n in range(7)]] * 7] * 9},
        {"outline_px": [[1.0, 2.0, 3.0]]},
        {"size_px": [SIZE, 200]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_field_that_cannot_be_is_refused(found, changes):
    with pytest.raises(CalibrationError, match="distortion"):
        field_of({**msgspec.to_builtins(found.result.field), **changes})


def test_the_command(shots, tmp_path):
    entries = []
    for n, shot in enumerate(shots):
        cv2.imwrite(str(tmp_path / f"{n}.png"), shot.counts)
        angles = dict(zip(("orbital", "angulation"), shot.angles_rad, strict=True))
        entries.append({"image": f"{n}.png", "carm": carm_document(shot.carm), "angles_rad": angles})
    (tmp_path / "views.json").write_text(json.dumps({"schema": "navnode/views/1", "views": entries}))
    out, report = tmp_path / "plate.json", tmp_path / "plate.html"
    asked = ("plate", "--views", tmp_path / "views.json", "--spacing-mm", INTENSIFIER.spacing_mm, "--json")
    code, document, error = call(*asked, "--out", out, "--report", report)
    assert (code, error) == (0, "") and document["status"] == "PASS"
    kept = artifacts.usable(out, artifacts.PLATE, artifacts.read(out).created_ns)
    assert field_of(msgspec.to_builtins(kept.result.field)).covers((0.0, 0.0))
    assert report.read_text().count("<img") == 7 and "largest distortion" in report.read_text()
    code, document, error = call(*asked, "--lattice", "square", "--out", tmp_path / "none.json")
    assert code == 1 and document["reason"].startswith("no_holes: ") and not (tmp_path / "none.json").exists()
    code, document, error = call("plate", "--spacing-mm", 5, "--json")
    assert code == 2 and document is None and "--views" in error
    assert call("show", out)[0] == 0 and call("check", out)[0] == 0
