"""CTs by what ``--ct`` and configurations call them, and rooms: fetching and rendering show their progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from navnode.commands.ui import Ui, say

if TYPE_CHECKING:  # what reads CTs is loaded when there is one to read
    from navnode.config import SimulatorSection
    from navnode.simulation.audience import Audience
    from navnode.types import Volume


def ct_path(name: str) -> Path:
    """``sample``, ``procedural`` or a path.

    Raises:
        ConfigError: there is no such file.
    """
    from navnode.simulation.sample_ct import resolve_ct

    with _terminal() as audience:
        return resolve_ct(name, audience)


def load_ct(name: str) -> Volume:
    """As :func:`ct_path`, read."""
    from navnode.simulation import sample_ct

    with _terminal() as audience:
        return sample_ct.load_ct(name, audience)


def rendered(settings: SimulatorSection, threads: int = 0) -> Path:
    """A room's frames, see :func:`navnode.simulation.room.prepare`."""
    from navnode.simulation import room

    with _terminal() as audience:
        return room.prepare(settings, audience, threads)


@contextmanager
def _terminal() -> Iterator[Audience]:
    from navnode.simulation.audience import Audience

    with Ui(as_json=False) as ui:
        yield Audience(say, ui.counted(""))
