"""The virtual operating room's server: frames rendered ahead, poses at 100 Hz, and the truth under separate names.

It looks like a PlusServer: an OpenIGTLink server with an X-ray IMAGE and marker TRANSFORMs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from navnode import geometry as g
from navnode.clock import NS_PER_S, now_ns
from navnode.config import SimulatorSection
from navnode.errors import ConfigError
from navnode.expansion import load_arrays
from navnode.files.cache import own_cache_folder
from navnode.files.volumes import read_volume
from navnode.igtl import Image, Server, Transform
from navnode.igtl.conventions import DOSE_KEY, EXPOSURE_KEY, transform_metadata
from navnode.projector import Projector
from navnode.simulation.audience import NOBODY, Audience
from navnode.simulation.practice import IMAGE_LAG_S, Timed, angles_metadata, as_seen, margin_px
from navnode.simulation.sample_ct import resolve_ct
from navnode.simulation.scenario import (
    CARM_DEVICE,
    PATIENT_DEVICE,
    TRUTH_CARM,
    TRUTH_PATIENT,
    XRAY_DEVICE,
    Scenario,
    carm_of_size,
    scenario_for,
)
from navnode.types import Array, CArm, Matrix
from navnode.xray.chain import METAL_PER_MM, XrayChain, cylinder_chords_mm

__all__ = [
    "RenderedRoom",
    "Room",
    "load",
    "load_scenario",
    "more_tools",
    "practise",
    "prepare",
]

_RENDER_PX = 256
"""Line integrals are rendered at this width, then enlarged: it resolves CT voxels, and blur hides the rest."""
_FRAME_DGY_CM2 = 0.011
"""Dose of a pulse: 1 Gy cm2 a minute at 15 pulses a second."""
_EXPOSURE_MS = 5.0

_TOOL_RADIUS_MM, _TOOL_LENGTH_MM = 2.5, 160.0
_KEPT_FILES = 4
_UNFINISHED_S = 3_600.0
_VERSION = 3
"""Part of the cache key; increment it when rendered frames change."""


@dataclass(frozen=True)
class RenderedRoom:
    """Frames of one loop of the operation, ready to stream."""

    scenario: Scenario
    counts: npt.NDArray[np.uint16]
    """(N, H, W); of a room with errors, with a margin around the detector."""
    frame_rate_hz: float


def prepare(settings: SimulatorSection, audience: Audience = NOBODY, threads: int = 0) -> Path:
    """Render the loop's frames into the user's cache, and return their path.

    Raises:
        ConfigError: the CT or the cache cannot be used.
    """
    ct = resolve_ct(settings.ct, audience)
    path = own_cache_folder("rooms") / f"{_key(settings, ct)}.npy"
    if path.exists() and path.with_suffix(".json").exists():
        path.touch()
        return path
    volume = read_volume(ct)
    scenario = scenario_for(volume)
    projector = Projector(volume, threads=1)
    width_px = settings.size_px + 2 * _margin_px(settings)
    carm, coarse = (_detector(settings.size_px, width_px, min(width_px, most)) for most in (width_px, _RENDER_PX))
    detector = XrayChain()
    count = round(scenario.period_s * settings.frame_rate_hz)

    def frame(index: int) -> Array:
        t_s = index / settings.frame_rate_hz
        volume_from_carm = scenario.volume_from_carm(t_s)
        carm_from_tool = g.inverse(volume_from_carm) @ scenario.volume_from_tool(t_s)
        line = projector.render(coarse, volume_from_carm)
        line += METAL_PER_MM * cylinder_chords_mm(coarse, carm_from_tool, _TOOL_RADIUS_MM, _TOOL_LENGTH_MM)
        gain = 1.0 + 0.08 * np.sin(2 * np.pi * t_s / scenario.period_s)
        return detector.expose(line, carm, gain, np.random.default_rng((settings.seed, index)))

    _forget_unfinished(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "frames.npy"
        shape = (count, width_px, width_px)
        frames = _allocated(part, shape)
        with ThreadPoolExecutor(threads or None) as pool:
            for index, image in enumerate(pool.map(frame, range(count))):
                frames[index] = image
                audience.counted(index + 1, count, "Rendering X-rays (once)")
        frames.flush()
        about = {"isocentre_mm": scenario.isocentre_mm.tolist(), "targets_mm": scenario.targets_mm.tolist()}
        path.with_suffix(".json").write_text(json.dumps(about))
        part.replace(path)
    _forget_old(path.parent)
    return path


def _margin_px(settings: SimulatorSection) -> int:
    return margin_px(settings.size_px) if settings.errors else 0


def _detector(size_px: int, width_px: int, pixels: int) -> CArm:
    """The C-arm of ``size_px`` whose detector is as wide as ``width_px`` of its pixels, and has others in number."""
    nominal = carm_of_size(size_px)
    spacing_mm, middle = nominal.pixel_spacing_mm[0] * width_px / pixels, (pixels - 1) / 2
    return replace(
        nominal,
        width_px=pixels,
        height_px=pixels,
        pixel_spacing_mm=(spacing_mm, spacing_mm),
        principal_point_px=(middle, middle),
    )


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint16]]:
    """A new array in a file with allocated blocks: on a full disk, writing to a sparse one would kill the process."""
    frames: np.memmap[Any, np.dtype[np.uint16]] = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint16, shape=shape
    )
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        folder, needed_mb = path.parent.parent, frames.nbytes / 1e6
        raise ConfigError(f"{folder}: no space for {needed_mb:.0f} MB of X-rays ({error.strerror})") from error
    return frames


def load(path: Path, settings: SimulatorSection) -> RenderedRoom:
    """Load the frames that :func:`prepare` rendered."""
    counts = load_arrays(path, 1 << 40, mapped=True)
    return RenderedRoom(load_scenario(path), counts, settings.frame_rate_hz)


def load_scenario(path: Path) -> Scenario:
    """Load the scenario of the frames that :func:`prepare` rendered."""
    about = json.loads(path.with_suffix(".json").read_text())
    return Scenario(isocentre_mm=np.array(about["isocentre_mm"]), targets_mm=np.array(about["targets_mm"]))


class Room:
    """Streams a rendered loop while :meth:`run` runs."""

    def __init__(self, rendered: RenderedRoom, settings: SimulatorSection) -> None:
        self._scenario, self._counts = rendered.scenario, rendered.counts
        self._period_s = rendered.scenario.period_s
        self._frame_rate_hz, self._pose_rate_hz = rendered.frame_rate_hz, settings.pose_rate_hz
        self.server = Server(settings.host, settings.port, name="VirtualRoom")
        self._carm = carm_of_size(settings.size_px)
        self._more = [f"{name}ToTracker" for name in more_tools(settings.more_tools)]
        self._devices = (CARM_DEVICE, PATIENT_DEVICE, rendered.scenario.tool_device, *self._more)
        self._poses = self._measured_poses(settings.seed)
        self._truth_tool = [rendered.scenario.volume_from_tool(t) for t in self._pose_times()]
        times = [i / self._frame_rate_hz for i in range(len(rendered.counts))]
        self._with_errors = as_seen(settings.size_px) if settings.errors else None
        self._lag_ns = round(IMAGE_LAG_S * NS_PER_S) if settings.errors else 0
        self._truth_carm = [rendered.scenario.volume_from_carm(t) for t in times]
        self._angles_rad = [(rendered.scenario.orbital_rad(t), rendered.scenario.angulation_rad(t)) for t in times]
        self._began_ns = 0
        self.frames_sent = 0
        self.send_xray: Callable[[Image], None] = self.server.publish
        """Where X-rays go."""

    async def run(self) -> None:
        """Stream until cancelled; start the server first."""
        self._began_ns = now_ns()
        await asyncio.gather(self._stream_poses(), self._stream_frames())

    async def _stream_poses(self) -> None:
        index = 0
        while True:
            stamp_ns = self._began_ns + round(index * NS_PER_S / self._pose_rate_hz)
            await _until(stamp_ns + round(self._scenario.tracker_latency_s * NS_PER_S))
            at = index % len(self._truth_tool)
            for device in self._devices:
                pose = self._poses[device][at]
                message = Transform(
                    device=device,
                    timestamp_ns=stamp_ns,
                    metadata=transform_metadata(pose),
                    matrix=np.eye(4) if pose is None else pose,
                )
                self.server.publish(message, needs_status=pose is None)
            self._publish_truth(self._scenario.truth_tool, stamp_ns, self._truth_tool[at])
            if index % round(self._pose_rate_hz) == 0:
                self._publish_truth(TRUTH_PATIENT, stamp_ns, self._scenario.volume_from_patient)
            index += 1

    async def _stream_frames(self) -> None:
        spacing = self._carm.pixel_spacing_mm
        ras_from_index = np.diag([spacing[0], spacing[1], 1.0, 1.0])
        index = 0
        while True:
            stamp_ns = self._began_ns + round(index * NS_PER_S / self._frame_rate_hz)
            at = index % len(self._counts)
            await _until(stamp_ns + round(self._scenario.xray_latency_s * NS_PER_S))
            counts = np.array(self._counts[at])
            if self._with_errors is not None:
                counts = await asyncio.to_thread(self._with_errors, counts, *self._angles_rad[at])
            self.send_xray(
                Image(
                    device=XRAY_DEVICE,
                    timestamp_ns=stamp_ns + self._lag_ns,
                    voxels=counts[None],
                    ras_from_index=ras_from_index,
                    metadata={
                        DOSE_KEY: f"{_FRAME_DGY_CM2:g}",
                        EXPOSURE_KEY: f"{_EXPOSURE_MS:g}",
                        **angles_metadata(*self._angles_rad[at]),
                    },
                )
            )
            self._publish_truth(TRUTH_CARM, stamp_ns, self._truth_carm[at])
            self.frames_sent += 1
            index += 1

    def _publish_truth(self, device: str, stamp_ns: int, matrix: Matrix) -> None:
        self.server.publish(Transform(device=device, timestamp_ns=stamp_ns, matrix=matrix))

    def _tracker_from_marker(self, device: str, t_s: float) -> Matrix:
        if device not in self._more:
            return self._scenario.tracker_from_marker(device, t_s)
        aside = (40.0 * (1 + self._more.index(device)), 0.0, 0.0)
        return self._scenario.tracker_from_marker(PATIENT_DEVICE, t_s) @ g.rigid(None, aside)

    def _pose_times(self) -> list[float]:
        return [i / self._pose_rate_hz for i in range(round(self._period_s * self._pose_rate_hz))]

    def _measured_poses(self, seed: int) -> dict[str, list[Matrix | None]]:
        """Noisy poses of one loop; None while a marker is hidden."""
        rng = np.random.default_rng((seed, 1))
        sigma = np.array([self._scenario.noise_rad] * 3 + [self._scenario.noise_mm] * 3)
        return {
            device: [
                None
                if self._scenario.occluded(device, t)
                else self._tracker_from_marker(device, t) @ g.exp(rng.normal(0, sigma))
                for t in self._pose_times()
            ]
            for device in self._devices
        }


def more_tools(count: int) -> list[str]:
    """Names of the tools besides the drill."""
    return [f"Tool{n}" for n in range(2, 2 + count)]


async def practise(server: Server, scene: Timed, send_xray: Callable[[Image], None] | None = None) -> None:
    """Publish a scene's messages at their times.

    Args:
        send_xray: where X-rays go; None: to the server, like all others.
    """
    began_ns = now_ns()
    for at_ns, message in scene:
        await _until(began_ns + at_ns)
        stamped = msgspec.structs.replace(message, timestamp_ns=began_ns + message.timestamp_ns)
        if isinstance(stamped, Image) and send_xray is not None:
            send_xray(stamped)
        else:
            server.publish(stamped)


async def _until(time_ns: int) -> None:
    wait_ns = time_ns - now_ns()
    await asyncio.sleep(max(0.0, wait_ns / NS_PER_S))


def _key(settings: SimulatorSection, ct: Path) -> str:
    files = sorted(ct.rglob("*")) if ct.is_dir() else [ct]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    room = [settings.size_px, settings.frame_rate_hz, settings.seed, _margin_px(settings)]
    content = [_VERSION, str(ct.resolve()), stats, *room, asdict(XrayChain())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _forget_unfinished(folder: Path) -> None:
    """Remove folders that killed processes left; those of running ones are younger."""
    for left in folder.glob("tmp*"):
        if time.time() - left.stat().st_mtime > _UNFINISHED_S:
            shutil.rmtree(left, ignore_errors=True)


def _forget_old(folder: Path) -> None:
    rooms = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in rooms[_KEPT_FILES:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
