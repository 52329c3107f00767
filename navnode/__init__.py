"""navnode: a real-time intraoperative navigation node. Research use only, not a medical device."""

import os

__all__ = ["__version__"]

# OpenCV decodes an image of any size that its head states; 8192 x 8192 is far more than a detector has. It looks here
# once, when it is imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))

__version__ = "0.1.0"
