"""Consoles that read all that a node sends, for measurements."""

from __future__ import annotations

import contextlib
import multiprocessing
import selectors
import socket
import time
from collections.abc import Iterator

__all__ = ["readers"]

_READ_BYTES = 1 << 18
_AGAIN_S = 0.2


@contextlib.contextmanager
def readers(port: int, count: int) -> Iterator[None]:
    """Let consoles read from a port of this machine meanwhile, in a process of their own; they wait for the node."""
    if not count:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(target=_read_forever, args=(port, count), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _read_forever(port: int, count: int) -> None:
    selector = selectors.DefaultSelector()
    missing, tried_s = count, 0.0
    while True:
        if missing and time.monotonic() - tried_s > _AGAIN_S:
            tried_s = time.monotonic()
            with contextlib.suppress(OSError):  # the node is starting
                for _ in range(missing):
                    console = socket.create_connection(("127.0.0.1", port))
                    console.setblocking(False)
                    selector.register(console, selectors.EVENT_READ, console)
                    missing -= 1
        for key, _ in selector.select(_AGAIN_S):
            try:
                ended = not key.data.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                ended = True
            if ended:
                selector.unregister(key.data)
                key.data.close()
                missing += 1
