"""Tool definitions of NDI; read only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from navnode.errors import ConfigError

from .contents import Exchanged

__all__ = ["read"]

_ROM_COUNT, _ROM_MARKERS, _ROM_MOST, _ROM_BYTES = 28, 72, 20, 752


def read(path: Path) -> Exchanged:
    """Read the sphere positions of an NDI tool definition (little endian; count at byte 28, markers from byte 72).

    Raises:
        ConfigError: the file is not a tool definition, or damaged.
    """
    content = path.read_bytes()
    if len(content) < _ROM_MARKERS or content[:3] != b"NDI" or len(content) > 4 * _ROM_BYTES:
        raise ConfigError(f"{path}: not an NDI tool definition")
    if int.from_bytes(content[4:6], "little") != sum(content[6:]) & 0xFFFF:
        raise ConfigError(f"{path}: damaged (wrong checksum)")
    count = content[_ROM_COUNT]
    if not 0 < count <= _ROM_MOST or _ROM_MARKERS + 12 * count > len(content):
        raise ConfigError(f"{path}: {count} markers, 1 to {_ROM_MOST} are possible")
    markers = np.frombuffer(content, "<f4", 3 * count, _ROM_MARKERS).reshape(-1, 3).astype(np.float64)
    if not np.isfinite(markers).all() or np.abs(markers).max() > 1e4:
        raise ConfigError(f"{path}: damaged (impossible marker positions)")
    return Exchanged(points_mm={str(n): at for n, at in enumerate(markers)})
