"""What is asked of sessions: to be recorded, replayed, looked into, repaired, cut, merged and exchanged."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from navnode.config.fields import Address, Threads, address_option, argument, option, switches
from navnode.errors import ConfigError
from navnode.recording.recorder import MAX_FILE_BYTES

_NewFile = Annotated[Path, option("Write this file, which must not exist.", "FILE.mcap")]
_StartS = Annotated[float, option("Start this many seconds into the session.", flag="--start", ge=0)]
_DurationS = Annotated[float, option("Stop after this many seconds; default: at the end.", flag="--duration", ge=0)]
_NodeConfig = Annotated[
    Path, option("Configuration of the node that will replay it; stored in the session.", "NODE.toml")
]
_ONE_MODE = "give one of --lockstep, --as-consumed and --rate"


class Mode(StrEnum):
    """How a session is run again."""

    LOCKSTEP = "lockstep"
    AS_CONSUMED = "as-consumed"
    PACED = "paced"


class _OfSession(msgspec.Struct, frozen=True, kw_only=True):
    """Something of a session that is there."""

    session: Annotated[Path, argument("A recorded session; further parts are found.", "FILE.mcap")]

    def __post_init__(self) -> None:
        """Raise ConfigError where it is not."""
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
    max_file_mb: Annotated[int, option("Begin a further file, FILE.001.mcap and so on, after this much.", ge=16)] = (
        MAX_FILE_BYTES >> 20
    )

    def __post_init__(self) -> None:
        """Raise ConfigError if the source is not an address."""
        self.address()

    def address(self) -> Address:
        """Of the server."""
        return address_option(self.source, "--source")


class ReplayRequest(_OfSession, frozen=True, kw_only=True):
    """Run a session again."""

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
    """None: at its pace, or as what it is compared with came about; see :func:`navnode.recording.replay.mode_of`."""
    rate: Annotated[float, option("Playback speed (default 1).")] | None = None
    loop: Annotated[bool, option("Begin again at the end.")] = False
    start_s: _StartS = 0.0
    duration_s: _DurationS | None = None
    topics: Annotated[
        tuple[str, ...], option("Replay only these, such as 'in/TRANSFORM/*'; repeat.", "PATTERN", flag="--topic")
    ] = ()
    paused: Annotated[bool, option("Wait for the first key.")] = False
    original_stamps: Annotated[bool, option("Keep the recorded time stamps; default: as if it happened now.")] = False
    serve: Annotated[str, option("Only serve the session over OpenIGTLink, without a node.", "[HOST:]PORT")] | None = (
        None
    )
    config: Annotated[Path, option("Use this configuration instead of the recorded one.", "NODE.toml")] | None = None
    ct: Annotated[str, option("Path of the CT, if it has moved.", "FILE")] | None = None
    reference: Annotated[Path, option("Compare with the outputs in this session.", "OLD.mcap")] | None = None
    check: Annotated[bool, option("Compare with the reference that is kept beside the session.")] = False
    update_reference: (
        Annotated[str, option("Keep the outputs as the reference beside the session, and the reason.", "REASON")] | None
    ) = None
    out: Annotated[Path, option("Write the outputs, for a later --reference.", "NEW.mcap")] | None = None
    tolerance: Annotated[tuple[str, ...], option("Let this field differ by so much; repeat.", "FIELD=VALUE")] = ()
    ignore: Annotated[tuple[str, ...], option("Ignore this field; may be given several times.", "FIELD")] = ()
    exact: Annotated[bool, option("Compare bit by bit, without tolerances.")] = False
    seconds: Annotated[float, option("Stop a paced replay after this many seconds.", ge=1)] | None = None
    headless: Annotated[bool, option("Paced: do not serve the page.")] = False
    port: Annotated[int, option("Paced: port for consoles.", ge=1, le=65535)] | None = None
    page_port: Annotated[int, option("Paced: port of the page.", ge=1, le=65535)] | None = None
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other, or one cannot be read."""
        super().__post_init__()
        if self.rate is not None and not 0 < self.rate <= 100:
            raise ConfigError(f"--rate {self.rate:g}: over 0 and at most 100")
        if self.rate is not None and self.mode not in (None, Mode.PACED):
            raise ConfigError(_ONE_MODE)
        if self.check and self.reference is not None:
            raise ConfigError("give --check or --reference, not both")
        if self.update_reference is not None and not self.update_reference.strip():
            raise ConfigError("--update-reference needs a reason")
        self.served_at()
        self.tolerances()

    def served_at(self) -> Address | None:
        """Where it is only served; on this machine, if there is a port alone."""
        if self.serve is None:
            return None
        return address_option(self.serve if ":" in self.serve else f"127.0.0.1:{self.serve}", "--serve")

    def tolerances(self) -> dict[str, float]:
        """Field -> by how much it may differ, as given."""
        found = {}
        for each in self.tolerance:
            name, _, text = each.partition("=")
            try:
                found[name] = float(text)
            except ValueError:
                name = ""
            if not name or not 0 <= found[name] < float("inf"):
                raise ConfigError(f"--tolerance {each}: FIELD=VALUE, and not negative")
        return found

    def check_whole(self, mode: Mode) -> None:
        """Make sure that nothing is asked for that only a paced replay does.

        Raises:
            ConfigError: something is.
        """
        paced = (self.loop, self.serve is not None, self.start_s, self.duration_s is not None, self.topics, self.paused)
        if any(paced):
            raise ConfigError(
                f"--{mode.value} takes the whole session: --start, --duration, --topic, --loop, --serve and --paused "
                "are for a replay at its pace (see navnode cut)"
            )


