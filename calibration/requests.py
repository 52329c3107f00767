"""What routines are asked, and what is asked of calibrations that are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from navnode.config.fields import Address, Threads, address_option, argument, option
from navnode.errors import ConfigError
from navnode.files.placing import unit_mm

from . import distortion, exchange
from .lattice import Form

__all__ = [
    "AllRequest",
    "CArmRequest",
    "CheckRequest",
    "ExportRequest",
    "FlatFieldRequest",
    "FlexRequest",
    "HandEyeRequest",
    "ImportRequest",
    "PatientRequest",
    "PhantomRequest",
    "PivotRequest",
    "PlateRequest",
    "RoutineRequest",
    "ShowRequest",
    "SpinRequest",
    "TemporalRequest",
    "ToolRequest",
]

_MEASURED = "Measurement"
_OUT = "What is written"

_Poses = Annotated[Path, argument("tracker_from_tool: .npy (N, 4, 4) or CSV.", "POSES")]
_Tip = Annotated[tuple[float, float, float], option("The tip, tool frame, mm.", "X Y Z")]
_Pivot = Annotated[Path, option("Take the tip from this pivot calibration.", "PIVOT.json")]
_Points = Annotated[Path, option("label,x_mm,y_mm,z_mm", "CSV")]
_ValidDays = Annotated[float, option("Let it expire after this; 0: never.", panel=_OUT, ge=0)]
_Live = Annotated[
    str, option("Collect over OpenIGTLink, with guidance, until it is enough.", "HOST:PORT", panel=_MEASURED)
]
_Recording = Annotated[
    Path, option("Take poses from a recording (.mcap, or a folder of them) instead.", "SESSION", panel=_MEASURED)
]
_Device = option(
    "Use this device that is recorded or heard; for which option, where there are several.",
    "[OPTION=]NAME",
    panel=_MEASURED,
)


class RoutineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What every routine is asked beside its own."""

    gate: Annotated[
        tuple[str, ...], option("Set another limit; repeat for several.", "KEY=VALUE", panel=_MEASURED)
    ] = ()
    seed: Annotated[int, option("Random seed.", panel=_MEASURED)] = 0
    recording: _Recording | None = None
    device: Annotated[tuple[str, ...], _Device] = ()
    units: Annotated[
        tuple[str, ...],
        option(
            "Unit of the poses in files: m, cm, mm or um; of which option, where only one has it.",
            "[OPTION=]UNIT",
            panel=_MEASURED,
        ),
    ] = ()
    live: _Live | None = None
    seconds: Annotated[float, option("Collect no longer than this.", panel=_MEASURED, ge=1)] = 120.0
    out: Annotated[Path, option("Write the calibration, if it passed.", "ARTIFACT", panel=_OUT)] | None = None
    report: Annotated[Path, option("Write a page with plots.", "REPORT.html", panel=_OUT)] | None = None
    device_of: Annotated[str, option("Name the tool, C-arm or detector.", "NAME", flag="--of", panel=_OUT)] = ""
    mode: Annotated[str, option("Name the detector's mode.", "MODE", panel=_OUT)] = ""
    valid_days: _ValidDays | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other, or one cannot be read."""
        self.gates()
        self.devices()
        self.units_of()
        if self.address() is not None and self.recording is not None:
            raise ConfigError("give --live or --recording, not both")

    def gates(self) -> dict[str, float]:
        """KEY -> limit.

        Raises:
            ConfigError: one is not KEY=VALUE, or its value no number.
        """
        found = {}
        for text in self.gate:
            key, equals, value = text.partition("=")
            try:
                found[key] = float(value)
            except ValueError:
                equals = ""
            if not equals:
                raise ConfigError(f"--gate {text}: KEY=VALUE, the value a number")
        return found

    def address(self) -> Address | None:
        """Where it is collected."""
        return None if self.live is None else address_option(self.live, "--live")

    def units_of(self) -> dict[str, str]:
        """Option -> unit of its poses; '': of the others.

        Raises:
            ConfigError: one is not a unit of length.
        """
        found: dict[str, str] = {}
        for text in self.units:
            flag, _, unit = text.rpartition("=")
            unit_mm(unit, f"--units {text}")
            found[flag.lstrip("-")] = unit
        return found

    def devices(self) -> dict[str, str]:
        """Option -> device; '': for the only one.

        Raises:
            ConfigError: an option is named twice.
        """
        found: dict[str, str] = {}
        for text in self.device:
            flag, equals, name = text.rpartition("=")
            key = flag.lstrip("-") if equals else ""
            if key in found:
                named = ("POSES" if key == "poses" else f"--{key}") if key else "a device"
                raise ConfigError(f"--device {text}: {named} is named twice")
            found[key] = name
        return found


class PivotRequest(RoutineRequest, frozen=True, kw_only=True):
    """A tool's tip."""

    poses: _Poses | None = None
    reference: Annotated[Path, option("tracker_from_reference, same rows, if the divot may move.", "POSES")] | None = (
        None
    )
    no_reject: Annotated[bool, option("Keep every row, for comparison with others.")] = False


