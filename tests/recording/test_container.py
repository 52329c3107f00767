"""The container: what is written, other programs read; what others write, torn, flipped or hostile, ends in a line."""

from __future__ import annotations

import io
import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as LibraryWriter

from navnode.errors import RecordingError
from navnode.recording import container, reader
from navnode.recording.container import Channel
from navnode.recording.edit import recover
from navnode.recording.reader import ContainerReader
from navnode.recording.recorder import part_path
from navnode.recording.recording import Recording
from navnode.recording.writer import ContainerWriter

MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([Channel("in/A/x", "openigtlink"), Channel("out/b", "json"), Channel("step", "json")]),
        st.binary(max_size=300),
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**32 - 1),
    ),
    max_size=60,
)


def write(path, messages, finish=True, every=7):
    with path.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1", "session": "s", "part": "0"})
        writer.attach("a.json", b"{}", "application/json", 5)
        for n, (channel, data, time_ns, sequence) in enumerate(messages):
            writer.add(channel, (data[:5], memoryview(data)[5:]), time_ns, time_ns, sequence)
            if n % every == every - 1:
                writer.close_chunk()
        if finish:
            writer.finish()
        else:
            writer.close_chunk()
    return path


def read(path):
    file = ContainerReader(path)
    try:
        return [
            (entry.channel, bytes(entry.data), entry.log_time_ns, entry.sequence)
            for chunk in file.chunks
            for entry in file.entries(chunk)
        ]
    finally:
        file.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(MESSAGES, st.booleans())
def test_what_is_written_comes_back_here_and_in_the_library(tmp_path, messages, finish):
    path = write(tmp_path / "a.mcap", messages, finish)
    assert read(path) == messages
    file = ContainerReader(path)
    assert file.metadata["navnode"]["session"] == "s" and file.attachment("a.json") == b"{}"
    assert (file.torn_at is None) is finish and file.lost_bytes == 0
    if finish:
        with path.open("rb") as opened:
            summary = make_reader(opened, validate_crcs=True).get_summary()
            assert summary.statistics.message_count == len(messages) == file.messages
            opened.seek(0)
            found = list(make_reader(opened, validate_crcs=True).iter_messages(log_time_order=False))
        assert [(c.topic, m.data, m.log_time, m.sequence) for _, c, m in found] == [
            (channel.topic, data, time_ns, sequence) for channel, data, time_ns, sequence in messages
        ]


@pytest.fixture
def session(tmp_path):
    messages = [(Channel(f"in/A/{n % 3}", "openigtlink"), bytes([n]) * (40 + n), 100 + n, n) for n in range(60)]
    return messages, write(tmp_path / "a.mcap", messages)


def test_torn_anywhere_what_comes_before_is_there(session, tmp_path):
    messages, path = session
    data = path.read_bytes()
    torn, out = tmp_path / "torn.mcap", tmp_path / "whole.mcap"
    for end in range(len(container.MAGIC), len(data), 41):
        torn.write_bytes(data[:end])
        found = read(torn)
        assert found == messages[: len(found)]
        out.unlink(missing_ok=True)
        if not found and ContainerReader(torn).lost_bytes:
            with pytest.raises(RecordingError, match="nothing can be read of it"):
                recover(torn, out)
            assert not out.exists()
            continue
        kept = recover(torn, out)
        assert kept.messages == len(found) and read(out) == found and ContainerReader(out).torn_at is None
        chunk = max((chunk.length for chunk in ContainerReader(path).chunks), default=0)
        assert kept.lost_bytes <= max(chunk, 200), "never more than the chunk that was open"


def test_a_flipped_bit_costs_its_chunk_and_no_more(session, tmp_path):
    messages, path = session
    data, flipped, out = path.read_bytes(), tmp_path / "b.mcap", tmp_path / "o.mcap"
    damaged = 0
    for at in range(len(container.MAGIC), len(data), 13):
        flipped.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        out.unlink(missing_ok=True)
        try:
            kept = recover(flipped, out)
        except RecordingError:
            continue  # said
        found = read(out)
        damaged += kept.damaged
        assert [m for m in messages if m in found] == found or kept.messages >= len(messages) - 7, at
        assert len(found) >= len(messages) - 7, at
        try:
            list(Recording(flipped).raw())
        except RecordingError as error:
            assert "damaged" in str(error) and "b.mcap" in str(error)
    assert damaged > 20


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4, CompressionType.NONE])
def test_sessions_that_the_library_wrote_are_read(tmp_path, compression):
    path = tmp_path / "l.mcap"
    with path.open("wb") as file:
        writer = LibraryWriter(file, compression=compression, chunk_size=1000)
        writer.start()
        channel = writer.register_channel("in/A/x", "json", writer.register_schema("json", "", b""))
        for n in range(100):
            writer.add_message(channel, n, b"{}" * 20, n, n)
        writer.finish()
    assert [entry[2] for entry in read(path)] == list(range(100))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert 10 < len(read(path)) < 100


