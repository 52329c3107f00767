"""Names of the landmarks of long bones, and their files: markups of 3D Slicer, so that they can be moved and read
again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files import markups
from navnode.files.whole import write_whole
from navnode.types import Matrix

__all__ = ["LANDMARKS", "Landmarks", "moved", "write"]

LANDMARKS = {
    "femur": (
        "head centre",
        "neck centre",
        "shaft upper",
        "shaft lower",
        "medial condyle distal",
        "lateral condyle distal",
        "medial condyle posterior",
        "lateral condyle posterior",
        "condyle 1 distal",
        "condyle 2 distal",
        "condyle 1 posterior",
        "condyle 2 posterior",
    ),
    "tibia": (
        "medial plateau",
        "lateral plateau",
        "plateau 1",
        "plateau 2",
        "shaft upper",
        "shaft lower",
        "ankle centre",
        "medial malleolus",
    ),
    "fibula": ("head", "shaft upper", "shaft lower", "lateral malleolus"),
}
"""Those of each kind of bone; 1 and 2 where medial and lateral cannot be told apart."""

Landmarks = dict[str, Matrix]
"""Positions (3,), RAS mm, by name."""


def write(found: Mapping[str, Landmarks], path: Path) -> None:
    """Write landmarks as one list of points for 3D Slicer, labelled ``bone: landmark``.

    Raises:
        ConfigError: it cannot be written.
    """
    points = [
        {"id": str(n), "label": label, "position": at.round(3).tolist(), "positionStatus": "defined"}
        for n, (label, at) in enumerate(_labelled(found), 1)
    ]
    document = {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        "markups-schema-v1.0.3.json#",
        "markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "coordinateUnits": "mm", "controlPoints": points}],
    }
    write_whole(path, msgspec.json.format(msgspec.json.encode(document), indent=1))


def moved(found: Mapping[str, Landmarks], kinds: Mapping[str, str], path: Path) -> tuple[dict[str, Landmarks], int]:
    """Landmarks as a person placed them; those that the file lacks stay where they are.

    Args:
        kinds: kind of every bone.

    Returns:
        All landmarks, and how many were placed by the file elsewhere than where they were proposed.

    Raises:
        ConfigError: the file is none of markups, or a label is not ``bone: landmark`` of a bone that was found.
    """
    placed = {name: dict(own) for name, own in found.items()}
    changed, seen = 0, set()
    for label, at in (point for markup in markups.read(path) for point in markup.points_mm):
        name, _, landmark = (part.strip() for part in label.partition(":"))
        if landmark not in LANDMARKS.get(kinds.get(name, ""), ()):
            known = ", ".join(f"'{bone}: {each}'" for bone in placed for each in LANDMARKS[kinds[bone]])
            raise ConfigError(f"{path}: {label!r} is no landmark of this model; it has {known or 'none'}")
        if label in seen:
            raise ConfigError(f"{path}: {label!r} is there twice")
        seen.add(label)
        before = placed.setdefault(name, {}).get(landmark)
        changed += before is None or bool(np.linalg.norm(before - at) > 0.01)
        placed[name][landmark] = at
    return placed, changed


def _labelled(found: Mapping[str, Landmarks]) -> Iterator[tuple[str, Matrix]]:
    for name, landmarks in found.items():
        for landmark, at in landmarks.items():
            yield f"{name}: {landmark}", at
