"""All parts of the node measured in a few minutes, beside their peers: what the history of benchmarks is made of."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import UNSET

from navnode import geometry as g
from navnode.bench import igtl, projector, rtk
from navnode.bench.cases import Case, Chain, Patient
from navnode.bench.history import Entry, Fall, Figure, entry, fallen
from navnode.errors import ConfigError
from navnode.files.volumes import read_volume
from navnode.projector import Projector
from navnode.projector.grids import resample
from navnode.projector.native import default_threads
from navnode.reconstruction import Method, Reconstructor
from navnode.registration import ImageRegistration, register_counts
from navnode.simulation import anatomy
from navnode.simulation.scenario import carm_of_size
from navnode.types import Effort, Grid, LatencyFigures, View
from navnode.xray.counts import line_integrals

__all__ = ["PARTS", "Latencies", "Measurement"]

_DISTANCE_MM = 700.0
_LINK_S = 0.5
_VIEWS, _VOXELS, _SPACING_MM, _BINNING = 4, 128, 2.0, 4
_PHOTONS = 60_000.0
_MORE_ATTEMPTS = 2

Progress = Callable[[str], None]
Latencies = Callable[[], tuple[LatencyFigures, LatencyFigures]]
"""Runs the live loop; latencies of X-rays and of overlays."""
Measured = Iterator[tuple[str, Figure]]


@dataclass(frozen=True)
class Measurement:
    """How parts are measured; every figure is a median of ``runs`` repeats."""

    ct: Path
    """What is registered and reconstructed."""
    latencies: Latencies
    runs: int = 5
    threads: int = 2
    """Of every implementation; 0: all cores."""
    cpp_peer: Path | None = igtl.CPP_PEER
    """The OpenIGTLink C++ library's program, if it was built."""

    @property
    def cores(self) -> int:
        """Threads of every implementation."""
        return self.threads or default_threads()

    def beside(
        self, before: Sequence[Entry], parts: Sequence[str], progress: Progress = lambda part: None
    ) -> tuple[Entry, list[Fall]]:
        """What was measured, and which ratios to peers fell since earlier runs.

        A part with a ratio that seems to have fallen is measured twice more: a moment may be busy.

        Raises:
            ConfigError: as :meth:`of`.
            NavError: as :meth:`of`.
        """
        figures = self.of(parts, progress)
        for _ in range(_MORE_ATTEMPTS):
            if not (falls := fallen(entry(figures, self.runs), before)):
                break
            figures |= self.of(tuple(dict.fromkeys(fall.name.partition(":")[0] for fall in falls)))
        made = entry(figures, self.runs)
        return made, fallen(made, before)

    def of(self, parts: Sequence[str], progress: Progress = lambda part: None) -> dict[str, Figure]:
        """``part: what was measured`` -> figure.

        Args:
            parts: some of :data:`PARTS`.

        Raises:
            ConfigError: there is no such part.
            NavError: a part did not run.
        """
        if unknown := set(parts) - set(PARTS):
            raise ConfigError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
        figures: dict[str, Figure] = {}
        for name in parts:
            progress(name)
            figures.update({f"{name}: {what}": figure for what, figure in PARTS[name](self)})
        return figures


def _projector(asked: Measurement) -> Measured:
    """Projections with derivatives in all directions, beside RTK's without; with a gradient, beside nanodrr."""
    volume = resample(anatomy.torso(), 1.0, (projector.VOXELS,) * 3)
    carm = carm_of_size(projector.IMAGE_PX)
    ours = Projector(volume, threads=asked.cores)
    poses = [
        g.pose_at(volume.center_mm, _DISTANCE_MM, orbital_deg=orbital_deg, angulation_deg=angulation_deg)
        for orbital_deg, angulation_deg in projector.DIRECTIONS.values()
    ]
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: [ours.render(carm, pose, jacobian=True) for pose in poses],
    }
    if rtk.available():
        peer = rtk.RtkProjector(volume, asked.cores)
        again = [peer.again(carm, pose) for pose in poses]
        runs["RTK"] = lambda: [render() for render in again]
    times_ms = projector.alternating_ms(runs, asked.runs)
    yield "projection with derivatives", Figure.of([ms / len(poses) for ms in times_ms["ours"]], "ms")
    if "RTK" in times_ms:
        yield "projection", _beside(times_ms["RTK"], times_ms["ours"], "RTK, without derivatives")
    if importlib.util.find_spec("nanodrr"):
        times_ms = projector.alternating_ms(projector.beside_nanodrr(volume, carm, ours, asked.cores), asked.runs)
        yield "projection and its gradient", _beside(times_ms["nanodrr"], times_ms["ours"], "nanodrr")


