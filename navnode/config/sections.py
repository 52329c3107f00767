"""The sections of the configuration, with their limits."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
import numpy as np

from navnode.config.bases import Name, Port, Section, check_address
from navnode.config.fields import Address, parse_address
from navnode.config.sources import DicomSource, Source, SourceSection, VideoSource
from navnode.geometry import CArmDocument, is_rigid, orthonormal
from navnode.security.tls import Tls, is_loopback
from navnode.types import GRID_SIZE, Grid, Matrix

__all__ = [
    "BodySection",
    "CArmSection",
    "CalibrationSection",
    "CaseSection",
    "Config",
    "ConsoleSection",
    "DevicesSection",
    "DicomSource",
    "DisplaySection",
    "DoseSection",
    "LiveMethod",
    "Name",
    "OutputsSection",
    "PlayerSection",
    "Port",
    "ReconstructionSection",
    "RecordingSection",
    "RegistrationSection",
    "RemoteSection",
    "Rows",
    "Section",
    "SimulatorSection",
    "Source",
    "SourceSection",
    "ToolSection",
    "TrustSection",
    "VideoSource",
    "VolumeSection",
    "WorkerConfig",
    "is_ct_file",
    "matrix",
]

Rows = tuple[tuple[float, float, float, float], ...]
_IDENTITY: Rows = tuple(tuple(float(x) for x in row) for row in np.eye(4))  # type: ignore[misc]


def _check_rigid(rows: Rows, name: str) -> None:
    if not is_rigid(np.array(rows)):
        raise ValueError(f"{name} is not a rigid transform (4 rows of 4; rotation, mm; last row 0 0 0 1)")


_LONGEST_MM, _COARSEST_MM = 5_000.0, 10.0


class CArmSection(Section, CArmDocument, frozen=True):
    """Geometry of the C-arm, with the keys and limits of navnode/carm/1."""

    source_to_isocentre_mm: float = 700.0
    """Expected distance of the anatomy along the principal ray."""

    def __post_init__(self) -> None:
        CArmDocument.__post_init__(self)
        if self.source_to_detector_mm > _LONGEST_MM or max(self.pixel_spacing_mm) > _COARSEST_MM:
            raise ValueError(f"source_to_detector_mm over {_LONGEST_MM:g} or pixel_spacing_mm over {_COARSEST_MM:g}")
        far_px = 10 * max(self.width_px, self.height_px)
        if max(map(abs, self.principal_point_px)) > far_px:
            raise ValueError(f"principal_point_px lies more than {far_px} pixels away")
        if not 0 < self.source_to_isocentre_mm < self.source_to_detector_mm:
            raise ValueError("source_to_isocentre_mm must lie between 0 and source_to_detector_mm")


_ORIENTATIONS = r"^(|sform|qform|(?=.*[RL])(?=.*[AP])(?=.*[SI])[RLAPSI]{3})$"


class VolumeSection(Section, frozen=True):
    """The patient's volume."""

    ct: str = ""
    """A file, a DICOM folder, ``sample`` or ``procedural``; empty: no CT, the volume is made from the first X-rays."""
    series: Annotated[str, msgspec.Meta(max_length=128)] = ""
    """Of a DICOM folder with several: its UID, the end of it, number or description."""
    orientation: Annotated[str, msgspec.Meta(pattern=_ORIENTATIONS)] = ""
    """``sform`` or ``qform`` of NIfTI, or where columns, rows and slices grow to, such as ``LPS``; empty: as the CT
    states."""
    units: Literal["", "m", "cm", "mm", "um"] = ""
    """Of the CT's distances; empty: as it states."""
    oriented: bool = False
    """Without a CT: whether the patient marker is fixed with its axes to the patient's right, front and head. Otherwise
    nobody knows which side is which, and no letters and no names of planes are shown."""


def is_ct_file(ct: str) -> bool:
    """Whether ``volume.ct`` is a path, rather than empty or a name that navnode knows."""
    return ct not in ("", "sample", "procedural")


class DevicesSection(Section, frozen=True):
    """Wire names of inputs."""

    xray: Name = "XRay"
    carm: Name = "CArmToTracker"
    patient: Name = "PatientToTracker"
    plan: Name = "Plan"
    """TRAJ, or a POINT of entry and target, from consoles."""


