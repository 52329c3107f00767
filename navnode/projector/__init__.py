"""X-ray projection of a volume, and its derivatives with respect to the C-arm's pose.

:class:`Projector` is the only entry point. Tests compare its kernels with :mod:`navnode.projector.reference`.
"""

from navnode.projector.native import MU_WATER_PER_MM, Projector, backend_name

__all__ = ["MU_WATER_PER_MM", "Projector", "backend_name"]
