"""Bones and patients made for tests, X-rays of them, and C-arms around them."""

from __future__ import annotations

import cv2
import numpy as np

from navnode import geometry as g
from navnode.projector import Projector
from navnode.registration.bodies import Body, Shot
from navnode.registration.bodies.body import soft_tissue
from navnode.simulation.scenario import carm_of_size
from navnode.types import Volume

CARM = carm_of_size(384)
MM = 1.0


def bone(seed: int, center_mm: tuple[float, float, float]) -> Volume:
    """A hollow bone with knobs, of no symmetry: HU, 1 mm voxels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.arange(70) * MM - 35.0] * 3, indexing="ij")
    inside = (x / 9) ** 2 + (y / 7) ** 2 + (z / 30) ** 2 < 1
    for _ in range(6):
        at = rng.uniform(-1, 1, 3) * (16, 14, 26)
        inside |= (x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2 < rng.uniform(4, 8) ** 2
    core = cv2.erode(inside.astype(np.uint8).reshape(70, -1), np.ones((1, 1))).reshape(inside.shape)
    for axis in range(3):
        core &= np.roll(inside, 2, axis) & np.roll(inside, -2, axis)
    voxels = np.where(inside, np.where(core, 250.0, 1300.0), -1000.0).astype(np.float32)
    volume_from_index = np.eye(4)
    volume_from_index[:3, 3] = np.array(center_mm) - 34.5
    return Volume(voxels, volume_from_index, f"bone {seed}")


def camera(degrees: float) -> np.ndarray:
    """world_from_carm, orbiting around the world's origin."""
    angle = np.deg2rad(degrees)
    ray, down = np.array([np.sin(angle), np.cos(angle), 0.0]), np.array([0.0, 0.0, -1.0])
    return g.rigid(np.stack([np.cross(down, ray), down, ray], axis=1), -700.0 * ray)


def taken(
    volumes: list[Volume], poses: list[np.ndarray], degrees: float, grey: bool = False, seed: int | None = None
) -> Shot:
    """An X-ray with soft tissue, noise and blur; 8 bits with a gamma if grey."""
    pose = camera(degrees)
    line = sum(
        Projector(Volume(volume.voxels - 60 * (volume.voxels > 0), volume.volume_from_index), threads=1).render(
            CARM, g.inverse(world_from_body) @ pose
        )
        for volume, world_from_body in zip(volumes, poses, strict=True)
    )
    u, v = np.meshgrid(np.arange(CARM.width_px), np.arange(CARM.height_px))
    line = line + 1.5 * np.exp(-(((u - 190) / 150) ** 2) - ((v - 180) / 260) ** 2)
    light = cv2.GaussianBlur(np.exp(-line), (0, 0), 0.7)
    counts = np.random.default_rng(round(degrees) if seed is None else seed).poisson(light * 4000) * 14.0
    if grey:
        return Shot((255 * np.clip(counts / 50_000, 0, 1) ** 0.5).astype(np.uint8), CARM, pose)
    return Shot(np.clip(counts, 0, 65_000).astype(np.uint16), CARM, pose)


def moved(body: Body, rng: np.random.Generator, mm: float, degrees: float) -> np.ndarray:
    turn, shift = rng.normal(size=(2, 3))
    turn *= np.deg2rad(degrees) / np.linalg.norm(turn)
    shift *= mm / np.linalg.norm(shift)
    return g.exp(np.concatenate([turn, shift]), body.center_mm)


def patient(seeds: tuple[int, int]) -> tuple[Volume, list[np.ndarray]]:
    """A CT of soft tissue with two bones, and their labels."""
    _, y, x = np.meshgrid(*[np.arange(110) * MM - 55.0] * 3, indexing="ij")
    voxels = np.where((x / 50) ** 2 + (y / 40) ** 2 < 1, 40.0, -1000.0).astype(np.float32)
    labels = []
    for seed, center in zip(seeds, ((-17, 0, 0), (17, 6, 4)), strict=True):
        own = bone(seed, (0.0, 0.0, 0.0)).voxels
        first = [55 + at - 35 for at in center[::-1]]
        part = tuple(slice(at, at + 70) for at in first)
        label = np.zeros(voxels.shape, bool)
        label[part] = own > -1000
        voxels[part] = np.where(own > -1000, own, voxels[part])
        labels.append(label)
    volume_from_index = np.eye(4)
    volume_from_index[:3, 3] = -55.0
    return Volume(voxels, volume_from_index, "ct"), labels


def articulated(ct: Volume, labels: list[np.ndarray], poses: list[np.ndarray], degrees: float) -> Shot:
    """An X-ray of a patient whose bones moved, with scatter and noise."""
    pose = camera(degrees)
    line = Projector(soft_tissue(ct, labels), threads=1).render(CARM, pose)
    for label, world_from_body in zip(labels, poses, strict=True):
        excess = np.where(label, np.maximum(ct.voxels - 60, 0), 0) - 1000
        moved_bone = Projector(Volume(excess.astype(np.float32), ct.volume_from_index), threads=1)
        line = line + moved_bone.render(CARM, g.inverse(world_from_body) @ pose)
    light = np.exp(-line)
    light = cv2.GaussianBlur(light + 0.05 * cv2.GaussianBlur(light, (0, 0), 40), (0, 0), 0.7)
    counts = np.random.default_rng(round(degrees)).poisson(light * 4000) * 14.0
    return Shot(np.clip(counts, 0, 65_000).astype(np.uint16), CARM, pose)
