"""The request for a virtual operating room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from navnode import config
from navnode.config import SimulatorSection
from navnode.config.fields import Address, Ct, Threads, address_option, option

__all__ = ["SimulateRequest"]

_SCENES = (
    "operation; or a calibration scene, in a room with errors, which waits for a client: pivot, spin, beads, sweep, "
    "points, targets; or several (beads,sweep), or all, each for the next client."
)
_References = Annotated[Path, option("Write phantom, planned points, targets and the nominal C-arm here.", "DIR")]


class SimulateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Serve a virtual operating room."""

    port: Annotated[int, option("Port to serve on.", ge=1, le=65535)] = 18945
    ct: Ct | None = None
    size: Annotated[int, option("Detector pixels: 256, 512 or 1024.")] = 512
    rate: Annotated[float, option("X-ray frames per second.", ge=1, le=60)] = 15.0
    seed: Annotated[int, option("Random seed.", ge=0)] = 0
    seconds: Annotated[float, option("Stop after this many seconds.", ge=1)] | None = None
    push: (
        Annotated[str, option("Send X-rays to this DICOM store (CARM1 to NAVNODE), not over OpenIGTLink.", "HOST:PORT")]
        | None
    ) = None
    errors: Annotated[bool, option("Simulate hardware that deviates from its data sheet.")] = False
    scene: Annotated[str, option(_SCENES)] = "operation"
    repeat: Annotated[bool, option("Play a calibration scene again and again.")] = False
    references: _References | None = None
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where an address cannot be read."""
        self.store()

    def store(self) -> Address | None:
        """Where X-rays are sent by DICOM."""
        return None if self.push is None else address_option(self.push, "--push")

    def settings(self) -> SimulatorSection:
        """The room's settings.

        Raises:
            ConfigError: the simulator has no detector of this size.
        """
        return config.convert(
            {
                "port": self.port,
                "ct": self.ct or "sample",
                "size_px": self.size,
                "frame_rate_hz": self.rate,
                "seed": self.seed,
                "errors": self.errors,
            },
            SimulatorSection,
            "arguments",
        )
