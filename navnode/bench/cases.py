"""X-rays with known poses for judging registration, from real CTs, another projector and other X-ray chains.

The physics varies from case to case (dose, spectrum, kind and amount of scatter, gain, tool), to show that registration
copes with chains it was not designed for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from navnode import geometry as g
from navnode.registration.starts import STATIONS_DEG
from navnode.simulation.scenario import scenario_for
from navnode.types import Array, CArm, FloatArray, Matrix, Volume
from navnode.xray.chain import METAL_PER_MM, cylinder_chords_mm

__all__ = ["Case", "Chain", "Errors", "Patient"]

Render = Callable[[CArm, Matrix], FloatArray]

_STATIONS = ("AP", "lateral", "oblique", "RAO", "PA")
_TURN_DEG, _ANGULATION_DEG, _ROLL_DEG = 12.0, 10.0, 8.0
"""Typical deviation of a station from its nominal angles."""
_SHIFT_MM = 18.0

_SPECTRUM = ((1.30, 0.25), (1.0, 0.45), (0.80, 0.30))
"""(attenuation relative to the mean energy's, share of the detected intensity): a diagnostic beam in three lines."""

_FRAME_S = 1 / 30


@dataclass(frozen=True)
class Chain:
    """A simulated X-ray chain, from line integrals to counts."""

    i0: float = 60_000.0
    """Photons per open-beam pixel."""
    gain: float = 1.0
    """Counts per detected photon, a factor."""
    hardening: bool = True
    scatter: float = 0.05
    """Mean scattered over mean primary intensity behind the patient."""
    scatter_kind: str = "kernel"
    """kernel: proportional to matter crossed, blurred; blurred: the image, blurred; flat: a slanted plane."""
    scatter_sigma_mm: float = 50.0
    tool: bool = False

    @classmethod
    def drawn(cls, rng: np.random.Generator, i0: float) -> Chain:
        """A random chain with ``i0`` photons per open-beam pixel."""
        return cls(
            i0=i0,
            gain=float(rng.uniform(0.6, 1.0)),
            hardening=True,
            scatter=float(rng.uniform(0.03, 0.07)),
            scatter_kind=str(rng.choice(["kernel", "blurred", "flat"])),
            scatter_sigma_mm=float(rng.uniform(30, 80)),
            tool=bool(rng.random() < 1 / 3),
        )

    def expose(self, line: FloatArray, carm: CArm, rng: np.random.Generator) -> Array:
        """uint16 counts (H, W)."""
        rays = np.maximum(line, 0.0)
        if self.hardening:
            primary = np.zeros_like(rays)
            for ratio, share in _SPECTRUM:
                primary += share * np.exp(-ratio * rays)
        else:
            primary = np.exp(-rays)
        photons = rng.poisson(self.i0 * (primary + self._scatter(primary, carm)))
        return np.clip(np.round(self.gain * photons), 0, 65_535).astype(np.uint16)

    def _scatter(self, primary: FloatArray, carm: CArm) -> FloatArray:
        sigma_px = self.scatter_sigma_mm / carm.pixel_spacing_mm[0]
        if self.scatter_kind == "flat":
            v, u = np.mgrid[-1 : 1 : 1j * carm.height_px, -1 : 1 : 1j * carm.width_px]
            spread = 1 + 0.3 * u - 0.2 * v
        else:
            crossed = -np.log(np.maximum(primary, 1e-6))
            light = primary * crossed if self.scatter_kind == "kernel" else primary
            spread = cv2.GaussianBlur(light, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
        patient = primary < 0.8
        if not patient.any():
            return np.zeros_like(primary)
        scatter: FloatArray = spread * (self.scatter * primary[patient].mean() / spread[patient].mean())
        return scatter


@dataclass(frozen=True)
class Case:
    """One X-ray and its true pose."""

    counts: Array
    """(H, W) uint16"""
    carm: CArm
    volume_from_carm: Matrix
    pivot_mm: float
    targets_mm: Matrix
    """(N, 3) bone near the middle of the image."""
    station: str
    chain: Chain

    def start(self, rng: np.random.Generator, across_mm: float, depth_mm: float, turn_deg: float) -> Matrix:
        """A ``volume_from_carm`` off the truth by at most these amounts, uniformly distributed."""
        angle = rng.uniform(0, 2 * np.pi)
        across = across_mm * np.sqrt(rng.random()) * np.array([np.cos(angle), np.sin(angle)])
        axis = rng.normal(size=3)
        turn = np.deg2rad(turn_deg) * rng.random() * axis / np.linalg.norm(axis)
        xi = np.concatenate([turn, across, [depth_mm * rng.uniform(-1, 1)]])
        return self.volume_from_carm @ g.exp(xi, (0.0, 0.0, self.pivot_mm))

    def errors_mm(self, volume_from_carm: Matrix) -> Errors:
        """Errors of targets with this pose."""
        true = g.transform(g.inverse(self.volume_from_carm), self.targets_mm)
        off = g.transform(g.inverse(volume_from_carm), self.targets_mm) - true
        return Errors(
            float(np.linalg.norm(off[:, :2], axis=1).mean()),
            float(np.abs(off[:, 2]).mean()),
            float(np.linalg.norm(off, axis=1).mean()),
        )


@dataclass(frozen=True)
class Errors:
    """Mean displacement of the targets, mm."""

    lateral: float
    """Across the principal ray."""
    depth: float
    full: float


class Patient:
    """A CT from which cases are drawn."""

    def __init__(self, volume: Volume, render: Render) -> None:
        self.volume = volume
        self._render = render
        scenario = scenario_for(volume)
        self.isocentre_mm = scenario.isocentre_mm
        self._bone_mm = scenario.targets_mm

    def case(self, rng: np.random.Generator, i0: float, chain: Chain | None = None, station: str = "") -> Case:
        """A case at a station, with deviations as in practice; ``i0`` photons per open-beam pixel."""
        carm = _drawn_carm(rng)
        station = station or str(rng.choice(_STATIONS))
        chain = chain or Chain.drawn(rng, i0)
        distance_mm = float(rng.uniform(0.64, 0.72)) * carm.source_to_detector_mm
        middle = self.isocentre_mm + rng.uniform(-_SHIFT_MM, _SHIFT_MM, 3)
        volume_from_carm = g.pose_at(
            middle,
            distance_mm,
            orbital_deg=STATIONS_DEG[station] + rng.uniform(-_TURN_DEG, _TURN_DEG),
            angulation_deg=rng.uniform(-_ANGULATION_DEG, _ANGULATION_DEG),
            roll_deg=rng.uniform(-_ROLL_DEG, _ROLL_DEG),
        )
        tool = tool_in_beam(rng, distance_mm) if chain.tool else None
        return self.exposed(volume_from_carm, carm, distance_mm, chain, rng, station, tool)

    def exposed(
        self,
        volume_from_carm: Matrix,
        carm: CArm,
        pivot_mm: float,
        chain: Chain,
        rng: np.random.Generator,
        station: str = "",
        carm_from_tool: Matrix | None = None,
    ) -> Case:
        """The X-ray from a pose."""
        line = self._render(carm, volume_from_carm)
        if carm_from_tool is not None:
            line = line + METAL_PER_MM * cylinder_chords_mm(carm, carm_from_tool, 2.5, 160.0)
        counts = chain.expose(line, carm, rng)
        return Case(counts, carm, volume_from_carm, pivot_mm, self._bone_mm, station, chain)

    def sequence(self, rng: np.random.Generator, frames: int, i0: float) -> Iterator[Case]:
        """A C-arm that sweeps while the patient breathes, the gain drifts and a tool moves; 30 frames/s."""
        carm = _drawn_carm(rng)
        chain = Chain.drawn(rng, i0)
        distance_mm = float(rng.uniform(0.64, 0.72)) * carm.source_to_detector_mm
        began_deg, speed_deg_s = rng.uniform(-180, 180), rng.choice([-1, 1]) * rng.uniform(8, 20)
        middle = self.isocentre_mm + rng.uniform(-_SHIFT_MM, _SHIFT_MM, 3)
        phase = rng.uniform(0, 2 * np.pi, 4)
        tool = tool_in_beam(rng, distance_mm)
        for index in range(frames):
            t_s = index * _FRAME_S
            breath = np.sin(2 * np.pi * t_s / 4 + phase[0]) * np.array([0.0, 2.5, 4.0])
            volume_from_carm = g.pose_at(
                middle + breath,
                distance_mm,
                orbital_deg=began_deg + speed_deg_s * t_s,
                angulation_deg=6 * np.sin(1.5 * t_s + phase[1]),
                roll_deg=3 * np.sin(1.1 * t_s + phase[2]),
            )
            drifting = replace(chain, gain=chain.gain * (1 + 0.2 * np.sin(2 * t_s + phase[3])), tool=True)
            hand = g.exp(np.array([0.1 * np.sin(3 * t_s), 0, 0, 10 * np.sin(2 * t_s), 8 * np.cos(2.3 * t_s), 0]))
            yield self.exposed(volume_from_carm, carm, distance_mm, drifting, rng, "sweep", tool @ hand)


def tool_in_beam(rng: np.random.Generator, distance_mm: float) -> Matrix:
    """carm_from_tool of a drill whose tip is near the middle of the image."""
    turn = g.rotation_exp(np.array([0, 0, rng.uniform(0, 2 * np.pi)])) @ g.rotation_exp(
        np.array([rng.uniform(0.5, 1.4), 0.0, 0.0])
    )
    tip = (rng.uniform(-25, 25), rng.uniform(-25, 25), distance_mm + rng.uniform(-30, 30))
    return g.rigid(turn, tip)


def _drawn_carm(rng: np.random.Generator) -> CArm:
    """A random C-arm of realistic size with 512 x 512 pixels and an off-centre principal ray."""
    size_mm, distance_mm = float(rng.choice([230.0, 300.0, 300.0, 380.0])), float(rng.uniform(980, 1150))
    middle = 255.5 + rng.uniform(-12, 12, 2)
    spacing = size_mm / 512
    return CArm(512, 512, (spacing, spacing), distance_mm, (float(middle[0]), float(middle[1])))
