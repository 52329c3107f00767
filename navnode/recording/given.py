"""What ``--config`` of a command for sessions names, and ``--record`` of one that runs a node."""

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


def recorded(loaded: Config, record: Path | None) -> Config:
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
