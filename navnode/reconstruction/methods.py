"""One call for all reconstruction methods, which also says how reliable the volume is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from navnode.clock import elapsed_ms
from navnode.errors import ComputeError, ConfigError
from navnode.projector.grids import AIR_HU, resample
from navnode.reconstruction import engines, models
from navnode.reconstruction.bones import BoneFound, Bones
from navnode.reconstruction.choice import Method, chosen
from navnode.reconstruction.classical import sart
from navnode.reconstruction.features import GRID
from navnode.reconstruction.filtered import fdk
from navnode.reconstruction.learned import Accumulator, Reconstructed
from navnode.reconstruction.lungs import LungsFound
from navnode.reconstruction.prior import with_prior
from navnode.reconstruction.reading import Reading
from navnode.reconstruction.surface import Surface, bone_surface
from navnode.types import GRID_SIZE, GRID_SPACING_MM, Grid, Matrix, Progress, Status, View, Volume

__all__ = [
    "Progress",
    "Reconstruction",
    "Reconstructor",
    "checked_spread_rad",
    "reconstruct",
]

_FEWEST_VIEWS = 2
_LEAST_SPREAD_RAD = np.deg2rad(10.0)
"""Directions closer to each other than this count as one."""
_NO_OVERLAP = "the views do not overlap in the requested volume"
_WIDE_SPREAD_RAD = np.deg2rad(40.0)


@dataclass(frozen=True)
class Reconstruction:
    """A volume from views."""

    volume: Volume
    """HU"""
    uncertainty_hu: Volume | None
    """Half-width of each voxel's 95 % interval; None if the method states none."""
    method: Method
    engine: str
    views: int
    spread_rad: float
    """Largest angle between two views' lines of sight, 0..pi/2."""
    status: Status
    """DEGRADED at best: a volume from a few X-rays is approximate. INVALID if its X-rays contradict each other."""
    reason: str
    per_view_ms: tuple[float, ...]
    rests: Volume | None = None
    """1 where a voxel rests on the prior alone; None without a prior."""
    bone: BoneFound | None = None
    """Bone found in the X-rays themselves; None if the method does not look for it."""

    @property
    def doubtful_bone(self) -> str:
        """Why its surface is unreliable; '' if nothing speaks against it."""
        return self.bone.doubtful if self.bone is not None else ""

    def surface(self) -> Surface | None:
        """The surface of bone; None if there is no bone."""
        if self.bone is not None:
            return self.bone.surface()
        return bone_surface(self.volume, relative=self.method is not Method.PRIOR)

    def bones(self) -> list[Surface]:
        """A surface for each bone, largest first; where bones touch, only the learned method tells them apart."""
        if self.bone is not None:
            return self.bone.bones()
        whole = self.surface()
        return [] if whole is None else whole.pieces()


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
    """A volume in HU on a cubic RAS grid; :meth:`Reconstructor.reconstruct` also says how reliable it is.

    Args:
        views: two or more, with poses, from different directions.
        size: voxels along each side.
        center_mm: RAS position of the grid's center, (3,).
        threads: default: all cores.

    Raises:
        ComputeError, ConfigError: as :meth:`Reconstructor.reconstruct`.
    """
    grid = Grid.around(center_mm, size, spacing_mm)
    return Reconstructor(method, threads).reconstruct(views, grid, progress=progress).volume


