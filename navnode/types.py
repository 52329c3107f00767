"""The values that flow through the node. They are frozen; never write to the arrays inside them.

Frames, axes and units are those of docs/frames.md: millimetres, radians, RAS, integer nanoseconds;
``a_from_b`` takes points in frame ``b`` to frame ``a``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "BodyPose",
    "BodyStart",
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
    "Plan",
    "PlanCommand",
    "PlanDeviation",
    "PlanOperation",
    "Progress",
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
Progress = Callable[[float], None]
"""Called with the share of long work that is done, 0 to 1."""


class Status(StrEnum):
    """Whether an output may be trusted."""

    VALID = "VALID"
    DEGRADED = "DEGRADED"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Validity:
    """How far an output may be trusted, and why no further."""

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
"""Default grid of a volume; a node's own configuration reaches further (2.5 mm)."""
GRID_SIZES, GRID_SPACINGS_MM = (16, 256), (0.2, 20)
"""Least and greatest values accepted from outside."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A cube of cubic voxels along RAS, in which a volume is made."""

    size: int = GRID_SIZE
    """Voxels along each side."""
    spacing_mm: float = GRID_SPACING_MM
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Middle of the cube."""

    @classmethod
    def around(cls, center_mm: Iterable[float], size: int = GRID_SIZE, spacing_mm: float = GRID_SPACING_MM) -> Grid:
        """The grid centred on a point, (3,)."""
        x, y, z = (float(value) for value in center_mm)
        return cls(size, spacing_mm, (x, y, z))

    def checked(self) -> Grid:
        """The same grid, after checking values that came from outside.

        Raises:
            ValueError: a size or spacing is out of range, or the center is not finite.
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
        """Number of voxels along (k, j, i)."""
        return (self.size,) * 3

    @property
    def volume_from_index(self) -> Matrix:
        """4x4: voxel (i, j, k, 1) -> RAS mm."""
        volume_from_index = np.diag([self.spacing_mm] * 3 + [1.0])
        volume_from_index[:3, 3] = np.array(self.center_mm) - self.spacing_mm * (np.array(self.shape) - 1) / 2
        return volume_from_index

    def filled(self, value: float) -> Volume:
        """A volume with the same value in every voxel."""
        return Volume(np.full(self.shape, value, np.float32), self.volume_from_index)


@dataclass(frozen=True, slots=True)
class View:
    """One X-ray image and the pose it was taken from."""

    line_integrals: FloatArray
    """(H, W), -ln(I / I0); NaN where a pixel carries no information."""
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
    """Pose of the C-arm relative to the volume, found from one image."""

    volume_from_carm: Matrix
    validity: Validity
    residual: float
    """Robust standard deviation of image minus prediction, in line integrals."""
    similarity: float
    """Correlation of image and prediction after removal of the smooth background, -1..1."""
    covariance: Matrix
    """6x6, of the right perturbation ``volume_from_carm @ exp(xi)``, xi = (rotation rad, translation mm) in
    carm axes about the pivot on the principal ray."""
    pivot_mm: float
    iterations: int
    elapsed_ms: float
    informative: bool = True
    """False when the image is blank or saturated: evidence neither for nor against a pose."""
    center_mm: Matrix | None = None
    """(3,), of a body, in its own frame; None: what is looked at lies at the pivot."""
    views: int = 1
    """Number of X-rays behind it: several, from different directions, leave no depth open."""

    @property
    def sigma(self) -> Matrix:
        """1-sigma of (rotation rad xyz, translation mm xyz)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


# --- what enters the pipeline ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """An X-ray image as the detector sent it."""

    counts: npt.NDArray[np.uint16]
    """(H, W)"""
    timestamp_ns: int
    """Time of the exposure, source clock."""
    received_ns: int
    """Arrival of the last byte, node clock."""
    sequence: int = 0
    stamped: bool = True
    """False when the source sent no time stamp; the time of arrival stands in for it."""
    dose_gy_cm2: float | None = None
    """Dose-area product of the exposure, if the source states it."""
    exposure_ns: int | None = None
    """Exposure time, if the source states it."""


@dataclass(frozen=True, slots=True)
class TrackedPose:
    """One sample of one tracked marker."""

    device: str
    """Wire name, such as ``DrillToTracker``."""
    tracker_from_marker: Matrix | None
    """None when the tracker reports that it does not see the marker."""
    timestamp_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Unusable input from a device that the node listens to."""

    device: str
    reason: str
    received_ns: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The passage of time, at a steady rate, so that silence is noticed."""

    now_ns: int


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source connected or disconnected."""

    name: str
    connected: bool
    reason: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class WorkerState:
    """The reconstruction worker started or stopped."""

    alive: bool
    engine: str
    reason: str
    now_ns: int
    instance: int = 0
    """Changes with every new process, which knows nothing of earlier requests."""


