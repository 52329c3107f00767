"""The volume that everything is placed in: the CT, or what is reconstructed from views that are kept."""

from __future__ import annotations

from navnode.config import Config
from navnode.loop.ct import ShownCt
from navnode.loop.views import Views
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

_VIEW_PX = 128


class Volumes:
    """The navigation volume, the views for the next one, and whether there is a worker to make it."""

    def __init__(self, config: Config, volume: Volume | None) -> None:
        self._settings = config.reconstruction
        self._carm = config.carm.geometry
        self._isocentre_mm = config.carm.source_to_isocentre_mm
        self._i0 = config.registration.i0
        self.with_ct = volume is not None
        self.oriented = self.with_ct or config.volume.oriented
        """Whether the volume's axes are the patient's."""
        self.current = volume
        """What tools and frames refer to; None until X-rays have made one."""
        self.number = 1 if volume is not None else 0
        """Counts up with every new navigation volume."""
        self.worker = WorkerState(False, "", "starting", 0)
        self.made = 0
        self.times: VolumeTimes | None = None
        """Of the last volume; None before the first."""
        self._views = Views(config.reconstruction)
        self._ct = ShownCt(volume) if volume is not None else None

    def begin(self) -> list[Output]:
        """The CT for the displays, once."""
        return self._ct.show() if self._ct is not None else []

    # --- views ---------------------------------------------------------------------------------------

    def offer(self, frame: Frame, volume_from_carm: Matrix, now_ns: int) -> list[Output]:
        """Keep a frame for reconstruction if it shows the patient from a new direction; ask when there are enough."""
        if not self._settings.enabled or not self._views.wanted(volume_from_carm):
            return []
        factor = max(1, self._carm.width_px // _VIEW_PX)
        line = line_integrals(frame.counts, self._i0 or open_beam_counts(frame.counts), factor, see_lead=True)
        self._views.add(View(line, self._carm.binned(factor), volume_from_carm, frame.timestamp_ns))
        return self.ask(now_ns)

    def ask(self, now_ns: int) -> list[Output]:
        """Requests for a volume and for the CT's surface, when there is something to ask and somebody to ask."""
        if not self.worker.alive:
            return []
        surface = self._ct.request(now_ns) if self._ct is not None else []
        return [*self._views.request(self._isocentre_mm, now_ns), *surface]

    def want_view(self, *, confirmed: bool) -> str:
        """Keep the next frame, whatever its direction; why not, or ''.

        Args:
            confirmed: whether the registration that places it is.
        """
        why_not = ""
        if not self._settings.enabled:
            why_not = "reconstruction is not enabled in the configuration"
        elif self.current is not None and not confirmed:
            why_not = "where the C-arm stands is not known: the registration is not confirmed"
        self._views.wanted_now = not why_not
        return why_not

    @property
    def progress(self) -> str:
        """How many views the first volume still lacks."""
        return self._views.progress

    @property
    def center_mm(self) -> Matrix:
        """Where the views look, (3,)."""
        return self._views.center_mm(self._isocentre_mm)

    # --- answers -------------------------------------------------------------------------------------

    def on_worker(self, state: WorkerState) -> None:
        """The worker says how it is; another instance knows nothing of what was asked."""
        if not state.alive or state.instance != self.worker.instance:
            self._views.forget_request()
            if self._ct is not None:
                self._ct.forget_request()
        self.worker = state

    def on_answer(self, ready: VolumeReady | SurfaceReady, now_ns: int) -> tuple[VolumeUpdate | None, str]:
        """Use the worker's answer, if it is the one that is waited for.

        Returns:
            What to show, and what to tell the operator ('': nothing).
        """
        if isinstance(ready, SurfaceReady):
            return self._ct.on_answer(ready, now_ns) if self._ct is not None else (None, "")
        if not self._views.answered(ready.request):
            return None, ""  # requested by a node that has ended
        if ready.volume is None:
            self._views.failed(now_ns)
            return None, f"no reconstruction: {ready.reason}"
        self.made += 1
        took_ms, budget_ms = self._views.took_ms(now_ns), self._settings.budget_ms
        self.times = VolumeTimes(took_ms, max(took_ms - ready.elapsed_ms, 0.0), budget_ms)
        notice = ""
        if took_ms > budget_ms:
            notice = f"a volume took {took_ms / 1000:.1f} s, more than its {budget_ms / 1000:.1f} s"
        role = "reconstruction"
        if not self.with_ct:
            # Later, a better volume in the same frame: the registration's estimate stays, its image is replaced.
            role, self.current, self.number = "navigation", ready.volume, self.number + 1
        validity = Validity(Status.DEGRADED, f"{ready.method}: {ready.reason}", self._views.newest_ns)
        update = VolumeUpdate(ready.volume, ready.bone, role, validity, ready.method, ready.views, ready.uncertainty_hu)
        return update, notice

    # --- resets --------------------------------------------------------------------------------------

    def forget_views(self, *, lost: bool = False) -> None:
        """The views' poses no longer hold.

        Args:
            lost: neither does the place of the volume that was made from them.
        """
        self._views.forget()
        if lost:
            self.current, self.number = None, self.number + 1
