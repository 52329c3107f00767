"""What came in is in the file, as it came; and the loop never waits for the disk."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import structs

from navnode.bench import recording as recording_bench
from navnode.config import CaseSection, load, shipped
from navnode.errors import ConfigError, RecordingError
from navnode.igtl import Image, String, Transform, decode, encode
from navnode.loop.backends import Backends
from navnode.loop.runner import Step
from navnode.node.node import _unused
from navnode.recording import Recorder, Recording
from navnode.recording import recorder as recorder_module
from navnode.recording import tap as tape_module
from navnode.recording.edit import recover
from navnode.recording.reader import ContainerReader
from navnode.recording.tap import Tap
from navnode.types import RecordingState, Tick

BACKENDS = Backends(projector="native", reconstruction="SART", model_sha256="")


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
        recorder.record(each, 5_000 + k)
    recorder.record(Image(device="XRay", voxels=np.ones((1, 700, 700), np.uint16), ras_from_index=np.eye(4)), 6_000)
    recorder.note("command", {"operation": "TakeView"})
    assert "502 messages" in recorder.stop()
    entries = list(Recording(tmp_path / "a.mcap"))
    assert [encode(e.content) for e in entries[:500]] == [encode(m) for m in sent]
    assert [e.time_ns for e in entries[:500]] == list(range(5_000, 5_500))
    assert entries[500].content.voxels.shape == (1, 700, 700) and entries[501].content == {"operation": "TakeView"}


def test_a_recording_never_replaces_another(tmp_path):
    (tmp_path / "a.mcap").write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        Recorder(tmp_path / "a.mcap", {})
    assert (tmp_path / "a.mcap").read_text() == "precious"


def test_a_stalled_disk_costs_messages_and_says_so_but_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_MAX_QUEUED", 50)
    go = threading.Event()
    write = recorder_module.Recorder._write_part
    monkeypatch.setattr(recorder_module.Recorder, "_write_part", lambda self, *a: (go.wait(20), write(self, *a))[1])
    recorder = Recorder(tmp_path / "a.mcap", {})
    for k in range(200):
        recorder.record(message(k), k)
    assert recorder.lost == 150
    go.set()
    while recorder.messages < 50:
        pass
    recorder.record(message(200), 200)
    assert "150 lost" in recorder.stop()
    entries = list(Recording(tmp_path / "a.mcap"))
    assert [e.content for e in entries if e.topic == "node/gap"] == [{"lost": 150}]
    assert len(entries) == 52


def test_ending_waits_for_no_disk(tmp_path, monkeypatch):
    go = threading.Event()
    write = recorder_module.Recorder._write_part
    monkeypatch.setattr(recorder_module.Recorder, "_write_part", lambda self, *a: (go.wait(20), write(self, *a))[1])
    recorder = Recorder(tmp_path / "a.mcap", {})
    for k in range(10):
        recorder.record(message(k), k)
    assert "10 messages" in recorder.end() and not recorder.ended  # it came back while the disk still stood
    go.set()
    recorder.stop()
    assert recorder.ended and len(list(Recording(tmp_path / "a.mcap"))) == 10


def test_a_full_disk_is_told_and_ends_the_recording_only(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr("navnode.recording.recorder._created", lambda path: full)
        recorder = Recorder(tmp_path / "full.mcap", {}, wait=False)
        for k in range(200):
            recorder.record(String(device="S", text="x" * 60_000), k)
        with pytest.raises(RecordingError, match="cannot be written"):
            recorder.stop()
    assert recorder.failed and recorder.messages == 0 and recorder.lost > 0, "nothing of it is there"


def test_damage_is_told_after_what_is_whole(tmp_path):
    recorder = Recorder(tmp_path / "a.mcap", {})
    for k in range(3_000):
        recorder.record(String(device="S", text="x" * 2_000), k)
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


def test_the_last_seconds_are_kept_and_begin_a_recording(tmp_path):
    config = load(shipped("demo.toml"))
    config = structs.replace(config, recording=structs.replace(config.recording, keep_last_s=5.0))
    tap = Tap(config, None, BACKENDS)
    raw = encode(message(1))
    for second in range(20):
        tap.on_arrival(message(second), (raw[:58], memoryview(raw)[58:]), second * 1_000_000_000)
        tap.on_step(Step(Tick(second), None, [], second * 1_000_000_000, second * 1_000_000_000))
    tap.start(tmp_path / "a.mcap")
    assert tap.path == tmp_path / "a.mcap"
    tap.on_arrival(message(20), (raw[:58], memoryview(raw)[58:]), 20_000_000_000)
    assert "messages" in tap.stop() and not list(tap.close())[1:]
    kept = Recording(tmp_path / "a.mcap")
    assert [e.time_ns // 10**9 for e in kept if e.topic.startswith("in/")] == [14, 15, 16, 17, 18, 19, 20]
    assert kept.metadata["from_start"] == "false" and "configuration.json" in kept.attachments
    steps = [e for e in kept if e.topic == "step"]
    assert steps[0].content == {"kind": "Tick", "now_ns": 14} and steps[0].sequence == 15


def test_what_was_kept_does_not_crowd_out_what_happens_now(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "_MAX_QUEUED", 50)
    monkeypatch.setattr(recorder_module, "_MAX_QUEUED_BYTES", 50_000)
    go = threading.Event()
    write = recorder_module.Recorder._write_part
    monkeypatch.setattr(recorder_module.Recorder, "_write_part", lambda self, *a: (go.wait(20), write(self, *a))[1])
    kept = [recorder_module.arrival(message(k), None, k, k) for k in range(200)]
    recorder = Recorder(tmp_path / "a.mcap", {}, kept)
    for k in range(200, 240):
        recorder.record(message(k), k)
    assert recorder.lost == 0
    for k in range(240, 260):
        recorder.record(message(k), k)
    assert recorder.lost == 10, "the bound holds for what comes now"
    go.set()
    recorder.stop()
    times = [e.time_ns for e in Recording(tmp_path / "a.mcap") if e.topic.startswith("in/")]
    assert times == list(range(250)) and recorder._put_bytes == recorder._written_bytes


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(tape_module, "_KEPT_BYTES", 100_000)
    config = load(shipped("demo.toml"))
    tap = Tap(structs.replace(config, recording=structs.replace(config.recording, keep_last_s=600.0)), None, BACKENDS)
    for k in range(1000):
        tap.on_arrival(message(k), (b"", memoryview(bytes(10_000))), k)
    assert tap._kept_bytes <= 100_000 and len(tap._kept) < 12


def test_a_session_goes_on_in_further_files(tmp_path):
    recorder = Recorder(tmp_path / "a.mcap", {"session": "one"}, max_file_bytes=100_000)
    for k in range(500):
        recorder.record(String(device="S", text=f"{k:04d}" + "x" * 1_000), k)
    recorder.stop()
    parts = sorted(tmp_path.glob("*.mcap"))
    assert [p.name for p in parts][:2] == ["a.001.mcap", "a.002.mcap"] and len(parts) > 3
    assert all(path.stat().st_size < 130_000 for path in parts)
    found = Recording(tmp_path / "a.mcap")
    assert len(found.files) == len(parts) and [int(e.content.text[:4]) for e in found] == list(range(500))
    kept = recover(tmp_path / "a.mcap", tmp_path / "o" / "b.mcap")
    assert kept.messages == 500 and len(kept.paths) == len(parts)


@pytest.mark.long
def test_recordings_that_are_killed_lose_no_more_than_what_was_open(tmp_path):
    killed = recording_bench._killed(tmp_path, 3, lambda share: None)
    assert killed.recovered == killed.unfinished == 3 and killed.lost_more_than_the_open_chunk == 0


def test_places_in_large_files_are_found_by_their_index(tmp_path):
    count = recording_bench.sparse(tmp_path / "s.mcap", 1 << 28)
    found = Recording(tmp_path / "s.mcap")
    read = []
    chunk = ContainerReader._chunk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContainerReader, "_chunk", lambda self, at: read.append(at) or chunk(self, at))
        entry = next(entry for entry in found.raw(count - 3) if entry.log_time_ns >= count - 3)
    assert entry.log_time_ns == count - 3 and len(read) == 1


def test_the_loop_is_told_of_a_file_that_cannot_be_by_the_state_alone(tmp_path):
    (tmp_path / "a.mcap").write_text("precious")
    tap = Tap(load(shipped("demo.toml")), None, BACKENDS)
    tap.start(tmp_path / "a.mcap")
    while not tap.state.failure:
        pass
    tap._recorder._thread.join(5)
    assert tap.state == RecordingState("a.mcap", failure="exists already; nothing is replaced") and tap.path is None
    assert str(tap.state).startswith("FAILED: ")
    tap.start(_unused(tmp_path / "a.mcap"))
    with pytest.raises(RecordingError, match="no recording"):
        tap.stop(), tap.stop()
    with contextlib.suppress(RecordingError):
        list(tap.close())
    assert (tmp_path / "a.mcap").read_text() == "precious" and len(list(Recording(tmp_path / "a-2.mcap"))) == 1


def test_how_long_the_disk_lasts_is_known_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr("navnode.recording.recorder._RATE_KNOWN_S", 0.0)
    monkeypatch.setattr("navnode.recording.recorder._SYNC_EVERY_S", 0.05)
    recorder = Recorder(tmp_path / "a.mcap")
    for k in range(200):
        recorder.record(message(k), k)
    while recorder.minutes_left is None:
        time.sleep(0.01)
    assert recorder.minutes_left > 0
    recorder.stop()
    state = RecordingState("a.mcap", 5, 1_000_000, minutes_left=12.3)
    assert state.short_of_disk and str(state).endswith("DISK FULL IN 12 min")
    assert not RecordingState("a.mcap", 5, 1_000_000, minutes_left=500.0).short_of_disk


def test_what_the_case_is_called_is_not_recorded():
    config = load(shipped("demo.toml"))
    named = msgspec.structs.replace(config, case=CaseSection(name="Smith L4", side="left"))
    attached = tape_module.about(named, BACKENDS, from_start=True).attachments
    assert attached == tape_module.about(config, BACKENDS, from_start=True).attachments
    assert attached and not any(b"Smith" in content for content in attached.values())
