"""One call for all ways to make a volume from views, and what is to be thought of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from navnode.errors import ComputeError, ConfigError
from navnode.projector.grids import AIR_HU, resample
from navnode.reconstruction import engines
from navnode.reconstruction.classical import sart
from navnode.reconstruction.features import GRID
from navnode.reconstruction.filtered import fdk
from navnode.reconstruction.learned import Accumulator, Reconstructed
from navnode.reconstruction.lift import level, lift
from navnode.reconstruction.prior import with_prior
from navnode.reconstruction.reading import Reader, thickness
from navnode.reconstruction.refining import Refiner, own_grid
from navnode.reconstruction.surface import Surface, bone_surface, likely_surface
from navnode.types import GRID_SIZE, GRID_SPACING_MM, Grid, Matrix, Status, View, Volume

_FEWEST_VIEWS = 2
_LEAST_SPREAD_RAD = np.deg2rad(10.0)
"""Directions nearer to each other than this are one."""
_WIDE_SPREAD_RAD = np.deg2rad(40.0)


Progress = Callable[[float], None]


class Method(StrEnum):
    """How to reconstruct."""

    AUTO = "auto"
    """Learned if the shipped model's card says that it is better, and there is an engine; else SART."""
    LEARNED = "learned"
    READ = "read"
    """Bone as networks read it off every X-ray, lifted into space and refined there; HU are SART's."""
    SART = "sart"
    TV = "tv"
    """SART that also makes the total variation small."""
    FDK = "fdk"
    PRIOR = "prior"
    """A registered CT, changed where the X-rays contradict it."""


@dataclass(frozen=True)
class Reconstruction:
    """A volume from views."""

    volume: Volume
    """HU"""
    uncertainty_hu: Volume | None
    """Half of the 95 % interval of every voxel, or None where the method states none."""
    method: Method
    engine: str
    views: int
    spread_rad: float
    """Largest angle between two views' lines of sight, 0..pi/2."""
    status: Status
    """DEGRADED at best: a volume from a few X-rays is a likeness."""
    reason: str
    per_view_ms: tuple[float, ...]
    rests: Volume | None = None
    """1 where a voxel rests on the prior alone; None without one."""
    bone: Volume | None = None
    """Probability of bone, where the method states one."""
    bone_threshold: float = 0.5
    """Of that probability: where the surface is best."""

    def surface(self) -> Surface | None:
        """The surface of bone, None where there is none."""
        if self.bone is not None:
            return likely_surface(self.bone, self.bone_threshold)
        return bone_surface(self.volume, relative=self.method is not Method.PRIOR)


def reconstruct(
    views: Sequence[View],
    *,
    method: Method = Method.AUTO,
    size: int = GRID_SIZE,
    spacing_mm: float = GRID_SPACING_MM,
    center_mm: Matrix | tuple[float, float, float] = (0.0, 0.0, 0.0),
    threads: int | None = None,
    progress: Progress = lambda share: None,
) -> Volume:
    """A volume in HU on a cubic RAS grid around ``center_mm``; :class:`Reconstructor` tells more about it.

    Raises:
        ComputeError, ConfigError: as :meth:`Reconstructor.reconstruct`.
    """
    grid = Grid.around(center_mm, size, spacing_mm)
    return Reconstructor(method, threads).reconstruct(views, grid, progress=progress).volume


