"""A part of a session as a scene of 3D Slicer, to be opened and played there: X-rays on their detector, tools, the CT.

Facts: Slicer's developer guide, "MRML overview" and "Volume sequence file format"; attributes as Slicer writes them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from navnode.errors import RecordingError
from navnode.files.meshes import write_mesh
from navnode.files.volumes import write_volume
from navnode.files.whole import refuse_existing, write_whole
from navnode.loop.calibrations import Calibrations
from navnode.recording import sequences
from navnode.recording.piece import Piece, images_of, pixels, placed, stamps_of
from navnode.recording.regression import configuration
from navnode.types import Matrix, Mesh, Progress, SurfaceReady, Volume, VolumeReady

__all__ = ["write"]

_TOGETHER_NS = 50_000_000
"""A tool's pose is shown with an X-ray that is no farther in time."""
_SAME_MS = 2
"""Slicer tells items apart by milliseconds: X-rays that are closer are one."""
_AWAY = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 10_000], [0, 0, 0, 1]])
"""Where a tool is shown whose pose is not known: far from everything, as Slicer would go on showing the last one."""
_TOOL_MM, _TOOL_RADIUS_MM = 150.0, 1.5
_USABLE = ("VALID", "DEGRADED")


@dataclass
class _Shown:
    """What a scene shows, by the X-rays whose pose is known."""

    stamps: list[int] = field(default_factory=list)
    volume_from_carm: list[Matrix] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    left_out: int = 0
    """X-rays whose pose was not known, or that are not in the session."""
    tools: dict[str, dict[int, Matrix]] = field(default_factory=dict)
    """Transform such as ``DrillToVolume`` -> time of the pose -> 4x4; those that may be used."""
    volume: Volume | None = None
    bone: Mesh | None = None


def write(source: Piece, out: Path, progress: Progress) -> list[Path]:
    """Write a scene, and its data beside it: X-rays, transforms, tools, the first volume and bone that were found.

    X-rays without a pose that may be used are left out. A tool without one is shown ten metres away.

    Raises:
        RecordingError: no X-ray has a pose that may be used, or there are none.
        ConfigError: a file exists already, or the session holds no configuration.
        CalibrationError: a calibration in the session cannot be used.
        OSError: a file cannot be written.
    """
    device = images_of(source)
    if not device:
        raise RecordingError(f"{source.recording.path}: holds no X-rays in this part")
    shown = _read(source, stamps_of(source, device), lambda share: progress(0.5 * share))
    if not shown.stamps:
        raise RecordingError(f"{source.recording.path}: no X-ray in this part has a pose that may be used")
    with TemporaryDirectory() as folder:
        config = configuration(source.recording, None, Path(folder))
        node = Calibrations.load(config, source.recording.start_ns)
    return _Scene(source, out, device, shown, node).write(lambda share: progress(0.5 + 0.5 * share))


