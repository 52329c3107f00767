"""What came in is in the file, as it came; and the loop never waits for the disk."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from navnode.errors import RecordingError
from navnode.igtl import Image, String, Transform, decode, encode
from navnode.recording import Recorder, Recording, writer


def message(k: int) -> Transform:
    matrix = np.eye(4)
    matrix[0, 3] = k
    # As it comes from the wire: with the 64 bits of its time stamp.
    return decode(
        encode(Transform(device="Drill", timestamp_ns=1_000 + k, matrix=matrix, metadata={"k": str(k)}, version=2))
    )


def test_what_came_in_comes_back(tmp_path):
    recorder = Recorder(tmp_path / "a.mcap", {"version": "1"})
    sent = [message(k) for k in range(500)]
    for k, each in enumerate(sent):
        recorder.take(each, 5_000 + k)
    recorder.take(Image(device="XRay", voxels=np.ones((1, 700, 700), np.uint16), ras_from_index=np.eye(4)), 6_000)
    recorder.note("command", {"operation": "TakeView"})
    assert "502 messages" in recorder.stop()
    entries = list(Recording(tmp_path / "a.mcap"))
    assert [encode(e.content) for e in entries[:500]] == [encode(m) for m in sent]
    assert [e.time_ns for e in entries[:500]] == list(range(5_000, 5_500))
    assert entries[500].content.voxels.shape == (1, 700, 700) and entries[501].content == {"operation": "TakeView"}


def test_a_recording_never_replaces_another(tmp_path):
    (tmp_path / "a.mcap").write_text("precious")
    with pytest.raises(RecordingError, match="exists already"):
        Recorder(tmp_path / "a.mcap", {})
    assert (tmp_path / "a.mcap").read_text() == "precious"


def test_a_stalled_disk_costs_messages_and_says_so_but_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_MAX_QUEUED", 50)
    go = threading.Event()
    write = writer.Recorder._write_part
    monkeypatch.setattr(writer.Recorder, "_write_part", lambda self, *a: (go.wait(20), write(self, *a))[1])
    recorder = Recorder(tmp_path / "a.mcap", {})
    for k in range(200):
        recorder.take(message(k), k)
    assert recorder.lost == 150
    go.set()
    while recorder.messages < 50:
        pass
    recorder.take(message(200), 200)
    assert "150 lost" in recorder.stop()
    entries = list(Recording(tmp_path / "a.mcap"))
    assert [e.content for e in entries if e.topic == "node/gap"] == [{"lost": 150}]
    assert len(entries) == 52


def test_ending_waits_for_no_disk(tmp_path, monkeypatch):
    go = threading.Event()
    write = writer.Recorder._write_part
    monkeypatch.setattr(writer.Recorder, "_write_part", lambda self, *a: (go.wait(20), write(self, *a))[1])
    recorder = Recorder(tmp_path / "a.mcap", {})
    for k in range(10):
        recorder.take(message(k), k)
    assert "10 messages" in recorder.end() and not recorder.ended  # it came back while the disk still stood
    go.set()
    recorder.stop()
    assert recorder.ended and len(list(Recording(tmp_path / "a.mcap"))) == 10


def test_a_full_disk_is_told_and_ends_the_recording_only():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    recorder = Recorder.__new__(Recorder)

    class Full:
        """A path whose file is always full."""

        parent = Path("/tmp")

        def open(self, mode, buffering):
            return Path("/dev/full").open("wb", buffering=0)

        def __str__(self):
            return "full.mcap"

    recorder.__init__(Full(), {}, wait=False)
    for k in range(200):
        recorder.take(String(device="S", text="x" * 60_000), k)
    with pytest.raises(RecordingError, match="cannot be written"):
        recorder.stop()
    assert recorder.failed


def test_damage_is_told_after_what_is_whole(tmp_path):
    recorder = Recorder(tmp_path / "a.mcap", {})
    for k in range(3_000):
        recorder.take(String(device="S", text="x" * 2_000), k)
        while recorder.waiting > 1_000:
            pass
    recorder.stop()
    data = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "torn.mcap").write_bytes(data[: len(data) // 2])
    count = 0
    with pytest.raises(RecordingError, match=r"torn\.mcap"):
        for _ in Recording(tmp_path / "torn.mcap"):
            count += 1
    assert 500 < count < 3_000
    (tmp_path / "none.mcap").write_text("no recording at all")
    with pytest.raises(RecordingError, match=r"none\.mcap"):
        list(Recording(tmp_path / "none.mcap"))
