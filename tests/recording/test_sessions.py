"""Sessions as engineers use them: recorded, replayed, compared, looked into, repaired, converted, scored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from mcap.reader import make_reader
from typer.testing import CliRunner

from navnode import cli
from navnode.bench import evaluation
from navnode.config import decode
from navnode.errors import ConfigError, NavError, RecordingError
from navnode.igtl import Image, Transform, encode
from navnode.projector import native
from navnode.recording import Recording, compare, edit, sequences
from navnode.recording import format as session_format
from navnode.recording.container import Channel
from navnode.recording.integrity import Integrity
from navnode.recording.reader import ContainerReader
from navnode.recording.writer import ContainerWriter
from navnode.types import Volume, VolumeReady
from tests.conftest import find_free_port

GOLDEN = Path(__file__).parent / "golden" / "room.mcap"


def call(*arguments):
    """Exit code, the document on standard output, standard error. As main() does it."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    code, error = result.exit_code, result.stderr
    if isinstance(result.exception, NavError):
        code, error = (2 if isinstance(result.exception, ConfigError) else 1), str(result.exception)
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    text = result.stdout.strip()
    return code, json.loads(text) if "--json" in arguments and text else None, error


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, own_cache):
    """A session of a node beside the virtual operating room, from its start."""
    folder = tmp_path_factory.mktemp("sessions")
    path = folder / "room.mcap"
    ports = [str(find_free_port()) for _ in range(2)]
    subprocess.run(
        [sys.executable, "-m", "navnode", "demo", "--headless", "--ct", "procedural", "--size", "256", "--rate", "10",
         "--seconds", "9", "--port", ports[0], "--simulator-port", ports[1], "--record", str(path), "--json"],
        check=True, capture_output=True, timeout=180,
    )  # fmt: skip
    return path


# --- replay ----------------------------------------------------------------------------------------------------------


def test_the_golden_session_comes_out_as_ever():
    code, report, error = call("replay", GOLDEN, "--check", "--json")
    assert code == 0, error
    assert report["mode"] == "lockstep" and report["comparison"]["compared"]["out/tool/Drill"] > 300
    assert report["status_counts"] == {"VALID": 7, "DEGRADED": 4, "INVALID": 1}


def test_the_golden_session_comes_out_the_same_on_plainer_processors(monkeypatch):
    init = native.Projector.__init__

    def plainer(self, *arguments, **options):
        init(self, *arguments, **{**options, "instruction_set": "portable"})

    monkeypatch.setattr(native.Projector, "__init__", plainer)
    code, report, error = call("replay", GOLDEN, "--check", "--json")
    assert code == 0, (error, report["comparison"])


def test_a_change_is_found_and_shown_with_its_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    changed = msgspec.structs.replace(
        changed, registration=msgspec.structs.replace(changed.registration, confirm_frames=7)
    )
    monkeypatch.setattr("navnode.commands.replay.configuration_of", lambda path: changed)
    code, report, error = call("replay", GOLDEN, "--check", "--json")
    assert code == 1 and "differs from the reference; first at step" in error
    first = report["comparison"]["first"]
    assert first["topic"].startswith("out/") and first["what"] and report["comparison"]["different"]
    assert (tmp_path / report["picture"]).stat().st_size > 1000


