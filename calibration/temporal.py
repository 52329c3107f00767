"""Temporal calibration: how much later images are stamped than tracker poses, from a motion that both see."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import median_filter

from navnode.errors import ConfigError
from navnode.files.artifacts import IMAGE_LAG, ImageLagResult
from navnode.types import Array, Matrix

from .fitting import exact, valid_poses
from .verdict import Calibration, Gate, Gates, judged, limits

__all__ = ["temporal"]

GATES = (
    Gate(
        "overlap_s",
        3.0,
        "overlap",
        "the time covered by both",
        "record both at the same time, for longer",
        "s",
        at_least=True,
    ),
    Gate(
        "motion_mm",
        5.0,
        "no_motion",
        "the motion seen by the tracker",
        "move further, irregularly",
        "mm",
        at_least=True,
    ),
    Gate(
        "correlation",
        0.9,
        "correlation",
        "the correlation of both motions",
        "check that both follow the same object, and move it more",
        at_least=True,
    ),
    Gate(
        "distinct",
        0.02,
        "ambiguous",
        "the margin of the best lag over another",
        "move irregularly, not to and fro",
        at_least=True,
    ),
    Gate(
        "lag_drift_ns",
        10e6,
        "clock",
        "how much the lag changed from the first half to the second",
        "was a clock set, or does one run fast? Record anew",
        "ns",
    ),
    Gate("sigma_lag_ns", 5e6, "sigma", "the standard error of the lag", "move faster, and for longer", "ns"),
)
_STEP_S = 0.002
_AT_LIMIT_CORRELATION = 0.5
"""Correlation that shows related motions although the lag is beyond the searched range."""
_LEAST_SAMPLES = 8
_LEAST_MOTION_PX = 0.5
_LARGEST_PX = 256
_NEIGHBOURS, _GLITCH_SPREADS, _GLITCH_SHARE = 5, 15.0, 0.3
"""A sample that is farther from the median of its neighbours than so many typical distances, and than this share of the
whole motion, was never there."""
_LEAST_HALF_SHARE, _LEAST_HALF_CORRELATION = 0.3, 0.8
"""Motion of a half, of the whole, and its correlation, from which it tells a lag of its own."""


def temporal(
    tracker_times_s: Array,
    tracker: Array,
    image_times_s: Array,
    image: Array,
    *,
    max_lag_s: float = 0.5,
    gates: Gates | None = None,
) -> Calibration[ImageLagResult]:
    """Find the lag at which both motions correlate best (as in PLUS's temporal calibration), to a fraction of a frame.

    Args:
        tracker_times_s, tracker: (N,) and poses (N, 4, 4), of which the motion along the principal axis is used, or
            values (N,).
        image_times_s, image: (M,) and images (M, H, W), of which the motion along one axis is used, or values (M,).

    Returns:
        ``image_lag_ns``: image stamp minus tracker stamp of the same event.

    Raises:
        ConfigError: times and data differ in number, or a time is repeated.
    """
    for name, times, data in (("tracker", tracker_times_s, tracker), ("image", image_times_s, image)):
        if len(times) != len(data):
            raise ConfigError(f"{name}: {len(times)} times for {len(data)} samples")
        if not np.isfinite(times).all() or len(np.unique(times)) != len(times):
            raise ConfigError(f"{name}: times must be finite and distinct")
    if not 0 < max_lag_s < 60:
        raise ConfigError("--max-lag-s must lie between 0 and 60")
    tracker_order, image_order = np.argsort(tracker_times_s), np.argsort(image_times_s)
    tracker_times_s, tracker = np.asarray(tracker_times_s)[tracker_order], np.asarray(tracker)[tracker_order]
    image_times_s, image = np.asarray(image_times_s)[image_order], np.asarray(image)[image_order]
    x_times, x, tracker_rejected = _tracker_motion(np.asarray(tracker_times_s, np.float64), np.asarray(tracker))
    y_times, y, image_rejected = _image_motion(
        np.asarray(image_times_s, np.float64), np.asarray(image), x_times, x, max_lag_s
    )
    quality: dict[str, object] = {
        "n_input": len(tracker),
        "n_used": len(x),
        "rejected": sorted(tracker_order[np.array(tracker_rejected, int)].tolist()),
        "image_rejected": sorted(image_order[np.array(image_rejected, int)].tolist()),
        "correlation": None,
        "second_peak": None,
        "sigma_lag_ns": None,
        "lag_drift_ns": None,
        "overlap_s": 0.0,
        "motion_mm": float(np.ptp(x)) if len(x) else 0.0,
        "motion_px": float(np.ptp(y)) if len(y) else 0.0,
    }
    figures: dict[str, float | None] = {"distinct": None}
    if min(len(x), len(y)) < _LEAST_SAMPLES:
        return judged(IMAGE_LAG, GATES, gates, figures, result=None, quality=quality)
    overlap = min(x_times[-1], y_times[-1]) - max(x_times[0], y_times[0])
    quality["overlap_s"] = max(float(overlap), 0.0)
    lags = np.arange(-max_lag_s, max_lag_s + _STEP_S / 2, _STEP_S)
    spline = CubicSpline(x_times, x)
    correlation = np.array([_correlation(spline, x_times, y_times, y, lag) for lag in lags])
    size = np.abs(correlation)
    best = int(size.argmax())
    lag = _peak(lags, size, best)
    covered = max(float(min(x_times[-1], y_times[-1] - lag) - max(x_times[0], y_times[0] - lag)), 0.0)
    sign = 1 if correlation[best] >= 0 else -1
    second = _second_peak(size, best)
    quality |= {
        "overlap_s": covered,
        "correlation": float(size[best]),
        "second_peak": second,
        "sigma_lag_ns": 1e9 * _sigma_s(spline, x_times, y_times, y, lag),
        "lag_drift_ns": 1e9 * _drift_s(spline, x_times, y_times, y, lags),
    }
    figures["distinct"] = float(size[best]) - second
    interval = float(np.median(np.diff(y_times)))
    reason = ""
    motion = float(np.ptp(x))
    in_force = limits(GATES, gates)
    enough = motion >= in_force["motion_mm"] and covered >= in_force["overlap_s"]
    if enough and float(np.ptp(y)) < _LEAST_MOTION_PX and np.asarray(image).ndim == 3:
        reason = (
            f"no_motion: the images move by {float(np.ptp(y)):.2g} px, at least {_LEAST_MOTION_PX:.2g} px is needed; "
            "move the tracked object within the X-ray image"
        )
    elif enough and abs(lag) > max_lag_s - interval and size[best] >= _AT_LIMIT_CORRELATION:
        reason = (
            f"at_limit: the best lag is {lag:.3g} s, at least one image interval less than {max_lag_s:.3g} s is "
            "needed; search further with --max-lag-s, and check both clocks"
        )
    motions = {"tracker_s": x_times, "tracker": x, "image_s": y_times - lag, "image": sign * y}
    return judged(
        IMAGE_LAG,
        GATES,
        gates,
        figures,
        result=ImageLagResult(round(1e9 * lag), sign),
        quality=quality,
        reason=reason,
        pictures=[("correlation", {"lag_s": lags, "correlation": correlation}), ("motions", motions)],
    )


def _drift_s(spline: CubicSpline, x_times: Matrix, y_times: Matrix, y: Matrix, lags: Matrix) -> float:
    """How far the lags of both halves are apart; 0: chance may explain it, or a half does not tell one."""
    half, found = len(y) // 2, []
    for part in (slice(None, half), slice(half, None)):
        times, own = y_times[part], y[part]
        if len(own) < 2 * _LEAST_SAMPLES or np.ptp(own) < _LEAST_HALF_SHARE * np.ptp(y):
            return 0.0
        size = np.abs([_correlation(spline, x_times, times, own, lag) for lag in lags])
        best = int(size.argmax())
        if size[best] < _LEAST_HALF_CORRELATION:
            return 0.0
        lag = _peak(lags, size, best)
        found.append((lag, _sigma_s(spline, x_times, times, own, lag)))
    (one, sigma), (other, more) = found
    return abs(one - other) if abs(one - other) > 5 * float(np.hypot(sigma, more)) else 0.0


def _tracker_motion(times_s: Matrix, tracker: Array) -> tuple[Matrix, Matrix, list[int]]:
    """Times and motion along the principal axis, and the rows that are invalid."""
    valid = valid_poses(tracker) if tracker.ndim == 3 else np.isfinite(tracker)
    rows = np.flatnonzero(valid)
    motion = exact(tracker[rows])[:, :3, 3] if tracker.ndim == 3 else np.asarray(tracker[rows], np.float64)[:, None]
    there = _without_glitches(motion)
    rejected = sorted([*np.flatnonzero(~valid).tolist(), *rows[~there].tolist()])
    return times_s[rows[there]], _principal(motion[there]), rejected


def _without_glitches(motion: Matrix) -> Array:
    """Mask (N,) of the samples of a motion (N, D) that lie near their neighbours: one wrong one bends a spline."""
    if len(motion) < _LEAST_SAMPLES:
        return np.ones(len(motion), bool)
    off = np.linalg.norm(motion - median_filter(motion, size=(_NEIGHBOURS, 1), mode="nearest"), axis=1)
    whole = float(np.linalg.norm(np.ptp(np.percentile(motion, (5, 95), axis=0), axis=0)))
    return np.asarray(off <= max(_GLITCH_SPREADS * float(np.median(off)), _GLITCH_SHARE * whole, 1e-9))


def _principal(motion: Matrix) -> Matrix:
    """Projection of (N, D) onto the direction of largest variation, whose largest component is positive."""
    if len(motion) < 2:
        return motion[:, 0] if motion.size else np.zeros(0)
    motion = motion - motion.mean(axis=0)
    axis = np.linalg.svd(motion, full_matrices=False)[2][0]
    axis = axis * np.sign(axis[np.abs(axis).argmax()])
    return np.asarray(motion @ axis)


def _image_motion(
    times_s: Matrix, image: Array, x_times: Matrix, x: Matrix, max_lag_s: float
) -> tuple[Matrix, Matrix, list[int]]:
    """Times, motion and invalid rows of images. The motion is that of the whole image or of a moving object, whichever
    correlates better with the tracker at any lag."""
    valid = np.isfinite(image).all(axis=tuple(range(1, image.ndim)))
    rows = np.flatnonzero(valid)
    rejected = np.flatnonzero(~valid).tolist()
    if not len(rows):
        return times_s[rows], np.zeros(0), rejected
    if image.ndim == 1:
        return times_s[rows], np.asarray(image[rows], np.float64), rejected
    pictures, factor = _reduced(image[rows])
    spectra, shape = _spectra(pictures), pictures.shape[1:]
    candidates = (_shifts(spectra, shape), _steps(spectra, shape), _moving(pictures))
    motions = [_principal(factor * each) for each in candidates]
    if len(x) >= _LEAST_SAMPLES and len(rows) >= _LEAST_SAMPLES:
        spline = CubicSpline(x_times, x)
        lags = np.arange(-max_lag_s, max_lag_s, 5 * _STEP_S)
        likeness = [max(abs(_correlation(spline, x_times, times_s[rows], y, lag)) for lag in lags) for y in motions]
        return times_s[rows], motions[int(np.argmax(likeness))], rejected
    return times_s[rows], motions[0], rejected


def _reduced(image: Array) -> tuple[Array, float]:
    """Images (M, H, W) float32, reduced to a size that still shows motion, and the factor of reduction."""
    factor = max(1, int(np.ceil(max(image.shape[1:]) / _LARGEST_PX)))
    size = (image.shape[2] // factor, image.shape[1] // factor)
    return np.array(
        [cv2.resize(p.astype(np.float32), size, interpolation=cv2.INTER_AREA) for p in image], np.float32
    ), float(factor)


def _spectra(pictures: Array) -> Array:
    """Spectra of the images' middle, high-pass filtered against changes of brightness."""
    window = cv2.createHanningWindow(pictures.shape[:0:-1], cv2.CV_32F)
    sigma = max(pictures.shape[1:]) / 8
    return np.array([np.fft.rfft2((each - cv2.GaussianBlur(each, (0, 0), sigma)) * window) for each in pictures])


def _shift(a: Array, b: Array, shape: tuple[int, int]) -> tuple[float, float]:
    """Shift (u, v) px between two images, at the peak of their correlation. Phase correlation would weigh all
    frequencies equally, most of which are only noise in smooth images."""
    surface = np.fft.irfft2(b * np.conj(a), shape)
    v, u = np.unravel_index(surface.argmax(), shape)

    def top(before: float, here: float, after: float) -> float:
        bend = before - 2 * here + after
        return 0.5 * (before - after) / bend if bend < 0 else 0.0

    height, width = shape
    du = top(surface[v, u - 1], surface[v, u], surface[v, (u + 1) % width])
    dv = top(surface[v - 1, u], surface[v, u], surface[(v + 1) % height, u])
    return (float(u) + width / 2) % width - width / 2 + du, (float(v) + height / 2) % height - height / 2 + dv


def _shifts(spectra: Array, shape: tuple[int, int]) -> Matrix:
    """Shift of each image relative to the one in the middle of the series, (M, 2) px."""
    reference = spectra[len(spectra) // 2]
    return np.array([_shift(reference, each, shape) for each in spectra])


def _steps(spectra: Array, shape: tuple[int, int]) -> Matrix:
    """The same as the sum of shifts between neighbours, for motions larger than an image."""
    steps = [_shift(a, b, shape) for a, b in pairwise(spectra)]
    return np.cumsum(np.array([(0.0, 0.0), *steps]), axis=0)


def _moving(pictures: Array) -> Matrix:
    """Centroid of the differences from the median image, (M, 2) px."""
    off = np.abs(pictures - np.median(pictures, axis=0))
    off = np.maximum(off - 3 * np.median(off) - 0.1 * off.max(axis=(1, 2), keepdims=True), 0)
    total = np.maximum(off.sum(axis=(1, 2)), 1e-9)
    v, u = np.arange(off.shape[1]), np.arange(off.shape[2])
    return np.stack([(off.sum(axis=1) @ u) / total, (off.sum(axis=2) @ v) / total], axis=1)


def _correlation(spline: CubicSpline, x_times: Matrix, y_times: Matrix, y: Matrix, lag: float) -> float:
    """Correlation of the image's motion with the tracker's, interpolated at the image's times."""
    at = y_times - lag
    inside = (at >= x_times[0]) & (at <= x_times[-1])
    if inside.sum() < _LEAST_SAMPLES:
        return 0.0
    a, b = spline(at[inside]), y[inside]
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-12 else 0.0


def _peak(lags: Matrix, size: Matrix, best: int) -> float:
    """The peak of the parabola through the largest value and its neighbours."""
    if not 0 < best < len(size) - 1:
        return float(lags[best])
    before, here, after = size[best - 1 : best + 2]
    bend = before - 2 * here + after
    return float(lags[best] + (0.0 if bend >= 0 else 0.5 * (before - after) / bend) * (lags[1] - lags[0]))


def _second_peak(size: Matrix, best: int) -> float:
    """The second-largest local maximum; 0 if there is none."""
    inner = np.flatnonzero((size[1:-1] >= size[:-2]) & (size[1:-1] > size[2:])) + 1
    ends = [at for at, other in ((0, 1), (len(size) - 1, len(size) - 2)) if size[at] > size[other]]
    return float(max((size[at] for at in [*inner, *ends] if abs(int(at) - best) > 1), default=0.0))


def _sigma_s(spline: CubicSpline, x_times: Matrix, y_times: Matrix, y: Matrix, lag: float) -> float:
    """Standard error of the lag, the third unknown of a regression beside scale and offset."""
    at = y_times - lag
    inside = (at >= x_times[0]) & (at <= x_times[-1])
    if inside.sum() < _LEAST_SAMPLES:
        return float("inf")
    at, seen = at[inside], y[inside]
    design = np.stack([spline(at), np.ones(len(at))], axis=1)
    (scale, offset), *_ = np.linalg.lstsq(design, seen, None)
    residual = seen - scale * design[:, 0] - offset
    slope = np.concatenate([design, (-scale * spline(at, 1))[:, None]], axis=1)
    variance = float(residual @ residual) / max(len(at) - 3, 1)
    inverse = np.linalg.pinv(slope.T @ slope)
    return float(np.sqrt(max(variance * inverse[2, 2], 0.0))) if abs(scale) > 0 else float("inf")
