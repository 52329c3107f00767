"""navnode: a real-time intraoperative navigation node. Research use only, not a medical device."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from navnode.recording.session import Session

__all__ = ["Session", "__version__"]

# OpenCV decodes an image of any size that its head states; 8192 x 8192 is far more than a detector has. It looks here
# once, when it is imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Session":  # loaded when it is used: everything else would wait for it
        from navnode.recording.session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
