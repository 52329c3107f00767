"""The values that flow through the node. Frozen; arrays inside them are not to be written to.

Frames, axes and units are those of docs/frames.md: millimetres, radians, RAS, integer nanoseconds;
``a_from_b`` takes points in frame ``b`` to frame ``a``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "CArm",
    "CArmPose",
    "CommandResult",
    "Dose",
    "Effort",
    "FloatArray",
    "Frame",
    "GRID_SIZE",
    "GRID_SIZES",
    "GRID_SPACINGS_MM",
    "GRID_SPACING_MM",
    "Grid",
    "Input",
    "LatencyFigures",
    "Matrix",
    "Mesh",
    "NodeState",
    "Operation",
    "OperatorCommand",
    "Output",
    "PatientPose",
    "ReconstructionRequest",
    "RecordingState",
    "RegisteredFrame",
    "Registration",
    "RegistrationDone",
    "RegistrationRequest",
    "Rejected",
    "SourceState",
    "Status",
    "SurfaceReady",
    "SurfaceRequest",
    "Tick",
    "ToolPose",
    "TrackedPose",
    "Validity",
    "View",
    "Volume",
    "VolumeReady",
    "VolumeTimes",
    "VolumeUpdate",
    "WorkerAnswer",
    "WorkerRequest",
    "WorkerState",
    "invalid",
]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


class Status(StrEnum):
    """May an output be trusted?"""

    VALID = "VALID"
    DEGRADED = "DEGRADED"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Validity:
    """What every output says about itself."""

    status: Status
    reason: str = ""
    """Empty when VALID; otherwise one sentence for the person at the screen."""
    source_time_ns: int = 0
    """When the newest measurement behind the output was made, source clock."""
    age_ns: int = 0
    """How old that measurement was when the output was made."""

    @property
    def usable(self) -> bool:
        """Whether the value may be used at all: it is not INVALID."""
        return self.status is not Status.INVALID


def invalid(reason: str, source_time_ns: int = 0, age_ns: int = 0) -> Validity:
    """The validity of a value that must not be used."""
    return Validity(Status.INVALID, reason, source_time_ns, age_ns)


# --- geometry and images -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CArm:
    """An X-ray source and its flat detector; the ``carm`` frame of docs/frames.md."""

    width_px: int
    height_px: int
    pixel_spacing_mm: tuple[float, float]
    """(along u, along v)"""
    source_to_detector_mm: float
    principal_point_px: tuple[float, float]
    """Where the principal ray meets the detector, (u, v); pixel centres are integers."""

    def binned(self, factor: int) -> CArm:
        """The same C-arm with ``factor`` x ``factor`` pixels averaged into one."""
        u, v = self.principal_point_px
        return CArm(
            self.width_px // factor,
            self.height_px // factor,
            (self.pixel_spacing_mm[0] * factor, self.pixel_spacing_mm[1] * factor),
            self.source_to_detector_mm,
            ((u - (factor - 1) / 2) / factor, (v - (factor - 1) / 2) / factor),
        )


@dataclass(frozen=True, slots=True)
class Volume:
    """A CT or reconstruction."""

    voxels: FloatArray
    """HU, (k, j, i) = (slowest, ..., fastest)."""
    volume_from_index: Matrix
    """4x4: voxel (i, j, k, 1) -> RAS mm. The voxel's centre is at integer indices."""
    name: str = ""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (i, j, k)."""
        i, j, k = np.linalg.norm(self.volume_from_index[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def center_mm(self) -> Matrix:
        """RAS position of the middle of the volume, (3,)."""
        middle = (np.array(self.voxels.shape[::-1]) - 1) / 2
        center: Matrix = self.volume_from_index[:3, :3] @ middle + self.volume_from_index[:3, 3]
        return center


GRID_SIZE, GRID_SPACING_MM = 128, 2.0
"""Of a volume that nobody says otherwise of; what a node makes beside an operation reaches further (2.5 mm)."""
GRID_SIZES, GRID_SPACINGS_MM = (16, 256), (0.2, 20)
"""What may be asked for: least and most."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Cubic voxels in a cube along RAS: where a volume is made."""

    size: int = GRID_SIZE
    """Voxels along each side."""
    spacing_mm: float = GRID_SPACING_MM
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Middle of the cube."""

    @classmethod
    def around(cls, center_mm: Iterable[float], size: int = GRID_SIZE, spacing_mm: float = GRID_SPACING_MM) -> Grid:
        """The grid whose middle is at a point, (3,)."""
        x, y, z = (float(value) for value in center_mm)
        return cls(size, spacing_mm, (x, y, z))

    def checked(self) -> Grid:
        """Itself, when it was asked for from outside.

        Raises:
            ValueError: it is too large or too small, or lies nowhere.
        """
        for name, value, (least, most) in (
            ("size", self.size, GRID_SIZES),
            ("spacing_mm", self.spacing_mm, GRID_SPACINGS_MM),
        ):
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least:g} to {most:g}")
        if not np.isfinite(self.center_mm).all():
            raise ValueError("center_mm must be finite")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its voxels."""
        return (self.size,) * 3

    @property
    def volume_from_index(self) -> Matrix:
        """4x4: voxel (i, j, k, 1) -> RAS mm."""
        volume_from_index = np.diag([self.spacing_mm] * 3 + [1.0])
        volume_from_index[:3, 3] = np.array(self.center_mm) - self.spacing_mm * (np.array(self.shape) - 1) / 2
        return volume_from_index

    def filled(self, value: float) -> Volume:
        """A volume of one value."""
        return Volume(np.full(self.shape, value, np.float32), self.volume_from_index)


