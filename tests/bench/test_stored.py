"""Evaluation of sessions that lie in a store."""

from __future__ import annotations

import json

import pytest

from navnode.bench.evaluation import cluster
from navnode.config import decode
from navnode.errors import StoreError
from navnode.files import stores
from navnode.files.fingerprint import sha256_of
from navnode.files.stores import Store, Stored
from navnode.recording import Recording
from navnode.recording import format as session_format
from navnode.recording.edit import cut, new_session
from tests.invoke import call
from tests.objects import KEY, SECRET, figures


def test_rows_do_not_depend_on_where_sessions_lie(bucket, upload, here, piece, tmp_path):
    folder, out = tmp_path / "folder", tmp_path / "out"
    for name in ("b/a.mcap", "b.mcap", "a b#?.mcap", "b/c.mcap"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cut(Recording(piece), folder / name, duration_s=0.5)
        upload(name, (folder / name).read_bytes())
    (folder / "broken.mcap").write_bytes(b"no session")
    upload("broken.mcap", b"no session")
    code, local, _ = call("evaluate", folder, "--out", out, "--json")
    assert code == 1
    report = (out / "report.html").read_text()
    done = []
    # Only what failed is done again, from the other place.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "run", lambda tasks, score, *_: [(t, score(t)) for t in tasks if not done.append(t)])
        stored = call("evaluate", bucket, "--out", out, "--json")[1]
    assert [task.session.name for task in done] == ["broken.mcap"]
    names = [row["session"].removeprefix(f"{folder}/") for row in local["rows"]]
    assert [row["session"].removeprefix(f"{bucket}/") for row in stored["rows"]] == names
    assert [row["key"] for row in stored["rows"]] == [row["key"] for row in local["rows"]]
    assert [figures(row) for row in stored["rows"][:2]] == [figures(row) for row in local["rows"][:2]]
    assert (out / "report.html").read_text().replace(bucket, str(folder)) == report
    both = call("evaluate", folder, bucket, "--out", out, "--json")[1]
    assert both["totals"]["as recorded"]["sessions"] == 5, "one content is counted once"


def test_objects_cut_off_or_changed_are_rows_with_reasons(bucket, upload, here, piece, tmp_path):
    name = call("archive", piece, "--to", bucket, "--json")[1]["rows"][0]["sha256"] + ".mcap"
    data = piece.read_bytes()
    upload(name, Store(bucket).read(name, 1_000_000)[:-200])
    upload("cut.mcap", data[: len(data) // 2])
    upload("good.mcap", data)
    upload("large.mcap", data * 3)
    code, told, _ = call("evaluate", bucket, "--out", tmp_path, "--session-gb", 2 * len(data) / 1e9, "--json")
    rows = {row["session"].removeprefix(f"{bucket}/"): row for row in told["rows"]}
    assert code == 1 and "not what its name says" in rows[name]["reason"]
    assert rows["cut.mcap"]["status"] == "damaged" and rows["good.mcap"]["status"] == "done"
    assert f"{bucket}/cut.mcap: damaged" in rows["cut.mcap"]["reason"], "its own place, not that of the copy"
    assert "--session-gb" in rows["large.mcap"]["reason"]


def test_a_store_that_goes_half_way_leaves_rows_with_reasons_and_resumes(
    bucket, upload, here, reading, piece, tmp_path
):
    for name in ("a.mcap", "b.mcap", "c.mcap"):
        upload(name, piece.read_bytes())
    asked = []

    def gone(path, start, end):
        asked.append((path[-6:], end - start == piece.stat().st_size))
        if asked[-1] != ("a.mcap", True) and asked[-1][1]:
            raise ConnectionError(f"https://{KEY}:{SECRET}@store is gone")

    reading(gone)
    code, told, error = call("evaluate", bucket, "--out", tmp_path, "--json")
    assert code == 1 and [row["status"] for row in told["rows"]] == ["done", "failed", "failed"], error
    assert told["rows"][1]["reason"] == f"{bucket}/b.mcap: the store does not answer; 5 attempts were made"
    assert asked.count(("b.mcap", True)) == 5
    assert SECRET not in (tmp_path / "rows.jsonl").read_text() + (tmp_path / "report.html").read_text() + error
    reading(lambda path, start, end: None)
    code, told, _ = call("evaluate", bucket, "--out", tmp_path, "--json")
    assert code == 0 and [row["status"] for row in told["rows"]] == ["done"] * 3


def test_a_store_that_is_gone_while_it_is_listed_leaves_rows_too(bucket, upload, here, reading, piece, tmp_path):
    upload("a.mcap", piece.read_bytes())
    upload("b.mcap", piece.read_bytes())

    def gone(path, start, end):
        if path.endswith("b.mcap"):
            raise TimeoutError

    reading(gone)
    code, told, _ = call("evaluate", bucket, "--out", tmp_path, "--json")
    assert code == 1 and [row["status"] for row in told["rows"]] == ["done", "failed"]
    assert "does not answer" in told["rows"][1]["reason"]


def test_a_block_that_comes_short_is_asked_for_again(bucket, upload, reading, piece, tmp_path, monkeypatch):
    upload("a.mcap", piece.read_bytes())
    monkeypatch.setattr(stores, "_BLOCK_BYTES", 100_000)
    asked = []

    def short(path, start, end):
        asked.append(start)
        return end - 1 if asked.count(200_000) == 1 else None

    reading(short)
    store, size = Store(bucket), piece.stat().st_size
    assert store.fetch(Stored("a.mcap", size), tmp_path / "a.mcap") == sha256_of(piece)
    assert asked.count(200_000) == 2 and len(asked) == -(-size // 100_000) + 1
    with pytest.raises(StoreError, match=r"5 attempts were made"):
        store.fetch(Stored("a.mcap", size + 10), tmp_path / "b.mcap")


@pytest.mark.long
def test_thousands_are_listed_and_odd_names_are_harmless(bucket, upload, here, piece, tmp_path):
    store = Store(bucket)
    store._files.pipe({store._path(f"{n:04d}.txt"): b"x" for n in range(1100)})
    odd = ["x\\..\\up.mcap", "\x1b[31mred.mcap", "ä ü%41+&=.mcap", "<b>.mcap", "x.001.mcap", ".hidden.mcap"]
    for name in odd:
        upload(f"deep/{name}", piece.read_bytes())
    assert len(store.listed()) == 1100 + len(odd), "two pages"
    code, told, error = call("evaluate", bucket, "--out", tmp_path / "out", "--json")
    rows = {row["session"].removeprefix(f"{bucket}/deep/"): row["status"] for row in told["rows"]}
    shown = {"x\\..\\up.mcap", "%1B[31mred.mcap", "ä ü%41+&=.mcap", "<b>.mcap"}
    assert code == 0 and rows == dict.fromkeys(shown, "done"), error
    assert "<b>.mcap" not in (tmp_path / "out" / "report.html").read_text() and "\x1b" not in json.dumps(told)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@pytest.mark.long
def test_all_parts_of_a_session_come(bucket, here, live, tmp_path):
    """A session in two files, by the URL of its folder and by its own."""
    whole, first, second = Recording(live), tmp_path / "r.mcap", tmp_path / "r.001.mcap"
    entries = list(whole.raw())
    for part, (path, some) in enumerate(((first, entries[:800]), (second, entries[800:]))):
        with new_session(path) as writer:
            writer.describe("navnode", {**whole.metadata, "part": str(part)})
            for name in whole.attachments:
                writer.attach(name, whole.attachment(name), "", 0)
            for e in some:
                writer.add(e.channel, (e.data,), e.log_time_ns, e.publish_time_ns, e.sequence)
        Store(bucket).put(path, path.name, sha256_of(path))
    ct = ("--ct", decode(whole.attachment(session_format.CONFIGURATION), "c").volume.ct)
    local = call("evaluate", first, *ct, "--out", tmp_path / "1", "--json")[1]["rows"]
    for n, url in enumerate((bucket, f"{bucket}/r.mcap")):
        rows = call("evaluate", url, *ct, "--out", tmp_path / f"s{n}", "--json")[1]["rows"]
        assert [figures(row) for row in rows] == [figures(row) for row in local] and rows[0]["key"] == local[0]["key"]
    told = call("archive", first, "--to", tmp_path / "archive", "--json")[1]["rows"]
    copy = Recording(tmp_path / "archive" / f"{told[0]['sha256']}.mcap")
    assert len(told) == 1 and len(list(copy.raw())) == len(entries), "one file of both"


def test_what_is_wrong_with_a_further_part_is_told_of_its_own_place(bucket, upload, here, piece, tmp_path):
    data = piece.read_bytes()
    upload("deep/s.mcap", data)
    upload("deep/s.001.mcap", data[: len(data) // 2])
    code, told, error = call("evaluate", bucket, "--out", tmp_path, "--json")
    (row,) = told["rows"]
    texts = row.get("reason", "") + row.get("damage", "")
    assert code == 1 and row["status"] == "damaged" and f"{bucket}/deep/s.001.mcap: damaged at byte" in texts, error
    assert "/session" not in (tmp_path / "rows.jsonl").read_text()


@pytest.mark.slow
def test_a_session_of_dask_workers_comes_from_the_store(bucket, piece, tmp_path):
    pytest.importorskip("distributed")
    call("archive", piece, "--to", bucket)
    code, told, error = call("evaluate", bucket, "--out", tmp_path, "--json")
    assert code == 0 and told["rows"][0]["status"] == "done" and told["rows"][0]["frames"] == 3, error
