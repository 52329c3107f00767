"""Measurements as an operating room would give them, and what they were made of."""

from __future__ import annotations

import numpy as np

from navnode import geometry as g
from navnode.types import CArm

TIP = np.array([10.0, -5.0, 180.0])


def jittered(pose, rng, sigma_mm: float, sigma_deg: float):
    """A pose as a tracker measures it."""
    turn = g.rotation_exp(rng.normal(0, np.deg2rad(sigma_deg), 3))
    return g.rigid(pose[:3, :3] @ turn, pose[:3, 3] + rng.normal(0, sigma_mm, 3))


def pivoting(count, rng, *, cone=0.6, turn=1.0, at=(300.0, -200.0, -1500.0), sigma_mm=0.1, sigma_deg=0.05):
    """tracker_from_tool while the tip rests in a divot."""
    poses = []
    for _ in range(count):
        axis = np.append(rng.normal(size=2), 0.0)
        tilt = g.rotation_exp(axis / np.linalg.norm(axis) * cone * np.sqrt(rng.random()))
        rotation = tilt @ g.rotation_exp(np.array([0, 0, rng.uniform(-turn, turn)]))
        poses.append(jittered(g.rigid(rotation, np.array(at) - rotation @ TIP), rng, sigma_mm, sigma_deg))
    return np.array(poses)


def spinning(count, rng, *, axis, point, angle=3.0, wobble_rad=0.0):
    """tracker_from_tool while the tool turns about its own axis."""
    base = g.exp(np.array([0.2, 0.4, 0.1, 100, 50, -1500.0]))
    poses = []
    for share in np.linspace(0, 1, count):
        lean = g.exp(np.append(rng.normal(0, wobble_rad, 3), np.zeros(3)))
        turned = g.exp(np.append(np.asarray(axis) * angle * share, np.zeros(3)), point)
        poses.append(jittered(base @ lean @ turned, rng, 0.1, 0.05))
    return np.array(poses)


def shots(count, rng, *, one_axis=False, sigma_mm=0.1, sigma_deg=0.02, xray_mm=0.2, xray_deg=0.02):
    """tracker_from_marker, phantom_from_carm, and the two transforms that they follow from."""
    marker_from_carm = g.exp(np.array([0.5, -0.3, 1, 100, -50, 300.0]))
    tracker_from_phantom = g.exp(np.array([0.1, 0.2, 0.3, -200, 100, -1800.0]))
    markers, xrays = [], []
    for _ in range(count):
        orbital, angulation = rng.uniform(-60, 60), 0.0 if one_axis else rng.uniform(-30, 30)
        pose = g.pose_at(np.array([5.0, 5, 5]), 700.0, orbital_deg=orbital, angulation_deg=angulation)
        markers.append(jittered(tracker_from_phantom @ pose @ g.inverse(marker_from_carm), rng, sigma_mm, sigma_deg))
        xrays.append(jittered(pose, rng, xray_mm, xray_deg))
    return np.array(markers), np.array(xrays), marker_from_carm, tracker_from_phantom


def bent(orbital, angulation):
    """A C-arm that bends: its geometry and pose at two angles."""
    volume_from_base = g.exp(np.array([0.1, 0.2, 0.3, 10, 20, 30.0]))
    arm_from_carm = g.exp(np.array([0.01, 0.02, 0.01, 3, -2, -620.0]))
    turned = g.rotation_exp(np.array([0, 0, -orbital])) @ g.rotation_exp(np.array([angulation, 0, 0]))
    turn = [0.002 * np.sin(orbital), 0.003 * np.cos(orbital), 0]
    bend = np.array([*turn, 2 * np.sin(orbital), 3 * np.cos(2 * orbital) + 2 * angulation, 1.5 * np.sin(2 * orbital)])
    shift = 255 + 3 * np.sin(orbital), 255 - 2 * np.cos(orbital)
    carm = CArm(512, 512, (0.58, 0.58), 1020 + 2 * np.sin(orbital), shift)
    return carm, volume_from_base @ g.rigid(turned) @ arm_from_carm @ g.exp(bend)


def wandering(t):
    """A motion that does not repeat itself, mm."""
    return (
        15 * np.sin(2 * np.pi * 0.37 * t) + 9 * np.sin(2 * np.pi * 0.83 * t + 1) + 5 * np.sin(2 * np.pi * 1.31 * t + 2)
    )


def touching(places, rng, *, order=None, bias=(0.0, 0.0, 0.0)):
    """A tip that goes from place to place and rests at each, (N, 3)."""
    here, path = np.array([0.0, 0, 150]), []
    path += [here + rng.normal(0, 0.15, 3) for _ in range(60)]
    for place in places if order is None else [places[n] for n in order]:
        for share in np.linspace(0, 1, int(rng.uniform(15, 40))):
            path.append(here + (place - here) * (3 * share**2 - 2 * share**3) + rng.normal(0, 0.15, 3))
        here = place
        path += [place + rng.normal(0, 0.15, 3) + bias for _ in range(int(rng.uniform(20, 60)))]
    return np.array(path)