def test_lockstep_is_the_same_in_another_process_and_after_recovery(recorded, tmp_path):
    _, one, _ = call("replay", recorded, "--lockstep", "--json")
    other = subprocess.run(
        [sys.executable, "-m", "navnode", "replay", str(recorded), "--lockstep", "--threads", "1", "--json"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert json.loads(other.stdout)["digest"] == one["digest"] and one["messages"] > 1000 and one["frames"] > 50
    whole = tmp_path / "whole.mcap"
    code, kept, _ = call("recover", recorded, "--out", whole, "--json")
    assert code == 0 and kept["lost_bytes"] == 0
    assert call("replay", whole, "--lockstep", "--json")[1]["digest"] == one["digest"]
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(recorded.read_bytes()[: recorded.stat().st_size * 2 // 3])
    code, half, _ = call("replay", torn, "--lockstep", "--json")
    assert code == 1 and "torn" in half["notes"][0] and 0 < half["frames"] < one["frames"]
    code, kept, _ = call("recover", torn, "--out", tmp_path / "half.mcap", "--json")
    assert code == 0 and 0 < kept["lost_bytes"] < 3 << 20
    assert call("replay", tmp_path / "half.mcap", "--lockstep", "--json")[1]["digest"] == half["digest"]


def test_as_consumed_repeats_what_the_node_did_bit_by_bit(recorded):
    code, report, error = call("replay", recorded, "--reference", recorded, "--exact", "--json")
    assert code == 0, error
    assert report["mode"] == "as-consumed" and report["comparison"]["same"] and report["volumes"] >= 0
    assert set(report["comparison"]["compared"]) >= {"out/frame", "out/patient", "out/state", "out/tool/Drill"}


def test_outputs_of_a_replay_are_a_reference_for_later(recorded, tmp_path):
    out = tmp_path / "out.mcap"
    assert call("replay", recorded, "--lockstep", "--out", out, "--json")[0] == 0
    kept = Recording(out)
    assert kept.metadata["replay"] == "lockstep" and kept.judged().integrity is Integrity.WHOLE
    code, report, error = call("replay", recorded, "--reference", out, "--exact", "--json")
    assert code == 0 and report["mode"] == "lockstep" and report["comparison"]["same"], error
    code, _, error = call("replay", recorded, "--lockstep", "--out", out, "--json")
    assert code == 2 and "exists already" in error
    code, _, error = call("replay", recorded, "--update-reference", " ")
    assert code == 2 and "reason" in error
    code, _, error = call("replay", recorded, "--check")
    assert code == 2 and "there is no reference" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--lockstep", "--as-consumed"), "one of --lockstep"), (("--lockstep", "--start", "3"), "--lockstep takes"),
        (("--rate", "0"), "rate"), (("--lockstep", "--tolerance", "x"), "FIELD=VALUE"),
        (("--serve", "nowhere"), "--serve"), (("--check", "--reference", GOLDEN), "not both"),
    ],
)  # fmt: skip
def test_options_that_contradict_are_named(options, said):
    code, _, error = call("replay", GOLDEN, *options)
    assert code == 2 and said in error


def test_what_a_session_lacks_is_named(tmp_path, recorded):
    bare, other = tmp_path / "bare.mcap", tmp_path / "other.mcap"
    with bare.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        pose = encode(Transform(device="DrillToTracker", timestamp_ns=5, matrix=np.eye(4)))
        writer.add(Channel("in/TRANSFORM/DrillToTracker", "openigtlink"), (pose,), 5, 5, 1)
        writer.finish()
    code, _, error = call("replay", bare, "--lockstep")
    assert code == 2 and "holds no configuration; give --config" in error
    code, _, error = call("replay", GOLDEN, "--as-consumed")
    assert code == 1 and "holds no steps" in error
    code, _, error = call("replay", GOLDEN, "--lockstep", "--ct", tmp_path / "none.nii.gz")
    assert code == 2 and "give it with --ct" in error
    config = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    calibration = msgspec.structs.replace(config.calibration, carm="/anywhere/carm.json")
    with other.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1"})
        changed = msgspec.structs.replace(config, calibration=calibration)
        writer.attach(session_format.CONFIGURATION, msgspec.json.encode(changed), "application/json", 0)
        writer.add(Channel("in/TRANSFORM/DrillToTracker", "openigtlink"), (pose,), 5, 5, 1)
        writer.finish()
    code, _, error = call("replay", other, "--lockstep")
    assert code == 1 and "the calibration carm (carm.json) is not in the session" in error
    entry = next(e for e in Recording(recorded).entries() if e.topic == "node/ct")
    assert entry.content["sha256"]
    with pytest.raises(RecordingError, match="another CT"):
        list(replayed_with_another_ct(recorded))


def replayed_with_another_ct(path):
    from navnode.recording.regression import Replay, ReplaySetup, configuration, unpacked

    recording = Recording(path)
    with unpacked() as folder:
        config = configuration(recording, None, folder)
        other = Volume(np.full((20, 20, 20), -1000, np.float32), np.eye(4), "other")
        other.voxels[5:15, 5:15, 5:15] = 800
        yield from Replay(recording, ReplaySetup(config, other)).lockstep()


def test_a_clock_that_jumps_ends_nothing(tmp_path, recorded):
    jumped = tmp_path / "jumped.mcap"
    with edit.written(jumped) as writer:
        edit._copy_about(ContainerReader(recorded), writer)
        for n, entry in enumerate(Recording(recorded).raw()):
            later = 3_600_000_000_000 if 2000 < n < 4000 else 0
            writer.add(
                entry.channel, (entry.data,), entry.log_time_ns + later, entry.publish_time_ns, entry.sequence
            )  # fmt: skip
    code, report, error = call("replay", jumped, "--lockstep", "--json")
    assert code == 0 and report["clock_jumps"] == 2 and "jumped by +36" in report["notes"][0], error
    assert report["frames"] > 20
    assert call("inspect", jumped, "--json")[1]["clock_jumps"] == 2


# --- look into, cut, merge -------------------------------------------------------------------------------------------


def test_what_is_in_a_session_is_told(recorded, tmp_path):
    page, trace = tmp_path / "r.html", tmp_path / "t.json"
    code, told, error = call("inspect", recorded, "--report", page, "--trace", trace, "--json")
    assert code == 0 and told["whole"] and told["lost"] == 0, error
    assert told["topics"]["in/TRANSFORM/DrillToTracker"]["hz"] == pytest.approx(100, rel=0.1)
    assert told["topics"]["in/IMAGE/XRay"]["messages"] > 60
    late = told["latency_ms"]
    assert (
        late["frame"]["p50"] <= late["frame"]["p99"] and late["frame: registration"]["p50"] < late["frame"]["p50"] + 1
    )
    assert sum(told["validity"]["registration"].values()) == pytest.approx(1, abs=0.01)
    assert told["versions"]["projector"] and told["dose"]["frames"] > 60
    text = page.read_text()
    assert all(word in text for word in ("What could be trusted", "<svg", "registration: ", "X-rays"))
    events = json.loads(trace.read_text())["traceEvents"]
    stages = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert stages >= {"taken in", "waiting", "registration", "handed over", "sent"}
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


def test_a_piece_and_what_is_merged_of_pieces(recorded, tmp_path):
    poses, images, both = tmp_path / "p.mcap", tmp_path / "i.mcap", tmp_path / "b.mcap"
    assert call("cut", recorded, "--topic", "in/TRANSFORM/*", "--out", poses)[0] == 0
    assert call("cut", recorded, "--topic", "in/IMAGE/*", "--out", images)[0] == 0
    assert call("merge", poses, images, "--out", both)[0] == 0
    arrivals = [e for e in Recording(recorded).raw() if e.channel.topic.startswith(("in/TRANSFORM", "in/IMAGE"))]
    merged = list(Recording(both).raw())
    assert len(merged) == len(arrivals)
    assert [e.log_time_ns for e in merged] == sorted(e.log_time_ns for e in arrivals)
    assert call("replay", both, "--lockstep", "--json")[1]["frames"] > 60
    middle = tmp_path / "m.mcap"
    code, kept, _ = call("cut", recorded, "--start", 2, "--duration", 3, "--out", middle, "--json")
    assert code == 0 and kept["messages"] > 500 and Recording(middle).seconds == pytest.approx(3, abs=0.1)
    assert "from the middle" in call("replay", middle, "--as-consumed", "--json")[1]["notes"][0]
    code, _, error = call("cut", recorded, "--start", 100, "--out", tmp_path / "n.mcap")
    assert code == 1 and "nothing is recorded" in error and not (tmp_path / "n.mcap").exists()
    assert list(tmp_path.glob(".*")) == []


def test_who_it_was_is_taken_out(tmp_path):
    named, out = tmp_path / "n.mcap", tmp_path / "o.mcap"
    config = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    config = msgspec.structs.replace(config, volume=msgspec.structs.replace(config.volume, ct="/data/Doe^Jane.nii"))
    with named.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1", "session": "s", "operator": "Doe"})
        writer.attach(session_format.CONFIGURATION, msgspec.json.encode(config), "application/json", 0)
        writer.attach("note.txt", b"Doe", "text/plain", 0)
        image = Image(
            device="XRay", timestamp_ns=9, voxels=np.ones((1, 4, 4), np.uint16), ras_from_index=np.eye(4), version=2,
            metadata={"PatientName": "Doe^Jane", "PositionerPrimaryAngle": "12"},
        )  # fmt: skip
        writer.add(Channel("in/IMAGE/XRay", "openigtlink"), (encode(image),), 9, 9, 1)
        writer.add(Channel("in/STRING/Note", "openigtlink"), (b"Doe",), 10, 10, 2)
        writer.add(
            Channel("out/state", "json"), (b'{"volume":"Doe","sources":{"doe-pc":""},"notices":["Doe"]}',), 11, 11, 3
        )
        writer.add(Channel("node/ct", "json"), (b'{"name":"Doe","sha256":"00"}',), 11, 11, 0)
        writer.finish()
    assert call("cut", named, "--deidentify", "--out", out)[0] == 0
    assert b"oe" not in out.read_bytes().replace(b"Does", b"")
    kept = next(e.content for e in Recording(out).entries() if isinstance(e.content, Image))
    assert kept.metadata == {"PositionerPrimaryAngle": "12"} and kept.voxels.shape == (1, 4, 4)


# --- other programs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".igs.mha", ".mha", ".nrrd"])
def test_sequences_come_back(recorded, tmp_path, ending):
    path, back = tmp_path / f"s{ending}", tmp_path / "back.mcap"
    assert call("export", recorded, "--out", path, "--duration", 5)[0] == 0
    found = sequences.read(path)
    assert found.frames.shape[1:] == (256, 256) and found.frames.dtype == np.uint16 and len(found.frames) > 30
    assert found.spacing_mm == pytest.approx((300 / 256, 300 / 256)) and 0 <= found.times_s[0] < 2
    assert set(found.transforms) == {"DrillToTracker", "CArmToTracker", "PatientToTracker"}
    first = next(e.content for e in Recording(recorded).entries() if isinstance(e.content, Image))
    assert np.array_equal(found.frames[0], first.voxels[0])
    assert call("import", path, "--out", back, "--device", "XRay")[0] == 0
    again = [e.content for e in Recording(back).entries()]
    pictures = [m for m in again if isinstance(m, Image)]
    assert len(pictures) == len(found.frames) and np.array_equal(pictures[-1].voxels[0], found.frames[-1])
    seen = [pose for pose in found.transforms["DrillToTracker"] if pose is not None]
    moved = [m for m in again if isinstance(m, Transform) and m.device == "DrillToTracker"]
    good = [m.matrix for m in moved if m.metadata["TransformStatus"] == "OK"]
    assert len(good) == len(seen) and np.allclose(good, seen, atol=1e-3)


def test_simpleitk_reads_the_pictures_of_a_sequence(recorded, tmp_path):
    import SimpleITK as sitk

    for ending in (".mha", ".nrrd"):
        path = tmp_path / f"s{ending}"
        assert call("export", recorded, "--out", path, "--duration", 3)[0] == 0
        pictures = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        pictures = np.moveaxis(pictures, -1, 0) if ending == ".nrrd" else pictures  # a list is a vector to it
        assert np.array_equal(pictures, sequences.read(path).frames)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"ObjectType = Image\n", b"NRRD0004\ntype: uint16\n\n",
        b"NRRD0004\ntype: uint16\nsizes: 9 9 9999999999\n\n",
        b"ObjectType = Image\nDimSize = 4 4 2\nElementType = MET_USHORT\nElementDataFile = LOCAL\nshort",
        b"ObjectType = Image\nDimSize = 4 4 2\nElementType = MET_USHORT\nElementDataFile = /etc/passwd\n",
        b"NRRD0004\ntype: uint8\nsizes: 2 2 1\nencoding: gzip\n\nnothing packed",
        b"ObjectType = Image\nDimSize = 2 2 1\nElementType = MET_UCHAR\nSeq_Frame0000_ATransform = 1 2\n"
        b"ElementDataFile = LOCAL\n1234",
    ],
)  # fmt: skip
def test_sequences_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / ("x.nrrd" if content.startswith(b"NRRD") else "x.mha")
    path.write_bytes(content)
    code, _, error = call("import", path, "--out", tmp_path / "o.mcap")
    assert code == 1 and str(path) in error and not (tmp_path / "o.mcap").exists()


