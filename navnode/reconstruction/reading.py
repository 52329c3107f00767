"""Reads X-rays with the shipped reader: millimetres of solid bone behind every pixel.

The reader looks at one X-ray at a time, on its own canvas (:mod:`reader`). Readings keep the canvas's geometry, by
which :mod:`lift` combines them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.special import softmax

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.reconstruction import engines, models
from navnode.reconstruction.reader import BONE_SCALE_MM, CANVAS_PX, LOG_SCALES, LUNG_SCALE_MM, reading_channels
from navnode.types import Array, CArm, FloatArray, Matrix, View

__all__ = ["Reader", "Reading", "by_kind", "on_canvas", "tells_kinds_apart", "thickness", "understood", "view_key"]

_LEAST_PIXEL_MM = 0.8
"""Pixel of the canvas at the patient: the finest that the reader was trained on."""
_LEAST_SHARE = 0.12
"""Smaller shares of a kind of bone are noise; a kind may always have the largest of :data:`reader.BONE_KINDS`."""
_CERTAIN = 0.75
"""Share of the likeliest kind in a view's bone, from which on kinds are believed. In rendered X-rays of 15 validation
patients it is 0.78 to 1.00, in four real ones of a knee, in which femur and tibia are mistaken, 0.64 and 0.65."""
_ENOUGH_VIEWS = 4
"""So many views leave few ghosts: telling kinds apart gains less there than its errors cost."""
_LEAST_AMOUNT = 0.02
"""Least share of a kind in all bone of all views."""


@dataclass(frozen=True)
class Reading:
    """The reading of one X-ray; arrays (H, W) on the canvas, NaN where nothing was measured."""

    carm: CArm
    """Geometry of the canvas; the view's pose holds for it."""
    line_integrals: FloatArray
    pixel_mm: float
    """Pixel size at the patient."""
    bone_mm: FloatArray
    """Solid bone along every ray, marrow included; 0 outside its outline."""
    bone: FloatArray
    """Probability of bone, 0..1."""
    scale_mm: FloatArray
    """Laplace scale of the error of ``bone_mm``."""
    lungs_mm: FloatArray
    lungs: FloatArray
    """Probability of lung, 0..1."""
    kinds: FloatArray
    """(K, H, W), share of each of ``reader.BONE_KINDS`` in the thickness of bone, 0..1."""


class Reader:
    """Reads X-rays of any C-arm.

    Args:
        folder: the model.
        threads: 0: all cores.
        exactly: compute in FP32 on every processor.

    Raises:
        ConfigError: the model is missing, or no engine runs it.
    """

    def __init__(self, folder: Path = models.SHIPPED_READER, *, threads: int = 0, exactly: bool = False) -> None:
        self._run, self.engine = engines.load_reader(folder, threads=threads, exactly=exactly)

    def read(self, view: View, center_mm: Matrix) -> Reading:
        """Read bone and lungs in a view.

        Args:
            center_mm: (3,), position of the patient in the pose's frame.

        Raises:
            ComputeError: the view has no pose, the patient is not between source and detector, or the view is saturated
                everywhere.
        """
        line, measured, carm, pixel_mm = on_canvas(view, center_mm)
        channels = reading_channels(line, measured, pixel_mm)
        # Anatomy prefers neither side, but a network may: average with the reading of the mirror image.
        plain, mirrored = (
            self._run({"pictures": np.ascontiguousarray(shown)[None]})[0][0]
            for shown in (channels, channels[..., ::-1])
        )
        return understood((plain + mirrored[..., ::-1]) / 2, line, measured, carm, pixel_mm)


def view_key(view: View) -> bytes:
    """A hash of what identifies a view: its pixels, its C-arm and its pose."""
    digest = hashlib.blake2b(view.line_integrals.tobytes(), digest_size=16)
    digest.update(repr(view.carm).encode())
    digest.update(b"" if view.volume_from_carm is None else view.volume_from_carm.tobytes())
    return digest.digest()


def thickness(reading: Reading, volume_from_carm: Matrix) -> View:
    """A reading as a view whose "line integrals" are millimetres of bone, for :func:`lift.lift`."""
    return View(reading.bone_mm, reading.carm, volume_from_carm)


def tells_kinds_apart(readings: Sequence[Reading]) -> bool:
    """Whether every view is certain of the kinds of the bones that it shows."""
    for reading in readings:
        all_mm = float(np.nansum(reading.bone_mm))
        if np.nansum(reading.kinds.max(axis=0) * reading.bone_mm) < _CERTAIN * all_mm:
            return False
    return True


