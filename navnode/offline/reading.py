"""One X-ray, read: what the node takes for bone in it, as figures and as a picture."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from navnode.clock import elapsed_ms
from navnode.errors import ConfigError
from navnode.files.pictures import write_picture
from navnode.files.xrays import read_counts
from navnode.geometry import CArmDocument
from navnode.offline.requests import ReadRequest
from navnode.offline.stated import Stated
from navnode.reconstruction.reader import BONE_KINDS
from navnode.reconstruction.reading import Reader, Reading, tells_kinds_apart
from navnode.types import FloatArray, Matrix, View
from navnode.xray.counts import line_integrals, open_beam_counts

__all__ = ["Picture", "ReadReport", "drawn", "kinds_of", "read"]

Picture = npt.NDArray[np.uint8]

_AT_PATIENT = 0.65
"""Where the patient is, of the way from source to detector."""
_PIXEL_MM, _DISTANCE_MM = 0.3, 1_000.0
"""Of most detectors and C-arms, where nothing is stated."""
_READ_PX = 512
"""Finer images are averaged down to about this many pixels first."""
_PICTURES = (".png", ".jpg", ".jpeg")
_SCALE, _BAR_PX = 3, 64
_LEAST_NAMED = 0.02
"""Share of a kind in all bone, from which on it is named."""
_MOST_MM = 60.0
"""Of bone, at the end of the colours."""
_BONE_BGR, _LUNG_BGR, _TEXT_BGR = (120, 255, 120), (255, 190, 90), (220, 220, 220)


class ReadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was read off an X-ray."""

    bone_share: float
    """Of what was measured of the image."""
    bone_mm: float
    """Median thickness of solid bone, where there is bone; 0 where there is none."""
    error_mm: float
    """Expected error of that thickness, as the reader states it (median)."""
    most_bone_mm: float
    lung_share: float
    kinds: dict[str, float]
    """Share of each kind in the thickness of bone; empty where they cannot be told apart."""
    pixel_mm: float
    """As it was read, where the patient is."""
    engine: str
    out: str
    """'' where no picture was asked for."""
    elapsed_ms: float


def read(request: ReadRequest) -> ReadReport:
    """Read an X-ray.

    Raises:
        ConfigError: the image cannot be used, or the picture cannot be written.
        ComputeError: it is saturated everywhere.
    """
    view, center_mm = _view(request)
    reader = Reader(threads=request.threads)
    began_s = time.perf_counter()
    reading = reader.read(view, center_mm)
    spent_ms = elapsed_ms(began_s)
    measured = np.isfinite(reading.bone)
    is_bone, is_lung = (np.nan_to_num(part) > 0.5 for part in (reading.bone, reading.lungs))
    thickness_mm = reading.bone_mm[is_bone]
    if request.out is not None:
        _write(request.out, drawn(reading))
    return ReadReport(
        bone_share=round(float(is_bone.sum() / measured.sum()), 4),
        bone_mm=round(float(np.median(thickness_mm)), 1) if thickness_mm.size else 0.0,
        error_mm=round(float(np.median(reading.scale_mm[is_bone])), 1) if thickness_mm.size else 0.0,
        most_bone_mm=round(float(thickness_mm.max()), 1) if thickness_mm.size else 0.0,
        lung_share=round(float(is_lung.sum() / measured.sum()), 4),
        kinds=kinds_of(reading),
        pixel_mm=round(reading.pixel_mm, 3),
        engine=reader.engine,
        out="" if request.out is None else str(request.out),
        elapsed_ms=round(spent_ms, 1),
    )


def _view(request: ReadRequest) -> tuple[View, Matrix]:
    """The image as a view of a C-arm like most, and where the patient is in it."""
    counts = read_counts(request.image, request.i0)
    factor = max(1, min(round(max(counts.shape) / _READ_PX), *counts.shape))
    line = line_integrals(counts, request.i0 or open_beam_counts(counts), factor, see_lead=True)
    height, width = line.shape
    stated = Stated.of(request.image)
    pixel_mm = (request.pixel_mm, request.pixel_mm) if request.pixel_mm else stated.pixel_mm or (_PIXEL_MM, _PIXEL_MM)
    distance_mm = request.distance_mm or stated.distance_mm or _DISTANCE_MM
    pitch_mm = (pixel_mm[0] * factor, pixel_mm[1] * factor)
    middle_px = ((width - 1) / 2, (height - 1) / 2)
    try:
        carm = CArmDocument(width, height, pitch_mm, distance_mm, middle_px).geometry
    except ValueError as error:
        raise ConfigError(f"{request.image}: {error}") from error
    return View(line, carm, np.eye(4)), np.array([0.0, 0.0, _AT_PATIENT * distance_mm])


