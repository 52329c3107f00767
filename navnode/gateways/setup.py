"""Finds out how a C-arm shows X-rays in its video: field, text, curve, holds, fields of interlaced lines, orientation.

Everything is found from what changes: an X-ray has the noise of its quanta, a display's frame and text have not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np

from navnode.config import VideoSource
from navnode.errors import NavError
from navnode.gateways import field
from navnode.gateways.pictures import Converter, grey_of
from navnode.gateways.video import opened
from navnode.types import Array, FloatArray

__all__ = ["ORIENTATIONS", "CArmFindings", "Seen", "draw", "find", "oriented_like", "watch"]

_MOST_PAIRS_BYTES = 1 << 28
_PAIRS = 96
_COARSE = 8
"""Every so many pixels of each picture are kept."""
_FEWEST_PAIRS = 8
_COMBED = 1.5
_LEAST_GAP, _GAP_OF_USUAL = 0.15, 6.0
"""Of sorted logarithms, between pictures that are held and others."""
_ABOVE_STATIC, _CODED = 2.0, 0.7
"""Times the noise of the display's frame, part of which black has cut off, and grey levels of compression more, that a
held X-ray may have."""
_GAMMAS = (0.5, 4.0)
_BLOCK = 8
_CLEAR = 1.6
"""How many times better one reading must explain the noise than the other to be believed."""
_ALIKE = 0.4
"""So far from a gamma of 2 noise grows or falls clearly with grey values."""
ORIENTATIONS = tuple((turned_deg, mirrored) for mirrored in (False, True) for turned_deg in (0, 90, 180, 270))
_LEAST_LIKE, _LIKE_AHEAD = 0.3, 0.1


class Seen(NamedTuple):
    """Pictures of a stream, grey, whole."""

    pairs: list[tuple[Array, Array]]
    """(H, W) uint8: two that follow each other, from all of the time."""
    coarse: list[Array]
    """Every picture, (H / 8, W / 8)."""
    times_s: list[float]
    """When each was captured."""


class CArmFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; what was not is None, with a line that says why."""

    size_px: tuple[int, int]
    """Width and height of the whole picture."""
    rate_hz: float
    interlaced: bool
    region: tuple[int, int, int, int]
    field_px: tuple[float, float, float] | None
    masks: tuple[tuple[int, int, int, int], ...]
    black: int
    white: int
    gamma: float | None
    """Grey values rise as counts to the power of 1 / gamma; no unit."""
    inverted: bool | None
    held_noise: float | None
    """Of capture, grey levels; None: no exposure was held."""
    held_share: float
    """Of the pictures, that repeat an exposure."""
    exposures_per_s: float
    steps: int
    """How often the whole picture became brighter or darker at once: dose control at work."""
    turned_deg: int | None = None
    mirrored: bool | None = None
    lines: tuple[str, ...] = ()

    def preset(self) -> dict[str, Any]:
        """Keys of :class:`VideoSource`, for a preset."""
        found: dict[str, Any] = {"picture_px": list(self.size_px)}
        found |= {"region": list(self.region), "black": self.black, "white": self.white}
        found |= {"held_noise": round(self.held_noise, 2)} if self.held_noise is not None else {}
        found |= {"interlace": "bob"} if self.interlaced else {}
        found |= {"field_px": [round(value, 1) for value in self.field_px]} if self.field_px else {}
        found |= {"masks": [list(mask) for mask in self.masks]} if self.masks else {}
        found |= {"gamma": round(self.gamma, 2)} if self.gamma is not None else {}
        found |= {"inverted": True} if self.inverted else {}
        found |= {"turned_deg": self.turned_deg} if self.turned_deg else {}
        found |= {"mirrored": True} if self.mirrored else {}
        return found


