"""A registration over time: searched, then a candidate, then confirmed, and doubted when evidence changes.

Written for the patient, ``volume_from_patient``. A bone that moves by itself is followed so, too: ``body_from_volume``.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import numpy as np

from navnode import geometry as g
from navnode.config import CArmSection, RegistrationSection, matrix
from navnode.registration.fusion import FRAMES_PER_LOOK, GATE, ONE_VIEW, SEVERAL_VIEWS, PatientFilter, measurement
from navnode.registration.markers import Markers, Shown, Wording
from navnode.registration.sides import DIFFERS, ELSEWHERE, FIRST_TIME, LOOKS, REPEATED, Sides
from navnode.types import (
    Effort,
    Matrix,
    PatientPose,
    Registration,
    RegistrationRequest,
    Status,
    Validity,
    invalid,
)

__all__ = ["Loss", "RegistrationOverTime"]

_LOST_AFTER = 5
"""Contradicting frames in a row after which the registration is abandoned."""

_RECENT = 15
"""Number of recent frames; most must be VALID for the registration to be VALID."""

_NONE_YET = "no X-ray registered yet"
_UNLIKE = "placed by tracking alone: the volume does not show what its own X-ray from this side does"


class Loss(Enum):
    """What the last frame cost."""

    NONE = "none"
    LOST = "registration lost: searching again"
    VOLUME_LOST = "registration lost, and with it the volume made in the patient's frame"


class RegistrationOverTime:
    """One pose that X-rays show again and again, and whether it may be used.

    Args:
        source_sigma_mm: 1-sigma of the source's place by calibration; 0: not stated.
    """

    def __init__(
        self,
        settings: RegistrationSection,
        carm: CArmSection,
        wording: Wording | None = None,
        source_sigma_mm: float = 0.0,
    ) -> None:
        self._settings, self._wording = settings, wording or Wording()
        self._isocentre_mm = carm.source_to_isocentre_mm
        self._start = matrix(settings.volume_from_patient_start)
        self.filter: PatientFilter | None = None
        self.searching = True
        self._last_confirmed: Matrix | None = None
        self._searches = 0
        self._good = self._bad = 0
        self._recent: deque[Validity] = deque(maxlen=_RECENT)
        self._markers = Markers(self._wording, settings.confirm_frames, source_sigma_mm)
        self._last_good_ns = self._last_source_ns = self._last_measured_ns = 0
        self._why_not = _NONE_YET
        self._accepted = self._located = False
        self._sparse, self._sides = False, Sides()
        self.reported: Status | None = None
        """The status last reported; None before the first report."""

    @property
    def best_guess(self) -> Matrix:
        """``volume_from_patient`` to start from; searches alternate between the last confirmed and the configured."""
        if not self.searching and self.filter is not None:
            return self.filter.volume_from_patient
        starts = [self._start] if self._last_confirmed is None else [self._last_confirmed, self._start]
        return starts[self._searches % len(starts)]

    @property
    def effort(self) -> Effort:
        """How thoroughly to search in the next frame."""
        if self.searching:
            return Effort.SEARCH
        return Effort.TRACK if self.confirmed and self._bad == 0 else Effort.REFINE

    @property
    def confirmed(self) -> bool:
        """Whether enough frames, or the operator, confirmed the candidate."""
        return self.filter is not None and (self._accepted or self._good >= self._settings.confirm_frames)

    @property
    def blamed(self) -> str:
        """Why X-rays and tracking disagree, and which is wrong is not known, or not known yet; or ''."""
        return self._markers.blamed

    @property
    def doubted(self) -> bool:
        """Whether X-rays have not confirmed the registration, or contradict it."""
        return not self.confirmed or self._bad > 0 or self._markers.suspected

    def begin_with_tracking(self, rotation_center_mm: Matrix, now_ns: int, since_ns: int) -> None:
        """Without a CT the volume is made in the patient's frame, so tracking alone locates it; that the X-rays agree
        which it was made from confirms that.

        Rotations of the state are about a center (3,) in that frame.

        Args:
            since_ns: exposure of the earliest of them, by the tracker's clock: doubts of before concern nothing in it.
        """
        prior = np.diag([0.004] * 3 + [1.0] * 3) ** 2
        state = PatientFilter(np.eye(4), rotation_center_mm, prior)
        self._begin(state, good=self._settings.confirm_frames)
        self._markers.begin(state, before_ns=since_ns)
        self._sparse, self._last_confirmed, self._last_good_ns = True, np.eye(4), now_ns

    def on_registration(
        self,
        request: RegistrationRequest,
        registration: Registration,
        now_ns: int,
        exposed_ns: int | None = None,
        tracker_from_patient: Matrix | None = None,
    ) -> tuple[Validity, Loss]:
        """Use one frame's registration; returns that frame's validity, and what was lost.

        Args:
            tracker_from_patient: the marker's pose at the exposure, 4x4; None: not known.
            exposed_ns: when the frame was exposed, by the tracker's clock; default: after all that is known of the
                marker. Frames that were exposed before the marker may have moved show where it was.
        """
        frame_validity = registration.validity
        if exposed_ns is not None and exposed_ns < self._markers.since_ns:
            if frame_validity.usable and not self.searching:  # X-rays come, and fit: only what moved since is open
                self._last_good_ns = max(self._last_good_ns, min(now_ns, request.frame.received_ns))
            return frame_validity, Loss.NONE
        if not frame_validity.usable:
            if self.searching:
                self._searches += 1
            if request.sparse_volume and self._sides.is_unlike(
                request.volume_id, self.best_guess @ request.patient_from_carm
            ):
                return Validity(Status.DEGRADED, _UNLIKE, request.frame.timestamp_ns), Loss.NONE
            if registration.informative:
                return frame_validity, self._count_bad(frame_validity.reason)
            return frame_validity, Loss.NONE
        if request.sparse_volume:
            return self._check_sparse(request, registration, now_ns)
        carm_from_patient = g.inverse(request.patient_from_carm)
        if self.filter is not None:
            rotation_center_mm = self.filter.rotation_center_mm
        elif registration.center_mm is not None:
            carm_from_body = g.inverse(registration.volume_from_carm)
            rotation_center_mm = g.transform(request.patient_from_carm @ carm_from_body, registration.center_mm)
        else:
            rotation_center_mm = g.transform(request.patient_from_carm, np.array([0.0, 0.0, self._isocentre_mm]))
        measured, covariance = measurement(
            registration.volume_from_carm,
            registration.covariance,
            registration.pivot_mm,
            carm_from_patient,
            rotation_center_mm,
            ONE_VIEW if registration.views == 1 else SEVERAL_VIEWS,
        )
        timestamp_ns = request.frame.timestamp_ns
        shown = Shown(timestamp_ns, registration, request.patient_from_carm, measured, covariance, tracker_from_patient)
        located = registration.views > 1
        if self.searching or self.filter is None or (located and not self._located):
            self._located = located
            looks = 1.0 if located else FRAMES_PER_LOOK  # several views repeat no error
            state = PatientFilter(measured, rotation_center_mm, covariance * looks)
            self._begin(state, good=1)
            self._markers.begin(state, shown)
        else:
            self._predict(self.filter, timestamp_ns)
            followed = self._markers.follow(self.filter, shown, confirmed=self.confirmed)
            if followed is None:
                loss = self._count_bad(self._wording.contradict)
                return invalid(self._wording.contradicts, timestamp_ns), loss
            self.filter = followed
            self._good, self._bad = self._good + 1, 0
        self._last_measured_ns = timestamp_ns
        self._recent.append(frame_validity)
        return self._agrees(frame_validity, min(now_ns, request.frame.received_ns), timestamp_ns)

    def learn_side(self, request: RegistrationRequest, registration: Registration) -> None:
        """Learn how X-rays of a side are registered, from the one that the volume was made from, with its pose."""
        if self.filter is None:
            return
        if not registration.validity.usable:
            self._sides.learn_unlike(request.volume_id, request.patient_from_carm)
            return
        measured = registration.volume_from_carm @ g.inverse(request.patient_from_carm)
        off = g.log(measured, self.filter.rotation_center_mm)
        self._sides.learn(request.volume_id, request.patient_from_carm, off)

    def _check_sparse(
        self, request: RegistrationRequest, registration: Registration, now_ns: int
    ) -> tuple[Validity, Loss]:
        """Hold an X-ray against tracking, by a volume that was made from a few: it says whether a marker moved."""
        if self.filter is None:
            return invalid(self._why_not), Loss.NONE
        timestamp_ns = request.frame.timestamp_ns
        self._predict(self.filter, timestamp_ns)
        tracked = self.filter.volume_from_patient @ request.patient_from_carm
        usual = self._sides.usual(request.volume_id, tracked)
        measured, covariance = measurement(
            registration.volume_from_carm,
            registration.covariance,
            registration.pivot_mm,
            g.inverse(request.patient_from_carm),
            self.filter.rotation_center_mm,
            FIRST_TIME if usual is None else REPEATED,
        )
        off = self.filter.innovation(measured) - (0.0 if usual is None else usual)
        surprise = float(off @ np.linalg.solve(covariance, off))
        if surprise > (GATE if usual is None else ELSEWHERE):
            return invalid(self._wording.contradicts, timestamp_ns), self._count_bad(self._wording.contradict)
        self._good, self._bad = self._good + 1, 0
        if usual is not None and surprise > DIFFERS:
            self._markers.suspect(self._wording.surprises)
        elif usual is not None:
            moved_little = g.exp(off, self.filter.rotation_center_mm)
            self.filter.combine(self.filter.volume_from_patient @ moved_little, covariance * LOOKS)
            self._markers.confirmed_by_xray()
        elif not self._markers.suspected:  # what moved meanwhile would become usual
            self._sides.learn(request.volume_id, tracked, off)
        return self._agrees(registration.validity, min(now_ns, request.frame.received_ns), timestamp_ns)

    def _agrees(self, frame_validity: Validity, good_ns: int, timestamp_ns: int) -> tuple[Validity, Loss]:
        """The validity of a frame that agrees with the state. Age counts from the frame's arrival, however long its
        registration took."""
        self._last_good_ns, self._last_source_ns = good_ns, timestamp_ns
        if not self.confirmed:
            reason = f"confirming the registration, {self._good} of {self._settings.confirm_frames} frames"
            return Validity(Status.DEGRADED, reason, timestamp_ns), Loss.NONE
        self._last_confirmed = self.best_guess
        if self.filter is not None:
            self._markers.found(self.filter)
        return frame_validity, Loss.NONE

    def doubt(self, reason: str) -> None:
        """INVALID until good frames confirm the registration again."""
        self._markers.doubt_all()
        self._good, self._accepted = 0, False
        self._recent.clear()
        self._why_not = reason

    def unsure(self, reason: str) -> None:
        """A marker may have moved: DEGRADED until good frames show that it did not."""
        self._markers.suspect(reason)

    def moved(self, reason: str, at_ns: int) -> None:
        """The patient's marker moved, perhaps on the patient: DEGRADED, and what it placed less certain, until frames
        show where it is.

        Args:
            at_ns: time of the first pose that shows it, by the tracker's clock.
        """
        self._markers.moved(reason, at_ns, self.filter)

    def carm_unwatched(self, reason: str) -> None:
        """The C-arm's marker was hidden, or jumped: perhaps on the C-arm, which only X-rays show."""
        if self.confirmed:
            self._markers.carm_unwatched(reason)

    def clock_set(self, reason: str) -> None:
        """The clock of a marker was set: times of before are not comparable with those since."""
        self._markers.clock_set(reason)

    def reject(self) -> Loss:
        """The operator rejects the registration: search again from the configured start."""
        self._last_confirmed = None
        self._markers.rejected()
        return self._lose("the operator rejected the registration")

    def restart(self, reason: str, volume_from_patient: Matrix) -> Loss:
        """X-rays were paired with wrong poses: begin again near a pose, 4x4, that explains them."""
        self._markers.lost()
        loss = self._lose(reason)
        self._last_confirmed = volume_from_patient
        return loss

    def accept(self) -> str:
        """The operator accepts the candidate, which stays DEGRADED until frames confirm it.

        Returns:
            Why there is nothing to accept, or ''.
        """
        if self.searching or self.filter is None or self._good == 0:
            return self._why_not or "there is no registration to accept"
        if self._markers.undecided or not self.confirmed:
            self._accepted = True
            self._markers.accepted()
        return ""

    def refused(self, reason: str) -> None:
        """An X-ray could not be used: why none was registered yet."""
        if self._why_not.startswith(_NONE_YET):
            self._why_not = f"{_NONE_YET}: {reason}"

    def watch(self, *, why_hidden: str, seen_ns: int = 0) -> None:
        """Note whether the tracker sees the patient's marker now.

        Args:
            why_hidden: why there is no pose of it, or ''.
            seen_ns: time of its newest pose, by the tracker's clock.
        """
        self._markers.watch(why_hidden=why_hidden, seen_ns=seen_ns)

    def validity(self, now_ns: int) -> Validity:
        """Whether volume_from_patient may be used now."""
        age_ns = max(0, now_ns - self._last_good_ns) if self._last_good_ns else 0
        status, reason = self._judge(age_ns / 1e9)
        return Validity(status, reason, self._last_source_ns, age_ns)

    def pose(self, timestamp_ns: int, now_ns: int) -> PatientPose:
        """Report volume_from_patient: the pose, or the reason it is missing.

        Args:
            timestamp_ns: of the marker's newest pose, by the tracker's clock, which alone stamps what is said of the
                patient; 0: there is none since that clock was set.
        """
        validity = self.validity(now_ns)
        if validity.usable and not timestamp_ns:
            validity = invalid("the patient's marker is not seen yet")
        self.reported = validity.status
        if self.filter is None or not validity.usable:
            return PatientPose(None, Validity(validity.status, validity.reason, timestamp_ns), ())
        stamped = Validity(validity.status, validity.reason, timestamp_ns, validity.age_ns)
        return PatientPose(self.filter.volume_from_patient, stamped, tuple(self.filter.sigma.tolist()))

    # --- inside ----------------------------------------------------------------------------------

    def _begin(self, candidate: PatientFilter, good: int) -> None:
        self.filter = candidate
        self.searching, self._good, self._bad, self._accepted = False, good, 0, False
        self._searches = 0
        self._recent.clear()

    def _predict(self, state: PatientFilter, timestamp_ns: int) -> None:
        state.predict((timestamp_ns - self._last_measured_ns) / 1e9 if self._last_measured_ns else 0.0)
        self._last_measured_ns = timestamp_ns

    def _count_bad(self, reason: str) -> Loss:
        self._bad += 1
        if self._bad >= 2:
            self._markers.suspect("X-rays disagreed with the registration")
        if not self.confirmed:
            self._good = 0  # only good frames in a row confirm
        if self._bad < (_LOST_AFTER if self.confirmed else 2):
            return Loss.NONE
        if self._sparse:
            return self._lose(f"registration lost: {reason}")
        self._markers.lost(contradicted=reason == self._wording.contradict)
        return self._lose(f"registration lost: {reason}")

    def _lose(self, reason: str) -> Loss:
        self._markers.forget(self.filter)
        self.filter, self.searching = None, True
        self._good, self._bad, self._accepted, self._searches = 0, 0, False, 0
        self._why_not = reason
        return Loss.VOLUME_LOST if self._sparse else Loss.LOST

    def _judge(self, age_s: float) -> tuple[Status, str]:
        settings = self._settings
        if self.filter is None or self.searching:
            return Status.INVALID, self._why_not
        if self._markers.hidden:
            return Status.INVALID, self._markers.hidden
        if not self.confirmed:
            if self._good == 0:
                return Status.INVALID, self._why_not
            return (
                Status.INVALID,
                f"confirming the registration, {self._good} of {settings.confirm_frames} frames",
            )
        if age_s > settings.invalid_after_s and self._sparse:
            return Status.INVALID, f"no X-ray from the side of a view for {age_s:.0f} s"
        if age_s > settings.invalid_after_s:
            return Status.INVALID, f"no X-ray registered for {age_s:.0f} s"
        sigma_mm = self.filter.target_sigma_mm
        if sigma_mm > settings.degraded_sigma_mm:
            return Status.INVALID, f"expected error {sigma_mm:.1f} mm"
        if self._markers.suspicion:
            return Status.DEGRADED, self._markers.suspicion
        if self._sparse:
            return Status.DEGRADED, "the volume was made from a few X-rays"
        doubtful = [each.reason for each in self._recent if each.status is not Status.VALID]
        if 2 * len(doubtful) > len(self._recent):
            return Status.DEGRADED, f"most of the last {len(self._recent)} X-rays: {doubtful[-1]}"
        if age_s > settings.degraded_after_s:
            return Status.DEGRADED, f"no X-ray registered for {age_s:.0f} s"
        if sigma_mm > settings.valid_sigma_mm:
            limit = f"VALID up to {settings.valid_sigma_mm:g} mm"
            return Status.DEGRADED, f"expected error {sigma_mm:.1f} mm ({limit}); X-rays from another side would help"
        return Status.VALID, ""
