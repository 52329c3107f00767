"""The C-arm's own geometry, found together with its poses: focal length and principal point, from X-rays of a CT.

A CT has millimetres, so that perspective alone tells how far the source is from the detector, in pixels: what is nearer
to the source is enlarged more. All views share one focal length and one principal point, and each has its pose; or all
share one motion, if the views' poses relative to each other are known. The image is explained as for a known geometry
(:mod:`appearance`).

:mod:`readout` is how pictures are read, :mod:`starts` where to begin, :mod:`descent` how all is refined, :mod:`verdict`
whether it may be used; :mod:`calibrate` puts them together.
"""

from navnode.registration.carm.calibrate import calibrate
from navnode.registration.carm.descent import ray_derivatives
from navnode.registration.carm.readout import Readout, Shot, focal_px
from navnode.registration.carm.verdict import (
    LEAST_APART_DEG,
    MAX_CENTER_PX,
    MAX_FOCAL,
    MAX_LOCATED_MM,
    Calibrated,
)

__all__ = [
    "Calibrated",
    "LEAST_APART_DEG",
    "MAX_CENTER_PX",
    "MAX_FOCAL",
    "MAX_LOCATED_MM",
    "Readout",
    "Shot",
    "calibrate",
    "focal_px",
    "ray_derivatives",
]
