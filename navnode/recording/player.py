"""Serves a recorded session over OpenIGTLink at its own or another pace, to any console or node.

Every message is marked as a replay. Nothing is sent after the end, so everything that depends on it goes stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from navnode.clock import NS_PER_S, now_ns
from navnode.config import PlayerSection
from navnode.errors import RecordingError, WireError
from navnode.igtl import BlockingClient, CommandError, Handler, Image, Message, Server, StatusMessage
from navnode.igtl.conventions import REPLAY_KEY, is_shown
from navnode.recording.container import Channel, Entry
from navnode.recording.recording import Recording

__all__ = ["Player", "play"]

log = logging.getLogger(__name__)

_NOT_SERVED = ("in/STATUS/", "in/COMMAND", "in/RTS_", "in/GET_", "in/STT_", "in/STP_", "in/CLIENTINFO/")
"""Requests and states between peers; the session's content does not depend on them."""
_STEP_NS = 100_000_000
"""A step goes to the next X-ray, or this far if there is none."""
_GREETING_S = 0.3
"""Time for a new client to announce that it reads metadata, which mark replays."""
_BEHIND_NS = 500_000_000
"""When it is further behind than this, playing continues from here instead of sending everything at once."""


class Player:
    """Plays one session.

    Args:
        settings: address, rate, and the part of the session.

    Raises:
        RecordingError: there is nothing to play.
        ConfigError: others can reach the address.
    """

    def __init__(self, recording: Recording, settings: PlayerSection) -> None:
        self._recording, self._settings = recording, settings
        self._first_ns = recording.start_ns + round(settings.start_s * NS_PER_S)
        self._last_ns = recording.end_ns
        if settings.duration_s is not None:
            self._last_ns = min(self._last_ns, self._first_ns + round(settings.duration_s * NS_PER_S))
        if not recording.start_ns or self._first_ns > recording.end_ns:
            raise RecordingError(f"{recording.path}: nothing is recorded from {settings.start_s:g} s on")
        self.rate, self.paused, self.over = settings.rate, settings.paused, False
        self._at_ns = self._first_ns
        self._began = (self._first_ns, now_ns())
        """A time of the session, and the corresponding time of the node's clock."""
        self._target_ns: int | None = None
        self._stepping = False
        self._said_ns = 0
        self._step_until_ns = self._burst_ns = 0
        self._changed, self._joined = asyncio.Event(), asyncio.Event()
        self.server = Server(
            settings.host,
            settings.port,
            name="Replay",
            commands=self._commands(),
            insecure=settings.insecure,
            on_joined=lambda peer: self._joined.set(),
        )

    async def run(self) -> None:
        """Play until cancelled, from the first connection on."""
        await self._joined.wait()
        await asyncio.sleep(_GREETING_S)
        while True:
            self._began = self._at_ns, now_ns()
            ended = await self._play()
            if ended and self._settings.loop:
                self._at_ns, self._burst_ns = self._first_ns, 0  # a burst ends with the session
            elif ended:
                self.over = True
                log.warning("end of the session; nothing more is sent")
                while self._target_ns is None:
                    await self._wait(None)
            if self._target_ns is not None:
                self._at_ns, self._target_ns, self.over = self._target_ns, None, False

    async def _play(self) -> bool:
        """Play to the end; False: a seek interrupted it."""
        try:
            for entry in self._recording.raw(self._at_ns):
                if entry.log_time_ns < self._at_ns or not self._served(entry.channel):
                    continue
                if entry.log_time_ns > self._last_ns:
                    break
                if not await self._due(entry.log_time_ns):
                    return False
                self._at_ns = entry.log_time_ns
                self._send(entry)
        except RecordingError as error:
            log.error("%s", error)
        return True

    async def _due(self, time_ns: int) -> bool:
        """Wait for a time of the session; False: a seek interrupted the wait."""
        while self._target_ns is None:
            if self.paused and not self._stepping:
                await self._wait(None)
                self._began = self._at_ns, now_ns()
                continue
            if time_ns <= self._burst_ns or self._stepping:
                self._began = time_ns, now_ns()
                await asyncio.sleep(0)
                return True
            wait_ns = self._wall_ns(time_ns) - now_ns()
            if abs(wait_ns) > _BEHIND_NS and wait_ns < 0:
                self._began = time_ns, now_ns()
            if wait_ns <= 0:
                return True
            await self._wait(wait_ns / NS_PER_S)
        return False

    async def _wait(self, seconds: float | None) -> None:
        """Wait for a command, or for some seconds."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return
        self._changed.clear()

    def _wall_ns(self, time_ns: int) -> int:
        session_ns, wall_ns = self._began
        return wall_ns + round((time_ns - session_ns) / self.rate)

    def _served(self, channel: Channel) -> bool:
        wanted = self._settings.topics
        return (
            channel.topic.startswith("in/")
            and not channel.topic.startswith(_NOT_SERVED)
            and (not wanted or any(fnmatchcase(channel.topic, pattern) for pattern in wanted))
        )

    def _send(self, entry: Entry) -> None:
        try:
            message = self._recording.decoded(entry).content
        except RecordingError as error:
            log.warning("%s", error)
            return
        if not isinstance(message, Message):
            return
        if now_ns() - self._said_ns > NS_PER_S:  # clients of header version 1 see no metadata
            self._said_ns = now_ns()
            text = "REPLAY: a recording, not live"
            self.server.publish(
                StatusMessage(device=REPLAY_KEY, timestamp_ns=self._said_ns, code=StatusMessage.OK, text=text)
            )
        changes: dict[str, object] = {"metadata": {**message.metadata, REPLAY_KEY: "true"}}
        if not self._settings.original_stamps and message.timestamp_ns:
            changes |= {"timestamp_ns": self._wall_ns(message.timestamp_ns), "stamp": 0}
        marked = msgspec.structs.replace(message, **changes)
        self.server.publish(marked, needs_status=not is_shown(marked))
        if self._stepping and (isinstance(marked, Image) or self._at_ns >= self._step_until_ns):
            self._stepping = False

    # --- commands -------------------------------------------------------------------------------------------------

    def _commands(self) -> dict[str, Handler]:
        return {
            "ReplayPause": self._pause,
            "ReplayResume": self._resume,
            "ReplayStep": self._step,
            "ReplaySeek": self._seek,
            "ReplayRate": self._set_rate,
            "ReplayBurst": self._burst,
            "ReplayState": lambda _: self._position(),
        }

    def _position(self) -> str:
        at, length = ((t - self._recording.start_ns) / NS_PER_S for t in (self._at_ns, self._recording.end_ns))
        how = "over" if self.over else "paused" if self.paused else f"{self.rate:g} x"
        return f"{at:.1f} of {length:.1f} s, {how}"

    def _pause(self, _: Mapping[str, str]) -> str:
        self.paused = True
        return self._change()

    def _resume(self, _: Mapping[str, str]) -> str:
        self.paused = False
        self._began = self._at_ns, now_ns()
        return self._change()

    def _step(self, _: Mapping[str, str]) -> str:
        self.paused = self._stepping = True
        self._step_until_ns = self._at_ns + 10 * _STEP_NS
        return self._change()

    def _seek(self, parameters: Mapping[str, str]) -> str:
        """Go to ``Seconds``: from the start; with a sign, from the present position."""
        text = parameters.get("Seconds", "")
        seconds = _number(text, "Seconds")
        base_ns = self._at_ns if text.strip()[:1] in "+-" else self._recording.start_ns
        target_ns = base_ns + round(seconds * NS_PER_S)
        self._target_ns = min(max(target_ns, self._first_ns), self._last_ns)
        position = self._change()
        return f"from {(self._target_ns - self._recording.start_ns) / NS_PER_S:.1f} s; {position}"

    def _set_rate(self, parameters: Mapping[str, str]) -> str:
        rate = _number(parameters.get("Rate", ""), "Rate")
        if not 0 < rate <= 100:
            raise CommandError("Rate must be over 0 and at most 100")
        self._began, self.rate = (self._at_ns, now_ns()), rate
        return self._change()

    def _burst(self, parameters: Mapping[str, str]) -> str:
        """Play the next ``Seconds`` as fast as possible."""
        self._burst_ns = self._at_ns + round(_number(parameters.get("Seconds", "1"), "Seconds") * NS_PER_S)
        return self._change()

    def _change(self) -> str:
        self._changed.set()
        return self._position()


def _number(text: str, name: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e9:
        raise CommandError(f"{name} must be a number, not {text!r}")
    return number


async def play(settings: PlayerSection, ready: Callable[[int], None]) -> None:
    """Serve a session until cancelled.

    Args:
        ready: called with the port once clients can connect.

    Raises:
        ConfigError: the address cannot be used, or others can reach it.
        RecordingError: there is nothing to play.
    """
    player = Player(Recording(Path(settings.file)), settings)
    await player.server.start()
    ready(player.server.port)
    await player.run()


def steer(player: tuple[str, int], command: str, seconds: str = "") -> None:
    """Have a player do something, from another thread or process; nothing happens where it is gone.

    Args:
        player: its host and port.
        command: such as ``ReplayPause``.
        seconds: for a seek or a burst; ``+5`` is five seconds from where it stands.
    """
    text = f"<Command Seconds='{seconds}'/>" if seconds else ""
    with contextlib.suppress(OSError, WireError), BlockingClient(*player) as client:
        client.command(command, text)
