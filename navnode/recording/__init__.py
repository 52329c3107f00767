"""Sessions in MCAP files: what came in, as it came."""

from navnode.recording.recorder import Recorder
from navnode.recording.recording import Recording

__all__ = ["Recorder", "Recording"]
