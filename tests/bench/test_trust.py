"""The trust benchmark counts what it should, resumes, and a handful of traps catches nothing."""

from __future__ import annotations

import msgspec
import pytest

from navnode.bench import rtk, trust
from navnode.bench.trust import RIGHT, TRAPS, Trapped, summary
from navnode.errors import ConfigError
from navnode.files.volumes import read_volume, write_volume
from navnode.projector.grids import coarsened


def row(number: int, kind: str, status: str, lateral_mm: float | None, depth_mm: float | None = 1.0) -> Trapped:
    return Trapped(number, kind, "ct", status, "", lateral_mm, depth_mm)


def test_what_is_valid_and_wrong_is_counted_and_what_is_right_is_not():
    report = summary(
        [
            row(0, RIGHT, "VALID", 0.2),
            row(1, RIGHT, "DEGRADED", 0.3),
            row(2, RIGHT, "INVALID", 80.0),
            row(3, "neighbouring level", "VALID", 0.4),
            row(4, "neighbouring level", "VALID", 30.0),
            row(5, "neighbouring level", "INVALID", 30.0),
            row(6, "mirrored", "VALID", None, None),
            row(7, "moved bone", "DEGRADED", None, None),
            row(8, "wrong geometry", "VALID", 0.5, 25.0),
        ]
    )
    assert report.traps == 6 and report.false_accepts.hits == 3 and report.false_accepts.of == 9
    assert [each.number for each in report.accepted] == [4, 6, 8]
    assert report.by_kind["neighbouring level"].hits == 1 and report.by_kind["moved bone"].hits == 0
    assert report.false_refusals.hits == 1 and report.false_refusals.of == 2 and report.unregistered.hits == 1


def test_a_bound_says_what_none_of_so_many_is_worth():
    report = summary([row(number, "mirrored", "INVALID", None, None) for number in range(10_000)])
    assert report.false_accepts.hits == 0 and 0 < report.false_accepts.high <= 4e-4


@pytest.mark.skipif(not rtk.available(), reason="RTK renders the X-rays: the extra bench")
@pytest.mark.long
def test_a_run_goes_on_where_it_was_ended(procedural_ct, tmp_path):
    ct, out = tmp_path / "ct.nii.gz", tmp_path / "rows.jsonl"
    write_volume(coarsened(read_volume(procedural_ct), 3.0), ct)
    first = trust.run([ct], 9, out, 2)
    assert {*first.by_kind, RIGHT} == set(TRAPS) and first.traps == 8
    kept = out.read_bytes()
    out.write_bytes(kept + b'{"number":9,"kind":"torn')
    shares: list[float] = []
    again = trust.run([ct], 10, out, 2, shares.append)
    assert again.traps == 8 and shares == [1.0], "the control of the second round, and nothing twice"
    rows = [msgspec.json.decode(line, type=Trapped) for line in kept.splitlines()]
    level = next(each for each in rows if each.kind == "neighbouring level")
    assert not (level.valid and level.wrong)
    assert trust.run([ct], 10, out, 2) == again, "the torn row is gone, and all others can be read"
    out.write_bytes(b"{}\n")
    with pytest.raises(ConfigError, match="not the rows"):
        trust.run([ct], 9, out, 2)
