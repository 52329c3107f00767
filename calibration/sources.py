"""Sources of a routine's data: files, a recording, or a live connection. The same data give the same result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from navnode.errors import ConfigError
from navnode.files.views import read_views
from navnode.types import Array, Matrix

from . import documents, inputs, phantom, recordings
from .carm import PhantomShot
from .heard import Heard
from .inputs import Files, Pictures, Poses
from .patient import touched_in_order

__all__ = [
    "Sources",
    "image_motion",
    "markers_and_xrays",
    "measured_points",
    "phantom_shots",
    "plate_pictures",
    "stream_of_touches",
    "touched_points",
    "tracker_motion",
]


@dataclass
class Sources:
    """Inputs of one call of a routine; series from one recording or live connection are aligned by time."""

    now_ns: int
    """Time at which calibrations that are read must still be valid."""
    recording: Path | None = None
    live: tuple[str, int] | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    """Option -> device of the recording or live connection."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Option -> unit of the positions of its poses, where they come from a file; '': of the others; none: mm."""
    files: Files = field(default_factory=Files)
    _heard: Heard | None = field(default=None, init=False)
    _most_rows: int | None = field(default=None, init=False)
    _times: Array | None = field(default=None, init=False)

    def hear(self, heard: Heard, most_rows: int | None) -> None:
        """Use live samples from now on, with at most ``most_rows`` rows of the first series."""
        self._heard, self._most_rows, self._times = heard, most_rows, None

    def poses(self, name: str, file: Path | None) -> Poses:
        """A series of poses from a file, or from the device that ``--device`` names for it.

        Raises:
            ConfigError: there is neither; names the option.
        """
        series = self.poses_if_any(name, file)
        if series is None:
            option = "POSES" if name == "poses" else f"--{name}"
            raise ConfigError(f"{option} is missing: a file, or --recording or --live with --device {name}=NAME")
        return series

    def poses_if_any(self, name: str, file: Path | None) -> Poses | None:
        """:meth:`poses`, or None if there are none."""
        if file is not None:
            return inputs.poses(file, self.files, self.units.get(name, self.units.get("", "")))
        device = self._device(name)
        if device is None:
            return None
        series = self._series(device)
        if self._times is not None:
            return recordings.at_times(series, self._times)
        self._times = series.times_s
        return series

    def at_shots(self, shots: Poses) -> Poses:
        """Poses of X-rays, whose times other series are then interpolated at."""
        if shots.times_s is not None and shots.times_s.any():
            self._times = shots.times_s
        return shots

    def pictures(self, name: str) -> Pictures | None:
        """The images of the device that ``--device`` names for it, or None."""
        device = self._device(name)
        if device is None:
            return None
        if self._heard is not None:
            return self._heard.pictures(device)
        assert self.recording is not None
        return recordings.pictures(self.recording, device, self.files)

    def _series(self, device: str) -> Poses:
        if self._heard is not None:
            return self._heard.series(device, self._most_rows if self._times is None else None)
        assert self.recording is not None
        return recordings.poses(self.recording, device, self.files)

    def _device(self, name: str) -> str | None:
        if self.recording is None and self.live is None:
            return None
        return self.devices.get(name, self.devices.get("") if name == "poses" else None)


# --- inputs of single routines ---------------------------------------------------------------------------------------


def phantom_shots(sources: Sources, views: Path | None, nominal: Path | None) -> list[PhantomShot]:
    """Shots of a bead phantom from a ``navnode/views/1`` file, or the most different ones of a recording.

    Args:
        nominal: ``navnode/carm/1``, for shots that do not come from a views file.

    Raises:
        ConfigError: there are none, or a file cannot be read.
    """
    return _shots(sources, views, nominal, lambda seen: recordings.different(seen.counts))


def plate_pictures(sources: Sources, views: Path | None, nominal: Path | None) -> list[PhantomShot]:
    """Pictures of a plate from a ``navnode/views/1`` file, or those of a recording at angles that differ most.

    Args:
        nominal: as for :func:`phantom_shots`.

    Raises:
        ConfigError: as :func:`phantom_shots`.
    """
    return _shots(sources, views, nominal, lambda seen: recordings.at_other_angles(seen.angles_rad))


def _shots(
    sources: Sources, views: Path | None, nominal: Path | None, choose: Callable[[Pictures], Array]
) -> list[PhantomShot]:
    """Shots from a file, or those of a recording that ``choose`` names by their indices."""
    if views is None:
        return _recorded_shots(sources, nominal, choose)
    shots = read_views(sources.files.read(views))
    for shot in shots:
        if shot.path is not None:
            sources.files.read(shot.path)
    return [
        PhantomShot(shot.counts(), shot.carm, shot.volume_from_carm, shot.i0, shot.timestamp_ns, shot.angles_rad)
        for shot in shots
    ]


