"""What damage is: a killed recorder leaves none, a cut file and a flipped bit are; every command says the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from navnode.bench.evaluation import cluster
from navnode.errors import DamagedError
from navnode.igtl import String
from navnode.recording import Recorder, Recording
from navnode.recording.container import MAGIC, Channel
from navnode.recording.edit import recover
from navnode.recording.integrity import Integrity
from navnode.recording.reader import ContainerReader
from navnode.recording.recorder import part_path
from navnode.recording.writer import ContainerWriter
from tests.recording.commands import GOLDEN, call

KILLED = """
import sys, time
from pathlib import Path
from navnode.recording import Recorder, Recording
from navnode.recording.recorder import About
source = Recording(sys.argv[1])
attached = {name: source.attachment(name) for name in source.attachments}
recorder = Recorder(Path(sys.argv[2]), About(source.metadata, attached))
for entry in source:
    if entry.topic.startswith("in/"):
        recorder.record(entry.content, entry.time_ns, (entry.raw,))
while recorder.waiting or recorder.safe < recorder.messages:
    time.sleep(0.01)
print("written", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The golden session, recorded again by a process that is killed when all of it is written."""
    path = tmp_path_factory.mktemp("killed") / "killed.mcap"
    command = [sys.executable, "-c", KILLED, str(GOLDEN), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as recorder:
        assert recorder.stdout.readline() == b"written\n"
        recorder.send_signal(signal.SIGKILL)
    return path


@pytest.fixture
def here(monkeypatch):
    """Evaluation in this process."""
    monkeypatch.setattr(cluster, "run", lambda tasks, score, *_: [(task, score(task)) for task in tasks])


def asked(path: Path, out: Path):
    """What the three commands say of a session: exit codes, damage, and notes."""
    replay, replayed, replay_error = call("replay", path, "--lockstep", "--json")
    inspect, inspected, inspect_error = call("inspect", path, "--json")
    evaluate, evaluated, evaluate_error = call("evaluate", path, "--out", out, "--json")
    (row,) = evaluated["rows"]
    damage = (replayed and replayed["damage"], inspected and inspected["damage"], row.get("damage", row.get("reason")))
    return (replay, inspect, evaluate), damage, (replay_error, inspect_error, evaluate_error), row


@pytest.mark.long
def test_a_killed_recorder_leaves_a_session_that_is_unfinished_and_fine(killed, here, tmp_path):
    assert Recording(killed).judged().integrity is Integrity.UNFINISHED
    codes, damage, said, row = asked(killed, tmp_path)
    assert codes == (0, 0, 0) and damage == ("", "", ""), (codes, said)
    _, golden, _ = call("replay", GOLDEN, "--lockstep", "--json")
    assert row["status"] == "done" and row["frames"] == golden["frames"], "nothing is missing"
    assert "was not finished" in row["notes"][0] and "was not finished" in said[1]
    assert call("inspect", killed, "--json")[1]["whole"] is False
    assert "was not finished" in call("replay", killed, "--lockstep", "--json")[1]["notes"][0]
    assert recover(killed, tmp_path / "whole.mcap").lost_bytes == 0
    assert call("inspect", tmp_path / "whole.mcap", "--json")[1]["whole"] is True


@pytest.mark.parametrize("harm", ["cut within a chunk", "a bit of a chunk", "a bit of the index", "cut within the end"])
@pytest.mark.long
def test_what_is_cut_or_flipped_is_damaged_to_all_of_them(harm, here, tmp_path):
    data, path = bytearray(GOLDEN.read_bytes()), tmp_path / "harmed.mcap"
    chunks = ContainerReader(GOLDEN).chunks
    middle = chunks[len(chunks) * 2 // 3]
    if harm == "cut within a chunk":
        del data[middle.offset + middle.length // 2 :]
    elif harm == "a bit of a chunk":
        data[middle.offset + middle.length // 2] ^= 1
    elif harm == "a bit of the index":
        data[-200] ^= 1
    else:
        del data[-4:]
    path.write_bytes(data)
    codes, damage, said, row = asked(path, tmp_path / "out")
    assert codes == (1, 1, 1), said
    assert len(set(damage)) == 1 and "damaged at byte" in damage[0] and str(path) in damage[0]
    assert all(damage[0] in text for text in said) and row["status"] == "damaged"
    assert row["frames"] > 0, "what comes before the damage is scored"
    seconds = call("inspect", path, "--json")[1]["seconds"]
    whole_s = call("inspect", GOLDEN, "--json")[1]["seconds"]
    assert 0.3 * whole_s < seconds < 0.9 * whole_s if "chunk" in harm else seconds == whole_s


def test_damage_before_the_first_step_is_damage_too(here, tmp_path):
    data, path = bytearray(GOLDEN.read_bytes()), tmp_path / "harmed.mcap"
    data[ContainerReader(GOLDEN).chunks[0].offset + 100] ^= 1
    path.write_bytes(data)
    codes, damage, said, row = asked(path, tmp_path / "out")
    assert codes == (1, 1, 1) and all("damaged at byte" in text for text in said)
    assert damage[:2] == (None, None) and "damaged at byte" in damage[2] and row["status"] == "damaged"


def test_what_cannot_be_replayed_is_not_damaged(here, tmp_path):
    path = tmp_path / "text.mcap"
    path.write_text("no session")
    code, told, error = call("evaluate", path, "--out", tmp_path / "out", "--json")
    assert code == 1 and told["rows"][0]["status"] == "failed", error


def part(path: Path, first_ns: int, *, finish: bool = True) -> Path:
    with path.open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        writer.describe("navnode", {"format": "1", "session": "s"})
        for n in range(5):
            writer.add(Channel("out/b", "json"), (b"{}",), first_ns + n, first_ns + n, n)
        writer.close_chunk()
        if finish:
            writer.finish()
    return path


def test_only_the_last_file_of_a_session_may_be_unfinished(tmp_path):
    first = part(tmp_path / "s.mcap", 10)
    second = part(part_path(first, 1), 20, finish=False)
    assert len(list(Recording(first))) == 10 and Recording(first).judged().integrity is Integrity.UNFINISHED
    part(first, 10, finish=False)
    with pytest.raises(DamagedError, match="its end is missing"):
        list(Recording(first))
    assert Recording(first).judged().integrity is Integrity.DAMAGED
    second.unlink()
    assert len(list(Recording(first))) == 5 and Recording(first).judged().integrity is Integrity.UNFINISHED


@pytest.mark.parametrize("gone", [1, 2, -1])
def test_a_session_that_lacks_a_further_file_is_damaged(tmp_path, gone):
    path = tmp_path / "s.mcap"
    recorder = Recorder(path, {"session": "s"}, max_file_bytes=50_000)
    for k in range(200):
        recorder.record(String(device="S", text="x" * 1_000), k)
    recorder.stop()
    parts = sorted(tmp_path.glob("s.0*.mcap"))
    assert len(parts) > 2 and Recording(path).judged() == (Integrity.WHOLE, "")
    assert Recording(parts[0]).judged().integrity is Integrity.WHOLE, "a part by itself"
    parts[gone if gone < 0 else gone - 1].unlink()
    verdict = Recording(path).judged()
    assert verdict.integrity is Integrity.DAMAGED and "another file, which is missing" in verdict.text
    recover(path, tmp_path / "o" / "s.mcap")
    repaired = Recording(tmp_path / "o" / "s.mcap")
    assert repaired.judged().integrity is Integrity.WHOLE
    assert "1 files, which are missing" in repaired.lost_before
    read = sum(len(list(file.entries(chunk))) for file in repaired.files for chunk in file.chunks)
    assert len(repaired.files) == len(parts) and read == len(list(repaired)), "what lies behind it is kept"


def test_a_recorder_that_is_killed_at_once_leaves_an_empty_session(tmp_path):
    path = tmp_path / "s.mcap"
    path.write_bytes(MAGIC)
    assert list(Recording(path)) == [] and Recording(path).judged().integrity is Integrity.UNFINISHED


def test_reading_tells_what_files_do_not_say_of_themselves(tmp_path):
    path = part(tmp_path / "s.mcap", 10)
    data = bytearray(path.read_bytes())
    data[ContainerReader(path).chunks[0].offset + 60] ^= 1
    path.write_bytes(data)
    recording = Recording(path)
    assert recording.judged().integrity is Integrity.WHOLE
    with pytest.raises(DamagedError) as found:
        list(recording)
    assert recording.judged(found.value) == (Integrity.DAMAGED, str(found.value))