@dataclass(frozen=True, slots=True)
class VolumeReady:
    """The worker's answer to a :class:`ReconstructionRequest`: a volume, or the reason why not."""

    volume: Volume | None
    bone: Mesh | None
    request: int
    views: int
    method: str
    elapsed_ms: float
    reason: str
    """A reservation about the volume, or why there is none."""
    now_ns: int
    uncertainty_hu: Volume | None = None
    """Half of every voxel's 95 % interval, where the method states one."""
    lungs: Mesh | None = None
    """A closed surface around the lungs; None if the X-rays show none, or the method does not look for them."""


@dataclass(frozen=True, slots=True)
class SurfaceReady:
    """The worker's answer to a :class:`SurfaceRequest`."""

    bone: Mesh | None
    """None if the CT shows no bone, or for the reason given."""
    reason: str
    """Why it could not be computed, or ''."""
    elapsed_ms: float
    now_ns: int
    request: int = 0
    """That of the request; 0: unknown, in sessions of before."""


@dataclass(frozen=True, slots=True)
class RegistrationDone:
    """The answer to a RegistrationRequest."""

    request: RegistrationRequest
    registration: Registration
    now_ns: int
    bodies: tuple[Registration, ...] = ()
    """Of every body, in the configured order; their ``volume_from_carm`` is ``body_from_carm``."""


class Operation(StrEnum):
    """What an operator may request, by name of the command."""

    ACCEPT_REGISTRATION = "RegistrationAccept"
    REJECT_REGISTRATION = "RegistrationReject"
    TAKE_VIEW = "TakeView"
    SET_TOOL = "SetTool"
    CONFIRM_TOOL = "ConfirmTool"
    CHECK_TIP = "CheckTip"


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """A request from an operator; the answer is a :class:`CommandResult`."""

    operation: Operation
    tool: str
    """Name of the tool, if the operation is about one."""
    now_ns: int
    point_mm: tuple[float, float, float] | None = None
    """The point (RAS, mm, in the volume) that the tool touches, if the operation is about one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A straight path from entry to target, in the volume (RAS, mm)."""

    name: str
    entry_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]


class PlanOperation(StrEnum):
    """What may be done with plans, by name of the command."""

    ADD = "PlanAdd"
    """A plan of that name is replaced. It becomes the active one if there is none."""
    REMOVE = "PlanRemove"
    ACTIVATE = "PlanActivate"
    """Without a name: none is active."""


@dataclass(frozen=True, slots=True)
class PlanCommand:
    """A request about plans; the answer is a :class:`CommandResult`."""

    operation: PlanOperation
    name: str
    plan: Plan | None
    """What is added."""
    origin: str
    """Who asks: a file, a console, the page."""
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
    | PlanCommand
)


# --- what leaves the pipeline ------------------------------------------------------------------------


class Effort(StrEnum):
    """How far the start of a registration may be from the truth."""

    TRACK = "track"
    """1 to 2 mm: the last frames and the tracker agree."""
    REFINE = "refine"
    """About 10 mm, 20 mm in depth, and 6 degrees."""
    FIND = "find"
    """About 25 mm, 50 mm in depth, and 15 degrees."""
    SEARCH = "search"
    """About 100 mm and 30 degrees: all that is known is the name of a station."""


@dataclass(frozen=True, slots=True)
class BodyStart:
    """Where to look for a body."""

    body_from_volume: Matrix
    lost: bool
    """Whether to search around; otherwise it is within a millimetre or two."""


@dataclass(frozen=True, slots=True)
class RegistrationRequest:
    """A frame to register; the runner answers with :class:`RegistrationDone`."""

    frame: Frame
    epoch: int
    """Increases when the reference of the poses may have changed."""
    volume_id: int
    """The volume to register to; increases with every new navigation volume."""
    start_volume_from_carm: Matrix
    patient_from_carm: Matrix
    """From tracking and hand-eye calibration at the exposure."""
    effort: Effort
    sparse_volume: bool
    """Whether the volume was made from a few X-rays, not by CT."""
    bodies: tuple[BodyStart, ...] = ()
    """Of every body, in the configured order."""
    of_volume: bool = False
    """Whether the frame is one of those that a sparse volume was made from: it shows what is usual from its side."""


