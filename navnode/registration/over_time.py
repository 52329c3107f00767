"""A registration over time: searched, then a candidate, then confirmed, and doubted when evidence changes.

Written for the patient, ``volume_from_patient``. A bone that moves by itself is followed so, too: ``body_from_volume``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np

from navnode import geometry as g
from navnode.config import CArmSection, RegistrationSection, matrix
from navnode.registration.blame import Blame
from navnode.registration.fusion import FRAMES_PER_LOOK, GATE, ONE_VIEW, SEVERAL_VIEWS, PatientFilter, measurement
from navnode.registration.sides import DIFFERS, ELSEWHERE, FIRST_TIME, LOOKS, REPEATED, Sides
from navnode.registration.sliding import Sliding
from navnode.registration.witness import Moved, Witness
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

__all__ = ["Loss", "RegistrationOverTime", "Wording"]

_LOST_AFTER = 5
"""Contradicting frames in a row after which the registration is abandoned."""

_RUN, _RUN_GATE = 8, 12.0
"""Number of recent frames, and their mean squared Mahalanobis distance above which they contradict the state together,
although each may pass the filter's gate: an unmoved marker gives 0.3, a station's depth bias of 2 mm about 3, a marker
that moved 4 mm along the beam 10."""

_FEW = 8
"""Number of the last frames whose innovations are averaged. The noise of trackers, by which a single frame's distance
reaches 30 where a C-arm's marker is far from the anatomy, averages to below 4; what moved stays."""

_UNMOVED = 1.0
"""The same distance, of their mean, that shows where a marker is now. The filter's gate is too wide for that: along the
beam of one view it lets 6 mm pass, and then follows slowly."""

_MOVED_GATE = 5.0
"""The same, above which the marker may have moved: DEGRADED, and the state follows more readily. Slides too slow for
:mod:`sliding` are found by this at about 1.4 mm."""

_SURPRISE, _PAIR = (8.0, 10.0), (4.0, 8.0)
"""The distance of one frame, and of each of two in a row, that does not contradict the state, but surprises: at least
the former, and the latter times what is usual (0.3 where a tracker is quiet, 3 where its noise is 0.35 mm there).
Of one frame it is the first sign of a quick slide: DEGRADED until others agree; of two the marker may have moved."""
_USUAL, _NOISY = 30, 3.0
"""Number of frames by which what is usual is judged; what it is taken to be before there are enough."""

_RECENT = 15
"""Number of recent frames; most must be VALID for the registration to be VALID."""

_NONE_YET = "no X-ray registered yet"
_UNLIKE = "placed by tracking alone: the volume does not show what its own X-ray from this side does"


