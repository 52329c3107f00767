"""Sessions cut, merged and without names."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from navnode.config import DicomSource, VideoSource, decode
from navnode.igtl import Image, StatusMessage, encode
from navnode.recording import Recording
from navnode.recording import format as session_format
from navnode.recording.container import Channel
from navnode.recording.writer import ContainerWriter
from tests.conftest import GOLDEN
from tests.invoke import call


@pytest.mark.long
def test_a_piece_and_what_is_merged_of_pieces(recorded, tmp_path):
    poses, images, both = tmp_path / "p.mcap", tmp_path / "i.mcap", tmp_path / "b.mcap"
    assert call("cut", recorded, "--topic", "in/TRANSFORM/*", "--out", poses)[0] == 0
    assert call("cut", recorded, "--topic", "in/IMAGE/*", "--out", images)[0] == 0
    assert call("merge", poses, images, "--out", both)[0] == 0
    arrivals = [e for e in Recording(recorded).raw() if e.channel.topic.startswith(("in/TRANSFORM", "in/IMAGE"))]
    merged = list(Recording(both).raw())
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
