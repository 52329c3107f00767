"""Spots of a picture that may be beads of a jig, as they look and as a person corrects them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from navnode.errors import ConfigError
from navnode.files.strict import read_document
from navnode.jig.layout import Jig
from navnode.types import Array, FloatArray, Matrix
from navnode.xray.beads import Shot

__all__ = ["NONE_CORRECTED", "SCHEMA", "Corrected", "PictureCorrected", "read_corrected", "spots_px"]

SCHEMA = "navnode/beads/1"
_FIELD_MM = (90.0, 480.0)
"""The picture's larger side, at the jig."""
_MOST_SPOTS = 140
_BINNED_ABOVE_PX = 1800
_MOST_PLACES, _FARTHEST_PX, _MOST_BYTES = 400, 1e5, 1 << 20


@dataclass(frozen=True)
class Corrected:
    """What a person says of a picture's spots."""

    beads_px: tuple[tuple[float, float], ...] = ()
    """u, v of beads that are to be used; which beads they are, the jig's geometry says."""
    no_beads_px: tuple[tuple[float, float], ...] = ()
    """u, v of what is no bead."""


NONE_CORRECTED = Corrected()


class PictureCorrected(msgspec.Struct, frozen=True):
    """What a person says of one picture of several, in their order from 1."""

    picture: int
    beads_px: tuple[tuple[float, float], ...] = ()
    no_beads_px: tuple[tuple[float, float], ...] = ()


class _Document(msgspec.Struct, frozen=True):
    pictures: tuple[PictureCorrected, ...]
    schema: str = ""


def read_corrected(path: Path, pictures: int) -> list[Corrected]:
    """Read corrections of so many pictures, ``navnode/beads/1``; those that are not in it have none.

    Raises:
        ConfigError: names the file and what is wrong.
    """
    found = [NONE_CORRECTED] * pictures
    for each in read_document(path, _Document, SCHEMA, _MOST_BYTES).pictures:
        if not 1 <= each.picture <= pictures:
            raise ConfigError(f"{path}: picture {each.picture} is not one of {pictures}")
        if found[each.picture - 1] is not NONE_CORRECTED:
            raise ConfigError(f"{path}: picture {each.picture} occurs twice")
        places = np.array([*each.beads_px, *each.no_beads_px]).reshape(-1, 2)
        if len(places) > _MOST_PLACES or not (np.abs(places) <= _FARTHEST_PX).all():
            raise ConfigError(f"{path}: picture {each.picture}: more than {_MOST_PLACES} places, or one far outside")
        found[each.picture - 1] = Corrected(each.beads_px, each.no_beads_px)
    return found


def spots_px(counts: Array, jig: Jig, corrected: Corrected = NONE_CORRECTED) -> Matrix:
    """Where a picture (H, W) may have beads: (N, 2) u, v, what a person names first, then the likeliest."""
    factor = int(np.ceil(max(counts.shape) / _BINNED_ABOVE_PX))
    small = _binned(np.asarray(counts, np.float32), factor)
    radii_px = _radii_px(jig, max(small.shape))
    shot = Shot(small, radii_px)
    spots = shot.spots()
    best = np.argsort(-spots.alike * np.sqrt(np.maximum(spots.depth, 1e-3)))[:_MOST_SPOTS]
    at_px = spots.at_px[best]
    within_px = 1.5 * (float(np.median(spots.radius_px[best])) if len(best) else radii_px[1])
    named_px = _on_beads(shot, (_places(corrected.beads_px) - (factor - 1) / 2) / factor, within_px)
    removed_px = (_places(corrected.no_beads_px) - (factor - 1) / 2) / factor
    at_px = _without(_without(at_px, removed_px, within_px), named_px, within_px)
    return np.asarray(np.concatenate([named_px, at_px]) * factor + (factor - 1) / 2)


def _binned(counts: FloatArray, factor: int) -> FloatArray:
    if factor == 1:
        return counts
    height, width = (side // factor for side in counts.shape)
    whole = counts[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _radii_px(jig: Jig, side_px: float) -> tuple[float, float]:
    """Least and greatest radius of a bead's shadow."""
    radius_mm = jig.diameter_mm / 2
    return radius_mm * side_px / _FIELD_MM[1], radius_mm * side_px / _FIELD_MM[0]


def _places(places_px: tuple[tuple[float, float], ...]) -> Matrix:
    return np.array(places_px, np.float64).reshape(-1, 2)


def _on_beads(shot: Shot, near_px: Matrix, within_px: float) -> Matrix:
    """A person points near beads; the middle is where the picture has it, or else where he pointed."""
    found = near_px.copy()
    for n, near in enumerate(near_px):
        for radius in np.geomspace(*shot.radii_px, 5):
            (spot,) = shot.at(near[None], np.array([radius]), within_px)
            if np.isfinite(spot[0]):
                found[n] = spot[:2]
                break
    return found


def _without(at_px: Matrix, those_px: Matrix, within_px: float) -> Matrix:
    """Spots that are not near any of those."""
    if not len(those_px) or not len(at_px):
        return at_px
    apart = np.linalg.norm(at_px[:, None] - those_px[None], axis=2)
    return np.asarray(at_px[apart.min(axis=1) > within_px])
