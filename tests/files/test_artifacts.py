"""Every kind of calibration has a row, a struct and a place, and its files stay what they are."""

import json

import msgspec
import numpy as np
import pytest

from calibration.commands import app
from navnode.config import CalibrationSection, ToolSection
from navnode.errors import CalibrationError
from navnode.files import artifacts
from navnode.geometry import carm_document
from navnode.types import CArm

POSE = np.eye(4).tolist()
CARM = carm_document(CArm(64, 64, (0.5, 0.25), 1013.5, (31.5, 30.0)))
SHOT = {
    "phantom_from_carm": POSE,
    "beads": [{"id": "a", "image_px": [1.5, 2.0]}, {"id": 7, "image_px": [3.0, 4.0]}],
    "rms_px": 0.1,
    "timestamp_ns": 5,
    "carm": CARM,
    "angles_rad": {"orbital": 0.5, "angulation": -0.25},
}
FIELD = {
    "size_px": [64, 65],
    "angles_rad": [[-0.5, 0.0], [0.5, 0.0]],
    "outline_px": [[0.0, 0.0], [63.0, 0.0], [31.0, 64.0]],
    "grid_step_px": 64,
    "shifts_px": [[[[0.0, 0.5], [0.0, 0.5]], [[0.0, 0.5], [0.0, 0.5]]]] * 9,
}
RESULTS = {
    "pivot": {"tip_mm": [1.0, 2.0, 150.0], "pivot_mm": [3.0, 4.0, 5.5]},
    "spin": {"axis": [0.0, 0.6, 0.8], "axis_point_mm": [1.0, 0.0, 0.0]},
    "carm": {
        "carm": CARM,
        "views": [SHOT, {"phantom_from_carm": None, "beads": [], "rms_px": None, "timestamp_ns": 6}],
        "distortion": {
            "model": "poly3",
            "params": [0.5, 0.125],
            "grid_step_px": 64,
            "undistorted_px": [[[0.0, 0.5], [64.0, 0.5]], [[0.0, 64.5], [64.0, 64.5]]],
        },
    },
    "plate": {"field": FIELD, "pixel_mm": 0.25, "largest_shift_px": 12.5},
    "flex": {
        "model": {
            "kind": "arc+gaussian_process",
            "parameters": {
                "volume_from_base": POSE,
                "arm_from_carm": POSE,
                "carm": CARM,
                "angles_rad": [[0.0, 0.5]],
                "weights": [[0.5] * 9],
                "mean": [0.25] * 9,
                "length_rad": 0.6,
            },
        },
        "at": [{"carm": CARM, "volume_from_carm": POSE}],
    },
    "handeye": {"marker_from_carm": POSE, "tracker_from_phantom": POSE},
    "patient": {"volume_from_patient": POSE},
    "temporal": {"image_lag_ns": 28_000_000, "sign": -1},
    "flatfield": {"out": "detector.npz", "i0": 20000.5, "bad_pixels": [[3, 4], [5, 6]]},
    "phantom": {"measured_mm": {"apex": [1.0, 2.0, 3.0]}},
    "tool": {"markers_mm": [[0.0, 0.0, 0.0], [50.0, 0.5, 0.0], [0.0, 80.0, 0.0]], "pairs_mm": [50.0, 80.0, 94.5]},
}
"""As the routines write them."""
OLDER = {
    "handeye": {"marker_from_carm": POSE, "phantom_marker_from_phantom": POSE},
    "pivot": {"tip_mm": [1.0, 2.0, 150.0]},
    "spin": {"axis": [0.0, 0.6, 0.8]},
    "carm": {"carm": CARM, "views": [{"phantom_from_carm": POSE, "beads": [], "rms_px": 0.1}]},
}
"""Of another way to measure, or with less in them."""


def document(kind, result, **more):
    verdict = {"schema": "navnode/calibration/1", "kind": kind, "status": "PASS", "reason": ""}
    quality = {"n_used": 20, "sigma": None, "gates": {"n_used": 3.0}}
    whose = {"device": "D", "mode": "", "case": "", "created_ns": 9, "expires_ns": 10}
    made_of = {"inputs": {"a.npy": "00"}, "frames": {"x": "tool"}, "units": {"mm": "millimetre"}}
    return verdict | {"result": result, "quality": quality} | whose | made_of | more


