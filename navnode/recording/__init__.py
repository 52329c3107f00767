"""Sessions in MCAP files: every message as it arrived, every step of the loop and its outputs."""

from navnode.recording.recorder import Recorder
from navnode.recording.recording import Recording

__all__ = ["Recorder", "Recording"]
