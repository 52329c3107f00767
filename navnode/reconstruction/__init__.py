"""Volumes from a few X-ray views.

:mod:`methods` chooses between :mod:`learned`, :mod:`classical` (SART), :mod:`filtered` (FDK) and bone that is read off
every view (:mod:`reading`), lifted (:mod:`lift`) and refined (:mod:`refining`); :mod:`engines` runs the networks,
:mod:`training` made them; :mod:`surface` makes the bone model.
"""

from navnode.reconstruction.methods import Method, Reconstruction, Reconstructor, reconstruct

__all__ = ["Method", "Reconstruction", "Reconstructor", "reconstruct"]
