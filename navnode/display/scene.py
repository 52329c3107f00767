"""Turns the node's outputs into JSON texts and binary blobs for the page. No sockets here."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.config import CaseSection
from navnode.display.orientation import letters, view_name
from navnode.loop.topics import PICTURE_LIVE_NS, max_age_ns
from navnode.planning.views import next_view
from navnode.types import (
    CArm,
    FloatArray,
    Matrix,
    Mesh,
    NodeState,
    Plan,
    PlanDeviation,
    RegisteredFrame,
    ToolPose,
    Validity,
    Volume,
    VolumeUpdate,
    invalid,
)

__all__ = [
    "DEVIATION_SILENT_NS",
    "NODE_SILENT_NS",
    "Scene",
    "Station",
    "TOOL_SILENT_NS",
    "blob",
    "mesh_blob",
    "picture",
    "vertex_normals",
    "volume_blob",
]

NODE_SILENT_NS = max_age_ns("state")
"""The node reports its state five times a second; after this silence, nothing that it reported counts."""

TOOL_SILENT_NS = max_age_ns("tool")
"""A tool without a pose for this long is not shown."""

DEVIATION_SILENT_NS = max_age_ns("deviation")
"""Likewise for how a tool deviates from a plan."""

_VIEW_OLD_NS = max_age_ns("frame")
_SILENT, _STARTING = "the node is silent", "the node is starting"
_BACK_MM, _AHEAD_MM = 120.0, 80.0
_RANGE_HU = (-2048.0, 8192.0)
"""Half floats hold whole HU up to 2048, and every fourth at the end."""
_JPEG_QUALITY = 82


@dataclass
class Station:
    """One of the two X-rays on the page."""

    counts: npt.NDArray[np.uint16]
    """(H, W)"""
    carm: CArm
    volume_from_carm: Matrix
    timestamp_ns: int
    shown_ns: int
    age_ns: int
    """Its age when it was sent."""
    _jpeg: bytes | None = None

    def jpeg(self) -> bytes:
        """The X-ray as JPEG, encoded at the first call."""
        if self._jpeg is None:
            self._jpeg = picture(self.counts)
        return self._jpeg


@dataclass
class Scene:
    """The newest outputs of the node, independent of viewers."""

    case: CaseSection = field(default_factory=CaseSection)
    volume_from: str = "ct"
    """What the volume comes from: ``ct``, ``xrays``, or ``bones``: there is none, each bone has its own."""
    stations: dict[int, Station] = field(default_factory=dict)
    tools: dict[str, tuple[ToolPose, int]] = field(default_factory=dict)
    deviation: tuple[PlanDeviation, int] | None = None
    placed: tuple[RegisteredFrame, int] | None = None
    """The last X-ray whose C-arm's pose is known."""
    state: NodeState | None = None
    state_ns: int = 0
    live_station: int | None = None
    last_frame_ns: int = 0
    moving: bool = False

    def on_output(self, output: object, sent_ns: int) -> None:
        """Keep an output of the node.

        Args:
            sent_ns: when the node sent it, by the monotonic clock: it is as old as that, however late it was read.
        """
        match output:
            case NodeState():
                if self.replaces(output):
                    # These pictures were placed by a registration that is lost.
                    self.stations.clear()
                self.state, self.state_ns = output, sent_ns
            case ToolPose():
                self.tools[output.tool] = output, sent_ns
            case PlanDeviation():
                self.deviation = output, sent_ns
            case RegisteredFrame():
                self._on_frame(output, sent_ns)

    def replaces(self, state: NodeState) -> bool:
        """Whether nothing that was placed before this state may be shown any more."""
        return self.state is not None and state.epoch != self.state.epoch

    def _on_frame(self, frame: RegisteredFrame, sent_ns: int) -> None:
        self.live_station, self.last_frame_ns = frame.station, sent_ns
        self.moving = frame.station is None and frame.volume_from_carm is not None
        self.placed = (frame, sent_ns) if frame.volume_from_carm is not None else None
        if frame.station is None or frame.volume_from_carm is None:
            return
        self.stations[frame.station] = Station(
            frame.frame.counts,
            frame.carm,
            frame.volume_from_carm,
            frame.frame.timestamp_ns,
            sent_ns,
            frame.validity.age_ns,
        )

    @property
    def oriented(self) -> bool:
        """Whether directions in the volume are known; False until the node reports it."""
        return self.state is not None and self.state.oriented

    def describe(self, now_ns: int) -> dict[str, Any]:
        """The scene without images and volumes, for JSON."""
        silent = self.state is None or now_ns - self.state_ns > NODE_SILENT_NS
        unheard = invalid(_SILENT if self.state else _STARTING)
        registration = self.state.registration if self.state and not silent else unheard
        return {
            "registration": _validity(registration),
            "bodies": self._bodies(silent),
            "tools": [self._tool(pose, heard_ns, now_ns, silent) for pose, heard_ns in self.tools.values()],
            "views": [self._view(slot, now_ns, silent) for slot in sorted(self.stations)],
            "moving": self.moving and now_ns - self.last_frame_ns < PICTURE_LIVE_NS,
            "silent": silent,
            "case": {"name": self.case.name, "side": self.case.side},
            "volume_from": self.volume_from,
            "oriented": self.oriented,
            "state": _figures(self.state) if self.state and not silent else None,
            "plans": self._plans(silent),
            "aim": self._aim(now_ns, silent),
        }

    def _plans(self, silent: bool) -> list[dict[str, Any]]:
        if self.state is None or silent:
            return []
        return [
            {
                "name": plan.name,
                "active": plan.name == self.state.active_plan,
                "entry_mm": plan.entry_mm,
                "target_mm": plan.target_mm,
            }
            for plan in self.state.plans
        ]

    def _aim(self, now_ns: int, silent: bool) -> dict[str, Any] | None:
        """How the tool deviates from the plan that is aimed at, and where the C-arm looks along it; None: no plan."""
        plan = None if self.state is None or silent else self.state.plan
        if plan is None:
            return None
        aim: dict[str, Any] = {"plan": plan.name, "view": self._next_view(plan, now_ns)}
        if self.deviation is None or self.deviation[0].plan != plan.name:
            return aim | {"validity": _validity(invalid("the tool's pose is not known"))}
        deviation, heard_ns = self.deviation
        if now_ns - heard_ns > DEVIATION_SILENT_NS:
            return aim | {"tool": deviation.tool, "validity": _validity(invalid("no pose from the node"))}
        aim |= {"tool": deviation.tool, "validity": _validity(deviation.validity)}
        if deviation.validity.usable and deviation.lateral_mm is not None:
            aim |= {
                name: [round(float(value), 2), round(float(half), 2)]
                for name, value, half in (
                    ("lateral_mm", deviation.lateral_mm, deviation.lateral_95_mm),
                    ("angle_deg", _degrees(deviation.angle_rad), _degrees(deviation.angle_95_rad)),
                    ("depth_mm", deviation.depth_mm, deviation.depth_95_mm),
                )
                if value is not None and half is not None
            }
        return aim

    def _next_view(self, plan: Plan, now_ns: int) -> dict[str, Any] | None:
        """None while nobody knows where the C-arm stands, or which way the patient lies."""
        if self.placed is None or not self.oriented or now_ns - self.placed[1] > _VIEW_OLD_NS:
            return None
        frame = self.placed[0]
        if frame.volume_from_carm is None or not frame.validity.usable:
            return None
        view = next_view(plan, frame.volume_from_carm)
        return {
            "text": str(view),
            "there": view.there,
            "turn_deg": np.rad2deg([view.turn_lao_rad, view.turn_cranial_rad]).round(1).tolist(),
            "to_deg": np.rad2deg([view.angles.lao_rad, view.angles.cranial_rad]).round(1).tolist(),
        }

    def _bodies(self, silent: bool) -> list[dict[str, Any]]:
        """Bones that move by themselves: their verdicts."""
        known = self.state.bodies.items() if self.state else ()
        return [
            {"name": name, "validity": _validity(invalid(_SILENT) if silent else validity)} for name, validity in known
        ]

    def _tool(self, pose: ToolPose, heard_ns: int, now_ns: int, silent: bool) -> dict[str, Any]:
        validity, volume_from_tool = pose.validity, pose.volume_from_tool
        if silent:
            validity, volume_from_tool = invalid(_SILENT), None
        elif volume_from_tool is not None and now_ns - heard_ns > TOOL_SILENT_NS:
            validity, volume_from_tool = invalid("no pose from the node"), None
        shown: dict[str, Any] = {"name": pose.tool, "validity": _validity(validity)}
        if volume_from_tool is not None:
            ends = np.array([[0, 0, -_BACK_MM], [0, 0, 0], [0, 0, _AHEAD_MM]])
            points = g.transform(volume_from_tool, ends)
            shown["back_mm"], shown["tip_mm"], shown["ahead_mm"] = points.round(3).tolist()
        return shown

    def _view(self, slot: int, now_ns: int, silent: bool) -> dict[str, Any]:
        station = self.stations[slot]
        age_ns = station.age_ns + now_ns - station.shown_ns
        return {
            "slot": slot,
            "name": view_name(station.volume_from_carm) if self.oriented else f"X-ray {slot + 1}",
            "age_s": round(age_ns / 1e9, 2),
            "live": not silent and self.live_station == slot and age_ns < PICTURE_LIVE_NS,
            "size_px": [station.carm.width_px, station.carm.height_px],
            "timestamp_ns": str(station.timestamp_ns),
            "letters": letters(station.volume_from_carm) if self.oriented else None,
            "pixels_from_volume": _matrix(station),
        }


