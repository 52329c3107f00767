"""Requests for projection, registration and reconstruction of files; the modules beside this one answer them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec

from navnode.config.fields import Threads, argument, option
from navnode.errors import ConfigError
from navnode.files.placing import ReadAs
from navnode.reconstruction import Method
from navnode.types import GRID_SIZE, GRID_SIZES, GRID_SPACING_MM, GRID_SPACINGS_MM

__all__ = [
    "BodiesRequest",
    "DistanceMm",
    "MOST_PICTURES",
    "ModelRequest",
    "PatientMm",
    "PixelMm",
    "ProjectRequest",
    "ReconstructRequest",
    "RegisterRequest",
    "SampleRequest",
]

_Ct = Annotated[Path, option("A CT that SimpleITK reads, or a DICOM folder.", "CT")]
_Views = Annotated[Path, option("A set of views, navnode/views/1.", "V.json")]
_Size = Annotated[int, option("Voxels along each axis.", ge=GRID_SIZES[0], le=GRID_SIZES[1])]
_SpacingMm = Annotated[float, option("Voxel size.", ge=GRID_SPACINGS_MM[0], le=GRID_SPACINGS_MM[1])]
_OpenBeam = Annotated[float, option("Write counts for this open beam instead of line integrals.", ge=1, le=65535)]
_CenterMm = Annotated[
    tuple[float, float, float],
    option("Center of the volume, RAS; default: where the principal rays meet."),
]
_Uncertainty = Annotated[Path, option("Also write half of each voxel's 95 % interval, HU.", "U.nii.gz")]
_MeshBones = Annotated[Path, option("Also write a surface for each connected bone, largest first.", "DIR")]
_Prior = Annotated[Path, option("Start from a CT in the views' frame; change what the views contradict.", "CT")]
_PriorMap = Annotated[Path, option("Also write 1 where a voxel rests on the prior alone, else 0.", "M.nii.gz")]
_Dicom = Annotated[Path, option("Also write a DICOM series, marked derived and not for diagnosis.", "DIR")]
_DicomBones = Annotated[
    Path, option("Also write bones as DICOM: a model (STL) of each, and a segmentation of all.", "DIR")
]
_Patient = Annotated[
    Path,
    option("Name the patient and the study of this DICOM file in what is written; default: nobody.", "FILE.dcm"),
]
_Bodies = Annotated[
    tuple[Path, ...],
    option("Register bones by themselves: a label map of the CT, a list (.toml), or volumes of one bone.", "BODIES"),
]
PixelMm = Annotated[float, option("Pixel size at the detector; default: as DICOM states it.", ge=0.01, le=5)]
DistanceMm = Annotated[float, option("From source to detector; default: as DICOM states it.", ge=300, le=3_000)]
PatientMm = Annotated[
    float, option("From source to limb; default: as DICOM states it, else scale is open.", ge=200, le=3_000)
]
_Method = Annotated[
    Method,
    option("auto: prior if there is one; learned if its model is the better one; else sart."),
]


class _ReadsCt(msgspec.Struct, frozen=True, kw_only=True):
    """A request that reads a CT, whose files may leave a choice."""

    series: Annotated[str, option("DICOM series: its UID, the end of it, number or description.", "SERIES")] = ""
    orientation: Annotated[
        str,
        option("sform or qform of NIfTI, or where columns, rows and slices grow to, such as LPS.", "NAME"),
    ] = ""
    units: Annotated[str, option("Unit of the file's distances: m, cm, mm or um; default: as it states.", "UNIT")] = ""

    def __post_init__(self) -> None:
        """Raise ConfigError if a choice is none."""
        self.read_as()

    def read_as(self) -> ReadAs:
        """How to read the CT.

        Raises:
            ConfigError: a choice is none.
        """
        return ReadAs(self.series, self.orientation, self.units)


class SampleRequest(_ReadsCt, frozen=True, kw_only=True):
    """Write files to try the commands on."""

    out: Annotated[Path, argument("Write the files into this new folder.", "DIR")]
    ct: Annotated[Path, option("X-ray this CT, a file or a DICOM folder, not a drawn torso.", "CT")] | None = None
    size: Annotated[int, option("Detector pixels along each side.", ge=64, le=1024)] = 256
    threads: Threads = 0


class ProjectRequest(_ReadsCt, frozen=True, kw_only=True):
    """Render X-ray images of a CT."""

    volume: _Ct
    views: _Views
    out: Annotated[Path, option("Write the images into this folder.", "DIR")]
    i0: _OpenBeam | None = None
    threads: Threads = 0


class RegisterRequest(_ReadsCt, frozen=True, kw_only=True):
    """Find where the C-arm stood."""

    volume: _Ct | None = None
    views: _Views
    bodies: _Bodies = ()
    joint: Annotated[bool, option("Let the views share one rigid motion of the patient.")] = False
    search: Annotated[bool, option("Search widely: the starts may be far off.")] = False
    track: Annotated[bool, option("Follow a sequence: each view starts from the result before it.")] = False
    landmarks: Annotated[Path, option("Start from points named in volume and views.", "L.json")] | None = None
    carm: (
        Annotated[Path, option("Take a C-arm's geometry from its calibration, not from the views.", "C.json")] | None
    ) = None
    calibrate: Annotated[
        bool,
        option("Find the C-arm's geometry as well: focal length within 10 %, center, mirrored or turned pictures."),
    ] = False
    out: (
        Annotated[Path, option("Write the geometry found by --calibrate, as calibrate carm does.", "C.json")] | None
    ) = None
    overlays: (
        Annotated[Path, option("Draw what the CT shows at the poses found into the X-rays, in this folder.", "DIR")]
        | None
    ) = None
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other."""
        super().__post_init__()
        if self.calibrate and (self.track or self.carm or self.bodies):
            reason = (
                "; --bodies needs calibrated cameras: calibrate by the whole CT, then --carm" if self.bodies else ""
            )
            raise ConfigError(f"--calibrate excludes --track, --carm and --bodies{reason}")
        if self.out is not None and not self.calibrate:
            raise ConfigError("--out needs --calibrate")
        if self.overlays is not None and (self.calibrate or self.bodies):
            raise ConfigError("--overlays excludes --calibrate and --bodies")
        if self.joint and self.track:
            raise ConfigError("--joint and --track exclude each other")
        if self.volume is None and not self.bodies:
            raise ConfigError("--volume or --bodies is missing")
        if self.bodies and (self.joint or self.track or self.landmarks):
            raise ConfigError("--bodies excludes --joint, --track and --landmarks")