class Reconstructor:
    """Makes volumes by one method; what it knows of views it has seen it does not compute again.

    Args:
        model: a folder with networks instead of the shipped one.

    Raises:
        ConfigError: there are networks but they cannot be run, or there are none and they are asked for by name.
    """

    def __init__(self, method: Method = Method.AUTO, threads: int | None = None, model: Path | None = None) -> None:
        self._threads = threads
        self.method = chosen(method, model)
        learned = self.method is Method.LEARNED
        self._networks = engines.load(model or engines.SHIPPED, threads=threads or 0) if learned else None
        self._reader = Reader(threads=threads or 0) if self.method is Method.READ else None
        refines = self._reader is not None and engines.SHIPPED_REFINER.exists()
        self._refiner = Refiner(engines.SHIPPED_REFINER, threads=threads or 0) if refines else None
        self._accumulator: Accumulator | None = None

    @property
    def engine(self) -> str:
        """What computes."""
        if self._reader is not None:
            return self._reader.engine
        return self._networks.engine if self._networks is not None else "native"

    def forget(self) -> None:
        """Compute everything anew the next time."""
        self._accumulator = None

    @property
    def _unmeasured(self) -> str:
        """What must be said of networks whose card holds no figures."""
        measured = self._networks is None or self._networks.card.metrics
        return "" if measured else "; how good this model is was not measured, nor what its intervals hold"

    def reconstruct(
        self,
        views: Sequence[View],
        grid: Grid = Grid(),
        *,
        prior: Volume | None = None,
        progress: Progress = lambda share: None,
    ) -> Reconstruction:
        """A volume on a grid, and how far it may be trusted.

        Args:
            views: two or more, with poses, from directions that differ.
            prior: a CT in the views' frame, for the method that begins with one.

        Raises:
            ComputeError: fewer than two views, views without a pose, all from one direction, or not of the grid.
        """
        spread_rad = checked_spread_rad(views)
        learned: Reconstructed | None = None
        times: list[float] = []
        rests: Volume | None = None
        bone: Volume | None = None
        threshold = self._networks.card.bone_threshold if self._networks is not None else 0.5
        reason = _reason(len(views), spread_rad) + self._unmeasured
        if (prior is None) == (self.method is Method.PRIOR):
            raise ConfigError("a prior and the method that begins with one belong together")
        if prior is not None:
            changed = with_prior(views, prior, grid, threads=self._threads, progress=progress)
            volume, rests = changed.volume, changed.rests
            changed_cm3, degrees = changed.changed_mm3 / 1000, np.rad2deg(spread_rad)
            reason = (
                f"{len(views)} views over {degrees:.0f} degrees on a CT: {changed_cm3:.1f} cm3 changed; "
                f"{changed.rests_share:.0%} of what they see rests on the CT alone"
            )
        elif self._networks is not None:
            learned, times = self._learned(self._networks, views, grid, progress)
            volume = learned.volume
        elif self.method is Method.FDK:
            volume = fdk(views, grid, progress=progress)
        else:
            total_variation = self.method is Method.TV
            volume = sart(views, grid, total_variation=total_variation, threads=self._threads, progress=progress)
        if self._reader is not None:
            bone, threshold, how = self._read(self._reader, views, grid)
            reason += f"; bone is {how}"
        if not (volume.voxels > AIR_HU).any():
            raise ComputeError("the views do not overlap in the volume that was asked for")
        progress(1.0)
        return Reconstruction(
            volume=volume,
            uncertainty_hu=learned.uncertainty_hu if learned is not None else None,
            method=self.method,
            engine=self.engine,
            views=len(views),
            spread_rad=spread_rad,
            status=Status.DEGRADED,
            reason=reason,
            per_view_ms=tuple(times),
            rests=rests,
            bone=learned.bone if learned is not None else bone,
            bone_threshold=threshold,
        )

    def _read(self, reader: Reader, views: Sequence[View], grid: Grid) -> tuple[Volume, float, str]:
        """Bone by what is read off the views, at what threshold it ends, and how it was made."""
        poses = [view.volume_from_carm for view in views if view.volume_from_carm is not None]  # checked: all have one
        readings = [reader.read(view, np.array(grid.center_mm)) for view in views]
        thicknesses = [thickness(reading, pose) for reading, pose in zip(readings, poses, strict=True)]
        if self._refiner is None:
            bone = lift(thicknesses, grid, threads=self._threads)
            return bone, level(bone), "what a network read off each X-ray"
        own = own_grid(grid)
        refined = self._refiner.refine(lift(thicknesses, own, threads=self._threads), readings, poses, own)
        if own != grid:
            refined = resample(refined, grid.spacing_mm, grid.shape)
            np.clip(refined.voxels, 0, 1, out=refined.voxels)  # beyond the grid it says air
        return refined, self._refiner.threshold, "what networks read off each X-ray and made of it in space"

    def _learned(
        self, networks: engines.Networks, views: Sequence[View], grid: Grid, progress: Progress
    ) -> tuple[Reconstructed, list[float]]:
        """What the networks make of the views, and the milliseconds that each view took."""
        center_mm = np.array(grid.center_mm)
        own_mm, sums = grid.size * grid.spacing_mm / GRID, self._accumulator
        if sums is None or sums.spacing_mm != own_mm or not np.array_equal(sums.center_mm, center_mm):
            sums = self._accumulator = Accumulator(networks, center_mm, own_mm, self._threads)
        sums.keep(views)
        times = []
        for index, view in enumerate(views):
            began = time.perf_counter()
            sums.add(view)
            times.append(round(1e3 * (time.perf_counter() - began), 1))
            progress(0.8 * (index + 1) / len(views))
        made = sums.result()
        if grid.size != GRID:
            parts = (made.volume, made.uncertainty_hu, made.bone)
            made = Reconstructed(*(resample(part, grid.spacing_mm, grid.shape) for part in parts))
        return made, times