def picture(counts: npt.NDArray[np.uint16]) -> bytes:
    """An X-ray, (H, W) counts, as JPEG: bone is bright; 2nd to 99.8th percentile of the line integrals."""
    line = -cv2.log(np.maximum(counts, 1).astype(np.float32))
    low, high = np.percentile(line[::8, ::8], (2, 99.8))
    scale = 255.0 / max(high - low, 1e-3)
    grey = cv2.convertScaleAbs(np.maximum(line, np.float32(low)), alpha=scale, beta=-low * scale)
    ok, jpeg = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert ok
    return bytes(jpeg)


def blob(kind: str, about: dict[str, Any], *payloads: bytes) -> bytes:
    """Encode a binary message: u32 length of the JSON head, the head, then the payloads, each 4-byte aligned."""
    sizes = [len(payload) for payload in payloads]
    head = json.dumps({"kind": kind, "sizes": sizes, **about}).encode()
    head += b" " * (-len(head) % 4)
    return struct.pack("<I", len(head)) + head + b"".join(p + b"\0" * (-len(p) % 4) for p in payloads)


def volume_blob(update: VolumeUpdate) -> bytes:
    """Encode a volume as HU in half floats for a 3-D texture; what is black and white is the viewer's choice."""
    hu = np.clip(update.volume.voxels, *_RANGE_HU).astype(np.float16)
    k, j, i = hu.shape
    about = {
        "role": update.role,
        "method": update.method,
        "size": [i, j, k],
        "index_from_volume": np.linalg.inv(update.volume.volume_from_index).ravel().tolist(),
        "center_mm": update.volume.center_mm.tolist(),
        "spacing_mm": list(update.volume.spacing_mm),
        "digest": _digest(update.volume),
        "validity": _validity(update.validity),
    }
    return blob("volume", about, hu.tobytes())


