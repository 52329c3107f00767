"""A console that keeps every output with its time of arrival, and judges it by the room's truth."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.drills.sockets import wire
from tests.drills.sockets.phantom import SPINE_MM
from tests.drills.sockets.rigid import Matrix, angle_deg, apart_mm, inverse
from tests.drills.sockets.room import Room, Sent
from tests.drills.sockets.wire import Heard

WRONG_MM, WRONG_DEG = 2.0, 2.0
TOO_OLD_NS = 500_000_000
"""A pose that was measured so long ago is not the present one."""


class Console:
    """Connects, and again after a loss; a version-2 client from its first message on."""

    def __init__(self, port: int, now_ns: Callable[[], int]) -> None:
        self._port, self._now_ns = port, now_ns
        self.heard: list[Heard] = []
        self._socket: socket.socket | None = None
        self._commands = 0
        self.losses = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ends.set()
        self._thread.join(5)

    def since(self, mark: int, device: str) -> list[Heard]:
        """Messages of a device after a mark (``len(heard)`` at some time)."""
        return [heard for heard in self.heard[mark:] if heard.device == device]

    def last(self, device: str) -> Heard | None:
        for heard in reversed(self.heard[-4_000:]):
            if heard.device == device:
                return heard
        return None

    def validity(self, device: str) -> str:
        heard = self.last(device)
        return "" if heard is None else heard.metadata.get("Validity", "")

    def push(self, told: bytes) -> None:
        """Send anything to the node.

        Raises:
            OSError: there is no connection.
        """
        if self._socket is None:
            raise ConnectionError("not connected")
        self._socket.sendall(told)

    def command(self, name: str, timeout_s: float = 10.0, **parameters: str) -> str:
        """The answer to a command; '' if none came."""
        self._commands += 1
        mark, number = len(self.heard), self._commands
        self.push(wire.stamped(wire.command(number, name, **parameters), self._now_ns()))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for heard in self.since(mark, f"ACK_{number}"):
                return heard.text
            time.sleep(0.01)
        return ""

    def _run(self) -> None:
        while not self._ends.is_set():
            with contextlib.suppress(OSError):
                self._listen()
            self._socket = None
            self.losses += 1
            self._ends.wait(0.1)

    def _listen(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 1.0) as connection:
            connection.settimeout(0.2)
            splitter = wire.Splitter()
            connection.sendall(wire.stamped(wire.command(0, "Version"), self._now_ns()))
            self._socket = connection
            while not self._ends.is_set():
                try:
                    data = connection.recv(1 << 18)
                except TimeoutError:
                    continue
                if not data:
                    return
                self.heard += splitter.feed(data, self._now_ns())


@dataclass(frozen=True)
class Verdict:
    """What a stretch of outputs was."""

    outputs: int
    valid: int
    wrong: list[str]
    """One line for each output that is VALID and wrong."""
    worst_mm: float
    """Of the VALID ones."""
    usual_mm: float
    restamped: int
    """How many VALID ones carry the stamp of no measurement, but the pose of one of the last second."""

    @property
    def share(self) -> float:
        return self.valid / max(1, self.outputs)

    def __str__(self) -> str:
        some = "; ".join(self.wrong[:3])
        figures = f"{self.valid} of {self.outputs} VALID, median {self.usual_mm:.2f} mm, worst {self.worst_mm:.2f} mm"
        figures += f", {self.restamped} restamped" if self.restamped else ""
        return f"{figures}, {len(self.wrong)} wrong {some}".strip()


_POINT_MM: dict[str, Callable[[Matrix], Matrix]] = {
    "PatientToVolume": lambda true: (inverse(true) @ (*SPINE_MM, 1.0))[:3],
    "CArmToVolume": lambda true: (inverse(true) @ (*SPINE_MM, 1.0))[:3],
}
"""Where an error counts, in the device's frame: at the spine; a tool's at its tip."""


def judge(room: Room, outputs: Iterable[Heard], *, set_back: bool = False) -> Verdict:
    """Judge TRANSFORMs by the truth: VALID and off by more than 2 mm or 2 degrees, or old, is wrong.

    Args:
        set_back: a clock was set back, and one stamp means several times: what is right at another stamp of the second
            before is counted as restamped.
    """
    total, restamped, errors_mm, wrong = 0, 0, [], []
    for heard in outputs:
        total += 1
        if heard.metadata.get("Validity") != "VALID":
            continue
        assert heard.metadata.get("TransformStatus") == "OK" and heard.matrix is not None
        true = room.true_at(heard.device, heard.stamp_ns, heard.arrived_ns)
        earlier: list[Sent] = []
        if true is None or max(_off(heard, true.pose)) > WRONG_MM:
            earlier = room.shortly_before(heard.device, heard.stamp_ns, heard.arrived_ns)
            earlier = [entry for entry in earlier if max(_off(heard, entry.pose)) < 1.0]
        if earlier and (true is None or set_back):
            restamped += 1
            true = max(earlier, key=lambda entry: entry.sent_ns)
        if true is None:
            errors_mm.append(0.0)
            wrong.append(f"{heard.device}: nothing was measured at its stamp, nor in the second before")
            continue
        off_mm, off_deg = _off(heard, true.pose)
        errors_mm.append(off_mm)
        if off_mm > WRONG_MM or off_deg > WRONG_DEG:
            when = f", right {(heard.stamp_ns - earlier[-1].stamp_ns) / 1e6:.0f} ms earlier" if earlier else ""
            wrong.append(f"{heard.device} off by {off_mm:.1f} mm, {off_deg:.1f} deg{when}")
        elif heard.device in TOOL_OUTPUTS and heard.arrived_ns - true.sent_ns > TOO_OLD_NS:
            told = heard.metadata["AgeMs"]
            wrong.append(f"{heard.device}: {(heard.arrived_ns - true.sent_ns) / 1e6:.0f} ms old, said {told} ms")
    ordered = sorted(errors_mm) or [0.0]
    return Verdict(total, len(errors_mm), wrong, ordered[-1], ordered[len(ordered) // 2], restamped)


def _off(heard: Heard, true: Matrix) -> tuple[float, float]:
    """How far from the truth, mm and degrees."""
    assert heard.matrix is not None
    at_mm = _POINT_MM[heard.device](true) if heard.device in _POINT_MM else (0.0, 0.0, 0.0)
    return apart_mm(heard.matrix, true, at_mm), angle_deg(heard.matrix, true)


TOOL_OUTPUTS = ("DrillToVolume", "ProbeToVolume")
PLACED = (*TOOL_OUTPUTS, "PatientToVolume", "CArmToVolume")


def steps_back_ns(outputs: Iterable[Heard]) -> dict[str, int]:
    """By how much the stamps of devices went back at most; devices whose never did are missing."""
    newest: dict[tuple[str, str], int] = {}
    back: dict[str, int] = {}
    for heard in outputs:
        key = heard.kind, heard.device
        if heard.stamp_ns + 1_000 < newest.get(key, 0):
            back[heard.device] = max(back.get(heard.device, 0), newest[key] - heard.stamp_ns)
        newest[key] = max(newest.get(key, 0), heard.stamp_ns)
    return back
