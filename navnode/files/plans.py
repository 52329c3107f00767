"""Plans on disk (``navnode/plans/1``): they name the volume in which they were made."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files import markups
from navnode.files.strict import read_document
from navnode.files.whole import write_whole
from navnode.types import Matrix, Plan, Volume

__all__ = ["SCHEMA", "Kept", "import_plans", "read_plans", "write_plans"]

SCHEMA = "navnode/plans/1"
_MOST_BYTES = 1 << 20
_SAME_GRID_MM = 0.5
_COARSER = 2.0
"""Voxels of a coarser copy by which its box differs from the volume's at most."""

_Numbers = tuple[float, float, float]


class _Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    entry_mm: _Numbers
    target_mm: _Numbers


class _Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    size: tuple[int, int, int]
    ras_from_index: tuple[tuple[float, float, float, float], ...]
    fingerprint: str = ""
    """Of its voxels; '': unknown, of a file from before it was kept."""


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    volume: _Volume | None
    """In which the plans were made; null: without a CT, in the frame of a patient's marker."""
    plans: Annotated[tuple[_Plan, ...], msgspec.Meta(max_length=32)]
    active: str = ""


class Kept(msgspec.Struct, frozen=True):
    """What a file holds."""

    plans: tuple[Plan, ...]
    active: str


def read_plans(path: Path, volume: Volume | None, *, coarser: bool = False) -> Kept:
    """Read plans.

    Args:
        volume: in which they will be used.
        coarser: whether that may be a coarser copy of the one in which they were made.

    Raises:
        ConfigError: it is no such file, or they were made in another volume; names the file.
    """
    document = read_document(path, _Document, SCHEMA, _MOST_BYTES)
    made_in = document.volume
    if made_in is None and volume is not None:
        raise ConfigError(f"{path}: plans made without a CT: nothing says where they lie in one")
    if made_in is not None and volume is not None and made_in.ras_from_index:
        size, rows = volume.voxels.shape[::-1], np.array(made_in.ras_from_index)
        if rows.shape != (4, 4) or (made_in.size != size and not coarser):
            raise ConfigError(f"{path}: plans made in another volume ({made_in.name}, {_by(made_in.size)} voxels)")
        off_mm = float(np.abs(_corners_mm(rows, made_in.size) - _corners_mm(volume.volume_from_index, size)).max())
        if not off_mm <= (_SAME_GRID_MM if made_in.size == size else _COARSER * max(volume.spacing_mm)):
            raise ConfigError(f"{path}: plans made in another volume ({made_in.name} lies {off_mm:.0f} mm beside it)")
        if made_in.fingerprint and not coarser and made_in.fingerprint != _fingerprint(volume):
            raise ConfigError(f"{path}: plans made in another volume ({made_in.name}, of the same place and size)")
    return Kept(tuple(Plan(each.name, each.entry_mm, each.target_mm) for each in document.plans), document.active)


def _corners_mm(ras_from_index: Matrix, size: tuple[int, ...]) -> Matrix:
    """(3, 8), of a box of voxels with its edges."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in size], [1])).reshape(4, -1)
    return np.asarray((ras_from_index @ corners)[:3])


def import_plans(path: Path, volume: Volume | None = None, *, coarser: bool = False) -> Kept:
    """Read plans of another program: every line of Slicer's markups, or two points, entry first unless they are named
    ``entry`` and ``target``; or our own.

    Args:
        volume: in which they will be used, as far as the file says in which they were made.
        coarser: as for :func:`read_plans`.

    Raises:
        ConfigError: it holds no plan, or was made in another volume; names the file.
    """
    if not path.name.lower().endswith(".mrk.json"):
        return read_plans(path, volume, coarser=coarser)
    found = markups.read(path)
    drawn = [each for each in found if each.kind == "Line"] or found
    stem = path.name[: -len(".mrk.json")]
    names = [stem if len(drawn) == 1 else f"{stem} {n + 1}" for n in range(len(drawn))]
    return Kept(tuple(_path_of(each, name, path) for each, name in zip(drawn, names, strict=True)), "")


def _path_of(markup: markups.Markup, name: str, path: Path) -> Plan:
    if markup.left_out or len(markup.points_mm) != 2:
        placed, all_points = len(markup.points_mm), len(markup.points_mm) + markup.left_out
        raise ConfigError(f"{path}: a plan has an entry and a target; this {markup.kind} has {placed} of {all_points}")
    by_label = {label.strip().lower(): at for label, at in markup.points_mm}
    ends = [at for _, at in markup.points_mm]
    if set(by_label) == {"entry", "target"}:
        ends = [by_label["entry"], by_label["target"]]
    entry, target = ((float(at[0]), float(at[1]), float(at[2])) for at in ends)
    return Plan(name, entry, target)


def write_plans(path: Path, plans: tuple[Plan, ...], active: str, volume: Volume | None) -> None:
    """Write plans, completely or not at all, over what the file held before.

    Raises:
        ConfigError: it cannot be written.
    """
    made_in = None
    if volume is not None:
        rows = volume.volume_from_index.tolist()
        size = volume.voxels.shape[::-1]
        place = tuple(tuple(row) for row in rows)
        made_in = _Volume(volume.name, (size[0], size[1], size[2]), place, _fingerprint(volume))
    kept = tuple(_Plan(plan.name, plan.entry_mm, plan.target_mm) for plan in plans)
    document = msgspec.json.encode(_Document(SCHEMA, made_in, kept, active))
    write_whole(path, msgspec.json.format(document) + b"\n")


def _fingerprint(volume: Volume) -> str:
    """Tells CTs of one grid apart: a hash of HU, every fourth voxel along each side."""
    some = np.nan_to_num(volume.voxels[::4, ::4, ::4])
    some = np.round(np.clip(some, -32_768, 32_767)).astype("<i2")
    return hashlib.blake2b(some.tobytes(), digest_size=16).hexdigest()


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
