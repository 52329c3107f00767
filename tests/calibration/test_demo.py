"""A virtual operating room calibrated from scratch: its tool, C-arm, marker and clock are not what their makers say."""

from __future__ import annotations

import json
import re
import shutil

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from navnode import cli, config
from navnode import geometry as g
from navnode.commands.supervised import run_supervised
from navnode.config import SimulatorSection
from navnode.loop.calibrations import with_kept
from navnode.recording import Recorder
from navnode.simulation import practice, room
from navnode.simulation.scenario import CARM_FROM_MARKER, MARKER_FROM_TOOLTIP, Scenario, carm_of_size
from navnode.xray.flex import flex_of
from tests.conftest import find_free_port

SIZE_PX = 512
BEGAN_NS = 10**12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sessions of every scene, and what the operator has on paper."""
    folder = tmp_path_factory.mktemp("calibration")
    room_before = practice.Practice(SIZE_PX)
    room_before.write_references(folder)
    for scene in practice.SCENES:
        recorder = Recorder(folder / f"{scene}.mcap", {})
        for at_ns, message in room_before.messages(scene):
            stamped = msgspec.structs.replace(message, timestamp_ns=message.timestamp_ns + BEGAN_NS, version=2)
            recorder.record(stamped, at_ns + BEGAN_NS)
        recorder.stop()
    return folder


def calibrate(folder, *arguments):
    result = CliRunner().invoke(cli.app, ["calibrate", *map(str, arguments), "--json"])
    assert result.exit_code == 0, (arguments[0], result.stderr, result.exception)
    return json.loads(result.stdout)["result"]


@pytest.fixture(scope="module")
def found(folder):
    """What every routine finds in its session."""

    def session(scene, *devices):
        return ("--recording", folder / f"{scene}.mcap", *(part for device in devices for part in ("--device", device)))

    touches = ("stylus=DrillToTracker", "patient-marker=PatientToTracker")
    tip = ("--tip", folder / "pivot.json")
    return {
        name: calibrate(folder, kind, *arguments, "--out", folder / f"{name}.json")
        for name, kind, arguments in (
            ("pivot", "pivot", (*session("pivot", "DrillToTracker"), "--of", "Drill")),
            ("spin", "spin", (*session("spin", "DrillToTracker"), "--pivot", folder / "pivot.json", "--of", "Drill")),
            (
                "carm",
                "carm",
                (
                    *session("beads", "views=XRay"),
                    "--carm",
                    folder / "nominal.json",
                    "--phantom",
                    folder / "phantom.json",
                    "--per-shot",
                ),
            ),
            ("flex", "flex", ("--views", folder / "carm.json")),
            ("handeye", "handeye", (*session("beads", "marker=CArmToTracker"), "--xray", folder / "carm.json")),
            ("latency", "temporal", session("sweep", "tracker=CArmToTracker", "frames=XRay")),
            ("patient", "patient", (*session("points", *touches), *tip, "--volume-points", folder / "points.csv")),
            (
                "phantom",
                "phantom",
                (
                    *session("targets", *touches),
                    *tip,
                    "--targets",
                    folder / "targets.csv",
                    "--volume-from-patient",
                    folder / "patient.json",
                ),
            ),
        )
    }


@pytest.mark.slow  # the document, played from recordings, finds it in every run: test_guided_document.py
def test_every_routine_finds_what_the_room_hides(found):
    assert np.linalg.norm(np.subtract(found["pivot"]["tip_mm"], MARKER_FROM_TOOLTIP[:3, 3])) < 0.2
    assert g.angle_between_rad(np.array(found["spin"]["axis"]), MARKER_FROM_TOOLTIP[:3, 2]) < 0.003
    bent = flex_of(found["flex"]["model"])
    for angles_deg in ((0, 0), (45, 4), (90, 6)):
        true, told = practice.true_carm(SIZE_PX, *np.deg2rad(angles_deg)), bent.carm_at(*np.deg2rad(angles_deg))
        assert told.source_to_detector_mm == pytest.approx(true.source_to_detector_mm, rel=0.003)
        assert np.abs(np.subtract(told.principal_point_px, true.principal_point_px)).max() < 2
    off = g.inverse(np.array(found["handeye"]["marker_from_carm"])) @ g.inverse(CARM_FROM_MARKER)
    assert np.linalg.norm(off[:3, 3]) < 2.5 and np.linalg.norm(g.rotation_log(off[:3, :3])) < 0.003
    assert found["latency"]["image_lag_ns"] == pytest.approx(1e9 * practice.IMAGE_LAG_S, abs=5e6)
    truth = Scenario(isocentre_mm=np.zeros(3), targets_mm=np.zeros((1, 3))).volume_from_patient
    assert np.abs(np.array(found["patient"]["volume_from_patient"])[:3, 3] - truth[:3, 3]).max() < 0.5


def node(folder, with_files, port):
    """The shipped configuration, on the small detector, with what is kept in its folder or without."""
    text = config.find("calibration-demo.toml").read_text()
    carm = carm_of_size(SIZE_PX)
    for key, value in (
        ("width_px", SIZE_PX),
        ("height_px", SIZE_PX),
        ("pixel_spacing_mm", list(carm.pixel_spacing_mm)),
        ("principal_point_px", list(carm.principal_point_px)),
    ):
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.M)
    path = folder / "node.toml"
    path.write_text(text)
    (folder / "calibration").mkdir(exist_ok=True)
    for name, kept in (("pivot", "pivot-Drill"), ("spin", "spin-Drill"), ("latency", "image_lag")):
        shutil.copy(folder / f"{name}.json", folder / "calibration" / f"{kept}.json")
    for name in ("carm", "flex", "handeye"):
        shutil.copy(folder / f"{name}.json", folder / "calibration")
    loaded, replace = config.load(path), msgspec.structs.replace
    loaded = with_kept(loaded) if with_files else loaded
    return replace(
        loaded,
        volume=replace(loaded.volume, ct="procedural"),
        sources=(replace(loaded.sources[0], port=port),),
        reconstruction=replace(loaded.reconstruction, enabled=False),
        console=replace(loaded.console, port=find_free_port()),
        display=replace(loaded.display, enabled=False),
    )


@pytest.mark.slow  # what is found is asked above, that a node goes by it in tests/loop/test_calibrations.py
def test_navigation_errors_fall_when_everything_is_calibrated(folder, found, procedural_ct):
    settings = SimulatorSection(ct="procedural", size_px=SIZE_PX, frame_rate_hz=10.0, errors=True)
    scenario = room.load_scenario(room.prepare(settings))

    def errors(with_files):
        given = msgspec.structs.replace(settings, port=find_free_port())
        report = run_supervised(node(folder, with_files, given.port), given, 11.0, True, scenario)
        return report.tre_mm.median, report

    before, report = errors(False)
    after, calibrated_report = errors(True)
    assert after < 1.0, calibrated_report
    assert before is None or before > 3 * after, (before, after, report)
