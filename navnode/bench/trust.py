"""Traps: X-rays and starts that must not end in VALID and wrong; how often they do, with the bound that can be claimed.

Every trap is one X-ray registered by itself, before frames have to agree and the tracker has its say: the first gate.
It is drawn from its number alone: an interrupted run resumes, and everybody's run is the same.

A principal point or pixel size that is not what is said looks, in one X-ray, like a patient elsewhere: that kind is
counted like the others, although only a second direction can show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.bench import rtk
from navnode.bench.cases import Case, Patient
from navnode.bench.registration import Rate, rate
from navnode.errors import ConfigError
from navnode.files.volumes import read_volume
from navnode.projector.grids import AIR_HU
from navnode.registration import ImageRegistration, register_counts
from navnode.types import Array, CArm, Effort, FloatArray, Matrix, Progress, Status, Volume

__all__ = ["RIGHT", "TRAPS", "Trap", "Trapped", "TrustReport", "run", "summary"]

_WRONG_MM = 5.0
"""Off at the targets, in any direction but depth, which one X-ray cannot show; that twice as much and more."""
_WRONG_DEPTH_MM = 20.0
_DOSES = (1_000.0, 60_000.0)
"""Photons per open-beam pixel, from a pulse of low-dose fluoroscopy to a single exposure; any between are as likely, by
their logarithm."""
RIGHT = "right"
"""Not a trap: it must be VALID."""


class Trapped(msgspec.Struct, frozen=True):
    """What one trap came to."""

    number: int
    kind: str
    ct: str
    status: str
    reason: str
    lateral_mm: float | None
    """None where nothing could be right."""
    depth_mm: float | None

    @property
    def wrong(self) -> bool:
        """Whether the pose must not be used."""
        if self.lateral_mm is None or self.depth_mm is None:
            return True
        return self.lateral_mm > _WRONG_MM or self.depth_mm > _WRONG_DEPTH_MM

    @property
    def valid(self) -> bool:
        """Whether the trap was taken for a good X-ray."""
        return self.status == Status.VALID


class TrustReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far VALID can be trusted."""

    traps: int
    false_accepts: Rate
    """VALID and wrong, of all traps; ``high`` is the bound that holds with 95 %."""
    by_kind: dict[str, Rate]
    false_refusals: Rate
    """Right, but not VALID, of X-rays that are no traps and were registered rightly."""
    unregistered: Rate
    """Of X-rays that are no traps: not registered rightly, and said so."""
    accepted: list[Trapped]
    """The false accepts, to be looked at."""


def _dose(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(_DOSES))))


Trap = Callable[["_Stage", np.random.Generator], tuple[Array, CArm, Matrix, Case | None]]
"""Counts, the C-arm they are said to be of, where to start, and the case with the truth; None: nothing can be right."""


class _Stage:
    """One patient, and what traps are made of."""

    def __init__(self, name: str, volume: Volume, others: Sequence[Volume], threads: int | None) -> None:
        self.name = name
        self.patient = Patient(volume, rtk.RtkProjector(volume, threads).render)
        self.registration = ImageRegistration(volume, threads)
        self._others, self._threads = others, threads
        self._other_patients: dict[int, Patient] = {}
        self._halves: tuple[rtk.RtkProjector, rtk.RtkProjector] | None = None

    def case(self, rng: np.random.Generator, station: str = "") -> Case:
        return self.patient.case(rng, _dose(rng), station=station)

    def other(self, rng: np.random.Generator) -> Patient | None:
        """Another patient; None: there is none."""
        if not self._others:
            return None
        number = int(rng.integers(len(self._others)))
        if number not in self._other_patients:
            volume = self._others[number]
            self._other_patients = {number: Patient(volume, rtk.RtkProjector(volume, self._threads).render)}
        return self._other_patients[number]

    def parted(self, carm: CArm, volume_from_carm: Matrix, upper_from_lower: Matrix) -> FloatArray:
        """Line integrals of the patient, whose upper half has moved."""
        if self._halves is None:
            volume = self.patient.volume
            half = volume.voxels.shape[0] // 2
            lower, upper = volume.voxels.copy(), volume.voxels.copy()
            lower[half:], upper[:half] = AIR_HU, AIR_HU
            parts = (Volume(voxels, volume.volume_from_index, volume.name) for voxels in (lower, upper))
            below, above = (rtk.RtkProjector(part, self._threads) for part in parts)
            self._halves = below, above
        below, above = self._halves
        return below.render(carm, volume_from_carm) + above.render(carm, upper_from_lower @ volume_from_carm)