class OutputsSection(Section, frozen=True):
    """Wire names of outputs; those of a tool derive from its name."""

    xray: Name = "XRay"
    volume: Name = "Volume"
    uncertainty: Name = "VolumeUncertainty"
    patient: Name = "PatientToVolume"
    carm: Name = "CArmToVolume"
    bone: Name = "BoneModel"
    lungs: Name = "LungModel"
    tools: Name = "Tools"
    deviation: Name = "PlanDeviation"
    plans: Name = "Plans"
    status: Name = "NodeStatus"
    axis_hz: Annotated[float, msgspec.Meta(ge=0, le=1_000)] = 10.0
    """Largest rate of ``<Tool>Axis``, a drawing of the tool: receivers using the C++ library lose memory with every
    POLYDATA. What becomes INVALID is withdrawn at once. 0: with every pose."""
    most_triangles: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 50_000
    """Largest number of triangles of a surface that consoles get; larger ones are decimated for them, and state the
    error that this adds. Recordings, displays and files keep the whole. 0: consoles get the whole as well."""


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
    held_noise: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    """What a frame grabber adds to X-rays, in counts (standard deviation): those that differ by no more are one held
    exposure. 0, for detectors: only equal ones are. Gateways of video leave held pictures out themselves."""
    motion_mm: Annotated[float, msgspec.Meta(gt=0, le=100)] = 2.0
    """How far the C-arm may move at the anatomy during an exposure."""


class ToolSection(Section, frozen=True):
    """A tracked tool."""

    name: str
    device: Name
    marker_from_tooltip: Rows = _IDENTITY
    """Tip and axis: origin at the tip, +z in the direction that the tool advances."""
    pivot: str = ""
    """File from `navnode calibrate pivot`; replaces the tip."""
    spin: str = ""
    """File from `navnode calibrate spin`; replaces the axis."""

    def __post_init__(self) -> None:
        _check_rigid(self.marker_from_tooltip, "marker_from_tooltip")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,11}", self.name):
            raise ValueError(f"name {self.name!r}: 1 to 12 letters and digits, so that {self.name}ToVolume fits")


class BodySection(Section, frozen=True):
    """A bone that moves by itself: a label of a map of the CT, or, where there is no CT, a volume of that bone alone.

    What of a CT is no body moves with the patient's marker.
    """

    name: str
    labels: str = ""
    """The label map, on the CT's grid; relative to the configuration file."""
    label: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    file: str = ""
    """A volume with nothing but this bone; relative to the configuration file."""
    volume_from_body: Rows | None = None
    """Where that bone is about in the frame of the patient's marker, within 15 mm and 15 degrees; none: anywhere."""
    meets: tuple[str, ...] = ()
    """Names of other labels that it meets at a joint: as close to them as in the CT, which closes what one view leaves
    open. Not where a joint may be dislocated, or broken."""

    def __post_init__(self) -> None:
        if self.file and self.meets:
            raise ValueError(f"{self.name}: meets belongs to labels, whose CT shows the joint")
        if bool(self.file) == bool(self.labels):
            raise ValueError(f"{self.name}: either file, or labels and label")
        if self.labels and self.label is None:
            raise ValueError(f"{self.name}: label is missing")
        if self.file and self.label is not None:
            raise ValueError(f"{self.name}: label belongs to labels, not to file")
        if self.labels and self.volume_from_body is not None:
            raise ValueError(f"{self.name}: volume_from_body belongs to file; a label starts where the CT has it")
        if self.volume_from_body is not None:
            _check_rigid(self.volume_from_body, "volume_from_body")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,11}", self.name):
            raise ValueError(f"name {self.name!r}: 1 to 12 letters and digits, so that {self.name}ToVolume fits")


