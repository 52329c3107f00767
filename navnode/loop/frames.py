"""The newest X-ray: kept until its pose is known, registered one at a time, shown with the outcome."""

from __future__ import annotations

import math
from collections import Counter, deque
from itertools import pairwise

import numpy as np

from navnode import geometry as g
from navnode.config import Config
from navnode.loop.clocks import Clocks
from navnode.loop.poses import Missing
from navnode.loop.tools import Tools
from navnode.loop.topics import FRAME_WAITS_NS, max_age_ns
from navnode.loop.views import Motion, PictureSlots
from navnode.loop.volume import Volumes
from navnode.registration.over_time import RegistrationOverTime
from navnode.types import (
    Array,
    BodyStart,
    CArmPose,
    Effort,
    Frame,
    Matrix,
    Output,
    RegisteredFrame,
    Registration,
    RegistrationRequest,
    Validity,
    invalid,
)
from navnode.xray.held import same_exposure

__all__ = ["Frames"]

_STALE_NS = max_age_ns("xray")
_SILENT_PERIODS, _SILENT_LEAST_NS = 5, 300_000_000
"""A source of images is silent after this many of its periods."""
_LEAST_KNOWN = 4
_REMEMBERED = 4
"""X-rays that the next one must differ from."""
_LONGEST_EXPOSURE_NS = 100_000_000
"""Slower series are pulsed: an exposure is never longer, whatever the time between two."""
_LEAST_WAIT_NS, _POSES_APART_NS = 20_000_000, 40_000_000
"""An X-ray waits the former in any case; the latter is left for the pose after its exposure to come."""
_DELAYS = range(-5, 61, 5)
"""Differences in delay between images and poses, in steps of 10 ms, that are not told apart while nothing moves."""
_ANATOMY_MM = 60.0 * np.array([[0.0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
"""Points around the isocentre, in the C-arm's frame."""


class Frames:
    """The frame that waits, and the state of the image source."""

    def __init__(self, config: Config) -> None:
        self.carm = config.carm.geometry
        self._isocentre_mm = config.carm.source_to_isocentre_mm
        self.image_lag_ns = round(config.calibration.image_lag_ms * 1e6)
        self.pending: Frame | None = None
        """The newest frame, until it is registered or refused."""
        self.in_flight = False
        """Whether a frame is being registered."""
        self._last_received_ns = self._last_exposure_ns = self._last_registered_ns = 0
        self._carm_known = False
        self._motion_mm = config.trust.motion_mm
        self._exposure_ns = None if config.trust.exposure_ms is None else round(config.trust.exposure_ms * 1e6)
        self._exposed: deque[int] = deque(maxlen=9)
        self._last_counts: deque[Array] = deque(maxlen=_REMEMBERED)
        self._held_noise = config.trust.held_noise
        self._motion = Motion(self._isocentre_mm)
        self._slots = PictureSlots()
        self.dropped: Counter[str] = Counter()

    def on_frame(self, frame: Frame, clocks: Clocks) -> list[Output]:
        """Keep a frame as the newest one, or refuse it with a reason."""
        same = frame.timestamp_ns == self._last_exposure_ns  # the last message again: the source is as good as silent
        self._last_received_ns = self._last_received_ns if same else frame.received_ns
        if reason := self.mismatch(frame):
            return self.refuse(frame, reason, clocks)
        if same:
            self.dropped["xray"] += 1
            return []
        if self.repeats(frame):
            return self.refuse(frame, "the X-ray is the last one again, under a new time stamp", clocks)
        reason, clock_set = clocks.mistimed(frame, self._last_exposure_ns)
        if clock_set:
            self._last_exposure_ns = 0
            self._exposed.clear()
        if reason:
            self.dropped["late"] += 1
            return self.refuse(frame, reason, clocks)
        self._last_exposure_ns = frame.timestamp_ns
        self._last_counts.append(frame.counts)
        self._exposed.append(frame.timestamp_ns)
        waiting, self.pending = self.pending, frame
        if waiting is None:
            return []
        self.dropped["xray"] += 1
        if self.in_flight:
            return []
        return self.refuse(waiting, "the tracker has no pose for the exposure", clocks)

    def repeats(self, frame: Frame) -> bool:
        """Whether the source sent its last image again, without an exposure, or one of those before: noise makes
        exposures differ.

        A frame grabber adds noise of its own to what is held, ``trust.held_noise``.
        """
        if frame.timestamp_ns == self._last_exposure_ns:
            return True
        return any(same_exposure(kept, frame.counts, self._held_noise) for kept in self._last_counts)

    @property
    def period_ns(self) -> int | None:
        """Median time between recent X-rays; None: too few came."""
        steps = sorted(b - a for a, b in pairwise(self._exposed))
        return steps[len(steps) // 2] if len(steps) >= _LEAST_KNOWN else None

    @property
    def waits_ns(self) -> int:
        """How much later than an X-ray poses of its exposure may come: the next one takes its place."""
        return max(_LEAST_WAIT_NS, min(FRAME_WAITS_NS, self.period_ns or FRAME_WAITS_NS) - _POSES_APART_NS)

    def blurred(self, frame: Frame, tools: Tools, clocks: Clocks) -> str:
        """Why the C-arm moved too much during a frame's exposure, or ''."""
        exposure_ns = frame.exposure_ns or self._exposure_ns or min(self.period_ns or 0, _LONGEST_EXPOSURE_NS)
        if not exposure_ns:
            return ""
        points_mm = np.array([0.0, 0.0, self._isocentre_mm]) + _ANATOMY_MM
        moved_mm = tools.moved_mm(self.exposed_ns(frame, clocks), exposure_ns, points_mm, clocks)
        return f"the C-arm moved {moved_mm:.1f} mm during the exposure" if moved_mm > self._motion_mm else ""

    def mismatch(self, frame: Frame) -> str:
        """Why a frame does not fit the configured C-arm, or ''."""
        expected = (self.carm.height_px, self.carm.width_px)
        if frame.counts.shape == expected:
            return ""
        height, width = frame.counts.shape
        return f"the image is {width} x {height} pixels, the C-arm geometry is for {expected[1]} x {expected[0]}"

    def next(self, clocks: Clocks) -> tuple[Frame | None, list[Output]]:
        """The frame to place now; None while one is being registered. A frame that waited too long is refused."""
        frame = None if self.in_flight else self.pending
        if frame is None or not self.stale(frame, clocks):
            return frame, []
        self.pending = None
        return None, self.refuse(frame, "the X-ray waited too long", clocks)

    def exposed_ns(self, frame: Frame, clocks: Clocks) -> int:
        """When a frame was exposed, by the tracker's clock."""
        return clocks.in_tracker_time_ns(frame.timestamp_ns) - self.image_lag_ns

    def unpaired(self, frame: Frame, patient_from_carm: Matrix, tools: Tools, clocks: Clocks) -> str:
        """Why a frame cannot be used although its pose was found: that of another time may be its own; or ''."""
        if not (reason := clocks.unrelated()):
            return ""
        times_ns = frame.timestamp_ns - self.image_lag_ns + np.rint(clocks.possible_shifts_ns(_DELAYS)).astype(np.int64)
        poses = tools.patient_from_carm_at(times_ns[times_ns <= tools.carm_newest_ns])
        points_mm = np.array([0.0, 0.0, self._isocentre_mm]) + _ANATOMY_MM
        there_mm = points_mm @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3]
        moved_mm = np.linalg.norm(there_mm - g.transform(patient_from_carm, points_mm), axis=-1)
        known = len(poses) > len(_DELAYS) // 2 and bool(np.isfinite(moved_mm).all())
        return "" if known and moved_mm.max() <= self._motion_mm else reason

    def stale(self, frame: Frame, clocks: Clocks) -> bool:
        """Whether a frame is too old to show where anything is now."""
        return clocks.now_ns - frame.received_ns > _STALE_NS

    def place(
        self, frame: Frame, patient_from_carm: Matrix | Missing, clocks: Clocks
    ) -> tuple[Matrix | None, list[Output]]:
        """Release the waiting frame if its pose is known, or never will be.

        Returns:
            The frame's ``patient_from_carm`` if it can be registered, and the outputs that refuse it otherwise.
        """
        if isinstance(patient_from_carm, Missing):
            if patient_from_carm.not_yet and clocks.now_ns - frame.received_ns < FRAME_WAITS_NS:
                return None, []
            self.pending = None
            return None, self.refuse(frame, patient_from_carm.reason, clocks)
        self.pending = None
        self._motion.add(frame.timestamp_ns, patient_from_carm)
        if not frame.stamped and not self._motion.still:
            reason = "the X-ray has no time stamp; it is used only while the C-arm stands still"
            return None, self.refuse(frame, reason, clocks)
        return patient_from_carm, []

    def request(
        self,
        frame: Frame,
        patient_from_carm: Matrix,
        patient: RegistrationOverTime,
        bodies: tuple[BodyStart, ...],
        volume: Volumes,
        epoch: int,
    ) -> RegistrationRequest:
        """Request a placed frame's registration; the next frame waits until the answer has come."""
        self.in_flight = True
        return RegistrationRequest(
            frame=frame,
            epoch=epoch,
            volume_id=volume.number,
            start_volume_from_carm=patient.best_guess @ patient_from_carm,
            patient_from_carm=patient_from_carm,
            effort=patient.effort,
            sparse_volume=volume.current is not None and not volume.with_ct,
            bodies=bodies,
        )

    def of_volume(self, frame: Frame, volume_from_carm: Matrix, volume: Volumes, epoch: int) -> RegistrationRequest:
        """Request the registration of a frame that the volume was made from, with the pose that it had in it."""
        self.in_flight = True
        return RegistrationRequest(
            frame=frame,
            epoch=epoch,
            volume_id=volume.number,
            start_volume_from_carm=volume_from_carm,
            patient_from_carm=volume_from_carm,
            effort=Effort.TRACK,
            sparse_volume=True,
            of_volume=True,
        )

    def refuse(self, frame: Frame, reason: str, clocks: Clocks) -> list[Output]:
        """Show a frame that cannot be registered, with the reason."""
        self.dropped["rejected"] += 1
        return self.show(frame, None, invalid(reason), clocks)

    def show(
        self,
        frame: Frame,
        registration: Registration | None,
        verdict: Validity,
        clocks: Clocks,
        tracked: Matrix | None = None,
    ) -> list[Output]:
        """Show a frame with the C-arm's pose, or with the reason it is missing.

        Args:
            registration: the frame's registration; None: it was not registered.
            verdict: whether the pose may be used.
            tracked: ``volume_from_carm`` by tracking, where that is better than the registered one.
        """
        found = tracked if registration is None or tracked is not None else registration.volume_from_carm
        volume_from_carm = found if verdict.usable else None
        residual, similarity = (registration.residual, registration.similarity) if registration else (math.inf, 0.0)
        if volume_from_carm is not None:
            self._last_registered_ns = frame.received_ns
        validity = Validity(verdict.status, verdict.reason, frame.timestamp_ns, clocks.image_age_ns(frame))
        slot = None
        if volume_from_carm is not None and self._motion.still:
            slot = self._slots.slot_of(volume_from_carm[:3, 2])
        self._carm_known = volume_from_carm is not None
        shown = RegisteredFrame(frame, self.carm, volume_from_carm, validity, residual, similarity, slot, clocks.now_ns)
        return [CArmPose(volume_from_carm, validity), shown]

    def tick(self, clocks: Clocks) -> list[Output]:
        """Withdraw the C-arm's pose when X-rays no longer show where it is."""
        silent_ns = min(max(_SILENT_PERIODS * (self.period_ns or _STALE_NS), _SILENT_LEAST_NS), _STALE_NS)
        if clocks.now_ns - self._last_received_ns > silent_ns:
            return self.withdraw("no X-ray came just now")
        if clocks.now_ns - self._last_registered_ns > _STALE_NS:
            return self.withdraw("no X-ray was registered just now")
        return []

    def withdraw(self, reason: str) -> list[Output]:
        """Withdraw the C-arm's pose, unless it is withdrawn already."""
        if not self._carm_known:
            return []
        self._carm_known = False
        return [CArmPose(None, invalid(reason))]

    def age_s(self, now_ns: int) -> float | None:
        """Seconds since the last X-ray; None before the first."""
        return (now_ns - self._last_received_ns) / 1e9 if self._last_received_ns else None

    def forget_pictures(self) -> None:
        """Forget the directions of the pictures shown: the registration that placed them is lost."""
        self._slots = PictureSlots()

    def reset(self) -> None:
        """A source vanished: forget the waiting frame, time stamps and motion."""
        self.pending = None
        self._last_exposure_ns = 0
        self._last_counts.clear()
        self._exposed.clear()
        self._motion = Motion(self._isocentre_mm)