@dataclass(frozen=True, slots=True)
class ReconstructionRequest:
    """Views from which the worker is to make a volume."""

    request: int
    views: tuple[View, ...]
    center_mm: tuple[float, float, float]
    size: int
    """Voxels along each side."""
    spacing_mm: float
    lungs: bool = False
    """Whether to look for lungs, too."""

    @property
    def grid(self) -> Grid:
        """The grid of the volume.

        Raises:
            ValueError: as :meth:`Grid.checked`.
        """
        return Grid(self.size, self.spacing_mm, self.center_mm).checked()

    def failed(self, reason: str, now_ns: int, elapsed_ms: float = 0.0) -> VolumeReady:
        """The answer when there is no volume."""
        return VolumeReady(None, None, self.request, 0, "", elapsed_ms, reason, now_ns)


@dataclass(frozen=True, slots=True)
class SurfaceRequest:
    """A CT whose bone surface the worker is to find; the answer is :class:`SurfaceReady`."""

    volume: Volume
    request: int
    """A number that no request of another node has: a worker elsewhere outlives nodes."""

    def failed(self, reason: str, now_ns: int, elapsed_ms: float = 0.0) -> SurfaceReady:
        """The answer when there is no surface."""
        return SurfaceReady(None, reason, elapsed_ms, now_ns, self.request)


@dataclass(frozen=True, slots=True)
class RegisteredFrame:
    """A frame and the pose it was taken from, as far as known."""

    frame: Frame
    carm: CArm
    volume_from_carm: Matrix | None
    validity: Validity
    residual: float
    """Robust standard deviation of image minus prediction, in line integrals."""
    similarity: float
    """Correlation of image and prediction, -1..1."""
    station: int | None
    """Index of its station picture, 0 or 1; None while the C-arm moves between stations."""
    now_ns: int


@dataclass(frozen=True, slots=True)
class CArmPose:
    """``CArmToVolume``: pose of the C-arm at the last X-ray; None if unknown or too old."""

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
class BodyPose:
    """A bone that moves by itself: ``<Body>ToVolume`` and ``CArmTo<Body>``."""

    body: str
    volume_from_body: Matrix | None
    """From where the CT shows it to where it is now, in the CT's frame; None when INVALID."""
    body_from_carm: Matrix | None
    """Of the X-ray behind this; None where that does not show it."""
    validity: Validity
    carm_validity: Validity
    """Of ``body_from_carm``: one X-ray alone, whose depth may be open."""
    sigma: tuple[float, ...] = ()
    """1-sigma of (rotation rad, translation mm), 6 numbers; none when INVALID."""


@dataclass(frozen=True, slots=True)
class ToolPose:
    """A tool in the volume, at tracker rate."""

    tool: str
    volume_from_tool: Matrix | None
    """Origin at the tip, +z along the tool's axis in the direction it advances; None when INVALID."""
    validity: Validity
    received_ns: int
    """Arrival of the tracker pose behind it, node clock; 0 if there is none."""
    seen: bool = True
    """False when a marker is hidden; INVALID is then MISSING on the wire."""


@dataclass(frozen=True, slots=True)
class VolumeUpdate:
    """A new volume for displays."""

    volume: Volume
    bone: Mesh | None
    role: str
    """``navigation``: tools and frames refer to it; ``reconstruction``: made from X-rays in addition to a CT."""
    validity: Validity
    method: str
    views: int
    uncertainty_hu: Volume | None = None
    """Half of every voxel's 95 % interval, where the method states one."""
    lungs: Mesh | None = None
    """A closed surface around the lungs; None if the X-rays show none, or the method does not look for them."""


@dataclass(frozen=True, slots=True)
class PlanDeviation:
    """How the active tool deviates from the active plan; numbers are None when INVALID."""

    plan: str
    tool: str
    lateral_mm: float | None
    """Distance of the tip from the line through entry and target."""
    angle_rad: float | None
    """Between the tool's axis and that line."""
    depth_mm: float | None
    """Way that is left along the line; negative beyond the target."""
    lateral_95_mm: float | None
    """Half of the 95 % interval; the next two likewise."""
    angle_95_rad: float | None
    depth_95_mm: float | None
    validity: Validity
    """The tool's."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The outcome of an :class:`OperatorCommand` or a :class:`PlanCommand`."""

    operation: Operation | PlanOperation
    done: bool
    text: str
    """For the operator: what was done, or why not."""


