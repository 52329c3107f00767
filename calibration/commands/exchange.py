"""``navnode calibrate import`` and ``export``: other programs' files."""

from __future__ import annotations

from navnode.clock import now_ns
from navnode.commands.ui import Ui, say
from navnode.errors import CalibrationError
from navnode.files import artifacts

from .. import exchange
from ..requests import ExportRequest, ImportRequest
from .rendering import show_exchanged


def import_(request: ImportRequest, ui: Ui) -> None:
    """What another program's calibration file says, in our words: RAS, millimetres, to_from_from."""
    found = exchange.read(request.file)
    if request.out is not None:
        exchange.write_imported(found, request.out, request.source, request.target)
    ui.show(found.document(), lambda _: show_exchanged(found))


def export(request: ExportRequest, ui: Ui) -> None:
    """A calibration in another program's format; a PLUS device set that is there is changed, not replaced."""
    found = artifacts.read(request.artifact)
    if problem := artifacts.wrong(found, now_ns()):
        raise CalibrationError(f"{request.artifact}: {problem}")
    exchange.write(found, request.out)
    say(f"written to {request.out}")