def test_tables_pictures_and_volumes(recorded, tmp_path):
    out = tmp_path / "tables"
    assert call("export", recorded, "--out", out)[0] == 0
    poses = np.genfromtxt(out / "poses" / "DrillToTracker.csv", delimiter=",", names=True)
    assert len(poses) > 500 and poses.dtype.names[:2] == ("timestamp_s", "m00")
    assert (
        len(list((out / "frames" / "XRay").glob("*.png")))
        == len((out / "frames" / "XRay.csv").read_text().splitlines()) - 1
    )
    rows = (out / "outputs" / "tool_Drill.csv").read_text().splitlines()
    assert rows[0].startswith("timestamp_s,status,reason,age_ms,m00") and any(",VALID," in row for row in rows)
    code, _, error = call("export", recorded, "--out", out)
    assert code == 2 and "exists already" in error
    code, _, error = call("export", recorded, "--out", tmp_path / "a.avi")
    assert code == 2 and ".mcap" in error


def test_foxglove_reads_pictures_and_transforms(recorded, tmp_path):
    out = tmp_path / "f.mcap"
    assert call("export", recorded, "--out", out)[0] == 0
    with out.open("rb") as file:
        found = [(s.name, c.topic, json.loads(m.data)) for s, c, m in make_reader(file).iter_messages()]
    kinds = {name for name, _, _ in found}
    assert kinds == {"foxglove.RawImage", "foxglove.FrameTransforms", "foxglove.Log"}
    image = next(content for name, _, content in found if name == "foxglove.RawImage")
    assert image["encoding"] == "mono16" and image["step"] == 512 and image["width"] == image["height"] == 256
    (moved,) = next(content["transforms"] for _, topic, content in found if topic == "DrillToTracker")
    assert (moved["parent_frame_id"], moved["child_frame_id"]) == ("Tracker", "Drill")
    assert sum(value**2 for value in moved["rotation"].values()) == pytest.approx(1)
    assert any(topic == "DrillToVolume" for _, topic, _ in found)


