"""Scores a node against the simulator's truth, from the outside: as a console that receives both."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from navnode import geometry as g
from navnode.igtl import Client, Message, Transform
from navnode.simulation.scenario import TRUTH_PATIENT, Scenario
from navnode.types import Matrix

WRONG_MM = 5.0
"""An output shown as VALID that is off by more than this counts as wrong."""

_KEPT = 2_000
_KEPT_ERRORS = 100_000


class Scorer:
    """Compares what the node publishes with the truth that the virtual room tells.

    Args:
        with_ct: False when the node makes its volume from X-rays: its frame is the patient's then.
    """

    def __init__(self, scenario: Scenario, with_ct: bool) -> None:
        self._scenario = scenario
        self._truth_patient = scenario.volume_from_patient if with_ct else np.eye(4)
        self._volume_from_ct = self._truth_patient @ g.inverse(scenario.volume_from_patient)
        self._targets_volume_mm = g.transform(self._volume_from_ct, scenario.targets_mm)
        self._targets_patient_mm = g.transform(g.inverse(scenario.volume_from_patient), scenario.targets_mm)
        self._truth: OrderedDict[tuple[str, int], Matrix] = OrderedDict()
        self._pending: OrderedDict[tuple[str, int], tuple[Matrix, str]] = OrderedDict()
        self.target_errors_mm: deque[float] = deque(maxlen=_KEPT_ERRORS)
        self.tip_errors_mm: deque[float] = deque(maxlen=_KEPT_ERRORS)
        self.wrong_while_valid = 0
        self.frames = 0

    @contextmanager
    def listening(self, node: tuple[str, int], room: tuple[str, int]) -> Iterator[None]:
        """Listen to both, in a thread, for as long as the block runs."""
        loop = asyncio.new_event_loop()
        clients = (
            Client(*node, on_message=lambda message, _: self.from_node(message)),
            Client(*room, on_message=lambda message, _: self.from_room(message)),
        )
        tasks = [loop.create_task(client.run()) for client in clients]
        thread = threading.Thread(target=loop.run_forever, name="scorer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            for task in tasks:
                loop.call_soon_threadsafe(task.cancel)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.close()

    def from_room(self, message: Message) -> None:
        """Take what the room says of the truth."""
        if not isinstance(message, Transform) or not message.device.startswith("Truth"):
            return
        if message.device == TRUTH_PATIENT:
            return
        key = (message.device.removeprefix("Truth"), message.timestamp_ns)
        self._remember(self._truth, key, self._volume_from_ct @ message.matrix)
        if key in self._pending:
            self._compare(key[0], *self._pending.pop(key), self._truth[key])

    def from_node(self, message: Message) -> None:
        """Take what the node says."""
        if not isinstance(message, Transform):
            return
        validity = message.metadata.get("Validity", "")
        if message.device == "CArmToVolume":
            self.frames += validity != "INVALID"
        if validity == "INVALID":
            return
        if message.device == "PatientToVolume":
            error = self._target_error_mm(message.matrix)
            self.target_errors_mm.append(error)
            self.wrong_while_valid += validity == "VALID" and error > WRONG_MM
        elif message.device in ("CArmToVolume", f"{self._scenario.tool_name}ToVolume"):
            key = (message.device, message.timestamp_ns)
            if key in self._truth:
                self._compare(message.device, message.matrix, validity, self._truth[key])
            else:
                self._remember(self._pending, key, (message.matrix, validity))

    def report(self) -> dict[str, Any]:
        """The figures: ``tre_mm``, ``tip_error_mm`` and what was wrong while VALID."""
        return {
            "tre_mm": summary(self.target_errors_mm, "median"),
            "tip_error_mm": summary(self.tip_errors_mm, "median"),
            "wrong_while_valid": self.wrong_while_valid,
        }

    def _target_error_mm(self, volume_from_patient: Matrix) -> float:
        estimated = g.transform(volume_from_patient, self._targets_patient_mm)
        true = g.transform(self._truth_patient, self._targets_patient_mm)
        return float(np.linalg.norm(estimated - true, axis=1).mean())

    def _compare(self, device: str, estimated: Matrix, validity: str, true: Matrix) -> None:
        """Tools by their tip; the C-arm by where the targets appear across its beam, which is what it is used for."""
        if device == "CArmToVolume":
            seen, truly = (g.transform(g.inverse(pose), self._targets_volume_mm)[:, :2] for pose in (estimated, true))
            error = float(np.linalg.norm(seen - truly, axis=1).mean())
        else:
            error = float(np.linalg.norm(estimated[:3, 3] - true[:3, 3]))
            self.tip_errors_mm.append(error)
        self.wrong_while_valid += validity == "VALID" and error > WRONG_MM

    def _remember(self, where: OrderedDict[Any, Any], key: tuple[str, int], value: Any) -> None:
        where[key] = value
        if len(where) > _KEPT:
            where.popitem(last=False)


def summary(values: Collection[float], middle: str = "p50") -> dict[str, float | None]:
    """median (or p50), p95 or p99, and maximum; None when there are no values."""
    high = "p95" if middle == "median" else "p99"
    if not values:
        return {middle: None, high: None, "max": None}
    quantiles = np.percentile(list(values), [50, 95 if high == "p95" else 99, 100])
    return {name: round(float(q), 3) for name, q in zip((middle, high, "max"), quantiles, strict=True)}
