"""Kinds of bone: labels from marks, and readings divided by them."""

from __future__ import annotations

import numpy as np
import pytest

from navnode import geometry as g
from navnode.projector import MU_WATER_PER_MM, Projector
from navnode.projector.grids import centered_grid
from navnode.reconstruction.naming import seen_kinds
from navnode.reconstruction.reader import BONE_KINDS, OUTPUTS
from navnode.reconstruction.reading import Reading, by_kind, understood
from navnode.types import CArm, FloatArray, Volume

pytest.importorskip("torch", reason="training needs the extra `train`")

import torch

from navnode.reconstruction.training import kinds as labelling
from navnode.reconstruction.training.kinds import bone_kinds
from navnode.reconstruction.training.labels import signed_distance
from navnode.reconstruction.training.reading import objective

FEMUR, TIBIA, FIBULA, OTHER = (BONE_KINDS.index(name) for name in ("femur", "tibia", "fibula", "other"))
CT = Volume(np.zeros((40, 80, 80), np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))


def balls(*middles: tuple[float, float, float], radius_mm: float = 14.0) -> np.ndarray:
    """Balls around (x, y, z) mm in the CT, bool (k, j, i)."""
    k, j, i = np.indices(CT.voxels.shape)
    return np.any([np.hypot(np.hypot(i - x, j - y), 3 * k - z) < radius_mm for x, y, z in middles], axis=0)


def named(monkeypatch: pytest.MonkeyPatch, bone: np.ndarray, marks: dict[str, list[list[float]]]) -> np.ndarray:
    monkeypatch.setattr(labelling, "_marks", lambda: {"someone": marks})
    found = bone_kinds("someone", signed_distance(bone, CT), CT)
    assert found is not None and found.shape == bone.shape
    return found


def test_bones_are_named_by_the_marks_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = ((20.0, 40.0, 25.0), (60.0, 40.0, 30.0), (40.0, 40.0, 90.0))
    found = named(monkeypatch, balls(one, two, three), {"tibia": [[22, 38, 28]], "fibula": [[60, 40, 30]]})
    assert (found[balls(one)] == TIBIA).all()
    assert (found[balls(two)] == FIBULA).all()
    assert (found[balls(three)] == OTHER).all()


def test_bones_that_are_one_part_are_divided_between_their_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = ((30.0, 40.0, 55.0), (51.0, 40.0, 55.0))  # 21 mm apart, 28 mm wide
    found = named(monkeypatch, balls(one, two), {"femur": [[30, 40, 55]], "tibia": [[51, 40, 55]]})
    left = np.indices(CT.voxels.shape)[2] < 40
    assert np.mean(found[balls(one) & left] == FEMUR) > 0.97
    assert np.mean(found[balls(two) & ~left] == TIBIA) > 0.97


def test_bones_that_nobody_marked_have_no_kind() -> None:
    assert bone_kinds("nobody", signed_distance(balls((40, 40, 60)), CT), CT) is None


def outputs(*shares: float) -> FloatArray:
    """Outputs of a reader that sees 20 mm of bone everywhere, and gives each kind a share of it."""
    rest = [np.log(max(share, 1e-6)) for share in shares]
    return np.tile(np.array([1.0, 9.0, -2.0, 0.0, -9.0, *rest], np.float32)[:, None, None], (1, 32, 32))


def test_a_reading_is_divided_by_kind_without_losing_bone() -> None:
    carm = CArm(32, 32, (1.0, 1.0), 1000.0, (15.5, 15.5))
    everywhere, line = np.ones((32, 32), bool), np.ones((32, 32), np.float32)
    shares = np.zeros(len(BONE_KINDS))
    shares[[FEMUR, TIBIA, FIBULA]] = 0.75, 0.2, 0.05  # the last is noise
    reading = understood(outputs(*shares), line, everywhere, carm, 1.0)
    parts = by_kind([reading, reading], [np.eye(4), np.eye(4)])
    assert [round(float(views[0].line_integrals[0, 0]), 1) for views in parts] == [15.8, 4.2]
    total = np.sum([views[1].line_integrals for views in parts], axis=0)
    np.testing.assert_allclose(total, reading.bone_mm, rtol=1e-5)


