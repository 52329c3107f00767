"""The reconstruction worker of a lockstep replay; separate from other executors: a live node does not load it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from navnode.clock import NS_PER_S
from navnode.config import Config
from navnode.reconstruction.answer import answer
from navnode.reconstruction.choice import Method, described
from navnode.reconstruction.methods import Reconstructor
from navnode.types import WorkerAnswer, WorkerRequest, WorkerState

__all__ = ["FixedTimeWorker"]

_ANSWERED_AFTER_NS = NS_PER_S
"""Answers come this long after their request, however long they took."""

_WORKER = 1


class FixedTimeWorker:
    """Computes beside the replay; answers come at fixed times of the session.

    Args:
        now_ns: returns the session's time.
    """

    def __init__(self, config: Config, now_ns: Callable[[], int]) -> None:
        self._reconstructor = Reconstructor(Method(config.reconstruction.method), 1)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._pending: list[tuple[int, Future[WorkerAnswer]]] = []
        self._now_ns = now_ns

    def __call__(self, request: WorkerRequest) -> None:
        """Start to compute an answer."""
        due_ns = self._now_ns() + _ANSWERED_AFTER_NS
        self._pending.append((due_ns, self._pool.submit(answer, self._reconstructor, request, self._now_ns)))

    def ready(self) -> WorkerState:
        """The message that a worker is there."""
        engine = described(self._reconstructor.method, self._reconstructor.engine)
        return WorkerState(True, engine, "", self._now_ns(), _WORKER)

    def due(self, now_ns: int) -> WorkerAnswer | None:
        """The next answer, if its time has come."""
        if not self._pending or self._pending[0][0] > now_ns:
            return None
        due_ns, future = self._pending.pop(0)
        return replace(future.result(), now_ns=due_ns, elapsed_ms=_ANSWERED_AFTER_NS / 1e6)

    def close(self) -> None:
        """Stop computing."""
        self._pool.shutdown(wait=True, cancel_futures=True)
