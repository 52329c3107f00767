"""Secret keys are for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from navnode.errors import ConfigError

__all__ = ["refuse_shared"]


def refuse_shared(key: Path) -> None:
    """Make sure that nobody but its owner can read a secret key.

    Raises:
        ConfigError: others can.
    """
    if os.name == "posix" and key.stat().st_mode & 0o077:
        raise ConfigError(f"{key}: others can read this secret key; try: chmod 600 {key}")