def _read(source: Piece, pictured: set[int], progress: Progress) -> _Shown:
    shown, last_ms = _Shown(), -_SAME_MS
    for entry in source.entries(lambda c: c.topic in ("out/frame", "volume") or c.topic.startswith("out/tool/")):
        progress((entry.time_ns - source.begin_ns) / max(source.end_ns - source.begin_ns, 1))
        content = entry.content
        if isinstance(content, VolumeReady | SurfaceReady):
            shown.bone = shown.bone or content.bone
            if isinstance(content, VolumeReady):
                shown.volume = shown.volume or content.volume
        elif not isinstance(content, dict):
            continue
        elif entry.topic == "out/frame":
            stamp, pose = content["frame"]["timestamp_ns"], content["volume_from_carm"]
            if content["validity"]["status"] not in _USABLE or pose is None or stamp not in pictured:
                shown.left_out += 1
            elif (at_ms := stamp // 1_000_000) - last_ms >= _SAME_MS:
                last_ms = at_ms
                shown.stamps.append(stamp)
                shown.volume_from_carm.append(np.array(pose))
                shown.statuses.append(content["validity"]["status"])
        else:
            name, pose = placed(entry.topic, content)
            poses = shown.tools.setdefault(name, {})
            if content["validity"]["status"] in _USABLE and pose is not None:
                poses[content["validity"]["source_time_ns"]] = np.array(pose)
    return shown


class _Scene:
    """The nodes of a scene, and the files that they refer to."""

    def __init__(self, source: Piece, out: Path, device: str, shown: _Shown, node: Calibrations) -> None:
        self._source, self._out, self._device, self._shown = source, out, device, shown
        self._carm, self._ideal = node.config.carm.geometry, node.detector.ideal
        self._times_s = np.round([source.seconds(stamp) for stamp in shown.stamps], 3)
        self._root = ET.Element("MRML", version="Slicer 5.6.2", userTags="")
        self._numbers: dict[str, int] = {}
        self._pairs: list[tuple[str, str]] = []
        """Sequence and the node that shows its item."""
        self._files: list[Path] = [out]

    def write(self, progress: Progress) -> list[Path]:
        """Write all files; the scene itself last."""
        shown = self._shown
        if shown.volume is not None:
            self._volume(shown.volume)
        if shown.bone is not None:
            self._model("Bone", shown.bone, "0.9 0.87 0.76")
        carm = self._moving("CArmToVolume", shown.volume_from_carm)
        self._xrays(carm, progress)
        for name, poses in sorted(shown.tools.items()):
            moving = self._moving(name, _at(poses, shown.stamps))
            self._model(name.removesuffix("ToVolume"), _pointer(), "0.9 0.6 0.1", {"transform": moving})
        self._browser()
        note = (
            f"{len(shown.stamps)} X-rays with a pose that may be used, {shown.left_out} left out; "
            f"{shown.statuses.count('DEGRADED')} are DEGRADED. A tool whose pose is not known is ten metres away. "
            + ("" if self._ideal else "X-rays as they came: distortion and flex are not corrected. ")
            + "Research use only."
        )
        self._root.set("description", note)
        ET.indent(self._root)
        write_whole(self._out, ET.tostring(self._root, encoding="utf-8", xml_declaration=True))
        return self._files

    def _beside(self, ending: str) -> Path:
        path = self._out.with_name(f"{self._out.stem}-{ending}")
        refuse_existing(path)
        self._files.append(path)
        return path

    def _node(self, tag: str, kind: str, name: str, references: dict[str, str] | None = None, **more: str) -> str:
        """Add a node of a class ``vtkMRML<kind>Node``; its ID."""
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        identity = f"vtkMRML{kind}Node{self._numbers[kind]}"
        attributes = {"id": identity, "name": name, "hideFromEditors": "false", "selectable": "true"}
        if references:
            attributes["references"] = "".join(f"{role}:{other};" for role, other in references.items())
        ET.SubElement(self._root, tag, attributes | more)
        return identity

    def _volume(self, volume: Volume) -> None:
        path = self._beside("Volume.nii.gz")
        write_volume(volume, path)
        kind = "VolumeDisplay", "ScalarVolumeDisplay"
        display = self._node(*kind, "Volume", window="1500", level="300", autoWindowLevel="0")
        storage = self._node("VolumeArchetypeStorage", "VolumeArchetypeStorage", "Volume", fileName=path.name)
        self._node("Volume", "ScalarVolume", "Volume", {"display": display, "storage": storage})

    def _moving(self, name: str, poses: list[Matrix]) -> str:
        """A transform that a sequence moves; its ID."""
        path = self._beside(f"{name}.seq.mha")
        none = np.zeros((len(poses), 0, 0), np.uint8)
        sequences.write(path, sequences.Sequence(none, self._times_s, transforms={name: list(poses)}))
        rows = " ".join(f"{value:.9g}" for value in poses[0].ravel())
        moving = self._node("LinearTransform", "LinearTransform", name, matrixTransformToParent=rows)
        self._sequence(name, path, "LinearTransformSequenceStorage", "LinearTransform", moving)
        return moving

    def _xrays(self, parent: str, progress: Progress) -> None:
        path, carm, stamps = self._beside(f"{self._device}.seq.nrrd"), self._carm, self._shown.stamps
        u_mm, v_mm = carm.pixel_spacing_mm
        carm_from_pixel = np.diag([u_mm, v_mm, 1.0, 1.0])
        carm_from_pixel[:2, 3] = -np.array(carm.principal_point_px) * carm.pixel_spacing_mm
        carm_from_pixel[2, 3] = carm.source_to_detector_mm
        like = np.broadcast_to(np.zeros((), np.uint16), (len(stamps), carm.height_px, carm.width_px))
        sequence = sequences.Sequence(like, self._times_s, (u_mm, v_mm), ras_from_index=carm_from_pixel)
        sequences.write(path, sequence, pixels(self._source, self._device, stamps, like, progress))
        display = self._node("VolumeDisplay", "ScalarVolumeDisplay", self._device, autoWindowLevel="1")
        shows = self._node("Volume", "ScalarVolume", self._device, {"display": display, "transform": parent})
        self._sequence(self._device, path, "VolumeSequenceStorage", "ScalarVolume", shows)

    def _model(self, name: str, mesh: Mesh, colour: str, under: dict[str, str] | None = None) -> None:
        path = self._beside(f"{name}.stl")
        write_mesh(mesh, path)
        display = self._node("ModelDisplay", "ModelDisplay", name, color=colour, visibility="true")
        storage = self._node("ModelStorage", "ModelStorage", name, fileName=path.name, coordinateSystem="RAS")
        self._node("Model", "Model", name, {"display": display, "storage": storage} | (under or {}))

    def _sequence(self, name: str, path: Path, storage: str, item: str, shows: str) -> None:
        stored = self._node(storage, storage, name, fileName=path.name)
        sequence = self._node(
            "Sequence",
            "Sequence",
            f"{name} sequence",
            {"storage": stored},
            attributes=f"DataNodeClassName:vtkMRML{item}Node",
            indexName="time",
            indexUnit="s",
            indexType="numeric",
            numericIndexValueTolerance="0.001",
        )
        self._pairs.append((sequence, shows))

    def _browser(self) -> None:
        """Plays all sequences together; the X-rays lead."""
        self._pairs.sort(key=lambda pair: not pair[1].startswith("vtkMRMLScalarVolume"))
        references: dict[str, str] = {}
        more: dict[str, str] = {}
        for n, (sequence, shows) in enumerate(self._pairs):
            references |= {f"dataNodeRef{n}": shows, f"sequenceNodeRef{n}": sequence}
            more[f"SynchronizationPropertiesMap{n}"] = (
                "playback true recording false overwriteProxyName false saveChanges false"
            )
        rate_hz = (len(self._times_s) - 1) / max(float(np.ptp(self._times_s)), 1e-3)
        self._node(
            "SequenceBrowser",
            "SequenceBrowser",
            "Session",
            references,
            playbackActive="false",
            playbackRateFps=f"{max(rate_hz, 1.0):.3g}",
            playbackItemSkippingEnabled="true",
            playbackLooped="true",
            selectedItemNumber="0",
            recordingActive="false",
            virtualNodePostfixes=" ".join(map(str, range(len(self._pairs)))),
            **more,
        )


def _at(poses: dict[int, Matrix], stamps: list[int]) -> list[Matrix]:
    """The pose nearest to each time, or one far away where none is near."""
    times = np.array(sorted(poses), np.int64)
    if not len(times):
        return [_AWAY] * len(stamps)
    after = np.clip(np.searchsorted(times, stamps), 1, len(times) - 1) if len(times) > 1 else np.zeros(len(stamps), int)
    before = np.maximum(after - 1, 0)
    wanted = np.array(stamps, np.int64)
    nearest = times[np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)]
    return [
        poses[int(time)] if abs(int(time) - stamp) <= _TOGETHER_NS else _AWAY
        for time, stamp in zip(nearest, stamps, strict=True)
    ]


def _pointer() -> Mesh:
    """A tool: its tip at the origin, its shaft along -z."""
    around = np.arange(0, 2 * np.pi, np.pi / 6)
    ring = _TOOL_RADIUS_MM * np.stack([np.cos(around), np.sin(around), np.zeros_like(around)], axis=1)
    count = len(around)
    ends = np.array([[0.0, 0, 0], [0.0, 0, -_TOOL_MM]])
    vertices_mm = np.concatenate([ends, ring - [0, 0, 4 * _TOOL_RADIUS_MM], ring - [0, 0, _TOOL_MM]])
    near = 2 + np.arange(count)
    following, far = np.roll(near, -1), near + count
    beyond = following + count
    tip, end = np.zeros(count, int), np.ones(count, int)
    corners = ((tip, near, following), (near, far, beyond), (near, beyond, following), (end, beyond, far))
    return Mesh(vertices_mm, np.concatenate([np.stack(each, axis=1) for each in corners]))
