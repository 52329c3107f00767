"""The volume in which everything is placed: the CT, or a reconstruction from the kept views."""

from __future__ import annotations

from collections import deque

from navnode.config import Config
from navnode.loop.answers import in_short, why_no_volume
from navnode.loop.ct import ShownCt
from navnode.loop.views import Views, nearest_rad
from navnode.registration.sides import SAME_SIDE_RAD
from navnode.types import (
    Frame,
    Matrix,
    Output,
    Status,
    SurfaceReady,
    Validity,
    View,
    Volume,
    VolumeReady,
    VolumeTimes,
    VolumeUpdate,
    WorkerState,
)
from navnode.xray.counts import line_integrals, open_beam_counts

__all__ = ["Volumes"]

_VIEW_PX = 128


class Volumes:
    """The navigation volume, the views for the next reconstruction, and the worker's state.

    Args:
        volume: the CT; None: the first X-rays make a volume.
    """

    def __init__(self, config: Config, volume: Volume | None) -> None:
        self._settings = config.reconstruction
        self._carm = config.carm.geometry
        self._isocentre_mm = config.carm.source_to_isocentre_mm
        self._i0 = config.registration.i0
        self.with_ct = volume is not None
        self.oriented = self.with_ct or config.volume.oriented
        """Whether the volume's axes are the patient's."""
        self.current = volume
        """The volume that tools and frames refer to; None until the first reconstruction."""
        self.number = 1 if volume is not None else 0
        """Increases with every new navigation volume."""
        self.worker = WorkerState(False, "", "starting", 0)
        self.reconstructed = 0
        """Number of volumes reconstructed."""
        self.times: VolumeTimes | None = None
        """Durations of the last reconstruction; None before the first."""
        self._views = Views(config.reconstruction, with_ct=self.with_ct)
        self._made_from: tuple[View, ...] = ()
        self._unlearned: deque[tuple[View, Frame]] = deque()
        self._ct = ShownCt(volume) if volume is not None else None

    def begin(self) -> list[Output]:
        """The CT for the displays, once."""
        return self._ct.show() if self._ct is not None else []

    @property
    def earliest(self) -> Frame:
        """The earliest X-ray that the volume was made from."""
        return min(self._views.asked_frames, key=lambda frame: frame.timestamp_ns)

    def next_of_its_own(self) -> tuple[Matrix, Frame] | None:
        """One of the X-rays that the volume was made from, and its ``volume_from_carm``, to learn how it is registered;
        None: there is none left, or there is a CT."""
        if not self._unlearned:
            return None
        view, frame = self._unlearned.popleft()
        assert view.volume_from_carm is not None
        return view.volume_from_carm, frame

    def shows_side_of(self, volume_from_carm: Matrix) -> bool:
        """Whether an X-ray with this pose can be registered: the CT, or a view of the volume, shows its side."""
        return self.with_ct or nearest_rad(self._made_from, volume_from_carm) <= SAME_SIDE_RAD

    # --- views ---------------------------------------------------------------------------------------

    def offer(self, frame: Frame, volume_from_carm: Matrix, now_ns: int) -> list[Output]:
        """Keep a frame as a view if its direction is new; returns requests that became possible."""
        if not self._settings.enabled or not self._views.wanted(volume_from_carm):
            return []
        factor = max(1, self._carm.width_px // _VIEW_PX)
        line = line_integrals(frame.counts, self._i0 or open_beam_counts(frame.counts), factor, see_lead=True)
        self._views.add(View(line, self._carm.binned(factor), volume_from_carm, frame.timestamp_ns), frame)
        return self.ask(now_ns)

    def ask(self, now_ns: int) -> list[Output]:
        """Requests for a volume and for the CT's surface, if they are due and a worker is there."""
        if not self.worker.alive:
            return []
        surface = self._ct.request(now_ns) if self._ct is not None else []
        return [*self._views.request(self._isocentre_mm, now_ns), *surface]

    def want_view(self, *, confirmed: bool, doubted: bool) -> str:
        """Keep the next frame as a view, whatever its direction; returns why not, or ''.

        Args:
            confirmed: whether the registration is confirmed.
            doubted: whether X-rays have still to show that no marker moved.
        """
        why_not = ""
        if not self._settings.enabled:
            why_not = "reconstruction is not enabled in the configuration"
        elif self.current is not None and not confirmed:
            why_not = "the C-arm's pose is unknown: the registration is not confirmed"
        elif self.current is not None and not self.with_ct and doubted:
            why_not = "a marker may have moved: X-rays from the side of an earlier one must show first that none did"
        self._views.wanted_now = not why_not
        return why_not

    @property
    def progress(self) -> str:
        """How many of the views for the first volume are kept, as a sentence."""
        return self._views.progress

    @property
    def center_mm(self) -> Matrix:
        """Center of the volumes, (3,), in the frame of the views' poses."""
        return self._views.center_mm(self._isocentre_mm)

    # --- answers -------------------------------------------------------------------------------------

    def on_worker(self, state: WorkerState) -> None:
        """Note the worker's state; a new instance does not know earlier requests."""
        if not state.alive or state.instance != self.worker.instance:
            self._views.forget_request()
            if self._ct is not None:
                self._ct.forget_request()
        self.worker = state

    def on_answer(self, ready: VolumeReady | SurfaceReady, now_ns: int) -> tuple[VolumeUpdate | None, str]:
        """Use the worker's answer, unless it is to an obsolete request.

        Returns:
            The volume to show, and a notice for the operator ('': none).
        """
        if isinstance(ready, SurfaceReady):
            return self._ct.on_answer(ready, now_ns) if self._ct is not None else (None, "")
        if not self._views.answered(ready.request):
            return None, ""  # obsolete, or requested by a node that has ended
        if ready.volume is None:
            self._views.failed(now_ns, in_short(ready.reason))
            return None, f"no reconstruction: {in_short(ready.reason)}"
        if why := why_no_volume(ready, self._views.grid):
            self._views.failed(now_ns, "the worker answered something else")
            return None, f"no reconstruction: the worker answered something else: {why}"
        self.reconstructed += 1
        took_ms, budget_ms = self._views.took_ms(now_ns), self._settings.budget_ms
        self.times = VolumeTimes(took_ms, max(took_ms - ready.elapsed_ms, 0.0), budget_ms)
        notice = ""
        if took_ms > budget_ms:
            notice = f"a volume took {took_ms / 1000:.1f} s, more than its budget of {budget_ms / 1000:.1f} s"
        role = "reconstruction"
        if not self.with_ct:
            # Later volumes are better ones in the same frame: the registration's estimate stays.
            role, self.current, self.number = "navigation", ready.volume, self.number + 1
            self._made_from = self._views.asked
            self._unlearned = deque(zip(self._views.asked, self._views.asked_frames, strict=True))
        validity = Validity(Status.DEGRADED, in_short(f"{ready.method}: {ready.reason}"), self._views.newest_ns)
        update = VolumeUpdate(
            ready.volume,
            ready.bone,
            role,
            validity,
            in_short(ready.method),
            ready.views,
            ready.uncertainty_hu,
            ready.lungs,
        )
        return update, notice

    # --- resets --------------------------------------------------------------------------------------

    def forget_views(self, *, lost: bool = False) -> None:
        """The views' poses no longer hold.

        Args:
            lost: nor does the pose of the volume that was made from them.
        """
        self._views.forget()
        if lost:
            self._unlearned.clear()
            self.current, self.number = None, self.number + 1
