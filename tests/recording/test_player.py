"""A session that is served again: to any client, at its pace, marked, and silent at its end."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from navnode.config import PlayerSection
from navnode.errors import RecordingError
from navnode.igtl import Client, Image, StatusMessage, Transform, encode
from navnode.recording import Recording
from navnode.recording.container import Channel
from navnode.recording.player import Player, steer
from navnode.recording.writer import ContainerWriter
from tests.conftest import find_free_port
from tests.patience import until_async

BEGAN_NS = 1_700_000_000_000_000_000
MS = 1_000_000


@pytest.fixture
def path(tmp_path):
    """Two seconds: poses at 50 Hz whose x counts them, stamped 5 ms before they came, and an image every 200 ms."""
    with (tmp_path / "s.mcap").open("wb", buffering=0) as file:
        writer = ContainerWriter(file)
        for n in range(100):
            at = BEGAN_NS + n * 20 * MS
            matrix = np.eye(4)
            matrix[0, 3] = n
            moved = Transform(device="Drill", timestamp_ns=at - 5 * MS, matrix=matrix, version=2)
            writer.add(Channel("in/TRANSFORM/Drill", "openigtlink"), (encode(moved),), at, at, 2 * n)
            if n % 10 == 0:
                image = Image(
                    device="XRay", timestamp_ns=at, voxels=np.full((1, 4, 4), n, np.uint16), ras_from_index=np.eye(4)
                )
                writer.add(Channel("in/IMAGE/XRay", "openigtlink"), (encode(image),), at, at, 2 * n + 1)
            writer.add(Channel("in/STATUS/KeepAlive", "openigtlink"), (b"",), at, at, 0)
            writer.add(Channel("step", "json"), (b"{}",), at, at, n)
        writer.finish()
    return tmp_path / "s.mcap"


class Listener:
    """A client of a player, and what it heard."""

    def __init__(self, path, **settings):
        settings = {"file": str(path), "port": find_free_port(), **settings}
        self.player = Player(Recording(path), PlayerSection(**settings))
        self.heard: list[tuple[float, Transform | Image]] = []
        self.statuses: list[str] = []

    async def __aenter__(self):
        await self.player.server.start()
        self._playing = asyncio.create_task(self.player.run())
        self.client = Client("127.0.0.1", self.player.server.port, self._take)
        self._running = asyncio.create_task(self.client.run())
        return self

    async def __aexit__(self, *_):
        self._playing.cancel()
        self._running.cancel()
        await asyncio.gather(self._playing, self._running, return_exceptions=True)
        await self.player.server.stop()

    def _take(self, message, _):
        self.statuses += [message.text] if isinstance(message, StatusMessage) and message.device == "Replay" else []
        if isinstance(message, Transform | Image):
            self.heard.append((time.time(), message))

    def counts(self):
        return [round(m.matrix[0, 3]) for _, m in self.heard if isinstance(m, Transform)]

    async def told(self, name, text=""):
        reply = await self.client.command(name, text)
        return reply.metadata["Status"], reply.metadata["Message"]

    async def until(self, condition, seconds=60.0):
        await until_async(condition, seconds, self.counts)


def test_it_is_served_at_its_pace_marked_and_stamped_anew(path):
    async def go():
        async with Listener(path) as listener:
            await listener.until(lambda: 99 in listener.counts())
            counts = listener.counts()
            assert counts == sorted(counts) and len(counts) > 90 and counts[0] == 0, "it waits for a listener"
            times = [at for at, m in listener.heard if isinstance(m, Transform)]
            assert times[-1] - times[0] > 1.5, "not faster than it was"
            assert len(listener.statuses) >= 2 and listener.statuses[0].startswith("REPLAY")
            for at, message in listener.heard:
                assert message.metadata["Replay"] == "true"
                assert abs(at - message.timestamp_ns / 1e9) < 60.0, "stamped anew, not of 2023"
            first, last = (m.timestamp_ns for m in (listener.heard[0][1], listener.heard[-1][1]))
            assert (last - first) / 1e9 > 1.7
            await asyncio.sleep(0.5)
            assert listener.counts() == counts and listener.player.over, "at the end nothing more is sent"
            assert (await listener.told("ReplayState"))[1].endswith("over")
            assert (await listener.told("ReplaySeek", "<Command Seconds='1.5'/>"))[0] == "SUCCESS"
            await listener.until(lambda: len(listener.counts()) > len(counts) + 20)
            assert listener.counts()[len(counts)] == pytest.approx(75, abs=2)

    asyncio.run(go())


def test_original_stamps_rate_and_topics(path):
    async def go():
        async with Listener(path, original_stamps=True, rate=0.5, topics=("in/TRANSFORM/*",), start_s=1.5) as listener:
            await listener.until(lambda: 99 in listener.counts())
            assert not any(isinstance(m, Image) for _, m in listener.heard)
            found = [m for _, m in listener.heard]
            assert listener.counts()[0] == 75 and found[0].timestamp_ns == BEGAN_NS + 75 * 20 * MS - 5 * MS
            assert listener.heard[-1][0] - listener.heard[0][0] > 0.7, "half as fast: what took 0.5 s takes one"

    asyncio.run(go())


def test_pause_step_burst_and_what_cannot_be(path):
    async def go():
        async with Listener(path, loop=True) as listener:
            await listener.until(lambda: len(listener.counts()) > 5)
            status, text = await listener.told("ReplayPause")
            assert status == "SUCCESS" and text.endswith("paused")
            await asyncio.sleep(0.2)
            held = listener.counts()
            await asyncio.sleep(0.4)
            assert listener.counts() == held, "nothing goes on while it is paused"
            images = [m for _, m in listener.heard if isinstance(m, Image)]
            await listener.told("ReplayStep")
            await listener.until(lambda: len([m for _, m in listener.heard if isinstance(m, Image)]) == len(images) + 1)
            await asyncio.sleep(0.2)
            assert len([m for _, m in listener.heard if isinstance(m, Image)]) == len(images) + 1
            assert (await listener.told("ReplaySeek", "<Command Seconds='soon'/>"))[0] == "FAIL"
            assert (await listener.told("ReplayRate", "<Command Rate='0'/>"))[0] == "FAIL"
            await listener.told("ReplayResume")
            await listener.told("ReplayRate", "<Command Rate='0.001'/>")
            before = max(listener.counts())
            await listener.told("ReplayBurst", "<Command Seconds='1'/>")
            await listener.until(lambda: max(listener.counts()) > min(before + 40, 95))  # at its rate: 13 minutes
            await listener.told("ReplayRate", "<Command Rate='2'/>")
            await listener.until(lambda: listener.counts()[-1] < 20)  # it begins again

    asyncio.run(go())


def test_a_player_is_steered_from_outside(path):
    async def go():
        async with Listener(path) as listener:
            address = "127.0.0.1", listener.player.server.port
            await asyncio.to_thread(steer, address, "ReplayPause")
            assert listener.player.paused
            await asyncio.to_thread(steer, address, "ReplaySeek", "1")
            await listener.until(lambda: "1.0 of" in listener.player._position())
        await asyncio.to_thread(steer, address, "ReplayPause")  # nobody is there, and nothing happens

    asyncio.run(go())


def test_what_cannot_be_played_is_refused(path):
    with pytest.raises(RecordingError, match="nothing is recorded from 5 s on"):
        Player(Recording(path), PlayerSection(file=str(path), start_s=5.0))
