"""One call of a routine: its options, where its data come from, and what becomes of its answer."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import typer

from navnode.clock import now_ns
from navnode.commands.ui import Ui, messages
from navnode.errors import ConfigError
from navnode.files import artifacts, whole
from navnode.files.artifacts import CArmResult, FlatFieldResult

from .. import report
from ..collect import collect
from ..heard import Heard
from ..requests import RoutineRequest
from ..sources import Sources
from ..verdict import Calibration
from .rendering import show_calibration


class Call:
    """One call of a routine."""

    def __init__(self, request: RoutineRequest, ui: Ui) -> None:
        self._request, self._ui = request, ui
        self.gates = request.gates()
        self.sources = Sources(now_ns(), request.recording, request.address(), request.devices(), request.units_of())
        self.files = self.sources.files
        self.now_ns = self.sources.now_ns
        self.progress = ui.progress

    def collected(self, routine: Callable[[], Calibration[Any]]) -> Calibration[Any]:
        """The routine's answer; with ``--live`` after collecting what it needs."""
        sources = self.sources
        if sources.live is None:
            return routine()
        if not sources.devices:
            raise ConfigError("--live needs --device")

        def judge(heard: Heard, most_rows: int | None) -> Calibration[Any]:
            sources.hear(heard, most_rows)
            return routine()

        heard = collect(*sources.live, sources.devices, judge, seconds=self._request.seconds, terminal=messages)
        return judge(heard, None)

    def finish(self, found: Calibration[Any]) -> None:
        """Print the answer, write what passed, and end with 1 if it did not."""
        request = self._request
        if found.passed and request.out is not None:
            found = self._written(found, request.out)
        if request.report is not None:
            page = report.page(found, self.files.paths, device=request.device_of)
            whole.write_whole(request.report, page.encode())
        self._ui.show(found.document(), lambda _: show_calibration(found, request.out))
        if not found.passed:
            typer.echo(f"navnode: {found.reason}", err=True)
            raise typer.Exit(1)

    def _written(self, found: Calibration[Any], out: Path) -> Calibration[Any]:
        """Write an artifact; the answer, which may name it."""
        if isinstance(found.result, FlatFieldResult):  # its pictures are the artifact
            packed = io.BytesIO()
            np.savez(packed, allow_pickle=False, **found.arrays)
            whole.write_whole(out, packed.getvalue())
            return replace(found, result=msgspec.structs.replace(found.result, out=str(out)))
        request = self._request
        artifact = found.artifact(
            self.now_ns,
            device=request.device_of,
            mode=request.mode,
            days_valid=request.valid_days,
            inputs={str(path): artifacts.hashed(path) for path in self.files.paths},
        )
        artifacts.write(out, artifact)
        if isinstance(found.result, CArmResult):  # as other programs read it
            plain = msgspec.json.format(msgspec.json.encode(found.result.carm), indent=1) + b"\n"
            whole.write_whole(out.with_suffix(".carm.json"), plain)
        return found
