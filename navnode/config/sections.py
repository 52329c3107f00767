"""One frozen configuration from TOML. An unknown or wrong key stops the start and is named."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
import numpy as np

from navnode.geometry import CArmDocument, is_rigid, orthonormal
from navnode.security.address import Address, parse_address
from navnode.security.tls import Tls, is_loopback
from navnode.types import GRID_SIZE, Grid, Matrix

Rows = tuple[tuple[float, float, float, float], ...]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_IDENTITY: Rows = tuple(tuple(float(x) for x in row) for row in np.eye(4))  # type: ignore[misc]


def _check_rigid(rows: Rows, name: str) -> None:
    if not is_rigid(np.array(rows)):
        raise ValueError(f"{name} is no rigid transform (4 rows of 4; rotation, mm; last row 0 0 0 1)")


def _check_address(host: str, insecure: bool, tls: Tls | None = None) -> None:
    if not (is_loopback(host) or tls or insecure):
        raise ValueError(
            f"host {host!r} is not this machine alone, and nothing is encrypted; set insecure = true to accept that, "
            "or, for consoles, give tls"
        )


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the configuration; its fields are the keys."""


_LONGEST_MM, _COARSEST_MM = 5_000.0, 10.0


class CArmSection(Section, CArmDocument, frozen=True):
    """Geometry of the C-arm: the keys of navnode/carm/1, and its limits."""

    source_to_isocentre_mm: float = 700.0
    """Where the anatomy is expected along the principal ray."""

    def __post_init__(self) -> None:
        CArmDocument.__post_init__(self)
        if self.source_to_detector_mm > _LONGEST_MM or max(self.pixel_spacing_mm) > _COARSEST_MM:
            raise ValueError(f"source_to_detector_mm over {_LONGEST_MM:g} or pixel_spacing_mm over {_COARSEST_MM:g}")
        far_px = 10 * max(self.width_px, self.height_px)
        if max(map(abs, self.principal_point_px)) > far_px:
            raise ValueError(f"principal_point_px lies more than {far_px} pixels away")
        if not 0 < self.source_to_isocentre_mm < self.source_to_detector_mm:
            raise ValueError("source_to_isocentre_mm must lie between 0 and source_to_detector_mm")


class VolumeSection(Section, frozen=True):
    """The patient's volume."""

    ct: str = ""
    """A file, a DICOM folder, ``sample`` or ``procedural``; empty: no CT, the first X-rays give the volume."""
    oriented: bool = False
    """Without a CT: whether the patient marker is fixed with its axes to the patient's right, front and head. Otherwise
    nobody knows which side is which, and no letters and no names of planes are shown."""


def is_ct_file(ct: str) -> bool:
    """Whether a CT is given by its path, and not by a name of navnode's own, or not at all."""
    return ct not in ("", "sample", "procedural")


class SourceSection(Section, frozen=True):
    """An OpenIGTLink server that frames or poses come from."""

    port: Port
    host: str = "127.0.0.1"
    tls: Tls | None = None
    """Certificate, key and authorities (PEM files, beside this one unless absolute), if the server speaks TLS."""


class DevicesSection(Section, frozen=True):
    """Wire names of what comes in."""

    xray: Name = "XRay"
    carm: Name = "CArmToTracker"
    patient: Name = "PatientToTracker"


class OutputsSection(Section, frozen=True):
    """Wire names of what goes out; a tool's are made of its own name."""

    xray: Name = "XRay"
    volume: Name = "Volume"
    uncertainty: Name = "VolumeUncertainty"
    patient: Name = "PatientToVolume"
    carm: Name = "CArmToVolume"
    bone: Name = "BoneModel"
    tools: Name = "Tools"
    status: Name = "NodeStatus"


