"""Volumes from a few X-ray views.

:mod:`methods` chooses between :mod:`learned`, :mod:`classical` (SART), :mod:`filtered` (FDK) and :mod:`prior` (a CT,
changed). Bone is read off every view (:mod:`reading`), lifted into space (:mod:`lift`) and refined (:mod:`refining`).
:mod:`engines` runs the networks, :mod:`training` trains them, :mod:`surface` makes the bone model.
"""

from navnode.reconstruction.methods import Method, Reconstruction, Reconstructor, reconstruct

__all__ = ["Method", "Reconstruction", "Reconstructor", "reconstruct"]
