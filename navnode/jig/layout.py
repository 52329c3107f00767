"""Where a jig's beads are: its file, ``navnode/jig/1``, and the layout for a limb.

The frame ``jig``: origin in the middle of the limb's place, +z along the limb, +x to the plate beside it, +y to the
plate under it; right-handed. Each plate carries rows of beads along z. No two rows have the same spacings, forwards or
backwards, so that four beads of a row name it in a picture from any side; no two beads of a plate have the same z, so
that none hides another where the plate is seen edge-on.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files.strict import read_document
from navnode.files.whole import write_whole
from navnode.types import Matrix

__all__ = ["LEAST_BEADS", "Jig", "Part", "jig_for", "read_jig", "strains", "write_jig"]

SCHEMA = "navnode/jig/1"
LEAST_BEADS = 12
"""A jig with fewer beads is none."""
LIMB_MM, LENGTH_MM, BEAD_MM = (40.0, 300.0), (150.0, 400.0), (1.0, 4.0)
"""Least and greatest."""
PLATE_MM, GAP_MM = 5.0, 5.0
"""Thickness of the plates; free space between limb and plates."""
APART_MM = 7.4
"""Least distance along z of two beads of a plate, at the least length and 3 mm beads."""
_ROWS = 4
_PER_ROW = (5, 7)
_MARGIN_MM = 6.0
_ROW_SHARES = (-0.46, -0.19, 0.12, 0.46)
"""Where a plate's rows are, as shares of its width: unevenly, so that a plate is not symmetric."""
_TRIED = 300
_MOST_BEADS, _MOST_BYTES, _FARTHEST_MM = 400, 1 << 20, 1000.0
_MOST_STRAIN = 0.01
_ON_ROW_MM = 1.0


class _Bead(msgspec.Struct, frozen=True):
    id: str
    position_mm: tuple[float, float, float]


class Part(msgspec.Struct, frozen=True):
    """A part of the jig, to print or to buy."""

    name: str
    count: int
    note: str = ""
    file: str = ""
    """STL beside the jig's file, if it is printed."""


