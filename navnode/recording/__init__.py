"""Sessions in MCAP files: what came in, as it came."""

from navnode.recording.reader import Recording
from navnode.recording.writer import Recorder

__all__ = ["Recorder", "Recording"]