class CalibrationSection(Section, frozen=True):
    """Results of calibration before surgery. Relative paths are relative to the configuration file."""

    carm_from_marker: Rows = _IDENTITY
    """Hand-eye: the tracked marker on the C-arm, in the carm frame."""
    image_lag_ms: Annotated[float, msgspec.Meta(ge=-5_000, le=5_000)] = 0.0
    """Image stamp minus tracker stamp of the same event."""
    source_sigma_mm: Annotated[float, msgspec.Meta(ge=0, le=20)] = 0.0
    """1-sigma of where hand-eye and flex place the X-ray source, by their files. As the C-arm turns, that looks like a
    marker that slides, and is told from it by this. 0: not stated."""
    device: str = ""
    """Name of the C-arm; calibrations of other C-arms are refused."""
    mode: str = ""
    """The detector's mode; calibrations for other modes are refused."""
    carm: str = ""
    """File from `navnode calibrate carm`; replaces [carm]'s distance and principal point, and adds distortion."""
    flex: str = ""
    """File from `calibrate flex`: distance and principal point by the angles that X-rays carry."""
    handeye: str = ""
    """File from `calibrate handeye`; replaces carm_from_marker."""
    image_lag: str = ""
    """File from `calibrate temporal`; replaces image_lag_ms."""
    flatfield: str = ""
    """File from `calibrate flatfield`."""
    patient: str = ""
    """File from `calibrate patient`; replaces registration.volume_from_patient_start."""
    points: str = ""
    """Planned points (CSV or Slicer markups) to touch on the patient, for `calibrate all` and the page."""
    targets: str = ""
    """Further points, to verify the whole chain with."""
    phantom: str = ""
    """The bead phantom's description (`navnode/phantom/1`)."""
    plate: str = ""
    """File from `calibrate plate`, by which `calibrate all` and the page correct X-rays before they measure `carm`."""
    spheres: str = ""
    """Device whose POINT messages are the unlabelled spheres that the tracker sees."""
    folder: str = ""
    """Where `calibrate all` and the page keep calibrations that passed. A node that starts uses them, unless another
    key names a file. Empty: they are kept in the user's data folder, and no node uses them."""
    as_of_ns: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Time at which calibrations must still be valid, ns since 1970: the start of the procedure, or of the session that
    is replayed; set by navnode itself. 0: now."""

    def __post_init__(self) -> None:
        _check_rigid(self.carm_from_marker, "carm_from_marker")


class RegistrationSection(Section, frozen=True):
    """Registration of the patient."""

    volume_from_patient_start: Rows = _IDENTITY
    """A rough start, within about 35 mm and 12 degrees, from patient positioning or a few points."""
    i0: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 0.0
    """Open-beam counts; 0: estimated from each image (good enough to register, not to reconstruct)."""
    confirm_frames: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    """Number of good frames in a row before a registration is VALID."""
    valid_sigma_mm: Annotated[float, msgspec.Meta(gt=0, le=5)] = 1.5
    """Largest expected error at the anatomy for a VALID registration."""
    degraded_sigma_mm: Annotated[float, msgspec.Meta(gt=0, le=20)] = 4.0
    """Largest expected error for a DEGRADED registration."""
    degraded_after_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 15.0
    """Without a registered X-ray for this long, the registration is DEGRADED."""
    invalid_after_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 120.0
    """Without a registered X-ray for this long, the registration is INVALID."""
    threads: Annotated[int, msgspec.Meta(ge=0, le=1_024)] = 0
    """0: all cores."""

    def __post_init__(self) -> None:
        _check_rigid(self.volume_from_patient_start, "volume_from_patient_start")
        if self.valid_sigma_mm > self.degraded_sigma_mm:
            raise ValueError("valid_sigma_mm must be at most degraded_sigma_mm")
        if self.degraded_after_s > self.invalid_after_s:
            raise ValueError("degraded_after_s must be at most invalid_after_s")


class RemoteSection(Section, frozen=True):
    """A reconstruction worker on another machine (``navnode worker``) replaces the local one."""

    key: str
    """This node's secret key, from ``navnode keys``; relative to the configuration file."""
    worker_key: str
    """The public key of the only worker to admit."""
    port: Port = 18946
    host: str = "127.0.0.1"
    """Address to listen on, in the network between the two machines; default: loopback."""

    @property
    def address(self) -> str:
        """ZeroMQ address to listen on."""
        return f"tcp://{Address(self.host, self.port)}"


LiveMethod = Literal["auto", "learned", "sart", "tv", "fdk"]
"""Methods of a worker; see :class:`navnode.reconstruction.choice.Method`."""


class ReconstructionSection(Section, frozen=True):
    """Volumes from X-rays."""

    enabled: bool = True
    method: LiveMethod = "auto"
    """Method of the worker on this machine; one on another machine has its own setting."""
    views: int = 4
    """Number of views for the first volume."""
    max_views: int = 8
    """Largest number of views; a further one replaces the most similar."""
    min_angle_deg: Annotated[float, msgspec.Meta(ge=1, le=90)] = 20.0
    """Smallest angle between views."""
    size: int = GRID_SIZE
    """Voxels along each side of the cube."""
    spacing_mm: float = 2.5
    """Larger than the default for files: the anatomy's position is only roughly known, so the cube is larger."""
    budget_ms: Annotated[float, msgspec.Meta(gt=0, le=600_000)] = 10_000.0
    """A volume that takes longer from request to answer is reported as late."""
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
    """Must be true to listen beyond loopback without TLS: OpenIGTLink has no encryption."""
    tls: Tls | None = None
    """Certificate, key and authorities (PEM files, relative to the configuration file); only clients with a certificate
    signed by one of the authorities are admitted."""
    max_rate_hz: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 0.0
    """Largest rate of one device's messages to one console; 0: no limit."""
    invalid: Literal["withhold", "status"] = "withhold"
    """What consoles that use header version 2 for COMMAND alone, such as 3D Slicer, get of INVALID transforms: nothing
    (``withhold``), or the identity with its status (``status``), which 3D Slicer draws at the origin."""
    may_push: bool = False
    """Whether X-rays and poses may be pushed to this server also where sources are configured. Without sources they
    may; each device belongs to the client that pushed it first, until that client leaves."""

    def __post_init__(self) -> None:
        check_address(self.host, self.insecure, self.tls)


