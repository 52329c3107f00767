"""The reconstruction worker: a process of its own, so that whatever happens in it leaves the loop alone."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import zmq

from navnode.clock import now_ns
from navnode.errors import PeerError
from navnode.loop import bus, topics
from navnode.node.processes import HEARTBEAT_S
from navnode.reconstruction.answer import answer, elapsed_ms, failed
from navnode.reconstruction.methods import Method, Reconstructor, described
from navnode.reconstruction.surface import bone_surface
from navnode.types import ReconstructionRequest, VolumeReady, WorkerState

log = logging.getLogger(__name__)

_NICE = 19
"""A volume may wait for a frame, never a frame for a volume."""
_THREADS = 1
"""The other core belongs to the loop."""


def run_beside_the_loop(address: str, method: Method = Method.AUTO) -> None:
    """:func:`serve` as a process of the node's machine: nothing of the loop may wait for it."""
    os.nice(_NICE)
    serve(address, method, threads=_THREADS)


def serve(
    address: str,
    method: Method = Method.AUTO,
    *,
    threads: int | None = None,
    secured: Callable[[zmq.Socket[Any]], None] = lambda socket: None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve requests from ``address`` until the process is told to end.

    Args:
        secured: sets the socket's keys, if there are any.
        tell: told a line about every volume.
    """
    reconstructor = Reconstructor(method, threads)
    engine = described(reconstructor.method, reconstructor.engine)
    context: zmq.Context[Any] = zmq.Context.instance()
    socket = context.socket(zmq.DEALER)
    bus.limited(socket, queued=8)
    secured(socket)
    socket.connect(address)
    jobs: SimpleQueue[Any] = SimpleQueue()
    results: SimpleQueue[VolumeReady] = SimpleQueue()
    threading.Thread(target=_work, args=(reconstructor, jobs, results), daemon=True).start()
    last_beat = 0.0
    while True:
        if time.monotonic() - last_beat >= HEARTBEAT_S:
            last_beat = time.monotonic()
            socket.send_multipart(bus.pack(WorkerState(True, engine, "", now_ns(), os.getpid())))
        if socket.poll(100):
            try:
                jobs.put(bus.unpack([frame.buffer for frame in socket.recv_multipart(copy=False)]))
            except PeerError as error:
                log.warning("request refused: %s", error)
        while not results.empty():
            result = results.get()
            socket.send_multipart(bus.pack(result))
            if result.request:
                tell(f"{result.views} views: {result.elapsed_ms:.0f} ms; {result.reason}")


def _work(reconstructor: Reconstructor, jobs: SimpleQueue[Any], results: SimpleQueue[VolumeReady]) -> None:
    while True:
        job = jobs.get()
        started = time.perf_counter()
        try:
            if isinstance(job, ReconstructionRequest):
                results.put(answer(reconstructor, job))
            elif isinstance(job, topics.SurfaceRequest):
                results.put(_surface(job, started))
        except Exception as error:  # the process stays for the next request
            log.exception("a surface could not be computed")
            results.put(failed(job, started, f"it could not be computed ({type(error).__name__})"))


def _surface(job: topics.SurfaceRequest, started: float) -> VolumeReady:
    surface = bone_surface(job.volume)
    mesh = surface.mesh if surface is not None else None
    return VolumeReady(None, mesh, 0, 0, "surface", elapsed_ms(started), "", now_ns())
