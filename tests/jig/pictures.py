"""Pictures of jigs, by projection written out by itself: K [R | t]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Seen:
    """Spots of one picture and the truth about them."""

    at_px: np.ndarray
    ids: list[str]
    """'' for what is no bead."""
    focal_px: float
    center_px: np.ndarray
    rotation: np.ndarray
    translation_mm: np.ndarray
    size_px: tuple[int, int]

    def project(self, points_mm):
        seen = points_mm @ self.rotation.T + self.translation_mm
        return self.center_px + self.focal_px * seen[:, :2] / seen[:, 2:], seen[:, 2]


def seen(
    rng, jig, *, noise_px=0.1, missing=0.4, false=5, mirrored=False, size_px=(1024, 1024), angle_deg=None, shift_px=0.0
) -> Seen:
    """From AP (0 degrees) to lateral (90), in a plain X-ray room or with a C-arm; the picture may be turned."""
    angle = np.deg2rad(rng.uniform(0, 90) if angle_deg is None else angle_deg)
    detector_mm, distance_mm = rng.uniform(300, 430), rng.uniform(950, 1500)
    focal_px = distance_mm / detector_mm * max(size_px)
    beam = np.array([np.sin(angle), np.cos(angle), np.tan(np.deg2rad(rng.uniform(-8, 8)))])
    beam /= np.linalg.norm(beam)
    across = np.cross([0.0, 0.0, 1.0], beam)
    across /= np.linalg.norm(across)
    turn = np.deg2rad(rng.uniform(-20, 20) + 90 * rng.integers(4))
    about = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    rotation = about @ np.stack([across, np.cross(beam, across), beam])
    looked_at = rng.uniform(-15, 15, 3) + (25, 25, 0)
    translation = np.array([*rng.uniform(-10, 10, 2), distance_mm - rng.uniform(150, 320)]) - rotation @ looked_at
    center = (np.array(size_px) - 1) / 2 + rng.uniform(-30, 30, 2) + shift_px
    whole = Seen(np.zeros((0, 2)), [], focal_px, center, rotation, translation, size_px)
    at, _ = whole.project(jig.positions_mm)
    inside = ((at >= 0) & (at <= np.array(size_px) - 1)).all(axis=1)
    kept = np.flatnonzero(inside & (rng.random(len(at)) >= missing))
    spots = np.vstack([at[kept] + rng.normal(0, noise_px, (len(kept), 2)), rng.uniform(0, size_px, (false, 2))])
    ids = [jig.ids[n] for n in kept] + [""] * false
    order = rng.permutation(len(spots))
    spots, ids = spots[order], [ids[n] for n in order]
    if mirrored:
        spots[:, 0] = size_px[0] - 1 - spots[:, 0]
    return Seen(spots, ids, focal_px, center, rotation, translation, size_px)


def cropped(picture: Seen, share: float, side: int) -> Seen:
    """The picture without a share of its width or height at a side: 0 left, 1 top, 2 right, 3 bottom."""
    axis, size = side % 2, np.array(picture.size_px)
    gone = int(share * size[axis])
    first = np.zeros(2)
    first[axis] = gone if side < 2 else 0
    size[axis] -= gone
    at_px = picture.at_px - first
    inside = ((at_px >= 0) & (at_px <= size - 1)).all(axis=1)
    return replace(
        picture,
        at_px=at_px[inside],
        ids=[name for name, there in zip(picture.ids, inside, strict=True) if there],
        center_px=picture.center_px - first,
        size_px=(int(size[0]), int(size[1])),
    )