def by_kind(readings: Sequence[Reading], poses: Sequence[Matrix]) -> list[list[View]]:
    """Readings as views of each kind of bone by itself, for :func:`lift.lift`; none if a view does not tell them apart,
    and from :data:`_ENOUGH_VIEWS` on.

    Kinds that are hardly there are united with the kind that has most bone.

    Args:
        poses: volume_from_carm of every reading.
    """
    if len(readings) >= _ENOUGH_VIEWS or not tells_kinds_apart(readings):
        return []
    amounts = np.sum([np.nansum(reading.kinds * reading.bone_mm, axis=(1, 2)) for reading in readings], axis=0)
    there = amounts > _LEAST_AMOUNT * amounts.sum()
    most = int(amounts.argmax())
    found = []
    for kind in np.flatnonzero(there):
        members = np.array([(kind == most and not there[n]) or n == kind for n in range(len(amounts))])
        found.append(
            [
                View(reading.kinds[members].sum(axis=0) * reading.bone_mm, reading.carm, pose)
                for reading, pose in zip(readings, poses, strict=True)
            ]
        )
    return found


def understood(output: FloatArray, line: FloatArray, measured: Array, carm: CArm, pixel_mm: float) -> Reading:
    """The reading that the network's outputs for a canvas stand for.

    Args:
        output: (OUTPUTS, H, W), of ``reader.OUTPUTS`` channels.
        line: (H, W) line integrals.
        measured: (H, W) bool.
        carm: geometry of the canvas.
        pixel_mm: pixel size at the patient.
    """
    bone, lungs = (_probability(output[n]) for n in (1, 4))
    bone_mm = np.where(bone > 0.5, np.maximum(output[0], 0) * BONE_SCALE_MM, 0)
    lungs_mm = np.where(lungs > 0.5, np.maximum(output[3], 0) * LUNG_SCALE_MM, 0)
    scale_mm = np.exp(np.clip(output[2], *LOG_SCALES)) * BONE_SCALE_MM

    kinds = softmax(output[5:], axis=0)
    kinds = np.where(kinds > _LEAST_SHARE, kinds, 0)
    kinds /= kinds.sum(axis=0)

    def known(part: FloatArray) -> FloatArray:
        return np.where(measured, part, np.nan).astype(np.float32)

    return Reading(
        carm=carm,
        line_integrals=known(line),
        pixel_mm=pixel_mm,
        bone_mm=known(bone_mm),
        bone=known(bone),
        scale_mm=known(scale_mm),
        lungs_mm=known(lungs_mm),
        lungs=known(lungs),
        kinds=known(kinds),
    )


def on_canvas(view: View, center_mm: Matrix) -> tuple[FloatArray, Array, CArm, float]:
    """Resample a view onto the reader's canvas.

    Returns:
        Line integrals (H, W), where they were measured (H, W), the canvas's C-arm, and its pixel size at the patient in
            mm.

    Raises:
        ComputeError: as :meth:`Reader.read`.
    """
    if view.volume_from_carm is None:
        raise ComputeError("a view has no pose")
    carm = view.carm
    depth_mm = float(g.transform(g.inverse(view.volume_from_carm), np.asarray(center_mm, float)[None])[0, 2])
    if not 0 < depth_mm < carm.source_to_detector_mm:
        raise ComputeError("the volume's center is not between the view's source and its detector")
    at_patient = depth_mm / carm.source_to_detector_mm
    pitch_mm = np.asarray(carm.pixel_spacing_mm)
    extent_mm = pitch_mm * (carm.width_px, carm.height_px) * at_patient
    pixel_mm = max(_LEAST_PIXEL_MM, float(extent_mm.max()) / CANVAS_PX)
    # Average to about the canvas's pixel first; unmeasured pixels have no weight.
    width, height = (max(1, round(float(each) / pixel_mm)) for each in extent_mm)
    known = np.isfinite(view.line_integrals).astype(np.float32)
    if not known.any():
        raise ComputeError("a view is saturated everywhere")
    line = np.where(known > 0, view.line_integrals, 0).astype(np.float32)
    area = cv2.INTER_AREA if width <= carm.width_px else cv2.INTER_LINEAR
    share = cv2.resize(known, (width, height), interpolation=area)
    line = cv2.resize(line, (width, height), interpolation=area) / np.maximum(share, 1e-3)
    left, above = (CANVAS_PX - width) // 2, (CANVAS_PX - height) // 2
    whole, measured = np.zeros((CANVAS_PX, CANVAS_PX), np.float32), np.zeros((CANVAS_PX, CANVAS_PX), bool)
    whole[above : above + height, left : left + width] = line
    measured[above : above + height, left : left + width] = share > 0.5
    scale = np.array([width / carm.width_px, height / carm.height_px])
    u, v = ((np.asarray(carm.principal_point_px) + 0.5) * scale - 0.5 + (left, above)).tolist()
    spacing_mm = pitch_mm / scale
    canvas = replace(
        carm,
        width_px=CANVAS_PX,
        height_px=CANVAS_PX,
        pixel_spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1])),
        principal_point_px=(u, v),
    )
    return whole, measured, canvas, pixel_mm


def _probability(logit: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)