def _wire(asked: Measurement) -> Measured:
    """Round trips and images over loopback, between processes."""
    scenarios = [each for each in igtl.SCENARIOS if each.kind in ("echo", "image")]
    reports = [igtl.run(_LINK_S, asked.cpp_peer, scenarios=scenarios) for _ in range(asked.runs)]
    for scenario in scenarios:
        ours = [report.results[scenario.name]["navnode"] for report in reports]
        if scenario.kind == "echo":
            yield scenario.name, Figure.of([each.p50_ms for each in ours if each.p50_ms is not UNSET], "ms")
        else:
            yield scenario.name, Figure.of([each.per_s for each in ours if each.per_s is not UNSET], "1/s")
    for name in reports[0].ratios:
        scenario_name, peer = name.rsplit(", ", 1)
        yield f"{scenario_name} beside {peer}", Figure.of([report.ratios[name] for report in reports], "times", peer)


def _registration(asked: Measurement) -> Measured:
    """One X-ray from 10 mm and 6 degrees away, and from the pose of the X-ray before."""
    patient, case = _case(asked)
    registration = ImageRegistration(patient.volume, asked.cores)
    rng = np.random.default_rng(0)
    for name, effort, (across_mm, depth_mm, turn_deg) in (
        ("registration of one X-ray", Effort.FIND, (10.0, 20.0, 6.0)),
        ("registration of the next X-ray", Effort.TRACK, (1.0, 1.0, 0.5)),
    ):
        start = case.start(rng, across_mm, depth_mm, turn_deg)
        counted = registration, case.counts, case.carm, start, case.pivot_mm, effort
        yield name, Figure.of(projector.alternating_ms({"": partial(register_counts, *counted)}, asked.runs)[""], "ms")


def _reconstruction(asked: Measurement) -> Measured:
    """A volume from four views that nobody has seen before."""
    patient, case = _case(asked)
    line = Projector(patient.volume, threads=asked.cores)
    views = []
    for number in range(_VIEWS):
        pose = g.pose_at(patient.volume.center_mm, _DISTANCE_MM, orbital_deg=10 + 180 * number / _VIEWS)
        counts = Chain(i0=_PHOTONS).expose(line.render(case.carm, pose), case.carm, np.random.default_rng(number))
        views.append(View(line_integrals(counts, _PHOTONS, _BINNING), case.carm.binned(_BINNING), pose))
    reconstructor = Reconstructor(Method.LEARNED, asked.cores)
    grid = Grid.around(patient.volume.center_mm, _VOXELS, _SPACING_MM)

    def cold() -> None:
        reconstructor.forget()
        reconstructor.reconstruct(tuple(views), grid)

    yield f"volume from {_VIEWS} views", Figure.of(projector.alternating_ms({"": cold}, asked.runs)[""], "ms")


def _loop(asked: Measurement) -> Measured:
    """The whole node in the virtual operating room."""
    both = [asked.latencies() for _ in range(asked.runs)]
    for name, index in (("X-ray to pose", 0), ("tool to overlay", 1)):
        for which in ("p50", "p99"):
            late_ms = [value for each in both if (value := getattr(each[index], which)) is not None]
            if late_ms:
                yield f"{name}, {which}", Figure.of(late_ms, "ms")


PARTS: dict[str, Callable[[Measurement], Measured]] = {
    "projector": _projector,
    "wire": _wire,
    "registration": _registration,
    "reconstruction": _reconstruction,
    "loop": _loop,
}
"""By name, in the order in which they run."""


def _case(asked: Measurement) -> tuple[Patient, Case]:
    volume = read_volume(asked.ct)
    patient = Patient(volume, Projector(volume, threads=asked.cores).render)
    return patient, patient.case(np.random.default_rng(0), _PHOTONS, Chain(i0=_PHOTONS), "AP")


def _beside(theirs_ms: Sequence[float], ours_ms: Sequence[float], peer: str) -> Figure:
    """How many times faster, repeat by repeat: what disturbs one disturbs the other."""
    return Figure.of([theirs / ours for theirs, ours in zip(theirs_ms, ours_ms, strict=True)], "times", peer)
