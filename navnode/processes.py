"""What navnode's processes agree on: where they meet, how they say that they serve, and that they end together."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

READY = "ready"
_PR_SET_PDEATHSIG = 1


def worker_address(folder: Path) -> str:
    """Where the node waits for its reconstruction worker."""
    return f"ipc://{folder}/worker"


def output_address(folder: Path) -> str:
    """Where the node's outputs can be had."""
    return f"ipc://{folder}/outputs"


def say_ready(about: str) -> None:
    """Tell the supervisor that this process serves now."""
    print(f"{READY} {about}", flush=True)  # noqa: T201 - its standard output is the supervisor's pipe


def die_with(parent: int) -> None:
    """Make this process end when its supervisor does, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before we asked
            sys.exit(0)
