"""Where fetched, rendered and built data is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from navnode.errors import ConfigError


def cache_folder() -> Path:
    """The folder of this user; it need not be there."""
    return Path(platformdirs.user_cache_dir("navnode"))


def own_cache_folder(name: str) -> Path:
    """A folder in the cache, made if need be.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: the cache cannot be made there ({error.strerror}); set XDG_CACHE_HOME") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: the cache cannot be written to; set XDG_CACHE_HOME")
    return folder