@dataclass(frozen=True, slots=True)
class View:
    """One X-ray image and where it was taken from."""

    line_integrals: FloatArray
    """(H, W), -ln(I / I0); NaN where the pixel carries no information."""
    carm: CArm
    volume_from_carm: Matrix | None
    timestamp_ns: int = 0


@dataclass(frozen=True, slots=True)
class Mesh:
    """A closed triangle surface in RAS mm."""

    vertices_mm: FloatArray
    """(N, 3)"""
    triangles: npt.NDArray[np.uint32]
    """(M, 3), counter-clockwise seen from outside."""


@dataclass(frozen=True, slots=True)
class Registration:
    """Where the C-arm stood relative to the volume, as one frame's image says."""

    volume_from_carm: Matrix
    validity: Validity
    residual: float
    """Robust standard deviation of image minus prediction, line-integral units."""
    similarity: float
    """Correlation of image and prediction after the smooth background is taken out, -1..1."""
    covariance: Matrix
    """6x6 of the right perturbation volume_from_carm @ exp(xi), xi = (rotation rad, translation mm) in
    carm axes about the pivot on the principal ray."""
    pivot_mm: float
    iterations: int
    elapsed_ms: float
    informative: bool = True
    """False when the image shows nothing (blank, saturated): no evidence for or against anything."""

    @property
    def sigma(self) -> Matrix:
        """1-sigma of (rotation rad xyz, translation mm xyz)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


# --- what enters the pipeline ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """An X-ray image as it came from the detector."""

    counts: npt.NDArray[np.uint16]
    """(H, W)"""
    timestamp_ns: int
    """Exposure, source clock."""
    received_ns: int
    """Last byte received, node clock."""
    sequence: int = 0
    stamped: bool = True
    """False when the source gave no time stamp and the arrival's was taken."""
    dose_gy_cm2: float | None = None
    """Dose-area product of the exposure, where the source states it."""
    exposure_ns: int | None = None
    """How long it was exposed, where the source states it."""


@dataclass(frozen=True, slots=True)
class TrackedPose:
    """One sample of one tracked marker."""

    device: str
    """Wire name, such as ``DrillToTracker``."""
    tracker_from_marker: Matrix | None
    """None when the tracker says that it does not see the marker."""
    timestamp_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Input that names a device the node listens to but cannot be used."""

    device: str
    reason: str
    received_ns: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes; sent at a steady rate so that silence can be noticed."""

    now_ns: int


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source came or went."""

    name: str
    connected: bool
    reason: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The reconstruction worker came or went."""

    alive: bool
    engine: str
    reason: str
    now_ns: int
    instance: int = 0
    """Another one when the process is another one: what the last was asked is lost with it."""


@dataclass(frozen=True, slots=True)
class VolumeReady:
    """A volume from the reconstruction worker, or why there is none."""

    volume: Volume | None
    bone: Mesh | None
    request: int
    views: int
    method: str
    elapsed_ms: float
    reason: str
    """What must be said of the volume, or why there is none."""
    now_ns: int
    uncertainty_hu: Volume | None = None
    """Half of every voxel's 95 % interval, where the method states one."""


@dataclass(frozen=True, slots=True)
class SurfaceReady:
    """The bone surface of a CT from the reconstruction worker."""

    bone: Mesh | None
    """None where the CT shows no bone, or for the reason given."""
    reason: str
    """Why it could not be computed, or ''."""
    elapsed_ms: float
    now_ns: int


@dataclass(frozen=True, slots=True)
class RegistrationDone:
    """The answer to a RegistrationRequest."""

    request: RegistrationRequest
    registration: Registration
    now_ns: int


