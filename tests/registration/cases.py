"""A CT, X-rays of it, and starts that are off."""

from __future__ import annotations

import cv2
import numpy as np

from navnode import geometry as g
from navnode.projector import Projector
from navnode.registration import ImageRegistration
from navnode.simulation.scenario import Scenario, carm_of_size, scenario_for
from navnode.types import Volume
from navnode.xray.chain import METAL_PER_MM, XrayChain, cylinder_chords_mm

CARM = carm_of_size(512)
RENDERED_PX = 256
PIVOT_MM = 700.0
TIMES = (0.5, 3.0, 5.0, 7.0, 9.0, 15.0)


class Case:
    """A CT, its scenario, and images of it with everything an X-ray chain adds."""

    def __init__(self, volume: Volume) -> None:
        self.scenario: Scenario = scenario_for(volume)
        self.registration = ImageRegistration(volume)
        self._projector = Projector(volume)
        self._taken: dict[float, np.ndarray] = {}

    def counts(self, t_s: float) -> np.ndarray:
        """An image of its own, for tests that spoil it."""
        if t_s not in self._taken:
            self._taken[t_s] = self._exposed(t_s)
        return self._taken[t_s].copy()

    def _exposed(self, t_s: float) -> np.ndarray:
        at = self.scenario.volume_from_carm(t_s)
        carm = carm_of_size(256)
        line = self._projector.render(carm, at)
        tool = g.inverse(at) @ self.scenario.volume_from_tool(t_s)
        line += METAL_PER_MM * cylinder_chords_mm(carm, tool, 2.5, 160.0)
        return XrayChain().expose(line, CARM, 1 + 0.1 * np.sin(t_s), np.random.default_rng(0))

    def errors_mm(self, estimate: np.ndarray, t_s: float) -> tuple[float, float]:
        """Across and along the principal ray, at the spine."""
        targets = self.scenario.targets_mm
        true = g.transform(g.inverse(self.scenario.volume_from_carm(t_s)), targets)
        off = g.transform(g.inverse(estimate), targets) - true
        return float(np.linalg.norm(off[:, :2], axis=1).mean()), float(abs(off[:, 2].mean()))


def away(case: Case, t_s: float, mm: float, deg: float, seed: int) -> np.ndarray:
    direction = np.random.default_rng(seed).normal(size=(2, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    xi = np.concatenate([np.deg2rad(deg) * direction[0], mm * direction[1]])
    return case.scenario.volume_from_carm(t_s) @ g.exp(xi, (0, 0, PIVOT_MM))


def exposed_while_moving(case: Case, t_s: float, length_px: float, angle_deg: float, noise: int = 0) -> np.ndarray:
    """An X-ray over which the anatomy, tool included, moved by pixels of its 512: light adds up, then noise comes."""
    at, carm = case.scenario.volume_from_carm(t_s), carm_of_size(RENDERED_PX)
    line = case._projector.render(carm, at)
    line += METAL_PER_MM * cylinder_chords_mm(carm, g.inverse(at) @ case.scenario.volume_from_tool(t_s), 2.5, 160.0)
    light, angle, steps = np.exp(-line), np.deg2rad(angle_deg), 33
    summed = np.zeros_like(light)
    for along in np.linspace(-0.5, 0.5, steps) * length_px * RENDERED_PX / CARM.width_px:
        shift = np.array([[1, 0, along * np.cos(angle)], [0, 1, along * np.sin(angle)]])
        summed += cv2.warpAffine(light, shift, light.shape[::-1], borderMode=cv2.BORDER_REPLICATE) / steps
    return XrayChain().expose(-np.log(summed), CARM, 1.0, np.random.default_rng(noise))