def test_a_voxel_is_of_the_kind_that_all_views_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """In AP, a femur hides half of a tibia; from the side, both are seen."""
    monkeypatch.setattr("navnode.reconstruction.reading._CERTAIN", 0.5)
    carm = CArm(64, 64, (3.0, 3.0), 1000.0, (31.5, 31.5))
    poses = [g.pose_at(np.zeros(3), 650.0, orbital_deg=angle) for angle in (0.0, 90.0)]
    axis = np.linspace(-40, 40, 41)
    _, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    femur, tibia = np.hypot(x, y + 20) < 15, np.hypot(x - 8, y - 20) < 15
    grid = Volume(np.zeros(x.shape, np.float32), centered_grid(x.shape, 2.0, np.zeros(3)))
    readings = []
    for pose in poses:
        mm = [
            Projector(Volume(part * np.float32(1000 / MU_WATER_PER_MM) - 1000, grid.volume_from_index)).render(
                carm, pose
            )
            for part in (femur, tibia)
        ]
        shares = np.zeros((len(BONE_KINDS), 64, 64), np.float32)
        shares[FEMUR], shares[TIBIA] = (part / np.maximum(mm[0] + mm[1], 1e-3) for part in mm)
        total = mm[0] + mm[1]
        part = np.ones_like(total)
        readings.append(Reading(carm, part, 1.0, total, part, part, 0 * part, 0 * part, shares))
    kinds = seen_kinds(femur | tibia, grid, readings, poses)
    assert np.mean(kinds[femur] == FEMUR) > 0.95
    assert np.mean(kinds[tibia] == TIBIA) > 0.95
    assert (kinds[~(femur | tibia)] == OTHER).all()


def test_bones_whose_kinds_are_uncertain_get_no_names() -> None:
    carm = CArm(32, 32, (1.0, 1.0), 1000.0, (15.5, 15.5))
    everywhere, line = np.ones((32, 32), bool), np.ones((32, 32), np.float32)
    shares = np.zeros(len(BONE_KINDS))
    shares[[FEMUR, TIBIA]] = 0.6, 0.4
    unsure = understood(outputs(*shares), line, everywhere, carm, 1.0)
    shares[[FEMUR, TIBIA]] = 0.9, 0.1
    sure = understood(outputs(*shares), line, everywhere, carm, 1.0)
    pose = g.pose_at(np.zeros(3), 650.0, orbital_deg=0.0)
    grid = Volume(np.ones((4, 4, 4), np.float32), centered_grid((4,) * 3, 2.0, np.zeros(3)))
    assert (seen_kinds(grid.voxels > 0, grid, [sure, sure], [pose, pose]) == FEMUR).all()
    assert (seen_kinds(grid.voxels > 0, grid, [sure, unsure], [pose, pose]) == OTHER).all()
    assert by_kind([sure, unsure], [pose, pose]) == []


def test_only_known_kinds_are_learned() -> None:
    output = torch.zeros(1, OUTPUTS, 4, 4, requires_grad=True)
    truth_mm = torch.zeros(1, 2 + len(BONE_KINDS), 4, 4)
    truth_mm[:, 0] = 10
    loss, parts = objective(output, truth_mm, torch.ones(1, 1, 4, 4))
    assert parts["kinds"] == 0
    truth_mm[:, 2 + TIBIA, :2] = 10
    loss, parts = objective(output, truth_mm, torch.ones(1, 1, 4, 4))
    assert parts["kinds"] == pytest.approx(np.log(len(BONE_KINDS)), rel=1e-4)
    loss.backward()
    assert output.grad is not None
    pushed = output.grad[0, 5:]
    assert (pushed[TIBIA, :2] < 0).all() and (pushed[FEMUR, :2] > 0).all()
    assert (pushed[:, 2:] == 0).all()
