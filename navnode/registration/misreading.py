"""Whether an image was read out of its detector the wrong way: inverted, mirrored or turned by 90 degrees."""

from __future__ import annotations

from navnode.registration.appearance import XrayImage
from navnode.registration.fit import Fit, Inspection
from navnode.registration.quality import INVERTED, Doubt, doubt
from navnode.registration.search import NEAR, find_pose, rank
from navnode.registration.tracking import ImageRegistration
from navnode.types import Matrix, Status

__all__ = ["unless_misread"]

_MISREAD_LIKENESS = 0.01
"""Difference in similarity on small images; even there the right reading of a mirrored image is the better one."""

_INVERTED_SIMILARITY = 0.9
"""On small images; mirrored, turned and empty images that seem inverted stay below 0.8."""


def unless_misread(
    verdict: tuple[Status, str],
    registration: ImageRegistration,
    image: XrayImage,
    start_volume_from_carm: Matrix,
    pivot_mm: float,
    fit: Fit,
    inspection: Inspection,
) -> tuple[Status, str]:
    """The verdict on a fit that was searched, unless the image fits better read the other way.

    Args:
        start_volume_from_carm: where the search began, 4x4.
    """
    at = registration, image, start_volume_from_carm, pivot_mm
    if verdict[0] is Status.INVALID and _inverted(*at):
        return INVERTED
    if verdict[0] is Status.VALID and _misread(*at, fit, inspection):
        return (
            Status.INVALID,
            "mirrored or turned, the image fits better: is the detector read out the right way round?",
        )
    return verdict


def _inverted(
    registration: ImageRegistration, image: XrayImage, start_volume_from_carm: Matrix, pivot_mm: float
) -> bool:
    """Whether an image that a search could not place resembles, near its start, the volume with bright bone."""
    fit = registration.glance(image, start_volume_from_carm, pivot_mm)
    return fit.appearance.contrast < 0 and fit.similarity >= _INVERTED_SIMILARITY


def _misread(
    registration: ImageRegistration,
    image: XrayImage,
    start_volume_from_carm: Matrix,
    pivot_mm: float,
    fit: Fit,
    inspection: Inspection,
) -> bool:
    """Whether an image whose fit leaves doubt fits better mirrored or turned."""
    doubtful = doubt(fit, inspection)
    if doubtful is Doubt.NONE:
        return False
    others = image.misread()
    if doubtful is Doubt.LITTLE:  # search only readings that fit about as well on small images
        enough = registration.glance(image, fit.volume_from_carm, pivot_mm).similarity - _MISREAD_LIKENESS
        others = (
            other
            for other in others
            if registration.glance(other, start_volume_from_carm, pivot_mm).similarity >= enough
        )
    fits = (find_pose(registration, other, start_volume_from_carm, pivot_mm, NEAR).fit for other in others)
    return any(rank(other) < rank(fit) for other in fits)
