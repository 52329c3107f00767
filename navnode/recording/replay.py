"""Executes replay requests: chooses mode, configuration, CT and reference, and writes outputs.

The engine is :mod:`navnode.recording.regression`; the commands run paced replays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
from msgspec import UNSET

from navnode import __version__
from navnode.config import Config, VolumeSection
from navnode.errors import ConfigError, DamagedError, RecordingError
from navnode.recording import compare as comparing
from navnode.recording import regression
from navnode.recording.compare import Comparison, Difference, RecordedOutput
from navnode.recording.container import Channel
from navnode.recording.edit import new_session
from navnode.recording.format import FORMAT, JSON
from navnode.recording.node_config import load_configuration
from navnode.recording.recording import Recording
from navnode.recording.regression import ReplayReport, ReplaySetup, Rerun
from navnode.recording.requests import Mode, ReplayRequest
from navnode.recording.writer import ContainerWriter
from navnode.types import Progress, Volume

__all__ = ["Progress", "mode_of", "raise_if_wrong", "replay"]

_STEPS_A_REPORT = 256
"""Number of steps between two reports of progress."""


def mode_of(request: ReplayRequest) -> Mode:
    """The mode of a replay: as requested; otherwise the reference's; otherwise paced, unless outputs are written.

    Raises:
        ConfigError: there is no reference to check against.
        RecordingError: the reference cannot be read, or its mode is unknown.
    """
    if request.rate is not None:
        return Mode.PACED
    if request.mode is not None:
        return request.mode
    reference = _reference(request)
    if reference is not None:
        return _mode_of(reference)
    writes = request.update_reference is not None or request.out is not None
    return Mode.LOCKSTEP if writes else Mode.PACED


def replay(
    request: ReplayRequest, mode: Mode, load_ct: Callable[[VolumeSection], Volume], progress: Progress
) -> ReplayReport:
    """Run a replay that is not paced; write its outputs and compare them with the reference, if requested.

    Args:
        load_ct: loads the CT that a configuration names.

    Raises:
        CalibrationError: a calibration of the request's configuration cannot be used.
        ConfigError: the CT, the reference or a configuration is missing; an output file exists already; or no output
            has a field that is named.
        RecordingError: the session cannot be replayed in this mode.
    """
    request.check_whole(mode)
    comparing.refuse_unknown(request.ignore, "--ignore")
    comparing.refuse_unknown(request.tolerances(), "--tolerance")
    recording, reference = Recording(request.session), _reference(request)
    with ExitStack() as stack:
        folder = stack.enter_context(regression.attachments_folder())
        config = regression.configuration(recording, load_configuration(request.config), folder)
        run = Rerun(recording, _setup(config, request.ct, load_ct), mode, threads=request.threads)
        outputs = _written(run, recording, _targets(request, recording, mode, stack), progress)
        comparison = None
        if reference is None:
            deque(outputs, maxlen=0)
        else:
            comparison = _compared(request, reference, mode, outputs)
        report = run.report()
    report = msgspec.structs.replace(report, out=None if request.out is None else str(request.out))
    if comparison is None or report.damage:  # outputs after the damage are missing anyway
        return report
    if comparison.first is not None:
        report = msgspec.structs.replace(report, picture=_picture(recording, config, comparison.first))
    return msgspec.structs.replace(report, comparison=comparison.report())


def raise_if_wrong(report: ReplayReport, session: Path) -> None:
    """Turn a failed replay into the error with which the command ends.

    Raises:
        DamagedError: the session is damaged.
        RecordingError: the outputs differ from the reference.
    """
    if report.damage:
        raise DamagedError(report.damage)
    if report.comparison is not UNSET and report.comparison.first is not None:
        first = report.comparison.first
        where = f"first at step {first.cause}, {first.topic}: {first.what}"
        raise RecordingError(f"{session}: differs from the reference; {where}")


def _setup(config: Config, ct: str | None, load_ct: Callable[[VolumeSection], Volume]) -> ReplaySetup:
    wanted = regression.volume_of(config, ct)
    return ReplaySetup(config, load_ct(wanted) if wanted.ct else None)


def _written(
    run: Rerun, recording: Recording, targets: list[ContainerWriter], progress: Progress
) -> Iterator[RecordedOutput]:
    """The outputs of a replay, which are also written."""
    length_ns = max(recording.end_ns - recording.start_ns, 1)
    for number, (step, outputs) in enumerate(run.steps()):
        for each in outputs:
            for writer in targets:
                writer.add(Channel(each.topic, JSON), (each.data,), each.time_ns, each.time_ns, each.cause)
        yield from outputs
        if number % _STEPS_A_REPORT == 0:
            progress((step.time_ns - recording.start_ns) / length_ns)


def _compared(
    request: ReplayRequest, reference: Recording, mode: Mode, outputs: Iterator[RecordedOutput]
) -> Comparison:
    between = _mode_of(reference) is not mode
    ignored = {*request.ignore, *(() if request.exact else comparing.IGNORED)}
    return comparing.compare(
        comparing.outputs_of(reference),
        outputs,
        by_cause=not between,
        tolerances={**({} if request.exact else comparing.TOLERANCES), **request.tolerances()},
        ignored=frozenset(ignored | comparing.NOT_BETWEEN_MODES if between else ignored),
        format=reference.format,
    )


def _mode_of(recording: Recording) -> Mode:
    """The mode in which a reference was made; a live session is what as-consumed repeats."""
    mode = recording.metadata.get("replay", Mode.AS_CONSUMED.value)
    if mode not in list(Mode):
        raise RecordingError(f"{recording.path}: replayed in mode {mode!r}, which this version does not know")
    return Mode(mode)


def _reference_path(session: Path) -> Path:
    return session.with_name(f"{session.stem}.reference{session.suffix}")


def _reference(request: ReplayRequest) -> Recording | None:
    """The session to compare with; None: the request names none."""
    if not request.check:
        return None if request.reference is None else Recording(request.reference)
    path = _reference_path(request.session)
    if not path.exists():
        raise ConfigError(f"{path}: there is no reference; --update-reference REASON makes one")
    return Recording(path)


def _targets(request: ReplayRequest, recording: Recording, mode: Mode, stack: ExitStack) -> list[ContainerWriter]:
    """Writers of the sessions that will hold the outputs."""
    wanted = [] if request.out is None else [(request.out, False)]
    wanted += [] if request.update_reference is None else [(_reference_path(recording.path), True)]
    writers = []
    for path, replace in wanted:
        writer = stack.enter_context(new_session(path, replace=replace))
        about = {"replay": mode.value, "of": recording.metadata.get("session", ""), "version": __version__}
        reason = request.update_reference or ""
        writer.describe("navnode", {"format": str(FORMAT), "part": "0", "reason": reason, **about})
        writers.append(writer)
    return writers


def _picture(recording: Recording, config: Config, first: Difference) -> str | None:
    """Write the X-ray at the first difference into the working directory; returns its path."""
    image = comparing.picture(recording, config.devices.xray, first.time_ns)
    if image is None:
        return None
    path = Path(f"{recording.path.stem}.difference.png")
    comparing.write_captioned(path, image, f"step {first.cause} {first.topic}: {first.what}")
    return str(path)