class Operation(StrEnum):
    """What an operator may have done, by the name of the command."""

    ACCEPT_REGISTRATION = "RegistrationAccept"
    REJECT_REGISTRATION = "RegistrationReject"
    TAKE_VIEW = "TakeView"
    SET_TOOL = "SetTool"
    CONFIRM_TOOL = "ConfirmTool"


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """An operator wants something done; answered by CommandResult."""

    operation: Operation
    tool: str
    """SET_TOOL: which one."""
    now_ns: int


Input = (
    Frame
    | TrackedPose
    | Rejected
    | Tick
    | SourceState
    | WorkerState
    | VolumeReady
    | SurfaceReady
    | RegistrationDone
    | OperatorCommand
)


# --- what leaves the pipeline ------------------------------------------------------------------------


class Effort(StrEnum):
    """How far from the truth a registration's start may be."""

    TRACK = "track"
    """A millimetre or two: the last frames and the tracker agree."""
    REFINE = "refine"
    """About 10 mm, 20 mm in depth, and 6 degrees."""
    FIND = "find"
    """About 25 mm, 50 mm in depth, and 15 degrees."""
    SEARCH = "search"
    """About 100 mm and 30 degrees: what the name of a station says."""


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """A frame to be registered; the runner answers with RegistrationDone."""

    frame: Frame
    epoch: int
    """Counts up when what the poses refer to may have changed."""
    volume_id: int
    """Which volume to register to: counts up with every new navigation volume."""
    start_volume_from_carm: Matrix
    patient_from_carm: Matrix
    """From tracker and hand-eye calibration at the exposure."""
    effort: Effort
    sparse_volume: bool
    """The volume was made from a few X-rays, not from a CT."""


@dataclass(frozen=True, slots=True)
class ReconstructionRequest:
    """Views from which the worker shall make a volume."""

    request: int
    views: tuple[View, ...]
    center_mm: tuple[float, float, float]
    size: int
    """Voxels along each side."""
    spacing_mm: float

    @property
    def grid(self) -> Grid:
        """Where the volume is wanted.

        Raises:
            ValueError: as :meth:`Grid.checked`.
        """
        return Grid(self.size, self.spacing_mm, self.center_mm).checked()

    def failed(self, reason: str, now_ns: int, elapsed_ms: float = 0.0) -> VolumeReady:
        """The answer that there is no volume, and why."""
        return VolumeReady(None, None, self.request, 0, "", elapsed_ms, reason, now_ns)


@dataclass(frozen=True, slots=True)
class SurfaceRequest:
    """A CT whose bone surface the worker shall find; answered by SurfaceReady."""

    volume: Volume

    def failed(self, reason: str, now_ns: int, elapsed_ms: float = 0.0) -> SurfaceReady:
        """The answer that there is no surface, and why."""
        return SurfaceReady(None, reason, elapsed_ms, now_ns)


@dataclass(frozen=True, slots=True)
class RegisteredFrame:
    """A frame and what is known about where it was taken from."""

    frame: Frame
    carm: CArm
    volume_from_carm: Matrix | None
    validity: Validity
    residual: float
    similarity: float
    station: int | None
    """Which of the two station pictures it belongs to; None while the C-arm moves between stations."""
    now_ns: int


@dataclass(frozen=True, slots=True)
class CArmPose:
    """``CArmToVolume``: where the C-arm stood for the last X-ray; None when that is not known or long ago."""

    volume_from_carm: Matrix | None
    validity: Validity


@dataclass(frozen=True, slots=True)
class PatientPose:
    """The navigation registration, ``PatientToVolume``."""

    volume_from_patient: Matrix | None
    validity: Validity
    sigma: tuple[float, ...]
    """1-sigma of (rotation rad, translation mm) at the target, 6 numbers."""


@dataclass(frozen=True, slots=True)
class ToolPose:
    """A tool in the volume, at tracker rate."""

    tool: str
    volume_from_tool: Matrix | None
    """Origin at the tip, +z along the tool's axis in the direction it advances; None when INVALID."""
    validity: Validity
    received_ns: int
    """When the tracker pose behind it was received, node clock; 0 when there is none."""
    seen: bool = True
    """False when a marker is hidden; INVALID for that reason is MISSING on the wire."""


@dataclass(frozen=True, slots=True)
class VolumeUpdate:
    """A new volume for the displays."""

    volume: Volume
    bone: Mesh | None
    role: str
    """``navigation``: what tools and frames refer to; ``reconstruction``: made from X-rays beside a CT."""
    validity: Validity
    method: str
    views: int
    uncertainty_hu: Volume | None = None
    """Half of every voxel's 95 % interval, where the method states one."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of an OperatorCommand."""

    operation: Operation
    done: bool
    text: str
    """For the operator: what was done, or why not."""


