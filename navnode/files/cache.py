"""The folder that keeps downloaded, rendered and built data between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from navnode.errors import ConfigError

__all__ = ["cache_folder", "own_cache_folder"]


def cache_folder() -> Path:
    """This user's cache folder; it may not exist yet."""
    return Path(platformdirs.user_cache_dir("navnode"))


def own_cache_folder(name: str) -> Path:
    """A folder in the cache, created if missing.

    Raises:
        ConfigError: it cannot be created or written to.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot create the cache ({error.strerror}); set XDG_CACHE_HOME") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: cannot write to the cache; set XDG_CACHE_HOME")
    return folder