# --- many of them ----------------------------------------------------------------------------------------------------


def test_an_archive_is_scored_and_goes_on_where_it_was(recorded, tmp_path, monkeypatch):
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    (archive / "a.mcap").write_bytes(recorded.read_bytes())
    (archive / "golden.mcap").write_bytes(GOLDEN.read_bytes())
    (archive / "golden.reference.mcap").write_bytes(b"no session")
    (archive / "broken.mcap").write_bytes(b"no session")
    code, told, error = call("evaluate", archive, "--out", out, "--json")
    assert code == 0, error
    rows = {Path(row["session"]).name: row for row in told["rows"]}
    assert set(rows) == {"a.mcap", "golden.mcap", "broken.mcap"} and rows["broken.mcap"]["status"] == "failed"
    good = rows["golden.mcap"]
    assert good["tre_mm"]["median"] < 1 and good["registered"] > 0.85 and good["wrong_while_valid"] == 0
    assert rows["a.mcap"]["tip_error_mm"]["median"] < 2 and rows["a.mcap"]["recorded"]["latency_ms"]["frame"]["p50"] > 0
    assert told["totals"]["as recorded"]["failed"] == 1
    page = (out / "report.html").read_text()
    assert "golden.mcap" in page and "not an MCAP file" in page
    done = []

    def here(tasks, *_):
        done.extend(tasks)
        return [evaluation.score(task) for task in tasks]

    monkeypatch.setattr(evaluation, "_run", here)
    with (out / "rows.jsonl").open("a") as file:
        file.write('{"torn')
    again = call("evaluate", archive, "--out", out, "--json")[1]
    assert [Path(task.session).name for task in done] == ["broken.mcap"], "only what had failed is done again"
    assert again["totals"]["as recorded"]["tre_mm"] == told["totals"]["as recorded"]["tre_mm"]
    options = ("--baseline", out / "rows.jsonl", "--out", tmp_path / "b")
    code, both, error = call("evaluate", archive / "golden.mcap", *options, "--json")
    assert code == 0 and set(both["totals"]) == {"baseline", "as recorded"}, error
    assert ">worse<" not in (tmp_path / "b" / "report.html").read_text().split("times as fast")[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nowhere",), "there is no such file"), ((GOLDEN, "--baseline", "none.jsonl"), "there is no such file"),
        ((GOLDEN, "--scheduler", "tcp://127.0.0.1:9"), "does not answer"),
        ((GOLDEN, "--against", "a", "--baseline", "b"), "not both"),
    ],
)  # fmt: skip
def test_evaluations_that_cannot_begin_are_named(options, said, tmp_path, monkeypatch):
    import distributed

    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout=1))
    code, _, error = call("evaluate", *options, "--out", tmp_path)
    assert code == 2 and said in error


