"""Registration of pictures of unknown gradation: each is tried until one fits (:mod:`~navnode.xray.gradation`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from navnode.registration.appearance import XrayImage, fitted
from navnode.types import Array, CArm, Effort, FloatArray, Status
from navnode.xray.fields import one_moment
from navnode.xray.gradation import Curve, Gradation, is_picture

__all__ = ["Attempt", "as_read", "best_gradation"]

_CORRECTIONS, _LINEAR, _READABLE = 3, 0.06, 0.8
"""How often the steepness of a gradation is corrected at most; a contrast so near to 1 need not be; similarity from
which on a fit says anything of it."""
_BENT_ROUNDS, _BENT_PX, _BENT_TRIALS, _LONGEST_END = 3, 128, 60, 9.0
"""How an S is found: times, from a better pose each; pixels across the picture; trials; the longest toe or shoulder."""
_BENT_FIRST = [(2.0, 2.0), (5.0, 3.0), (3.0, 5.0)]
"""Toes and shoulders that are tried first."""
_BENT_NOISE, _HARDENED, _HARDENED_SIGMA = 0.01, -0.03, 0.02
"""What a right S leaves unexplained (line-integral units); the bend that tube and patient make, and its spread."""
_CAUTION = 0.5
"""Share of a round's bend that the next one corrects: far off, another S fits as well."""


class Attempt(Protocol):
    """A registration with one gradation."""

    @property
    def status(self) -> Status:
        """Of what was registered."""

    @property
    def similarity(self) -> float:
        """Of image and volume, -1..1."""

    @property
    def contrast(self) -> float:
        """That the fit found; 1 if the gradation is right."""

    @property
    def bend(self) -> float:
        """Of the grey-value map, that the fit found; see ``Fit.incredible``."""

    def rendered(self, carm: CArm) -> FloatArray:
        """Line integrals (H, W) of what was registered, at the pose that was found."""


_Attempt = TypeVar("_Attempt", bound=Attempt)


def best_gradation(
    picture: tuple[Array, CArm],
    known: Gradation | None,
    effort: Effort,
    attempt: Callable[[Gradation, _Attempt | None, Effort], _Attempt],
) -> tuple[_Attempt, Gradation | None]:
    """The best attempt, and its gradation if it is VALID.

    Args:
        picture: grey values (H, W), and the C-arm that shows them.
        known: the gradation that held for the last picture.
        effort: how far off the start may be.
        attempt: registers the picture by a gradation: from the start, or from an earlier attempt's result.
    """
    tried = [] if known is None else [known]
    tried += [Gradation.first(each) for each in Curve if known is None or each is not known.curve]
    made: list[tuple[_Attempt, Gradation]] = []
    for gradation in tried:
        made.append(_corrected(attempt(gradation, None, effort), gradation, attempt))
        if made[-1][0].status is Status.VALID:
            return made[-1]
        if known is not None and effort is Effort.TRACK:
            return made[-1][0], None  # a display's gradation does not change from one X-ray to the next
    made += _as_an_s(picture, *max(made, key=lambda each: each[0].similarity), attempt)
    best, gradation = min(made, key=lambda each: _rank(each[0]))
    return best, gradation if best.status is Status.VALID else None


def _as_an_s(
    picture: tuple[Array, CArm],
    like: _Attempt,
    gradation: Gradation,
    attempt: Callable[[Gradation, _Attempt | None, Effort], _Attempt],
) -> list[tuple[_Attempt, Gradation]]:
    """Attempts with an S, from where a picture resembles the volume most, until one is VALID and will be for the next
    picture, too; none: it resembles it nowhere."""
    made: list[tuple[_Attempt, Gradation]] = []
    dark_is_white, aim, contrast = gradation.dark_is_white == (like.contrast > 0), _HARDENED, 1.0
    while like.similarity >= _READABLE and not _settled(like) and len(made) < _BENT_ROUNDS:
        bent = _bent(*picture, dark_is_white, like.rendered, aim)
        bent = bent.corrected(contrast) or bent
        like = attempt(bent, like, Effort.REFINE)
        made.append((like, bent))
        # The whole picture is fitted a little otherwise than the thinned one.
        aim -= _CAUTION * (like.bend - _HARDENED)
        contrast *= min(max(like.contrast, 0.5), 2.0)
    return made


def _corrected(
    made: _Attempt, gradation: Gradation, attempt: Callable[[Gradation, _Attempt | None, Effort], _Attempt]
) -> tuple[_Attempt, Gradation]:
    """The attempt, and its gradation, once that is as steep as fits find it."""
    for _ in range(_CORRECTIONS - 1):
        corrected = gradation.corrected(made.contrast)
        if corrected is None or made.similarity < _READABLE or abs(made.contrast - 1) < _LINEAR:
            break
        made, gradation = attempt(corrected, made, Effort.REFINE), corrected
    return made, gradation


def _bent(
    grey: Array, carm: CArm, dark_is_white: bool, render: Callable[[CArm], FloatArray], hardened: float
) -> Gradation:
    """The S by which a picture shows best what is rendered, through a chain that hardens as most do: how dense bone
    absorbs and how a display bends it look alike.

    Args:
        hardened: bend of that chain.
    """
    from scipy.optimize import minimize  # a fifth of a second, which a node without pictures need not wait for

    every = max(1, round(max(grey.shape) / (2 * _BENT_PX)))
    (u, v), (su, sv) = carm.principal_point_px, carm.pixel_spacing_mm
    thinned = np.ascontiguousarray(grey[::every, ::every])
    height, width = thinned.shape
    seen_by = CArm(width, height, (su * every, sv * every), carm.source_to_detector_mm, (u / every, v / every))
    predicted = render(XrayImage(thinned, seen_by).binned(_BENT_PX)[1]).ravel()
    first = Gradation.first(Curve.FILM if dark_is_white else Curve.LOGARITHM)

    def read(ends: Array) -> tuple[float, Gradation]:
        toe, shoulder = (float(end) for end in np.clip(ends, 0.0, _LONGEST_END))
        bent = replace(first, toe=toe, shoulder=shoulder)
        image = XrayImage(bent.counts(thinned), seen_by)
        found = fitted(image.observed(_BENT_PX), predicted, rounds=4)
        steeper = bent.corrected(found.contrast) or bent
        off = found.noise / max(found.contrast, 1e-3) / _BENT_NOISE, (found.bend - hardened) / _HARDENED_SIGMA
        return float(np.hypot(*off)), steeper

    options = {"maxfev": _BENT_TRIALS, "initial_simplex": _BENT_FIRST, "xatol": 0.02, "fatol": 0.01}
    best = minimize(lambda ends: read(ends)[0], _BENT_FIRST[0], method="Nelder-Mead", options=options)
    return read(best.x)[1]


def _settled(attempt: Attempt) -> bool:
    return attempt.status is Status.VALID and abs(attempt.bend - _HARDENED) < 1.5 * _HARDENED_SIGMA


def _rank(attempt: Attempt) -> tuple[int, bool, bool, float]:
    return list(Status).index(attempt.status), not _settled(attempt), not attempt.contrast > 0, -attempt.similarity


def as_read(gradation: Gradation | None, counts: Array, carm: CArm) -> XrayImage:
    """An image (H, W) as it was registered.

    Args:
        gradation: that was found for it, if it is a picture of a display.
    """
    if gradation is None or not is_picture(counts):
        return XrayImage(counts, carm)
    grey = one_moment(counts)
    return XrayImage(gradation.counts(grey), carm, gradation.dark_share(grey))
