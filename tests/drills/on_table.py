"""A room whose C-arm rests, while the table may move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from navnode import geometry as g
from navnode.simulation.scenario import Scenario


@dataclass(frozen=True)
class OnTable(Scenario):
    """The patient lies on a table that moves, and the C-arm rests at its first station."""

    way_mm: Callable[[float], float] = lambda at_s: 0.0

    def room_from_volume(self, t_s: float) -> np.ndarray:
        return g.rigid(None, (0.0, 0.0, self.way_mm(t_s))) @ super().room_from_volume(t_s)

    def orbital_rad(self, t_s: float) -> float:
        return 0.0
