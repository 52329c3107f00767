"""Whether the markers that hold X-rays and tracking together still sit where they sat, as X-rays and tracker show.

What an X-ray shows comes to the tracker's world through two markers, the C-arm's and the patient's. Either may slip,
jump or be hidden; X-rays show that something did, rarely what. Until it is known, nothing that hangs on them is VALID.
:mod:`surprises` says that X-rays show the patient elsewhere, :mod:`sliding` finds slow slides, :mod:`witness` asks the
tracker whose marker moved, and :mod:`blame` keeps what nobody could tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from navnode.registration.blame import Blame
from navnode.registration.fusion import PatientFilter
from navnode.registration.sliding import Slid, Sliding
from navnode.registration.surprises import Surprises
from navnode.registration.witness import Moved, Witness
from navnode.types import Matrix, Registration

__all__ = ["Markers", "Shown", "Wording"]


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


@dataclass(frozen=True, slots=True)
class Shown:
    """What one X-ray shows, and where the markers were when it was exposed."""

    timestamp_ns: int
    registration: Registration
    patient_from_carm: Matrix
    """4x4, by both markers."""
    volume_from_patient: Matrix
    """4x4, as this X-ray alone shows it."""
    covariance: Matrix
    """6x6 of that, (rad, mm), at the rotation center."""
    tracker_from_patient: Matrix | None
    """4x4; None: not known."""


class Markers:
    """What is doubted of the markers, and of the state that hangs on them.

    Args:
        confirming: number of X-rays in a row that end a doubt.
        source_sigma_mm: 1-sigma of the source's place by calibration; 0: not stated.
    """

    def __init__(self, wording: Wording, confirming: int, source_sigma_mm: float = 0.0) -> None:
        self._wording, self._confirming = wording, confirming
        self._surprises = Surprises()
        self._sliding = Sliding(source_sigma_mm)
        self._witness = Witness()
        self._blame = Blame(wording.turn, wording.far)
        self._open_frames, self._why = 0, ""
        self._must_be_placed = False
        """Whether that is because the marker may have moved: X-rays must then show where it is."""
        self._at_rest: PatientFilter | None = None
        """What was known before the marker moved, until X-rays have shown where it rests now."""
        self._seen_to_move = False
        """Whether tracking shows that the patient's marker moved, and X-rays not yet where it rests."""
        self._hidden_why = ""
        self.since_ns = 0
        """When the patient's marker may have moved, by the tracker's clock: what was exposed before shows nothing of
        it."""

    @property
    def suspected(self) -> bool:
        """Whether they may have moved, and X-rays have not shown yet where they are."""
        return self._open_frames > 0

    @property
    def suspicion(self) -> str:
        """Why they may have moved, or X-rays do not tell which did; or ''."""
        return self._why if self._open_frames else self._blame.reason

    @property
    def blamed(self) -> str:
        """Why X-rays and tracking disagree, and which is wrong is not known, or not known yet; or ''."""
        return self._blame.reason or (self._why if self._slides else "")

    @property
    def undecided(self) -> bool:
        """Whether X-rays alone do not tell which marker moved."""
        return bool(self._blame.reason)

    @property
    def hidden(self) -> str:
        """Why the tracker does not see the patient's marker now, or ''."""
        return self._hidden_why

    # --- what X-rays show --------------------------------------------------------------------------

    def begin(self, state: PatientFilter, shown: Shown | None = None, *, before_ns: int | None = None) -> None:
        """The registration is another one.

        Args:
            shown: the X-ray that it is from; None: it is from tracking.
            before_ns: doubts of before, by the tracker's clock, concern nothing in it; None: none does.
        """
        kept = self._open_frames if before_ns is not None and self.since_ns > before_ns else 0
        if shown is not None:
            self._sliding.forget()  # where it was before is of another registration
            self._add(shown, state.rotation_center_mm)
        self._blame.begun_anew()
        self._rests(state)
        self._open_frames = kept
        self._surprises.clear()
        if shown is None:
            self._blame.clear()

    def follow(self, state: PatientFilter, shown: Shown, *, confirmed: bool) -> PatientFilter | None:
        """The state after an X-ray; None: the X-ray contradicts it.

        Args:
            state: as it is expected at the X-ray, which has not learned from it yet; it is changed.
            confirmed: whether the registration was confirmed before it.
        """
        slid = self._add(shown, state.rotation_center_mm)
        if slid is not None and slid.hint:
            self.suspect(self._wording.surprises)
        elif slid is not None:
            self._loosen(self._wording.slides.format(mm=slid.mm), state)
            self._shown_elsewhere(slid.mm)
        if confirmed:
            self._ask_tracker(state, shown)
        surprise = self._surprises.add(state, shown.volume_from_patient, shown.covariance)
        if surprise.contradicts:
            return None
        if surprise.surprises:
            self.suspect(self._wording.surprises)
        if surprise.elsewhere:
            self._loosen(self._wording.elsewhere, state)
            self._shown_elsewhere(_length_mm(state.innovation(shown.volume_from_patient)))
        slip = None if self._at_rest is None else self._sliding.slip(self._at_rest.volume_from_patient)
        if slip is not None and self._at_rest is not None:
            self._shown_elsewhere(_length_mm(slip[0]))
            state = self._at_rest.carried(*slip)
            self._surprises.moved()
        else:
            state.update(shown.volume_from_patient, shown.covariance)
        placed = surprise.shows_place if self._must_be_placed and slip is None else not surprise.surprises
        if placed and slid is None:
            self._agrees(state, shown, confirmed=confirmed)
        return state

    def confirmed_by_xray(self) -> None:
        """An X-ray shows what is known, closely: one fewer is needed to end a doubt."""
        self._open_frames = max(0, self._open_frames - 1)

    def found(self, state: PatientFilter) -> None:
        """The registration is confirmed, with this state."""
        self._blame.found(state.volume_from_patient, state.rotation_center_mm)

    def lost(self, *, contradicted: bool = False) -> None:
        """The registration is lost by X-rays.

        Args:
            contradicted: whether they showed the patient elsewhere, not something that does not fit.
        """
        if contradicted:
            self._shown_elsewhere(np.inf)
        self._blame.lost()

    def forget(self, state: PatientFilter | None) -> None:
        """There is no registration any more; the state was the last."""
        self._sliding.forget()
        self._rests(state)

    # --- what the tracker shows, and the operator says ----------------------------------------------

    def suspect(self, reason: str) -> None:
        """A marker may have moved, until X-rays show that it did not."""
        self._must_be_placed = self._must_be_placed and self._open_frames > 0
        self._open_frames, self._why = self._confirming, reason

    def moved(self, reason: str, at_ns: int, state: PatientFilter | None) -> None:
        """The patient's marker moved, perhaps on the patient: what it placed is less certain until X-rays show where it
        is.

        Args:
            at_ns: time of the first pose that shows it, by the tracker's clock.
        """
        self.since_ns = at_ns
        self._seen_to_move = True
        self._blame.excuse(moved=True)
        self._sliding.moved()
        self._witness.forget()
        self._loosen(reason, state)

    def watch(self, *, why_hidden: str, seen_ns: int) -> None:
        """Note whether the tracker sees the patient's marker now.

        Args:
            why_hidden: why there is no pose of it, or ''.
            seen_ns: time of its newest pose, by the tracker's clock.
        """
        if why_hidden and not self._hidden_why:
            self.since_ns = seen_ns + 1
            self._blame.excuse()
            self.suspect("the patient's marker was hidden; an X-ray would confirm that it has not moved")
        self._hidden_why = why_hidden

    def carm_unwatched(self, reason: str) -> None:
        """The C-arm's marker was hidden, or jumped: perhaps on the C-arm, which only X-rays show."""
        self._blame.carm_unwatched(reason)

    def clock_set(self, reason: str) -> None:
        """The clock of a marker was set: times of before are not comparable with those since."""
        self.since_ns = 0
        self._blame.excuse()
        self.suspect(reason)

    def doubt_all(self) -> None:
        """X-rays must confirm the whole registration again, wherever they show the patient."""
        self._blame.excuse()
        self._surprises.clear()

    def accepted(self) -> None:
        """The operator says that the patient is where X-rays show him."""
        self._blame.clear()
        self._witness.forget()
        self.suspect("accepted by the operator, not confirmed by X-rays yet")

    def rejected(self) -> None:
        """The operator says that the registration is wrong: nothing is to be compared with it."""
        self._blame.clear()

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _slides(self) -> bool:
        """Whether the marker has moved, and X-rays do not show yet that it rests."""
        return self._at_rest is not None and not self._sliding.settled

    def _add(self, shown: Shown, rotation_center_mm: Matrix) -> Slid | None:
        found = shown.registration
        return self._sliding.add(
            shown.timestamp_ns, shown.volume_from_patient, found.volume_from_carm, found.covariance, rotation_center_mm
        )

    def _agrees(self, state: PatientFilter, shown: Shown, *, confirmed: bool) -> None:
        undecided = self.undecided
        self._blame.agreed(
            shown.registration.volume_from_carm,
            state.volume_from_patient,
            state.rotation_center_mm,
            shown.tracker_from_patient,
            sure=confirmed and not self.suspected,
        )
        if undecided and not self.undecided:
            self._witness.settle(state.volume_from_patient)
        self._open_frames = max(int(self._slides), self._open_frames - 1)
        if self._at_rest is not None and not self.suspected:
            self._rests(state)

    def _loosen(self, reason: str, state: PatientFilter | None) -> None:
        self.suspect(reason)
        self._must_be_placed = True
        self._surprises.moved()
        if state is not None:
            self._at_rest = self._at_rest or state.copy()
            state.loosen()

    def _rests(self, state: PatientFilter | None) -> None:
        self._at_rest, self._seen_to_move, self._must_be_placed = None, False, False
        self._sliding.rested()
        if state is not None and not self.undecided:
            self._witness.settle(state.volume_from_patient)

    def _shown_elsewhere(self, mm: float) -> None:
        """X-rays show the patient elsewhere by so much: perhaps it is not his marker that moved."""
        self._blame.shown_elsewhere(mm, patient_moved=self._seen_to_move)

    def _ask_tracker(self, state: PatientFilter, shown: Shown) -> None:
        """What the tracker saw to move by what X-rays show."""
        if shown.tracker_from_patient is None or self._seen_to_move:
            return
        evidence = self._witness.add(
            shown.timestamp_ns,
            shown.tracker_from_patient,
            shown.patient_from_carm,
            shown.volume_from_patient,
            state.volume_from_patient,
            state.rotation_center_mm,
        )
        if evidence is None:
            return
        if evidence.moved is Moved.PATIENTS:
            self._blame.was_the_patients(evidence.by_mm, shown.tracker_from_patient)
        else:
            self._blame.was_the_carms(evidence.before)


def _length_mm(displacement: Matrix) -> float:
    """Of the translation in (6,) (rad, mm)."""
    return float(np.linalg.norm(displacement[3:]))