class SpinRequest(RoutineRequest, frozen=True, kw_only=True):
    """A tool's axis."""

    poses: _Poses | None = None
    tip: _Tip | None = None
    pivot: _Pivot | None = None


class CArmRequest(RoutineRequest, frozen=True, kw_only=True):
    """Source, detector and distortion."""

    phantom: Annotated[Path, option("navnode/phantom/1: its beads.", "PH.json")]
    views: Annotated[Path, option("Shots of the phantom; carm as its maker says.", "V.json")] | None = None
    nominal: (
        Annotated[Path, option("navnode/carm/1, as its maker says; for shots from elsewhere.", "C.json", flag="--carm")]
        | None
    ) = None
    distortion: Annotated[
        str, option(f"auto: the simplest that explains shots left out; or {', '.join(distortion.MODELS)}.")
    ] = "auto"
    plate: Annotated[Path, option("Correct shots by this first, from `calibrate plate`.", "PLATE.json")] | None = None
    per_shot: Annotated[
        bool, option("Also find distance and principal point of every shot by itself: what flex needs.")
    ] = False
    threads: Threads = 0


class PlateRequest(RoutineRequest, frozen=True, kw_only=True):
    """Distortion by angle."""

    spacing_mm: Annotated[float, option("Distance between the middles of two neighbouring holes.", "MM", ge=0.1)]
    lattice: Annotated[Form, option("How the holes are arranged.")] = "hexagonal"
    views: Annotated[Path, option("Pictures of the plate, each with angles_rad.", "V.json")] | None = None
    nominal: (
        Annotated[
            Path, option("navnode/carm/1, as its maker says; for pictures from elsewhere.", "C.json", flag="--carm")
        ]
        | None
    ) = None
    fixed: Annotated[bool, option("No angle changes the distortion: pictures need not carry angles.")] = False
    threads: Threads = 0


class HandEyeRequest(RoutineRequest, frozen=True, kw_only=True):
    """Where the marker on the C-arm is."""

    marker: Annotated[Path, option("tracker_from_marker.", "POSES")] | None = None
    xray: Annotated[Path, option("phantom_from_carm; or what `calibrate carm` wrote.", "POSES|V.json")] | None = None
    phantom_marker: Annotated[Path, option("tracker_from_phantom_marker, if the phantom moves.", "POSES")] | None = None
    phantom_marker_from_phantom: (
        Annotated[Path, option("Use this, if it is known; three rows are enough then.", "M.npy")] | None
    ) = None


class FlexRequest(RoutineRequest, frozen=True, kw_only=True):
    """How the C-arm bends."""

    views: Annotated[
        Path,
        option(
            "Shots of a fixed phantom, each with carm, volume_from_carm and angles_rad; or what "
            "`calibrate carm --per-shot` wrote.",
            "V.json",
        ),
    ]
    at: Annotated[Path, option("orbital_rad,angulation_rad where the geometry is wanted.", "ANGLES.csv")] | None = None


class PatientRequest(RoutineRequest, frozen=True, kw_only=True):
    """Where the patient is."""

    volume_points: _Points
    patient_points: Annotated[Path, option("label,x_mm,y_mm,z_mm in the patient marker's frame.", "CSV")] | None = None
    stylus: (
        Annotated[Path, option("tracker_from_stylus while the points are touched in their order, instead.", "POSES")]
        | None
    ) = None
    patient_marker: Annotated[Path, option("tracker_from_patient, same rows as --stylus.", "POSES")] | None = None
    tip: _Tip | None = None
    pivot: _Pivot | None = None
    surface: Annotated[Path, option("Points touched on the bone, patient frame.", "CSV")] | None = None
    mesh: Annotated[Path, option("The bone in the volume.", "M.stl")] | None = None
    mesh_units: Annotated[str, option("Unit of --mesh: m, cm, mm or um.", "UNIT")] = "mm"
    targets: Annotated[Path, option("Where the error matters.", "CSV")] | None = None
    fle_mm: Annotated[float, option("Localisation error of a point, rms, if it is known.")] | None = None


