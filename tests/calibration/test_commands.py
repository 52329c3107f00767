"""The commands as a script calls them: files in, one JSON document and an exit code out."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from navnode import cli
from navnode import geometry as g
from navnode.errors import CalibrationError, NavError
from navnode.files import artifacts
from navnode.geometry import carm_document
from navnode.igtl import Image, Transform
from navnode.recording import Recorder
from tests.calibration.scenes import TIP, bent, pivoting, shots, wandering


def call(*arguments):
    """Exit code, the document on standard output (None: none), standard error. As main() does it."""
    result = CliRunner().invoke(cli.app, ["calibrate", *map(str, arguments)])
    code = result.exit_code
    error = result.stderr
    if isinstance(result.exception, NavError):
        code, error = 2, str(result.exception)
    document = json.loads(result.stdout) if "--json" in arguments and result.stdout.strip() else None
    return code, document, error


@pytest.fixture
def poses(tmp_path) -> Path:
    np.save(tmp_path / "stylus.npy", pivoting(120, np.random.default_rng(0)))
    return tmp_path / "stylus.npy"


def write_csv(path, series, times):
    header = "timestamp_s," + ",".join(f"m{i}{j}" for i in range(4) for j in range(4))
    rows = [",".join(map(repr, map(float, [t, *pose.ravel()]))) for t, pose in zip(times, series, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_pass_writes_an_artifact_and_fail_leaves_the_old_one(poses, tmp_path):
    out = tmp_path / "tip.json"
    code, document, _ = call("pivot", poses, "--out", out, "--of", "Stylus", "--json")
    assert code == 0 and document["status"] == "PASS" and document["reason"] == ""
    kept = artifacts.usable(out, artifacts.PIVOT, artifacts.read(out).created_ns + 1, device="Stylus")
    assert kept.schema == "navnode/calibration/1" and list(kept.inputs) == [str(poses)]
    assert artifacts.encoded(kept) == out.read_bytes()
    assert {k: v for k, v in json.loads(out.read_text()).items() if k in document} == document
    before = out.read_bytes()
    code, document, error = call("pivot", poses, "--out", out, "--gate", "rms_mm=0.01", "--json")
    assert code == 1 and document["status"] == "FAIL" and document["reason"].startswith("residual: ")
    assert document["reason"] in error and document["quality"]["gates"]["rms_mm"] == 0.01
    assert out.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["stylus.npy", "tip.json"]


def test_what_cannot_be_read_is_named(poses, tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((5, 3, 4)))
    (tmp_path / "units.csv").write_text("timestamp_s,x_cm\n0,1\n")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "words.csv").write_text("label,x_mm,y_mm,z_mm\na,1,two,3\n")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.load(poses).astype(complex))
    for arguments, named in (
        (("pivot", tmp_path / "none.npy"), "none.npy"),
        (("pivot", tmp_path / "flat.npy"), "flat.npy"),
        (("pivot", tmp_path / "units.csv"), "units.csv"),
        (("pivot", tmp_path / "text.npy"), "text.npy"),
        (("pivot", tmp_path / "object.npy"), "object.npy"),
        (("pivot", tmp_path / "complex.npy"), "complex.npy"),
        (("spin", poses, "--tip", "nan", "0", "1"), "--tip"),
        (("spin", poses, "--tip", "0", "0", "0"), "--tip"),
        (("pivot", poses, "--gate", "size=3"), "--gate size"),
        (("pivot", poses, "--gate", "rms_mm=much"), "--gate rms_mm"),
        (("pivot",), "POSES"),
        (("pivot", poses, "--reference", tmp_path / "flat.npy"), "flat.npy"),
        (("patient", "--volume-points", tmp_path / "words.csv", "--patient-points", tmp_path / "words.csv"), "row 0"),
        (("temporal", "--tracker", poses, "--signal", tmp_path / "units.csv"), "stylus.npy"),
    ):
        code, document, error = call(*arguments, "--json")
        assert code == 2 and document is None and named in error, arguments
    assert CliRunner().invoke(cli.app, ["calibrate", "pivot", "--nonsense"]).exit_code == 2


def test_options_that_contradict_or_lack_each_other_are_named(poses, tmp_path):
    np.save(tmp_path / "short.npy", np.load(poses)[:50])
    points = tmp_path / "points.csv"
    points.write_text("label,x_mm,y_mm,z_mm\na,1,2,3\nb,50,2,3\nc,1,80,3\nd,1,2,90\n")
    stream = ("--stylus", poses, "--patient-marker", poses)
    patient = ("patient", "--volume-points", points, "--patient-points", points)
    for arguments, said in (
        (("pivot", poses, "--reference", tmp_path / "short.npy"), "--reference has 50 rows, the poses have 120"),
        (("spin", poses, "--tip", 1, 2, 3, "--pivot", poses), "use --tip or --pivot, not both"),
        ((*patient, "--surface", points), "--surface and --mesh must be used together"),
        ((*patient, "--fle-mm", "nan"), "--fle-mm must be positive"),
        (("patient", "--volume-points", points, *stream), "--patient-points is missing"),
        (("phantom", "--targets", points, "--measured", points, *stream), "use --measured, or --stylus"),
        (("phantom", "--targets", points, *stream, "--tip", 1, 2, 3), "--volume-from-patient are needed"),
        (("temporal", "--tracker", poses, "--signal", points), "the poses have no times"),
        (("carm", "--phantom", points, "--views", points, "--live", "nowhere"), "--live: 'nowhere' is not HOST:PORT"),
        (("pivot", "--live", "a:1", "--recording", poses), "give --live or --recording, not both"),
        (("pivot", "--live", "a:1"), "--live needs --device"),
        (("pivot", poses, "--device", "a=x", "--device", "a=y"), "--a is named twice"),
    ):
        code, document, error = call(*arguments, "--json")
        assert code == 2 and document is None and said in error, arguments


def test_files_and_recordings_give_the_same_answer(poses, tmp_path):
    series = np.load(poses)
    recorder = Recorder(tmp_path / "session.mcap", {})
    for n, pose in enumerate(series):
        stamp = (n + 1) * 20_000_000
        recorder.record(Transform(device="StylusToTracker", timestamp_ns=stamp, matrix=pose), stamp)
    recorder.stop()
    from_file = call("pivot", poses, "--json")[1]["result"]
    csv = write_csv(tmp_path / "stylus.csv", series, 0.02 * np.arange(len(series)))
    assert call("pivot", csv, "--json")[1]["result"] == from_file
    code, document, _ = call("pivot", "--recording", tmp_path / "session.mcap", "--device", "StylusToTracker", "--json")
    assert code == 0
    # The wire holds single precision.
    assert np.abs(np.subtract(document["result"]["tip_mm"], from_file["tip_mm"])).max() < 1e-2
    code, _, error = call("pivot", "--recording", tmp_path / "session.mcap", "--device", "Nobody", "--json")
    assert code == 2 and "StylusToTracker" in error


def test_two_devices_of_a_recording_correspond(tmp_path):
    rng = np.random.default_rng(1)
    recorder = Recorder(tmp_path / "session.mcap", {})
    markers, xrays, _, _ = shots(12, rng, sigma_mm=0.02, sigma_deg=0.005, xray_mm=0.02, xray_deg=0.005)
    for n, (marker, xray) in enumerate(zip(markers, xrays, strict=True)):
        for device, pose, at in (("CArmToTracker", marker, n), ("XrayToPhantom", xray, n)):
            stamp = (at + 1) * 1_000_000_000
            recorder.record(Transform(device=device, timestamp_ns=stamp, matrix=pose), stamp)
    recorder.stop()
    devices = ("--device", "marker=CArmToTracker", "--device", "xray=XrayToPhantom")
    code, document, error = call("handeye", "--recording", tmp_path / "session.mcap", *devices, "--json")
    assert code == 0, error
    assert document["quality"]["n_used"] == 12


def test_the_tip_may_be_numbers_or_a_calibration(poses, tmp_path):
    call("pivot", poses, "--out", tmp_path / "tip.json")
    rng = np.random.default_rng(2)
    base = np.array([g.exp(np.array([0, 0, a, 1, 2, 3.0])) for a in np.linspace(0, 3, 40)])
    np.save(tmp_path / "spin.npy", base)
    numbers = call("spin", tmp_path / "spin.npy", "--tip", *TIP, "--json")
    calibrated = call("spin", tmp_path / "spin.npy", "--pivot", tmp_path / "tip.json", "--json")
    assert numbers[0] == calibrated[0] == 0 and numbers[1]["result"]["axis"][2] > 0
    targets = {f"t{n}": at for n, at in enumerate(rng.uniform(-50, 50, (5, 3)))}
    lines = ["label,x_mm,y_mm,z_mm", *(f"{k},{v[0]},{v[1]},{v[2]}" for k, v in targets.items())]
    (tmp_path / "targets.csv").write_text("\n".join(lines))
    stylus = []
    for at in targets.values():
        stylus += [g.rigid(None, tuple(at - TIP + rng.normal(0, 0.05, 3))) for _ in range(30)]
        stylus += [g.rigid(None, tuple(at - TIP + [0, 0, 6.0 * n])) for n in range(1, 20)]
    marker = g.rigid(None, (0.0, 0.0, 1e-9))
    np.save(tmp_path / "s.npy", np.array(stylus))
    np.save(tmp_path / "p.npy", np.array([marker] * len(stylus)))
    np.save(tmp_path / "m.npy", g.inverse(marker))
    common = (
        "phantom",
        "--targets",
        tmp_path / "targets.csv",
        "--stylus",
        tmp_path / "s.npy",
        "--patient-marker",
        tmp_path / "p.npy",
        "--volume-from-patient",
        tmp_path / "m.npy",
        "--json",
    )
    for tip in (TIP, [tmp_path / "tip.json"]):
        code, document, error = call(*common, "--tip", *tip)
        assert code == 0 and document["quality"]["touches"] == 5, error


def test_poses_of_views_that_are_none_are_set_aside(tmp_path):
    views = []
    for orbital in np.linspace(-1, 1, 16):
        arm, pose = bent(orbital, 0.0)
        angles = {"orbital": orbital, "angulation": 0.0}
        views.append({"carm": carm_document(arm), "volume_from_carm": pose.tolist(), "angles_rad": angles})
    views[4]["volume_from_carm"][0][0] *= 1.1
    del views[7]["volume_from_carm"]
    (tmp_path / "v.json").write_text(json.dumps({"schema": "navnode/views/1", "views": views}))
    code, document, error = call("flex", "--views", tmp_path / "v.json", "--json")
    assert code == 0 and document["quality"]["rejected"] == [4, 7], error


def test_every_other_routine_from_files(tmp_path):
    rng = np.random.default_rng(3)
    markers, xrays, _, _ = shots(20, rng)
    np.save(tmp_path / "m.npy", markers)
    np.save(tmp_path / "x.npy", xrays)
    code, document, _ = call("handeye", "--marker", tmp_path / "m.npy", "--xray", tmp_path / "x.npy", "--json")
    assert code == 0 and len(document["result"]["marker_from_carm"]) == 4
    angles = [(o, 0.0) for o in np.linspace(-1, 1, 16)]
    views = []
    for orbital, angulation in angles:
        arm, pose = bent(orbital, angulation)
        views.append(
            {
                "carm": carm_document(arm),
                "volume_from_carm": pose.tolist(),
                "angles_rad": {"orbital": orbital, "angulation": angulation},
            }
        )
    (tmp_path / "v.json").write_text(json.dumps({"schema": "navnode/views/1", "views": views}))
    (tmp_path / "at.csv").write_text("orbital_rad,angulation_rad\n0.1,0\n-0.5,0\n")
    code, document, _ = call("flex", "--views", tmp_path / "v.json", "--at", tmp_path / "at.csv", "--json")
    assert code == 0 and len(document["result"]["at"]) == 2
    shot = {"phantom_from_carm": np.eye(4).tolist(), "beads": [], "rms_px": 0.1}
    of_carm = json.loads(json.dumps(carm_document(bent(0.0, 0.0)[0])))
    for name, more, said in (
        ("one", {}, "--per-shot"),
        ("mute", {"carm": of_carm}, "views[0]: the X-ray carried no angles"),
    ):
        path, result = tmp_path / f"{name}.json", {"carm": of_carm, "views": [shot | more]}
        artifacts.write(path, artifacts.Artifact(kind="carm", status="PASS", result=result, quality={}))
        code, _, error = call("flex", "--views", path)
        assert code == 2 and said in error and str(path) in error
    tracker_s, image_s = np.arange(0, 10, 0.01), np.arange(0, 10, 1 / 30)
    moved = [g.rigid(None, (float(wandering(t)), 0.0, 0.0)) for t in tracker_s]
    write_csv(tmp_path / "t.csv", moved, tracker_s)
    pairs = [f"{t},{wandering(t - 0.05)}" for t in image_s]
    (tmp_path / "s.csv").write_text("\n".join(["timestamp_s,value", *pairs]))
    code, document, _ = call("temporal", "--tracker", tmp_path / "t.csv", "--signal", tmp_path / "s.csv", "--json")
    assert code == 0 and document["result"]["image_lag_ns"] == pytest.approx(50e6, abs=2e6)
    for name, level in (("dark", 100), ("flat", 20_000)):
        (tmp_path / name).mkdir()
        for n in range(6):
            image = np.clip(rng.normal(level, np.sqrt(level) / 4, (64, 64)), 0, 65535).astype(np.uint16)
            cv2.imwrite(str(tmp_path / name / f"{n}.png"), image)
    out = tmp_path / "ff.npz"
    code, document, error = call(
        "flatfield", "--dark", tmp_path / "dark", "--flat", tmp_path / "flat", "--out", out, "--json"
    )
    assert code == 0 and document["result"]["out"] == str(out), error
    with np.load(out) as kept:
        assert {name: kept[name].dtype.kind for name in kept} == {"dark": "f", "gain": "f", "bad": "b"}
    assert call("check", out, "--json")[0] == 0


def test_artifacts_that_must_not_be_used_are_refused_by_name(poses, tmp_path):
    out = tmp_path / "tip.json"
    call("pivot", poses, "--out", out, "--of", "Stylus", "--mode", "large", "--valid-days", "1")
    now = artifacts.read(out).created_ns + 1
    artifacts.usable(out, artifacts.PIVOT, now, device="Stylus", mode="large")
    for kind, at, device, mode, why in (
        (artifacts.SPIN, now, "", "", "not spin"),
        (artifacts.PIVOT, now + 2 * 86_400_000_000_000, "", "", "expired"),
        (artifacts.PIVOT, now, "Drill", "", "'Stylus', not 'Drill'"),
        (artifacts.PIVOT, now, "Stylus", "small", "'large', not 'small'"),
    ):
        with pytest.raises(CalibrationError, match=why) as caught:
            artifacts.usable(out, kind, at, device=device, mode=mode)
        assert "tip.json" in str(caught.value)
    content = json.loads(out.read_text())
    for kind, changed, why in (
        (artifacts.PIVOT, {"status": "FAIL", "reason": "residual: too much"}, "failed"),
        (
            artifacts.HANDEYE,
            {"kind": "handeye", "result": {"marker_from_carm": np.diag([2.0, 1, 1, 1]).tolist()}},
            "not a rigid transform",
        ),
    ):
        (tmp_path / "bad.json").write_text(json.dumps(content | changed))
        with pytest.raises(CalibrationError, match=why):
            artifacts.usable(tmp_path / "bad.json", kind, now)
    for text in ("", "{}", '{"schema": "navnode/calibration/2"}', "[1, 2]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CalibrationError, match=r"bad\.json"):
            artifacts.read(tmp_path / "bad.json")


def test_check_notices_that_the_data_have_changed(poses, tmp_path):
    call("pivot", poses, "--out", tmp_path / "tip.json")
    assert call("check", tmp_path / "tip.json", "--json")[0] == 0
    np.save(poses, pivoting(120, np.random.default_rng(9)))
    code, document, _ = call("check", tmp_path / "tip.json", "--json")
    assert code == 1 and "has changed since" in document["artifacts"][0]["reason"]


def test_a_report_shows_verdict_figures_and_plots(poses, tmp_path):
    call("pivot", poses, "--report", tmp_path / "tip.html")
    page = (tmp_path / "tip.html").read_text()
    assert "PASS" in page and "sigma_tip_mm" in page and page.count("<svg") >= 3 and "http" not in page
    call("pivot", poses, "--gate", "rms_mm=0.01", "--report", tmp_path / "bad.html")
    assert "FAIL" in (tmp_path / "bad.html").read_text() and "hold the tip" in (tmp_path / "bad.html").read_text()


def test_frames_of_a_recording_give_the_latency(tmp_path):
    recorder = Recorder(tmp_path / "session.mcap", {})
    y, x = np.mgrid[:60, :80]
    for n in range(900):
        at = n / 100
        stamp = round(at * 1e9) + 1
        pose = g.rigid(None, (float(wandering(at)), 0.0, 0.0))
        recorder.record(Transform(device="CArmToTracker", timestamp_ns=stamp, matrix=pose), stamp)
        if n % 4 == 0:
            shade = 1500 * np.exp(-((x - 40 - 0.5 * wandering(at - 0.08)) ** 2 + (y - 30) ** 2) / 60)
            counts = (3000 - shade).astype(np.uint16)
            recorder.record(
                Image(device="XRay", timestamp_ns=stamp, voxels=counts[None], ras_from_index=np.eye(4)), stamp
            )
    recorder.stop()
    devices = ("--device", "tracker=CArmToTracker", "--device", "frames=XRay")
    code, document, error = call("temporal", "--recording", tmp_path / "session.mcap", *devices, "--json")
    assert code == 0, error
    assert document["result"]["image_lag_ns"] == pytest.approx(80e6, abs=3e6)
