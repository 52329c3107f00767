"""CTs by what ``--ct`` and configurations call them; fetching one shows its progress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from navnode.commands.ui import messages

if TYPE_CHECKING:  # what reads CTs is loaded when there is one to read
    from navnode.types import Volume


def ct_path(name: str) -> Path:
    """``sample``, ``procedural`` or a path.

    Raises:
        ConfigError: there is no such file.
    """
    from navnode.simulation.sample_ct import resolve_ct

    return resolve_ct(name, messages)


def load_ct(name: str) -> Volume:
    """As :func:`ct_path`, read."""
    from navnode.simulation import sample_ct

    return sample_ct.load_ct(name, messages)
