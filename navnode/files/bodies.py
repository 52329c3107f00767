"""Bodies on disk: a CT with a label map, or a list of volumes, each of which holds one bone."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files import nrrd, segments
from navnode.files.ordinary import refuse_special
from navnode.files.placing import AS_STATED, tell
from navnode.files.volumes import checked_ct, read_numbers
from navnode.geometry import is_rigid, orthonormal
from navnode.types import Array, Matrix, Volume

__all__ = ["BodyFile", "labelled", "read_bodies", "read_bone", "read_labels", "read_map", "write_list"]

_LIST = ".toml"
_MOST = 64
_MOST_LIST_BYTES = 1 << 20
_SAME_GRID_MM = 0.5
_FEWEST_VOXELS = 60
_RAW_PADDING, _RAW_MOST, _RAW_ZERO = 0.2, 4_200.0, 1024.0
"""Numbers without a scale: at least this share of 0 (nothing there), the largest number, the number of water."""
_AIR_HU = -1000.0
_REFERENCE = "Segmentation_ReferenceImageExtentOffset"
_SEGMENT = re.compile(r"Segment(\d{1,6})_LabelValue")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    file: str = ""
    label: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    labels: str = ""
    volume_from_body: tuple[tuple[float, float, float, float], ...] | None = None
    meets: tuple[Annotated[str, msgspec.Meta(max_length=64)], ...] = ()


class _List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bodies: Annotated[tuple[_Entry, ...], msgspec.Meta(min_length=1, max_length=_MOST)]


@dataclass(frozen=True)
class BodyFile:
    """One body of a file."""

    name: str
    volume: Volume
    """HU."""
    label: Array | None
    """bool, (k, j, i), what belongs to it; None: all of the volume."""
    start: Matrix | None
    """``volume_from_body`` to start from, 4x4; None: anywhere."""
    number: int = 0
    """Of its label in the map; 0: it has a file of its own."""
    meets: tuple[str, ...] = ()
    """Names of bodies of the same CT that it meets at a joint."""

    @property
    def voxels(self) -> int:
        """How many belong to it."""
        return int(self.label.sum()) if self.label is not None else int((self.volume.voxels > _AIR_HU).sum())


def read_bodies(path: Path, ct: Volume | None = None) -> list[BodyFile]:
    """Read the bodies that a file names.

    Args:
        path: a list of bodies (TOML, tables ``[[bodies]]``: name; ``file`` of its own, or a ``label`` of the map
            ``labels`` of the CT; ``volume_from_body``; ``meets``), a label map of the CT, or one volume with one bone.
        ct: HU.

    Raises:
        ConfigError: names the file and the key.
    """
    refuse_special(path)
    if path.suffix.lower() == _LIST:
        return _listed(path, ct)
    if ct is None:
        return [BodyFile(_stem(path), read_bone(path), None, None)]
    return labelled(path, ct)


def labelled(path: Path, ct: Volume) -> list[BodyFile]:
    """All labels of a map of a CT, by their names where it has some; they start where the CT lies.

    Raises:
        ConfigError: it is no map of that CT, or empty.
    """
    numbers, names = read_map(path, ct)
    found, counts = np.unique(numbers, return_counts=True)
    large = [int(label) for label, count in zip(found, counts, strict=True) if label > 0 and count >= _FEWEST_VOXELS]
    if not large:
        raise ConfigError(f"{path}: no label has more than {_FEWEST_VOXELS} voxels")
    if len(large) > _MOST:
        raise ConfigError(f"{path}: {len(large)} labels; a list of bodies (.toml) chooses some (at most {_MOST})")
    if small := [str(int(label)) for label in found if label > 0 and int(label) not in large]:
        tell(path, f"labels with fewer than {_FEWEST_VOXELS} voxels are left out ({', '.join(small[:6])})")
    shown = {label: " ".join(names.get(label, "").split())[:64] for label in large}
    plain = [name for name in shown.values() if name]
    called = {
        label: name if name and plain.count(name) == 1 else f"{name or 'label'}-{label}"[-64:]
        for label, name in shown.items()
    }
    return [BodyFile(called[label], ct, numbers == label, np.eye(4), label) for label in large]


def read_labels(wanted: Sequence[tuple[Path, int]], ct: Volume) -> list[Array]:
    """Labels of maps of a CT, bool, (k, j, i), by path and number; every map is read once.

    Raises:
        ConfigError: one is no map of that CT, or hardly has the label.
    """
    maps: dict[Path, Array] = {}
    found = []
    for path, number in wanted:
        if path not in maps:
            refuse_special(path)
            maps[path], _ = read_map(path, ct)
        label = maps[path] == number
        if label.sum() < _FEWEST_VOXELS:
            raise ConfigError(f"{path.name} has hardly any voxel of label {number}")
        found.append(np.asarray(label))
    return found


def read_bone(path: Path) -> Volume:
    """A volume with one bone, HU; numbers without a scale and 0 outside are shifted.

    Raises:
        ConfigError: as :func:`volumes.read_volume`.
    """
    raw = read_numbers(path)
    outside = raw.voxels == 0
    if raw.voxels.min() >= 0 and raw.voxels.max() <= _RAW_MOST and outside.mean() >= _RAW_PADDING:
        tell(path, f"numbers without a scale, 0 outside the bone: taken as HU + {_RAW_ZERO:.0f}")
        shifted = np.where(outside, _AIR_HU, raw.voxels - _RAW_ZERO).astype(np.float32)
        return Volume(shifted, raw.volume_from_index, raw.name)
    return checked_ct(raw, path)


def write_list(path: Path, labels: Path, bodies: list[BodyFile]) -> None:
    """Write a list of the labels of a map, to be edited.

    Raises:
        ConfigError: it cannot be written.
    """
    lines = [f"# Bodies of {labels.name}: name them, and remove those that are not wanted."]
    for body in bodies:
        lines += [
            "",
            "[[bodies]]",
            f"name = {json.dumps(body.name, ensure_ascii=False)}",
            f"labels = {json.dumps(labels.resolve().as_posix())}",
        ]
        lines.append(f"label = {body.number}")
    try:
        path.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _listed(path: Path, ct: Volume | None) -> list[BodyFile]:
    entries = _entries(path)
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: bodies: the name {twice[0]!r} occurs twice")
    bodies = []
    for index, entry in enumerate(entries):
        where = f"{path}: bodies[{index}]"
        start = _start(entry, where)
        if bool(entry.file) == bool(entry.labels):
            raise ConfigError(f"{where}: either file, or labels and label")
        if entry.file:
            if entry.label is not None:
                raise ConfigError(f"{where}: label belongs to labels, not to file")
            if entry.meets:
                raise ConfigError(f"{where}: meets belongs to labels, whose CT shows the joint")
            bodies.append(BodyFile(entry.name, read_bone(path.parent / entry.file), None, start))
            continue
        if entry.label is None:
            raise ConfigError(f"{where}: label is missing")
        if ct is None:
            raise ConfigError(f"{where}: labels need their CT (--volume)")
        bodies.append(BodyFile(entry.name, ct, None, np.eye(4) if start is None else start, meets=entry.meets))
    if ct is None:
        return bodies
    labelled = [index for index, entry in enumerate(entries) if entry.labels]
    wanted = [(path.parent / entries[index].labels, entries[index].label or 0) for index in labelled]
    for index, each in zip(labelled, wanted, strict=True):
        if (first := labelled[wanted.index(each)]) != index:
            same = f"{entries[first].name!r} and {entries[index].name!r}"
            raise ConfigError(f"{path}: bodies: {same} are the same label, {each[1]} of {each[0].name}")
    for index, label in zip(labelled, read_labels(wanted, ct), strict=True):
        bodies[index] = replace(bodies[index], label=label, number=entries[index].label or 0)
    return bodies


def _entries(path: Path) -> tuple[_Entry, ...]:
    try:
        if path.stat().st_size > _MOST_LIST_BYTES:
            raise ConfigError(f"{path}: too large for a list of bodies")
        data: Any = tomllib.loads(path.read_text())
        return msgspec.convert(data, _List).bodies
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _start(entry: _Entry, where: str) -> Matrix | None:
    if entry.volume_from_body is None:
        return None
    start = np.array(entry.volume_from_body)
    if not is_rigid(start):
        raise ConfigError(f"{where}: volume_from_body is not a rigid transform (4 rows of 4; rotation, mm)")
    return orthonormal(start)


def read_map(path: Path, ct: Volume) -> tuple[Array, dict[int, str]]:
    """Labels (k, j, i) on a CT's grid, and the names that a DICOM segmentation or Slicer's ``.seg.nrrd`` gives them.

    Raises:
        ConfigError: it is no map of that CT.
    """
    if segments.is_segmentation(path):
        return segments.read_segmentation(path, ct)
    names, in_part = _names_of(path)
    labels = read_numbers(path, AS_STATED)
    whole = np.round(labels.voxels)
    if labels.voxels.min() < 0 or np.abs(labels.voxels - whole).max() > 1e-3:
        raise ConfigError(f"{path}: not a label map (its numbers are not whole, or negative)")
    return _on_grid(whole.astype(np.int32), labels.volume_from_index, ct, path, in_part=in_part), names


def _on_grid(labels: Array, volume_from_index: Matrix, ct: Volume, path: Path, *, in_part: bool) -> Array:
    """Labels (k, j, i) on a CT's grid, if they are stored for its voxels, in any order of axes and to either side, as
    programs turn the volumes that they convert.

    Args:
        in_part: they may be those of a box within the CT.

    Raises:
        ConfigError: they are for other voxels.
    """
    ct_from_label = np.linalg.inv(ct.volume_from_index) @ volume_from_index
    steps = np.eye(4)
    steps[:3] = np.rint(ct_from_label[:3])
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in labels.shape[::-1]], [1])).reshape(4, -1)
    off_mm = np.abs(ct.volume_from_index @ (ct_from_label - steps) @ corners).max()
    axes = np.abs(steps[:3, :3])
    places = (steps @ corners)[:3]
    first = places.min(axis=1).astype(int)[::-1]
    after = places.max(axis=1).astype(int)[::-1] + 1
    one_each = (axes.sum(axis=0) == 1).all() and (axes.sum(axis=1) == 1).all()
    fewer = labels.size < ct.voxels.size
    if (
        not one_each
        or (fewer and not in_part)
        or off_mm > _SAME_GRID_MM
        or (first < 0).any()
        or (after > ct.voxels.shape).any()
    ):
        sizes = " and ".join(" x ".join(map(str, shape[::-1])) for shape in (labels.shape, ct.voxels.shape))
        apart_mm = np.abs((volume_from_index - ct.volume_from_index) @ corners).max()
        why = f"{sizes} voxels" if labels.shape != ct.voxels.shape else f"it lies {apart_mm:.1f} mm beside it"
        raise ConfigError(f"{path}: not a label map of {ct.name or 'the CT'} ({why})")
    turned = labels.transpose([2 - int(np.argmax(axes[axis])) for axis in (2, 1, 0)])
    turned = np.flip(turned, tuple(2 - axis for axis in range(3) if steps[axis, :3].sum() < 0))
    if not fewer:
        return np.ascontiguousarray(turned)
    tell(path, f"states labels for {' x '.join(map(str, turned.shape[::-1]))} voxels of the CT; the others have none")
    found = np.zeros(ct.voxels.shape, np.int32)
    found[tuple(slice(a, b) for a, b in zip(first, after, strict=True))] = turned
    return found


def _names_of(path: Path) -> tuple[dict[int, str], bool]:
    """Label -> name, and whether a part of an image may be stored, as Slicer states them; empty for other files.

    Raises:
        ConfigError: the file has several layers, or two names for a label.
    """
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return {}, False
    image = nrrd.open_image(path)
    fields = image.fields
    if len(image.sizes) > 3 and any(map(_SEGMENT.fullmatch, fields)):
        raise ConfigError(f"{path}: its segments are in several layers: they overlap, which label maps cannot say")
    found: dict[int, str] = {}
    for key, value in fields.items():
        if (match := _SEGMENT.fullmatch(key)) and value.isdigit():
            name = fields.get(f"Segment{match[1]}_Name", "")
            if found.setdefault(int(value), name) != name:
                raise ConfigError(f"{path}: label {value} has two names")
    return found, _REFERENCE in fields


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
