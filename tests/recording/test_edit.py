"""Sessions cut, merged and without names."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from navnode.config import DicomSource, VideoSource, decode
from navnode.errors import RecordingError
from navnode.files.volumes import write_volume
from navnode.igtl import Image, StatusMessage, encode
from navnode.recording import Recording
from navnode.recording import format as session_format
from navnode.recording.container import Channel
from navnode.recording.deidentify import configuration_of, may_be_video
from navnode.recording.writer import ContainerWriter
from navnode.types import Volume
from tests.conftest import GOLDEN, find_free_port
from tests.invoke import call, run_navnode
from tests.recording.written import pose, written


@pytest.mark.long
def test_a_piece_and_what_is_merged_of_pieces(recorded, tmp_path):
    poses, images, both = tmp_path / "p.mcap", tmp_path / "i.mcap", tmp_path / "b.mcap"
    assert call("cut", recorded, "--topic", "in/TRANSFORM/*", "--out", poses)[0] == 0
    assert call("cut", recorded, "--topic", "in/IMAGE/*", "--out", images)[0] == 0
    assert call("merge", poses, images, "--out", both)[0] == 0
    arrivals = [e for e in Recording(recorded).raw() if e.channel.topic.startswith(("in/TRANSFORM", "in/IMAGE"))]
    ct, *merged = Recording(both).raw()
    assert ct.channel.topic == session_format.CT, "which CT it was is known, whatever is cut out"
    assert len(merged) == len(arrivals)
    assert [e.log_time_ns for e in merged] == sorted(e.log_time_ns for e in arrivals)
    assert call("replay", both, "--lockstep", "--json")[1]["frames"] > 10
    middle = tmp_path / "m.mcap"
    code, kept, _ = call("cut", recorded, "--start", 2, "--duration", 3, "--out", middle, "--json")
    assert code == 0 and kept["messages"] > 200 and Recording(middle).seconds == pytest.approx(3, abs=0.1)
    assert "from the middle" in call("replay", middle, "--as-consumed", "--json")[1]["notes"][0]
    code, _, error = call("cut", recorded, "--start", 100, "--out", tmp_path / "n.mcap")
    assert code == 1 and "nothing is recorded" in error and not (tmp_path / "n.mcap").exists()
    assert list(tmp_path.glob(".*")) == []


def test_who_it_was_is_taken_out(tmp_path):
    named, out = tmp_path / "n.mcap", tmp_path / "o.mcap"
    config = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    gateways = (VideoSource(device="/data/Doe.avi"), DicomSource(callers=("Doe",), store="/data/Doe"))
    volume = msgspec.structs.replace(config.volume, ct="/data/Doe^Jane.nii")
    config = msgspec.structs.replace(config, volume=volume, sources=(*config.sources, *gateways))
    with named.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1", "session": "s", "operator": "Doe"})
        writer.attach(session_format.CONFIGURATION, msgspec.json.encode(config), "application/json", 0)
        writer.attach("note.txt", b"Doe", "text/plain", 0)
        image = Image(
            device="XRay",
            timestamp_ns=9,
            voxels=np.ones((1, 4, 4), np.uint16),
            ras_from_index=np.eye(4),
            version=2,
            metadata={"PatientName": "Doe^Jane", "PositionerPrimaryAngle": "12"},
        )
        writer.add(Channel("in/IMAGE/XRay", "openigtlink"), (encode(image),), 9, 9, 1)
        writer.add(Channel("in/STRING/Note", "openigtlink"), (b"Doe",), 10, 10, 2)
        state = StatusMessage(device="XRay", timestamp_ns=9, code=13, text="/data/Doe.avi: the file ended")
        writer.add(Channel("in/STATUS/XRay", "openigtlink"), (encode(state),), 10, 9, 4)
        writer.add(
            Channel("out/state", "json"), (b'{"volume":"Doe","sources":{"doe-pc":""},"notices":["Doe"]}',), 11, 11, 3
        )
        writer.add(Channel("node/ct", "json"), (b'{"name":"Doe","sha256":"00"}',), 11, 11, 0)
        writer.finish()
    assert call("cut", named, "--deidentify", "--out", out)[0] == 0
    assert b"oe" not in out.read_bytes().replace(b"Does", b"")
    kept = next(e.content for e in Recording(out).entries() if isinstance(e.content, Image))
    told = next(e.content for e in Recording(out).entries() if isinstance(e.content, StatusMessage))
    assert (told.code, told.text) == (13, ""), "the loop used it"
    assert len(decode(Recording(out).attachment(session_format.CONFIGURATION), "o").sources) == 3
    assert kept.metadata == {"PositionerPrimaryAngle": "12"} and kept.voxels.shape == (1, 4, 4)


CT = ("node/ct", {"name": "ct", "sha256": "00", "shape": [2, 2, 2], "volume_from_index": np.eye(4).tolist()}, 1.0)


def topics(path):
    return [entry.channel.topic for entry in Recording(path).raw()]


def test_what_a_node_recorded_is_kept_whichever_session_is_named_first(tmp_path):
    node = written(tmp_path / "n.mcap", [CT, pose("A", 2.0), ("step", {"of": 2}, 2.0), ("out/x", {}, 2.0)])
    other = written(tmp_path / "o.mcap", [pose("B", 1.5), ("node/gap", {"lost": 7}, 1.6), pose("B", 2.5)])
    for name, order in (("a", (node, other)), ("b", (other, node))):
        merged = tmp_path / f"{name}.mcap"
        assert call("merge", *order, "--out", merged)[0] == 0
        expected = ["node/ct", "in/TRANSFORM/B", "node/gap", "in/TRANSFORM/A", "step", "out/x", "in/TRANSFORM/B"]
        assert topics(merged) == expected
        assert call("inspect", merged, "--json")[1]["lost"] == 7
    earlier = written(tmp_path / "e.mcap", [pose("C", 0.1 + k / 100) for k in range(50)])
    for order in ((node, earlier), (earlier, node)):
        merged = tmp_path / f"{order[0].stem}c.mcap"
        assert call("merge", *order, "--out", merged)[0] == 0
        assert Recording(merged).ct is not None and len(topics(merged)) == 54, "whoever began first"


def test_overlapping_pieces_are_not_merged(tmp_path):
    session = written(tmp_path / "s.mcap", [pose("A", 1 + k / 10) for k in range(20)])
    for name, start in (("early", 0.0), ("late", 0.8)):
        assert call("cut", session, "--start", start, "--duration", "1", "--out", tmp_path / f"{name}.mcap")[0] == 0
    both = tmp_path / "early.mcap", tmp_path / "late.mcap"
    code, _, error = call("merge", *both, "--out", tmp_path / "m.mcap")
    assert code == 1 and "pieces of one session overlap" in error and not (tmp_path / "m.mcap").exists()


def test_pieces_know_their_ct_and_a_ct_that_lies_elsewhere_is_another(tmp_path):
    voxels = np.zeros((4, 5, 6), np.float32)
    place = np.diag([1.0, 1.0, 1.0, 1.0])
    known = msgspec.to_builtins(session_format.identity(Volume(voxels, place, "ct")), enc_hook=lambda a: a.tolist())
    session = written(tmp_path / "s.mcap", [("node/ct", known, 1.0), *(pose("A", 1 + k) for k in range(9))])
    piece = tmp_path / "p.mcap"
    assert call("cut", session, "--start", 4, "--topic", "in/*", "--out", piece)[0] == 0
    assert topics(piece)[0] == "node/ct" and len(topics(piece)) == 6
    for path in (session, piece):
        recording = Recording(path)
        recording.check_ct(Volume(voxels, place + 1e-5, "renamed"))
        moved, finer = place.copy(), np.diag([0.5, 1.0, 1.0, 1.0])
        moved[0, 3] = 25.0
        for other in (Volume(voxels, moved), Volume(voxels, finer), Volume(voxels + 1, place), None):
            with pytest.raises(RecordingError, match="was recorded with"):
                recording.check_ct(other)


@pytest.mark.long
def test_a_replay_at_its_own_pace_needs_the_same_ct(recorded, tmp_path):
    hu = np.full((24, 24, 24), -1000, np.float32)
    hu[6:18, 6:18, 6:18] = 400
    write_volume(Volume(hu, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / "other.nii.gz")
    port = str(find_free_port())
    given = ("replay", str(recorded), "--headless", "--seconds", "2", "--port", port, "--ct")
    done = run_navnode(*given, str(tmp_path / "other.nii.gz"))
    assert done.returncode == 1 and "was recorded with another CT" in done.stderr


def test_what_may_show_a_name_still_may_when_it_is_merged(tmp_path):
    config = decode(Recording(GOLDEN).attachment(session_format.CONFIGURATION), session_format.CONFIGURATION)
    clean = written(tmp_path / "c.mcap", [pose("A", 1.0)], configuration=msgspec.json.encode(config))
    video = msgspec.structs.replace(config, sources=(VideoSource(device="/dev/video0"),))
    image = Image(device="X", timestamp_ns=9, voxels=np.ones((1, 4, 4), np.uint8), ras_from_index=np.eye(4))
    shown = written(tmp_path / "v.mcap", [("in/IMAGE/X", image, 1.2)], configuration=msgspec.json.encode(video))
    for order in ((clean, shown), (shown, clean)):
        merged = tmp_path / f"{order[0].stem}m.mcap"
        assert call("merge", *order, "--out", merged)[0] == 0
        assert may_be_video(Recording(merged), configuration_of(Recording(merged)))
    alone = tmp_path / "a.mcap"
    assert call("merge", clean, written(tmp_path / "d.mcap", [pose("B", 1.1)]), "--out", alone)[0] == 0
    assert not may_be_video(Recording(alone), configuration_of(Recording(alone)))