class TrustSection(Section, frozen=True):
    """What is not believed, however well it is said."""

    tracker_range_mm: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 6_000.0
    """No marker is farther from its tracker."""
    frozen_after: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 3
    """Poses equal to the last bit, after the first, that make a marker frozen. 0: never, for markers that are computed
    and not measured, such as a robot's."""
    exposure_ms: Annotated[float, msgspec.Meta(gt=0, le=2_000)] | None = None
    """How long an X-ray is exposed, where it does not say so itself (DICOM's ExposureTime). Without either it is the
    time between X-rays."""
    motion_mm: Annotated[float, msgspec.Meta(gt=0, le=100)] = 2.0
    """How far the C-arm may move at the anatomy during an exposure."""


class ToolSection(Section, frozen=True):
    """A tracked tool."""

    name: str
    device: Name
    marker_from_tooltip: Rows = _IDENTITY
    """Tip and axis calibration: origin at the tip, +z the direction in which the tool advances."""
    pivot: str = ""
    """What `navnode calibrate pivot` wrote, in place of the tip."""
    spin: str = ""
    """What `navnode calibrate spin` wrote, in place of the axis."""

    def __post_init__(self) -> None:
        _check_rigid(self.marker_from_tooltip, "marker_from_tooltip")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,11}", self.name):
            raise ValueError(f"name {self.name!r}: 1 to 12 letters and digits, so that {self.name}ToVolume fits")


class CalibrationSection(Section, frozen=True):
    """What calibration before surgery found."""

    carm_from_marker: Rows = _IDENTITY
    """Hand-eye: the tracked marker on the C-arm, in the carm frame."""
    image_lag_ms: Annotated[float, msgspec.Meta(ge=-5_000, le=5_000)] = 0.0
    """Image stamp minus tracker stamp of the same event."""
    device: str = ""
    """Which C-arm it is; calibrations of another one are refused."""
    mode: str = ""
    """The detector's mode; calibrations of another one are refused."""
    carm: str = ""
    """What `navnode calibrate carm` wrote, in place of [carm]'s distance and principal point; distortion, too. Files
    are beside this one unless absolute."""
    flex: str = ""
    """What `calibrate flex` wrote: distance and principal point by the angles that X-rays state."""
    handeye: str = ""
    """What `calibrate handeye` wrote, in place of carm_from_marker."""
    image_lag: str = ""
    """What `calibrate temporal` wrote, in place of image_lag_ms."""
    flatfield: str = ""
    """What `calibrate flatfield` wrote."""
    patient: str = ""
    """What `calibrate patient` wrote, in place of registration.volume_from_patient_start."""
    points: str = ""
    """Planned points (CSV or Slicer's markups) that are touched on the patient, for the page's calibration panel."""
    folder: str = ""
    """Where that panel keeps what passed; empty: the user's data folder."""
    as_of_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Calibrations must not have expired by then, ns since 1970: when the procedure began, or the session that is
    replayed; set by navnode itself. 0: now."""

    def __post_init__(self) -> None:
        _check_rigid(self.carm_from_marker, "carm_from_marker")


class RegistrationSection(Section, frozen=True):
    """How the patient is registered."""

    volume_from_patient_start: Rows = _IDENTITY
    """A rough start, within about 35 mm and 12 degrees: from patient positioning or a few points."""
    i0: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 0.0
    """Open-beam counts; 0: estimated from each image (good enough to register, not to reconstruct)."""
    confirm_frames: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    """Good frames in a row before a registration is shown as VALID."""
    valid_sigma_mm: Annotated[float, msgspec.Meta(gt=0, le=5)] = 1.5
    """Expected error at the anatomy up to which a registration is VALID."""
    degraded_sigma_mm: Annotated[float, msgspec.Meta(gt=0, le=20)] = 4.0
    degraded_after_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 15.0
    """Seconds without a registered X-ray after which it is DEGRADED, then INVALID."""
    invalid_after_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 120.0
    threads: Annotated[int, msgspec.Meta(ge=0, le=1_024)] = 0
    """0: all."""

    def __post_init__(self) -> None:
        _check_rigid(self.volume_from_patient_start, "volume_from_patient_start")
        if self.valid_sigma_mm > self.degraded_sigma_mm:
            raise ValueError("valid_sigma_mm must be at most degraded_sigma_mm")
        if self.degraded_after_s > self.invalid_after_s:
            raise ValueError("degraded_after_s must be at most invalid_after_s")


class RemoteSection(Section, frozen=True):
    """A reconstruction worker on another machine (``navnode worker``) takes the place of the one here."""

    key: str
    """This node's secret key, of ``navnode keys``; files are beside this one unless absolute."""
    worker_key: str
    """The public key of the one worker that is let in."""
    port: Port = 18946
    host: str = "127.0.0.1"
    """Address to listen on: that of the network between the two machines; loopback unless it is named."""

    @property
    def address(self) -> str:
        return f"tcp://{Address(self.host, self.port)}"


