"""CTs by the names that ``--ct`` and configurations use, and rendered rooms; both with progress on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from navnode.commands.ui import Ui, say

if TYPE_CHECKING:  # modules that read CTs are loaded only when there is one to read
    from navnode.config import SimulatorSection, VolumeSection
    from navnode.simulation.audience import Audience
    from navnode.types import Volume


def ct_path(name: str) -> Path:
    """Path of a CT named ``sample``, ``procedural`` or by its own path; fetched or made if need be.

    Raises:
        ConfigError: there is no such file.
    """
    from navnode.simulation.sample_ct import resolve_ct

    with _terminal() as audience:
        return resolve_ct(name, audience)


def load_ct(wanted: VolumeSection) -> Volume:
    """Read the CT of :func:`ct_path`."""
    from navnode.simulation import sample_ct

    with _terminal() as audience:
        return sample_ct.load_ct(wanted, audience)


def rendered(settings: SimulatorSection, threads: int = 0) -> Path:
    """Folder of a room's rendered frames, see :func:`navnode.simulation.room.prepare`."""
    from navnode.simulation import room

    with _terminal() as audience:
        return room.prepare(settings, audience, threads)


@contextmanager
def _terminal() -> Iterator[Audience]:
    from navnode.simulation.audience import Audience

    with Ui(as_json=False) as ui:
        yield Audience(say, ui.counted(""))
