"""CTs by the names that ``--ct`` and configurations use, and rendered rooms; both with progress on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from navnode.commands.ui import Ui, say

if TYPE_CHECKING:  # modules that read CTs are loaded only when there is one to read
    from navnode.config import SimulatorSection, VolumeSection
    from navnode.simulation.audience import Audience
    from navnode.types import Volume

Watch = Callable[[int, int, str], None]
"""Receives the number done, the total, and what is being done."""


def ct_path(name: str, watch: Watch | None = None) -> Path:
    """Path of a CT named ``sample``, ``procedural`` or by its own path; fetched or made if need be.

    Args:
        watch: also told of the progress.

    Raises:
        ConfigError: there is no such file.
    """
    from navnode.simulation.sample_ct import resolve_ct

    with _terminal(watch) as audience:
        return resolve_ct(name, audience)


def load_ct(wanted: VolumeSection) -> Volume:
    """Read the CT of :func:`ct_path`."""
    from navnode.simulation import sample_ct

    with _terminal() as audience:
        return sample_ct.load_ct(wanted, audience)


def rendered(settings: SimulatorSection, threads: int = 0, watch: Watch | None = None) -> Path:
    """Folder of a room's rendered frames, see :func:`navnode.simulation.room.prepare`.

    Args:
        watch: also told of the progress.
    """
    from navnode.simulation import room

    with _terminal(watch) as audience:
        return room.prepare(settings, audience, threads)


@contextmanager
def _terminal(watch: Watch | None = None) -> Iterator[Audience]:
    from navnode.simulation.audience import Audience

    with Ui(as_json=False) as ui:
        show = ui.counted("")

        def counted(done: int, total: int, what: str) -> None:
            show(done, total, what)
            if watch is not None:
                watch(done, total, what)

        yield Audience(say, counted)