class BodiesRequest(_ReadsCt, frozen=True, kw_only=True):
    """Which bodies a CT and its label map, or a list, have."""

    volume: Annotated[Path, option("The CT of a label map.", "CT")] | None = None
    bodies: Annotated[Path, argument("A label map of the CT, a list (.toml), or a volume of one bone.", "BODIES")]
    out: Annotated[Path, option("Write a list of the labels, to name and choose them.", "BODIES.toml")] | None = None
    seg: Annotated[Path, option("Write the bodies as a DICOM segmentation.", "SEG.dcm")] | None = None
    patient: _Patient | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other."""
        super().__post_init__()
        if self.patient is not None and self.seg is None:
            raise ConfigError("--patient requires --seg")


class PlanRequest(_ReadsCt, frozen=True, kw_only=True):
    """Plans of entry and target, checked in a CT."""

    plans: Annotated[list[Path], argument("Lines of 3D Slicer (.mrk.json), or plans (navnode/plans/1).", "PLAN...")]
    volume: Annotated[Path, option("The CT in which they were made.", "CT")]
    out: Annotated[Path, option("Write them for a node (plans.file).", "PLANS.json")] | None = None


class ReadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the node takes for bone in one X-ray."""

    image: Annotated[Path, argument("An X-ray: 16-bit PNG or TIFF, .npy, or DICOM (XA, RF; one frame).", "IMAGE")]
    out: Annotated[Path, option("Write a picture: the X-ray, and what was read off it.", "READ.png")] | None = None
    pixel_mm: (
        Annotated[float, option("Pixel size at the detector; default: DICOM's, else 0.3.", ge=0.05, le=5)] | None
    ) = None
    distance_mm: (
        Annotated[float, option("From source to detector; default: DICOM's, else 1000.", ge=300, le=3_000)] | None
    ) = None
    i0: Annotated[float, option("Counts of the open beam; default: estimated from the image.", ge=1)] | None = None
    threads: Threads = 0


