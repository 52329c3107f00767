"""Splits a byte stream, received in arbitrary pieces, into messages."""

from __future__ import annotations

import struct

import numpy as np

from navnode.errors import PeerError
from navnode.igtl.budget import Budget
from navnode.igtl.messages import Message
from navnode.igtl.wire import HEADER_SIZE, Header, crc64, decode_body, decode_header

__all__ = ["Framer", "RawBytes"]

_CRC = struct.Struct(">Q")
"""The end of a header."""
_INBOX_BYTES = 1 << 17
_READ_BYTES = 1 << 14
"""Read at once: some 150 poses, two milliseconds of work, so that one busy sender does not starve the others."""

_SMALL_BODY_BYTES = 1 << 15
"""Larger bodies are received directly into their final memory, so that voxels are not copied."""

_FIRST_ALLOCATION_BYTES = 1 << 23
"""Larger bodies get memory only as their bytes arrive."""


RawBytes = tuple[bytes, memoryview]
"""A message as received: header and body."""


class Framer:
    """Turns fed bytes into whole messages; can also provide the buffer to receive into.

    Limits are checked on the header, before anything is allocated.

    Args:
        budget: memory shared with the framers of other peers; large bodies need room in it.
        absent_crc: take messages whose checksum field is 0, of peers that compute none.
    """

    def __init__(self, budget: Budget | None = None, *, absent_crc: bool = False) -> None:
        self._budget = budget
        self._absent_crc = absent_crc
        self._inbox = memoryview(bytearray(_INBOX_BYTES))
        self._begin = self._end = 0  # unprocessed part of the inbox
        self._header: Header | None = None
        self._head = b""
        self._body: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None  # a large one, partly filled
        self._filled = 0
        self.failed: PeerError | None = None
        """The error after which nothing more can be received."""
        self.received_bytes = 0
        """Bytes of whole messages so far."""
        self.unchecked = 0
        """Messages so far that carried no checksum."""
        self.raw: list[RawBytes] = []
        """Header and body, as received, of the messages returned last; a missing checksum is filled in."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Add bytes; returns the messages that they complete.

        Raises:
            PeerError: the stream is no longer OpenIGTLink; close it. Whole messages before that are returned first.
        """
        messages: list[Message] = []
        view = memoryview(data)
        while view and self.failed is None:
            room = self.buffer()
            size = min(len(room), len(view))
            room[:size] = view[:size]
            view = view[size:]
            try:
                messages += self.received(size)
            except PeerError:
                if not messages:
                    raise
        return messages

    @property
    def unfinished(self) -> bool:
        """Whether a message is incomplete."""
        return self._header is not None or self._begin != self._end

    @property
    def awaited_bytes(self) -> int:
        """Size of the body that is being received; 0 before its header is complete."""
        return 0 if self._header is None else self._header.body_size

    def discard(self) -> None:
        """Let go of a body that will not be finished."""
        self._give_back()
        self._body = None

    def buffer(self) -> memoryview:
        """Buffer for the next bytes of the stream; never empty.

        Raises:
            PeerError: there is no memory for them.
        """
        if self._body is not None:
            if self._filled == self._body.size:  # grows as bytes arrive
                assert self._header is not None
                size = min(2 * self._body.size, self._header.body_size)
                self._take(size - self._body.size)
                grown = np.empty(size, np.uint8)
                grown[: self._filled] = self._body
                self._body = grown
            return self._body.data[self._filled :]
        if self._begin == self._end:
            self._begin = self._end = 0
        elif _INBOX_BYTES - self._end < _SMALL_BODY_BYTES:
            rest = self._end - self._begin  # less than a header and a small body
            self._inbox[:rest] = self._inbox[self._begin : self._end]
            self._begin, self._end = 0, rest
        return self._inbox[self._end : self._end + _READ_BYTES]

    def received(self, size: int) -> list[Message]:
        """Messages completed by ``size`` bytes that were written to :meth:`buffer`.

        Raises:
            PeerError: the stream is no longer OpenIGTLink; close it. Whole messages before that are returned first, and
                later calls raise :attr:`failed`.
        """
        messages: list[Message] = []
        self.raw = []
        try:
            self._receive(size, messages)
        except PeerError as error:
            self.failed = error
            if not messages:
                raise
        return messages

    def _receive(self, size: int, messages: list[Message]) -> None:
        if self.failed is not None:
            raise self.failed
        if self._body is not None:
            self._filled += size
            assert self._header is not None
            if self._filled < self._header.body_size:
                return
            body = self._body.data
            self.discard()
            self._finish(messages, self._header, body)
        else:
            self._end += size
        while self._next(messages):
            pass

    def _next(self, messages: list[Message]) -> bool:
        """Extract one message from the inbox; False if none is complete."""
        ready = self._end - self._begin
        if self._header is None:
            if ready < HEADER_SIZE:
                return False
            self._head = bytes(self._inbox[self._begin : self._begin + HEADER_SIZE])
            try:
                self._header = decode_header(self._head)
            except PeerError as error:
                raise self._located(error) from error
            self._begin += HEADER_SIZE
            ready -= HEADER_SIZE
        size = self._header.body_size
        if ready >= size and size <= _SMALL_BODY_BYTES:
            # Copied, as decoded arrays outlive the inbox.
            body = memoryview(bytes(self._inbox[self._begin : self._begin + size]))
            self._begin += size
            self._finish(messages, self._header, body)
            return True
        if size <= _SMALL_BODY_BYTES:
            return False
        present = min(ready, size)
        first = min(size, max(_FIRST_ALLOCATION_BYTES, present))
        self._take(first)
        self._body = np.empty(first, np.uint8)
        self._body[:present] = self._inbox[self._begin : self._begin + present]
        self._begin += present
        self._filled = present
        if present < size:
            return False
        whole = self._body.data
        self.discard()
        self._finish(messages, self._header, whole)
        return True

    def _finish(self, messages: list[Message], header: Header, body: memoryview) -> None:
        crc = crc64(body) if self._absent_crc and header.crc == 0 else 0
        if crc:  # filled in, as recordings are checked like any other bytes
            self._head = self._head[: -_CRC.size] + _CRC.pack(crc)
            self.unchecked += 1
        try:
            messages.append(decode_body(header, body, checked=crc != 0))
        except PeerError as error:
            raise self._located(error) from error
        self.raw.append((self._head, body))
        self._header = None
        self.received_bytes += HEADER_SIZE + header.body_size

    def _take(self, size: int) -> None:
        if self._budget is not None and not self._budget.take(size):
            raise PeerError("no memory for this message: those of all clients together are too large")

    def _give_back(self) -> None:
        if self._budget is not None and self._body is not None:
            self._budget.give_back(self._body.size)

    def _located(self, error: PeerError) -> PeerError:
        """The error with the position of its message in the stream."""
        return PeerError(f"{error.problem}, message at byte {self.received_bytes} of the stream", error.offset)
