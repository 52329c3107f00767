"""Benchmarks kept from version to version, and when a ratio to a peer has fallen."""

from __future__ import annotations

import statistics

import msgspec
import pytest

from navnode.bench import every, history
from navnode.bench.history import Figure
from navnode.errors import ConfigError
from navnode.types import LatencyFigures


def made(value: float, *, spread: float = 0.01, peer: str = "RTK", machine: str = "A, 2 cores, avx2") -> history.Entry:
    figure = Figure(value=value, unit="times" if peer else "ms", spread=spread, peer=peer)
    return msgspec.structs.replace(history.entry({"projector: projection": figure}, 5), machine=machine)


def test_a_figure_is_a_median_and_how_far_repeats_are_from_it():
    figure = Figure.of([10.0, 12.0, 8.0, 100.0, 9.0], "ms")
    assert (figure.value, figure.spread) == (10.0, 0.15)
    assert Figure.of([3.0], "ms").spread == 0.0


def test_a_run_is_a_line_that_is_read_again(tmp_path):
    path, entries = tmp_path / "new" / "history.jsonl", [made(5.0), made(6.0, peer="", machine="B")]
    for entry in entries:
        history.append(path, entry)
    assert list(history.read(path)) == entries
    assert entries[0].schema == "navnode/bench/1" and entries[0].navnode


@pytest.mark.parametrize("line", [b"{}", b"[1", b"\xff\xfe"])
def test_a_damaged_history_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "history.jsonl"
    history.append(path, made(5.0))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ConfigError, match="line 2"):
        history.read(path)


def test_another_schema_and_no_file_at_all_are_refused(tmp_path):
    path = tmp_path / "history.jsonl"
    history.append(path, msgspec.structs.replace(made(5.0), schema="navnode/bench/9"))
    with pytest.raises(ConfigError, match="navnode/bench/9"):
        history.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        history.read(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("now", "before", "falls"),
    [
        (made(4.1), [made(5.0)], False),
        (made(3.9), [made(5.0)], True),
        (made(3.9), [made(5.0, spread=0.15)], False),  # repeats alone differed by as much
        (made(3.9, spread=0.15), [made(5.0)], False),
        (made(3.0), [made(9.0), made(3.1), made(3.2)], False),  # once fast is not usual
        (made(2.0), [made(9.0), made(3.1), made(3.2)], True),
        (made(3.6), [made(5.0), made(3.5), made(5.1)], False),  # as low as on a busy day
        (made(3.4), [made(5.0), made(3.5), made(5.1)], True),
        (made(3.9), [made(5.0, machine="B")], False),
        (made(3.9), [], False),
        (made(3.9, peer=""), [made(5.0, peer="")], False),  # times are not compared
    ],
)
def test_only_a_ratio_that_fell_beyond_noise_on_the_same_kind_of_machine_is_told(now, before, falls):
    fallen = history.fallen(now, before)
    assert bool(fallen) == falls
    if falls:
        usual = statistics.median(each.figures["projector: projection"].value for each in before)
        ratio = now.figures["projector: projection"].value
        assert (fallen[0].now, fallen[0].usual, fallen[0].peer) == (ratio, usual, "RTK")


def test_kinds_of_machines_name_no_single_one():
    kind = history.machine_kind()
    assert "cores" in kind and kind == history.machine_kind()


def test_parts_are_measured_and_what_there_is_not_is_refused(procedural_ct):
    latencies = iter([LatencyFigures(10.0, 20.0, 30.0), LatencyFigures(1.0, None, None)] * 2)
    measurement = every.Measurement(procedural_ct, lambda: (next(latencies), next(latencies)), runs=2, threads=1)
    figures = measurement.of(("registration", "loop"))
    for which in ("one", "the next"):
        assert 0.1 < figures[f"registration: registration of {which} X-ray"].value < 60_000
    assert figures["loop: X-ray to pose, p99"].value == 20.0 and "loop: tool to overlay, p99" not in figures
    with pytest.raises(ConfigError, match="no part quantum; there are projector"):
        measurement.of(("quantum",))


@pytest.mark.parametrize(("ratios", "times"), [([3.0, 5.0], 2), ([3.0, 3.0, 3.0], 3), ([5.0], 1)])
def test_what_seems_to_have_fallen_is_measured_again(monkeypatch, procedural_ct, ratios, times):
    measured = iter(ratios)

    def projector(_):
        yield "projection", Figure(value=next(measured), unit="times", spread=0.01, peer="RTK")

    monkeypatch.setitem(every.PARTS, "projector", projector)
    before = [msgspec.structs.replace(made(5.0), machine=history.machine_kind())]
    measurement = every.Measurement(procedural_ct, lambda: (LatencyFigures(), LatencyFigures()))
    entry, falls = measurement.beside(before, ["projector"])
    assert len(ratios) - len(list(measured)) == times
    assert entry.figures["projector: projection"].value == ratios[times - 1]
    assert [str(fall) for fall in falls] == ["projector: projection: 3 times as fast as RTK, was 5"] * (times == 3)
