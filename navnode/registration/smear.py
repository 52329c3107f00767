"""How far the image was smeared while it was exposed, as the image itself shows.

To second order, an image that moved over L along n is the still one plus L² / 24 times its second derivative along n.
So the image, compared with what the volume throws at the registered pose, gives the covariance of the smear: a linear
fit of the volume's second derivatives, beside its gain, hardening and first derivatives, which take up what is left of
the pose. The anatomy's own directions are in both, and drop out. What detector and focal spot blur is the same in all
directions, and what the volume's voxels blur lies on the other side: only what is blurrier along one direction than
along the other, and than the volume, is smear.

Where the C-arm turns about the anatomy, what lies in front moves one way and what lies behind the other, and no single
direction is smeared. The pose of the frame before tells that motion, and projections to either side of the pose how the
image changes along it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from navnode import geometry as g
from navnode.registration.appearance import POSE_SCALE, XrayImage
from navnode.registration.fit import Expected, Fit, Turn
from navnode.registration.tracking import ImageRegistration, apart_mm
from navnode.types import CArm, FloatArray, Matrix

__all__ = ["MAX_SMEAR_MM", "NO_SMEAR", "SEEN_SMEAR_MM", "Smear", "anticipate", "smeared"]

SEEN_SMEAR_MM, MAX_SMEAR_MM = 3.3, 4.0
"""At the anatomy. Sharp images seem smeared over up to the former; over more than the latter an image is refused. Of a
smear of 6.4 mm (16 px of 512 across 300 mm) 4.1 to 6.3 are measured, of 3.2 mm 2.2 to 3.9."""
_IMAGE_PX = 128
_SMOOTH_PX, _BAND_PX = 0.7, 2.8
"""Detail that is compared: finer is noise, coarser is scatter."""
_LEAST_LINE = 0.02
"""Line integral below which a ray misses the volume."""
_SPOILT_PX = 5
"""Derivatives are spoilt so near to the edge of what is known."""
_OUTLIER, _LEAST_OUTLIER = 4.0, 0.02
"""Of what remains, in robust sigmas and line-integral units: tools, and bodies that are not in the volume."""
_FEWEST = 400
_SIGMAS = 4.0
"""Smear that is not beyond so many sigmas of its estimate is none."""
_MODEL = 0.09
"""Beside noise, a model leaves unexplained what counts as so much of an image's detail: along a direction in which
anatomy has next to none, as a single shaft has along itself, that looks like smear. Of 40 right X-rays of four limbs
none reaches so many sigmas then (3.2 at most), of 40 that moved all that did before, but one of 3.3 mm."""
_SHARPER_MM2 = 1.0
"""At the anatomy: an image that looks sharper than its volume by more along any direction is not explained by smear."""
_LEAST_TURN_MM, _MOST_TURN_MM, _PROBED_MM = 1.5, 15.0, 3.0
"""From frame to frame, rotations times ``POSE_SCALE``: less is rest, more is no single motion; and the way to the
projections that are compared."""
_REUSED_MM = 0.3
"""What is expected is not projected again for a pose so close."""
_ANTICIPATED_MM = 0.25
"""Nor, between two images, for a pose so close to that of the next one."""
_SAME_WAY = 0.2
"""Nor are projections along a motion whose direction differs by less than that (rad)."""


@dataclass(frozen=True)
class Smear:
    """How far the anatomy moved across the detector's axes during the exposure."""

    mm: float
    """Length, at the anatomy."""
    along: Matrix
    """(2,), unit vector in the C-arm's x and y."""

    @property
    def reason(self) -> str:
        """Why an image that is smeared so far is refused."""
        return f"the image is smeared over {self.mm:.0f} mm: something moved during the exposure"

    @property
    def covariance_mm2(self) -> Matrix:
        """2x2, of where the anatomy was in a moment of the exposure, about its mean."""
        return np.asarray(self.mm**2 / 12 * np.outer(self.along, self.along))


NO_SMEAR = Smear(0.0, np.array([1.0, 0.0]))


Render = Callable[[CArm, Matrix], FloatArray]
"""Line integrals (H, W) of what is expected in an image from a ``volume_from_carm``."""


