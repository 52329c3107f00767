"""Bones that move by themselves: where each is, as X-rays show it, and whether that may be used."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.config import Config
from navnode.loop.topics import max_age_ns
from navnode.registration.markers import Wording
from navnode.registration.over_time import RegistrationOverTime
from navnode.types import (
    BodyPose,
    BodyStart,
    Matrix,
    Registration,
    RegistrationDone,
    RegistrationRequest,
    Status,
    Validity,
    invalid,
)

__all__ = ["Bodies"]

_WORDING = Wording(
    slides="it moves: {mm:.1f} mm in a few seconds",
    elsewhere="it moves, slowly",
    surprises="an X-ray shows it a little elsewhere than those before",
    contradict="it moved",
    contradicts="it is elsewhere than X-rays before showed it",
    turn="",
)
_STALE_S = max_age_ns("xray") / 1e9


class Bodies:
    """The bodies' poses, each with its own verdict.

    A body's pose is followed as the patient's is, with the CT in the place of the patient's marker: both are seen in
    the same X-ray, so neither the tracker nor a marker that slips has a part in it. But nothing holds a bone that no
    X-ray shows: its pose is DEGRADED as soon as X-rays stop. Without a CT it is followed relative to the marker itself.
    """

    def __init__(self, config: Config) -> None:
        settings = msgspec.structs.replace(
            config.registration,
            volume_from_patient_start=tuple(map(tuple, np.eye(4).tolist())),
            degraded_after_s=min(_STALE_S, config.registration.degraded_after_s),
            invalid_after_s=config.registration.degraded_after_s,
        )
        self._each = {
            body.name: _Followed(
                RegistrationOverTime(settings, config.carm, _WORDING, config.calibration.source_sigma_mm),
                with_ct=not config.bones_alone,
            )
            for body in config.bodies
        }

    def starts(self) -> tuple[BodyStart, ...]:
        """Where to look for every body in the next X-ray."""
        return tuple(BodyStart(each.start, each.lost) for each in self._each.values())

    def on_registration(self, done: RegistrationDone, verdict: Validity) -> list[BodyPose]:
        """Use one X-ray.

        Args:
            verdict: on the C-arm's pose: if that is INVALID, it is not known where the CT is in this X-ray.
        """
        if len(done.bodies) != len(self._each):
            return []
        poses = []
        for (name, each), registration in zip(self._each.items(), done.bodies, strict=True):
            poses.append(each.on_registration(name, done, registration, verdict))
        return poses

    def tick(self, now_ns: int) -> list[BodyPose]:
        """Report bodies whose status has changed because time has passed."""
        poses = [each.aged(name, now_ns) for name, each in self._each.items()]
        return [pose for pose in poses if pose is not None]

    def validities(self, now_ns: int) -> dict[str, Validity]:
        """Whether each pose may be used now, as last said or as it has aged since."""
        return {name: each.validity(now_ns) for name, each in self._each.items()}

    def forget(self, reason: str) -> list[BodyPose]:
        """The CT's own registration is lost, or its source: search all bodies again."""
        for each in self._each.values():
            each.forget(reason)
        return [nowhere(name, invalid(reason)) for name in self._each]


class _Followed:
    """One body over time; its registration's ``volume_from_patient`` is ``body_from_volume``."""

    def __init__(self, registration: RegistrationOverTime, *, with_ct: bool) -> None:
        self._registration, self._with_ct = registration, with_ct
        self._last: Matrix | None = None
        self._last_ns = 0
        self._withdrawn_why = "no X-ray registered yet"

    @property
    def start(self) -> Matrix:
        """body_from_volume, as the last X-ray showed it; else where it was confirmed, or as in the CT."""
        return self._registration.best_guess if self._last is None or self._at_rest else self._last

    @property
    def lost(self) -> bool:
        """Whether to search; without a CT, whether there is nothing better to start from than the last X-ray."""
        return not self._at_rest and (not self._with_ct or self._last is None or not self._registration.confirmed)

    @property
    def _at_rest(self) -> bool:
        """Whether X-rays together know better where it is than the last one; with a CT they are not asked."""
        return not self._with_ct and self._last is not None and not self._registration.doubted

    def on_registration(
        self, name: str, done: RegistrationDone, registration: Registration, verdict: Validity
    ) -> BodyPose:
        timestamp_ns = done.request.frame.timestamp_ns
        self._last_ns = timestamp_ns
        if not verdict.usable and self._with_ct:
            return self._withdrawn(name, f"in this X-ray the CT is not registered: {verdict.reason}")
        if not verdict.usable:
            own = registration.validity
            return self._withdrawn(name, f"the X-ray is not used: {verdict.reason}" if own.usable else own.reason)
        volume_from_carm = done.registration.volume_from_carm
        if done.registration.validity.status is not Status.VALID and registration.validity.status is Status.VALID:
            doubt = replace(done.registration.validity, reason=f"the CT: {done.registration.validity.reason}")
            registration = replace(registration, validity=doubt)
        placed: RegistrationRequest = replace(done.request, patient_from_carm=volume_from_carm)
        seen, _ = self._registration.on_registration(placed, registration, done.now_ns)
        usable = registration.validity.usable
        self._last = registration.volume_from_carm @ g.inverse(volume_from_carm) if usable else None
        if not seen.usable and registration.informative:
            return self._withdrawn(name, seen.reason)
        pose = self._pose(name, done.now_ns)
        if not usable and not pose.validity.usable:
            return self._withdrawn(name, registration.validity.reason)
        if not usable:
            return pose
        alone = pose.validity if pose.validity.status is Status.VALID else _one_view(seen)
        return replace(pose, body_from_carm=registration.volume_from_carm, carm_validity=alone)

    def validity(self, now_ns: int) -> Validity:
        return invalid(self._withdrawn_why) if self._withdrawn_why else self._registration.validity(now_ns)

    def aged(self, name: str, now_ns: int) -> BodyPose | None:
        before = self._registration.reported
        if self._withdrawn_why or before is None or self._registration.validity(now_ns).status is before:
            return None
        return self._pose(name, now_ns)

    def forget(self, reason: str) -> None:
        self._registration.reject()
        self._registration.doubt(reason)
        self._last, self._withdrawn_why = None, reason

    def _withdrawn(self, name: str, reason: str) -> BodyPose:
        self._withdrawn_why = reason
        return nowhere(name, invalid(reason, self._last_ns))

    def _pose(self, name: str, now_ns: int) -> BodyPose:
        self._withdrawn_why = ""
        pose = self._registration.pose(self._last_ns, now_ns)
        if pose.volume_from_patient is None:
            return nowhere(name, pose.validity)
        unseen = invalid("no X-ray shows it now", self._last_ns)
        return BodyPose(name, g.inverse(pose.volume_from_patient), None, pose.validity, unseen, pose.sigma)


def nowhere(name: str, validity: Validity) -> BodyPose:
    """A body that is not known to be anywhere."""
    return BodyPose(name, None, None, validity, validity)


def _one_view(seen: Validity) -> Validity:
    if seen.status is not Status.VALID:
        return seen
    return replace(seen, status=Status.DEGRADED, reason="one view leaves its depth open")
