"""The reconstruction worker of a lockstep replay; apart from the other executors, as a live node loads none of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from navnode.clock import NS_PER_S
from navnode.config import Config
from navnode.reconstruction.answer import answer
from navnode.reconstruction.methods import Method, Reconstructor, described
from navnode.types import ReconstructionRequest, VolumeReady, WorkerState

_VOLUME_AFTER_NS = NS_PER_S
"""A volume is there this long after it was asked for, however long it took."""

_WORKER = 1


class VolumesAtFixedTimes:
    """Computes beside the replay; volumes are there at fixed times of the session."""

    def __init__(self, config: Config, now_ns: Callable[[], int]) -> None:
        self._reconstructor = Reconstructor(Method(config.reconstruction.method), 1)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="volumes")
        self._asked: list[tuple[int, Future[VolumeReady]]] = []
        self._now_ns = now_ns

    def __call__(self, request: ReconstructionRequest) -> None:
        """Begin a volume."""
        due_ns = self._now_ns() + _VOLUME_AFTER_NS
        self._asked.append((due_ns, self._pool.submit(answer, self._reconstructor, request)))

    def ready(self) -> WorkerState:
        """It is there."""
        engine = described(self._reconstructor.method, self._reconstructor.engine)
        return WorkerState(True, engine, "", self._now_ns(), _WORKER)

    def due(self, now_ns: int) -> VolumeReady | None:
        """The volume whose time has come."""
        if not self._asked or self._asked[0][0] > now_ns:
            return None
        due_ns, future = self._asked.pop(0)
        return replace(future.result(), now_ns=due_ns, elapsed_ms=_VOLUME_AFTER_NS / 1e6)

    def close(self) -> None:
        """No more volumes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