def smeared(
    registration: ImageRegistration, image: XrayImage, fit: Fit, pivot_mm: float, moved: Render | None = None
) -> Smear:
    """Measure the smear of an image that was registered.

    Args:
        pivot_mm: distance from the source to the anatomy.
        moved: renders the volume with what has moved in it since CT; it is expected anew for every image. Default: the
            volume as it is.
    """
    render = moved or registration.fine.projector.render
    observed = image.observed(_IMAGE_PX, scatter=False)
    expected = registration.expected
    if (
        expected is None
        or moved is not None
        or expected.carm != observed.carm
        or apart_mm(expected.volume_from_carm, fit.volume_from_carm, pivot_mm) > _REUSED_MM
    ):
        expected = registration.expected = _expected(render, observed.carm, fit.volume_from_carm)
    shape = expected.inside.shape
    line = cv2.GaussianBlur(-np.log(observed.counts).reshape(shape), (0, 0), _SMOOTH_PX)
    known = cv2.erode((observed.trust.reshape(shape) > 0).astype(np.uint8), np.ones((_SPOILT_PX, _SPOILT_PX), np.uint8))
    weight = observed.trust.reshape(shape) * known * expected.inside
    detail = _band(line)
    before, registration.placed = registration.placed, fit.volume_from_carm
    registration.way = None if before is None else g.log(g.inverse(before) @ fit.volume_from_carm, (0, 0, pivot_mm))
    solved = _solved(expected.basis, detail, weight, _MODEL)
    if solved is None:
        return NO_SMEAR
    explained = (solved[0].astype(np.float32) @ expected.basis.reshape(len(expected.basis), -1)).reshape(shape)
    rest, used = np.abs(detail - explained), weight > 0
    far = max(_OUTLIER * 1.4826 * float(np.median(rest[used])), _LEAST_OUTLIER)
    tools = cv2.dilate((used & (rest > far)).astype(np.uint8), np.ones((3, 3), np.uint8))
    weight = weight * (tools == 0)
    solved = _solved(expected.basis, detail, weight, _MODEL)
    if solved is None:
        return NO_SMEAR
    straight = _smear(*solved, observed.carm, pivot_mm)
    if registration.way is None or straight.mm > MAX_SMEAR_MM or not _turns(registration.way):
        return straight
    expected = registration.expected = _turned(expected, render, registration.way, pivot_mm)
    turned_mm = _turned_mm(expected, detail, weight)
    return straight if straight.mm >= turned_mm else Smear(turned_mm, straight.along)


def anticipate(registration: ImageRegistration, pivot_mm: float) -> None:
    """Between two images, while nobody waits, render what the next one will be compared with: the C-arm goes on as it
    moved before."""
    expected, placed, way = registration.expected, registration.placed, registration.way
    if expected is None or placed is None or way is None:
        return
    render, next_volume_from_carm = registration.fine.projector.render, placed @ g.exp(way, (0, 0, pivot_mm))
    if apart_mm(expected.volume_from_carm, next_volume_from_carm, pivot_mm) > _ANTICIPATED_MM:
        expected = _expected(render, expected.carm, next_volume_from_carm)
    registration.expected = _turned(expected, render, way, pivot_mm) if _turns(way) else expected


def _turns(way: Matrix) -> bool:
    """Whether a motion from one image to the next is one along which an image may be smeared."""
    return _LEAST_TURN_MM < float(np.linalg.norm(way * POSE_SCALE)) < _MOST_TURN_MM


def _turned(expected: Expected, render: Render, way: Matrix, pivot_mm: float) -> Expected:
    """With how detail changes along a motion of the C-arm, by projections to either side of the pose."""
    step = way * (_PROBED_MM / float(np.linalg.norm(way * POSE_SCALE)))
    if expected.turn is not None:
        off = float(np.linalg.norm((step - expected.turn.way) * POSE_SCALE))
        if off < _SAME_WAY * _PROBED_MM:
            return expected
    pivot = (0.0, 0.0, pivot_mm)
    sides = [render(expected.carm, expected.volume_from_carm @ g.exp(s, pivot)) for s in (-step, step)]
    one, other = (_band(cv2.GaussianBlur(side, (0, 0), _SMOOTH_PX)) for side in sides)
    return replace(expected, turn=Turn(step, np.float32(0.5) * (other - one), one + other - 2 * expected.basis[0]))