@dataclass(frozen=True, slots=True)
class Dose:
    """What the X-rays of a session gave the patient."""

    frames: int
    stated: int
    """Frames whose source stated their dose."""
    gy_cm2: float
    """Dose-area product of all frames, or of the stated ones where nothing is known of the others."""
    msv: float | None
    """Effective dose, roughly; None where it is not known of all frames."""
    ct_share: float | None
    """Of a CT's."""

    def __str__(self) -> str:
        """For people: ``210 X-rays, 0.23 Gy cm2: about 0.05 mSv, 0.6 % of a CT``."""
        if not self.frames:
            return "no X-rays yet"
        frames = f"{self.frames} X-rays"
        if self.msv is None or self.ct_share is None:
            silent = self.frames - self.stated
            known = f", {_short(self.gy_cm2)} Gy cm2 in the others" if self.stated else ""
            return f"{frames}; the source states no dose for {silent}{known}"
        estimated = "" if self.stated == self.frames else " (partly estimated)"
        return (
            f"{frames}, {_short(self.gy_cm2)} Gy cm2{estimated}: about {_short(self.msv)} mSv, "
            f"{_short(100 * self.ct_share)} % of a CT"
        )


def _short(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{value:.2g}" if 0.001 <= value < 10 else f"{value:.0f}" if value >= 10 else f"{value:.4f}"


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """One path through the node over its last few thousand messages, ms; None before the first."""

    p50: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class VolumeTimes:
    """How long the last volume took."""

    took_ms: float
    """From the request to the answer."""
    elsewhere_ms: float
    """Of it spent outside the reconstruction: in queues and on the wire."""
    budget_ms: float
    """What it may take."""


_FEW_MINUTES = 30.0


@dataclass(frozen=True, slots=True)
class RecordingState:
    """The recording under way."""

    file: str = ""
    """Its name; '' when there is none."""
    messages: int = 0
    size_bytes: int = 0
    lost: int = 0
    """Messages that the disk was too slow for."""
    failure: str = ""
    """Why it failed, or ''."""
    minutes_left: float | None = None
    """Until the disk is full, at the present rate; None while that is not known."""

    @property
    def short_of_disk(self) -> bool:
        """Whether the disk will be full soon."""
        return self.minutes_left is not None and self.minutes_left < _FEW_MINUTES

    @property
    def running(self) -> bool:
        """Whether messages are being written."""
        return bool(self.file) and not self.failure

    def __str__(self) -> str:
        """For people; '' when there is none."""
        if self.failure:
            return f"FAILED: {self.failure}"
        if not self.file:
            return ""
        lost = f", {self.lost} LOST" if self.lost else ""
        left = f", DISK FULL IN {self.minutes_left:.0f} min" if self.short_of_disk else ""
        return f"{self.file}: {self.messages} messages, {self.size_bytes / 1e6:.0f} MB{lost}{left}"


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node's state, several times a second.

    The loop fills in what it knows; recording, replay, latencies and consoles are the node's around it.
    """

    registration: Validity
    tools: dict[str, Validity]
    sources: dict[str, str]
    """'' when connected, otherwise what is wrong."""
    worker: str
    """Engine name, or what is wrong."""
    worker_alive: bool
    volume: str
    frames_received: int
    frames_registered: int
    frame_rate_hz: float
    volumes: int
    dropped: dict[str, int]
    status_counts: dict[str, int]
    notices: tuple[str, ...]
    now_ns: int
    epoch: int
    """Changes when what was placed by an earlier registration must not be shown any more."""
    active_tool: str
    """The one that the slices follow."""
    dose: Dose = Dose(0, 0, 0.0, None, None)
    target_sigma_mm: float | None = None
    """Expected error at the anatomy (1 sigma); None while nothing is registered."""
    xray_age_s: float | None = None
    """Since the last X-ray; None before the first."""
    volume_times: VolumeTimes | None = None
    """None before the first volume."""
    recording: RecordingState = RecordingState()
    replay: bool = False
    """Whether what is shown comes from a recording."""
    latency_ms: LatencyFigures = LatencyFigures()
    """From a frame's last byte to its pose."""
    overlay_latency_ms: LatencyFigures = LatencyFigures()
    """From a tracker pose to its overlay."""
    consoles: int = 0
    """That are connected."""
    oriented: bool = True
    """Whether it is known which side of the volume is right, anterior and superior."""


WorkerRequest = ReconstructionRequest | SurfaceRequest
WorkerAnswer = VolumeReady | SurfaceReady

Output = (
    RegistrationRequest
    | ReconstructionRequest
    | SurfaceRequest
    | RegisteredFrame
    | CArmPose
    | PatientPose
    | ToolPose
    | VolumeUpdate
    | NodeState
    | CommandResult
)