class DisplaySection(Section, frozen=True):
    """The web page."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080
    insecure: bool = False
    """Must be true to listen beyond loopback: the page has no encryption, and everybody there may command the node."""
    names: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)] = ()
    """Names by which browsers reach the page, beside ``host``, this machine's own name and its addresses; others are
    refused, as a foreign site's name can be made to lead here."""

    def __post_init__(self) -> None:
        check_address(self.host, self.insecure)


class RecordingSection(Section, frozen=True):
    """Recordings of sessions."""

    folder: str = ""
    """Folder for recordings begun by StartRecording; empty: the user's data folder."""
    file: str = ""
    """Record into this file from the start."""
    keep_last_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0
    """Keep this many recent seconds (512 MB at most); a new recording begins with them."""
    max_file_mb: Annotated[int, msgspec.Meta(ge=16, le=1 << 20)] = 4096
    """A larger session continues in another file."""


class CaseSection(Section, frozen=True):
    """What the page calls the case, in large letters; it is not recorded."""

    name: Annotated[str, msgspec.Meta(max_length=40)] = ""
    """Of the case, as "L4-L5"; not the patient's."""
    side: Literal["", "left", "right", "both"] = ""

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise ValueError("name has printable characters only")


class PlansSection(Section, frozen=True):
    """Plans of entry and target."""

    file: str = ""
    """With which the node begins, and in which it keeps them (navnode/plans/1); it need not exist. Relative to the
    configuration file. Empty: plans are gone when the node ends."""


class DoseSection(Section, frozen=True):
    """Assumptions of the dose ledger."""

    frame_gy_cm2: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    """Dose-area product of a frame whose source states none; 0: unknown."""
    msv_per_gy_cm2: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.2
    """Effective dose per 1 Gy cm2 to the trunk (0.1 chest to 0.3 abdomen; NCRP report 160, 2009)."""
    ct_msv: Annotated[float, msgspec.Meta(gt=0, le=1_000)] = 7.0
    """Effective dose of the CT to compare with (chest 7, abdomen 8, pelvis 6; Mettler et al., Radiology 248, 2008)."""


