"""The room: an OpenIGTLink server with a tracker at 100 Hz and X-rays at 10 Hz, the truth, and the faults to play."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from tests.drills.sockets import wire
from tests.drills.sockets.rigid import Matrix, inverse, rigid, rotation
from tests.drills.sockets.truth import (
    CARM_FROM_MARKER,
    LOOP_S,
    MARKER_FROM_TIP,
    TRACKER_FROM_ROOM,
    VOLUME_FROM_PATIENT,
    room_from_carm,
    room_from_volume,
    volume_from_carm,
    volume_from_tip,
)
from tests.drills.sockets.xrays import I0, Detector, Lines, exposed

PATIENT, CARM, XRAY = "PatientToTracker", "CArmToTracker", "XRay"
TOOLS = ("Drill", "Probe")
DRILL, PROBE = "DrillToTracker", "ProbeToTracker"

POSE_NS, FRAME_NS = 10_000_000, 100_000_000
EXPOSURE_MS = 5.0
_XRAY_LATENCY_NS = 40_000_000
_NOISE_RAD, _NOISE_MM = 1.5e-4, 0.04
_MOST_UNSENT = 16 << 20


@dataclass
class Faults:
    """What is wrong with the room now."""

    hidden: set[str] = field(default_factory=set)
    """Markers that the tracker says it does not see."""
    silent: set[str] = field(default_factory=set)
    """Devices that send nothing, and say nothing about it."""
    stalled: bool = False
    """Connected, and nothing comes at all."""
    frozen: set[str] = field(default_factory=set)
    """Markers whose last pose is sent again and again, with new stamps."""
    frozen_pixels: bool = False
    instead: dict[str, Matrix] = field(default_factory=dict)
    """Marker -> what is sent as its pose, with status OK."""
    swapped: bool = False
    """Each tool is reported under the other's name."""
    mistaken: bool = False
    """The probe is reported as the drill, and the drill not seen."""
    xrays: bool = True
    blurred_frames: int = 0
    """X-rays are exposed over so many frame times."""
    stated_exposure_ms: float | None = EXPOSURE_MS
    clock_ns: dict[str, int] = field(default_factory=dict)
    """Device -> how far its clock is ahead."""
    drift_ppm: dict[str, float] = field(default_factory=dict)
    drift_from_ns: int = 0
    late_frames: int = 0
    """So many of the next X-rays come late, by ``late_ns``; those after them not before them."""
    late_ns: int = 800_000_000
    in_order: bool = True
    """Whether late X-rays delay those after them, as one connection does."""
    future_ns: dict[str, int] = field(default_factory=dict)
    """Device -> its next message alone is stamped so far in the future."""


@dataclass(frozen=True)
class Sent:
    """Where something truly was when it was measured."""

    stamp_ns: int
    sent_ns: int
    pose: Matrix