LiveMethod = Literal["auto", "learned", "sart", "tv", "fdk"]
"""How a worker reconstructs; see :class:`navnode.reconstruction.methods.Method`."""


class ReconstructionSection(Section, frozen=True):
    """Volumes from X-rays."""

    enabled: bool = True
    method: LiveMethod = "auto"
    """Of the worker on this machine; one elsewhere has its own setting."""
    views: int = 4
    """How many views the first volume needs."""
    max_views: int = 8
    min_angle_deg: Annotated[float, msgspec.Meta(ge=1, le=90)] = 20.0
    """Views are taken this far apart."""
    size: int = GRID_SIZE
    spacing_mm: float = 2.5
    """More than of files: the anatomy's place is known roughly, so the cube is larger."""
    budget_ms: Annotated[float, msgspec.Meta(gt=0, le=600_000)] = 10_000.0
    """A volume that comes later than this after it was asked for is told to be late."""
    remote: RemoteSection | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.views <= self.max_views <= 16:
            raise ValueError("views and max_views must satisfy 2 <= views <= max_views <= 16")
        Grid(self.size, self.spacing_mm).checked()


class ConsoleSection(Section, frozen=True):
    """The OpenIGTLink server for consoles."""

    host: str = "127.0.0.1"
    port: Port = 18944
    insecure: bool = False
    """Must be true to listen on anything but loopback without TLS: OpenIGTLink has no encryption."""
    tls: Tls | None = None
    """Certificate, key and authorities (PEM files, beside this one unless absolute); only clients that show a
    certificate signed by one of the authorities are let in."""
    max_rate_hz: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    """No device is sent to one console more often; 0: no limit."""
    may_push: bool = False
    """Whether X-rays and poses may be pushed to this server also where sources are configured. Without sources they
    may; each device belongs to the client that pushed it first, until that client leaves."""

    def __post_init__(self) -> None:
        _check_address(self.host, self.insecure, self.tls)


class DisplaySection(Section, frozen=True):
    """The web page."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080
    insecure: bool = False

    def __post_init__(self) -> None:
        _check_address(self.host, self.insecure)


class RecordingSection(Section, frozen=True):
    """Recordings of sessions."""

    folder: str = ""
    """Where StartRecording puts its files; empty: the user's data folder."""
    file: str = ""
    """Record from the start, into this file."""
    keep_last_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0
    """So many seconds are kept (512 MB at most), and a recording that is started begins with them."""
    max_file_mb: Annotated[int, msgspec.Meta(ge=16, le=1 << 20)] = 4096
    """A session that grows larger goes on in a further file."""


class DoseSection(Section, frozen=True):
    """What the dose ledger reckons with."""

    frame_gy_cm2: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    """Dose-area product of a frame whose source states none; 0: not known."""
    msv_per_gy_cm2: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.2
    """Effective dose of 1 Gy cm2 to the trunk (0.1 chest to 0.3 abdomen; NCRP report 160, 2009)."""
    ct_msv: Annotated[float, msgspec.Meta(gt=0, le=1_000)] = 7.0
    """Effective dose of the CT to compare with (chest 7, abdomen 8, pelvis 6; Mettler et al., Radiology 248, 2008)."""


