"""2D/3D registration of one X-ray image from a close start (tracker, last frame).

Gauss-Newton on the difference between the image and a rendering of the volume, from small images of a coarse volume to
a few thousand chosen pixels of a fine one. The effects of the X-ray chain are fitted along with the pose
(:mod:`appearance`) rather than calibrated away.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from navnode import geometry as g
from navnode.errors import ComputeError
from navnode.projector import Projector
from navnode.projector.grids import averaged, body, coarsened
from navnode.registration.appearance import NOTHING, POSE_SCALE, Appearance, Observed, XrayImage, fitted
from navnode.registration.fit import Expected, Fit, Inspection
from navnode.types import CArm, FloatArray, Matrix, Volume
from navnode.xray.gradation import Gradation

__all__ = [
    "ImageRegistration",
    "Level",
    "apart_mm",
    "chosen_pixels",
    "gauss_newton_step",
    "linearised",
    "moved_by",
    "refine",
]

_COARSE_MM, _MIDDLE_MM, _FINE_MM = 5.0, 2.8, 1.4
_MOST_VOXELS = 320
"""Longest side of a cross-section that keeps voxels of less than ``_FINE_MM``: a ray's time is the voxels that it
crosses, and a whole body's cross-section has too many."""
_COARSE_PX, _MIDDLE_PX, _FINE_PX = 32, 64, 170
_CHOSEN, _CHOSEN_TRACKING, _FEWEST = 4000, 2400, 64

_DAMPING = 1e-4
_STILL_MM = 0.05
_STILL_TRACKING_MM = 0.1
"""After a step this short, the remaining error is a few hundredths of a millimetre."""

_LONGEST_STEP_MM = 40.0
"""Beyond this distance the model is not known to be linear."""

_FINISHES = 3

_KEYFRAME_MM = 4.0
"""Pixels are chosen again once the pose has moved by this much (rotations: ``POSE_SCALE``)."""

_CLOSE_SIMILARITY = 0.95
"""Below this a fit from a close start is rejected, and the whole pyramid is used."""


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: volume, image size and largest number of iterations."""

    projector: Projector
    image_px: int
    iterations: int
    still_mm: float
    """Iteration ends with a step that moves the image's content by less."""
    scatter: bool = True
    """Whether to fit scatter: far from the pose it would absorb other differences."""

    def observed(self, image: XrayImage) -> Observed:
        """All pixels of an image at this level's size."""
        return image.observed(self.image_px, scatter=self.scatter)


@dataclass(frozen=True)
class _Keyframe:
    """The most informative pixels at a nearby pose."""

    volume_from_carm: Matrix
    carm: CArm
    pixels: FloatArray
    """(N, 2) in the fine image, spread over it, best first."""

    def apart_mm(self, volume_from_carm: Matrix, pivot_mm: float) -> float:
        """Distance of a pose from the keyframe's."""
        return apart_mm(self.volume_from_carm, volume_from_carm, pivot_mm)


