"""Sessions that another MCAP program wrote: in any order, with or without an index, in one chunk or in none."""

from __future__ import annotations

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer

from navnode.igtl import Image
from navnode.recording import Recording, sequences
from tests.invoke import call
from tests.recording.test_sequence_kinds import FRAMES, N, mha


@pytest.fixture
def plain(tmp_path):
    """Messages and metadata of an imported sequence."""
    assert call("import", mha(tmp_path / "s.igs.mha"), "--out", tmp_path / "s.mcap")[0] == 0
    with (tmp_path / "s.mcap").open("rb") as file:
        reader = make_reader(file)
        messages = [(channel, message) for _, channel, message in reader.iter_messages()]
        return messages, [(each.name, dict(each.metadata)) for each in reader.iter_metadata()]


def written(path, plain, order, **how):
    messages, metadata = plain
    with path.open("wb") as file:
        writer = Writer(file, **({"compression": CompressionType.ZSTD, "chunk_size": 300} | how))
        writer.start()
        for name, about in metadata:
            writer.add_metadata(name, about)
        channels: dict[str, int] = {}
        for channel, message in (messages[n] for n in order):
            if channel.topic not in channels:
                channels[channel.topic] = writer.register_channel(channel.topic, channel.message_encoding, 0)
            number = channels[channel.topic]
            writer.add_message(number, message.log_time, message.data, message.publish_time, message.sequence)
        writer.finish()
    return path


BARE = {
    "index_types": IndexType.NONE,
    "use_statistics": False,
    "use_summary_offsets": False,
    "repeat_channels": False,
    "repeat_schemas": False,
}
COUNT = 2 * N
ORDERS = {
    "in order": range(COUNT),
    "halves": [*range(COUNT // 2, COUNT), *range(COUNT // 2)],
    "backwards": range(COUNT)[::-1],
    "topics": [*range(0, COUNT, 2), *range(1, COUNT, 2)],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "how", [{}, BARE, {"use_chunking": False}, BARE | {"use_chunking": False}, {"index_types": IndexType.CHUNK}]
)
def test_nothing_is_lost_or_out_of_order(tmp_path, plain, order, how):
    path = written(tmp_path / "other.mcap", plain, ORDERS[order], **how)
    code, report, error = call("inspect", path, "--json")
    assert code == 0 and "torn" not in error and report["whole"]
    recording = Recording(path)
    entries = list(recording.entries())
    assert [e.time_ns for e in entries] == sorted(e.time_ns for e in entries) and len(entries) == COUNT
    pictures = [e.content.voxels[0] for e in entries if isinstance(e.content, Image)]
    assert np.array_equal(pictures, FRAMES) and recording.metadata
    assert call("export", path, "--out", tmp_path / "back.igs.mha")[0] == 0
    back = sequences.read(tmp_path / "back.igs.mha")
    assert np.array_equal(back.frames, FRAMES) and back.times_s[0] >= 0


def test_a_torn_file_of_others_is_still_torn(tmp_path, plain):
    path = written(tmp_path / "other.mcap", plain, range(COUNT), **BARE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    _, report, error = call("inspect", path, "--json")
    assert "damaged" in error or not report["whole"]
