"""A node as its users start it: `navnode run`, in processes of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.drills.sockets.rigid import Matrix
from tests.drills.sockets.room import TOOLS
from tests.drills.sockets.truth import CARM_FROM_MARKER, MARKER_FROM_TIP, START_ERROR, VOLUME_FROM_PATIENT
from tests.drills.sockets.xrays import I0, Detector
from tests.patience import OutOfPatienceError


def configuration(
    ct: Path, detector: Detector, source_port: int, console_port: int, page_port: int | None, i0: float
) -> str:
    """TOML."""
    tools = "\n".join(
        f'[[tools]]\nname = "{name}"\ndevice = "{name}ToTracker"\nmarker_from_tooltip = {_rows(MARKER_FROM_TIP[name])}'
        for name in TOOLS
    )
    return f"""
[carm]
width_px = {detector.size_px}
height_px = {detector.size_px}
pixel_spacing_mm = [{detector.pixel_mm!r}, {detector.pixel_mm!r}]
source_to_detector_mm = {detector.source_to_detector_mm}
principal_point_px = [{detector.middle_px}, {detector.middle_px}]
source_to_isocentre_mm = {detector.source_to_isocentre_mm}
[volume]
ct = "{ct}"
[[sources]]
port = {source_port}
{tools}
[calibration]
carm_from_marker = {_rows(CARM_FROM_MARKER)}
[registration]
volume_from_patient_start = {_rows(START_ERROR @ VOLUME_FROM_PATIENT)}
i0 = {i0}
[reconstruction]
method = "fdk"
size = 32
spacing_mm = 8.0
[console]
port = {console_port}
[display]
enabled = {str(page_port is not None).lower()}
port = {page_port or 8080}
"""


def _rows(matrix: Matrix) -> list[list[float]]:
    return [[float(x) for x in row] for row in matrix]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Started:
    """A running node; :meth:`stop` ends it."""

    def __init__(
        self,
        folder: Path,
        ct: Path,
        detector: Detector,
        source_port: int,
        settings: str = "",
        i0: float = I0,
        page_port: int | None = None,
    ) -> None:
        self.port = free_port()
        config = folder / "node.toml"
        config.write_text(configuration(ct, detector, source_port, self.port, page_port, i0) + settings)
        self._log = folder / "node.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "navnode", "run", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "XDG_DATA_HOME": str(folder)},
            )

    def wait(self, timeout_s: float = 180.0) -> None:
        """Until consoles can connect."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.5).close()
            except OSError:
                assert self._process.poll() is None, self._log.read_text()[-2_000:]
                if time.monotonic() > deadline:
                    raise OutOfPatienceError(self._log.read_text()[-2_000:]) from None
                time.sleep(0.1)
            else:
                return

    def pid(self, name: str) -> int | None:
        """Process id of the node, or of its worker; None: there is none now."""
        for child in psutil.Process(self._process.pid).children():
            try:
                if child.cmdline()[3:5] == ["_process", name] and child.status() != psutil.STATUS_ZOMBIE:
                    return child.pid
            except psutil.Error:
                continue
        return None

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
