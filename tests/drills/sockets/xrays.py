"""X-rays of a volume by RTK (Rit et al., J. Phys. Conf. Ser. 489, 2014), with a detector's blur and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from tests.drills.sockets.rigid import Matrix, inverse, rigid

Lines = npt.NDArray[np.float32]
Counts = npt.NDArray[np.uint16]

I0 = 20_000.0
_MU_WATER_PER_MM = 0.02


@dataclass(frozen=True)
class Detector:
    """A flat detector of square pixels; the principal ray meets its middle."""

    size_px: int = 256
    width_mm: float = 300.0
    source_to_detector_mm: float = 1020.0
    source_to_isocentre_mm: float = 700.0

    @property
    def pixel_mm(self) -> float:
        return self.width_mm / self.size_px

    @property
    def middle_px(self) -> float:
        return (self.size_px - 1) / 2


def renderer(hu: npt.NDArray[np.float32], volume_from_index: Matrix, detector: Detector) -> Callable[[Matrix], Lines]:
    """What computes line integrals, (rows, columns), from volume_from_carm: source at 0, +z to the detector."""
    import itk
    from itk import RTK

    spacing = np.linalg.norm(volume_from_index[:3, :3], axis=0)
    grid_from_volume = inverse(rigid(volume_from_index[:3, :3] / spacing, volume_from_index[:3, 3]))
    attenuation = np.maximum(_MU_WATER_PER_MM * (1 + hu / 1000), 0).astype(np.float32)
    image = itk.image_from_array(np.ascontiguousarray(np.pad(attenuation, 1)))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((-spacing).tolist())
    kind = type(image)
    corner_mm = np.array([-detector.middle_px * detector.pixel_mm] * 2 + [detector.source_to_detector_mm, 1.0])

    def render(volume_from_carm: Matrix) -> Lines:
        at = grid_from_volume @ volume_from_carm
        geometry = RTK.ThreeDCircularProjectionGeometry.New()
        fits = geometry.AddProjection(*(v.tolist() for v in (at[:3, 3], (at @ corner_mm)[:3], at[:3, 0], at[:3, 1])))
        assert fits, "RTK refuses this geometry"
        empty = RTK.ConstantImageSource[kind].New()
        empty.SetOrigin([0.0, 0.0, 0.0])
        empty.SetSpacing([detector.pixel_mm, detector.pixel_mm, 1.0])
        empty.SetSize([detector.size_px, detector.size_px, 1])
        empty.SetConstant(0.0)
        forward = RTK.JosephForwardProjectionImageFilter[kind, kind].New()
        forward.SetInput(0, empty.GetOutput())
        forward.SetInput(1, image)
        forward.SetGeometry(geometry)
        forward.Update()
        return np.array(itk.array_from_image(forward.GetOutput())[0])

    return render


def exposed(lines: Lines, rng: np.random.Generator, i0: float = I0) -> Counts:
    """What a detector counts: photons, a little blur, electronics."""
    photons = rng.poisson(i0 / 4 * np.exp(-lines)) * 4.0
    counts = gaussian_filter(photons, 0.4) + rng.normal(0, 6, lines.shape)
    return np.clip(np.round(counts), 0, 65_535).astype(np.uint16)


def cast(hu: npt.NDArray[np.float32], volume_from_index: Matrix, detector: Detector, at: Matrix, px: Matrix) -> Lines:
    """The same by sampling along single rays: slow, and no relation of RTK. ``px``: (N, 2), columns and rows."""
    from scipy.ndimage import map_coordinates

    ends = np.column_stack([(px - detector.middle_px) * detector.pixel_mm, np.full(len(px), 1.0)])
    ends[:, 2] = detector.source_to_detector_mm
    steps_mm = np.arange(400.0, 1020.0, 0.5)
    ways = ends / np.linalg.norm(ends, axis=1, keepdims=True)
    points = (ways[:, None] * steps_mm[:, None]) @ at[:3, :3].T + at[:3, 3]
    index_from_volume = np.linalg.inv(volume_from_index)
    indices = points @ index_from_volume[:3, :3].T + index_from_volume[:3, 3]
    mu = map_coordinates(hu, indices[..., ::-1].transpose(2, 0, 1), order=1, cval=-1000.0)
    return np.asarray(np.maximum(_MU_WATER_PER_MM * (1 + mu / 1000), 0).sum(axis=1) * 0.5, np.float32)