def written(path, kind, result, **more):
    content = msgspec.json.format(json.dumps(document(kind, result, **more)).encode(), indent=1) + b"\n"
    path.write_bytes(content)
    return content


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        *RESULTS.items(),
        *OLDER.items(),
        ("carm", {"carm": CARM, "distortion": {"model": "plate", "field": FIELD}}),
    ],
)
def test_a_file_becomes_a_struct_and_the_same_file_again(tmp_path, kind, result):
    content = written(tmp_path / "a.json", kind, result)
    found = artifacts.read(tmp_path / "a.json")
    assert isinstance(found.result, artifacts.kind_of(found).result)
    artifacts.write(tmp_path / "b.json", found)
    assert (tmp_path / "b.json").read_bytes() == content


def test_the_registry_is_complete():
    names = [kind.name for kind in artifacts.KINDS]
    assert names == list(dict.fromkeys(names)) and set(names) == set(RESULTS)
    assert set(names) <= {command.name for command in app.registered_commands}
    for kind in artifacts.KINDS:
        assert set(kind.frames) <= set(kind.result.__struct_fields__), kind.name
        section = ToolSection if kind.of_tool else CalibrationSection
        assert not kind.key or kind.key in section.__struct_fields__, kind.name
        assert set(kind.result.__struct_fields__) >= set(RESULTS[kind.name])
    every = [name for kind in artifacts.KINDS for name in kind.names]
    assert len(every) == len(set(every)), "a document's kind would be ambiguous"


def test_the_images_lag_has_one_row_whatever_a_document_calls_it(tmp_path):
    for name in ("temporal", "image_lag"):
        written(tmp_path / "lag.json", name, RESULTS["temporal"])
        assert artifacts.usable(tmp_path / "lag.json", artifacts.IMAGE_LAG, 1).result.image_lag_ns == 28_000_000
    with pytest.raises(CalibrationError, match="a image_lag calibration, not pivot"):
        artifacts.usable(tmp_path / "lag.json", artifacts.PIVOT, 1)


@pytest.mark.parametrize(
    ("kind", "changed", "why"),
    [
        ("pivot", {"result": {}}, "result has no tip_mm"),
        ("pivot", {"result": {"tip_mm": [1, 2]}}, "the result cannot be used (tip_mm: "),
        ("pivot", {"result": 5}, "the result cannot be used ("),
        ("carm", {"result": {"carm": {"width_px": 3}}}, "carm has no height_px"),
        ("handeye", {"result": {"marker_from_carm": [[1, 2], [3, 4]]}}, "marker_from_carm is not a rigid transform"),
        ("flex", {"result": {"model": {"kind": "spline", "parameters": {}}}}, "model.parameters has no"),
        ("pivot", {"kind": "magic"}, "unknown kind of calibration 'magic'; known: pivot, spin, plate, carm"),
        ("pivot", {"schema": "navnode/calibration/2"}, "not a calibration file ("),
        ("pivot", {"expires_ns": "soon"}, "not a calibration file ("),
    ],
)
def test_what_is_wrong_is_named(tmp_path, kind, changed, why):
    (tmp_path / "a.json").write_text(json.dumps(document(kind, RESULTS[kind]) | changed))
    with pytest.raises(CalibrationError) as caught:
        artifacts.read(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: {why}")


def test_what_failed_can_be_looked_at_and_not_loaded(tmp_path):
    for result in ({}, {"tip_mm": None}, RESULTS["pivot"]):
        written(tmp_path / "a.json", "pivot", result, status="FAIL", reason="residual: too much")
        found = artifacts.read(tmp_path / "a.json")
        assert found.failed and artifacts.wrong(found, 1) == "this calibration failed (residual: too much)"
        with pytest.raises(CalibrationError, match="this calibration failed"):
            artifacts.usable(tmp_path / "a.json", artifacts.PIVOT, 1)


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CalibrationError, match="too large"):
        artifacts.read(tmp_path / "a.json")
