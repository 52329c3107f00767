"""The Reconstruction Toolkit's projector (itk-rtk, the extra ``bench``): a peer to measure against, and the one that
renders the cases on which registration is judged, so that it is not judged on pictures of its own making.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np

from navnode import geometry as g
from navnode.projector.native import attenuation
from navnode.types import CArm, FloatArray, Matrix, Volume


def available() -> bool:
    """Whether itk-rtk is installed."""
    try:
        importlib.metadata.version("itk-rtk")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class RtkProjector:
    """Joseph's method by RTK (Rit et al., J. Phys. Conf. Ser. 489, 2014), behind the arrays of ``Projector``."""

    def __init__(self, volume: Volume, threads: int | None = None) -> None:
        import itk
        from itk import RTK

        self._itk, self._rtk = itk, RTK
        if threads:
            itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        voxels, volume_from_index = volume.voxels, volume.volume_from_index.copy()
        if np.linalg.det(volume_from_index[:3, :3]) < 0:  # RTK's geometry knows right-handed frames only
            voxels = voxels[:, :, ::-1]
            volume_from_index[:3, 3] += volume_from_index[:3, 0] * (voxels.shape[2] - 1)
            volume_from_index[:3, 0] *= -1
        spacing = np.linalg.norm(volume_from_index[:3, :3], axis=0)
        # RTK's world is the grid itself: axes along its indices, mm, voxel 0 at the origin.
        self._grid_from_volume = g.inverse(g.rigid(volume_from_index[:3, :3] / spacing, volume_from_index[:3, 3]))
        # Joseph's method in RTK sees nothing outside the outermost voxels' centres: a border of air as in ours.
        padded = np.pad(attenuation(voxels), 1)
        self._image = itk.image_from_array(np.ascontiguousarray(padded))
        self._image.SetSpacing(spacing.tolist())
        self._image.SetOrigin((-spacing).tolist())

    def render(self, carm: CArm, volume_from_carm: Matrix) -> FloatArray:
        """Line integrals (H, W), as ``Projector.render``."""
        return np.array(self._itk.array_from_image(self._forward(carm, volume_from_carm).GetOutput())[0])

    def again(self, carm: CArm, volume_from_carm: Matrix) -> Callable[[], None]:
        """Projects anew at every call, without what has to be set up once; for timing."""
        forward = self._forward(carm, volume_from_carm)

        def project() -> None:
            forward.Modified()
            forward.Update()

        return project

    def _forward(self, carm: CArm, volume_from_carm: Matrix) -> Any:
        """RTK's filter after it has run."""
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
