"""Bones that move by themselves, in the loop: each has its own pose, and its own verdict."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from navnode import geometry as g
from navnode.types import BodyPose, PatientPose, Registration, Status, Validity, invalid
from tests.loop.theatre import COVARIANCE, Theatre, of

BODIES = [{"name": name, "labels": "labels.nii.gz", "label": n} for n, name in enumerate(("Left", "Right"), start=1)]
SHIFT = g.exp([0.05, 0.0, 0.02, 4.0, -3.0, 2.0])


class Hips(Theatre):
    """Two bones, each where ``volume_from_body`` says."""

    def __init__(self) -> None:
        super().__init__(bodies=BODIES)
        self.volume_from_body = {"Left": np.eye(4), "Right": SHIFT}
        self.verdicts = {"Left": Validity(Status.VALID), "Right": Validity(Status.VALID)}
        self.informative = {"Left": True, "Right": True}
        self.see = self.shown
        self._seen = np.random.default_rng(1)

    def shown(self, request):
        at, noise = self.truly(request), np.sqrt(np.diag(COVARIANCE))
        found = []
        for name, volume_from_body in self.volume_from_body.items():
            pose = g.inverse(volume_from_body) @ at.volume_from_carm
            pose = pose @ g.exp(self._seen.normal(0, 1, 6) * noise, (0, 0, 700.0))
            one = Registration(pose, self.verdicts[name], 0.02, 0.9, COVARIANCE, 700.0, 3, 1.0)
            found.append(dataclasses.replace(one, informative=self.informative[name]))
        return tuple(found)

    def last(self, seconds: float) -> dict[str, BodyPose]:
        """The last pose of every body in the next seconds."""
        return {pose.body: pose for pose in of(BodyPose, self.run(seconds))}


@pytest.fixture
def hips() -> Hips:
    theatre = Hips()
    theatre.run(4.0)
    return theatre


def off_mm(pose: BodyPose, volume_from_body: np.ndarray) -> float:
    center = np.array([0.0, -40.0, 10.0])
    return float(np.linalg.norm(g.transform(pose.volume_from_body, center) - g.transform(volume_from_body, center)))


def test_nothing_is_said_of_bones_before_x_rays_agree_on_them():
    poses = of(BodyPose, Hips().run(0.35))
    assert poses and all(pose.volume_from_body is None for pose in poses)


def test_every_bone_has_its_own_pose(hips):
    poses = hips.last(1.0)
    for name, true in hips.volume_from_body.items():
        assert poses[name].validity.status is Status.VALID
        assert off_mm(poses[name], true) < 0.7
        assert poses[name].body_from_carm is not None and len(poses[name].sigma) == 6


def test_a_bone_that_moved_is_not_valid_where_it_was(hips):
    hips.volume_from_body["Left"] = g.rigid(None, (6.0, 5.0, 0.0))
    poses = [pose for pose in of(BodyPose, hips.run(4.0)) if pose.body == "Left"]
    wrong = [
        pose for pose in poses if pose.volume_from_body is not None and off_mm(pose, hips.volume_from_body["Left"]) > 2
    ]
    assert not [pose for pose in wrong if pose.validity.status is Status.VALID]
    assert poses[-1].validity.status is Status.VALID  # found where it is now, and confirmed


def test_a_bone_that_moves_slowly_is_followed_or_doubted(hips):
    wrong = []
    for step in range(60):
        hips.volume_from_body["Right"] = SHIFT @ g.rigid(None, (0.1 * step, 0.0, 0.0))  # 1 mm a second
        for pose in of(BodyPose, hips.run(0.1)):
            if pose.body == "Right" and pose.validity.status is Status.VALID:
                wrong.append(off_mm(pose, hips.volume_from_body["Right"]))
    assert not [mm for mm in wrong if mm > 2.0]


def test_a_bone_that_loses_its_match_turns_invalid_alone(hips):
    hips.verdicts["Left"] = invalid("the X-ray does not look like it (0.31)")
    made = hips.run(0.3)
    poses = {pose.body: pose for pose in of(BodyPose, made)}
    assert poses["Left"].validity.status is Status.INVALID and "0.31" in poses["Left"].validity.reason
    assert poses["Left"].volume_from_body is None and poses["Left"].body_from_carm is None
    assert poses["Right"].validity.status is Status.VALID
    assert of(PatientPose, made)[-1].validity.status is Status.VALID


def test_a_bone_outside_of_the_picture_may_move_unseen(hips):
    hips.verdicts["Left"], hips.informative["Left"] = invalid("the X-ray does not show it"), False
    assert hips.last(1.0)["Left"].body_from_carm is None
    late = hips.last(2.0)
    assert late["Left"].validity.status is Status.DEGRADED and late["Right"].validity.status is Status.VALID
    assert hips.last(20.0)["Left"].validity.status is Status.INVALID


def test_bones_are_degraded_as_soon_as_x_rays_stop(hips):
    hips.xray = False
    made = hips.run(2.0)
    assert {pose.body: pose.validity.status for pose in of(BodyPose, made)} == dict.fromkeys(
        ("Left", "Right"), Status.DEGRADED
    )


def test_a_slip_of_the_marker_does_not_move_bones(hips):
    hips.moved_patient_marker = g.rigid(None, (0.0, 9.0, 0.0))
    poses = [pose for pose in of(BodyPose, hips.run(2.0)) if pose.volume_from_body is not None]
    assert max(off_mm(pose, hips.volume_from_body[pose.body]) for pose in poses) < 1.0


def test_bones_are_invalid_while_the_ct_is_not_registered(hips):
    hips.register = hips.nothing
    poses = hips.last(1.0)
    assert all(pose.validity.status is Status.INVALID for pose in poses.values())


def test_a_doubt_about_the_ct_is_a_doubt_about_its_bones(hips):
    def doubtful(request):
        return dataclasses.replace(hips.truly(request), validity=Validity(Status.DEGRADED, "details match poorly"))

    hips.register = doubtful
    assert all(pose.validity.status is not Status.VALID for pose in hips.last(3.0).values())