# --- parts -----------------------------------------------------------------------------------------------------------


def output(topic, cause, document, time_ns=0):
    return compare.RecordedOutput(topic, cause, time_ns, json.dumps(document).encode())


def tool(n, pose, status="VALID"):
    return output("out/tool/A", n, {"volume_from_tool": pose, "validity": {"status": status, "source_time_ns": n}})


def test_differences_are_told_by_topic_and_field():
    pose = np.eye(4).tolist()
    moved = [row[:] for row in pose]
    moved[0][3] = 0.04
    was = [tool(n, pose) for n in (1, 2, 3)]
    now = [tool(n, moved) for n in (1, 2)]
    found = compare.compare(was, now, by_cause=True)
    assert not found.same and found.missing == {"out/tool/A": 1} and not found.different
    exact = compare.compare(was, now, by_cause=True, tolerances={}, ignored=())
    assert exact.different == {"out/tool/A": 2} and "translation off by 0.04" in exact.first.what
    worse = [tool(1, None, "INVALID")]
    assert "volume_from_tool" in compare.compare(was[:1], worse, by_cause=True).first.what
    again = compare.compare(was[:1], [*was[:1], *was[:1]], by_cause=False)
    assert again.extra == {"out/tool/A": 1}
    with pytest.raises(RecordingError, match="no outputs"):
        compare.compare([], now, by_cause=True)


