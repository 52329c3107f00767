"""Loads the node's configuration that ``--config`` of a command for sessions names."""

from __future__ import annotations

from pathlib import Path

from navnode import config
from navnode.clock import now_ns
from navnode.config import Config
from navnode.loop.calibrations import Calibrations

__all__ = ["load_calibrations", "load_configuration"]


def load_calibrations(path: Path | None) -> Calibrations | None:
    """Load a node's configuration file with its calibrations; None stays None.

    Raises:
        CalibrationError: a calibration cannot be used.
        ConfigError: the file cannot be used.
    """
    return None if path is None else Calibrations.load(config.load(path), now_ns())


def load_configuration(path: Path | None) -> Config | None:
    """Load the configuration alone, as :func:`load_calibrations`."""
    node = load_calibrations(path)
    return None if node is None else node.config
