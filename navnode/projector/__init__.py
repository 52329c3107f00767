"""X-ray projection of a volume, and its derivatives with respect to the C-arm's pose.

:class:`Projector` renders one volume in HU from any pose; :class:`XrayTransform` is the linear map from volumes to
fixed views, with its adjoint. :mod:`~navnode.projector.autograd` and :mod:`~navnode.projector.adapters` make them
functions of PyTorch and operators of other libraries. Tests compare the kernels with
:mod:`navnode.projector.reference`.
"""

from navnode.projector.native import MU_WATER_PER_MM, Projector, backend_name
from navnode.projector.transform import XrayTransform

__all__ = ["MU_WATER_PER_MM", "Projector", "XrayTransform", "backend_name"]