class InspectRequest(_OfSession, frozen=True, kw_only=True):
    """What is in a session."""

    report: Annotated[Path, option("Write plots, timeline and tables as a page.", "PAGE.html")] | None = None
    trace: Annotated[Path, option("Write where frames' time went, for ui.perfetto.dev.", "T.json")] | None = None


class RecoverRequest(_OfSession, frozen=True, kw_only=True):
    """Repair a session."""

    out: _NewFile


class CutRequest(_OfSession, frozen=True, kw_only=True):
    """A piece of a session."""

    out: _NewFile
    start_s: _StartS = 0.0
    duration_s: _DurationS | None = None
    topics: Annotated[
        tuple[str, ...], option("Keep only these, such as 'in/*'; repeat. Default: all.", "PATTERN", flag="--topic")
    ] = ()
    deidentify: Annotated[
        bool,
        option(
            "Leave out texts, names of files and machines, and metadata that are not numbers of X-ray or tracker. "
            "Times, and what is written into pictures, stay."
        ),
    ] = False


class MergeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Several sessions as one."""

    sessions: Annotated[tuple[Path, ...], argument("Sessions that were recorded with one clock.", "FILE.mcap...")]
    out: _NewFile

    def __post_init__(self) -> None:
        """Raise ConfigError where there is nothing to merge."""
        if len(self.sessions) < 2:
            raise ConfigError("merge needs two sessions or more")


class ExportRequest(_OfSession, frozen=True, kw_only=True):
    """A session for other programs."""

    out: Annotated[
        Path,
        option(
            "The file extension selects the format: .igs.mha, .mha, .nrrd: sequence of PLUS and Slicer; "
            ".mcap: Foxglove; .json: Perfetto; none: a folder of CSV, PNG and NIfTI.",
            "PATH",
        ),
    ]
    device: Annotated[str, option("Export the pictures of this device, if there are several.", "NAME")] = ""
    start_s: _StartS = 0.0
    duration_s: _DurationS | None = None
    absolute: Annotated[
        bool, option("Keep times as they were; default: from the beginning of the session.", flag="--absolute-times")
    ] = False


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An image sequence as a session."""

    sequence: Annotated[Path, argument(".mha, .igs.mha or .nrrd of PLUS or Slicer.", "FILE")]
    out: _NewFile
    config: _NodeConfig | None = None
    device: Annotated[str, option("Give the pictures this device name.", "NAME")] = "XRay"
