"""What an outside tester found in the commands for sessions."""

from __future__ import annotations

import pytest

from navnode.bench import evaluation
from navnode.recording.reader import ContainerReader
from tests.conftest import GOLDEN, find_free_port
from tests.invoke import call


def test_nothing_that_exists_is_replaced_and_folders_that_are_none_are_named(recorded, tmp_path):
    victim, plain, dangling = tmp_path / "v.mcap", tmp_path / "plain", tmp_path / "d.mcap"
    victim.write_bytes(GOLDEN.read_bytes())
    plain.write_text("a file")
    dangling.symlink_to(tmp_path / "nowhere")
    for arguments, code in (
        (("inspect", victim, "--report", victim), 2),
        (("inspect", victim, "--trace", plain), 2),
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


@pytest.mark.long
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
    row = evaluation.score(evaluation.Task(evaluation.Session.here(flipped), "a", b"", "", 0))
    assert row.status == "damaged" and row.frames > 5
    assert evaluation.totals([row])["a"].failed == 1 and evaluation.totals([row])["a"].valid is None
