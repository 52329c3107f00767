"""Scores a node against the simulator's truth as an outside console that receives both."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np

from navnode import geometry as g
from navnode.files.report import percentiles
from navnode.igtl import Client, Message, Transform
from navnode.simulation.scenario import TRUTH_PATIENT, Scenario
from navnode.types import Matrix

__all__ = ["WRONG_MM", "ErrorSpread", "Errors", "Scorer", "TruthReport"]

WRONG_MM = 5.0
"""A VALID output with a larger error counts as wrong."""

_KEPT = 2_000
_KEPT_ERRORS = 100_000


class ErrorSpread(msgspec.Struct, frozen=True, kw_only=True):
    """Median, 95th percentile and maximum of errors; None if there are none."""

    median: float | None
    p95: float | None
    max: float | None

    @classmethod
    def of(cls, errors: Collection[float]) -> ErrorSpread:
        """The spread of some errors."""
        if not errors:
            return cls(median=None, p95=None, max=None)
        spread = percentiles(errors)
        return cls(median=spread.p50, p95=spread.p95, max=spread.max)


class TruthReport(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of the outputs against the truth."""

    tre_mm: ErrorSpread
    """Target registration error of the patient's registration."""
    tip_error_mm: ErrorSpread
    """Errors of tool tips."""
    wrong_while_valid: int
    """Number of VALID outputs with an error above :data:`WRONG_MM`."""


class Errors:
    """Compares outputs with the truth, for the live node and for replayed sessions alike.

    Args:
        volume_from_patient: the truth.
        targets_patient_mm: (N, 3) points where errors of the patient's registration are measured; may be empty.
    """

    def __init__(self, volume_from_patient: Matrix, targets_patient_mm: Matrix) -> None:
        self._targets_patient_mm = targets_patient_mm
        self._targets_volume_mm = g.transform(volume_from_patient, targets_patient_mm)
        self.target_errors_mm: deque[float] = deque(maxlen=_KEPT_ERRORS)
        self.tip_errors_mm: deque[float] = deque(maxlen=_KEPT_ERRORS)
        self.wrong_while_valid = self.compared = 0

    def patient(self, volume_from_patient: Matrix, *, valid: bool) -> None:
        """Score a registration of the patient."""
        if len(self._targets_patient_mm):
            shown_mm = g.transform(volume_from_patient, self._targets_patient_mm)
            error_mm = float(np.linalg.norm(shown_mm - self._targets_volume_mm, axis=1).mean())
            self.target_errors_mm.append(error_mm)
            self._judge(error_mm, valid)

    def tool(self, shown: Matrix, true: Matrix, *, valid: bool) -> None:
        """Score a ``volume_from_tool`` by the error of its tip."""
        error_mm = float(np.linalg.norm(shown[:3, 3] - true[:3, 3]))
        self.tip_errors_mm.append(error_mm)
        self._judge(error_mm, valid)

    def carm(self, shown: Matrix, true: Matrix, *, valid: bool) -> None:
        """Score a ``volume_from_carm`` by the error of targets across its beam, which is what it is used for."""
        seen, expected = (g.transform(g.inverse(pose), self._targets_volume_mm)[:, :2] for pose in (shown, true))
        self._judge(float(np.linalg.norm(seen - expected, axis=1).mean()), valid)

    def report(self) -> TruthReport:
        """The figures so far."""
        return TruthReport(
            tre_mm=ErrorSpread.of(self.target_errors_mm),
            tip_error_mm=ErrorSpread.of(self.tip_errors_mm),
            wrong_while_valid=self.wrong_while_valid,
        )

    def _judge(self, error_mm: float, valid: bool) -> None:
        self.compared += 1
        self.wrong_while_valid += valid and error_mm > WRONG_MM


class Scorer:
    """Compares the node's output with the truth that the virtual room publishes.

    Args:
        scenario: of the virtual room.
        with_ct: False when the node reconstructs its volume from X-rays: the volume's frame is then the patient's.
    """

    def __init__(self, scenario: Scenario, with_ct: bool) -> None:
        self._scenario = scenario
        patient_from_ct = g.inverse(scenario.volume_from_patient)
        true = scenario.volume_from_patient if with_ct else np.eye(4)
        self._volume_from_ct = true @ patient_from_ct
        self._errors = Errors(true, g.transform(patient_from_ct, scenario.targets_mm))
        self._truth: OrderedDict[tuple[str, int], Matrix] = OrderedDict()
        self._pending: OrderedDict[tuple[str, int], tuple[Matrix, str]] = OrderedDict()
        self.frames = 0

    @contextmanager
    def listening(self, node: tuple[str, int], room: tuple[str, int]) -> Iterator[None]:
        """Listen to both in a thread while the block runs."""
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
        """Receive a message of the room; keeps the truth."""
        if not isinstance(message, Transform) or not message.device.startswith("Truth"):
            return
        if message.device == TRUTH_PATIENT:
            return
        key = (message.device.removeprefix("Truth"), message.timestamp_ns)
        self._remember(self._truth, key, self._volume_from_ct @ message.matrix)
        if key in self._pending:
            self._compare(key[0], *self._pending.pop(key), self._truth[key])

    def from_node(self, message: Message) -> None:
        """Receive a message of the node; scores its poses."""
        if not isinstance(message, Transform):
            return
        validity = message.metadata.get("Validity", "")
        if message.device == "CArmToVolume":
            self.frames += validity != "INVALID"
        if validity == "INVALID":
            return
        if message.device == "PatientToVolume":
            self._errors.patient(message.matrix, valid=validity == "VALID")
        elif message.device in ("CArmToVolume", f"{self._scenario.tool_name}ToVolume"):
            key = (message.device, message.timestamp_ns)
            if key in self._truth:
                self._compare(message.device, message.matrix, validity, self._truth[key])
            else:
                self._remember(self._pending, key, (message.matrix, validity))

    def report(self) -> TruthReport:
        """The figures so far."""
        return self._errors.report()

    def _compare(self, device: str, shown: Matrix, validity: str, true: Matrix) -> None:
        compare = self._errors.carm if device == "CArmToVolume" else self._errors.tool
        compare(shown, true, valid=validity == "VALID")

    def _remember(self, kept: OrderedDict[Any, Any], key: tuple[str, int], value: Any) -> None:
        kept[key] = value
        if len(kept) > _KEPT:
            kept.popitem(last=False)
