"""Volumes from a few X-ray views.

:mod:`classical` is the algebraic reconstruction, :mod:`surface` makes the bone model, :mod:`worker` is the
process in which both run beside the loop.
"""

from navnode.reconstruction.classical import reconstruct

__all__ = ["reconstruct"]