def checked_spread_rad(views: Sequence[View]) -> float:
    """The largest angle between two views' lines of sight.

    Raises:
        ComputeError: nothing can be made of these views.
    """
    if len(views) < _FEWEST_VIEWS:
        raise ComputeError(f"{len(views)} view{'' if len(views) == 1 else 's'} is not enough for a volume")
    directions = []
    for index, view in enumerate(views):
        if view.volume_from_carm is None:
            raise ComputeError(f"view {index} has no pose")
        if not np.isfinite(view.line_integrals).any():
            raise ComputeError(f"view {index} is saturated everywhere")
        directions.append(view.volume_from_carm[:3, 2])
    # A view from the other side shows the same.
    spread = max(float(np.arccos(min(abs(float(a @ b)), 1.0))) for a in directions for b in directions)
    if spread < _LEAST_SPREAD_RAD:
        raise ComputeError(f"all views look the same way (within {np.rad2deg(spread):.0f} degrees)")
    return spread


def _reason(views: int, spread_rad: float) -> str:
    if spread_rad < _WIDE_SPREAD_RAD:
        return f"{views} views within {np.rad2deg(spread_rad):.0f} degrees: depth is hardly known"
    return f"{views} views over {np.rad2deg(spread_rad):.0f} degrees: shapes are approximate, HU are not calibrated"


def chosen(method: Method, model: Path | None = None) -> Method:
    """What ``AUTO`` stands for: the networks if they are better than SART and something runs them.

    Raises:
        ConfigError: a model is named for a method that has none.
    """
    if model is not None:
        if method not in (Method.AUTO, Method.LEARNED):
            raise ConfigError(f"a model is for the learned method, not for {method.value}")
        return Method.LEARNED
    if method is not Method.AUTO:
        return method
    return Method.LEARNED if engines.preferred() else Method.SART


def engine_name(method: Method = Method.AUTO) -> str:
    """What a method would run on, for people."""
    method, engine = chosen(method), engines.would_load()
    return described(method, engines.title(engine) if engine is not None else "no engine")


def model_hash(method: Method = Method.AUTO) -> str:
    """SHA-256 of the shipped models' cards, which name their graphs by theirs; '' where the method uses none."""
    method = chosen(method)
    if method is Method.LEARNED:
        return engines.card_hash(engines.SHIPPED)
    if method is not Method.READ:
        return ""
    reads = engines.card_hash(engines.SHIPPED_READER)
    if not engines.SHIPPED_REFINER.exists():
        return reads
    return hashlib.sha256(f"{reads} {engines.card_hash(engines.SHIPPED_REFINER)}".encode()).hexdigest()


def described(method: Method, engine: str) -> str:
    """A method and what it runs on, for people."""
    if method in (Method.LEARNED, Method.READ):
        return f"{method.value} ({engine})"
    return f"{method.value.upper()} (classical)"
