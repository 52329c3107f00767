"""Flat-field calibration: dark image, gain and bad pixels of a detector."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from scipy.ndimage import median_filter

from navnode.errors import ConfigError
from navnode.files.artifacts import FLATFIELD, FlatFieldResult
from navnode.types import Array, FloatArray

from .verdict import TOO_FEW, Calibration, Gate, Gates, judged

__all__ = ["flatfield"]

GATES = (
    Gate("n_dark", 5, TOO_FEW, "the number of dark images", "take more, without X-rays", at_least=True),
    Gate("n_flat", 5, TOO_FEW, "the number of flat images", "take more, with nothing in the beam", at_least=True),
    Gate("saturated_fraction", 0.001, "saturated", "the share of saturated pixels", "expose less"),
    Gate(
        "i0",
        0,
        "no_signal",
        "the flat images' signal",
        "expose more; are dark and flat swapped?",
        "counts",
        at_least=True,
    ),
    Gate(
        "shadow_fraction",
        0.03,
        "shadow",
        "the share of the picture that is in a shadow, or too bright",
        "open the collimator, and keep everything out of the beam",
    ),
    Gate("bad_fraction", 0.02, "bad_pixels", "the share of bad pixels", "have the detector serviced"),
    Gate(
        "drift", 0.02, "drift", "the change from the first to the last flat image", "let the tube warm up, and repeat"
    ),
    Gate(
        "nonuniformity",
        0.01,
        "residual",
        "the remaining pattern after correction",
        "keep everything out of the beam, and repeat",
    ),
)
_LISTED = 4096
_LEAST_SIGNAL = 50.0
"""Smallest signal of a flat image, as a multiple of the dark images' noise."""
_AROUND_PX = 15
_DARK_SIGMAS, _NOISE_TIMES = 12.0, 8.0
_LEAST_GAIN, _MOST_GAIN = 0.5, 2.0
"""Response of a good pixel relative to its neighbourhood."""
_LEAST_SHARE, _MOST_SHARE = 0.4, 2.5
"""Response relative to the median, beyond which something is in the beam, or was for the rest of the picture."""


def flatfield(
    dark: Array, flat: Array, *, saturation: float | None = None, gates: Gates | None = None
) -> Calibration[FlatFieldResult]:
    """Find corrected = (raw - dark) * gain; bad pixels are replaced by their neighbours.

    Args:
        dark, flat: (N, H, W) counts.
        saturation: counts at which a pixel is saturated; None: 2^n - 1, if the flat images reach such a value.

    Raises:
        ConfigError: the images are not stacks.
    """
    if dark.ndim != 3 or flat.ndim != 3:
        raise ConfigError("--dark and --flat must be stacks (N, H, W)")
    quality: dict[str, object] = {
        "n_input": len(dark) + len(flat),
        "n_used": len(dark) + len(flat),
        "rejected": [],
        "n_dark": len(dark),
        "n_flat": len(flat),
        **dict.fromkeys(
            ("bad_fraction", "shadow_fraction", "saturated_fraction", "nonuniformity", "noise_counts", "drift")
        ),
    }
    if dark.shape[1:] != flat.shape[1:]:
        reason = (
            f"shape: dark images have {dark.shape[2]} x {dark.shape[1]} pixels, flat ones {flat.shape[2]} x "
            f"{flat.shape[1]}, at most one size is allowed; take both in the same detector mode"
        )
        return judged(FLATFIELD, GATES, gates, {"i0": None}, result=None, quality=quality, reason=reason)
    if min(len(dark), len(flat)) < 2:
        return judged(FLATFIELD, GATES, gates, {"i0": None}, result=None, quality=quality)
    offset, noise = _mean(dark), _deviation(dark)
    response = _mean(flat) - offset
    bad = _bad(offset, noise, response, _deviation(flat))
    good = ~bad
    noise_counts = max(float(np.median(noise)), 1e-3)
    i0 = float(np.median(response[good])) if good.any() else 0.0
    top = saturation if saturation is not None else _full_scale(flat)
    levels = [float(np.median(picture - offset)) for picture in (flat[0], flat[-1])]
    gain = _gain(response, i0)
    quality |= {
        "bad_fraction": float(bad.mean()),
        "shadow_fraction": _shadowed(response, i0, good),
        "saturated_fraction": float(np.mean([(picture >= top).mean() for picture in flat])),
        "nonuniformity": _nonuniformity(flat, offset, good),
        "noise_counts": noise_counts,
        "drift": abs(levels[1] - levels[0]) / max(abs(i0), 1e-9),
    }
    pixels = tuple((int(u), int(v)) for v, u in np.argwhere(bad)[:_LISTED])
    return judged(
        FLATFIELD,
        GATES,
        {"i0": _LEAST_SIGNAL * noise_counts, **(gates or {})},
        {"i0": i0},
        result=FlatFieldResult(None, i0, pixels),
        quality=quality,
        arrays={"dark": offset, "gain": np.where(bad, 1.0, gain).astype(np.float32), "bad": bad},
        pictures=[("picture", {"dark": offset, "gain": gain, "bad": bad.astype(np.float32)})],
    )