@dataclass(frozen=True)
class Wording:
    """What is said of something whose pose is followed."""

    slides: str = "the patient's marker slides: {mm:.1f} mm in a few seconds, as X-rays show"
    elsewhere: str = "X-rays show the patient elsewhere than the marker does: it may have moved, slowly"
    surprises: str = "an X-ray shows the patient a little elsewhere than the marker does"
    contradict: str = "the images contradict the tracker"
    contradicts: str = "the image contradicts tracker and earlier frames"
    turn: str = "{why}, and X-rays since show the patient elsewhere: which marker moved shows from 40 degrees aside"
    """'' where no C-arm's marker has a part in it."""
    far: str = (
        "X-rays show the patient {mm:.0f} mm from where he was, and no marker was seen to move: accept it if he did"
    )


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
        self._unsure_frames, self._unsure_why = 0, ""
        self._marker_moved = False
        """Whether that is because the marker may have moved: frames must then show where it is."""
        self._since_ns = 0
        """When it may have moved, by the tracker's clock: what was exposed before shows nothing of it."""
        self._distances: deque[float] = deque(maxlen=_RUN)
        self._innovations: deque[Matrix] = deque(maxlen=_FEW)
        self._usual: deque[float] = deque(maxlen=_USUAL)
        self._recent: deque[Validity] = deque(maxlen=_RECENT)
        self._sliding = Sliding(source_sigma_mm)
        self._witness = Witness()
        self._at_rest: PatientFilter | None = None
        """What was known before the marker moved, until X-rays have shown where it rests now."""
        self._last_good_ns = self._last_source_ns = self._last_measured_ns = 0
        self._why_not = _NONE_YET
        self._tracked, self._untracked_why = True, ""
        self._accepted = self._located = False
        self._sparse, self._sides = False, Sides()
        self._blame = Blame(self._wording.turn, self._wording.far)
        self._patient_moved = False
        """Whether tracking shows that the patient's marker moved, and X-rays not yet where it rests."""
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
        return self._blame.reason or (self._unsure_why if self._slides else "")

    @property
    def doubted(self) -> bool:
        """Whether X-rays have not confirmed the registration, or contradict it."""
        return not self.confirmed or self._bad > 0 or self._unsure_frames > 0

    def begin_with_tracking(self, rotation_center_mm: Matrix, now_ns: int, since_ns: int) -> None:
        """Without a CT the volume is made in the patient's frame, so tracking alone locates it; that the X-rays agree
        which it was made from confirms that.

        Rotations of the state are about a center (3,) in that frame.

        Args:
            since_ns: exposure of the earliest of them, by the tracker's clock: doubts of before concern nothing in it.
        """
        prior = np.diag([0.004] * 3 + [1.0] * 3) ** 2
        unsure_frames = self._unsure_frames if self._since_ns > since_ns else 0
        self._begin(PatientFilter(np.eye(4), rotation_center_mm, prior), good=self._settings.confirm_frames)
        self._sparse, self._last_confirmed, self._last_good_ns = True, np.eye(4), now_ns
        self._unsure_frames = unsure_frames
        self._blame.clear()

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
        if exposed_ns is not None and exposed_ns < self._since_ns:
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
        if registration.views > 1 and not self._located:
            self._sliding.forget()  # what depth was before is a guess
        slid = self._sliding.add(
            timestamp_ns, measured, registration.volume_from_carm, registration.covariance, rotation_center_mm
        )
        located = registration.views > 1
        if self.searching or self.filter is None or (located and not self._located):
            self._located = located
            looks = 1.0 if located else FRAMES_PER_LOOK  # several views repeat no error
            self._begin(PatientFilter(measured, rotation_center_mm, covariance * looks), good=1)
        else:
            self.filter.predict((timestamp_ns - self._last_measured_ns) / 1e9 if self._last_measured_ns else 0.0)
            self._last_measured_ns = timestamp_ns
            if slid is not None:
                if slid.hint:
                    self.unsure(self._wording.surprises)
                else:
                    self._loosen(self._wording.slides.format(mm=slid.mm))
                    self._doubt_markers(slid.mm)
            self._ask_tracker(request, measured, tracker_from_patient)
            self._innovations.append(self.filter.innovation(measured))
            self._distances.append(self.filter.surprise(self._innovations[-1], covariance))
            if self._contradicted() or not self.filter.agrees(measured, covariance):
                loss = self._count_bad(self._wording.contradict)
                return invalid(self._wording.contradicts, timestamp_ns), loss
            usual = float(np.median(self._usual)) if len(self._usual) >= _RUN else _NOISY
            self._usual.append(self._distances[-1])
            surprises = max(_SURPRISE[0], _SURPRISE[1] * usual)
            pair = min(list(self._distances)[-2:]) > max(_PAIR[0], _PAIR[1] * usual)
            if self._distances[-1] > surprises:
                self.unsure(self._wording.surprises)
            together = self.filter.surprise(np.mean(self._innovations, axis=0), covariance)
            if pair or (together > _MOVED_GATE and len(self._innovations) >= 2):
                self._loosen(self._wording.elsewhere)
                self._doubt_markers(float(np.linalg.norm(self.filter.innovation(measured)[3:])))
            self._good, self._bad = self._good + 1, 0
            slip = None if self._at_rest is None else self._sliding.slip(self._at_rest.volume_from_patient)
            if slip is not None and self._at_rest is not None:
                self._doubt_markers(float(np.linalg.norm(slip[0][3:])))
                self.filter = self._at_rest.carried(*slip)
                self._innovations.clear()
            else:
                self.filter.update(measured, covariance)
            shown_again = (
                together <= _UNMOVED if self._marker_moved and slip is None else self._distances[-1] <= surprises
            )
            if shown_again and slid is None:
                blamed = self._blame.reason
                self._blame.agreed(
                    registration.volume_from_carm,
                    self.filter.volume_from_patient,
                    self.filter.rotation_center_mm,
                    sure=self.confirmed and not self._unsure_frames,
                )
                if blamed and not self._blame.reason:
                    self._witness.settle(self.filter.volume_from_patient)
                self._unsure_frames = max(self._slides, self._unsure_frames - 1)
                if self._at_rest is not None and not self._unsure_frames:
                    self._rests()
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
        self.filter.predict((timestamp_ns - self._last_measured_ns) / 1e9 if self._last_measured_ns else 0.0)
        self._last_measured_ns = timestamp_ns
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
            self.unsure(self._wording.surprises)
        elif usual is not None:
            moved_little = g.exp(off, self.filter.rotation_center_mm)
            self.filter.combine(self.filter.volume_from_patient @ moved_little, covariance * LOOKS)
            self._unsure_frames = max(0, self._unsure_frames - 1)
        elif not self._unsure_frames:  # what moved meanwhile would become usual
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
            self._blame.found(self.best_guess, self.filter.rotation_center_mm)
        return frame_validity, Loss.NONE

    def doubt(self, reason: str) -> None:
        """INVALID until good frames confirm the registration again."""
        self._blame.excuse()
        self._good, self._accepted = 0, False
        self._distances.clear()
        self._innovations.clear()
        self._recent.clear()
        self._why_not = reason

    def unsure(self, reason: str) -> None:
        """A marker may have moved: DEGRADED until good frames show that it did not."""
        self._marker_moved = self._marker_moved and self._unsure_frames > 0
        self._unsure_frames, self._unsure_why = self._settings.confirm_frames, reason

    def moved(self, reason: str, at_ns: int) -> None:
        """The patient's marker moved, perhaps on the patient: DEGRADED, and what it placed less certain, until frames
        show where it is.

        Args:
            at_ns: time of the first pose that shows it, by the tracker's clock.
        """
        self._since_ns = at_ns
        self._patient_moved = True
        self._blame.excuse()
        self._sliding.moved()
        self._witness.forget()
        self._loosen(reason)

    def carm_unwatched(self, reason: str) -> None:
        """The C-arm's marker was hidden, or jumped: perhaps on the C-arm, which only X-rays show."""
        if self.confirmed:
            self._blame.carm_unwatched(reason)

    def clock_set(self, reason: str) -> None:
        """The clock of a marker was set: times of before are not comparable with those since."""
        self._since_ns = 0
        self._blame.excuse()
        self.unsure(reason)

    def _loosen(self, reason: str) -> None:
        self.unsure(reason)
        self._marker_moved = True
        self._innovations.clear()
        if self.filter is not None:
            self._at_rest = self._at_rest or self.filter.copy()
            self.filter.loosen()

    @property
    def _slides(self) -> bool:
        """Whether the marker has moved, and X-rays do not show yet that it rests."""
        return self._at_rest is not None and not self._sliding.settled

    def _rests(self) -> None:
        self._at_rest, self._patient_moved = None, False
        self._sliding.rested()
        if self.filter is not None and not self._blame.reason:
            self._witness.settle(self.filter.volume_from_patient)

    def _doubt_markers(self, mm: float) -> None:
        """X-rays show the patient elsewhere by so much: perhaps it is not his marker that moved."""
        self._blame.shown_elsewhere(mm, patient_moved=self._patient_moved)

    def _ask_tracker(
        self, request: RegistrationRequest, volume_from_patient: Matrix, tracker_from_patient: Matrix | None
    ) -> None:
        """What the tracker saw to move by what X-rays show; the X-ray's pose, and the marker's, 4x4."""
        if self.filter is None or tracker_from_patient is None or not self.confirmed or self._patient_moved:
            return
        evidence = self._witness.add(
            request.frame.timestamp_ns,
            tracker_from_patient,
            request.patient_from_carm,
            volume_from_patient,
            self.filter.volume_from_patient,
            self.filter.rotation_center_mm,
        )
        if evidence is None:
            return
        if evidence.moved is Moved.PATIENTS:
            self._blame.was_the_patients(evidence.by_mm)
        else:
            self._blame.was_the_carms(evidence.before)

    def reject(self) -> Loss:
        """The operator rejects the registration: search again from the configured start."""
        self._last_confirmed = None
        self._blame.clear()
        return self._lose("the operator rejected the registration")

    def restart(self, reason: str, volume_from_patient: Matrix) -> Loss:
        """X-rays were paired with wrong poses: begin again near a pose, 4x4, that explains them."""
        self._blame.lost()
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
        if self._blame.reason or not self.confirmed:
            self._accepted = True
            self._blame.clear()
            self._witness.forget()
            self.unsure("accepted by the operator, not confirmed by X-rays yet")
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
        tracked, self._untracked_why = not why_hidden, why_hidden
        if self._tracked and not tracked:
            self._since_ns = seen_ns + 1
            self._blame.excuse()
            self.unsure("the patient's marker was hidden; an X-ray would confirm that it has not moved")
        self._tracked = tracked

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
        self._blame.begun_anew()
        self._rests()
        self.searching, self._good, self._bad, self._accepted = False, good, 0, False
        self._unsure_frames = self._searches = 0
        self._distances.clear()
        self._innovations.clear()
        self._recent.clear()

    def _contradicted(self) -> bool:
        """Whether the last frames together contradict the state."""
        together = float(np.mean(self._distances)) if len(self._distances) >= _LOST_AFTER else 0.0
        return together > _RUN_GATE

    def _count_bad(self, reason: str) -> Loss:
        self._bad += 1
        if self._bad >= 2:
            self.unsure("X-rays disagreed with the registration")
        if not self.confirmed:
            self._good = 0  # only good frames in a row confirm
        if self._bad < (_LOST_AFTER if self.confirmed else 2):
            return Loss.NONE
        if self._sparse:
            return self._lose(f"registration lost: {reason}")
        if reason == self._wording.contradict:
            self._doubt_markers(np.inf)
        self._blame.lost()
        return self._lose(f"registration lost: {reason}")

    def _lose(self, reason: str) -> Loss:
        self._sliding.forget()
        self._rests()
        self.filter, self.searching = None, True
        self._good, self._bad, self._accepted, self._searches = 0, 0, False, 0
        self._why_not = reason
        return Loss.VOLUME_LOST if self._sparse else Loss.LOST

    def _judge(self, age_s: float) -> tuple[Status, str]:
        settings = self._settings
        if self.filter is None or self.searching:
            return Status.INVALID, self._why_not
        if not self._tracked:
            return Status.INVALID, self._untracked_why
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
        if self._unsure_frames > 0:
            return Status.DEGRADED, self._unsure_why
        if self._blame.reason:
            return Status.DEGRADED, self._blame.reason
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