@dataclass(frozen=True, slots=True)
class Dose:
    """The patient's dose from the X-rays of a session."""

    frames: int
    stated: int
    """Frames whose source stated their dose."""
    gy_cm2: float
    """Dose-area product of all frames, or of those that state one if the others cannot be estimated."""
    msv: float | None
    """Approximate effective dose; None if it is unknown for some frames."""
    ct_share: float | None
    """Share of a typical CT's dose."""

    def __add__(self, other: Dose) -> Dose:
        """Of both; what is not known of one is not known of both."""
        known = self.msv is not None and other.msv is not None
        shared = self.ct_share is not None and other.ct_share is not None
        return Dose(
            self.frames + other.frames,
            self.stated + other.stated,
            round(self.gy_cm2 + other.gy_cm2, 6),
            round((self.msv or 0.0) + (other.msv or 0.0), 6) if known else None,
            round((self.ct_share or 0.0) + (other.ct_share or 0.0), 8) if shared else None,
        )

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
    """Latency of one path through the node over the last few thousand messages, ms; None before the first."""

    p50: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class VolumeTimes:
    """Time that the last volume took."""

    took_ms: float
    """From request to answer."""
    elsewhere_ms: float
    """Part of it spent outside the reconstruction, in queues and on the wire."""
    budget_ms: float
    """Time allowed."""


_FEW_MINUTES = 30.0


@dataclass(frozen=True, slots=True)
class RecordingState:
    """The recording under way."""

    file: str = ""
    """Name of the file; '' if nothing is recorded."""
    messages: int = 0
    size_bytes: int = 0
    lost: int = 0
    """Messages lost because the disk was too slow, or the recording failed."""
    failure: str = ""
    """Why recording failed, or ''."""
    minutes_left: float | None = None
    """Time until the disk is full at the present rate; None while unknown."""

    @property
    def short_of_disk(self) -> bool:
        """Whether the disk will be full soon."""
        return self.minutes_left is not None and self.minutes_left < _FEW_MINUTES

    @property
    def running(self) -> bool:
        """Whether messages are being written."""
        return bool(self.file) and not self.failure

    def __str__(self) -> str:
        """For people; '' if nothing is recorded."""
        if self.failure:
            return f"FAILED: {self.failure}"
        if not self.file:
            return ""
        lost = f", {self.lost} LOST" if self.lost else ""
        left = f", DISK FULL IN {self.minutes_left:.0f} min" if self.short_of_disk else ""
        return f"{self.file}: {self.messages} messages, {self.size_bytes / 1e6:.0f} MB{lost}{left}"


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node's state, sent several times a second.

    The loop fills in its part; the node adds recording, replay, latencies and consoles.
    """

    registration: Validity
    tools: dict[str, Validity]
    sources: dict[str, str]
    """By name: '' if connected, otherwise the reason."""
    worker: str
    """Name of the engine, or the reason why there is none."""
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
    """Changes when nothing placed by earlier registrations may be shown any more."""
    active_tool: str
    """The tool that the slices follow."""
    bodies: dict[str, Validity] = field(default_factory=dict)
    """Bones that move by themselves."""
    dose: Dose = Dose(0, 0, 0.0, None, None)
    target_sigma_mm: float | None = None
    """Expected error at the anatomy, 1 sigma; None while nothing is registered."""
    xray_age_s: float | None = None
    """Time since the last X-ray; None before the first."""
    volume_times: VolumeTimes | None = None
    """None before the first volume."""
    recording: RecordingState = RecordingState()
    replay: bool = False
    """Whether the outputs come from a recording."""
    latency_ms: LatencyFigures = LatencyFigures()
    """From the last byte of a frame to its pose."""
    overlay_latency_ms: LatencyFigures = LatencyFigures()
    """From a tracker pose to its overlay."""
    consoles: int = 0
    """Number of connected consoles that read what they are sent."""
    oriented: bool = True
    """Whether the patient's right, anterior and superior are known in the volume."""
    plans: tuple[Plan, ...] = ()
    active_plan: str = ""
    """Name of the plan that is aimed at; '': none."""

    @property
    def plan(self) -> Plan | None:
        """The plan that is aimed at; None: there is none."""
        return next((plan for plan in self.plans if plan.name == self.active_plan), None)


WorkerRequest = ReconstructionRequest | SurfaceRequest
WorkerAnswer = VolumeReady | SurfaceReady

Output = (
    RegistrationRequest
    | ReconstructionRequest
    | SurfaceRequest
    | RegisteredFrame
    | CArmPose
    | PatientPose
    | BodyPose
    | ToolPose
    | PlanDeviation
    | VolumeUpdate
    | NodeState
    | CommandResult
)
