"""A loop fed from the scenario: no sockets, threads or images."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable

import numpy as np

from navnode import config
from navnode import geometry as g
from navnode.loop.ingest import Ingest
from navnode.loop.pipeline import Pipeline
from navnode.loop.runner import Runner
from navnode.simulation.scenario import CARM_DEVICE, CARM_FROM_MARKER, MARKER_FROM_TOOLTIP, PATIENT_DEVICE, Scenario
from navnode.types import (
    Frame,
    Registration,
    RegistrationDone,
    RegistrationRequest,
    SourceState,
    Status,
    Tick,
    TrackedPose,
    Validity,
    Volume,
    invalid,
)

T0 = 1_700_000_000_000_000_000
SCENARIO = Scenario(isocentre_mm=np.array([0.0, -40.0, 10.0]), targets_mm=np.zeros((1, 3)))
SOURCE = "127.0.0.1:18945"
CT = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4), "ct")
NOISE = np.array([5e-5] * 3 + [0.02] * 3)
"""Of a tracker, 1-sigma (rad, mm): a marker that is measured never stands still to the last bit."""
COVARIANCE = np.diag(np.array([0.0003, 0.0003, 0.0002, 0.05, 0.05, 0.5]) ** 2)


def rows(matrix: np.ndarray) -> list[list[float]]:
    return [[float(x) for x in row] for row in matrix]


def configuration(ct: str = "ct", **more) -> config.Config:
    data = {
        "carm": {
            "width_px": 32,
            "height_px": 32,
            "pixel_spacing_mm": [9.0, 9.0],
            "source_to_detector_mm": 1020.0,
            "principal_point_px": [15.5, 15.5],
        },
        "volume": {"ct": ct},
        "sources": [{"port": 18945}],
        "tools": [{"name": "Drill", "device": "DrillToTracker", "marker_from_tooltip": rows(MARKER_FROM_TOOLTIP)}],
        "calibration": {"carm_from_marker": rows(CARM_FROM_MARKER)},
        **more,
    }
    return config.parse(data, "test")


class Theatre:
    """Feeds a pipeline from the scenario at 100 poses and 10 frames a second, registering as told."""

    def __init__(self, ct: bool = True, **more) -> None:
        told = configuration("ct" if ct else "", **more)
        self.pipeline = Pipeline(told, CT if ct else None)
        self._runner = Runner(
            self.pipeline,
            Ingest(told),
            register=lambda request, volume: RegistrationDone(
                request, self.register(request), self.now_ns, self.see(request)
            ),
            ask_worker=lambda request: None,
            now_ns=lambda: self.now_ns,
            record=lambda step: self.outputs.extend(step.outputs),
        )
        self.outputs: list[object] = []
        self.time_s = 0.0
        self.scenario: Scenario = SCENARIO
        self.register = self.truly
        self.see = lambda request: ()
        self.hidden: set[str] = set()
        self.xray = True
        self.xray_clock_ns = self.tracker_clock_ns = 0
        self.xray_delay_ns = 0
        self.poses_every, self.poses_after, self.frames_every = 1, 0, 10
        """Hundredths of a second."""
        self._sent: deque[Frame] = deque()
        self.exposure_ns: int | None = 5_000_000
        self.moved_patient_marker = self.moved_carm_marker = np.eye(4)
        self.now_from_before = np.eye(4)
        """Of the tracker's frame, after somebody knocked against its camera."""
        self._frames = self._images = 0
        self.noise = NOISE
        self._random = np.random.default_rng(0)
        self.feed(SourceState(SOURCE, True, "", T0))

    def truly(self, request: RegistrationRequest) -> Registration:
        return self.registered(self.scenario.volume_from_carm(self.exposed_s(request)))

    def exposed_s(self, request: RegistrationRequest) -> float:
        """By the scenario's time, as the frame's stamp says."""
        return (request.frame.timestamp_ns - self.xray_clock_ns - T0) / 1e9

    def registered(self, volume_from_carm: np.ndarray) -> Registration:
        """A perfect registration."""
        return Registration(volume_from_carm, Validity(Status.VALID), 0.02, 0.98, COVARIANCE, 700.0, 3, 1.0)

    def nothing(self, request: RegistrationRequest) -> Registration:
        verdict = invalid("image and volume do not match")
        return Registration(np.eye(4), verdict, 1.0, 0.1, np.eye(6) * 1e6, 700.0, 3, 1.0)

    def off(self, request: RegistrationRequest) -> Registration:
        """Looks perfect, and is 15 mm beside the truth: a vertebra too far."""
        right = self.truly(request)
        beside = right.volume_from_carm @ g.rigid(None, (0.0, 15.0, 0.0))
        return dataclasses.replace(right, volume_from_carm=beside)

    @property
    def now_ns(self) -> int:
        return T0 + round(self.time_s * 1e9)

    def image(self) -> np.ndarray:
        """Not blank, and never the same."""
        self._images += 1
        return (100 + np.arange(1024).reshape(32, 32) % 97 + self._images % 100).astype(np.uint16)

    def measured(self, pose: np.ndarray) -> np.ndarray:
        """As a tracker measures it."""
        return self.now_from_before @ pose @ g.exp(self._random.normal(0, 1, 6) * self.noise)

    def feed(self, message) -> list[object]:
        return list(self._runner.feed(message))

    def run(self, seconds: float) -> list[object]:
        """Go on for a while; what came out."""
        before = len(self.outputs)
        for _ in range(round(seconds * 100)):
            self.time_s = round(self.time_s + 0.01, 6)
            stamp = self.now_ns
            for device in (PATIENT_DEVICE, CARM_DEVICE, "DrillToTracker"):
                if device not in self.hidden and (round(self.time_s * 100) - self.poses_after) % self.poses_every == 0:
                    pose = self.scenario.tracker_from_marker(device, self.time_s)
                    if device == PATIENT_DEVICE:
                        pose = pose @ self.moved_patient_marker
                    if device == CARM_DEVICE:
                        pose = pose @ self.moved_carm_marker
                    pose = self.measured(pose)
                    self.feed(TrackedPose(device, pose, stamp + self.tracker_clock_ns, stamp))
            if self.xray and round(self.time_s * 100) % self.frames_every == 0:
                self._frames += 1
                frame = Frame(self.image(), stamp + self.xray_clock_ns, stamp + self.xray_delay_ns, self._frames)
                self._sent.append(dataclasses.replace(frame, exposure_ns=self.exposure_ns))
            while self._sent and self._sent[0].received_ns <= stamp:
                self.feed(self._sent.popleft())
            if round(self.time_s * 100) % 2 == 0:
                self.feed(Tick(stamp))
        return self.outputs[before:]


def of(kind: type, outputs: Iterable[object]) -> list:
    return [output for output in outputs if isinstance(output, kind)]
