"""The displays of C-arms: X-rays with quanta, a curve, a round field, text, holds, a turned picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Display:
    """How one shows X-rays."""

    size: tuple[int, int] = (720, 576)
    field: tuple[float, float, float] | None = (370.0, 290.0, 250.0)
    """x, y, radius in the picture; None: the rectangle."""
    rectangle: tuple[int, int, int, int] = (100, 40, 520, 500)
    gamma: float = 2.2
    inverted: bool = False
    black: int = 0
    white: int = 255
    quanta: float = 1500.0
    """At white."""
    repeats: int = 3
    """Pictures of an exposure."""
    capture_noise: float = 0.5
    text_inside: bool = True
    turned_deg: int = 0
    mirrored: bool = False
    interlaced: bool = False
    steps: int = 2
    step_share: float = 0.25
    """Of the dose, that every other step takes away."""
    gained: bool = False
    """Whether the display shows less dose as bright."""
    seed: int = 1

    @property
    def region(self) -> tuple[int, int, int, int]:
        if self.field is None:
            return self.rectangle
        x, y, radius = self.field
        return round(x - radius), round(y - radius), round(2 * radius) + 1, round(2 * radius) + 1

    def counts(self, at: float) -> np.ndarray:
        """The detector's picture at a time in s, as shares of the open beam; a bone moves over another."""
        side = self.region[2]
        height = self.region[3]
        v, u = (along.astype(np.float32) / side for along in np.ogrid[:height, :side])
        soft = 1.1 * np.exp(-(((u - 0.5) / 0.5) ** 2)) * np.exp(-(((v - 0.55) / 0.6) ** 2))
        shift = 0.06 * np.sin(0.5 * at)
        bone = 0.9 * np.exp(-(((u - 0.38 - shift - 0.2 * v) / 0.07) ** 2)) + (
            0.6 * np.exp(-(((u - 0.65) / 0.05) ** 2)) * np.exp(-(((v - 0.3 - shift) / 0.2) ** 2))
        )
        metal = 1.2 * ((np.abs(v - 0.75) < 0.012) & (u > 0.2 + shift) & (u < 0.5 + shift))
        return np.exp(-(soft + bone + metal))

    def pictures(self, seconds: float, rate_hz: float = 25.0):
        """(H, W) uint8, one after the other."""
        rng = np.random.default_rng(self.seed)
        width, height = self.size
        x, y, w, h = self.region
        frame = np.full((height, width), self.black, np.uint8)
        for line in range(6):
            cv2.putText(
                frame,
                f"{60 + line} kV  2.{line} mA",
                (4, 30 + 40 * line),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.45,
                self.white - 20,
            )
        v, u = np.ogrid[:h, :w]
        disc = np.ones((h, w), bool)
        if self.field is not None:
            disc = (u - (self.field[0] - x)) ** 2 + (v - (self.field[1] - y)) ** 2 <= self.field[2] ** 2
        exposure = None
        for n in range(round(seconds * rate_hz)):
            if n % self.repeats == 0:
                dose = 1.0 - self.step_share * (int(n / rate_hz / seconds * (self.steps + 1)) % 2)
                exposure = self._shown(n / rate_hz, dose, rng)
                if self.interlaced:
                    exposure[1::2] = self._shown((n + 0.5) / rate_hz + 0.3, dose, rng)[1::2]
            picture = frame.astype(np.float32)
            part = picture[y : y + h, x : x + w]
            part[disc] = exposure[disc]
            if self.text_inside:
                cv2.putText(part, "L 12:30", (w // 2 - 60, h // 5), cv2.FONT_HERSHEY_SIMPLEX, 0.8, float(self.white), 2)
            if self.capture_noise:
                picture += self.capture_noise * rng.standard_normal(picture.shape, np.float32)
            yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)

    def _shown(self, at: float, dose: float, rng) -> np.ndarray:
        quanta = rng.poisson(self.quanta * dose * self.counts(at)).astype(np.float32)
        white = self.quanta * (dose if self.gained else 1.0)
        shares = np.clip(cv2.GaussianBlur(quanta, (0, 0), 0.6) / white, 0, 1)
        shown = shares ** (1 / self.gamma)
        if self.inverted:
            shown = 1 - shown
        if self.mirrored:
            shown = shown[:, ::-1]
        shown = np.rot90(shown, self.turned_deg // 90)  # counter-clockwise: turned_deg clockwise undoes it
        return self.black + (self.white - self.black) * shown
