"""Volumes from a few X-ray views.

:mod:`methods` decides between :mod:`learned`, :mod:`classical` (SART), :mod:`filtered` (FDK) and :mod:`prior` (a CT,
changed), as :mod:`choice` says. Bone is read off every view (:mod:`reading`), lifted into space (:mod:`lift`) and
refined (:mod:`refining`). :mod:`engines` runs the networks, :mod:`training` trains them, :mod:`surface` makes the
bone model.
"""

from typing import TYPE_CHECKING

from navnode.reconstruction.choice import Method

if TYPE_CHECKING:
    from navnode.reconstruction.methods import Reconstruction, Reconstructor, reconstruct

__all__ = ["Method", "Reconstruction", "Reconstructor", "reconstruct"]


def __getattr__(name: str) -> object:
    if name in __all__:  # loaded when it is used: a node asks only which method there is
        from navnode.reconstruction import methods

        return getattr(methods, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
