"""Recording: speed compared with the MCAP library's writer, losses by kills, and seek times."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as LibraryWriter

from navnode.clock import elapsed_ms
from navnode.files.report import percentiles
from navnode.igtl import Image, Transform, decode, encode
from navnode.recording.container import CHUNK_BYTES, Channel, Parts
from navnode.recording.edit import recover
from navnode.recording.format import OPENIGTLINK
from navnode.recording.reader import ContainerReader
from navnode.recording.recorder import Recorder
from navnode.recording.recording import Recording
from navnode.recording.writer import ContainerWriter

__all__ = ["Killed", "Seeking", "Throughput", "run"]

_IMAGE_PX = 1024
_FRAMES = 60
_SPARSE_BYTES = 10 << 30
_SEEKS = 100
_POSES_PER_FRAME = 27
"""8 tools at 100 Hz beside 30 frames per second."""


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of writing X-rays and poses."""

    cpu_ms_per_frame: dict[str, float]
    """Writer -> median."""
    ratio: float
    """Time of the library's writer over that of ours."""


class SeekFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Seek times, ms."""

    p50: float
    max: float


class Seeking(msgspec.Struct, frozen=True, kw_only=True):
    """Seeking in a long session."""

    gigabytes: float
    open_ms: float
    seek_ms: SeekFigures


class Killed(msgspec.Struct, frozen=True, kw_only=True):
    """Recordings whose process was killed."""

    kills: int
    recovered: int
    lost_more_than_the_open_chunk: int
    unfinished: int
    largest_torn_bytes: int


class RecordingReport(msgspec.Struct, frozen=True, kw_only=True):
    """Cost and robustness of recording."""

    throughput: Throughput
    seek: Seeking
    killed: Killed


def run(kills: int, progress: Callable[[float], None] = lambda share: None) -> RecordingReport:
    """Measure all figures.

    Args:
        kills: number of recording processes to kill.
    """
    with tempfile.TemporaryDirectory(prefix="navnode-bench-") as name:
        folder = Path(name)
        throughput = _throughput(folder)
        progress(0.15)
        seeking = _seeking(folder)
        progress(0.25)
        killed = _killed(folder, kills, lambda share: progress(0.25 + 0.75 * share))
    return RecordingReport(throughput=throughput, seek=seeking, killed=killed)


def _throughput(folder: Path) -> Throughput:
    """Write and sync frames of 1024 x 1024 with their poses; medians of three alternating runs."""
    voxels = np.random.default_rng(0).integers(0, 20_000, (1, _IMAGE_PX, _IMAGE_PX), np.uint16)
    image = Image(device="XRay", timestamp_ns=1, ras_from_index=np.eye(4), voxels=voxels)
    frame, pose = encode(image), encode(Transform(device="ToolToTracker", timestamp_ns=1, matrix=np.eye(4)))
    ways: dict[str, Callable[[Path], None]] = {
        "navnode": lambda path: _write(path, frame, pose),
        "mcap library": lambda path: _write_by_library(path, frame, pose),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(3):
        for way, write in ways.items():
            path = folder / f"{repeat}{way}.mcap"
            began_s = time.process_time()
            write(path)
            times[way].append(time.process_time() - began_s)
            path.unlink()
    ms = {way: round(1e3 * float(np.median(times_s)) / _FRAMES, 3) for way, times_s in times.items()}
    return Throughput(cpu_ms_per_frame=ms, ratio=round(ms["mcap library"] / ms["navnode"], 2))


def _write(path: Path, frame: bytes, pose: bytes) -> None:
    images, poses = Channel("in/IMAGE/XRay", OPENIGTLINK), Channel("in/TRANSFORM/ToolToTracker", OPENIGTLINK)
    with path.open("xb", buffering=0) as file:
        writer = ContainerWriter(file)
        for n in range(_FRAMES):
            writer.add(images, (frame,), n, n, n)
            for _ in range(_POSES_PER_FRAME):
                writer.add(poses, (pose,), n, n, n)
        writer.finish()
        os.fsync(file.fileno())


def _write_by_library(path: Path, frame: bytes, pose: bytes) -> None:
    with path.open("xb") as file:
        writer = LibraryWriter(file, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
        writer.start(profile="", library="")
        schema = writer.register_schema(OPENIGTLINK, "", b"")
        images = writer.register_channel("in/IMAGE/XRay", OPENIGTLINK, schema)
        poses = writer.register_channel("in/TRANSFORM/ToolToTracker", OPENIGTLINK, schema)
        for n in range(_FRAMES):
            writer.add_message(images, n, frame, n, n)
            for _ in range(_POSES_PER_FRAME):
                writer.add_message(poses, n, pose, n, n)
        writer.finish()
        file.flush()
        os.fsync(file.fileno())


def _seeking(folder: Path) -> Seeking:
    """Seek in a file of 10 GB whose images are holes in the file system."""
    path = folder / "sparse.mcap"
    count = sparse(path, _SPARSE_BYTES)
    began_s = time.perf_counter()
    recording = Recording(path)
    size = recording.files[0].size
    opened_ms = elapsed_ms(began_s)
    rng, times = random.Random(0), []  # noqa: S311 - not for secrets
    for _ in range(_SEEKS):
        wanted = 1 + rng.randrange(count)
        began_s = time.perf_counter()
        entry = next(entry for entry in recording.raw(wanted) if entry.log_time_ns >= wanted)
        times.append(elapsed_ms(began_s))
        assert entry.log_time_ns == wanted
    recording.close()
    path.unlink()
    spread = percentiles(times, 2)
    return Seeking(
        gigabytes=round(size / 1e9, 2),
        open_ms=round(opened_ms, 1),
        seek_ms=SeekFigures(p50=spread.p50, max=spread.max),
    )


def sparse(path: Path, size: int) -> int:
    """Write a session of about ``size`` bytes as a sparse file: images of zeros, one per chunk, one per nanosecond.

    Returns:
        The number of images.
    """
    zeros = memoryview(bytes(CHUNK_BYTES))
    count = size // CHUNK_BYTES
    with path.open("xb", buffering=0) as file:
        writer = _WithHoles(file)
        for n in range(1, count + 1):
            writer.add(Channel("in/IMAGE/XRay", OPENIGTLINK), (zeros,), n, n, n)
        writer.finish()
    return count


class _WithHoles(ContainerWriter):
    """Skips zeros instead of writing them."""

    def _write(self, parts: Parts) -> None:
        for part in parts:
            if len(part) == CHUNK_BYTES:
                self._file.seek(CHUNK_BYTES, os.SEEK_CUR)
            else:
                self._file.write(part)
            self._at += len(part)


_CHILD = """
import sys, time
from pathlib import Path
from navnode.bench.recording import record_for_ever
record_for_ever(Path(sys.argv[1]))
"""


def record_for_ever(path: Path) -> None:
    """Record numbered poses and images until killed, and print how many messages are safe on the disk."""
    image = decode(encode(Image(device="XRay", voxels=np.zeros((1, 256, 256), np.uint16), ras_from_index=np.eye(4))))
    recorder = Recorder(path, {})
    pose = np.eye(4)
    printed = n = 0
    while True:
        for _ in range(10):
            n += 1
            recorder.record(Transform(device="ToolToTracker", timestamp_ns=n, matrix=pose), n)
        recorder.record(image, n)
        n += 1
        if recorder.safe != printed:
            printed = recorder.safe
            os.write(1, f"{printed}\n".encode())
        time.sleep(0.001)


def _killed(folder: Path, kills: int, progress: Callable[[float], None]) -> Killed:
    """Kill recordings at random times with SIGKILL, and recover them."""
    rng = random.Random(1)  # noqa: S311 - not for secrets
    recovered = unsafe = torn = 0
    largest = 0
    for n in range(kills):
        path, out = folder / f"{n}.mcap", folder / f"{n}.whole.mcap"
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            [sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()  # the first messages are on the disk
        time.sleep(rng.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
        safe = int(rest[-1]) if rest else 0
        file = ContainerReader(path)
        torn += file.torn_at is not None
        largest = max(largest, file.lost_bytes)
        file.close()
        kept = recover(path, out)
        entries = [entry.log_time_ns for entry in Recording(out).raw()]
        recovered += bool(entries) and entries == sorted(entries) and kept.damaged == 0
        unsafe += kept.messages < safe
        path.unlink()
        out.unlink()
        progress((n + 1) / kills)
    return Killed(
        kills=kills,
        recovered=recovered,
        lost_more_than_the_open_chunk=unsafe,
        unfinished=torn,
        largest_torn_bytes=largest,
    )