def _digest(volume: Volume) -> str:
    """The same for the same voxels at the same place, whichever node sent them."""
    told = hashlib.blake2b(volume.volume_from_index.tobytes(), digest_size=16)
    told.update(np.ascontiguousarray(volume.voxels).data)
    return told.hexdigest()


def mesh_blob(update: VolumeUpdate, mesh: Mesh) -> bytes:
    """Encode the bone surface with its normals."""
    about = {"role": update.role, "validity": _validity(update.validity)}
    normals = vertex_normals(mesh)
    return blob("mesh", about, mesh.vertices_mm.tobytes(), normals.tobytes(), mesh.triangles.tobytes())


def vertex_normals(mesh: Mesh) -> FloatArray:
    """Unit normals, (N, 3): area-weighted means of the triangles around each vertex."""
    a, b, c = (mesh.vertices_mm[mesh.triangles[:, corner]] for corner in range(3))
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [
            sum(np.bincount(mesh.triangles[:, corner], face[:, axis], len(mesh.vertices_mm)) for corner in range(3))
            for axis in range(3)
        ],
        axis=1,
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return normals.astype(np.float32)


def _matrix(station: Station) -> list[float]:
    """3x4, by rows: homogeneous (u, v, 1) of points in the volume, by their depth in mm."""
    carm = station.carm
    (u, v), (across, down), far = carm.principal_point_px, carm.pixel_spacing_mm, carm.source_to_detector_mm
    intrinsic = np.array([[far / across, 0, u], [0, far / down, v], [0, 0, 1]])
    rows: Matrix = intrinsic @ g.inverse(station.volume_from_carm)[:3]
    return rows.ravel().tolist()


def _degrees(angle_rad: float | None) -> float | None:
    return None if angle_rad is None else float(np.rad2deg(angle_rad))


def _validity(validity: Validity) -> dict[str, str]:
    return {"status": validity.status.value, "reason": validity.reason}


def _figures(state: NodeState) -> dict[str, Any]:
    recording, times = state.recording, state.volume_times
    times_ms = (times.took_ms, times.elsewhere_ms, times.budget_ms) if times else ()
    return {
        "frame_rate_hz": round(state.frame_rate_hz, 1),
        "frames_received": state.frames_received,
        "frames_registered": state.frames_registered,
        "latency_ms": [state.latency_ms.p50, state.latency_ms.p99],
        "overlay_ms": [state.overlay_latency_ms.p50, state.overlay_latency_ms.p99],
        "target_sigma_mm": state.target_sigma_mm,
        "sources": state.sources,
        "worker": state.worker,
        "worker_alive": state.worker_alive,
        "volume": state.volume,
        "volumes": state.volumes,
        "volume_s": [round(ms / 1000, 1) for ms in times_ms],
        "active_tool": state.active_tool,
        "recording": {
            "file": recording.file,
            "messages": recording.messages,
            "size_mb": round(recording.size_bytes / 1e6),
            "lost": recording.lost,
            "failure": recording.failure,
            "minutes_left": recording.minutes_left if recording.short_of_disk else None,
            "running": recording.running,
            "faulty": bool(recording.failure or recording.lost or recording.short_of_disk),
        },
        "replay": state.replay,
        "dose": asdict(state.dose),
        "dropped": state.dropped,
        "notices": list(state.notices),
    }
