"""X-rays of files as line integrals with poses, for what is made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from navnode.errors import ConfigError
from navnode.files.views import ViewFile
from navnode.types import View
from navnode.xray.counts import line_integrals, open_beam_counts

__all__ = ["RECONSTRUCTION_PX", "hashes_of", "view_of"]

RECONSTRUCTION_PX = 256
"""Images are averaged down to about this width: still finer than the projection of a voxel."""


_MOST_OVER_BEAM = 1.5
"""How much more than the stated open beam a picture may show: scatter, and a tube that is brighter in its middle."""


def hashes_of(views: Sequence[View]) -> list[str]:
    """SHA-256 of every view's picture.

    Raises:
        ConfigError: two are the same picture, which cannot have been taken from two places.
    """
    found = [hashlib.sha256(view.line_integrals.tobytes()).hexdigest() for view in views]
    for n, one in enumerate(found):
        if one in found[:n]:
            raise ConfigError(f"pictures {found.index(one) + 1} and {n + 1} are the same picture")
    return found


def view_of(file: ViewFile, binning: int = 1) -> View:
    """Line integrals and pose of a view; ``binning`` x ``binning`` pixels are averaged into one.

    Raises:
        ConfigError: the image, its open beam or the pose is missing or wrong.
    """
    counts = file.counts()
    shown = open_beam_counts(counts)
    if file.i0 and shown > _MOST_OVER_BEAM * file.i0:
        more = f"i0 is {file.i0:g}, parts of the picture have {shown:g} counts"
        raise ConfigError(f"{file.name}: {more}: a patient lets no more through than the open beam has")
    i0 = file.i0 or shown
    return View(
        line_integrals(counts, i0, binning, see_lead=True), file.carm.binned(binning), file.pose(), file.timestamp_ns
    )
