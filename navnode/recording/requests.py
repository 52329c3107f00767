"""Requests of the commands that record, replay, inspect, repair, cut, merge, export, import and archive sessions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from navnode.config.fields import Address, Threads, address_option, argument, option, switches
from navnode.errors import ConfigError
from navnode.recording.policy import Policy
from navnode.recording.recorder import MAX_FILE_BYTES

__all__ = [
    "ArchiveRequest",
    "CutRequest",
    "ExportRequest",
    "ImportRequest",
    "InspectRequest",
    "MergeRequest",
    "Mode",
    "RecordRequest",
    "RecoverRequest",
    "ReplayRequest",
]

_NewFile = Annotated[Path, option("Write this file, which must not exist.", "FILE.mcap")]
_StartS = Annotated[float, option("Start this many seconds into the session.", flag="--start", ge=0)]
_DurationS = Annotated[float, option("Stop after this many seconds; default: at the end.", flag="--duration", ge=0)]
_NodeConfig = Annotated[
    Path, option("Configuration of the node that will replay it; stored in the session.", "NODE.toml")
]
_ONE_MODE = "give one of --lockstep, --as-consumed and --rate"


class Mode(StrEnum):
    """How a session is replayed."""

    LOCKSTEP = "lockstep"
    AS_CONSUMED = "as-consumed"
    PACED = "paced"


class _OfSession(msgspec.Struct, frozen=True, kw_only=True):
    """A request that reads a session."""

    session: Annotated[Path, argument("A recorded session; its further parts are read, too.", "FILE.mcap")]

    def __post_init__(self) -> None:
        """Raise ConfigError if the session does not exist."""
        if not self.session.is_file():
            raise ConfigError(
                f"{self.session}: {'a folder, not a session' if self.session.is_dir() else 'there is no such file'}"
            )


class RecordRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Record what a server sends."""

    out: _NewFile
    source: Annotated[str, option("Listen to this OpenIGTLink server.", "HOST:PORT")] = "127.0.0.1:18944"
    config: _NodeConfig | None = None
    seconds: Annotated[float, option("Stop after this many seconds.", ge=0.1)] | None = None
    max_file_mb: Annotated[int, option("Start another file, FILE.001.mcap and so on, after this many MB.", ge=16)] = (
        MAX_FILE_BYTES >> 20
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if the source is not an address."""
        self.address()

    def address(self) -> Address:
        """Address of the server."""
        return address_option(self.source, "--source")


class ReplayRequest(_OfSession, frozen=True, kw_only=True):
    """Replay a session."""

    mode: (
        Annotated[
            Mode,
            switches(
                {
                    Mode.LOCKSTEP: "Replay as fast as possible, with reproducible outputs.",
                    Mode.AS_CONSUMED: "Repeat exactly the steps that the node took, in their order.",
                },
                _ONE_MODE,
            ),
        ]
        | None
    ) = None
    """None: see :func:`navnode.recording.replay.mode_of`."""
    rate: Annotated[float, option("Playback speed (default 1).")] | None = None
    loop: Annotated[bool, option("Start over at the end.")] = False
    start_s: _StartS = 0.0
    duration_s: _DurationS | None = None
    topics: Annotated[
        tuple[str, ...],
        option(
            "Replay only these topics, such as 'in/TRANSFORM/*'; may be given several times.",
            "PATTERN",
            flag="--topic",
        ),
    ] = ()
    paused: Annotated[bool, option("Start paused, until the first key.")] = False
    original_stamps: Annotated[bool, option("Keep the recorded time stamps; default: shift them to now.")] = False
    serve: Annotated[str, option("Only serve the session over OpenIGTLink, without a node.", "[HOST:]PORT")] | None = (
        None
    )
    config: Annotated[Path, option("Use this configuration instead of the recorded one.", "NODE.toml")] | None = None
    ct: Annotated[str, option("Path of the CT, if it has moved.", "FILE")] | None = None
    reference: Annotated[Path, option("Compare with the outputs in this session.", "OLD.mcap")] | None = None
    check: Annotated[bool, option("Compare with the reference beside the session.")] = False
    update_reference: (
        Annotated[str, option("Write the outputs as the reference beside the session, with this reason.", "REASON")]
        | None
    ) = None
    out: Annotated[Path, option("Write the outputs, for a later --reference.", "NEW.mcap")] | None = None
    tolerance: Annotated[
        tuple[str, ...],
        option("Allow this field to differ by this much; may be given several times.", "FIELD=VALUE"),
    ] = ()
    ignore: Annotated[tuple[str, ...], option("Ignore this field; may be given several times.", "FIELD")] = ()
    exact: Annotated[bool, option("Compare bit by bit, without tolerances.")] = False
    seconds: Annotated[float, option("Stop a paced replay after this many seconds.", ge=1)] | None = None
    headless: Annotated[bool, option("Paced: do not serve the page.")] = False
    port: Annotated[int, option("Paced: port for consoles.", ge=1, le=65535)] | None = None
    page_port: Annotated[int, option("Paced: port of the page.", ge=1, le=65535)] | None = None
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Raise ConfigError if options contradict each other, or one is invalid."""
        super().__post_init__()
        if self.rate is not None and not 0 < self.rate <= 100:
            raise ConfigError(f"--rate {self.rate:g}: must be over 0 and at most 100")
        if self.rate is not None and self.mode not in (None, Mode.PACED):
            raise ConfigError(_ONE_MODE)
        if self.check and self.reference is not None:
            raise ConfigError("give --check or --reference, not both")
        if self.update_reference is not None and not self.update_reference.strip():
            raise ConfigError("--update-reference needs a reason")
        self.served_at()
        self.tolerances()

    def served_at(self) -> Address | None:
        """Address at which the session is served without a node; None: a node replays it.

        Raises:
            ConfigError: ``serve`` is not an address.
        """
        if self.serve is None:
            return None
        return address_option(self.serve if ":" in self.serve else f"127.0.0.1:{self.serve}", "--serve")

    def tolerances(self) -> dict[str, float]:
        """Requested tolerances: field -> largest allowed difference.

        Raises:
            ConfigError: one cannot be read, or is negative.
        """
        tolerances = {}
        for each in self.tolerance:
            name, _, text = each.partition("=")
            try:
                tolerances[name] = float(text)
            except ValueError:
                name = ""
            if not name or not 0 <= tolerances[name] < float("inf"):
                raise ConfigError(f"--tolerance {each}: must be FIELD=VALUE, and not negative")
        return tolerances

    def check_whole(self, mode: Mode) -> None:
        """Check that the request has no options of paced replays.

        Raises:
            ConfigError: it has one.
        """
        paced = (self.loop, self.serve is not None, self.start_s, self.duration_s is not None, self.topics, self.paused)
        if any(paced):
            raise ConfigError(
                f"--{mode.value} replays the whole session: --start, --duration, --topic, --loop, --serve and --paused "
                "are for paced replays (see navnode cut)"
            )


class InspectRequest(_OfSession, frozen=True, kw_only=True):
    """Inspect a session."""

    report: Annotated[Path, option("Write plots, timeline and tables as a page.", "PAGE.html")] | None = None
    trace: Annotated[Path, option("Write the stages of every frame, for ui.perfetto.dev.", "T.json")] | None = None


class RecoverRequest(_OfSession, frozen=True, kw_only=True):
    """Repair a session."""

    out: _NewFile


class CutRequest(_OfSession, frozen=True, kw_only=True):
    """Cut a piece of a session."""

    out: _NewFile
    start_s: _StartS = 0.0
    duration_s: _DurationS | None = None
    topics: Annotated[
        tuple[str, ...],
        option(
            "Keep only these topics, such as 'in/*'; may be given several times. Default: all.",
            "PATTERN",
            flag="--topic",
        ),
    ] = ()
    deidentify: Annotated[
        bool,
        option(
            "Leave out texts, names of files and machines, and metadata that are not numbers of X-ray or tracker. "
            "Times, and text burned into images, stay."
        ),
    ] = False


class MergeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Merge several sessions into one."""

    sessions: Annotated[tuple[Path, ...], argument("Sessions recorded with the same clock.", "FILE.mcap...")]
    out: _NewFile

    def __post_init__(self) -> None:
        """Raise ConfigError if there is nothing to merge."""
        if len(self.sessions) < 2:
            raise ConfigError("merge needs two sessions or more")


class ExportRequest(_OfSession, frozen=True, kw_only=True):
    """Export a session to other programs."""

    out: Annotated[
        Path,
        option(
            "The file extension selects the format: .igs.mha, .mha, .nrrd: sequence of PLUS and Slicer; "
            ".mrml: scene of Slicer, its files beside it; .mcap: Foxglove; .json: Perfetto; "
            "none: a folder of CSV, PNG and NIfTI.",
            "PATH",
        ),
    ]
    device: Annotated[str, option("Export the images of this device, if there are several.", "NAME")] = ""
    start_s: _StartS = 0.0
    duration_s: _DurationS | None = None
    absolute: Annotated[
        bool, option("Export times since 1970; default: since the start of the session.", flag="--absolute-times")
    ] = False


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Import an image sequence as a session."""

    sequence: Annotated[Path, argument("A sequence of PLUS or Slicer: .mha, .igs.mha or .nrrd.", "FILE")]
    out: _NewFile
    config: _NodeConfig | None = None
    device: Annotated[str, option("Device name of the images in the session.", "NAME")] = "XRay"


class ArchiveRequest(Policy, frozen=True, kw_only=True):
    """Archive sessions; options of the policy come before those of its file."""

    sessions: Annotated[tuple[Path, ...], argument("Sessions, or folders of them.", "SESSION...")]
    to: Annotated[str, option("Archive them here: s3://BUCKET/PREFIX, another URL of fsspec, or a folder.", "URL")]
    policy: Annotated[Path, option("Take only sessions that this file allows.", "POLICY.toml")] | None = None
    dry_run: Annotated[bool, option("Only say what would be done; nothing is sent.")] = False