class Room:
    """Serves one or more nodes in a thread of its own.

    Args:
        lines: line integrals of one loop, one per frame time.
        i0: open-beam counts.
    """

    def __init__(self, lines: list[Lines], detector: Detector, seed: int = 0, i0: float = I0) -> None:
        assert len(lines) == round(LOOP_S * 1e9 / FRAME_NS)
        self._lines, self._detector, self._i0 = lines, detector, i0
        self._rng = np.random.default_rng(seed)
        self._images = [self._image(at) for at in range(len(lines))], [self._image(at) for at in range(len(lines))]
        self.faults = Faults()
        self.volume_from_patient = VOLUME_FROM_PATIENT
        self.truth: dict[str, list[Sent]] = {f"{name}ToVolume": [] for name in TOOLS}
        self.truth |= {"PatientToVolume": [], "CArmToVolume": []}
        self.sent: dict[str, int] = {}
        """Device -> how many messages."""
        self.last_sent_ns: dict[str, int] = {}
        self._held: dict[str, bytes] = {}
        self._acts: list[tuple[int, Callable[[], None]]] = []
        self._samples = 0
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self.began_ns = self.now_ns() // FRAME_NS * FRAME_NS
        self._due: list[tuple[int, int, bytes]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.port = self._listening.getsockname()[1]
        self._clients: dict[socket.socket, bytearray] = {}
        self.accepted = 0
        self._kick = False
        self._raw = itertools.count(1)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now_ns(self) -> int:
        return self._epoch_ns + time.monotonic_ns()

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5)

    def disconnect(self) -> None:
        """End all connections; nodes may come back."""
        self._kick = True

    def bump(self, mm: float, turned_rad: float = 0.0) -> None:
        """The patient's marker sits elsewhere on the patient from now on."""
        way = self._rng.normal(size=3)
        moved = rigid(rotation(0, turned_rad, 0), mm * way / np.linalg.norm(way))
        self.volume_from_patient = self.volume_from_patient @ moved

    def bump_along(self, mm: float) -> None:
        """A little, and always the same way."""
        self.volume_from_patient = self.volume_from_patient @ rigid(None, mm * np.array([0.6, 0.0, 0.8]))

    def send_raw(self, told: bytes) -> None:
        """Send bytes, whatever they are, in between."""
        self.after(1, lambda: heapq.heappush(self._due, (self.now_ns(), -next(self._raw), told)))

    def after(self, samples: int, act: Callable[[], None]) -> None:
        """Do something just before the tracker's so manieth sample from now."""
        self._acts.append((self._samples + samples, act))

    def hide(
        self,
        devices: Iterable[str],
        samples: int,
        then: Callable[[], None] = lambda: None,
        *,
        silently: bool = False,
        after: int = 1,
        wait: bool = True,
    ) -> None:
        """Hide markers for so many samples.

        Args:
            then: happens just before they are seen again.
            silently: nothing is sent of them, rather than that they are not seen.
            after: so many samples from now.
            wait: return when they are seen again.
        """
        hidden, how, seen = set(devices), "silent" if silently else "hidden", threading.Event()

        def begin() -> None:
            setattr(self.faults, how, getattr(self.faults, how) | hidden)

        def end() -> None:
            then()
            setattr(self.faults, how, getattr(self.faults, how) - hidden)
            seen.set()

        self.after(after, begin)
        self.after(after + samples, end)
        assert not wait or seen.wait(30)

    def set_clocks(self, devices: Iterable[str], ahead_ns: int) -> None:
        """Set the clocks of devices forward, or back, at once."""
        told = self.faults.clock_ns
        self.faults.clock_ns = told | {device: told.get(device, 0) + ahead_ns for device in devices}

    @contextmanager
    def drifting(self, ppm: Mapping[str, float]) -> Iterator[None]:
        """Let clocks of devices run fast, by device, for the length of a block; then they stay ahead."""
        self.faults.drift_from_ns = self.now_ns()
        self.faults.drift_ppm = dict(ppm)
        try:
            yield
        finally:
            elapsed_ns = self.now_ns() - self.faults.drift_from_ns
            self.faults.drift_ppm = {}
            for device, each in ppm.items():
                self.set_clocks((device,), round(each * 1e-6 * elapsed_ns))

    def true_at(self, device: str, stamp_ns: int, arrived_ns: int) -> Sent | None:
        """What was sent last with this stamp before something arrived; None: nothing was."""
        told = self.truth[device]
        last = bisect_left(told, arrived_ns, key=lambda entry: entry.sent_ns)
        for entry in reversed(told[max(0, last - 3_000) : last]):
            if abs(entry.stamp_ns - stamp_ns) <= 2_000:
                return entry
        return None

    def shortly_before(self, device: str, stamp_ns: int, arrived_ns: int) -> list[Sent]:
        """What was measured in the second before a stamp, and sent before something arrived."""
        told = self.truth[device]
        last = bisect_left(told, arrived_ns, key=lambda entry: entry.sent_ns)
        return [entry for entry in told[max(0, last - 300) : last] if 0 <= stamp_ns - entry.stamp_ns < 1_000_000_000]

    @contextmanager
    def playing(self, **faults: object) -> Iterator[Faults]:
        """Play faults for the length of a block; others stay."""
        before = {name: getattr(self.faults, name) for name in faults}
        for name, value in faults.items():
            setattr(self.faults, name, value)
        try:
            yield self.faults
        finally:
            for name, value in before.items():
                setattr(self.faults, name, value)

    # --- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        next_pose, next_frame = self.now_ns(), self.began_ns + FRAME_NS
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            while not self._ends.is_set():
                now = self.now_ns()
                if self._kick:
                    self._kick = False
                    for client in list(self._clients):
                        self._drop(selector, client)
                if now >= next_frame:
                    if now - next_frame > FRAME_NS:
                        next_frame += (now - next_frame) // FRAME_NS * FRAME_NS
                    self._expose(next_frame)
                    next_frame += FRAME_NS
                if now >= next_pose:
                    self._track(now)
                    next_pose = max(next_pose + POSE_NS, now)
                while self._due and self._due[0][0] <= self.now_ns():
                    self._send(selector, heapq.heappop(self._due)[2])
                first = min(next_pose, next_frame, self._due[0][0] if self._due else next_pose)
                for key, _ in selector.select(max(0.0, (first - self.now_ns()) / 1e9)):
                    self._hear(selector, key.fileobj)
        for client in (*self._clients, self._listening):
            client.close()

    def _stamp(self, device: str, at_ns: int) -> int:
        ahead_ns = self.faults.clock_ns.get(device, 0)
        drifted = self.faults.drift_ppm.get(device, 0.0) * 1e-6 * (at_ns - self.faults.drift_from_ns)
        return at_ns + ahead_ns + round(drifted) + self.faults.future_ns.pop(device, 0)

    def _track(self, now_ns: int) -> None:
        self._samples += 1
        due = [act for at, act in self._acts if at <= self._samples]
        self._acts = [(at, act) for at, act in self._acts if at > self._samples]
        for act in due:
            act()
        t_s, faults = (now_ns - self.began_ns) / 1e9, self.faults
        tracker_from_volume = TRACKER_FROM_ROOM @ room_from_volume(t_s)
        poses = {
            PATIENT: tracker_from_volume @ self.volume_from_patient,
            CARM: TRACKER_FROM_ROOM @ room_from_carm(t_s) @ CARM_FROM_MARKER,
        }
        stamps = {device: self._stamp(device, now_ns) for device in (PATIENT, CARM, DRILL, PROBE)}
        self._note("PatientToVolume", stamps[PATIENT], self.volume_from_patient)
        for name in TOOLS:
            true, device = volume_from_tip(name, t_s), f"{name}ToTracker"
            poses[device] = tracker_from_volume @ true @ inverse(MARKER_FROM_TIP[name])
            self._note(f"{name}ToVolume", stamps[device], true)
        if faults.swapped:
            poses[DRILL], poses[PROBE] = poses[PROBE], poses[DRILL]
        if faults.mistaken:
            poses[DRILL] = poses[PROBE]
        for device, pose in poses.items():
            if device in faults.silent or faults.stalled:
                continue
            if device in faults.hidden or (faults.mistaken and device == PROBE):
                told = wire.transform(device, np.eye(4), TransformStatus="MISSING", TransformValid="false")
            elif device in faults.instead:
                told = wire.transform(device, faults.instead[device], TransformStatus="OK", TransformValid="true")
            elif device in faults.frozen and device in self._held:
                told = bytearray(self._held[device])
            else:
                turned = rotation(*self._rng.normal(0, _NOISE_RAD, 3))
                measured = pose @ rigid(turned, self._rng.normal(0, _NOISE_MM, 3))
                told = wire.transform(device, measured, TransformStatus="OK", TransformValid="true")
                self._held[device] = bytes(told)
            self._send_later(device, now_ns, wire.stamped(told, stamps[device]))

    def _expose(self, exposed_ns: int) -> None:
        faults = self.faults
        if not faults.xrays or faults.stalled or XRAY in faults.silent:
            return
        index = (exposed_ns - self.began_ns) // FRAME_NS
        cycle, at = divmod(index, len(self._lines))
        stamp_ns = self._stamp(XRAY, exposed_ns)
        self._note("PatientToVolume", stamp_ns, self.volume_from_patient)  # told again when a frame has confirmed it
        self._note("CArmToVolume", stamp_ns, volume_from_carm((exposed_ns - self.began_ns) / 1e9))
        if faults.frozen_pixels and XRAY in self._held:
            told = bytearray(self._held[XRAY])
        elif faults.blurred_frames or faults.stated_exposure_ms != EXPOSURE_MS:
            told = self._image(at, faults.blurred_frames, faults.stated_exposure_ms)
        else:
            told = self._images[cycle % 2][at]
        self._held[XRAY] = bytes(told)
        late_ns = faults.late_ns if faults.late_frames else 0
        faults.late_frames = max(0, faults.late_frames - 1)
        due_ns = exposed_ns + _XRAY_LATENCY_NS + late_ns
        if faults.in_order:
            due_ns = max(due_ns, self.last_sent_ns.get(XRAY, 0))
        self._send_later(XRAY, due_ns, wire.stamped(told, stamp_ns))

    def _image(self, at: int, blurred: int = 0, exposure_ms: float | None = EXPOSURE_MS) -> bytearray:
        lines = self._lines[at]
        if blurred:
            several = [np.exp(-self._lines[(at - back) % len(self._lines)]) for back in range(blurred + 1)]
            lines = -np.log(np.mean(several, axis=0))
        stated = {} if exposure_ms is None else {"ExposureTime": f"{exposure_ms:g}"}
        return wire.image(XRAY, exposed(lines, self._rng, self._i0), self._detector.pixel_mm, **stated)

    def _note(self, device: str, stamp_ns: int, pose: Matrix) -> None:
        self.truth[device].append(Sent(stamp_ns, self.now_ns(), pose))

    def _send_later(self, device: str, due_ns: int, told: bytes) -> None:
        self.sent[device] = self.sent.get(device, 0) + 1
        self.last_sent_ns[device] = due_ns
        heapq.heappush(self._due, (due_ns, sum(self.sent.values()), told))

    def _send(self, selector: selectors.BaseSelector, told: bytes) -> None:
        for client, unsent in list(self._clients.items()):
            unsent += told
            try:
                del unsent[: client.send(unsent)]
            except BlockingIOError:
                pass
            except OSError:
                self._drop(selector, client)
                continue
            if len(unsent) > _MOST_UNSENT:
                self._drop(selector, client)

    def _hear(self, selector: selectors.BaseSelector, which: object) -> None:
        if which is self._listening:
            with suppress(BlockingIOError):
                client, _ = self._listening.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(client, selectors.EVENT_READ)
                self._clients[client] = bytearray()
                self.accepted += 1
            return
        assert isinstance(which, socket.socket)
        try:
            gone = not which.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            self._drop(selector, which)

    def _drop(self, selector: selectors.BaseSelector, client: socket.socket) -> None:
        selector.unregister(client)
        del self._clients[client]
        client.close()