class ImageRegistration:
    """Registers images to one volume.

    Args:
        volume: HU.
        threads: of the projector; default: all.
    """

    def __init__(self, volume: Volume, threads: int | None = None) -> None:
        fine = _fine(volume)
        middle = coarsened(fine, _MIDDLE_MM)
        coarse = coarsened(middle, _COARSE_MM)
        projectors = [Projector(v, threads=threads) for v in (coarse, middle, fine)]
        self.coarse = Level(projectors[0], _COARSE_PX, 12, 0.2, scatter=False)
        self.middle = Level(projectors[1], _MIDDLE_PX, 8, 0.1)
        self.fine = Level(projectors[2], _FINE_PX, 10, _STILL_MM)
        self.tracking = Level(projectors[2], _FINE_PX, 4, _STILL_TRACKING_MM)
        self._keyframe: _Keyframe | None = None
        self._before: Appearance | None = None
        self.inspected: tuple[Inspection, int] | None = None
        """The last inspection of a tracked frame, and the number of frames that reused it."""
        self.expected: Expected | None = None
        """Detail of the last pose at which smear was measured, or of that of the next image."""
        self.gradation: Gradation | None = None
        """Of the last picture, if it was one of a display and VALID."""
        self.placed: Matrix | None = None
        """volume_from_carm of the last image whose smear was measured."""
        self.way: Matrix | None = None
        """(6,), how the C-arm came there from the image before."""

    def track(self, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float) -> Fit | None:
        """Fit from a start within a millimetre or two; None if the result is poor."""
        observed = self.chosen(image, start_volume_from_carm, pivot_mm, _CHOSEN_TRACKING)
        if observed is None:
            return None
        # On the coarser volume the first step is as good, in a third of the time.
        first = linearised(self.middle.projector, observed, start_volume_from_carm, pivot_mm, self._before)
        moved = moved_by(gauss_newton_step(first), start_volume_from_carm, pivot_mm)
        fit = refine(self.tracking, observed, moved, pivot_mm, first)
        if not (fit.similarity >= _CLOSE_SIMILARITY and fit.converged):
            return None
        self._before = fit.appearance
        return fit

    def fit(self, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float) -> Fit:
        """Fit through the whole pyramid from a start within about 10 mm and 6 degrees."""
        return self.finish(image, self.glance(image, start_volume_from_carm, pivot_mm).volume_from_carm, pivot_mm)

    def glance(self, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float) -> Fit:
        """Fit with the coarser levels only: small images, a few milliseconds."""
        first = refine(self.coarse, self.coarse.observed(image), start_volume_from_carm, pivot_mm)
        return refine(self.middle, self.middle.observed(image), first.volume_from_carm, pivot_mm)

    def finish(self, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float) -> Fit:
        """Fit with the finest level only; pixels are chosen again while the pose keeps moving."""
        volume_from_carm = start_volume_from_carm
        for _ in range(_FINISHES):
            observed = self.chosen(image, volume_from_carm, pivot_mm)
            if observed is None:
                return refine(self.coarse, self.coarse.observed(image), volume_from_carm, pivot_mm)
            fit = refine(self.fine, observed, volume_from_carm, pivot_mm)
            volume_from_carm = fit.volume_from_carm
            if fit.converged:
                break
        self._before = fit.appearance
        return fit

    def look(self, level: Level, image: XrayImage, volume_from_carm: Matrix, pivot_mm: float) -> Observed:
        """The pixels of an image at a level; at the finest, the chosen ones if there are any."""
        if level is not self.fine:
            return level.observed(image)
        return self.chosen(image, volume_from_carm, pivot_mm) or self.middle.observed(image)

    def chosen(
        self, image: XrayImage, volume_from_carm: Matrix, pivot_mm: float, count: int = _CHOSEN
    ) -> Observed | None:
        """The most informative pixels at the finest level; None when the image does not show the volume."""
        _, carm = image.binned(self.fine.image_px)
        keyframe = self._keyframe
        if keyframe is None or keyframe.carm != carm or keyframe.apart_mm(volume_from_carm, pivot_mm) > _KEYFRAME_MM:
            keyframe = self._choose(carm, volume_from_carm, pivot_mm)
        if len(keyframe.pixels) < _FEWEST:
            return None
        return image.observed(self.fine.image_px, _raster(keyframe.pixels[:count]))

    def prepare(self, volume_from_carm: Matrix, pivot_mm: float) -> None:
        """Choose pixels between two frames, while nobody waits, if one of the next frames would have to."""
        keyframe = self._keyframe
        if keyframe is not None and keyframe.apart_mm(volume_from_carm, pivot_mm) > _KEYFRAME_MM / 3:
            self._choose(keyframe.carm, volume_from_carm, pivot_mm)

    def _choose(self, carm: CArm, volume_from_carm: Matrix, pivot_mm: float) -> _Keyframe:
        pixels = chosen_pixels(self.middle, carm, volume_from_carm, pivot_mm)
        self._keyframe = _Keyframe(volume_from_carm, carm, pixels)
        return self._keyframe


def _fine(volume: Volume) -> Volume:
    """The finest level: all voxels but the air around the patient, or larger ones where a scanner's are many."""
    patient = body(volume)
    along = int(np.argmax(np.abs(patient.volume_from_index[2, :3])))  # the axis of the voxels next to the body's own
    across = max(count for axis, count in enumerate(patient.voxels.shape[::-1]) if axis != along)
    return coarsened(patient, _FINE_MM) if across <= _MOST_VOXELS else averaged(patient, _FINE_MM)


def refine(
    level: Level, observed: Observed, start_volume_from_carm: Matrix, pivot_mm: float, before: Appearance | None = None
) -> Fit:
    """Gauss-Newton at one level; rotations turn about (0, 0, pivot_mm) in carm."""
    volume_from_carm, moved_mm, steps = start_volume_from_carm, np.inf, 0
    while True:
        before = linearised(level.projector, observed, volume_from_carm, pivot_mm, before)
        if steps == level.iterations or not np.isfinite(before.noise):
            break
        step = gauss_newton_step(before)
        volume_from_carm = moved_by(step, volume_from_carm, pivot_mm)
        moved_mm, steps = float(np.linalg.norm(step)), steps + 1
        if moved_mm < level.still_mm:  # too short to change the appearance
            break
    return Fit.of(volume_from_carm, before, steps, moved_mm)