def test_volumes_that_live_was_given_come_back():
    volume = Volume(np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32), np.eye(4), "v")
    ready = VolumeReady(volume, None, 7, 4, "SART", 12.5, "", 99)
    data = b"".join(bytes(part) for part in session_format.volume_parts(ready))
    back = session_format.volume_of(memoryview(data))
    assert np.array_equal(back.volume.voxels, volume.voxels) and (back.request, back.now_ns) == (7, 99)
    for torn in (data[:-1], data[:20], b"", data + b"x"):
        with pytest.raises(RecordingError):
            session_format.volume_of(memoryview(torn))


# --- what an outside tester found ------------------------------------------------------------------------------------


def test_nothing_that_exists_is_replaced_and_folders_that_are_none_are_named(recorded, tmp_path):
    victim, plain, dangling = tmp_path / "v.mcap", tmp_path / "plain", tmp_path / "d.mcap"
    victim.write_bytes(GOLDEN.read_bytes())
    plain.write_text("a file")
    dangling.symlink_to(tmp_path / "nowhere")
    for arguments, code in (
        (("inspect", victim, "--report", victim), 2),
        (("inspect", victim, "--trace", plain), 1),  # it holds no spans
        (("recover", victim, "--out", dangling), 2),
        (("recover", victim, "--out", plain / "x.mcap"), 1),
        (("cut", victim, "--out", plain / "x.mcap"), 1),
        (("replay", victim, "--lockstep", "--out", plain / "x.mcap"), 1),
        (("merge", victim, victim, "--out", tmp_path / "m.mcap"), 1),
        (("evaluate", victim, "--out", plain), 2),
        (("replay", tmp_path / "none.mcap", "--lockstep"), 2),
        (("inspect", tmp_path), 2),
        (("export", victim, "--out", tmp_path / "a.mha", "--device", "Nobody"), 2),
        (("replay", victim, "--lockstep", "--tolerance", "x=nan"), 2),
        (("demo", "--record", plain / "x.mcap"), 2),
        (("record", "--source", f"127.0.0.1:{find_free_port()}", "--seconds", "0.3", "--out", tmp_path / "r.mcap"), 1),
    ):
        found, _, error = call(*arguments)
        assert found == code and error.strip(), (arguments, found, error)
    assert victim.read_bytes() == GOLDEN.read_bytes() and plain.read_text() == "a file" and dangling.is_symlink()
    assert not (tmp_path / "r.mcap").exists() and not (tmp_path / "m.mcap").exists()


def test_a_damaged_session_is_no_good_row_and_no_good_replay(recorded, tmp_path):
    data = bytearray(recorded.read_bytes())
    chunk = ContainerReader(recorded).chunks[len(ContainerReader(recorded).chunks) // 2]
    data[chunk.offset + 500] ^= 1
    flipped = tmp_path / "f.mcap"
    flipped.write_bytes(data)
    code, report, error = call("replay", flipped, "--lockstep", "--json")
    assert code == 1 and "damaged at byte" in error and report["frames"] > 5 and report["damage"]
    code, told, _ = call("inspect", flipped, "--json")
    assert code == 1 and told["damage"] and told["whole"] is False
    row = evaluation.score(evaluation.Task(str(flipped), "a", b"", "", 0))
    assert row.status == "damaged" and row.frames > 5
    assert evaluation.totals([row])["a"].failed == 1 and evaluation.totals([row])["a"].valid is None
