"""The Reconstruction Toolkit (itk-rtk, the extra ``bench``): a peer to compare with, and an independent projector that
renders the cases for judging registration and reconstruction.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from navnode import geometry as g
from navnode.projector.native import MU_WATER_PER_MM, attenuation, hounsfield
from navnode.reconstruction.filtered import rotation_axis
from navnode.types import Array, CArm, FloatArray, Matrix, View, Volume

__all__ = ["RECONSTRUCTIONS", "RtkProjector", "available"]


def available() -> bool:
    """Whether itk-rtk is installed."""
    try:
        importlib.metadata.version("itk-rtk")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class RtkProjector:
    """RTK's Joseph method (Rit et al., J. Phys. Conf. Ser. 489, 2014) with the interface of ``Projector``."""

    def __init__(self, volume: Volume, threads: int | None = None) -> None:
        import itk
        from itk import RTK

        self._itk, self._rtk = itk, RTK
        if threads:
            itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        voxels, volume_from_index = volume.voxels, volume.volume_from_index.copy()
        if np.linalg.det(volume_from_index[:3, :3]) < 0:  # RTK's geometry supports right-handed frames only
            voxels = voxels[:, :, ::-1]
            volume_from_index[:3, 3] += volume_from_index[:3, 0] * (voxels.shape[2] - 1)
            volume_from_index[:3, 0] *= -1
        spacing = np.linalg.norm(volume_from_index[:3, :3], axis=0)
        # RTK's world is the grid itself: axes along its indices, mm, voxel 0 at the origin.
        self._grid_from_volume = g.inverse(g.rigid(volume_from_index[:3, :3] / spacing, volume_from_index[:3, 3]))
        # RTK's Joseph method ends at the outermost voxels' centres, so a border of air is added, as in ours.
        padded = np.pad(attenuation(voxels), 1)
        self._image = itk.image_from_array(np.ascontiguousarray(padded))
        self._image.SetSpacing(spacing.tolist())
        self._image.SetOrigin((-spacing).tolist())

    def render(self, carm: CArm, volume_from_carm: Matrix) -> FloatArray:
        """Line integrals (H, W), like ``Projector.render``."""
        return np.array(self._itk.array_from_image(self._forward(carm, volume_from_carm).GetOutput())[0])

    def again(self, carm: CArm, volume_from_carm: Matrix) -> Callable[[], None]:
        """A function that repeats the projection without its setup, for timing."""
        forward = self._forward(carm, volume_from_carm)

        def project() -> None:
            forward.Modified()
            forward.Update()

        return project

    def _forward(self, carm: CArm, volume_from_carm: Matrix) -> Any:
        """RTK's filter, already run."""
        rtk = self._rtk
        grid_from_carm = self._grid_from_volume @ volume_from_carm
        (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
        corner = g.transform(grid_from_carm, np.array([-cu * su, -cv * sv, carm.source_to_detector_mm]))
        geometry = rtk.ThreeDCircularProjectionGeometry.New()
        source, row, column = grid_from_carm[:3, 3], grid_from_carm[:3, 0], grid_from_carm[:3, 1]
        if not geometry.AddProjection(source.tolist(), corner.tolist(), row.tolist(), column.tolist()):
            raise ValueError("RTK does not accept this geometry")
        image_type = type(self._image)
        stack = rtk.ConstantImageSource[image_type].New()
        stack.SetOrigin([0.0, 0.0, 0.0])
        stack.SetSpacing([su, sv, 1.0])
        stack.SetSize([carm.width_px, carm.height_px, 1])
        stack.SetConstant(0.0)
        forward = rtk.JosephForwardProjectionImageFilter[image_type, image_type].New()
        forward.SetInput(0, stack.GetOutput())
        forward.SetInput(1, self._image)
        forward.SetGeometry(geometry)
        forward.InPlaceOff()  # or the empty stack is gone after the first run
        forward.Update()
        return forward


_RTK_FROM_RAS = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""RTK's sources rotate about y, ours about the patient's long axis."""

_TV_WEIGHT = 0.05
"""For attenuation relative to water."""


def _fdk(stack: Any, grid: Any, geometry: Any, share: FloatArray) -> Any:
    """FDK, each view weighted by its share of half a turn; RTK alone would use gaps over the whole turn."""
    import itk
    from itk import RTK

    own = np.array(geometry.GetAngularGaps(geometry.GetSourceAngles()))
    lines = itk.array_from_image(stack) * (2 * share / np.maximum(own, 1e-6))[:, None, None]
    weighted = itk.image_from_array(lines.astype(np.float32))
    weighted.CopyInformation(stack)
    method = RTK.FDKConeBeamReconstructionFilter[type(grid)].New()
    method.GetRampFilter().SetHannCutFrequency(0.8)
    method.GetRampFilter().SetTruncationCorrection(0.3)
    return _ran(method, grid, weighted, geometry)


def _sart(stack: Any, grid: Any, geometry: Any, share: FloatArray, sweeps: int = 10) -> Any:
    """SART."""
    from itk import RTK

    method = RTK.SARTConeBeamReconstructionFilter[type(grid), type(grid)].New()
    method.SetNumberOfIterations(sweeps)
    method.SetLambda(0.3)
    method.SetEnforcePositivity(True)
    return _ran(method, grid, stack, geometry)


def _tv(stack: Any, grid: Any, geometry: Any, share: FloatArray) -> Any:
    """RTK's SART alternating with scikit-image's total variation, as RTK's combinations fail in Python in 2.7."""
    import itk
    from skimage.restoration import denoise_tv_chambolle

    for _ in range(5):
        volume = _sart(stack, grid, geometry, share, sweeps=2)
        water = itk.array_from_image(volume) / MU_WATER_PER_MM
        smooth = denoise_tv_chambolle(water, weight=_TV_WEIGHT, max_num_iter=15) * MU_WATER_PER_MM
        grid = itk.image_from_array(smooth.astype(np.float32))
        grid.CopyInformation(volume)
    return grid


def _ran(method: Any, grid: Any, stack: Any, geometry: Any) -> Any:
    method.SetInput(0, grid)
    method.SetInput(1, stack)
    method.SetGeometry(geometry)
    method.Update()
    return method.GetOutput()


def _reconstruction(method: Callable[[Any, Any, Any, FloatArray], Any]) -> Callable[..., FloatArray]:
    def reconstruct(views: Sequence[View], size: int, spacing_mm: float, center_mm: Array) -> FloatArray:
        """HU on the RAS grid, (k, j, i), from views of one C-arm."""
        import itk
        from itk import RTK

        carm = views[0].carm
        (su, sv), (cu, cv) = carm.pixel_spacing_mm, carm.principal_point_px
        geometry = RTK.ThreeDCircularProjectionGeometry.New()
        to_center = g.rigid(translation_mm=-np.asarray(center_mm, float))
        poses = [view.volume_from_carm for view in views if view.volume_from_carm is not None]
        for pose in poses:
            at = _RTK_FROM_RAS @ to_center @ pose
            corner = g.transform(at, np.array([-cu * su, -cv * sv, carm.source_to_detector_mm]))
            if not geometry.AddProjection(*(part.tolist() for part in (at[:3, 3], corner, at[:3, 0], at[:3, 1]))):
                raise ValueError("RTK does not accept this geometry")
        lines = np.stack([np.maximum(np.nan_to_num(view.line_integrals), 0.0) for view in views])
        stack = itk.image_from_array(np.ascontiguousarray(lines, np.float32))
        stack.SetSpacing([su, sv, 1.0])
        grid = itk.image_from_array(np.zeros((size,) * 3, np.float32))
        grid.SetSpacing([spacing_mm] * 3)
        grid.SetOrigin([-spacing_mm * (size - 1) / 2] * 3)
        share = rotation_axis([pose[:3, 2] for pose in poses])[1]
        volume = itk.array_from_image(method(stack, grid, geometry, share))
        # RTK's (x, y, z) are (R, S, -A), so its array's axes (z, y, x) are (-A, S, R).
        return hounsfield(np.ascontiguousarray(volume[::-1].transpose(1, 0, 2)))

    return reconstruct


RECONSTRUCTIONS = {f"RTK {name}": _reconstruction(m) for name, m in (("FDK", _fdk), ("SART", _sart), ("SART+TV", _tv))}
"""Functions by name: views, size, spacing (mm), centre (RAS mm) -> HU."""
