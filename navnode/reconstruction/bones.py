"""Solid bone from a few X-rays: read off each of them, lifted into space and refined there.

Three parts with one job each (:mod:`reading`, :mod:`lift`, :mod:`refining`); here they are put together for a grid, and
judged by their own X-rays: by whether the views can be of one body at all, and by whether the bone that was found would
throw the shadows that were read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode.projector.grids import resample
from navnode.reconstruction import engines
from navnode.reconstruction.lift import disagreement, level, lift
from navnode.reconstruction.reading import Reader, Reading, thickness, view_key
from navnode.reconstruction.refining import Refiner, own_grid
from navnode.reconstruction.surface import Surface, likely_surface
from navnode.types import Grid, View, Volume

__all__ = ["BoneFound", "Bones"]

_CONTRADICTS, _CONTRADICTS_PER_VIEW = 0.6, 0.02
"""Two views that disagree more about what was lifted from them are not of one body where their poses say; more views
may disagree by so much more for each. On validation patients two and four disagree by at most 0.35 with true poses and
with poses off by 1 mm and 1 degree, sixteen by 0.46; bodies unlike anything trained on by 0.54. Of 11
patients it finds a view of another one in 4 and a mirrored view in 7 from four views, in 1 and 0 from two."""
_UNEXPLAINED = 0.7
"""Bone whose shadows are farther off than this from what was read is not to be relied on: on validation patients they
are at most 0.42 off for limbs (Dice 0.70 and more) and 0.64 for heads (0.54 to 0.70), but up to 1.2 for trunks (0.10 to
0.49)."""

_ERROR_SCALE, _BY_STATED, _BY_UNEXPLAINED, _ERROR_95 = 4.5, 0.79, 0.77, 2.6
"""Mean distance from the true surface, by the error that the probabilities state (mm) and by what is unexplained:
fitted in logarithms to 30 reconstructions of 15 validation patients; and the factor that 28 of them stay within when
each is predicted from the others."""


@dataclass(frozen=True)
class BoneFound:
    """Bone on a grid, and how far it can be relied on."""

    likely: Volume
    """Probability of solid bone, marrow included, 0..1."""
    threshold: float
    """Of the probability: where the surface is best."""
    views: int
    disagreement: float
    """Of the views about what was lifted from them; see :func:`lift.disagreement`."""
    unexplained: float
    """The same of the bone that was found."""

    def surface(self) -> Surface | None:
        """A closed surface around the bone, with the error to expect; None where there is none."""
        surface = likely_surface(self.likely, self.threshold)
        if surface is None or surface.error_mm is None:
            return surface
        stated, unexplained = max(surface.error_mm, 0.05), max(self.unexplained, 0.02)
        error_mm = _ERROR_SCALE * stated**_BY_STATED * unexplained**_BY_UNEXPLAINED
        return replace(surface, error_mm=error_mm, error_95_mm=(error_mm / _ERROR_95, error_mm * _ERROR_95))

    @property
    def contradicted(self) -> str:
        """Why the views cannot be of one body, '' if they can."""
        if self.disagreement <= _CONTRADICTS + _CONTRADICTS_PER_VIEW * (self.views - 2):
            return ""
        return (
            f"the X-rays contradict each other ({self.disagreement:.0%} of the bone in one does not fit the others): "
            "a pose is wrong, the patient moved, or they show different patients"
        )

    @property
    def doubtful(self) -> str:
        """Why the bone is not to be relied on, '' if it is as good as it gets."""
        if self.contradicted or self.unexplained <= _UNEXPLAINED:
            return self.contradicted
        return f"do not rely on the bone: its shadows are {self.unexplained:.0%} off from those in the X-rays"


class Bones:
    """Finds bone in views; a view that has been read is not read again.

    Args:
        threads: None: all cores.

    Raises:
        ConfigError: a network is missing, or nothing runs it.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._reader = Reader(threads=threads or 0)
        self._refiner = Refiner(engines.SHIPPED_REFINER, threads=threads or 0)
        self._readings: dict[bytes, Reading] = {}
        self._center_mm = (np.inf,) * 3

    def forget(self) -> None:
        """Read every view again."""
        self._readings.clear()

    def find(
        self, views: Sequence[View], grid: Grid, *, progress: Callable[[float], None] = lambda share: None
    ) -> BoneFound:
        """Bone on a grid, from views with poses.

        Raises:
            ComputeError: a view cannot be read; see :meth:`Reader.read`.
        """
        readings = self._read(views, grid)
        progress(0.3)
        poses = [view.volume_from_carm for view in views if view.volume_from_carm is not None]
        thicknesses = [thickness(reading, pose) for reading, pose in zip(readings, poses, strict=True)]
        own = own_grid(grid)
        lifted = lift(thicknesses, own, threads=self._threads)
        apart = disagreement(thicknesses, lifted.voxels, own, threads=self._threads)
        progress(0.6)
        likely = self._refiner.refine(lifted, readings, poses, own)
        threshold = self._refiner.threshold
        found = (likely.voxels > threshold).astype(np.float32)
        unexplained = disagreement(thicknesses, found, own, threads=self._threads)
        if own != grid:
            likely = resample(likely, grid.spacing_mm, grid.shape)
            np.clip(likely.voxels, 0, 1, out=likely.voxels)  # beyond its own grid it says air
        progress(1.0)
        return BoneFound(likely, threshold, len(views), apart, unexplained)

    def lungs(self, views: Sequence[View], grid: Grid) -> Surface | None:
        """A closed surface around the lungs, None where no lung was read; lifted, but not refined.

        Raises:
            ComputeError: a view cannot be read.
        """
        readings = self._read(views, grid)
        own = own_grid(grid)
        thicknesses = [
            View(reading.lungs_mm, reading.carm, view.volume_from_carm)
            for reading, view in zip(readings, views, strict=True)
        ]
        occupancy = lift(thicknesses, own, threads=self._threads)
        return likely_surface(occupancy, level(occupancy))

    def _read(self, views: Sequence[View], grid: Grid) -> list[Reading]:
        """The views' readings, in their order; those of views that are gone are dropped."""
        if grid.center_mm != self._center_mm:  # a reading's canvas is laid out around it
            self._readings.clear()
            self._center_mm = grid.center_mm
        keys = [view_key(view) for view in views]
        self._readings = {
            key: self._readings.get(key) or self._reader.read(view, np.array(grid.center_mm))
            for key, view in zip(keys, views, strict=True)
        }
        return [self._readings[key] for key in keys]
