"""Errors, grouped by what the user must do about them."""

__all__ = [
    "CalibrationError",
    "ComputeError",
    "ConfigError",
    "DamagedError",
    "LocalError",
    "NavError",
    "PeerError",
    "RecordingError",
    "StoreError",
    "WireError",
]


class NavError(Exception):
    """Base of every error that navnode raises on purpose; its text is one line for the user."""


class ConfigError(NavError):
    """A configuration, argument or input file is wrong: stop and name the key or file."""


class CalibrationError(NavError):
    """A calibration artifact is missing, failed or belongs to another device: stop and name it."""


class WireError(NavError):
    """Base of everything that can go wrong on the wire."""


class PeerError(WireError):
    """The peer sent invalid data: close that connection, keep the others.

    ``offset``: byte of the message at which the fault lies, if known.
    """

    def __init__(self, problem: str, offset: int | None = None) -> None:
        super().__init__(problem if offset is None else f"{problem} (at byte {offset})")
        self.problem, self.offset = problem, offset


class LocalError(WireError):
    """This side tried to send something that cannot be sent: a bug here."""


class ComputeError(NavError):
    """A computation failed: drop the frame and mark everything that depends on it INVALID."""


class RecordingError(NavError):
    """A recording cannot be written or read."""


class DamagedError(RecordingError):
    """Bytes of a recording are missing or altered; everything before them is readable."""


class StoreError(NavError):
    """A store of files refuses, does not answer, or gave less than it has: see to it, and try again."""
