"""A gateway in this process, and what a client of it gets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from navnode.gateways.serving import serve
from navnode.igtl import BlockingClient, Image, StatusMessage
from tests.patience import until

PATIENCE_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Heard:
    """Everything that a gateway sent."""

    def __init__(self) -> None:
        self.images: list[tuple[Image, int]] = []
        self.states: list[StatusMessage] = []
        self.all: list[Image | StatusMessage] = []
        """Both, in their order."""
        self.alive = 0

    def until(self, condition, timeout_s: float = PATIENCE_S) -> None:
        until(condition, timeout_s, lambda: f"{len(self.images)} images, states {[s.text for s in self.states]}")


@contextlib.contextmanager
def gateway(source, device: str = "XRay") -> Iterator[Heard]:
    """Serve a source in a thread, and hear it."""
    heard, ready = Heard(), threading.Event()
    heard.source = source
    loop = asyncio.new_event_loop()
    failed: list[BaseException] = []

    def count() -> None:
        heard.alive += 1

    def run() -> None:
        asyncio.set_event_loop(loop)
        heard.task = loop.create_task(serve(source, device, on_ready=lambda port: ready.set(), on_alive=count))
        try:
            loop.run_until_complete(heard.task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(PATIENCE_S)
    if failed:
        thread.join()
        raise failed[0]
    stop = threading.Event()

    def listen() -> None:
        with BlockingClient("127.0.0.1", source.port) as client:
            while not stop.is_set():
                message = client.receive(0.2)
                if message is None:
                    continue
                heard.all.append(message)
                if isinstance(message, Image):
                    heard.images.append((message, time.time_ns()))
                elif isinstance(message, StatusMessage) and message.device == device:
                    heard.states.append(message)

    listener = threading.Thread(target=listen)
    listener.start()
    time.sleep(0.3)
    try:
        yield heard
    finally:
        stop.set()
        listener.join()
        loop.call_soon_threadsafe(heard.task.cancel)
        thread.join()