class ReconstructRequest(_ReadsCt, frozen=True, kw_only=True):
    """Reconstruct a volume from views with poses."""

    views: _Views
    out: Annotated[Path, option("Write the volume here, HU: NIfTI, NRRD or MHA.", "VOL.nii.gz")]
    size: _Size = GRID_SIZE
    spacing_mm: _SpacingMm = GRID_SPACING_MM
    center_mm: _CenterMm | None = None
    mesh: Annotated[Path, option("Also write the bone surface: STL, PLY or OBJ.", "BONE.stl")] | None = None
    mesh_bones: _MeshBones | None = None
    mesh_lungs: Annotated[Path, option("Also write the surface of the lungs.", "LUNGS.stl")] | None = None
    mesh_skin: Annotated[Path, option("Also write the surface of the skin.", "SKIN.stl")] | None = None
    uncertainty: _Uncertainty | None = None
    prior: _Prior | None = None
    prior_map: _PriorMap | None = None
    dicom: _Dicom | None = None
    dicom_bones: _DicomBones | None = None
    patient: _Patient | None = None
    method: _Method = Method.AUTO
    model: Annotated[Path, option("Use your own networks, from `navnode train`.", "DIR")] | None = None
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other."""
        super().__post_init__()
        asks_for_prior = self.prior is not None or self.method is Method.PRIOR
        if asks_for_prior and (self.prior is None or self.method not in (Method.AUTO, Method.PRIOR)):
            raise ConfigError("--prior CT requires --method prior, its default")
        if self.patient is not None and self.dicom_bones is None:
            raise ConfigError("--patient requires --dicom-bones")
        if self.prior_map is not None and self.prior is None:
            raise ConfigError("--prior-map requires --prior")


MOST_PICTURES = 16


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Make models of bones from a few pictures."""

    pictures: Annotated[
        tuple[Path, ...],
        argument("X-rays, 2 to 16: DICOM (CR, DX, XA, RF), 16-bit PNG or TIFF, .npy.", "PICTURES"),
    ] = ()
    out: Annotated[Path, option("Write models, volume and report into this new folder.", "DIR")]
    views: (
        Annotated[Path, option("The pictures' geometry, navnode/views/1; without PICTURES: all it names.", "V.json")]
        | None
    ) = None
    jig: (
        Annotated[
            Path,
            option("Or the jig whose beads the pictures show, navnode/jig/1 (measured by `jig check`).", "JIG.json"),
        ]
        | None
    ) = None
    beads: (
        Annotated[Path, option("Corrections of the beads that were found, navnode/beads/1.", "BEADS.json")] | None
    ) = None
    landmarks: (
        Annotated[Path, option("Landmarks as you moved them, from an earlier landmarks.mrk.json.", "EDITED.mrk.json")]
        | None
    ) = None
    angles: Annotated[
        str,
        option(
            "Or how far the source is turned from the patient's front to his left, a number for each picture: "
            "'0 90'. Default: the pictures' own, in DICOM.",
            "DEGREES",
        ),
    ] = ""
    carm: (
        Annotated[Path, option("A calibrated C-arm that made the pictures, from calibrate carm.", "C.json")] | None
    ) = None
    pixel_mm: PixelMm | None = None
    distance_mm: DistanceMm | None = None
    patient_mm: PatientMm | None = None
    size: _Size = GRID_SIZE
    spacing_mm: _SpacingMm = GRID_SPACING_MM
    threads: Threads = 0

    def __post_init__(self) -> None:
        """Raise ConfigError where options contradict each other, or pictures are too few or too many."""
        stated = [f"--{name.replace('_', '-')}" for name in _STATED if getattr(self, name)]
        if self.views is not None and stated:
            raise ConfigError(f"--views states the geometry; it excludes {stated[0]}")
        if self.carm is not None and (self.pixel_mm or self.distance_mm):
            raise ConfigError("--carm states the C-arm; it excludes --pixel-mm and --distance-mm")
        if (self.pictures or self.views is None) and not 2 <= len(self.pictures) <= MOST_PICTURES:
            raise ConfigError(f"{len(self.pictures)} pictures; a model needs 2 to {MOST_PICTURES}")
        if self.angles and len(self.angles_deg()) != len(self.pictures):
            raise ConfigError(f"--angles: {len(self.angles_deg())} angles for {len(self.pictures)} pictures")

    def angles_deg(self) -> list[float]:
        """The stated angles, in the pictures' order; empty if none are.

        Raises:
            ConfigError: one is not a number from -360 to 360.
        """
        found = []
        for word in self.angles.replace(",", " ").split():
            try:
                degrees = float(word)
            except ValueError:
                degrees = math.nan
            if not abs(degrees) <= 360:
                raise ConfigError(f"--angles: {word!r} is not an angle in degrees; two pictures: --angles '0 90'")
            found.append(degrees)
        return found


class PrintRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Make a bone ready to print."""

    bone: Annotated[Path, argument("A closed surface, mm: STL, PLY or OBJ.", "BONE.stl")]
    out: Annotated[Path, option("Write what is printed: STL, PLY or OBJ.", "PRINT.stl")]
    wall_mm: Annotated[float, option("Hollow, with a wall of at least this; default: solid.", ge=0.5, le=20)] | None = (
        None
    )
    scale: Annotated[float, option("Larger or smaller than the bone.", ge=0.1, le=10)] = 1.0
    label: Annotated[str, option("Engrave this along the bone: letters 7 mm high, 0.8 mm deep.", "TEXT")] = ""
    cut: Annotated[
        str,
        option("Cut by a plane: a point, mm of the bone, and the direction of what is kept: '0 0 120 0 0 1'.", "PLANE"),
    ] = ""


_STATED = ("angles", "pixel_mm", "distance_mm", "patient_mm")