class SimulatorSection(Section, frozen=True):
    """The virtual operating room (``navnode simulate``)."""

    port: Port = 18945
    host: str = "127.0.0.1"
    ct: str = "sample"
    size_px: int = 512
    frame_rate_hz: Annotated[float, msgspec.Meta(ge=1, le=60)] = 15.0
    pose_rate_hz: Annotated[float, msgspec.Meta(ge=20, le=500)] = 100.0
    """Of the tracker."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    errors: bool = False
    """Simulate hardware that deviates from its data sheet: distance, principal point, distortion, late stamps."""
    more_tools: Annotated[int, msgspec.Meta(ge=0, le=15)] = 0
    """Number of motionless tools beside the drill: ``Tool2``, ``Tool3`` ..."""

    def __post_init__(self) -> None:
        check_address(self.host, False)
        if self.size_px not in (256, 512, 1024):
            raise ValueError("size_px must be 256, 512 or 1024")


class PlayerSection(Section, frozen=True):
    """A recorded session to play back as a server (``navnode replay``)."""

    file: str
    port: Port = 18945
    host: str = "127.0.0.1"
    rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    """Playback speed; 1: as recorded."""
    loop: bool = False
    start_s: Annotated[float, msgspec.Meta(ge=0, le=1e7)] = 0.0
    duration_s: Annotated[float, msgspec.Meta(gt=0, le=1e7)] | None = None
    topics: tuple[str, ...] = ()
    """Patterns such as ``in/IMAGE/*``; none: all inputs."""
    original_stamps: bool = False
    """Keep the recorded time stamps instead of shifting them to the present."""
    paused: bool = False
    insecure: bool = False

    def __post_init__(self) -> None:
        check_address(self.host, self.insecure)


class WorkerConfig(Section, frozen=True):
    """Configuration of a worker on another machine than its node."""

    node: str
    """HOST:PORT where the node listens for the worker."""
    key: str
    """This worker's secret key; relative to the configuration file."""
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
    """The whole configuration of a node."""

    carm: CArmSection
    volume: VolumeSection = VolumeSection()
    sources: tuple[Source, ...] = ()
    devices: DevicesSection = DevicesSection()
    outputs: OutputsSection = OutputsSection()
    tools: tuple[ToolSection, ...] = ()
    bodies: Annotated[tuple[BodySection, ...], msgspec.Meta(max_length=11)] = ()
    trust: TrustSection = TrustSection()
    calibration: CalibrationSection = CalibrationSection()
    registration: RegistrationSection = RegistrationSection()
    reconstruction: ReconstructionSection = ReconstructionSection()
    console: ConsoleSection = ConsoleSection()
    display: DisplaySection = DisplaySection()
    recording: RecordingSection = RecordingSection()
    plans: PlansSection = PlansSection()
    case: CaseSection = CaseSection()
    dose: DoseSection = DoseSection()

    def __post_init__(self) -> None:
        names, bodies = [tool.name for tool in self.tools], [body.name for body in self.bodies]
        if len(set(names)) != len(names):
            raise ValueError("two tools have the same name")
        if twice := next((name for name in bodies if bodies.count(name) > 1 or name in names), ""):
            raise ValueError(f"bodies: the name {twice!r} occurs twice")
        for body in self.bodies:
            if strange := next((name for name in body.meets if name not in bodies or name == body.name), ""):
                raise ValueError(f"bodies: {body.name} meets {strange!r}, which is no other body")
        if self.plans.file and not self.volume.ct:
            raise ValueError("plans.file: plans are kept in the coordinates of a CT, and volume.ct is empty")
        if any(body.labels for body in self.bodies) and not self.volume.ct:
            raise ValueError("bodies are labels of a CT, and volume.ct is empty")
        if self.bones_alone:
            self._check_bones_alone()
        fixed = [name for name in msgspec.structs.astuple(self.outputs) if isinstance(name, str)]
        derived = [f"{name}{part}" for name in names for part in ("ToVolume", "Axis", "Tip")]
        derived += [device for name in bodies for device in (f"{name}ToVolume", f"CArmTo{name}")]
        if clash := [name for name in derived if name in fixed] or [n for n in fixed if fixed.count(n) > 1]:
            raise ValueError(
                f"two outputs would be called {clash[0]!r}: see [outputs], and the names of tools and bodies"
            )
        devices = [self.devices.xray, self.devices.carm, self.devices.patient, *(tool.device for tool in self.tools)]
        if len(set(devices)) != len(devices):
            twice = next(name for name in devices if devices.count(name) > 1)
            raise ValueError(f"device {twice!r} is named twice")
        sources = [f"{source.host}:{source.port}" for source in self.sources if isinstance(source, SourceSection)]
        if twice := next((name for name in sources if sources.count(name) > 1), ""):
            raise ValueError(f"source {twice} is named twice")
        if not self.volume.ct and not self.reconstruction.enabled and not self.bones_alone:
            raise ValueError("volume.ct is empty and reconstruction.enabled is false: there would never be a volume")
        ports = [("console.port", self.console.port)]
        ports += [("display.port", self.display.port)] if self.display.enabled else []
        ports += [
            ("a source's port", source.port)
            for source in self.sources
            if isinstance(source, SourceSection) and is_loopback(source.host)
        ]
        for source in self.sources:
            ports += [("a gateway's port", source.port)] if not isinstance(source, SourceSection) else []
            ports += [("a listen_port", source.listen_port)] if isinstance(source, DicomSource) else []
        for index, (name, port) in enumerate(ports):
            for other, other_port in ports[:index]:
                if port == other_port and not name == other == "a source's port":
                    raise ValueError(f"{other} and {name} are both {port} on this machine")

    @property
    def bones_alone(self) -> bool:
        """Whether bones have volumes of their own, and there is no CT: the volume's frame is the patient marker's."""
        return any(body.file for body in self.bodies)

    def _check_bones_alone(self) -> None:
        if any(body.labels for body in self.bodies):
            raise ValueError("bodies: some are labels of a CT and some have files; all must be one or the other")
        if self.volume.ct:
            raise ValueError("bodies have files, and volume.ct names a CT: bones of a CT are labels of it")
        if self.reconstruction.enabled:
            raise ValueError(
                "bodies have files, so the volume's frame is the patient marker's, and no volume is made: "
                "reconstruction.enabled must be false"
            )
        if self.registration.volume_from_patient_start != _IDENTITY:
            raise ValueError(
                "registration.volume_from_patient_start: bodies have files, and the volume's frame is the marker's"
            )


def matrix(rows: Rows) -> Matrix:
    """A checked matrix from the configuration as an exactly rigid transform, 4x4."""
    return orthonormal(np.array(rows))