def test_a_chunk_that_swells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_CHUNK_BYTES", 1 << 20)
    for compression in (CompressionType.ZSTD, CompressionType.LZ4):
        path = tmp_path / f"{compression.name}.mcap"
        with path.open("wb") as file:
            writer = LibraryWriter(file, compression=compression, chunk_size=1 << 24)
            writer.start()
            channel = writer.register_channel("in/A/x", "json", writer.register_schema("json", "", b""))
            writer.add_message(channel, 1, bytes(1 << 23), 1, 1)
            writer.finish()
        with pytest.raises(RecordingError, match="over the limit"):
            read(path)
        data = bytearray(path.read_bytes())  # and one that lies about its size
        struct.pack_into("<Q", data, ContainerReader(path).chunks[0].offset + 9 + 16, 100)
        path.write_bytes(data)
        with pytest.raises(RecordingError, match="damaged"):
            read(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", container.MAGIC + b"\x06" + b"\xff" * 40, b"\x89MCAP1\r\n" + bytes(99)]
)
def test_what_is_no_session_is_refused(tmp_path, content):
    path = tmp_path / "x.mcap"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"x\.mcap"):
        list(Recording(path))


def test_a_newer_format_is_named(tmp_path):
    path = tmp_path / "n.mcap"
    with path.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "99"})
        writer.finish()
    with pytest.raises(RecordingError, match="format 99; this version reads up to 2"):
        list(Recording(path))


def test_seeking_goes_to_the_chunk_that_holds_the_time(session):
    _, path = session
    recording = Recording(path)
    times = [entry.log_time_ns for entry in recording.raw(133)]
    assert times[-1] == 159 and times[0] <= 133 and len(times) < 40


def test_parts_of_one_session_are_read_together(tmp_path):
    first = tmp_path / "s.mcap"
    for part in range(3):
        write(part_path(first, part), [(Channel("out/b", "json"), b"{}", part * 10 + n, n) for n in range(5)])
    with part_path(first, 3).open("wb", buffering=0) as file:  # another session's
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1", "session": "other"})
        writer.finish()
    assert [entry.time_ns for entry in Recording(first)] == [p * 10 + n for p in range(3) for n in range(5)]
    assert len(list(Recording(part_path(first, 1)))) == 5


def test_the_writer_ends_short_writes(tmp_path, monkeypatch):
    """A signal may leave a write half done."""
    whole = write(tmp_path / "a.mcap", [(Channel("out/b", "json"), b"x" * 5000, n, n) for n in range(9)]).read_bytes()
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [memoryview(b"".join(parts))[:1000]]))
    again = write(tmp_path / "b.mcap", [(Channel("out/b", "json"), b"x" * 5000, n, n) for n in range(9)]).read_bytes()
    assert again == whole and io.BytesIO(whole).read(8) == container.MAGIC


def test_messages_without_chunks_are_read(tmp_path):
    path = tmp_path / "u.mcap"
    with path.open("wb") as file:
        writer = LibraryWriter(file, use_chunking=False)
        writer.start()
        channel = writer.register_channel("in/A/x", "json", writer.register_schema("json", "", b""))
        for n in range(100):
            writer.add_message(channel, n + 1, b"{}" * 2000, n, n)
        writer.finish()
    assert [entry[2] for entry in read(path)] == list(range(1, 101)) and ContainerReader(path).torn_at is None
    assert len(list(Recording(path).raw())) == 100 and recover(path, tmp_path / "o.mcap").messages == 100
    path.write_bytes(path.read_bytes()[:200_000])
    assert len(read(path)) == 49 and recover(path, tmp_path / "p.mcap").lost_bytes > 0


def test_what_stands_behind_the_end_is_counted(session, tmp_path):
    messages, path = session
    path.write_bytes(path.read_bytes() + b"x" * 350)
    kept = recover(path, tmp_path / "o.mcap")
    assert kept.lost_bytes == 350 and read(tmp_path / "o.mcap") == messages


def test_a_newer_format_is_not_recovered_either(tmp_path):
    path = tmp_path / "n.mcap"
    with path.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "99"})
        writer.finish()
    with pytest.raises(RecordingError, match="format 99"):
        recover(path, tmp_path / "o.mcap")
