"""navnode: a real-time intraoperative navigation node. Research use only, not a medical device."""

__all__ = ["__version__"]

__version__ = "0.1.0"