def _mean(stack: Array) -> FloatArray:
    total = np.zeros(stack.shape[1:], np.float64)
    for picture in stack:
        total += picture
    return (total / len(stack)).astype(np.float32)


def _deviation(stack: Array) -> FloatArray:
    """Noise of every pixel: the median change between consecutive images, minus that of the whole image."""
    changes = np.empty((len(stack) - 1, *stack.shape[1:]), np.float32)
    for change, (before, after) in zip(changes, pairwise(stack), strict=True):
        np.subtract(after, before, out=change, dtype=np.float32)
        change -= np.median(change)
        np.abs(change, out=change)
    return np.asarray(1.4826 / np.sqrt(2) * np.median(changes, axis=0), np.float32)


def _around(image: FloatArray) -> FloatArray:
    """Median of every pixel's neighbourhood, computed on every fourth pixel."""
    small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_NEAREST)
    smooth = median_filter(small, size=max(_AROUND_PX // 4 * 2 + 1, 3), mode="nearest")
    median: FloatArray = cv2.resize(smooth, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return median


def _bad(offset: FloatArray, noise: FloatArray, response: FloatArray, flat_noise: FloatArray) -> Array:
    """Mask of pixels that stand out in dark images, respond unlike their neighbours, are stuck or are too noisy."""
    off = np.abs(offset - _around(offset))
    ordinary = 1.4826 * float(np.median(off)) + float(np.median(noise))
    share = response / np.maximum(_around(response), 1e-3)
    answers = (share > _LEAST_GAIN) & (share < _MOST_GAIN)
    stuck = (flat_noise == 0) & (float(np.median(flat_noise)) > 0)
    restless = np.maximum(
        noise / max(float(np.median(noise)), 0.3), flat_noise / max(float(np.median(flat_noise)), 0.3)
    )
    return np.asarray((off > _DARK_SIGMAS * max(ordinary, 0.3)) | ~answers | stuck | (restless > _NOISE_TIMES))


def _gain(response: FloatArray, i0: float) -> FloatArray:
    return np.asarray(i0 / np.where(response > 1e-3 * max(i0, 1e-9), response, np.inf), np.float32)


def _shadowed(response: FloatArray, i0: float, good: Array) -> float:
    """Share of the good pixels that see far less, or more, than their median."""
    share = response[good] / max(i0, 1e-9)
    return float(((share < _LEAST_SHARE) | (share > _MOST_SHARE)).mean()) if len(share) else 0.0


def _nonuniformity(flat: Array, offset: FloatArray, good: Array) -> float | None:
    """Standard deviation over mean of later flat images, corrected with earlier ones, without noise.

    Two corrected images, each from other images and another gain, have only their pattern in common.
    """
    half = len(flat) // 2
    early, late = flat[:half], flat[half:]
    if min(len(early), len(late)) < 2 or not good.any():
        return None
    pairs = []
    for start in (0, 1):
        response = _mean(early[start::2]) - offset
        corrected = (_mean(late[start::2]) - offset) * _gain(response, float(np.median(response[good])))
        pairs.append(corrected[good] / float(corrected[good].mean()) - 1)
    return float(np.sqrt(max(float(np.mean(pairs[0] * pairs[1])), 0.0)))


def _full_scale(flat: Array) -> float:
    """2^n - 1 if the images reach exactly that, otherwise 65535."""
    top = float(flat.max())
    bits = np.log2(top + 1) if top > 0 else 0.5
    return top if bits >= 8 and float(bits).is_integer() else 65535.0
