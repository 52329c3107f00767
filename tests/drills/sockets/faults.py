"""What drills over sockets share."""

from __future__ import annotations

from tests.drills.sockets import wire
from tests.drills.sockets.conftest import Theatre
from tests.drills.sockets.rigid import rigid, rotation
from tests.drills.sockets.room import CARM, DRILL, PATIENT, PROBE

TRACKER = (PATIENT, CARM, DRILL, PROBE)
FAR = rigid(rotation(0.3, 0.1, 0.2), (9_000.0, 200.0, -300.0))
ARRIVES_S = 0.4
"""How long outputs of before a fault may still arrive on a busy machine."""


def valid_after(theatre: Theatre, mark: int, device: str, after_ns: int) -> list[wire.Heard]:
    """VALID outputs of poses measured after a time of the room's clock; none, if stamps can tell."""
    shown = [heard for heard in theatre.outputs(mark, device) if heard.metadata["Validity"] == "VALID"]
    return [heard for heard in shown if heard.stamp_ns >= after_ns + theatre.room.faults.clock_ns.get(DRILL, 0)]


def without_xrays(theatre: Theatre) -> None:
    theatre.room.faults.xrays = False
    theatre.run(ARRIVES_S)


def usable(heard: wire.Heard) -> bool:
    return heard.metadata["Validity"] == "VALID"
