"""A stand-in for 3D Slicer's scene: keeps what is shown."""

from __future__ import annotations

import numpy as np
from NavnodeConsoleLib.console import Deviation, State
from NavnodeConsoleLib.wire import Image, PolyData, Trajectory


class Stage:
    """The scene of NavnodeConsoleLib.console, in dictionaries."""

    def __init__(self) -> None:
        self.transforms: dict[str, np.ndarray | None] = {}
        self.models: dict[str, PolyData | None] = {}
        self.pictures: dict[str, Image] = {}
        self.places: list[np.ndarray | None] = []
        self.volumes: dict[str, Image] = {}
        self.planned: list[Trajectory] = []
        self.deviations: list[Deviation | None] = []
        self.states: list[State] = []

    def transform(self, name: str, matrix: np.ndarray | None) -> None:
        self.transforms[name] = matrix

    def model(self, name: str, surface: PolyData | None) -> None:
        self.models[name] = surface

    def picture(self, name: str, image: Image) -> None:
        self.pictures[name] = image

    def place_picture(self, name: str, volume_from_slice: np.ndarray | None) -> None:
        self.places.append(volume_from_slice)

    def volume(self, name: str, image: Image) -> None:
        self.volumes[name] = image

    def plans(self, plans: list[Trajectory]) -> None:
        self.planned = plans

    def deviation(self, deviation: Deviation | None) -> None:
        self.deviations.append(deviation)

    def state(self, state: State) -> None:
        self.states.append(state)
