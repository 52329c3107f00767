"""Loads the node's configuration that ``--config`` names, and adds the recording that ``--record`` requests."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from navnode import config
from navnode.clock import now_ns
from navnode.config import Config
from navnode.errors import ConfigError
from navnode.files.whole import refuse_existing
from navnode.loop.calibrations import Calibrations

__all__ = ["load_calibrations", "load_configuration", "with_recording"]


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


def with_recording(loaded: Config, record: Path | None) -> Config:
    """The configuration with the recording that ``--record`` requests.

    Raises:
        ConfigError: the file exists, or its folder is not writable.
    """
    if record is None:
        return loaded
    refuse_existing(record)
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--record {record}: cannot create its folder ({error.strerror})") from error
    if not os.access(record.parent, os.W_OK):
        raise ConfigError(f"--record {record}: the folder is not writable")
    recording = msgspec.structs.replace(loaded.recording, file=str(record.absolute()))
    return msgspec.structs.replace(loaded, recording=recording)
