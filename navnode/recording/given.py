"""What ``--config`` of a command for sessions names."""

from __future__ import annotations

from pathlib import Path

from navnode import config
from navnode.clock import now_ns
from navnode.config import Config
from navnode.loop.calibrations import Calibrations


def node_of(path: Path | None) -> Calibrations | None:
    """A node's configuration with its calibrations, of a file; None: no file is given.

    Raises:
        CalibrationError: a calibration may not be used.
        ConfigError: the file cannot be used.
    """
    return None if path is None else Calibrations.load(config.load(path), now_ns())


def configuration_of(path: Path | None) -> Config | None:
    """As :func:`node_of`, the configuration alone."""
    node = node_of(path)
    return None if node is None else node.config
