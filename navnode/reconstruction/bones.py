"""Solid bone from a few X-rays: read off each view, lifted into space and refined there.

:mod:`reading`, :mod:`lift` and :mod:`refining` do one step each; this module combines them on a grid and judges the
result by its own X-rays: can one body explain all views, and does the bone cast the shadows that were read?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from navnode.projector.grids import resample
from navnode.reconstruction import models
from navnode.reconstruction.agreement import Difference, largest_difference
from navnode.reconstruction.lift import disagreement, lift
from navnode.reconstruction.lungs import LungRefiner, LungsFound
from navnode.reconstruction.naming import seen_kinds
from navnode.reconstruction.reading import Reader, Reading, by_kind, thickness, view_key
from navnode.reconstruction.refining import Refiner, own_grid
from navnode.reconstruction.separate import single_bones
from navnode.reconstruction.surface import Surface, likely_surface
from navnode.types import Array, FloatArray, Grid, View, Volume

__all__ = ["BoneFound", "Bones"]

_CONTRADICTS, _CONTRADICTS_PER_VIEW = 0.6, 0.02
"""Views whose disagreement about the lifted bone exceeds this cannot show one body at their poses: the limit for two
views, and what each further view adds to it. On validation patients, with true poses and with poses off by 1 mm and 1
degree, two and four views disagree by at most 0.35 and sixteen by 0.46; bodies unlike any training data by up to 0.54.
Among 11 patients, the limit detects a view of another patient in 4 and a mirrored view in 7 with four views, in 1 and 0
with two."""
_OTHER_AMOUNT, _OTHER_SHAPE = 0.6, 0.45
"""Views that differ by more in the bone that they show cannot show the same. Views of 15 validation patients, with
true poses and with poses off by 1 mm and 1 degree, differ by at most 0.35 in both; real ones of a knee, of unknown grey
values, by 0.43 and 0.35. With a view of another patient, 19 of 30 sets of two views and 16 of 30 of four exceed a
limit, and 22 and 20 this or the limit above; with poses off by 10 mm and 5 degrees 3 and 1 of 15; with mirrored views
none: they show the same amounts."""
_UNEXPLAINED = 0.7
"""Bone whose shadows differ by more than this from those read is unreliable. On validation patients they differ by at
most 0.42 for limbs (Dice 0.70 and more) and 0.64 for heads (0.54 to 0.70), but by up to 1.2 for trunks (0.10 to
0.49)."""

_LEAST_VIEWS_OF_LUNGS = 2
"""Fewer views say nothing about where in depth lungs are; in more, the reader may overlook them."""
_ERROR_SCALE, _BY_STATED, _BY_UNEXPLAINED, _ERROR_95 = 4.5, 0.79, 0.77, 2.6
"""Power law of the mean distance from the true surface: its factor, and the exponents of the error stated by the
probabilities (mm) and of the unexplained share; fitted in logarithms to 30 reconstructions of 15 validation patients.
The last is the factor within which 28 of them lie when each is predicted from the others."""


@dataclass(frozen=True)
class BoneFound:
    """Bone on a grid, and how reliable it is.

    ``threshold`` is a probability, 0..1. ``disagreement`` and ``unexplained`` are fractions of the thickness of bone
    read in a view, 0 at best.
    """

    likely: Volume
    """Probability of solid bone, marrow included, 0..1."""
    threshold: float
    """Probability at which the surface is most accurate."""
    views: int
    disagreement: float
    """Between the views and the lifted bone; see :func:`lift.disagreement`."""
    difference: Difference | None
    """Between two views; see :mod:`agreement`."""
    unexplained: float
    """Between the views and the refined bone, likewise; 0 where none was read."""
    kinds: Array
    """(k, j, i), kind of every voxel of bone; see :mod:`naming`."""
    shown: FloatArray
    """(k, j, i), least probability of bone among the views at a voxel, 0..1: what casts the shadows lies where it is
    high."""

    def surface(self) -> Surface | None:
        """A closed surface around the bone, with its expected error; None if there is no bone."""
        surface = likely_surface(self.likely, self.threshold)
        return None if surface is None else self._with_error(surface)

    def bones(self) -> list[Surface]:
        """A closed surface around each bone, with its name and expected error, largest first; see :mod:`separate`."""
        found = []
        for bone in single_bones(self.likely, self.threshold, self.kinds):
            surface = likely_surface(bone, self.threshold)
            if surface is not None:
                found.append(replace(self._with_error(surface), name=bone.name if bone.name != "other" else ""))
        return found

    def on(self, grid: Grid) -> BoneFound:
        """The same bone on another grid with the same center."""
        likely = resample(self.likely, grid.spacing_mm, grid.shape)
        np.clip(likely.voxels, 0, 1, out=likely.voxels)  # resampling fills with air beyond its own grid
        size = len(self.kinds)
        offsets = (np.arange(grid.size) - (grid.size - 1) / 2) * grid.spacing_mm / self.likely.spacing_mm[0]
        at = np.clip(np.round(offsets + (size - 1) / 2).astype(int), 0, size - 1)
        nearest = np.ix_(at, at, at)
        return replace(self, likely=likely, kinds=self.kinds[nearest], shown=self.shown[nearest])

    def _with_error(self, surface: Surface) -> Surface:
        if surface.error_mm is None:
            return surface
        stated, unexplained = max(surface.error_mm, 0.05), max(self.unexplained, 0.02)
        error_mm = _ERROR_SCALE * stated**_BY_STATED * unexplained**_BY_UNEXPLAINED
        return replace(surface, error_mm=error_mm, error_95_mm=(error_mm / _ERROR_95, error_mm * _ERROR_95))

    @property
    def contradicted(self) -> str:
        """Why one body cannot explain the views; '' if it can."""
        found = ""
        if self.disagreement > _CONTRADICTS + _CONTRADICTS_PER_VIEW * (self.views - 2):
            found = f"{self.disagreement:.0%} of the bone in one does not fit the others"
        elif self.difference is not None and (
            self.difference.amount > _OTHER_AMOUNT or self.difference.shape > _OTHER_SHAPE
        ):
            found = f"two differ by {self.difference.amount:.0%} in the bone that both must show"
        if not found:
            return ""
        return (
            f"the X-rays contradict each other ({found}): a pose is wrong, the patient moved, metal hides bone, or "
            "they show different patients"
        )

    @property
    def doubtful(self) -> str:
        """Why the bone is unreliable; '' if nothing speaks against it."""
        if self.contradicted or self.unexplained <= _UNEXPLAINED:
            return self.contradicted
        return f"do not rely on the bone: its shadows differ by {self.unexplained:.0%} from those in the X-rays"


class Bones:
    """Finds bone in views; reads each view only once.

    Args:
        threads: default: all cores.

    Raises:
        ConfigError: a network is missing, or no engine runs it.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._reader = Reader(threads=threads or 0)
        self._refiner = Refiner(models.SHIPPED_REFINER, threads=threads or 0)
        models.verify(models.SHIPPED_LUNGS, models.LUNGS_FILE)
        self._lung_refiner: LungRefiner | None = None
        self._readings: dict[bytes, Reading] = {}
        self._center_mm = (np.inf,) * 3

    @property
    def engine(self) -> str:
        """The engine that reads and refines, for display."""
        return self._refiner.engine

    def forget(self) -> None:
        """Forget all readings, so that every view is read again."""
        self._readings.clear()

    def find(
        self, views: Sequence[View], grid: Grid, *, progress: Callable[[float], None] = lambda share: None
    ) -> BoneFound:
        """Find bone on a grid, from views with poses.

        Raises:
            ComputeError: a view cannot be read; see :meth:`Reader.read`.
        """
        readings = self.readings(views, grid)
        progress(0.3)
        poses = [view.volume_from_carm for view in views if view.volume_from_carm is not None]
        thicknesses = [thickness(reading, pose) for reading, pose in zip(readings, poses, strict=True)]
        own = own_grid(grid)
        lifted = lift(thicknesses, own, kinds=by_kind(readings, poses), threads=self._threads)
        apart = disagreement(thicknesses, lifted.voxels, own, threads=self._threads)
        progress(0.6)
        likely, shown = self._refiner.refine(lifted, readings, poses, own)
        threshold = self._refiner.threshold
        found = (likely.voxels > threshold).astype(np.float32)
        unexplained = disagreement(thicknesses, found, own, threads=self._threads)
        kinds = seen_kinds(likely.voxels > threshold, likely, readings, poses)
        progress(1.0)
        differ = largest_difference(thicknesses, np.array(grid.center_mm))
        made = BoneFound(likely, threshold, len(views), apart, differ, unexplained, kinds, shown)
        return made if own == grid else made.on(grid)

    def lungs(self, views: Sequence[View], grid: Grid) -> LungsFound | None:
        """Lungs on the :func:`lungs.lung_grid` of a grid; None if fewer than two views show lung.

        Raises:
            ComputeError: a view cannot be read.
        """
        readings = self.readings(views, grid)
        if sum(bool((reading.lungs_mm > 0).any()) for reading in readings) < _LEAST_VIEWS_OF_LUNGS:
            return None
        if self._lung_refiner is None:  # most X-rays show no lung
            self._lung_refiner = LungRefiner(models.SHIPPED_LUNGS, threads=self._threads or 0)
        poses = [view.volume_from_carm for view in views if view.volume_from_carm is not None]
        return self._lung_refiner.find(readings, poses, grid)

    def readings(self, views: Sequence[View], grid: Grid) -> list[Reading]:
        """Readings of the views, in their order; readings of other views are dropped.

        Raises:
            ComputeError: a view cannot be read; see :meth:`Reader.read`.
        """
        if grid.center_mm != self._center_mm:  # a reading's canvas depends on it
            self._readings.clear()
            self._center_mm = grid.center_mm
        keys = [view_key(view) for view in views]
        self._readings = {
            key: self._readings.get(key) or self._reader.read(view, np.array(grid.center_mm))
            for key, view in zip(keys, views, strict=True)
        }
        return [self._readings[key] for key in keys]
