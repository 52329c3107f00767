"""Executors of registrations: at once, or when a recorded session was answered."""

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


class AtOnce:
    """Registers a frame when it is requested.

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
    """Holds a request until the recording says when the answer was taken live."""

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
