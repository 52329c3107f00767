"""Takes a C-arm's video output in through OpenCV: capture cards, network streams, files."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from navnode.clock import now_ns
from navnode.config import VideoSource
from navnode.errors import ComputeError
from navnode.gateways.outlet import Outlet
from navnode.gateways.pictures import Converter
from navnode.igtl import Image
from navnode.igtl.conventions import VIDEO_KEY
from navnode.xray.held import Held

__all__ = ["VideoIntake", "opened"]

log = logging.getLogger(__name__)

_STANDARDS = {
    "pal": (720, 576, 25.0),
    "ntsc": (720, 480, 30_000 / 1001),
    "720p": (1280, 720, 60.0),
    "1080p": (1920, 1080, 30.0),
}
"""Width, height, pictures/s (ITU-R BT.601, SMPTE 296M, 274M)."""
_AGAIN_S = 1.0
_OPEN_MS, _READ_MS = 5_000, 3_000
_MOVES_S = 12.0
"""Longer than any call of a driver that works."""
_STOP_S = 5.0
_DEFAULT_HZ = 25.0
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_STREAM_OPTIONS = "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay"
_OLDEST_NS = 1_000_000_000
_MOST_RATE_HZ = 240.0


def opened(source: VideoSource) -> Any:
    """An OpenCV capture of a source, with what was asked of it; not open where that failed."""
    device = source.device
    if source.is_file:
        return cv2.VideoCapture(device, cv2.CAP_FFMPEG)
    if source.is_stream:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
        with _stream_options():  # with one thread a decoder holds no pictures back
            return cv2.VideoCapture(device, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])
    capture = cv2.VideoCapture(int(device) if device.isdigit() else device, cv2.CAP_V4L2)
    if capture.isOpened():
        width, height, rate_hz = _STANDARDS.get(source.standard, (0, 0, 0.0))
        asked = {
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*source.fourcc) if source.fourcc else 0,
            cv2.CAP_PROP_FRAME_WIDTH: source.width_px or width,
            cv2.CAP_PROP_FRAME_HEIGHT: source.height_px or height,
            cv2.CAP_PROP_FPS: source.rate_hz or rate_hz,
            cv2.CAP_PROP_BUFFERSIZE: 1,  # a queue of pictures is delay
        }
        for key, value in asked.items():
            if value:
                capture.set(key, value)
    return capture


@contextlib.contextmanager
def _stream_options() -> Iterator[None]:
    """What OpenCV tells FFmpeg, which it takes from the environment alone: files would yield nothing with it."""
    own = os.environ.get(_OPTIONS)
    os.environ.setdefault(_OPTIONS, _STREAM_OPTIONS)
    try:
        yield
    finally:
        if own is None:
            os.environ.pop(_OPTIONS, None)


class VideoIntake:
    """Reads pictures in a thread of its own, and opens the source again when it ends or vanishes."""

    def __init__(self, source: VideoSource) -> None:
        self._source = source
        self._converter = Converter(source)
        self._held = [Held(source.held_noise) for _ in range(2)]
        """Of each field: the two of one picture are exposures of their own."""
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._moved_s = 0.0
        self._size: tuple[int, ...] = ()

    def start(self, outlet: Outlet) -> None:
        """Begin to read."""
        self._moved_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(outlet,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; a driver that hangs is left behind."""
        self._ends.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def lives(self) -> bool:
        """Whether the thread moved within the longest call of a driver that works."""
        return self._thread is not None and self._thread.is_alive() and time.monotonic() - self._moved_s < _MOVES_S

    def _run(self, outlet: Outlet) -> None:
        shown = self._source.shown
        while not self._ends.is_set():
            self._moved_s = time.monotonic()
            capture = opened(self._source)
            try:
                if capture.isOpened():
                    self._read(capture, outlet)
                    ended = "the file ended" if self._source.is_file else "it sends no pictures any more"
                    why = f"{shown}: {ended}; opening it again"
                else:
                    why = f"{shown}: cannot be opened (not there, in use, or not video); trying again"
            finally:
                capture.release()
            if not self._ends.is_set():
                outlet.tell(why)
            self._ends.wait(_AGAIN_S)

    def _read(self, capture: Any, outlet: Outlet) -> None:
        """Hand pictures on until there are no more."""
        source = self._source
        rate_hz = _rate_hz(capture, source)
        began_s, number = time.monotonic(), 0
        while not self._ends.is_set():
            if source.is_file:  # a file is played at its own pace
                self._ends.wait(max(0.0, began_s + number / rate_hz - time.monotonic()))
            if not capture.grab():
                return
            captured_ns = _captured_ns(capture)
            self._moved_s = time.monotonic()
            number += 1
            done, picture = capture.retrieve()
            if not done or picture is None:
                return
            self._take(np.asarray(picture), captured_ns - round(source.delay_ms * 1e6), rate_hz, outlet)

    def _take(self, picture: Any, exposed_ns: int, rate_hz: float, outlet: Outlet) -> None:
        if picture.shape[:2] != self._size:
            self._size = picture.shape[:2]
            log.warning("%s: pictures of %d x %d pixels, %.4g a second", self._source.shown, *self._size[::-1], rate_hz)
        try:
            greys = self._converter.greys(picture)
        except ComputeError as error:
            outlet.refused += 1
            outlet.tell(f"{self._source.shown}: {error}")
            return
        for number, grey in enumerate(greys, 1):
            xray = self._converter.bare(grey)  # a clock beside it goes on while it is held
            if self._held[number - 1].repeats(xray):
                outlet.held += 1
                continue
            outlet.show(
                Image(
                    device=outlet.device,
                    timestamp_ns=exposed_ns - round((len(greys) - number) / len(greys) / rate_hz * 1e9),
                    voxels=self._converter.counts(grey)[None],
                    ras_from_index=np.eye(4),
                    metadata={"Modality": "RF", VIDEO_KEY: "true"},
                )
            )
        outlet.tell("")


def _rate_hz(capture: Any, source: VideoSource) -> float:
    said = capture.get(cv2.CAP_PROP_FPS)
    said = said if np.isfinite(said) and 0 < said <= _MOST_RATE_HZ else _DEFAULT_HZ
    return float((source.rate_hz if source.is_file else 0) or said)


def _captured_ns(capture: Any) -> int:
    """When the picture just grabbed was captured: as V4L2's driver says by the monotonic clock, else now."""
    now = now_ns()
    if capture.getBackendName() != "V4L2":
        return now
    age_ns = time.monotonic_ns() - round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
    return now - age_ns if 0 <= age_ns < _OLDEST_NS else now
