"""X-ray projection of a volume, and its derivatives with respect to the C-arm's pose.

:class:`Projector` is the one way in; the native kernels are chosen here, :mod:`navnode.projector.reference`
is what the tests hold them to.
"""

from navnode.projector.native import MU_WATER_PER_MM, Projector, backend_name

__all__ = ["MU_WATER_PER_MM", "Projector", "backend_name"]
