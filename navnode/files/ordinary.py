"""Only ordinary files are read: a device never ends, and a pipe that nobody writes to never begins."""

from __future__ import annotations

import stat
from pathlib import Path

from navnode.errors import ConfigError

__all__ = ["refuse_special"]


def refuse_special(path: str | Path) -> None:
    """Make sure that a path is neither a device, a pipe nor a socket; links are followed, and it need not exist.

    Raises:
        ConfigError: it is one, or the path begins with ``-`` and would be an option to the next program.
    """
    if str(path).startswith("-"):
        raise ConfigError(f"{path}: begins with '-'; write ./{path}")
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(f"{path}: a device, pipe or socket, not a file")
