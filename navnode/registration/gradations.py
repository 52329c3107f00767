"""Registration of pictures of unknown gradation: each is tried until one fits (:mod:`~navnode.xray.gradation`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from navnode.registration.appearance import XrayImage
from navnode.types import Array, CArm, Effort, Status
from navnode.xray.gradation import Curve, Gradation, is_picture

__all__ = ["Attempt", "as_read", "best_gradation"]

_CORRECTIONS, _LINEAR, _READABLE = 3, 0.06, 0.8
"""How often the steepness of a gradation is corrected at most; a contrast so near to 1 need not be; similarity from
which on a fit says anything of it."""


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


_Attempt = TypeVar("_Attempt", bound=Attempt)


def best_gradation(
    known: Gradation | None, effort: Effort, attempt: Callable[[Gradation, _Attempt | None, Effort], _Attempt]
) -> tuple[_Attempt, Gradation | None]:
    """The best attempt, and its gradation if it is VALID.

    Args:
        known: the gradation that held for the last picture.
        effort: how far off the start may be.
        attempt: registers the picture by a gradation: from the start, or from an earlier attempt's result.
    """
    tried = [] if known is None else [known]
    tried += [Gradation.first(each) for each in Curve if known is None or each is not known.curve]
    best: _Attempt | None = None
    for gradation in tried:
        made = attempt(gradation, None, effort)
        for _ in range(_CORRECTIONS - 1):
            corrected = gradation.corrected(made.contrast)
            if corrected is None or made.similarity < _READABLE or abs(made.contrast - 1) < _LINEAR:
                break
            gradation = corrected
            made = attempt(gradation, made, Effort.REFINE)
        if best is None or _rank(made) < _rank(best):
            best = made
        if made.status is Status.VALID:
            return made, gradation
        if known is not None and effort is Effort.TRACK:
            break  # a display's gradation does not change from one X-ray to the next
    assert best is not None
    return best, None


def _rank(attempt: Attempt) -> tuple[int, float]:
    return list(Status).index(attempt.status), -attempt.similarity


def as_read(gradation: Gradation | None, counts: Array, carm: CArm) -> XrayImage:
    """An image (H, W) as it was registered.

    Args:
        gradation: that was found for it, if it is a picture of a display.
    """
    if gradation is None or not is_picture(counts):
        return XrayImage(counts, carm)
    return XrayImage(gradation.counts(counts), carm, gradation.dark_share(counts))