class Reconstructor:
    """Makes volumes by one method; does not repeat what it computed for a view before.

    Args:
        threads: default: all cores.
        model: a folder with networks to use instead of the shipped ones.

    Raises:
        ConfigError: the learned method is to be used, but its networks are missing or no engine runs them.
    """

    def __init__(self, method: Method = Method.AUTO, threads: int | None = None, model: Path | None = None) -> None:
        self._threads = threads
        self.method = chosen(method, model)
        learned = self.method is Method.LEARNED
        self._networks = engines.load(model or models.SHIPPED, threads=threads or 0) if learned else None
        self._bones = Bones(threads) if learned else None
        self._accumulator: Accumulator | None = None

    @property
    def engine(self) -> str:
        """The engine that computes, for display."""
        if self._networks is None or self._bones is None:
            return "native"
        volume, bone = self._networks.engine, self._bones.engine
        return volume if volume == bone else f"{volume}, bone in {bone}"

    def forget(self) -> None:
        """Forget all views; the next call computes everything again."""
        self._accumulator = None
        if self._bones is not None:
            self._bones.forget()

    @property
    def _unmeasured(self) -> str:
        """A warning if the networks' card holds no figures."""
        measured = self._networks is None or self._networks.card.metrics
        return "" if measured else "; the accuracy of this model and of its intervals was not measured"

    def lungs(self, views: Sequence[View], grid: Grid) -> LungsFound | None:
        """Lungs; None if fewer than two views show lung, or the method does not look for them.

        Raises:
            ComputeError: a view cannot be read.
        """
        return self._bones.lungs(views, grid) if self._bones is not None else None

    def readings(self, views: Sequence[View], grid: Grid) -> list[Reading]:
        """What was read in each view, in their order; none if the method reads none.

        Raises:
            ComputeError: a view cannot be read.
        """
        return self._bones.readings(views, grid) if self._bones is not None else []

    def reconstruct(
        self,
        views: Sequence[View],
        grid: Grid = Grid(),
        *,
        prior: Volume | None = None,
        progress: Progress = lambda share: None,
    ) -> Reconstruction:
        """A volume on a grid, and how reliable it is.

        Args:
            views: two or more, with poses, from different directions.
            prior: a CT in the views' frame, for :attr:`Method.PRIOR`.

        Raises:
            ComputeError: there are fewer than two views, one lacks a pose, all have the same direction, or they do not
                overlap in the grid.
            ConfigError: a prior is given without its method, or the method without a prior.
        """
        spread_rad = checked_spread_rad(views)
        learned: Reconstructed | None = None
        times: list[float] = []
        rests: Volume | None = None
        bone: BoneFound | None = None
        status = Status.DEGRADED
        reason = _reason(len(views), spread_rad) + self._unmeasured
        if (prior is None) == (self.method is Method.PRIOR):
            raise ConfigError("a prior CT and the method 'prior' belong together")
        if prior is not None:
            changed = with_prior(views, prior, grid, threads=self._threads, progress=progress)
            volume, rests = changed.volume, changed.rests
            changed_cm3, degrees = changed.changed_mm3 / 1000, np.rad2deg(spread_rad)
            reason = (
                f"{len(views)} views over {degrees:.0f} degrees on a CT: {changed_cm3:.1f} cm3 changed; "
                f"{changed.rests_share:.0%} of what they see rests on the CT alone"
            )
        elif self._networks is not None and self._bones is not None:
            learned, bone, times = self._learned(self._networks, self._bones, views, grid, progress)
            volume = learned.volume
            if bone.contradicted:
                status, reason = Status.INVALID, bone.contradicted
            elif bone.doubtful:
                reason += f"; {bone.doubtful}"
        elif self.method is Method.FDK:
            volume = fdk(views, grid, progress=progress)
        else:
            total_variation = self.method is Method.TV
            volume = sart(views, grid, total_variation=total_variation, threads=self._threads, progress=progress)
        if not (volume.voxels > AIR_HU).any():
            raise ComputeError(_NO_OVERLAP)
        progress(1.0)
        return Reconstruction(
            volume=volume,
            uncertainty_hu=learned.uncertainty_hu if learned is not None else None,
            method=self.method,
            engine=self.engine,
            views=len(views),
            spread_rad=spread_rad,
            status=status,
            reason=reason,
            per_view_ms=tuple(times),
            rests=rests,
            bone=bone,
        )

    def _learned(
        self, networks: engines.Networks, bones: Bones, views: Sequence[View], grid: Grid, progress: Progress
    ) -> tuple[Reconstructed, BoneFound, list[float]]:
        """The networks' volume, the bone in the views, and the milliseconds that each view took."""
        center_mm = np.array(grid.center_mm)
        own, sums = Grid(GRID, grid.size * grid.spacing_mm / GRID, grid.center_mm), self._accumulator
        if sums is None or sums.spacing_mm != own.spacing_mm or not np.array_equal(sums.center_mm, center_mm):
            sums = self._accumulator = Accumulator(networks, center_mm, own.spacing_mm, self._threads)
        sums.keep(views)
        times = []
        for index, view in enumerate(views):
            began = time.perf_counter()
            sums.add(view)
            times.append(round(elapsed_ms(began), 1))
            progress(0.3 * (index + 1) / len(views))
        if not sums.overlap:
            raise ComputeError(_NO_OVERLAP)
        bone = bones.find(views, own, progress=lambda share: progress(0.3 + 0.5 * share))
        made = sums.result(bone)
        if grid.size != GRID:
            made = Reconstructed(
                *(resample(part, grid.spacing_mm, grid.shape) for part in (made.volume, made.uncertainty_hu))
            )
            bone = bone.on(grid)
        return made, bone, times


def checked_spread_rad(views: Sequence[View]) -> float:
    """The largest angle between two views' lines of sight.

    Raises:
        ComputeError: these views cannot make a volume.
    """
    if len(views) < _FEWEST_VIEWS:
        raise ComputeError(f"{len(views)} view{' is' if len(views) == 1 else 's are'} not enough for a volume")
    directions = []
    for index, view in enumerate(views):
        if view.volume_from_carm is None:
            raise ComputeError(f"view {index} has no pose")
        if not np.isfinite(view.line_integrals).any():
            raise ComputeError(f"view {index} is saturated everywhere")
        directions.append(view.volume_from_carm[:3, 2])
    # Views from opposite sides show the same.
    spread = max(float(np.arccos(min(abs(float(a @ b)), 1.0))) for a in directions for b in directions)
    if spread < _LEAST_SPREAD_RAD:
        raise ComputeError(f"all views look the same way (within {np.rad2deg(spread):.0f} degrees)")
    return spread


def _reason(views: int, spread_rad: float) -> str:
    if spread_rad < _WIDE_SPREAD_RAD:
        return f"{views} views within {np.rad2deg(spread_rad):.0f} degrees: depth is hardly known"
    return f"{views} views over {np.rad2deg(spread_rad):.0f} degrees: shapes are approximate, HU are not calibrated"
