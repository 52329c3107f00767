"""Pictures of a plate of holes on an image intensifier that bends them, differently at every angle, and the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

EARTH = np.array([18.0, -5.0, 44.0]) / 48.0
"""The magnetic field in the room, of length 1."""
SQUARE = np.array([[1.0, 0.0], [0.0, 1.0]])
HEXAGONAL = np.array([[1.0, 0.5], [0.0, np.sqrt(0.75)]])


@dataclass
class Plate:
    """One on an intensifier; all lengths in mm, pictures in px."""

    lattice: str = "hexagonal"
    spacing_mm: float = 5.0
    hole_mm: float = 2.0
    size_px: int = 512
    pixel_mm: float = 0.45
    turned_rad: float = 0.2
    middle_mm: tuple[float, float] = (1.3, -0.7)
    cushion: float = 0.04
    swirl: float = 0.02
    """Rotation by the whole of the earth's field along the axis, more towards the rim, rad."""
    drift_px: float = 3.0
    noise: float = 1.0
    round_field: bool = True
    shutter: tuple[float, float] | None = None
    """Direction (rad) and distance from the middle (share of the half width) beyond which it is shut."""
    beads: bool = False
    closed: float = 0.0
    """Share of holes that are not there."""
    text: bool = False
    basis: np.ndarray = field(init=False)

    def __post_init__(self):
        self.basis = (HEXAGONAL if self.lattice == "hexagonal" else SQUARE) * self.spacing_mm

    def plate_mm(self, raw_px, orbital, angulation):
        """Where on the plate raw pixels (..., 2) look."""
        cos_o, sin_o, cos_a, sin_a = np.cos(orbital), np.sin(orbital), np.cos(angulation), np.sin(angulation)
        turn = np.array([[cos_o, -sin_o, 0], [sin_o, cos_o, 0], [0, 0, 1]]) @ np.array(
            [[1, 0, 0], [0, cos_a, -sin_a], [0, sin_a, cos_a]]
        )
        earth = turn.T @ EARTH
        half = (self.size_px - 1) / 2
        at = (np.asarray(raw_px, float) - half - self.drift_px * earth[:2]) / half
        square = (at**2).sum(axis=-1, keepdims=True)
        at = at * (1 - self.cushion * square - 0.3 * self.cushion * square**2)
        angle = self.turned_rad + self.swirl * earth[2] * (0.5 + square[..., 0])
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = at[..., 0], at[..., 1]
        return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) * half * self.pixel_mm + self.middle_mm

    def raw_px(self, plate_mm, orbital, angulation):
        """Where places on the plate (..., 2) are seen, by Newton's method with differences."""
        raw = np.full(np.shape(plate_mm), (self.size_px - 1) / 2)
        for _ in range(40):
            off = self.plate_mm(raw, orbital, angulation) - plate_mm
            slopes = [
                self.plate_mm(raw + step, orbital, angulation) - self.plate_mm(raw - step, orbital, angulation)
                for step in np.eye(2)
            ]
            jacobian = np.stack(slopes, axis=-1) / 2
            raw = raw - np.linalg.solve(jacobian, off[..., None])[..., 0]
        return raw

    def nearest(self, plate_mm):
        """Index (..., 2) of the nearest hole, and the distance to it, mm."""
        inverse = np.linalg.inv(self.basis)
        x, y = plate_mm[..., 0], plate_mm[..., 1]
        shares = [row[0] * x + row[1] * y for row in inverse]
        below = [np.floor(share) for share in shares]
        (i, j), best, index = (share - floor for share, floor in zip(shares, below, strict=True)), np.inf, [0, 0]
        for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
            off_mm = [row[0] * (step[0] - i) + row[1] * (step[1] - j) for row in self.basis]
            away = off_mm[0] ** 2 + off_mm[1] ** 2
            nearer = away < best
            best = np.where(nearer, away, best)
            index = [
                np.where(nearer, floor + more, so_far) for floor, more, so_far in zip(below, step, index, strict=True)
            ]
        return np.stack(index, axis=-1).astype(int), np.sqrt(best)

    def open_part(self, raw_px):
        """Whether raw pixels (..., 2) are neither shut off nor outside a round field."""
        half = (self.size_px - 1) / 2
        at = (raw_px - half) / half
        seen = np.ones(at.shape[:-1], bool)
        if self.round_field:
            seen &= np.linalg.norm(at, axis=-1) < 0.97
        if self.shutter is not None:
            direction, distance = self.shutter
            seen &= at @ [np.cos(direction), np.sin(direction)] < distance
        return seen

    def picture(self, orbital, angulation, rng):
        """Counts (H, W) uint16."""
        fine = 3
        places = (np.arange(self.size_px * fine) + 0.5) / fine - 0.5
        raw = np.stack(np.meshgrid(places, places), axis=-1)
        index, away = self.nearest(self.plate_mm(raw, orbital, angulation))
        missing = np.random.default_rng(5).random((401, 401)) < self.closed
        there = (away < self.hole_mm / 2) & ~missing[index[..., 0] % 401, index[..., 1] % 401]
        line = np.where(there, 2.5, 0.4) if self.beads else np.where(there, 0.4, 2.5)
        shade = 1 - 0.3 * ((raw - self.size_px * 0.45) ** 2).sum(axis=-1) / self.size_px**2
        counts = 12_000 * shade * np.exp(-line)
        counts = cv2.GaussianBlur(counts, (0, 0), 0.8 * fine)
        counts = counts * np.where(self.open_part(raw), 1.0, 0.01)
        counts = cv2.resize(counts, (self.size_px, self.size_px), interpolation=cv2.INTER_AREA)
        counts = counts + self.noise * rng.normal(size=counts.shape) * np.sqrt(counts * 4 + 100)
        if self.text:
            cv2.putText(counts, "PLATE 23 cm  L", (30, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 60_000, 2)
            cv2.putText(counts, "12:34", (self.size_px // 2, self.size_px // 2), cv2.FONT_HERSHEY_SIMPLEX, 1, 0, 3)
        return np.clip(counts, 0, 65_535).astype(np.uint16)
