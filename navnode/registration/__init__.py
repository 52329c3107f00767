"""2D/3D registration: where did the C-arm stand relative to the volume when it took this image?

:mod:`tracking` refines a pose that is close, fitting what the X-ray chain adds (:mod:`appearance`); :mod:`search` finds
one from far away, :mod:`joint` registers views that share one motion of the patient, :mod:`stations` gives starts,
:mod:`quality` says whether the result may be trusted. :mod:`single` puts them together for images, :mod:`sequence` for
films; :mod:`fusion` keeps the patient's registration over many frames, :mod:`patient` decides whether it may be used.
"""

from navnode.registration.appearance import Image
from navnode.registration.film import Sequence
from navnode.registration.single import distance_mm, register, register_counts, register_jointly
from navnode.registration.tracking import ImageRegistration

__all__ = [
    "Image",
    "ImageRegistration",
    "Sequence",
    "distance_mm",
    "register",
    "register_counts",
    "register_jointly",
]