class _Document(msgspec.Struct, frozen=True):
    name: str
    diameter_mm: float
    beads: tuple[_Bead, ...]
    schema: str = ""
    limb_mm: float = 140.0
    length_mm: float = 240.0
    sigma_mm: float = 0.2
    measured: bool = False
    parts: tuple[Part, ...] = ()
    strain_covariance: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Jig:
    """A jig; positions are of the beads' middles, in the frame ``jig``."""

    name: str
    ids: tuple[str, ...]
    positions_mm: Matrix
    """(N, 3)"""
    diameter_mm: float
    limb_mm: float
    """Diameter of the largest limb that fits."""
    length_mm: float
    sigma_mm: float = 0.2
    """1-sigma of the beads' positions: of building, or of measuring the built one."""
    measured: bool = False
    """Whether the positions are those of the built jig."""
    parts: tuple[Part, ...] = ()
    strain_covariance: Matrix | None = None
    """(6, 6), see :func:`strains`: of how the measured beads are stretched and sheared together; None: nobody measured
    it. ``sigma_mm`` is of each bead by itself, beside that."""

    @cached_property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the beads of each row of at least 4, along the row: all straight lines with so many beads."""
        points, found = self.positions_mm, set()
        along = np.array([0.0, 0.0, 1.0])
        allowed = max(_ON_ROW_MM, 3 * self.sigma_mm)
        for first in range(len(points)):
            off = points - points[first]
            across = np.linalg.norm(off - np.outer(off @ along, along), axis=1)
            row = np.flatnonzero(across <= allowed)
            if len(row) >= 4:
                found.add(tuple(row[np.argsort(points[row, 2])].tolist()))
        return tuple(sorted(found))


def jig_for(
    limb_mm: float = 140.0, length_mm: float = 240.0, diameter_mm: float = 3.0, name: str = "", seed: int = 0
) -> Jig:
    """The layout for a limb.

    Args:
        limb_mm: diameter of the limb's thickest part.
        length_mm: of the plates, along the limb.
        diameter_mm: of the beads.
        seed: another one makes a jig that is not taken for this one.

    Raises:
        ConfigError: a value is out of range.
    """
    for key, value, (least, most) in (
        ("limb_mm", limb_mm, LIMB_MM),
        ("length_mm", length_mm, LENGTH_MM),
        ("diameter_mm", diameter_mm, BEAD_MM),
    ):
        if not least <= value <= most:
            raise ConfigError(f"{key} must be {least:g} to {most:g}")
    apart_mm = max(APART_MM, diameter_mm + 3.4)
    free_mm = length_mm - 2 * _MARGIN_MM
    per_row = int(min(free_mm / apart_mm // _ROWS, _PER_ROW[1]))
    if per_row < _PER_ROW[0]:
        raise ConfigError(f"length_mm {length_mm:g} is too short for beads of {diameter_mm:g} mm")
    rng = np.random.default_rng([seed, round(10 * limb_mm), round(10 * length_mm), round(10 * diameter_mm)])
    plates = max((_plates(rng, per_row, apart_mm, free_mm) for _ in range(_TRIED)), key=_difference)
    away_mm = limb_mm / 2 + GAP_MM + PLATE_MM - diameter_mm / 2
    width_mm = limb_mm + GAP_MM
    ids, positions = [], []
    for letter, rows in zip("US", plates, strict=True):
        for number, (share, row) in enumerate(zip(_ROW_SHARES, rows, strict=True)):
            across_mm = share * width_mm * (1 if letter == "U" else -1)
            for bead, z in enumerate(row):
                ids.append(f"{letter}{number + 1}{'abcdefg'[bead]}")
                positions.append((across_mm, away_mm, z) if letter == "U" else (away_mm, across_mm, z))
    name = name or f"limb-{limb_mm:g}-{length_mm:g}-{seed}"
    return Jig(name, tuple(ids), np.round(positions, 2), diameter_mm, limb_mm, length_mm)


def _plates(rng: np.random.Generator, per_row: int, apart_mm: float, free_mm: float) -> list[list[Matrix]]:
    """Positions along z of the beads of each row of two plates."""
    plates = []
    count = _ROWS * per_row
    for _ in range(2):
        spare = rng.random(count + 1)
        spare *= (free_mm - apart_mm * (count - 1)) / spare.sum()
        z = np.cumsum(spare[:-1]) + apart_mm * np.arange(count) - free_mm / 2
        row_of = np.concatenate([rng.permutation(_ROWS) for _ in range(per_row)])  # every row reaches from end to end
        plates.append([z[row_of == row] for row in range(_ROWS)])
    return plates


def _difference(plates: list[list[Matrix]]) -> float:
    """How different the rows are that are most alike, from either end."""
    codes = []
    for row in itertools.chain(*plates):
        gaps = np.diff(row) / (row[-1] - row[0])
        codes += [gaps, gaps[::-1]]
    return min(
        float(np.abs(a - b).max()) for (m, a), (n, b) in itertools.combinations(enumerate(codes), 2) if m // 2 != n // 2
    )


def read_jig(path: str | Path) -> Jig:
    """Read a jig, ``navnode/jig/1``.

    Raises:
        ConfigError: names the file and what is wrong.
    """
    path = Path(path)
    read = read_document(path, _Document, SCHEMA, _MOST_BYTES)
    if reason := _wrong(read):
        raise ConfigError(f"{path}: {reason}")
    positions = np.array([bead.position_mm for bead in read.beads])
    ids = tuple(bead.id for bead in read.beads)
    jig = Jig(
        read.name,
        ids,
        positions,
        read.diameter_mm,
        read.limb_mm,
        read.length_mm,
        read.sigma_mm,
        read.measured,
        read.parts,
        np.array(read.strain_covariance) if read.strain_covariance else None,
    )
    if len(jig.rows) < 2:
        raise ConfigError(f"{path}: beads: fewer than two rows of 4 along z; nothing names them in a picture")
    return jig


def _wrong(read: _Document) -> str:
    """What is wrong with the values, or ''."""
    for key, (least, most) in (("diameter_mm", BEAD_MM), ("limb_mm", LIMB_MM), ("length_mm", LENGTH_MM)):
        if not least <= getattr(read, key) <= most:
            return f"{key} must be {least:g} to {most:g}"
    if not 0 <= read.sigma_mm <= 5:
        return "sigma_mm must be 0 to 5"
    if read.strain_covariance and not _is_covariance(read.strain_covariance):
        return "strain_covariance must be 6 x 6, symmetric, and of strains below 1 %"
    if not LEAST_BEADS <= len(read.beads) <= _MOST_BEADS:
        return f"beads must be {LEAST_BEADS} to {_MOST_BEADS}"
    ids = [bead.id for bead in read.beads]
    if twice := next((each for each in ids if ids.count(each) > 1), None):
        return f"beads: the id {twice!r} occurs twice"
    positions = np.array([bead.position_mm for bead in read.beads])
    if not (np.isfinite(positions).all() and np.abs(positions).max() <= _FARTHEST_MM):
        return f"beads: position_mm must be within {_FARTHEST_MM:g} mm of the origin"
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=2) + 1e9 * np.eye(len(positions))
    first, second = np.unravel_index(int(apart.argmin()), apart.shape)
    if apart[first, second] < read.diameter_mm:
        return f"beads: {ids[first]} and {ids[second]} overlap"
    if np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)[-1] < 10 * np.sqrt(len(ids)):
        return "beads: all in about one plane; focal lengths need depth"
    return ""


def _is_covariance(rows: tuple[tuple[float, ...], ...]) -> bool:
    if [len(row) for row in rows] != [6] * 6:
        return False
    found = np.array(rows)
    if not np.isfinite(found).all() or not np.allclose(found, found.T, atol=1e-12):
        return False
    least, most = np.linalg.eigvalsh(found)[[0, -1]]
    return bool(least > -1e-12 and most < _MOST_STRAIN**2)


def strains(points_mm: Matrix) -> Matrix:
    """(3 N, 6): where points (N, 3) move, mm, when what they are in is stretched about their middle by 1 along x, y or
    z, or sheared by 1 in xy, xz or yz (symmetric: x moves by y and y by x)."""
    x, y, z = (points_mm - points_mm.mean(axis=0)).T
    none = np.zeros_like(x)
    moves = ((x, none, none), (none, y, none), (none, none, z), (y, x, none), (z, none, x), (none, z, y))
    return np.stack([np.stack(move, axis=1).ravel() for move in moves], axis=1)


def write_jig(path: Path, jig: Jig) -> None:
    """Write a jig, ``navnode/jig/1``.

    Raises:
        ConfigError: the file cannot be written.
    """
    beads = tuple(
        _Bead(name, (float(x), float(y), float(z)))
        for name, (x, y, z) in zip(jig.ids, np.round(jig.positions_mm, 4), strict=True)
    )
    document = _Document(
        name=jig.name,
        diameter_mm=jig.diameter_mm,
        beads=beads,
        schema=SCHEMA,
        limb_mm=jig.limb_mm,
        length_mm=jig.length_mm,
        sigma_mm=jig.sigma_mm,
        measured=jig.measured,
        parts=jig.parts,
        strain_covariance=() if jig.strain_covariance is None else tuple(map(tuple, jig.strain_covariance.tolist())),
    )
    write_whole(path, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
