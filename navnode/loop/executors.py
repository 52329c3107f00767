"""Who carries out the loop's requests: at once, at fixed times of a session, or as a recorded session was answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from navnode.clock import NS_PER_S
from navnode.config import Config
from navnode.reconstruction.answer import answer
from navnode.reconstruction.methods import Method, Reconstructor, described
from navnode.registration.answer import FrameRegistration
from navnode.types import (
    ReconstructionRequest,
    RegistrationDone,
    RegistrationRequest,
    Volume,
    VolumeReady,
    WorkerState,
)

_VOLUME_AFTER_NS = NS_PER_S
"""In lockstep a volume is there this long after it was asked for, however long it took."""

_WORKER = 1


class AtOnce:
    """Registers a frame where it is asked for.

    Args:
        volume: the first one, or None.
        now_ns: the time of answers.
    """

    def __init__(self, config: Config, volume: Volume | None, now_ns: Callable[[], int]) -> None:
        self._frames = FrameRegistration(config, volume, 1 if volume is not None else 0)
        self._now_ns = now_ns

    def __call__(self, request: RegistrationRequest, volume: Volume | None) -> RegistrationDone:
        """The answer, when all is done, also what prepares for the next frame."""
        done = self.register(request, volume)
        self.prepare(done)
        return done

    def register(self, request: RegistrationRequest, volume: Volume | None) -> RegistrationDone:
        """The answer, as soon as it is known; :meth:`prepare` comes next."""
        found = self._frames.register(request, volume)
        return RegistrationDone(request, found, self._now_ns())

    def prepare(self, done: RegistrationDone) -> None:
        """For the next frame."""
        self._frames.prepare(done.registration)


class AsRecorded:
    """Keeps what was asked until the recording says when live took the answer."""

    def __init__(self, at_once: AtOnce) -> None:
        self._at_once = at_once
        self._asked: tuple[RegistrationRequest, Volume | None] | None = None

    def __call__(self, request: RegistrationRequest, volume: Volume | None) -> None:
        """Keep a request."""
        self._asked = request, volume

    def answer(self, frame: object, now_ns: int) -> RegistrationDone | None:
        """The answer that live took at a time; None when that frame was not asked for.

        Args:
            frame: its number.
        """
        asked, self._asked = self._asked, None
        if asked is None or asked[0].frame.sequence != frame:
            return None
        return replace(self._at_once(*asked), now_ns=now_ns)


class VolumesAtFixedTimes:
    """The reconstruction worker of a lockstep replay: beside it, but there at fixed times of the session."""

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
