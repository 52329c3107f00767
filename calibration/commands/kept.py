"""``navnode calibrate show`` and ``check``: calibrations that are kept."""

from __future__ import annotations

import msgspec
import typer

from navnode.clock import now_ns
from navnode.commands.ui import Ui, standard_output
from navnode.files import artifacts

from ..kept import why_not_usable
from ..requests import CheckRequest, ShowRequest
from .rendering import show_artifact


class CheckedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a calibration may be used."""

    path: str
    usable: bool
    reason: str
    """Why not."""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """Calibrations, checked anew."""

    artifacts: list[CheckedArtifact]


def show(request: ShowRequest, ui: Ui) -> None:
    """Print a calibration."""
    ui.show(artifacts.read(request.artifact), show_artifact)


def check(request: CheckRequest, ui: Ui) -> None:
    """Verify calibrations anew: verdict, age, device, and whether the files that they rest on are still the same."""
    reasons = {
        str(path): why_not_usable(path, now_ns(), device=request.device_of, mode=request.mode) for path in request.paths
    }
    found = [CheckedArtifact(path=path, usable=not why, reason=why) for path, why in reasons.items()]
    ui.show(CheckReport(artifacts=found), _draw)
    if any(reasons.values()):
        raise typer.Exit(1)


def _draw(report: CheckReport) -> None:
    for each in report.artifacts:
        standard_output().print(f"{each.path}: {each.reason or 'fine'}", markup=False, highlight=False)
