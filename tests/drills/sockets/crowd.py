"""A crowd of consoles: ``python -m tests.drills.sockets.crowd PORT READERS LORIS``, until standard input ends.

Readers read all that they get; the others send a header byte by byte, and connect again when they are ended.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time

from tests.drills.sockets import wire

_BYTE_EVERY_S = 0.1


class Loris:
    """Never finishes a message."""

    def __init__(self, port: int) -> None:
        self._port, self._message, self._sent, self.endings = port, wire.command(1, "Version"), 0, 0
        self._socket: socket.socket | None = None

    def trickle(self) -> None:
        try:
            if self._socket is None:
                self._socket, self._sent = socket.create_connection(("127.0.0.1", self._port)), 0
            self._socket.send(self._message[self._sent : self._sent + 1])
            self._sent = min(self._sent + 1, 57)
        except OSError:
            self.endings += self._socket is not None
            self._socket = None


def main(port: int, readers: int, loris: int) -> None:
    consoles = [socket.create_connection(("127.0.0.1", port)) for _ in range(readers)]
    poll, read = select.poll(), dict.fromkeys((one.fileno() for one in consoles), 0)
    by_number = {one.fileno(): one for one in consoles}
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    for one in consoles:
        one.setblocking(False)
        poll.register(one, select.POLLIN)
    slow = [Loris(port) for _ in range(loris)]
    trickled_s, told = 0.0, False
    while True:
        for number, _ in poll.poll(20):
            if number not in by_number:
                total, endings = sum(read.values()), sum(each.endings for each in slow)
                print(f"{total / 2**20:.0f} MiB; loris ended {endings} times", flush=True)
                return
            with contextlib.suppress(BlockingIOError):
                read[number] += len(by_number[number].recv(1 << 18))
        if not told and all(read.values()):
            print("all have read", flush=True)
            told = True
        if time.monotonic() - trickled_s > _BYTE_EVERY_S:
            trickled_s = time.monotonic()
            for each in slow:
                each.trickle()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
