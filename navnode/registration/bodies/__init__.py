"""Registration of bodies: bones and other parts, each with a pose of its own, in views with calibrated cameras.

:mod:`body` is one of them, as X-rays show it; :mod:`picture` compares edges, for what is explained in part;
:mod:`joint` refines all together, :mod:`anywhere` finds one without a start, :mod:`registered` puts them together and
judges; :mod:`alone` follows them from one X-ray to the next.

Where a CT shows all that is in the image, that is explained as a whole instead: :mod:`scene` is the CT taken apart,
:mod:`detail` tells whether a body is there, :mod:`joints` keeps bones together, :mod:`whole` registers views,
:mod:`articulated` follows.
"""

from navnode.registration.bodies.alone import Alone
from navnode.registration.bodies.articulated import Articulated
from navnode.registration.bodies.body import Body
from navnode.registration.bodies.joints import Joints, pairs_of
from navnode.registration.bodies.registered import BodyFit, BodyRegistration, Shot
from navnode.registration.bodies.whole import WholeRegistration

__all__ = [
    "Alone",
    "Articulated",
    "Body",
    "BodyFit",
    "BodyRegistration",
    "Joints",
    "Shot",
    "WholeRegistration",
    "pairs_of",
]