def _right(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    case = stage.case(rng)
    return case.counts, case.carm, case.start(rng, 10, 20, 6), case


def _neighbouring_level(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    """Started a vertebra too high or too low."""
    case = stage.case(rng)
    along = np.array([0.0, 0.0, float(rng.choice([-1, 1]) * rng.uniform(22, 45))])
    return case.counts, case.carm, g.rigid(None, tuple(along)) @ case.volume_from_carm, case


def _mirrored(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    case = stage.case(rng)
    return np.ascontiguousarray(case.counts[:, ::-1]), case.carm, case.start(rng, 10, 20, 6), None


def _turned(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    case = stage.case(rng)
    turned = np.ascontiguousarray(np.rot90(case.counts, int(rng.integers(1, 4))))
    return turned, case.carm, case.start(rng, 10, 20, 6), None


def _other_patient(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    other = stage.other(rng)
    if other is None:
        return _mirrored(stage, rng)
    shown, own = other.case(rng, _dose(rng)), stage.case(rng)
    return shown.counts, shown.carm, own.start(rng, 10, 20, 6), None


def _other_direction(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    """Two views exchanged: AP for lateral."""
    case, other = stage.case(rng, "AP"), stage.case(rng, "lateral")
    return case.counts, case.carm, other.start(rng, 10, 20, 6), case


def _wrong_geometry(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    """Another mode of the detector, or another C-arm: pixels or the principal point are not what is said."""
    case = stage.case(rng)
    carm = case.carm
    if rng.random() < 0.5:
        share = float(rng.choice([0.75, 0.85, 1.2, 1.35]))
        carm = replace(carm, pixel_spacing_mm=(carm.pixel_spacing_mm[0] * share, carm.pixel_spacing_mm[1] * share))
    else:
        u, v = (float(rng.choice([-1, 1]) * rng.uniform(30, 80)) for _ in range(2))
        carm = replace(carm, principal_point_px=(carm.principal_point_px[0] + u, carm.principal_point_px[1] + v))
    return case.counts, carm, case.start(rng, 5, 10, 3), case


def _blurred(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    """The C-arm moved by 10 to 30 mm during the exposure; right is what stood there in the middle of it."""
    case = stage.case(rng)
    way = float(rng.uniform(10, 30)) * g.rotation_exp(np.array([0, 0, rng.uniform(0, 2 * np.pi)]))[:, 0]
    lines = [
        stage.patient.exposed(
            case.volume_from_carm @ g.rigid(None, tuple(way * at)), case.carm, case.pivot_mm, case.chain, rng
        ).counts.astype(np.float64)
        for at in np.linspace(-0.5, 0.5, 5)
    ]
    return np.mean(lines, axis=0).astype(np.uint16), case.carm, case.start(rng, 10, 20, 6), case


def _moved_bone(stage: _Stage, rng: np.random.Generator) -> tuple[Array, CArm, Matrix, Case | None]:
    """The upper half of the body moved by 8 to 25 mm against the lower one since the CT was taken."""
    case = stage.case(rng)
    shift = rng.normal(size=3)
    shift *= rng.uniform(8, 25) / np.linalg.norm(shift)
    turn = rng.normal(0, np.deg2rad(4), 3)
    moved = g.exp(np.concatenate([turn, shift]), stage.patient.isocentre_mm)
    line = stage.parted(case.carm, case.volume_from_carm, moved)
    return case.chain.expose(line, case.carm, rng), case.carm, case.start(rng, 10, 20, 6), None


TRAPS: dict[str, Trap] = {
    RIGHT: _right,
    "neighbouring level": _neighbouring_level,
    "mirrored": _mirrored,
    "turned": _turned,
    "another patient": _other_patient,
    "another direction": _other_direction,
    "wrong geometry": _wrong_geometry,
    "moved during the exposure": _blurred,
    "moved bone": _moved_bone,
}


def run(
    cts: Sequence[Path], traps: int, out: Path | None, threads: int | None, progress: Progress = lambda share: None
) -> TrustReport:
    """Set traps, each kind in turn, on each CT in turn.

    Args:
        traps: how many in all, those of earlier runs included.
        out: a file of rows to go on with; None: nothing is kept.

    Raises:
        ConfigError: RTK is not installed, or a CT cannot be used.
    """
    if not rtk.available():
        raise ConfigError("the X-rays are rendered by RTK: pip install 'navnode[bench]'")
    rows = {row.number: row for row in (_read(out) if out is not None and out.exists() else ())}
    volumes = {path.name.split(".")[0]: read_volume(path) for path in cts}
    missing = [number for number in range(traps) if number not in rows]
    names, kinds = list(volumes), list(TRAPS)
    for position, name in enumerate(names):  # one CT after the other: preparing one takes seconds
        mine = [number for number in missing if number // len(kinds) % len(names) == position]
        if not mine:
            continue
        others = [volume for other, volume in volumes.items() if other != name]
        stage = _Stage(name, volumes[name], others, threads)
        for number in mine:
            rows[number] = row = _set(stage, number, kinds[number % len(kinds)])
            if out is not None:
                with out.open("ab") as file:
                    file.write(msgspec.json.encode(row) + b"\n")
            progress(len(rows) / traps)
    return summary([rows[number] for number in sorted(rows) if number < traps])


def _set(stage: _Stage, number: int, kind: str) -> Trapped:
    rng = np.random.default_rng((number, len(stage.name)))
    counts, carm, start, truth = TRAPS[kind](stage, rng)
    pivot_mm = truth.pivot_mm if truth is not None else 700.0
    found = register_counts(stage.registration, counts, carm, start, pivot_mm, Effort.FIND)
    errors = truth.errors_mm(found.volume_from_carm) if truth is not None else None
    return Trapped(
        number,
        kind,
        stage.name,
        found.validity.status.value,
        found.validity.reason,
        None if errors is None else round(errors.lateral, 3),
        None if errors is None else round(errors.depth, 3),
    )


def summary(rows: Sequence[Trapped]) -> TrustReport:
    """What the rows come to."""
    traps = [row for row in rows if row.kind != RIGHT]
    accepted = [row for row in traps if row.valid and row.wrong]
    controls = [row for row in rows if row.kind == RIGHT]
    right = [row for row in controls if not row.wrong]
    by_kind = {
        kind: rate(sum(row.kind == kind for row in accepted), sum(row.kind == kind for row in traps))
        for kind in TRAPS
        if kind != RIGHT
    }
    accepted += [row for row in controls if row.valid and row.wrong]
    return TrustReport(
        traps=len(traps),
        false_accepts=rate(len(accepted), len(rows)),
        by_kind=by_kind,
        false_refusals=rate(sum(not row.valid for row in right), len(right)),
        unregistered=rate(sum(row.wrong and not row.valid for row in controls), len(controls)),
        accepted=accepted,
    )


def _read(out: Path) -> Iterator[Trapped]:
    """The rows of an earlier run; a last one that was torn is cut off, so that what follows is not appended to it."""
    try:
        content = out.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            out.write_bytes(whole)
        for line in whole.splitlines():
            yield msgspec.json.decode(line, type=Trapped)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{out}: not the rows of an earlier run ({error})") from error
