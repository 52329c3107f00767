"""Where everything in the room truly is, by time in seconds."""

from __future__ import annotations

import numpy as np

from tests.drills.sockets.phantom import SPINE_MM
from tests.drills.sockets.rigid import Matrix, inverse, rigid, rotation

LOOP_S, REST_S, MOVE_S, BREATH_S = 8.0, 1.4, 2.6, 4.0
ORBIT_DEG = (4.0, 66.0)

CARM_FROM_MARKER = rigid(rotation(-0.3, 0.9, 0.2), (150.0, 80.0, 340.0))
MARKER_FROM_TIP = {
    "Drill": rigid(rotation(0.2, -0.5, 0.1), (10.0, 6.0, 160.0)),
    "Probe": rigid(rotation(0.0, 0.3, -0.2), (-4.0, 3.0, 120.0)),
}
VOLUME_FROM_PATIENT = rigid(rotation(0.4, 0.3, -1.1), (-55.0, 70.0, 80.0))
START_ERROR = rigid(rotation(0.04, -0.03, 0.05), (9.0, -8.0, 7.0))
"""Between the truth and the rough start in the configuration."""
TRACKER_FROM_ROOM = rigid(rotation(-0.9, 0.3, 0.5), (-120.0, 90.0, -1700.0))
_AT_ZERO = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""The C-arm at 0 degrees: source posterior, image right is the patient's right, image up is superior."""


def orbital_deg(t_s: float) -> float:
    """Rests, moves to the other side, rests, comes back."""
    half, within = divmod(t_s % LOOP_S, REST_S + MOVE_S)
    x = max(0.0, (within - REST_S) / MOVE_S)
    smooth = x * x * (3 - 2 * x)
    low, high = ORBIT_DEG
    return low + (high - low) * (smooth if half == 0 else 1 - smooth)


def room_from_carm(t_s: float) -> Matrix:
    turned = rotation(0, 0, np.radians(orbital_deg(t_s))) @ rotation(0.08 * np.sin(np.pi * t_s / LOOP_S) ** 2, 0, 0)
    turned = turned @ _AT_ZERO
    return rigid(turned, SPINE_MM - 700.0 * turned[:, 2])


def room_from_volume(t_s: float) -> Matrix:
    """Breathing moves bone and marker together."""
    return rigid(None, np.sin(2 * np.pi * t_s / BREATH_S) * np.array([0.0, 1.6, 1.0]))


def volume_from_carm(t_s: float) -> Matrix:
    return inverse(room_from_volume(t_s)) @ room_from_carm(t_s)


def volume_from_tip(name: str, t_s: float) -> Matrix:
    """Hands at work, some 66 mm apart."""
    if name == "Drill":
        turned = rotation(-1.3 + 0.1 * np.sin(1.1 * t_s), 0.3, 0.1 * np.cos(0.7 * t_s))
        at = np.array([4 * np.sin(0.9 * t_s), -18 + 16 * np.sin(1.3 * t_s), 5 * np.cos(1.7 * t_s)])
    else:
        turned = rotation(-1.0, -0.3, 0.1 * np.sin(0.8 * t_s))
        at = np.array([60 + 4 * np.sin(0.6 * t_s), -10 + 8 * np.sin(1.1 * t_s), 30 + 5 * np.cos(0.9 * t_s)])
    return rigid(turned, SPINE_MM + at)