def linearised(
    projector: Projector, observed: Observed, volume_from_carm: Matrix, pivot_mm: float, before: Appearance | None
) -> Appearance:
    """The appearance at a pose; ``before``: the one at a pose nearby, to start from."""
    try:
        predicted, jacobian = projector.render(
            observed.carm, volume_from_carm, observed.pixels, jacobian=True, pivot_mm=pivot_mm
        )
    except ComputeError:  # the pose diverged
        return NOTHING
    return fitted(observed, predicted, jacobian, before, rounds=4 if before is None else 2)


def gauss_newton_step(appearance: Appearance) -> Matrix:
    """Step of the scaled pose (6,), slightly damped along directions that the image does not determine."""
    hessian = appearance.hessian
    damped = hessian + np.diag(_DAMPING * np.diag(hessian) + 1e-9)
    step = np.asarray(np.linalg.solve(damped, appearance.gradient))
    return step * min(1.0, _LONGEST_STEP_MM / max(float(np.linalg.norm(step)), 1e-12))


def moved_by(step: Matrix, volume_from_carm: Matrix, pivot_mm: float) -> Matrix:
    """``volume_from_carm`` after a step (6,) of :func:`gauss_newton_step`."""
    return volume_from_carm @ g.exp(step / POSE_SCALE, (0.0, 0.0, pivot_mm))


def chosen_pixels(level: Level, carm: CArm, volume_from_carm: Matrix, pivot_mm: float) -> FloatArray:
    """The most informative pixels of ``carm``'s image (N, 2), spread over it, best first.

    The criterion is leverage, the share of the pose's information that rests on a pixel (Hoaglin and Welsch 1978),
    without smooth derivatives, which scatter and gain imitate. Pixels come in cells of 4 x 2, whose rays run through
    the same voxels and fill a vector register; every block of 8 x 8 pixels yields one cell before any yields a second.
    """
    half = carm.binned(2)
    predicted, jacobian = level.projector.render(half, volume_from_carm, jacobian=True, pivot_mm=pivot_mm)
    rows = np.stack([row - cv2.blur(row, (15, 15)) for row in jacobian]).reshape(6, -1)
    rows /= POSE_SCALE[:, None].astype(np.float32)
    rows *= np.exp(-0.5 * np.minimum(predicted.ravel(), 8.0))  # dark pixels are noisy
    hessian = (rows @ rows.T).astype(np.float64)
    whitening = np.linalg.cholesky(np.linalg.inv(hessian + 1e-6 * (np.trace(hessian) + 1e-6) * np.eye(6)))
    leverage = ((whitening.T.astype(np.float32) @ rows) ** 2).sum(axis=0).reshape(predicted.shape)
    leverage[predicted <= 0] = 0.0
    height, width = (n // 4 * 4 for n in leverage.shape)
    cells = leverage[:height, :width].reshape(height // 4, 4, width // 4, 2, 2).sum(axis=4)
    blocks = cells.transpose(0, 2, 1, 3).reshape(-1, 8)
    # Sorted by rank within the block, then leverage: the best of every block come first.
    rank = np.argsort(np.argsort(-blocks, axis=1), axis=1)
    known = blocks > 0
    best = np.lexsort((-blocks[known], rank[known]))
    block, within = (index[best] for index in np.nonzero(known))
    v = block // (width // 4) * 8 + within // 2 * 2
    u = block % (width // 4) * 8 + within % 2 * 4
    in_cell = np.stack(np.meshgrid(np.arange(4), np.arange(2)), axis=-1).reshape(1, 8, 2)
    return (np.stack([u, v], axis=1)[:, None] + in_cell).reshape(-1, 2).astype(np.float32)


def _raster(pixels: FloatArray) -> FloatArray:
    """Cells sorted so that neighbours share the cache."""
    cells = pixels.reshape(-1, 8, 2)
    return cells[np.lexsort((cells[:, 0, 0], cells[:, 0, 1] // 8))].reshape(-1, 2)


def apart_mm(one_volume_from_carm: Matrix, other_volume_from_carm: Matrix, pivot_mm: float) -> float:
    """Distance between two poses, rotations times ``POSE_SCALE``."""
    moved = g.log(g.inverse(one_volume_from_carm) @ other_volume_from_carm, (0.0, 0.0, pivot_mm))
    return float(np.linalg.norm(moved * POSE_SCALE))
