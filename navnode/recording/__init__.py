"""Sessions in MCAP files: every message as it arrived, every step of the loop and its outputs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from navnode.recording.recorder import Recorder
    from navnode.recording.recording import Recording

__all__ = ["Recorder", "Recording"]


def __getattr__(name: str) -> object:
    if name == "Recorder":  # loaded when it is used: a command that starts a node needs neither
        from navnode.recording.recorder import Recorder

        return Recorder
    if name == "Recording":
        from navnode.recording.recording import Recording

        return Recording
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