def kinds_of(reading: Reading) -> dict[str, float]:
    """Share of each kind of bone in all that was read; empty where they cannot be told apart."""
    all_mm = float(np.nansum(reading.bone_mm))
    if all_mm <= 0 or not tells_kinds_apart([reading]):
        return {}
    shares = np.nansum(reading.kinds * reading.bone_mm, axis=(1, 2)) / all_mm
    return {
        kind: round(float(share), 3) for kind, share in zip(BONE_KINDS, shares, strict=True) if share >= _LEAST_NAMED
    }


def drawn(reading: Reading) -> Picture:
    """The X-ray, and beside it the same with millimetres of bone in colours, outlines and names of bones, outlines of
    lungs, and a scale."""
    rows, columns = (np.flatnonzero(np.isfinite(reading.bone).any(axis=axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    def enlarged(part: FloatArray) -> FloatArray:
        return np.asarray(cv2.resize(np.nan_to_num(part[window]), None, fx=_SCALE, fy=_SCALE), np.float32)

    line, bone, bone_mm, lungs = map(enlarged, (reading.line_integrals, reading.bone, reading.bone_mm, reading.lungs))
    low, high = np.percentile(line, [1, 99])
    grey = np.clip((line - low) * (255 / max(high - low, 1e-3)), 0, 255).astype(np.uint8)
    plain = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    heat = cv2.applyColorMap(_coloured(bone_mm), cv2.COLORMAP_INFERNO)
    share = 0.7 * np.clip(bone, 0, 1)[..., None]
    over = (plain * (1 - share) + heat * share).astype(np.uint8)
    for part, colour in ((lungs, _LUNG_BGR), (bone, _BONE_BGR)):
        outlines, _ = cv2.findContours((part > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(over, outlines, -1, colour, 1, cv2.LINE_AA)
    likeliest = reading.kinds.argmax(axis=0)
    for name in kinds_of(reading):
        if name != "other":
            mine = (likeliest == BONE_KINDS.index(name)) & (np.nan_to_num(reading.bone) > 0.5)
            _name(over, name, enlarged(mine.astype(np.float32)) > 0.5)
    return np.hstack([plain, over, _bar(plain.shape[0])]).astype(np.uint8)


def _name(picture: Picture, name: str, mine: npt.NDArray[np.bool_]) -> None:
    """Draw the outline of a kind of bone, and its name where it is widest, in place."""
    mask = mine.astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, _TEXT_BGR, 1, cv2.LINE_AA)
    deep_px = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)
    v, u = np.unravel_index(int(deep_px.argmax()), deep_px.shape)
    (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    at = int(np.clip(u - width // 2, 2, max(2, picture.shape[1] - width - 2))), int(v + height // 2)
    for colour, thick in (((0, 0, 0), 3), (_TEXT_BGR, 1)):
        cv2.putText(picture, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thick, cv2.LINE_AA)


def _coloured(thickness_mm: FloatArray) -> Picture:
    return np.asarray(np.clip(thickness_mm * (255 / _MOST_MM), 0, 255), np.uint8)


def _bar(height: int) -> Picture:
    """The colours' scale in mm."""
    ramp = np.linspace(_MOST_MM, 0, height, dtype=np.float32)[:, None]
    bar = np.zeros((height, _BAR_PX, 3), np.uint8)
    bar[:, :16] = cv2.applyColorMap(_coloured(ramp), cv2.COLORMAP_INFERNO)
    for mm in range(0, int(_MOST_MM) + 1, 20):
        at = round(np.clip((1 - mm / _MOST_MM) * height, 12, height - 4))
        cv2.putText(bar, f"{mm} mm", (19, at), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _TEXT_BGR, 1, cv2.LINE_AA)
    return bar


def _write(path: Path, picture: Picture) -> None:
    if path.suffix.lower() not in _PICTURES:
        raise ConfigError(f"{path}: cannot be written; a picture's name ends in .png or .jpg")
    write_picture(path, picture)
