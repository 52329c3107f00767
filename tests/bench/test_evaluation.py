"""Archives of sessions, scored."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from navnode.bench import evaluation
from navnode.bench.evaluation import cluster
from navnode.bench.evaluation.rows import Row, read_rows
from navnode.bench.evaluation.run import _baseline
from navnode.bench.evaluation.sessions import Session, Task, calibrations_of
from navnode.errors import ConfigError
from tests.conftest import GOLDEN
from tests.invoke import call
from tests.loop.theatre import configuration


@pytest.mark.long
def test_an_archive_is_scored_and_goes_on_where_it_was(recorded, tmp_path, monkeypatch):
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    (archive / "a.mcap").write_bytes(recorded.read_bytes())
    (archive / "golden.mcap").write_bytes(GOLDEN.read_bytes())
    (archive / "golden.reference.mcap").write_bytes(b"no session")
    (archive / "broken.mcap").write_bytes(b"no session")
    code, told, error = call("evaluate", archive, "--out", out, "--json")
    assert code == 1 and "not an MCAP file" in error, "a failure is the exit status"
    rows = {Path(row["session"]).name: row for row in told["rows"]}
    assert set(rows) == {"a.mcap", "golden.mcap", "broken.mcap"} and rows["broken.mcap"]["status"] == "failed"
    good = rows["golden.mcap"]
    assert good["tre_mm"]["median"] < 1 and good["wrong_while_valid"] == 0
    assert good["registered"] == 0.5, "half of its X-rays were taken on the move, and do not say for how long"
    assert rows["a.mcap"]["registered"] > 0.85
    assert rows["a.mcap"]["tip_error_mm"]["median"] < 2 and rows["a.mcap"]["recorded"]["latency_ms"]["frame"]["p50"] > 0
    assert told["totals"]["as recorded"]["failed"] == 1
    page = (out / "report.html").read_text()
    assert "golden.mcap" in page and "not an MCAP file" in page
    done = []

    def here(tasks, score, *_):
        done.extend(tasks)
        return [(task, score(task)) for task in tasks]

    monkeypatch.setattr(cluster, "run", here)
    with (out / "rows.jsonl").open("a") as file:
        file.write('{"torn')
    again = call("evaluate", archive, "--out", out, "--json")[1]
    assert [task.session.name for task in done] == ["broken.mcap"], "only what had failed is done again"
    assert again["totals"]["as recorded"]["tre_mm"] == told["totals"]["as recorded"]["tre_mm"]
    options = ("--baseline", out / "rows.jsonl", "--out", tmp_path / "b")
    code, both, error = call("evaluate", archive / "golden.mcap", *options, "--json")
    assert code == 0 and set(both["totals"]) == {"baseline", "as recorded"}, error
    assert ">worse<" not in (tmp_path / "b" / "report.html").read_text().split("times as fast")[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nowhere",), "there is no such file"),
        ((GOLDEN, "--baseline", "none.jsonl"), "there is no such file"),
        ((GOLDEN, "--scheduler", "tcp://127.0.0.1:9"), "does not answer"),
        ((GOLDEN, "--against", "a", "--baseline", "b"), "not both"),
    ],
)
def test_evaluations_that_cannot_begin_are_named(options, said, tmp_path, monkeypatch):
    import distributed

    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout=1))
    code, _, error = call("evaluate", *options, "--out", tmp_path)
    assert code == 2 and said in error


def test_a_baseline_is_of_the_session_at_the_same_place_or_refused(tmp_path):
    """Archives move, and their folders hold files of one name."""

    def of(rows, sessions):
        lines = [
            msgspec.json.encode(Row(key=row, session=row, label="x", version="1", status="failed")) for row in rows
        ]
        (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        found = _baseline(tmp_path / "rows.jsonl", [Session(place, "") for place in sessions])
        return {row.key: row.session for row in found}

    assert of(["/old/a/room.mcap", "/old/b/room.mcap"], ["/new/b/room.mcap", "/new/a/room.mcap"]) == {
        "/old/a/room.mcap": "/new/a/room.mcap",
        "/old/b/room.mcap": "/new/b/room.mcap",
    }
    assert of(["/old/a/room.mcap", "/old/b/room.mcap"], ["/new/b/room.mcap"]) == {
        "/old/b/room.mcap": "/new/b/room.mcap"
    }
    assert of(["/old/a/room.mcap"], ["/new/a/room.mcap", "/new/c/room.mcap"]) == {
        "/old/a/room.mcap": "/new/a/room.mcap"
    }
    assert of(["s3://x/room.mcap", "s3://x/other.mcap"], ["/home/room.mcap"]) == {"s3://x/room.mcap": "/home/room.mcap"}
    for rows, sessions in (
        (["/old/a/room.mcap", "/old/b/room.mcap"], ["/new/c/room.mcap"]),
        (["/old/a/room.mcap"], ["/new/b/room.mcap", "/new/c/room.mcap"]),
    ):
        with pytest.raises(ConfigError, match="not clear"):
            of(rows, sessions)
    with pytest.raises(ConfigError, match="none of these"):
        of(["/old/a/room.mcap"], ["/old/a/other.mcap"])


def test_a_baseline_of_several_configurations_is_refused_and_a_torn_row_harms_no_other(tmp_path):
    rows = tmp_path / "rows.jsonl"
    row = {"key": "k", "session": str(GOLDEN), "version": "1", "status": "failed", "reason": "", "elapsed_s": 1.0}
    rows.write_text("\n".join(json.dumps({**row, "label": label}) for label in ("one", "other")) + "\n5\n")
    code, _, error = call("evaluate", GOLDEN, "--baseline", rows, "--out", tmp_path / "out", "--json")
    assert code == 2 and "several configurations (one, other)" in error
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "rows.jsonl").write_text('{"key": "abc", "sess')
    assert call("evaluate", GOLDEN, "--out", torn, "--json")[0] == 0
    assert len(read_rows(torn / "rows.jsonl")) == 1


def test_a_difference_within_chance_is_neither_better_nor_worse():
    judged = evaluation.judged
    assert judged([0.383, 0.384], -1.0, 0.05).startswith("<span class=quiet>the same")
    assert "worse" in judged([0.383, 0.484], -1.0, 0.05) and "better" in judged([0.484, 0.383], -1.0, 0.05)
    assert judged([0.4, None], -1.0, 0.05) == "" and judged([1.0, 2.0], 0.0, 0.0) == ""


def test_a_calibration_that_was_replaced_under_its_name_is_another_task(tmp_path):
    flat = tmp_path / "flat.npz"
    told = configuration("procedural", calibration={"carm_from_marker": np.eye(4).tolist(), "flatfield": str(flat)})
    data = msgspec.json.encode(told)
    keys = []
    for content in (b"one", b"other"):
        flat.write_bytes(content)
        task = Task(Session(str(GOLDEN), GOLDEN.name), "node", data, "", 1, calibrations=calibrations_of(data))
        keys.append(task.key)
    assert keys[0] != keys[1]
