"""Volumes from a few X-ray views.

:mod:`methods` chooses between :mod:`learned`, :mod:`classical` (SART) and :mod:`filtered` (FDK); :mod:`engines` runs
the network, :mod:`training` made it; :mod:`surface` makes the bone model, :mod:`worker` is the process in which all of
it runs beside the loop.
"""

from navnode.reconstruction.methods import Method, Reconstruction, Reconstructor, reconstruct

__all__ = ["Method", "Reconstruction", "Reconstructor", "reconstruct"]