def _turned_mm(expected: Expected, detail: FloatArray, weight: FloatArray) -> float:
    """Length of the smear along the C-arm's own motion, rotations times ``POSE_SCALE``; 0: none is seen."""
    assert expected.turn is not None
    along = np.stack([*expected.basis[:7], expected.turn.slope, expected.turn.bend])
    solved = _solved(along, detail, weight)
    if solved is None:
        return 0.0
    (gain, bend), sigma = solved[0][[0, -1]], solved[1][-1]
    if not (gain > 0 and bend > _SIGMAS * sigma):
        return 0.0
    return _PROBED_MM * float(np.sqrt(24 * bend / gain))


def _smear(coefficients: Matrix, sigma: Matrix, carm: CArm, pivot_mm: float) -> Smear:
    gain = coefficients[0]
    if not gain > 0:
        return NO_SMEAR
    mm_per_px = carm.pixel_spacing_mm[0] * pivot_mm / carm.source_to_detector_mm
    both, across, mixed = coefficients[6:] / gain * mm_per_px**2
    apart = 2 * float(np.hypot(across, mixed))
    doubt = 2 * float(np.hypot(sigma[7], sigma[8])) / gain * mm_per_px**2
    most = both + apart / 2
    seen = apart > _SIGMAS * doubt and most - apart > -_SHARPER_MM2
    variance_mm2 = min(apart, most) if seen else 0.0
    angle = 0.5 * float(np.arctan2(mixed, across))
    return Smear(float(np.sqrt(12 * max(variance_mm2, 0.0))), np.array([np.cos(angle), np.sin(angle)]))


def _expected(render: Render, carm: CArm, volume_from_carm: Matrix) -> Expected:
    line = render(carm, volume_from_carm)
    smooth = cv2.GaussianBlur(line, (0, 0), _SMOOTH_PX)
    slope, bend = np.array([[-0.5, 0, 0.5]], np.float32), np.array([[1, -2, 1]], np.float32)
    dx, dy = cv2.filter2D(smooth, -1, slope), cv2.filter2D(smooth, -1, slope.T)
    dxx, dyy = cv2.filter2D(smooth, -1, bend), cv2.filter2D(smooth, -1, bend.T)
    dxy = cv2.filter2D(dx, -1, slope.T)
    y, x = np.mgrid[-1 : 1 : line.shape[0] * 1j, -1 : 1 : line.shape[1] * 1j].astype(np.float32)
    fields = [smooth, smooth * smooth, dx, dy, x * dx + y * dy, x * dy - y * dx]
    fields += [(dxx + dyy) / 2, (dxx - dyy) / 2, dxy]
    inside = cv2.erode((line > _LEAST_LINE).astype(np.uint8), np.ones((_SPOILT_PX, _SPOILT_PX), np.uint8))
    border = _SPOILT_PX // 2 + 1
    inside[:border] = inside[-border:] = inside[:, :border] = inside[:, -border:] = 0
    basis = np.stack([_band(field) for field in fields])
    return Expected(volume_from_carm, carm, basis, inside.astype(np.float32))


def _band(image: FloatArray) -> FloatArray:
    coarse: FloatArray = cv2.GaussianBlur(image, (0, 0), _BAND_PX)
    return image - coarse


def _solved(
    basis: FloatArray, detail: FloatArray, weight: FloatArray, model: float = 0.0
) -> tuple[Matrix, Matrix] | None:
    """Coefficients (9,) and their sigma (9,); None: too little is seen.

    Args:
        model: share of the detail's squares that counts as unexplained, beside what is.
    """
    if np.count_nonzero(weight) < _FEWEST:
        return None
    root = np.sqrt(weight).ravel()
    columns, wanted = basis.reshape(len(basis), -1) * root, detail.ravel() * root
    normal, right = (columns @ columns.T).astype(np.float64), (columns @ wanted).astype(np.float64)
    scale = np.sqrt(np.diag(normal)) + 1e-12
    inverse = np.linalg.inv(normal / np.outer(scale, scale) + 1e-7 * np.eye(len(basis)))
    solved = inverse @ (right / scale) / scale
    rest = wanted - solved.astype(np.float32) @ columns
    variance = float(rest @ rest + model * (wanted @ wanted)) / float(weight.sum())
    return solved, np.sqrt(variance * np.diag(inverse)) / scale