def _recorded_shots(sources: Sources, nominal: Path | None, choose: Callable[[Pictures], Array]) -> list[PhantomShot]:
    seen = sources.pictures("views")
    if seen is None or nominal is None:
        raise ConfigError("--views is missing, or --recording or --live with --device views=NAME, and --carm")
    geometry = documents.carm(nominal, sources.files)
    return [
        PhantomShot(
            seen.counts[n], geometry, timestamp_ns=round(1e9 * float(seen.times_s[n])), angles_rad=seen.angles_rad[n]
        )
        for n in choose(seen)
    ]


def markers_and_xrays(sources: Sources, marker: Path | None, xray: Path | None) -> tuple[Matrix, Matrix]:
    """tracker_from_marker and phantom_from_carm, (N, 4, 4) each; X-rays may be a result of `calibrate carm`."""
    if xray is not None and xray.suffix.lower() == ".json":
        xrays = sources.at_shots(documents.shots(xray, sources.files, sources.now_ns))
        return sources.poses("marker", marker).poses, xrays.poses
    return sources.poses("marker", marker).poses, sources.poses("xray", xray).poses


def tracker_motion(sources: Sources, tracker: Path | None) -> tuple[Matrix, Array]:
    """Times (N,) and poses (N, 4, 4) or values (N,).

    Raises:
        ConfigError: there are none, or the poses have no times.
    """
    if tracker is not None and inputs.has_signal_header(tracker):
        return inputs.signal(tracker, sources.files)
    series = sources.poses("tracker", tracker)
    if series.times_s is None:
        raise ConfigError(f"{tracker}: the poses have no times; use a CSV with timestamp_s")
    return series.times_s, series.poses


def image_motion(
    sources: Sources, signal: Path | None, frames: Path | None, frame_times: Path | None
) -> tuple[Matrix, Array]:
    """Times (M,) and images (M, H, W) or values (M,).

    Raises:
        ConfigError: there are none, or more than one kind.
    """
    if (signal is not None and frames is not None) or (frames is None) != (frame_times is None):
        raise ConfigError("use --signal, or --frames with --frame-times")
    if signal is not None:
        return inputs.signal(signal, sources.files)
    if frames is not None and frame_times is not None:
        return inputs.times(frame_times, sources.files), inputs.stack(frames, sources.files)
    pictures = sources.pictures("frames")
    if pictures is None:
        raise ConfigError("--signal or --frames is missing, or --recording with --device frames=NAME")
    return pictures.times_s, pictures.counts


def touched_points(
    sources: Sources,
    planned_mm: Mapping[str, Array],
    touched: Path | None,
    stylus: Path | None,
    patient_marker: Path | None,
    tip_mm: Array | None,
) -> Mapping[str, Matrix]:
    """Label -> (3,) in the patient marker's frame, from a file or from a stream in which they are touched in order.

    Raises:
        ConfigError: there are none.
    """
    if touched is not None:
        return inputs.points(touched, sources.files)
    styluses = sources.poses("stylus", stylus).poses
    markers = sources.poses("patient-marker", patient_marker).poses
    if tip_mm is None:
        raise ConfigError("--patient-points is missing, or --stylus, --patient-marker and --tip")
    return touched_in_order(planned_mm, phantom.steady_places(phantom.tips_in_patient(styluses, markers, tip_mm)))


def measured_points(
    sources: Sources, measured: Path, stylus: Path | None, patient_marker: Path | None
) -> Mapping[str, Matrix]:
    """Label -> (3,) RAS mm, from a file.

    Raises:
        ConfigError: a stream was passed as well.
    """
    if stylus is not None or patient_marker is not None:
        raise ConfigError("use --measured, or --stylus and --patient-marker")
    return inputs.points(measured, sources.files)


def stream_of_touches(
    sources: Sources,
    stylus: Path | None,
    patient_marker: Path | None,
    tip_mm: Array | None,
    volume_from_patient: Path | None,
) -> tuple[Matrix, Matrix, Array, Array]:
    """tracker_from_stylus and tracker_from_patient (N, 4, 4), the tip (3,) and volume_from_patient.

    Raises:
        ConfigError: one is missing.
    """
    styluses = sources.poses("stylus", stylus).poses
    markers = sources.poses("patient-marker", patient_marker).poses
    if tip_mm is None or volume_from_patient is None:
        raise ConfigError("--tip and --volume-from-patient are needed with --stylus")
    registration = documents.volume_from_patient(volume_from_patient, sources.files, sources.now_ns)
    return styluses, markers, tip_mm, registration
