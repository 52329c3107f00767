"""Archives: what goes there, what stays out, and stores that fail; S3 is moto's, on loopback."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from navnode.config import VideoSource, decode
from navnode.errors import ConfigError
from navnode.files import stores
from navnode.files.fingerprint import fingerprint, sha256_of
from navnode.files.stores import Store, Stored
from navnode.igtl import Image, StatusMessage, Transform, encode
from navnode.igtl.conventions import VIDEO_KEY
from navnode.recording import Recording
from navnode.recording import format as session_format
from navnode.recording.archive import Manifest
from navnode.recording.container import Channel
from navnode.recording.deidentify import DEIDENTIFICATION
from navnode.recording.edit import new_session
from navnode.types import Volume, VolumeReady
from tests.conftest import GOLDEN
from tests.files import test_artifacts as artifacts
from tests.invoke import call
from tests.loop.theatre import configuration
from tests.objects import KEY, SECRET, figures

pytestmark = pytest.mark.long

# --- what goes there --------------------------------------------------------------------------------------------------


def test_an_archived_session_scores_as_before_and_is_not_sent_twice(bucket, here, tmp_path):
    code, told, error = call("archive", GOLDEN, "--to", bucket, "--json")
    (row,) = told["rows"]
    assert code == 0 and row["outcome"] == "archived" and row["compared"] == "store's checksum", error
    listed = {file.name: file.size for file in Store(bucket).listed()}
    name = f"{row['sha256']}.mcap"
    assert (
        set(listed) == {name, f"{row['sha256']}.{fingerprint(GOLDEN)}.{DEIDENTIFICATION}.json"}
        and listed[name] == row["size_bytes"]
    )
    manifest = msgspec.json.decode(Store(bucket).read(sorted(listed)[0], 10_000), type=Manifest)
    assert (manifest.sha256, manifest.xrays, manifest.integrity) == (row["sha256"], 12, "whole")
    assert "times" in manifest.stays and manifest.messages == 1625

    again = call("archive", GOLDEN, GOLDEN, "--to", bucket, "--json")[1]
    assert again["counts"] == {"already there": 1} and again["sent_bytes"] == 0
    renamed = tmp_path / "again.mcap"
    renamed.write_bytes(GOLDEN.read_bytes())
    assert call("archive", renamed, "--to", bucket, "--json")[1]["counts"] == {"already there": 1}

    before = call("evaluate", GOLDEN, "--out", tmp_path / "here", "--json")[1]
    code, after, error = call("evaluate", bucket, "--out", tmp_path / "there", "--json")
    assert code == 0 and figures(after["rows"][0]) == figures(before["rows"][0]), error
    assert after["rows"][0]["session"] == f"{bucket}/{name}"
    fetched = tmp_path / name
    Store(bucket).fetch(Stored(name, listed[name]), fetched)
    code, inspected, _ = call("inspect", fetched, "--json")
    assert code == 0 and inspected["whole"] and sha256_of(fetched) == row["sha256"]


def test_names_go_and_what_the_loop_reads_stays(tmp_path, piece):
    named = tmp_path / "Doe.mcap"
    config = decode(Recording(piece).attachment(session_format.CONFIGURATION), "c")
    change = msgspec.structs.replace
    config = change(
        config,
        volume=change(config.volume, ct="/data/Doe^Jane.nii", series="1.2.840.999"),
        recording=change(config.recording, file="/data/Doe.mcap"),
        calibration=change(config.calibration, handeye="/home/Doe/handeye.json", folder="/home/Doe"),
        sources=(change(config.sources[0], host="doe-pc"),),
    )
    voxels = np.zeros((2, 2, 2), np.float32)
    ready = VolumeReady(Volume(voxels, np.eye(4), "Doe^Jane.nii"), None, 1, 2, "sart", 1.0, "", 12)
    documents = {
        "step": {"kind": "SourceState", "name": "doe-pc:18945", "connected": False, "reason": "Doe", "now_ns": 1},
        "out/state": {
            "sources": {"doe-pc:18945": "source doe-pc:18945 vanished"},
            "registration": {"status": "INVALID", "reason": "source doe-pc:18945 vanished"},
            "volume": "Doe^Jane.nii",
            "notices": ["/data/Doe.mcap: cannot be written"],
            "plans": [{"name": "Jane's screw", "entry_mm": [0, 0, 0], "target_mm": [0, 0, 9]}],
            "active_plan": "Jane's screw",
        },
        "out/result": {"operation": "PlanAdd", "done": True, "text": "Jane's screw is added"},
        "out/deviation": {"plan": "Jane's screw", "tool": "Drill", "lateral_mm": None},
    }
    plan = {
        "kind": "PlanCommand",
        "operation": "PlanAdd",
        "name": "Jane's screw",
        "plan": None,
        "origin": "Doe",
        "now_ns": 1,
    }
    told = {"ExposureTime": "8", "PatientName": "Doe", "PositionerPrimaryAngle": "Doe", "TransformStatus": "Doe"}
    told["AgeMs"] = "19_56_03_12"  # which Python reads as a number
    with new_session(named) as writer:
        writer.describe("navnode", {"format": "2", "session": "of Doe", "operator": "Doe", "version": "0.1.0"})
        writer.attach(session_format.CONFIGURATION, msgspec.json.encode(config), "", 0)
        calibrated = artifacts.document(
            "flatfield", {**artifacts.RESULTS["flatfield"], "out": "/Doe"}, inputs={"/home/Doe/poses.csv": "00"}
        )
        writer.attach("calibration/flatfield", json.dumps(calibrated).encode(), "", 0)
        writer.attach("note.txt", b"Doe", "", 0)
        image = Image(device="XRay", timestamp_ns=9, voxels=np.ones((1, 4, 4), np.uint16), ras_from_index=np.eye(4))
        image = change(image, version=2, metadata=told)
        pose = Transform(device="DrillToTracker", timestamp_ns=9, matrix=np.eye(4), version=2, metadata=told)
        plain = Transform(device="CArmToTracker", timestamp_ns=9, matrix=np.eye(4), version=2, message_id=7)
        state = StatusMessage(device="XRay", timestamp_ns=9, code=13, text="Doe")
        for n, each in enumerate((image, pose, plain, state), 1):
            writer.add(session_format.arrival_channel(each.type, each.device), (encode(each),), 10 + n, 9, n)
        writer.add(Channel("in/STRING/Note", "openigtlink"), (b"Doe",), 15, 15, 9)
        for n, (topic, document) in enumerate({**documents, "step ": plan}.items()):
            writer.add(Channel(topic.strip(), "json"), (json.dumps(document).encode(),), 20 + n, 20, n)
        writer.add(session_format.VOLUME, session_format.answer_parts(ready), 30, 30, 1)
    archive = tmp_path / "archive"
    code, report, error = call("archive", named, "--to", archive, "--json")
    (row,) = report["rows"]
    assert code == 0 and row["outcome"] == "archived", (row, error)
    path = archive / f"{row['sha256']}.mcap"
    for each in archive.iterdir():
        assert not [word for word in (b"oe^", b"Doe", b"doe", b"Jane", b"840.999") if word in each.read_bytes()], each
    copy = Recording(path)
    entries = {(e.topic, e.sequence): e for e in copy.entries()}
    image, pose = entries["in/IMAGE/XRay", 1].content, entries["in/TRANSFORM/DrillToTracker", 2].content
    assert image.metadata == {"ExposureTime": "8", "TransformStatus": "INVALID"}, (
        "a state that is unknown is no good one"
    )
    assert pose.metadata == {"ExposureTime": "8", "TransformStatus": "INVALID"}
    assert bytes(entries["in/TRANSFORM/CArmToTracker", 3].raw) == encode(plain), "bit by bit"
    assert (entries["in/STATUS/XRay", 4].content.code, entries["in/STATUS/XRay", 4].content.text) == (13, "")
    kept = decode(copy.attachment(session_format.CONFIGURATION), "c")
    calibration = json.loads(copy.attachment("calibration/flatfield"))
    assert calibration["inputs"] == {"input 1": "00"} and calibration["result"]["out"] == "file"
    assert calibration["result"]["i0"] == artifacts.RESULTS["flatfield"]["i0"]
    assert kept.sources[0].host == "source1" and kept.calibration.handeye == "1.json" and kept.tools == config.tools
    step, state = entries["step", 0].content, entries["out/state", 1].content
    assert step["name"] == "source1:18945" and state["sources"] == {"source1:18945": "not connected"}, "as configured"
    assert state["registration"]["reason"] == "source source1:18945 vanished"
    names = {state["active_plan"], state["plans"][0]["name"], entries["out/deviation", 3].content["plan"]}
    assert names == {entries["step", 4].content["name"]} == {"plan 1"}
    assert entries["volume", 1].content.volume.name == state["volume"] == "CT"
    assert copy.metadata["deidentified"] == "true" and "operator" not in copy.metadata
    assert row["removed"]["messages of in/STRING"] == 1 and row["removed"]["attachments"] == 1


def test_the_copy_of_a_session_is_always_the_same(piece, tmp_path):
    sums = {call("archive", piece, "--to", tmp_path / name, "--json")[1]["rows"][0]["sha256"] for name in "ab"}
    assert len(sums) == 1


@pytest.mark.slow  # a session of a live node
def test_a_live_session_replays_as_before(live, tmp_path):
    code, told, _ = call("archive", live, "--to", tmp_path / "archive", "--json")
    path = tmp_path / "archive" / f"{told['rows'][0]['sha256']}.mcap"
    ct = decode(Recording(live).attachment(session_format.CONFIGURATION), "c").volume.ct
    assert code == 0 and str(ct).encode() not in path.read_bytes()
    for mode in ("--lockstep", "--as-consumed"):
        before = call("replay", live, mode, "--json")[1]
        after = call("replay", path, mode, "--ct", ct, "--json")[1]
        for name in ("messages", "steps", "outputs", "frames", "registered", "status_counts", "notes"):
            assert after[name] == before[name], (mode, name)


def test_what_no_decoder_shows_and_what_is_not_the_nodes_own_goes(piece, tmp_path):
    source, named = Recording(piece), tmp_path / "named.mcap"
    hidden = bytearray(encode(StatusMessage(device="XRay", timestamp_ns=9, code=1, text="")))
    image = bytearray(
        encode(Image(device="XRay", timestamp_ns=9, voxels=np.ones((1, 4, 4), np.uint16), ras_from_index=np.eye(4)))
    )
    for message in (hidden, image):
        message[19:22] = b"Doe"  # behind the end of the device's name
    with new_session(named) as writer:
        writer.describe("navnode", {"format": "2", "version": "0.1.0"})
        writer.attach(
            session_format.CONFIGURATION, source.attachment(session_format.CONFIGURATION), "application/json", 0
        )
        writer.attach("versions.json", b'{"by":"Doe"}', "application/json", 0)
        writer.attach("calibration/notes", b"PatientName: Doe", "", 0)
        for n, message in enumerate((hidden, image), 1):
            kind = ("STATUS", "IMAGE")[n - 1]
            writer.add(session_format.arrival_channel(kind, "XRay"), (bytes(message),), 10 + n, 9, n)
        for n, topic in enumerate(("node/patient", "out/worklist", "step/of"), 1):
            writer.add(Channel(topic, "json"), (b'{"patient":"Doe"}',), 20 + n, 20, n)
        state = {"registration": {"reason": "/data/Jane Doe/ct.nrrd: cannot be read"}}
        writer.add(Channel("out/state", "json"), (json.dumps(state).encode(),), 30, 30, 1)
    code, report, error = call("archive", named, "--to", tmp_path / "archive", "--json")
    (row,) = report["rows"]
    assert code == 0 and row["outcome"] == "archived", (row, error)
    for each in (tmp_path / "archive").iterdir():
        assert b"Doe" not in each.read_bytes(), each
    copy = Recording(tmp_path / "archive" / f"{row['sha256']}.mcap")
    kept = {entry.topic for entry in copy.entries()}
    assert kept == {"in/STATUS/XRay", "in/IMAGE/XRay", "out/state"} and row["removed"]["what no decoder shows"] == 2


def test_names_that_stand_ins_are_made_of_are_no_names(piece, tmp_path):
    source, named = Recording(piece), tmp_path / "named.mcap"
    plan = {"kind": "PlanCommand", "operation": "PlanAdd", "name": "plan", "plan": None, "origin": "x", "now_ns": 1}
    with new_session(named) as writer:
        writer.describe("navnode", {"format": "2"})
        writer.attach(session_format.CONFIGURATION, source.attachment(session_format.CONFIGURATION), "", 0)
        for entry in source.raw():
            writer.add(entry.channel, (entry.data,), entry.log_time_ns, entry.publish_time_ns, entry.sequence)
        for n, name in enumerate(("plan", "Jane's"), 1):
            document = json.dumps(plan | {"name": name}).encode()
            writer.add(session_format.STEP, (document,), source.end_ns + n, source.end_ns + n, 90_000 + n)
    row = call("archive", named, "--to", tmp_path / "archive", "--json")[1]["rows"][0]
    copy = Recording(tmp_path / "archive" / f"{row['sha256']}.mcap")
    plans = [e.content["name"] for e in copy.entries() if e.topic == "step" and e.content.get("kind") == "PlanCommand"]
    assert plans == ["plan", "plan 1"]


def test_an_archive_within_what_is_archived_does_not_grow(piece, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "room.mcap").write_bytes(piece.read_bytes())
    for outcome in ("archived", "already there"):
        counts = call("archive", tmp_path / "data", "--to", tmp_path / "data" / "archive", "--json")[1]["counts"]
        assert counts == {outcome: 1}
    assert len(list((tmp_path / "data" / "archive").glob("*.mcap"))) == 1


def test_one_session_that_no_code_foresaw_stops_no_other(piece, tmp_path, monkeypatch):
    from navnode.recording import archive as archiving

    def facts(recording, names):
        if recording.path.name == "odd.mcap":
            raise RuntimeError("Doe")
        return real(recording, names)

    real = archiving._facts
    monkeypatch.setattr(archiving, "_facts", facts)
    odd = tmp_path / "odd.mcap"
    odd.write_bytes(piece.read_bytes())
    code, told, error = call("archive", odd, piece, "--to", tmp_path / "archive", "--json")
    assert code == 1 and told["counts"] == {"failed": 1, "archived": 1} and "Doe" not in json.dumps(told) + error
    assert "internal error (RuntimeError)" in told["rows"][0]["reason"]


def test_whether_x_rays_come_from_a_video_is_known_of_copies_and_not_of_others_recordings(piece, tmp_path):
    source = Recording(piece)
    config = decode(source.attachment(session_format.CONFIGURATION), "c")
    config = msgspec.structs.replace(config, sources=(VideoSource(device="0"),))
    for name, attached in (("video", msgspec.json.encode(config)), ("unknown", None), ("damaged", b"{")):
        with new_session(tmp_path / f"{name}.mcap") as writer:
            writer.describe("navnode", {"format": "2"})
            if attached is not None:
                writer.attach(session_format.CONFIGURATION, attached, "", 0)
            for entry in source.raw():
                writer.add(entry.channel, (entry.data,), entry.log_time_ns, entry.publish_time_ns, entry.sequence)
    assert call("cut", tmp_path / "video.mcap", "--deidentify", "--out", tmp_path / "copy.mcap")[0] == 0
    for name in ("video", "copy", "unknown", "damaged"):
        told = call("archive", tmp_path / f"{name}.mcap", "--to", tmp_path / "archive", "--dry-run", "--json")[1]
        assert "show the patient's name" in told["rows"][0]["reason"], name


# --- what stays out ---------------------------------------------------------------------------------------------------


def test_the_policy_decides(piece, recorded, tmp_path):
    policy = tmp_path / "policy.toml"

    def why(*options, session=piece):
        code, told, error = call("archive", session, "--to", tmp_path / "archive", "--dry-run", *options, "--json")
        assert code == 0, error
        return told["rows"][0].get("reason", told["rows"][0]["outcome"])

    assert why() == "ready" and not (tmp_path / "archive").exists()
    policy.write_text("xrays = 5\n")
    assert why("--policy", policy) == "3 X-rays, 5 are the least"
    assert why("--policy", policy, "--xrays", 3) == "ready", "an option comes first"
    assert why("--seconds", 5) == "1 s long, 5 s are the least"
    assert "days ago" in why("--newer-than-days", 7) and why("--older-than-days", 7) == "ready"
    assert "ended 0.0 days ago" in why("--older-than-days", 1, session=recorded)
    assert "are the most" in why("--max-session-gb", 0.00001)
    assert why("--max-total-gb", 0.00001) == "the archive would hold over 1e-05 GB"
    replayed, torn, video = tmp_path / "replayed.mcap", tmp_path / "torn.mcap", tmp_path / "video.mcap"
    assert call("replay", piece, "--lockstep", "--out", replayed)[0] == 0
    assert why(session=replayed) == "it holds outputs of a replay"
    assert why("--replays", "--xrays", 0, session=replayed) == "ready"
    source = Recording(piece)
    config = decode(source.attachment(session_format.CONFIGURATION), "c")
    config = msgspec.structs.replace(config, sources=(VideoSource(device="0"),))
    with new_session(video) as writer:
        writer.describe("navnode", {"format": "2"})
        writer.attach(session_format.CONFIGURATION, msgspec.json.encode(config), "", 0)
        for entry in source.raw():
            writer.add(entry.channel, (entry.data,), entry.log_time_ns, entry.publish_time_ns, entry.sequence)
    assert "the patient's name" in why(session=video) and why("--video", session=video) == "ready"
    torn.write_bytes(video.read_bytes()[: Recording(video).files[0].chunks[-1].offset])
    assert "not finished" in why("--video", session=torn)
    assert why("--video", "--unfinished", "--xrays", 0, session=torn) == "ready"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("xray = 1", "did you mean 'xrays'?"),
        ("xrays = -1", "xrays"),
        ("xrays = ", "policy.toml"),
        ("video = 3", "video"),
    ],
)
def test_a_wrong_policy_is_named(text, said, piece, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(text)
    code, _, error = call("archive", piece, "--to", tmp_path / "a", "--policy", policy)
    assert code == 2 and said in error


def test_what_is_damaged_or_no_session_stays_out_and_stops_nothing(piece, tmp_path):
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "c.mcap").write_bytes(piece.read_bytes())
    (folder / "b.mcap").write_bytes(b"no session")
    data = bytearray(piece.read_bytes())
    data[Recording(piece).files[0].chunks[0].offset + 500] ^= 1
    (folder / "a.mcap").write_bytes(data)
    code, told, _ = call("archive", folder, "--to", tmp_path / "archive", "--json")
    assert code == 1 and [row["outcome"] for row in told["rows"]] == ["damaged", "failed", "archived"]
    assert "checksum" in told["rows"][0]["reason"] and "not an MCAP file" in told["rows"][1]["reason"]
    assert len(list((tmp_path / "archive").iterdir())) == 2


# --- stores that fail -------------------------------------------------------------------------------------------------


def test_an_upload_that_is_cut_off_is_never_seen_as_whole(bucket, piece, monkeypatch):
    from s3fs import S3FileSystem

    put, cuts = S3FileSystem.put_file, []

    def short(self, source, target, **options):
        if len(cuts) < 2:
            cuts.append(target)
            self.pipe_file(target, Path(source).read_bytes()[:-100])
        else:
            put(self, source, target, **options)

    monkeypatch.setattr(S3FileSystem, "put_file", short)
    code, told, error = call("archive", piece, "--to", bucket, "--json")
    assert code == 0 and told["counts"] == {"archived": 1} and len(cuts) == 2, error
    assert all(".mcap." in target and target.endswith(".part") for target in cuts)
    assert cuts[0] != cuts[1], "whoever sends the same at once has a name of his own"
    assert not [file.name for file in Store(bucket).listed() if file.name.endswith(".part")]


def test_a_full_disk_is_named_and_nothing_counts_as_sent(piece, tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    def full(self, source, target, **options):
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(LocalFileSystem, "put_file", full)
    monkeypatch.setattr(stores, "_WAITS_S", ())
    code, told, error = call("archive", piece, "--to", tmp_path / "archive", "--json")
    assert code == 1 and told["counts"] == {"failed": 1}, error
    assert told["sent_bytes"] == 0 and "No space left on device" in told["rows"][0]["reason"]


def test_a_store_that_changes_bytes_is_found_out(bucket, piece, monkeypatch):
    from s3fs import S3FileSystem

    def changed(self, source, target, **options):
        data = bytearray(Path(source).read_bytes())
        data[1000] ^= 1
        self.pipe_file(target, bytes(data))

    monkeypatch.setattr(S3FileSystem, "put_file", changed)
    code, told, _ = call("archive", piece, "--to", bucket, "--json")
    assert code == 1 and "not what was sent; 5 attempts were made" in told["rows"][0]["reason"]
    assert Store(bucket).listed() == []


def test_a_session_whose_manifest_was_never_written_is_looked_at_and_completed(bucket, piece):
    name = call("archive", piece, "--to", bucket, "--json")[1]["rows"][0]["sha256"] + ".mcap"
    store = Store(bucket)
    (manifest,) = [file.name for file in store.listed() if file.name != name]
    store._files.rm_file(store._path(manifest))
    told = call("archive", piece, "--to", bucket, "--json")[1]
    assert told["counts"] == {"archived": 1} and told["sent_bytes"] == 0
    store._files.rm_file(store._path(manifest))
    store._files.pipe_file(store._path(name), b"x" * told["rows"][0]["size_bytes"])
    told = call("archive", piece, "--to", bucket, "--json")[1]
    assert told["counts"] == {"archived": 1} and told["sent_bytes"] > 0, "what lay there was something else"
    assert store.fetch(Stored(name, told["sent_bytes"]), piece.with_name("back.mcap")) == told["rows"][0]["sha256"]
    piece.with_name("back.mcap").unlink()


def test_refused_credentials_are_said_without_them(bucket, piece, tmp_path, monkeypatch, caplog):
    from botocore.exceptions import ClientError, NoCredentialsError
    from s3fs import S3FileSystem
    from s3fs.errors import translate_boto_error

    def refuse(error):
        def find(self, *_, **__):
            raise error

        return find

    answer = {"Error": {"Code": "InvalidAccessKeyId", "Message": f"{KEY} {SECRET}"}}
    refused = translate_boto_error(ClientError(answer, "ListObjectsV2"))
    for error, said in ((refused, "refuses access (InvalidAccessKeyId)"), (NoCredentialsError(), "no credentials")):
        monkeypatch.setattr(S3FileSystem, "find", refuse(error))
        for command in (("archive", piece, "--to", bucket), ("evaluate", bucket, "--out", tmp_path)):
            code, _, told = call(*command)
            assert code == 1 and said in told and KEY not in told and SECRET not in told + caplog.text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"s3://{KEY}:{SECRET}@ward/site", "holds no credentials"),
        (f"https://store/x?X-Amz-Signature={SECRET}", "holds no credentials"),
        ("nothing://ward", "no such kind of store is known"),
        (f"az://ward/site?sv=2024&sig={SECRET}", "holds no credentials"),
        (f"S3://{KEY}:{SECRET}@ward/site", "holds no credentials"),
        (f"simplecache::s3://{KEY}:{SECRET}@ward/site", "neither a path nor the URL"),
        (f"s3:/{SECRET}/site", "neither a path nor the URL"),
        ("s3://ward::x/site", "not a chain"),
    ],
)
def test_urls_that_cannot_be_used(url, said, piece, tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.chdir(tmp_path)
    code, _, error = call("archive", piece, "--to", url)
    assert code == 2 and said in error and SECRET not in error
    with pytest.raises(ConfigError, match=said) as refused:
        Store(url)
    assert SECRET not in str(refused.value) and not list(tmp_path.iterdir()), "nor is it taken for a folder"


def test_a_bucket_that_is_not_there_is_not_made(bucket, piece):
    import boto3

    code, _, error = call("archive", piece, "--to", "s3://wrad/site")
    assert code == 1 and "s3://wrad/site: is not there" in error
    assert [each["Name"] for each in boto3.client("s3").list_buckets()["Buckets"]] == ["ward"]
    code, _, error = call("evaluate", f"{bucket}/nothing")
    assert code == 2 and "no session there" in error


def test_a_package_that_is_missing_is_named(piece, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    code, _, error = call("archive", piece, "--to", "s3://ward/site")
    assert code == 2 and "pip install 'navnode[archive]'" in error
    with pytest.raises(ConfigError, match="archive"):
        Store("s3://ward/site")


def test_a_copy_that_was_cut_short_in_the_archive_is_sent_again(tmp_path):
    first = call("archive", GOLDEN, "--to", tmp_path / "archive", "--json")
    assert first[0] == 0, first[2]
    (copy,) = (tmp_path / "archive").glob("*.mcap")
    whole = copy.stat().st_size
    copy.write_bytes(b"")
    code, report, error = call("archive", GOLDEN, "--to", tmp_path / "archive", "--json")
    assert code == 0, error
    assert report["rows"][0]["outcome"] == "archived" and copy.stat().st_size == whole
    again = call("archive", GOLDEN, "--to", tmp_path / "archive", "--json")[1]
    assert again["rows"][0]["outcome"] == "already there"


@pytest.mark.parametrize("to", ["{}", "file://{}"])
def test_sessions_below_the_archives_folder_are_archived_and_its_copies_are_not(tmp_path, to):
    (tmp_path / "sessions").mkdir()
    shutil.copy(GOLDEN, tmp_path / "sessions" / "one.mcap")
    for _ in range(2):
        code, report, error = call("archive", tmp_path, "--to", to.format(tmp_path), "--json")
        assert code == 0, error
        assert len(report["rows"]) == 1
    assert len(list(tmp_path.glob("*.mcap"))) == 1
    assert call("archive", tmp_path, "--to", "", "--json")[0] == 2


def test_what_another_program_recorded_or_a_video_gateway_marked_may_show_a_name(tmp_path):
    def session(name: str, metadata: dict, about: dict) -> Path:
        path = tmp_path / name
        with new_session(path) as writer:
            writer.describe("navnode", {"session": name, "part": "0", "format": str(session_format.FORMAT), **about})
            config = configuration("procedural")
            writer.attach(session_format.CONFIGURATION, msgspec.json.encode(config), "application/octet-stream", 0)
            voxels = np.ones((1, 8, 8), np.uint16)
            image = Image(device="XRay", timestamp_ns=10, voxels=voxels, ras_from_index=np.eye(4), metadata=metadata)
            writer.add(session_format.arrival_channel("IMAGE", "XRay"), (encode(image, 2),), 10, 10, 1)
        return path

    plain = session("plain.mcap", {}, {})
    marked = session("marked.mcap", {VIDEO_KEY: "true"}, {})
    imported = session("imported.mcap", {}, {"imported": ".mha"})
    _, report, error = call("archive", plain, marked, imported, "--to", tmp_path / "archive", "--dry-run", "--json")
    assert [row["outcome"] for row in report["rows"]] == ["ready", "not wanted", "not wanted"], (report, error)
