"""What benchmarks and evaluations are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from navnode.config.fields import Threads, argument, option
from navnode.errors import ConfigError

__all__ = [
    "AllRequest",
    "ArchiveBenchRequest",
    "BodiesRequest",
    "CapacityRequest",
    "EvaluateRequest",
    "GpuRequest",
    "IgtlRequest",
    "LoopRequest",
    "ModelsRequest",
    "ProjectorRequest",
    "RealRequest",
    "ReconstructionRequest",
    "RecordingRequest",
    "RegistrationRequest",
    "TrustRequest",
]


class EvaluateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Many sessions, replayed and scored."""

    archive: Annotated[
        tuple[str, ...], argument("Sessions, folders of them, or URLs, such as s3://BUCKET/PREFIX.", "ARCHIVE...")
    ]
    out: Annotated[Path, option("Write rows and report here; what is already there is not done again.", "DIR")] = Path(
        "evaluation"
    )
    config: Annotated[Path, option("Use this configuration instead of the recorded ones.", "NODE.toml")] | None = None
    against: Annotated[Path, option("Also use this configuration, and compare.", "NODE.toml")] | None = None
    baseline: Annotated[Path, option("Compare with the rows of another version.", "ROWS.jsonl")] | None = None
    ct: Annotated[str, option("Path of the CT of all sessions, if it has moved.", "FILE")] = ""
    scheduler: Annotated[
        str, option("Use this Dask scheduler, tcp://HOST:PORT; default: processes here.", "ADDRESS")
    ] = ""
    workers: Annotated[int, option("Start this many processes here.", ge=1)] = 1
    session_gb: Annotated[float, option("Fetch sessions up to this size from a store.", ge=0)] = 16.0
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other."""
        if self.against is not None and self.baseline is not None:
            raise ConfigError("give --against or --baseline, not both")


class ArchiveBenchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Archives of many short sessions."""

    session: Annotated[Path, argument("Make them of the start of this session.", "FILE.mcap")]
    counts: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=100_000)], ...],
        option("Measure so many sessions; repeat. Default: 100, 300, 1000.", flag="--count"),
    ] = ()
    seconds: Annotated[float, option("Length of every session.", ge=0.1)] = 0.5
    to: Annotated[str, option("Put the archives below this URL; default: a temporary folder.", "URL")] = ""
    light: Annotated[bool, option("Score without CT and volumes: what is left is store, files and scheduler.")] = False
    workers: Annotated[int, option("Score in this many processes.", ge=1)] = 2

    def __post_init__(self) -> None:
        """Raise ConfigError where there is no such session."""
        if not self.session.is_file():
            raise ConfigError(f"{self.session}: there is no such session")