class SimulatorSection(Section, frozen=True):
    """The virtual operating room (``navnode simulate``)."""

    port: Port = 18945
    host: str = "127.0.0.1"
    ct: str = "sample"
    size_px: int = 512
    frame_rate_hz: Annotated[float, msgspec.Meta(ge=1, le=30)] = 15.0
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    errors: bool = False
    """Whether the hardware is not what its maker says: distance, principal point, distortion, late stamps."""
    more_tools: Annotated[int, msgspec.Meta(ge=0, le=15)] = 0
    """Beside the drill: ``Tool2``, ``Tool3`` ..., which only lie there."""

    def __post_init__(self) -> None:
        _check_address(self.host, False)
        if self.size_px not in (256, 512, 1024):
            raise ValueError("size_px must be 256, 512 or 1024")


class PlayerSection(Section, frozen=True):
    """A recorded session that is served again (``navnode replay``)."""

    file: str
    port: Port = 18945
    host: str = "127.0.0.1"
    rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    """Times as fast as it was."""
    loop: bool = False
    start_s: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 0.0
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=1e7)] | None = None
    topics: tuple[str, ...] = ()
    """Patterns such as ``in/IMAGE/*``; none: everything that came in."""
    original_stamps: bool = False
    """Time stamps as they were, in place of as if it happened now."""
    paused: bool = False
    insecure: bool = False

    def __post_init__(self) -> None:
        _check_address(self.host, self.insecure)


class WorkerConfig(Section, frozen=True):
    """What a worker on another machine than its node's is told."""

    node: str
    """Host and port that the node listens on for it."""
    key: str
    """This worker's secret key; files are beside this one unless absolute."""
    node_key: str
    """The node's public key."""
    method: LiveMethod = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: all cores."""

    def __post_init__(self) -> None:
        try:
            parse_address(self.node)
        except ValueError as error:
            raise ValueError(f"node: {error}") from error


class Config(Section, frozen=True):
    """Everything a node is told."""

    carm: CArmSection
    volume: VolumeSection = VolumeSection()
    sources: tuple[SourceSection, ...] = ()
    devices: DevicesSection = DevicesSection()
    outputs: OutputsSection = OutputsSection()
    tools: tuple[ToolSection, ...] = ()
    trust: TrustSection = TrustSection()
    calibration: CalibrationSection = CalibrationSection()
    registration: RegistrationSection = RegistrationSection()
    reconstruction: ReconstructionSection = ReconstructionSection()
    console: ConsoleSection = ConsoleSection()
    display: DisplaySection = DisplaySection()
    recording: RecordingSection = RecordingSection()
    dose: DoseSection = DoseSection()

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if len(set(names)) != len(names):
            raise ValueError("two tools have the same name")
        fixed = list(msgspec.structs.astuple(self.outputs))
        made = [f"{name}{part}" for name in names for part in ("ToVolume", "Axis", "Tip")]
        if clash := [name for name in made if name in fixed] or [n for n in fixed if fixed.count(n) > 1]:
            raise ValueError(f"two outputs would be called {clash[0]!r}: see [outputs] and the tools' names")
        heard = [self.devices.xray, self.devices.carm, self.devices.patient, *(tool.device for tool in self.tools)]
        if len(set(heard)) != len(heard):
            twice = next(name for name in heard if heard.count(name) > 1)
            raise ValueError(f"device {twice!r} is named twice")
        if not self.volume.ct and not self.reconstruction.enabled:
            raise ValueError("volume.ct is empty and reconstruction.enabled is false: there would never be a volume")
        ports = [("console.port", self.console.port)]
        ports += [("display.port", self.display.port)] if self.display.enabled else []
        ports += [("a source's port", source.port) for source in self.sources if is_loopback(source.host)]
        for index, (name, port) in enumerate(ports):
            for other, other_port in ports[:index]:
                if port == other_port and not name == other == "a source's port":
                    raise ValueError(f"{other} and {name} are both {port} on this machine")


def matrix(rows: Rows) -> Matrix:
    """A checked matrix of the configuration as an exact rigid transform."""
    return orthonormal(np.array(rows))
