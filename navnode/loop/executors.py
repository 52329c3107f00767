"""Executors of registrations: at once, or at the time of the recorded answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from navnode.config import Config
from navnode.registration.answer import FrameRegistration
from navnode.types import (
    RegistrationDone,
    RegistrationRequest,
    Volume,
)

__all__ = ["AsRecorded", "AtOnce"]


class AtOnce:
    """Registers a frame when it is requested.

    Args:
        volume: the volume at the start; None: there is none yet.
        now_ns: returns the time of an answer.
    """

    def __init__(self, config: Config, volume: Volume | None, now_ns: Callable[[], int]) -> None:
        self._frames = FrameRegistration(config, volume, 1 if volume is not None else 0)
        self._now_ns = now_ns

    def begin(self) -> None:
        """Prepare the first volume now, not with the first frame."""
        self._frames.begin()

    def __call__(self, request: RegistrationRequest, volume: Volume | None) -> RegistrationDone:
        """Register a frame and prepare for the next."""
        done = self.register(request, volume)
        self.prepare(done)
        return done

    def register(self, request: RegistrationRequest, volume: Volume | None) -> RegistrationDone:
        """Register a frame; call :meth:`prepare` next, when the answer has been sent."""
        registration, bodies = self._frames.register(request, volume)
        return RegistrationDone(request, registration, self._now_ns(), bodies)

    def prepare(self, done: RegistrationDone) -> None:
        """Prepare for the next frame."""
        self._frames.prepare(done.request)


class AsRecorded:
    """Holds a request until the time at which the live node got its answer."""

    def __init__(self, at_once: AtOnce) -> None:
        self._at_once = at_once
        self._request: tuple[RegistrationRequest, Volume | None] | None = None

    def __call__(self, request: RegistrationRequest, volume: Volume | None) -> None:
        """Hold a request."""
        self._request = request, volume

    def answer(self, frame: object, now_ns: int) -> RegistrationDone | None:
        """Answer the held request; None: it is not for this frame.

        Args:
            frame: sequence number of the frame that the live node registered.
            now_ns: when it got the answer.
        """
        request, self._request = self._request, None
        if request is None or request[0].frame.sequence != frame:
            return None
        return replace(self._at_once(*request), now_ns=now_ns)
