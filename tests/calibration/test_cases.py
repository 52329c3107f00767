"""A start of the patient's registration belongs to the case it was measured in."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from calibration.guide import Guide, Run
from calibration.room import State, Used
from calibration.verdict import Calibration
from navnode import config
from navnode.clock import now_ns
from navnode.config import Config, matrix
from navnode.errors import CalibrationError
from navnode.files import artifacts
from navnode.files.artifacts import PATIENT, PatientResult
from navnode.geometry import exp
from navnode.loop.calibrations import Calibrations, case_of, lacking, with_kept

START = exp(np.array([0.1, 0.0, 0.2, 10.0, -20.0, 5.0]))
RESULT = PatientResult(artifacts.rows(START))


@pytest.fixture
def room(tmp_path) -> Config:
    """A node's configuration with a CT of one file and a folder of calibrations."""
    ct = tmp_path / "ct.nii.gz"
    ct.write_bytes(b"one patient")
    return configured(tmp_path, str(ct))


def configured(folder, ct: str, **case: str) -> Config:
    loaded, replace = config.load("demo.toml"), msgspec.structs.replace
    return replace(
        loaded,
        volume=replace(loaded.volume, ct=ct),
        case=replace(loaded.case, **case),
        calibration=replace(loaded.calibration, folder=str(folder / "kept")),
    )


def keep(room: Config) -> None:
    """Keep a start, as the guide does with one that passed."""
    guide = Guide(with_kept(room))
    step = guide.room.step("patient")
    passed = Calibration(PATIENT, RESULT, {}, {}, "")
    run = Run((step,), "Drill", {}, verdicts={"patient": passed})
    assert [each.name for each in guide.keep(run)] == ["patient"]


def start(room: Config) -> np.ndarray:
    """Where a node that starts now begins to look for the patient."""
    return matrix(Calibrations.load(with_kept(room), now_ns()).config.registration.volume_from_patient_start)


def kept(room: Config):
    guide = Guide(with_kept(room))
    return guide.room.kept(guide.room.step("patient"))


def test_the_case_it_was_measured_in_gets_it(room):
    keep(room)
    assert np.allclose(start(room), START)
    assert (kept(room).state, kept(room).used) == (State.KEPT, Used.NEXT_START)


@pytest.mark.parametrize("change", ["content", "file", "folder", "name", "side", "units", "none"])
def test_another_case_does_not(room, change, tmp_path, caplog):
    keep(room)
    ct = tmp_path / "ct.nii.gz"
    if change == "content":
        ct.write_bytes(b"the next patient, under the same name")
        other = room
    elif change == "file":
        (tmp_path / "other.nii.gz").write_bytes(b"the next patient")
        other = configured(tmp_path, str(tmp_path / "other.nii.gz"))
    elif change == "folder":
        (tmp_path / "series").mkdir()
        ct.rename(tmp_path / "series" / "1.dcm")
        other = configured(tmp_path, str(tmp_path / "series"))
    elif change == "units":
        other = msgspec.structs.replace(room, volume=msgspec.structs.replace(room.volume, units="cm"))
    elif change == "none":
        other = configured(tmp_path, "")
    else:
        other = configured(tmp_path, str(ct), **{change: "left"})
    assert np.array_equal(start(other), matrix(other.registration.volume_from_patient_start))
    assert "patient.json: not used: of another case" in caplog.text
    assert kept(other).state is State.REFUSED and "another case" in kept(other).reason
    if change != "none":
        assert Guide(with_kept(other)).room.step("patient").name in [
            step.name for step in Guide(with_kept(other)).state().steps if step.state == "refused"
        ]
        keep(other)
        assert np.allclose(start(other), START), "once it is measured again"


def test_a_copy_of_the_same_ct_is_the_same_case(room, tmp_path):
    keep(room)
    (tmp_path / "copy.nii.gz").write_bytes((tmp_path / "ct.nii.gz").read_bytes())
    assert np.allclose(start(configured(tmp_path, str(tmp_path / "copy.nii.gz"))), START)


def test_every_file_of_a_series_counts(tmp_path):
    series = tmp_path / "series"
    (series / "deeper").mkdir(parents=True)
    (series / "1.dcm").write_bytes(b"one")
    (series / "deeper" / "2.dcm").write_bytes(b"two")
    seen = {case_of(configured(tmp_path, str(series)))}
    (series / "deeper" / "2.dcm").write_bytes(b"too")
    seen.add(case_of(configured(tmp_path, str(series))))
    (series / "1.dcm").rename(series / "3.dcm")
    seen.add(case_of(configured(tmp_path, str(series))))
    assert len(seen) == 3 and "" not in seen


def test_a_file_of_another_case_that_is_named_stops_the_start(room, tmp_path):
    keep(room)
    named = msgspec.structs.replace(room.calibration, folder="", patient=str(tmp_path / "kept" / "patient.json"))
    same = msgspec.structs.replace(room, calibration=named)
    assert np.allclose(start(same), START)
    (tmp_path / "ct.nii.gz").write_bytes(b"the next patient")
    with pytest.raises(CalibrationError, match=r"patient\.json: of another case"):
        start(same)
    assert "another case" in dict(lacking(same, now_ns()))["refused"]


def test_a_file_of_no_known_case_is_used_only_if_it_is_named(room, tmp_path):
    path = tmp_path / "kept" / "patient.json"
    path.parent.mkdir()
    artifacts.write(path, artifacts.Artifact(kind="patient", status="PASS", result=RESULT))
    assert np.array_equal(start(room), matrix(room.registration.volume_from_patient_start))
    assert kept(room).state is State.REFUSED
    named = msgspec.structs.replace(room.calibration, patient=str(path))
    assert np.allclose(start(msgspec.structs.replace(room, calibration=named)), START)


def test_the_case_cannot_be_read_from_the_file(tmp_path, room):
    named = configured(tmp_path, room.volume.ct, name="L4-L5")
    keep(named)
    assert "L4-L5" not in (tmp_path / "kept" / "patient.json").read_text()
