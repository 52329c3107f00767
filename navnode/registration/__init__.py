"""2D/3D registration: where did the C-arm stand relative to the volume when it took this image?

:mod:`tracking` refines a pose that is close, fitting the X-ray chain's effects (:mod:`appearance`) along with it;
:mod:`search` finds a pose from far away, :mod:`joint` registers views that share one motion of the patient,
:mod:`starts` provides starting poses, :mod:`quality` decides whether a result can be trusted. :mod:`single` combines
them for images, :mod:`film` for sequences; :mod:`fusion` tracks the patient's registration over many frames,
:mod:`markers` says whether a marker may have moved, and :mod:`over_time` decides whether the registration may be used.
"""

from navnode.registration.appearance import XrayImage
from navnode.registration.film import FilmRegistration
from navnode.registration.single import (
    distance_mm,
    evidence_in,
    judged_together,
    register,
    register_counts,
    register_jointly,
)
from navnode.registration.tracking import ImageRegistration

__all__ = [
    "FilmRegistration",
    "ImageRegistration",
    "XrayImage",
    "distance_mm",
    "evidence_in",
    "judged_together",
    "register",
    "register_counts",
    "register_jointly",
]
