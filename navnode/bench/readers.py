"""Consoles that read all that a node sends, for measurements: ``python -m navnode.bench.readers PORT COUNT``."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

__all__ = ["main", "readers"]

_READ_BYTES = 1 << 18
_AGAIN_S = 0.2


@contextlib.contextmanager
def readers(port: int, count: int) -> Iterator[None]:
    """Let consoles read from a port of this machine meanwhile, in a process of their own; they wait for the node."""
    if not count:
        yield
        return
    command = [sys.executable, "-m", "navnode.bench.readers", str(port), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # noqa: S603 - our own interpreter and arguments
        try:
            yield
        finally:
            process.kill()


def main(port: int, count: int) -> None:
    """Read until standard input ends."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    missing, tried_s = count, 0.0
    while True:
        if missing and time.monotonic() - tried_s > _AGAIN_S:
            tried_s = time.monotonic()
            with contextlib.suppress(OSError):  # the node is starting
                for _ in range(missing):
                    console = socket.create_connection(("127.0.0.1", port))
                    console.setblocking(False)
                    selector.register(console, selectors.EVENT_READ)
                    missing -= 1
        for key, _ in selector.select(_AGAIN_S):
            if not isinstance(key.fileobj, socket.socket):
                return
            try:
                ended = not key.fileobj.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                ended = True
            if ended:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                missing += 1


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
