"""One call of a routine: its options, where its data come from, and what becomes of its answer."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from calibration import report
from calibration.collect import collect
from calibration.commands.rendering import show_calibration
from calibration.heard import Heard
from calibration.sources import Sources
from calibration.verdict import Calibration
from navnode.clock import now_ns
from navnode.commands.ui import print_json
from navnode.errors import ConfigError
from navnode.files import artifacts, whole
from navnode.files.artifacts import CArmResult, FlatFieldResult
from navnode.security.address import address_option


@dataclass(frozen=True)
class Options:
    """What every routine is told beside its own; as given."""

    gate: list[str] | None
    seed: int
    recording: Path | None
    device: list[str] | None
    live: str | None
    seconds: float
    out: Path | None
    report: Path | None
    device_of: str
    mode: str
    valid_days: float | None
    as_json: bool

    def gates(self) -> dict[str, float]:
        """KEY -> limit.

        Raises:
            ConfigError: no number, or no KEY=VALUE.
        """
        found = {}
        for text in self.gate or []:
            key, equals, value = text.partition("=")
            try:
                found[key] = float(value)
            except ValueError:
                equals = ""
            if not equals:
                raise ConfigError(f"--gate {text}: KEY=VALUE, the value a number")
        return found

    def sources(self) -> Sources:
        """Where the data come from.

        Raises:
            ConfigError: the options contradict each other, or one is none.
        """
        live = None if self.live is None else address_option(self.live, "--live")
        if live is not None and self.recording is not None:
            raise ConfigError("give --live or --recording, not both")
        return Sources(now_ns(), self.recording, live, self._devices())

    def _devices(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for text in self.device or []:
            option, equals, name = text.rpartition("=")
            key = option.lstrip("-") if equals else ""
            if key in found:
                named = ("POSES" if key == "poses" else f"--{key}") if key else "a device"
                raise ConfigError(f"--device {text}: {named} is named twice")
            found[key] = name
        return found


class Call:
    """One call of a routine."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.gates = options.gates()
        self.seed = options.seed
        self.sources = options.sources()
        self.files = self.sources.files
        self.now_ns = self.sources.now_ns

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

        terminal = Console(stderr=True)
        heard = collect(*sources.live, sources.devices, judge, seconds=self._options.seconds, terminal=terminal)
        return judge(heard, None)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Callable[[float], None]]:
        """A bar on the terminal, where there is one."""
        terminal = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda share: bar.update(task, completed=share)

    def finish(self, found: Calibration[Any]) -> None:
        """Print the answer, write what passed, and end with 1 if it did not."""
        options = self._options
        if found.passed and options.out is not None:
            found = self._written(found, options.out)
        if options.report is not None:
            page = report.page(found, self.files.paths, of=options.device_of)
            whole.write_whole(options.report, page.encode())
        if options.as_json:
            print_json(found.document())
        else:
            show_calibration(found, options.out)
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
        options = self._options
        artifact = found.artifact(
            self.now_ns,
            device=options.device_of,
            mode=options.mode,
            days_valid=options.valid_days,
            inputs={str(path): artifacts.hashed(path) for path in self.files.paths},
        )
        artifacts.write(out, artifact)
        if isinstance(found.result, CArmResult):  # as other programs read it
            plain = msgspec.json.format(msgspec.json.encode(found.result.carm), indent=1) + b"\n"
            whole.write_whole(out.with_suffix(".carm.json"), plain)
        return found