def watch(source: VideoSource, seconds: float, progress: Callable[[float], None] = lambda share: None) -> Seen:
    """Watch a stream.

    Args:
        seconds: how long; a file ends it earlier, and is read as fast as it can be.
        progress: called with the share that is done.

    Raises:
        NavError: it cannot be opened, or ends too early.
    """
    capture = opened(source)
    if not capture.isOpened():
        raise NavError(f"{source.shown}: cannot be opened (not there, in use, or not video)")
    seen = Seen([], [], [])
    rate_hz = float(capture.get(cv2.CAP_PROP_FPS) or 25.0)
    began_s, last, number = time.monotonic(), None, 0
    try:
        while True:
            done, picture = capture.read()
            at_s = number / rate_hz if source.is_file else time.monotonic() - began_s
            if not done or at_s > seconds:
                break
            grey = grey_of(np.asarray(picture), source.grey)
            seen.coarse.append(grey[::_COARSE, ::_COARSE].copy())
            seen.times_s.append(at_s)
            most = max(_FEWEST_PAIRS, min(_PAIRS, _MOST_PAIRS_BYTES // (2 * grey.size)))
            if last is not None and at_s >= len(seen.pairs) * seconds / most:
                seen.pairs.append((last, grey))
            last, number = grey, number + 1
            progress(at_s / seconds)
    finally:
        capture.release()
    if len(seen.pairs) < _FEWEST_PAIRS:
        raise NavError(f"{source.shown}: only {number} pictures in {seconds:g} s; too few to find anything")
    return seen


def find(seen: Seen, inverted: bool | None = None) -> CArmFindings:
    """What pictures show of the display, and of the curve.

    Args:
        inverted: whether radiation is dark, if a person has seen it; None: by the noise.

    Raises:
        ComputeError: nothing changes in them that could be an X-ray.
    """
    lines: list[str] = []
    height, width = seen.pairs[0][0].shape
    activity = field.activity_of(seen.pairs)
    shape = field.shape_of(activity)
    region, field_px = field.field_of(shape)
    x, y, w, h = region
    inside = field.inside_of(region, field_px)
    apart = _steps_between(seen, region, inside)
    static = field.static_in(activity, shape)
    limit, held_noise = _holds(apart)
    if static is not None and held_noise > _ABOVE_STATIC * static + _CODED:
        limit, held_noise = 0.0, 0.0  # two kinds of exposures, as when the dose changes: a held one is as quiet as that
    held = apart < limit
    exposures = [(a, b) for a, b in seen.pairs if _change(a, b, region, inside) > limit]
    interlaced = _is_interlaced(seen, region)
    black, white = _levels(seen, shape, region, inside)
    if not limit:
        lines.append("no exposure was held: how a held one looks is not known (held_noise)")
    gamma, inverted = _curve(exposures, held_noise, region, inside, (black, white), inverted, lines)
    elapsed_s = max(seen.times_s[-1] - seen.times_s[0], 1e-3)
    rate_hz = (len(seen.times_s) - 1) / elapsed_s
    share = float(held.mean()) if len(held) else 0.0
    return CArmFindings(
        size_px=(width, height),
        rate_hz=round(rate_hz, 2),
        interlaced=interlaced,
        region=region,
        field_px=field_px,
        masks=field.texts_in(activity[y : y + h, x : x + w], inside, max(held_noise, static or 0.0)),
        black=black,
        white=white,
        gamma=gamma,
        inverted=inverted,
        held_noise=held_noise if limit else None,
        held_share=round(share, 3),
        exposures_per_s=round(rate_hz * (1 - share), 2),
        steps=_brightness_steps(seen, region, inside, held),
        lines=tuple(lines),
    )


def _change(first: Array, second: Array, region: tuple[int, int, int, int], inside: Array) -> float:
    """As :func:`_steps_between`, of two whole pictures."""
    x, y, w, h = region
    a, b = (picture[y : y + h, x : x + w][inside].astype(np.float32) for picture in (first, second))
    return float(np.sqrt(np.mean((b - a) ** 2)))


def _steps_between(seen: Seen, region: tuple[int, int, int, int], inside: Array) -> FloatArray:
    """Root mean square of the change from each picture to the next, within the X-ray."""
    parts = [part.astype(np.float32) for part in _coarse_parts(seen, region, inside)]
    return np.array([float(np.sqrt(np.mean((b - a) ** 2))) for a, b in pairwise(parts)])


def _coarse_parts(seen: Seen, region: tuple[int, int, int, int], inside: Array) -> list[Array]:
    x, y, w, h = region
    height, width = seen.pairs[0][0].shape
    whole = np.zeros((height, width), bool)
    whole[y : y + h, x : x + w] = inside
    chosen = whole[::_COARSE, ::_COARSE]
    return [picture[chosen] for picture in seen.coarse]


def _holds(apart: FloatArray) -> tuple[float, float]:
    """The change below which a picture repeats the one before, 0 where none does, and the noise of capture.

    Changes from picture to picture are of two kinds where exposures are held: sorted, there is a gap between them that
    stands out.
    """
    ordered = np.sort(apart)
    logs = np.log(np.maximum(ordered, 0.02))
    few = max(2, len(ordered) // 50)
    gaps = np.diff(logs)[few:-few] if len(logs) > 2 * few + 1 else np.zeros(0)
    if not len(gaps) or gaps.max() < max(_LEAST_GAP, _GAP_OF_USUAL * float(np.percentile(gaps, 95))):
        return 0.0, 0.0
    at = few + int(np.argmax(gaps))
    limit = float(np.sqrt(max(ordered[at], 0.02) * ordered[at + 1]))
    # Both pictures have it; rounding to whole levels adds a twelfth to each.
    variance = float(np.median(apart[apart < limit])) ** 2 / 2 - 1 / 12
    return limit, float(np.sqrt(max(variance, 0.0)))


def _is_interlaced(seen: Seen, region: tuple[int, int, int, int]) -> bool:
    """Whether even and odd lines show different moments: parts of them differ, as lines of one field do not."""
    x, y, w, h = region
    combed = []
    for first, _ in seen.pairs:
        part = first[y - y % 2 : y + h, x : x + w].astype(np.float32)
        combed.append(_apart_by_lines(part) / max(_apart_by_lines(part[::2]), 1e-3))
    return float(np.percentile(combed, 75)) > _COMBED


def _apart_by_lines(part: FloatArray) -> float:
    """How far parts of even and odd lines are apart: root mean square over blocks, grey levels."""
    lines = part[: len(part) // 2 * 2]
    even, odd = lines[:-2:2], lines[1:-2:2]
    below = lines[2::2]
    apart = odd - (even + below) / 2  # an odd line, and where it would be by the even ones
    blocks = max(1, part.shape[1] // 16), max(1, len(apart) // 8)
    return float(np.sqrt(np.mean(cv2.resize(apart, blocks, interpolation=cv2.INTER_AREA) ** 2)))


def _levels(seen: Seen, shape: Array, region: tuple[int, int, int, int], inside: Array) -> tuple[int, int]:
    """Grey values of black and white: 16 and 235, as video has them, where all lies between, else 0 and 255."""
    x, y, w, h = region
    some = seen.pairs[:: max(1, len(seen.pairs) // 16)]
    values = np.concatenate([first[y : y + h, x : x + w][inside][::7] for first, _ in some])
    around = np.concatenate([first[shape == 0][::7] for first, _ in seen.pairs[:4]]) if (shape == 0).any() else values
    darkest = min(float(np.percentile(values, 0.1)), float(np.percentile(around, 1)))
    brightest = max(float(np.percentile(values, 99.9)), float(np.percentile(around, 99)))
    limited = 12 <= darkest <= 24 and brightest <= 240
    return (16, 235) if limited else (0, 255)


def _curve(
    pairs: list[tuple[Array, Array]],
    held_noise: float,
    region: tuple[int, int, int, int],
    inside: Array,
    black_and_white: tuple[int, int],
    seen_inverted: bool | None,
    lines: list[str],
) -> tuple[float | None, bool | None]:
    """Gamma, and whether radiation is dark, from how noise grows with grey values.

    The variance of counts is proportional to them (Poisson). Through v = c^(1/g) noise becomes proportional to
    v^(1 - g/2): its logarithm is a line over that of v, whatever the dose, and whatever filters do to all of it.
    """
    x, y, w, h = region
    black, white = black_and_white
    means, noises = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for first, second in pairs:
        a, b = (picture[y : y + h, x : x + w].astype(np.float32) for picture in (first, second))
        blocks = max(1, w // _BLOCK), max(1, h // _BLOCK)
        mean, shift, square = (
            cv2.resize(each, blocks, interpolation=cv2.INTER_AREA) for each in ((a + b) / 2, b - a, (b - a) ** 2)
        )
        fine = cv2.resize(inside.astype(np.uint8) * 255, blocks, interpolation=cv2.INTER_AREA) == 255
        noise = np.sqrt(np.maximum((square - shift**2) / 2 - held_noise**2 - 1 / 12, 0))
        # Blocks in which something moved, or nothing was exposed, say nothing of quanta.
        fine &= (np.abs(shift) < 0.7 * np.maximum(noise, 0.5)) & (noise > 0.6)
        fine &= (mean > black + 0.05 * (white - black)) & (mean < white - 0.05 * (white - black))
        means.append(mean[fine])
        noises.append(noise[fine])
    share = np.asarray((np.concatenate(means) - black) / (white - black), np.float32)
    noise = np.concatenate(noises)
    if len(share) < 500:
        lines.append("gamma is not known: too little of the X-ray stands still from one picture to the next")
        return None, seen_inverted
    fits = {}
    for inverted in (False, True) if seen_inverted is None else (seen_inverted,):
        fits[inverted] = _line_of_noise(1 - share if inverted else share, noise)
    known = {inverted: fit for inverted, fit in fits.items() if fit is not None and _GAMMAS[0] <= fit[0] <= _GAMMAS[1]}
    if not known:
        lines.append("gamma is not known: grey values differ too little, or noise does not follow them")
        return None, seen_inverted
    best = min(known.values(), key=lambda fit: fit[1])
    clear = len(known) < 2 or max(fit[1] for fit in known.values()) > _CLEAR * best[1]
    if seen_inverted is None and not (clear and abs(best[0] - 2) > _ALIKE):  # at 2 noise is the same everywhere
        lines.append("whether radiation is dark is not clear from the noise; taken for bright (else --inverted)")
        return known.get(False, best)[0], None
    inverted = min(known, key=lambda each: known[each][1])
    return known[inverted][0], inverted


def _line_of_noise(share: FloatArray, noise: FloatArray) -> tuple[float, float] | None:
    """(gamma, error of the fit) for radiation shown as shares (N,) of white; None: they span too little."""
    low, high = np.percentile(share, (2, 98))
    if high < 1.6 * low:
        return None
    edges = np.geomspace(low, high, 17)
    at, levels, counts = [], [], []
    for left, right in pairwise(edges):
        chosen = (share >= left) & (share < right)
        if chosen.sum() >= 20:
            at.append(float(np.log(np.median(share[chosen]))))
            # Motion only adds: the lower half is noise.
            levels.append(float(np.log(max(float(np.percentile(noise[chosen], 40)), 0.1))))
            counts.append(float(chosen.sum()))
    if len(at) < 5:
        return None
    weights = np.sqrt(np.minimum(counts, 400))
    slope, offset = np.polyfit(at, levels, 1, w=weights)
    off = np.array(levels) - (slope * np.array(at) + offset)
    return float(2 * (1 - slope)), float(np.sqrt(np.average(off**2, weights=weights**2)))


def _brightness_steps(seen: Seen, region: tuple[int, int, int, int], inside: Array, held: Array) -> int:
    """How often exposures became brighter or darker all at once."""
    medians = np.array([float(np.median(part)) for part in _coarse_parts(seen, region, inside)])
    exposed = np.concatenate([[True], ~held]) if len(held) == len(medians) - 1 else np.ones(len(medians), bool)
    steps = np.abs(np.diff(medians[exposed]))
    usual = max(float(np.median(steps)), 0.5) if len(steps) else 0.5
    return int((steps > 8 * usual).sum())


def oriented_like(findings: CArmFindings, seen: Seen, counts: Array) -> tuple[int, bool] | None:
    """How the display is turned (clockwise, undone by ``turned_deg``) and mirrored, from an X-ray of the same scene.

    Args:
        counts: (H, W) as the detector has it, from DICOM for instance.

    Returns:
        None: no orientation is clearly more alike than the others.
    """
    keys = {key: value for key, value in findings.preset().items() if key not in ("turned_deg", "mirrored", "masks")}
    keys.pop("interlace", None)
    side = 96
    wanted = _standard(cv2.resize(counts.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA))
    scores = []
    for turned_deg, mirrored in ORIENTATIONS:
        source = msgspec.convert(
            {"type": "video", "device": "0", **keys, "turned_deg": turned_deg, "mirrored": mirrored}, VideoSource
        )
        converter = Converter(source)
        best = -1.0
        for first, _ in seen.pairs[:: max(1, len(seen.pairs) // 12)]:
            shown = converter.counts(converter.greys(first)[0])
            small = _standard(cv2.resize(shown.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA))
            best = max(best, float(np.mean(small * wanted)))
        scores.append(best)
    order = np.argsort(scores)
    if scores[order[-1]] < _LEAST_LIKE or scores[order[-1]] - scores[order[-2]] < _LIKE_AHEAD:
        return None
    return ORIENTATIONS[int(order[-1])]


def _standard(values: FloatArray) -> FloatArray:
    """Logarithms within the inscribed circle, of mean 0 and variance 1."""
    side = len(values)
    v, u = np.ogrid[:side, :side]
    disc = (u - side / 2) ** 2 + (v - side / 2) ** 2 < (0.45 * side) ** 2
    logs = np.log(np.maximum(values, 1e-3 * float(values.max()) + 1e-6))
    logs -= logs[disc].mean()
    logs /= max(float(logs[disc].std()), 1e-6)
    return np.asarray(np.where(disc, logs, 0) * np.sqrt(disc.size / disc.sum()), np.float32)


def draw(findings: CArmFindings, seen: Seen) -> Array:
    """A picture (H, W, 3) of the display with what was found: region, round field, text."""
    picture = cv2.cvtColor(seen.pairs[len(seen.pairs) // 2][0], cv2.COLOR_GRAY2BGR)
    x, y, w, h = findings.region
    cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), (0, 200, 255), 2)
    if findings.field_px:
        u, v, radius = findings.field_px
        cv2.circle(picture, (round(x + u), round(y + v)), round(radius), (0, 255, 0), 2)
    for x0, y0, w0, h0 in findings.masks:
        cv2.rectangle(picture, (x + x0, y + y0), (x + x0 + w0 - 1, y + y0 + h0 - 1), (80, 80, 255), 2)
    return np.asarray(picture)
