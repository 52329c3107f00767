"""Errors, by what the user must do about them."""


class NavError(Exception):
    """Base of every error navnode raises on purpose; its text is one line for the user."""


class ConfigError(NavError):
    """A configuration, argument or input file is wrong: stop, and say which key or file."""


class CalibrationError(NavError):
    """A calibration artifact is missing, failed or does not belong here: stop, and name it."""


class WireError(NavError):
    """Base of everything that can go wrong on the wire."""


class PeerError(WireError):
    """The other side sent something wrong: close that connection, keep the others.

    ``offset``: at which byte of the message, where that can be said.
    """

    def __init__(self, problem: str, offset: int | None = None) -> None:
        super().__init__(problem if offset is None else f"{problem} (at byte {offset})")
        self.problem, self.offset = problem, offset


class LocalError(WireError):
    """We were about to send something that cannot be sent: a bug on this side."""


class ComputeError(NavError):
    """A frame could not be computed: drop it and mark what depended on it INVALID."""


class RecordingError(NavError):
    """A recording cannot be written or read."""


class DamagedError(RecordingError):
    """Bytes of a recording are missing or were changed; what comes before can be read."""
