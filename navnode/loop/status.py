"""The node's report: counts, sources, dose and notices."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from navnode.config import Config
from navnode.loop.bodies import Bodies
from navnode.loop.frames import Frames
from navnode.loop.plans import Plans
from navnode.loop.tools import Tools
from navnode.loop.topics import STATE_EVERY_NS
from navnode.loop.volume import Volumes
from navnode.registration.over_time import RegistrationOverTime
from navnode.types import Frame, NodeState, RegisteredFrame, Rejected, SourceState, Status
from navnode.xray.dose import Ledger

__all__ = ["NodeStatus"]

_RATE_NS = 2_000_000_000
"""The frame rate is averaged over this time."""

_DROPS = ("xray", "pose", "late", "rejected")


class NodeStatus:
    """Counts since the start, and the state of the sources."""

    def __init__(self, config: Config) -> None:
        self._dose = Ledger(config.dose.frame_gy_cm2, config.dose.msv_per_gy_cm2, config.dose.ct_msv)
        self._sources = {f"{source.host}:{source.port}": "not connected yet" for source in config.sources}
        self._configured = frozenset(self._sources)
        self._received = self._registered = 0
        self._registered_at_ns: deque[int] = deque(maxlen=30)
        self._by_status = {status.value: 0 for status in Status}
        self._notices: deque[str] = deque(maxlen=5)
        self._last_ns = 0
        self._rejected = 0

    def received(self, frame: Frame, mismatch: str, *, repeated: bool) -> None:
        """Count a frame and its dose.

        Args:
            mismatch: why the frame does not fit the configured C-arm, or ''.
            repeated: the source sent its last image again; its dose is counted already.
        """
        self.notice(mismatch)
        self._received += 1
        if not repeated:
            self._dose.add(frame)

    def reject(self, rejected: Rejected) -> None:
        """Count a message that cannot be used, and notify the operator."""
        self._rejected += 1
        self.notice(f"{rejected.device}: {rejected.reason}")

    def count(self, outputs: Iterable[object], now_ns: int) -> None:
        """Count frames by outcome."""
        for output in outputs:
            if isinstance(output, RegisteredFrame):
                self._by_status[output.validity.status.value] += 1
                if output.volume_from_carm is not None:
                    self._registered += 1
                    self._registered_at_ns.append(now_ns)

    def notice(self, text: str) -> None:
        """Notify the operator, without repeating a notice."""
        if text and text not in self._notices:
            self._notices.append(text)

    def on_source(self, source: SourceState) -> bool:
        """Update a source's state; returns whether it vanished, and then notifies the operator."""
        was = self._sources.get(source.name)
        if source.connected or source.name in self._configured:
            self._sources[source.name] = "" if source.connected else source.reason
        else:
            self._sources.pop(source.name, None)  # a console that pushed messages
        vanished = not source.connected and was == ""
        self.notice(f"source {source.name}: {source.reason}" if vanished else "")
        return vanished

    def due(self, now_ns: int) -> bool:
        """Whether a report is due; if so, the next one is due a period later."""
        if now_ns - self._last_ns < STATE_EVERY_NS:
            return False
        self._last_ns = now_ns
        return True

    def report(
        self,
        patient: RegistrationOverTime,
        bodies: Bodies,
        frames: Frames,
        tools: Tools,
        plans: Plans,
        volume: Volumes,
        epoch: int,
        now_ns: int,
    ) -> NodeState:
        """The node's present state."""
        recent = [t for t in self._registered_at_ns if now_ns - t < _RATE_NS]
        rate = (len(recent) - 1) / max((recent[-1] - recent[0]) / 1e9, 1e-3) if len(recent) > 1 else 0.0
        dropped = frames.dropped + tools.dropped + Counter(rejected=self._rejected)
        return NodeState(
            registration=patient.validity(now_ns),
            tools=dict(tools.validity),
            bodies=bodies.validities(now_ns),
            sources=dict(self._sources),
            worker=volume.worker.engine if volume.worker.alive else volume.worker.reason,
            worker_alive=volume.worker.alive,
            volume=volume.current.name if volume.current else "",
            frames_received=self._received,
            frames_registered=self._registered,
            frame_rate_hz=rate,
            volumes=volume.reconstructed,
            dropped={name: dropped[name] for name in _DROPS},
            status_counts=dict(self._by_status),
            notices=tuple(self._notices),
            now_ns=now_ns,
            epoch=epoch,
            active_tool=tools.active,
            dose=self._dose.total,
            target_sigma_mm=patient.filter.target_sigma_mm if patient.filter else None,
            xray_age_s=frames.age_s(now_ns),
            volume_times=volume.times,
            oriented=volume.oriented,
            plans=plans.present[0],
            active_plan=plans.active,
        )