class PhantomRequest(RoutineRequest, frozen=True, kw_only=True):
    """Whether the whole chain is right."""

    targets: _Points
    measured: Annotated[Path, option("Measured places in the volume, by label.", "CSV")] | None = None
    stylus: Annotated[Path, option("tracker_from_stylus while the targets are touched.", "POSES")] | None = None
    patient_marker: Annotated[Path, option("tracker_from_patient, same rows.", "POSES")] | None = None
    tip: _Tip | None = None
    pivot: _Pivot | None = None
    volume_from_patient: Annotated[Path, option("The patient's registration.", "M.npy|PATIENT.json")] | None = None


class TemporalRequest(RoutineRequest, frozen=True, kw_only=True):
    """How much later images are stamped."""

    tracker: Annotated[Path, option("Poses with times, or timestamp_s,value.", "POSES|CSV")] | None = None
    signal: Annotated[Path, option("The image's motion: timestamp_s,value.", "CSV")] | None = None
    frames: Annotated[Path, option("Find motion in these pictures (N, H, W).", "S.npy")] | None = None
    frame_times: Annotated[Path, option("timestamp_s of every picture.", "CSV")] | None = None
    max_lag_s: Annotated[float, option("Search this far, both ways.")] = 0.5


class FlatFieldRequest(RoutineRequest, frozen=True, kw_only=True):
    """What the detector adds."""

    dark: Annotated[Path, option("(N, H, W) without X-rays, or a folder of PNG.", "D.npy")]
    flat: Annotated[Path, option("(N, H, W) with nothing in the beam, or a folder of PNG.", "F.npy")]
    saturation: Annotated[float, option("Count from which on a pixel is saturated.", ge=1)] | None = None


class ToolRequest(RoutineRequest, frozen=True, kw_only=True):
    """Where a marker's spheres are."""

    points: Annotated[Path, argument("frame,x_mm,y_mm,z_mm: unlabelled spheres, tool at rest.", "POINTS.csv")]


class AllRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a room needs."""

    config: Annotated[Path, argument("Configuration of the node.", "CONFIG.toml")]
    recording: Annotated[
        tuple[str, ...],
        option("Take a step from a session instead, and measure no others; repeat for several.", "STEP=SESSION"),
    ] = ()
    only: Annotated[tuple[str, ...], option("Measure this step, also if it is kept; repeat for several.", "STEP")] = ()
    skip: Annotated[tuple[str, ...], option("Leave this step out from now on; repeat for several.", "STEP")] = ()
    tool: Annotated[str, option("Touch points with this tool; default: the first.", "NAME")] = ""
    seconds: Annotated[float, option("Collect no longer than this in each step.", ge=1)] = 300.0
    yes: Annotated[bool, option("Do not ask: measure and keep all that passes.")] = False
    state: Annotated[bool, option("Only say what is there and what is lacking.")] = False
    report: Annotated[Path, option("Write a page for each step into this folder.", "DIR", panel=_OUT)] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where a recording is not named as it must be."""
        self.recordings()

    def recordings(self) -> dict[str, Path]:
        """Step -> its session.

        Raises:
            ConfigError: one is not STEP=SESSION.
        """
        found = {}
        for text in self.recording:
            name, equals, path = text.partition("=")
            if not (name and equals and path):
                raise ConfigError(f"--recording {text}: STEP=SESSION is expected, such as carm=shots.mcap")
            found[name] = Path(path)
        return found


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Another program's calibration file."""

    file: Annotated[Path, argument(f"Read are {exchange.READS}.", "FILE")]
    out: Annotated[Path, option("Write .json for a C-arm, .csv for points, .npy for a transform.", "FILE")] | None = (
        None
    )
    source: Annotated[str, option("Take the transform from here, if there are several.", "NAME", flag="--from")] = ""
    target: Annotated[str, option("Take the transform to here, if there are several.", "NAME", flag="--to")] = ""


class ExportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration for another program."""

    artifact: Annotated[Path, argument("A calibration.", "ARTIFACT")]
    out: Annotated[Path, option(f"Written are {exchange.WRITES}.", "FILE")]


class ShowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A calibration that is kept."""

    artifact: Annotated[Path, argument("A calibration.", "ARTIFACT")]


class CheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Whether calibrations may still be used."""

    paths: Annotated[tuple[Path, ...], argument("Calibrations.", "ARTIFACT...")]
    device_of: Annotated[str, option("Require this device.", "NAME", flag="--of")] = ""
    mode: Annotated[str, option("Require this detector mode.", "MODE")] = ""