class _OfCts(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is measured on CTs."""

    ct: Annotated[
        tuple[str, ...], option("Make X-rays of this CT; repeat. Default: the sample and a drawn one.", "FILE")
    ] = ()


class _OfTheLoop(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is measured in the running loop."""

    size: Annotated[int, option("Detector pixels: 256, 512 or 1024.")] = 512
    rate: Annotated[float, option("X-ray frames per second.", ge=1, le=60)] = 30.0
    tools: Annotated[int, option("Track this many tools.", ge=1, le=16)] = 1
    tracker: Annotated[float, option("Poses of every marker per second.", ge=20, le=500)] = 100.0
    consoles: Annotated[int, option("Let this many consoles read all that the node sends.", ge=0, le=90)] = 0


class AllRequest(msgspec.Struct, frozen=True, kw_only=True):
    """All parts of the node, in a few minutes."""

    part: Annotated[
        tuple[str, ...],
        option("Measure this part; repeat. Default: projector, wire, registration, reconstruction, loop."),
    ] = ()
    runs: Annotated[int, option("Repeat each measurement this often.", ge=1, le=100)] = 5
    history: Annotated[Path, option("Add a line to this file.", "HISTORY.jsonl")] | None = None
    against: (
        Annotated[Path, option("Fail if a ratio to a peer is a fifth lower than in these runs.", "HISTORY.jsonl")]
        | None
    ) = None
    ct: Annotated[str, option("Register and reconstruct this CT: a file, sample or procedural.", "CT")] = "procedural"
    loop_s: Annotated[float, option("Run the loop for this long, each time.", ge=2)] = 10.0
    threads: Threads = 2


class IgtlRequest(msgspec.Struct, frozen=True, kw_only=True):
    """OpenIGTLink over loopback."""

    seconds: Annotated[float, option("Take this long for each measurement.", ge=0.2)] = 3.0
    peer: Annotated[Path, option("Use this C++ peer; default: what `make peers` made.", "PROGRAM")] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where there is no such peer."""
        if self.peer is not None and not self.peer.exists():
            raise ConfigError(f"--peer {self.peer}: there is no such program")


class ProjectorRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Projections and their derivatives."""

    repeats: Annotated[int, option("Repeat each measurement this often.", ge=1)] = 7
    threads: Threads = 2
    sizes: Annotated[
        bool, option("Measure instead how times grow with volumes, detectors and threads, and on full-size CTs.")
    ] = False


class RegistrationRequest(_OfCts, frozen=True, kw_only=True):
    """Registration of X-rays with known poses."""

    cases: Annotated[int, option("X-rays of every CT.", ge=2)] = 20
    out: Annotated[Path, option("Write a report with overlays and error plots.", "REPORT.html")] | None = None
    seed: Annotated[int, option("Random seed.")] = 0
    threads: Threads = 2


class BodiesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Bones that moved since CT."""

    labels: Annotated[Path, argument("Label map of the CT.", "LABELS")]
    ct: Annotated[Path, option("The CT.", "FILE")]
    label: tuple[Annotated[int, option("Move this label; repeat. Default: every bone.", ge=1)], ...] = ()
    cases: Annotated[int, option("X-ray pairs.", ge=1)] = 10
    seed: Annotated[int, option("Random seed.")] = 0
    threads: Threads = 2


class RealRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Bones in real X-rays."""

    folder: Annotated[Path, argument("Folder with views_*.json, BONE.nii.gz and reference_poses.json.", "DIR")]
    bone: tuple[Annotated[str, option("Register this bone; repeat. Default: radius and ulna.")], ...] = ()
    starts: Annotated[int, option("Starts nearby, of every bone and instant.", ge=1)] = 50
    seed: Annotated[int, option("Random seed.")] = 0
    threads: Threads = 2


class ReconstructionRequest(_OfCts, frozen=True, kw_only=True):
    """Volumes from a few X-rays, by every method."""

    patients: Annotated[Path, option("Measure on the held-out patients of this folder.", "DIR")] | None = None
    per_group: Annotated[int, option("Measure at most this many of each of these.", ge=1)] = 8
    views: tuple[Annotated[int, option("Use this many views; repeat. Default: 2, 4, 8, 16.", ge=2, le=64)], ...] = ()
    model: Annotated[Path, option("Use networks of your own, from `navnode train`.", "DIR")] | None = None
    peers: Annotated[bool, option("Also measure RTK's methods, which take minutes.", flag="--peers/--no-peers")] = True
    out: Annotated[Path, option("Write tables and pictures, or (.png) pictures.", "REPORT.html")] | None = None
    seed: Annotated[int, option("Random seed.")] = 0
    threads: Threads = 2


class ModelsRequest(_OfCts, frozen=True, kw_only=True):
    """Models of limbs from two ordinary X-rays with a jig."""

    patients: Annotated[Path, option("Measure on the held-out limbs of this folder.", "DIR")] | None = None
    most: Annotated[int, option("Measure at most this many of them.", ge=1)] = 8
    rounds: Annotated[int, option("Measure every limb so often, each time in another room.", ge=1, le=100)] = 1
    out: Annotated[Path, option("Keep pictures, jigs and models in this new folder.", "DIR")] | None = None
    rtk: Annotated[bool, option("Render CTs by RTK, which takes a minute each.", flag="--rtk/--no-rtk")] = False
    open: Annotated[bool, option("Open the first model's page in the browser.", flag="--open/--no-open")] = False
    seed: Annotated[int, option("Random seed.")] = 0
    threads: Threads = 2

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other."""
        if self.open and self.out is None:
            raise ConfigError("--open needs --out: nothing else stays to be opened")


class TrustRequest(_OfCts, frozen=True, kw_only=True):
    """X-rays and starts that must not end in VALID and wrong."""

    traps: Annotated[int, option("Set this many traps, those of earlier runs included.", ge=9)] = 90
    out: Annotated[Path, option("Keep rows here; the next run goes on with them.", "ROWS.jsonl")] | None = None
    threads: Threads = 2


class GpuRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that needs an NVIDIA GPU."""

    pack: Annotated[Path, option("Also train on this pack from `navnode train-pack`.", "FILE")] | None = None
    train_s: Annotated[float, option("Train for this many seconds.", ge=10)] = 60.0
    out: Annotated[Path, option("Also write the JSON document here.", "REPORT.json")] | None = None


class LoopRequest(_OfTheLoop, frozen=True, kw_only=True):
    """The live loop beside the virtual operating room."""

    seconds: Annotated[float, option("Run for this long.", ge=2)] = 30.0


class CapacityRequest(msgspec.Struct, frozen=True, kw_only=True):
    """How many rooms and consoles a machine serves."""

    rooms: Annotated[tuple[int, ...], option("Simulate this many rooms; repeat for more numbers.", "N")] = (1, 4)
    consoles: Annotated[tuple[int, ...], option("Simulate this many consoles of each room; likewise.", "N")] = (
        0,
        8,
        50,
    )
    cores: Annotated[tuple[int, ...], option("Simulate this many cores; likewise.", "N")] = (2, 8, 16)
    seconds: Annotated[float, option("Length of each live run.", ge=2)] = 15.0

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers that no machine has."""
        least = {"rooms": 1, "consoles": 0, "cores": 1}
        for name, most in (("rooms", 16), ("consoles", 90), ("cores", 128)):
            if not all(least[name] <= number <= most for number in getattr(self, name)):
                raise ConfigError(f"--{name}: give numbers from {least[name]} to {most}")


class RecordingRequest(_OfTheLoop, frozen=True, kw_only=True):
    """What recording costs, and what a kill leaves."""

    size: Annotated[int, option("Detector pixels: 256, 512 or 1024.")] = 1024
    tools: Annotated[int, option("Track this many tools.", ge=1, le=16)] = 8
    minutes: Annotated[float, option("Length of each run of the loop; 0: none.", ge=0)] = 0.5
    pairs: Annotated[int, option("Runs with and without recording, alternating.", ge=1)] = 1
    kills: Annotated[int, option("Kill a recording this often.", ge=0)] = 20
    folder: Annotated[Path, option("Record into this folder.", "DIR")] | None = None
