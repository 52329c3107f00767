"""Nothing that exists is replaced: one line and one exit code, whoever writes."""

from __future__ import annotations

import asyncio

import pytest

from navnode.errors import ConfigError
from navnode.files.whole import refuse_existing, whole, write_whole
from navnode.recording import Recorder
from navnode.recording.edit import new_session
from tests.recording.commands import GOLDEN, call


@pytest.fixture(params=["file", "folder", "link to nowhere"])
def taken(request, tmp_path):
    """A name that is taken."""
    path = tmp_path / "taken.mcap"
    if request.param == "file":
        path.write_text("precious")
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    return path


WRITERS = {
    "record": ("record", "--out"),
    "demo": ("demo", "--headless", "--ct", "procedural", "--seconds", "1", "--record"),
    "run": ("run", "demo.toml", "--record"),
    "recover": ("recover", GOLDEN, "--out"),
    "cut": ("cut", GOLDEN, "--out"),
    "merge": ("merge", GOLDEN, GOLDEN.with_name("room.reference.mcap"), "--out"),
    "replay": ("replay", GOLDEN, "--lockstep", "--out"),
    "export": ("export", GOLDEN, "--out"),
    "inspect": ("inspect", GOLDEN, "--report"),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.long
def test_every_writer_says_the_same(writer, taken, monkeypatch):
    def nothing_runs(*_):
        raise AssertionError("it began")

    monkeypatch.setattr(asyncio, "run", nothing_runs)
    code, _, error = call(*WRITERS[writer], taken)
    assert (code, error) == (2, f"{taken}: exists already; nothing is replaced")
    assert taken.is_symlink() or taken.is_dir() or taken.read_text() == "precious"


def test_an_imported_sequence_replaces_nothing_either(taken, tmp_path):
    sequence = tmp_path / "s.mha"
    assert call("export", GOLDEN, "--out", sequence)[0] == 0
    code, _, error = call("import", sequence, "--out", taken)
    assert (code, error) == (2, f"{taken}: exists already; nothing is replaced")


def test_a_recorder_says_it_before_it_begins(taken):
    with pytest.raises(ConfigError, match="exists already; nothing is replaced"):
        Recorder(taken, {})
    with pytest.raises(ConfigError, match="exists already; nothing is replaced"):
        refuse_existing(taken)


def test_what_is_written_whole_is_there_or_it_is_not(tmp_path):
    path = tmp_path / "a.bin"
    write_whole(path, b"first")
    with pytest.raises(RuntimeError), whole(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError("in the middle")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
    with whole(path) as part:
        assert part.name.endswith(".a.bin") and part.name.startswith("."), "writers go by the ending"
        part.write_bytes(b"second")
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot be written"):
        write_whole(path / "below", b"")


def test_a_session_that_breaks_off_takes_no_name(tmp_path):
    with pytest.raises(RuntimeError), new_session(tmp_path / "a.mcap") as writer:
        writer.describe("navnode", {"format": "1"})
        raise RuntimeError("in the middle")
    assert list(tmp_path.iterdir()) == []
