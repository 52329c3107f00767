"""Messages out of a byte stream that arrives in any pieces."""

from __future__ import annotations

import numpy as np

from navnode.errors import PeerError
from navnode.igtl.messages import Message
from navnode.igtl.wire import HEADER_SIZE, Header, decode_body, decode_header

_INBOX_BYTES = 1 << 17
_READ_BYTES = 1 << 14
"""Taken in one go: some 150 poses, two milliseconds' work; who sends more must let others have their turn."""

_OWN_BODY_BYTES = 1 << 15
"""Larger bodies are received where they stay, so that voxels are not copied."""

_FIRST_ALLOCATION_BYTES = 1 << 23
"""Larger bodies get memory only as their bytes really come."""


RawBytes = tuple[bytes, memoryview]
"""A message as it came: header and body."""


class Framer:
    """Feed it bytes, take whole messages; or let it say where the next bytes shall go.

    Limits are checked on the header, before anything is allocated.
    """

    def __init__(self) -> None:
        self._inbox = memoryview(bytearray(_INBOX_BYTES))
        self._begin = self._end = 0  # what is in the inbox and not taken yet
        self._header: Header | None = None
        self._head = b""
        self._body: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None  # a large one, partly filled
        self._filled = 0
        self.failed: PeerError | None = None
        """Why nothing can be received any more."""
        self.received_bytes = 0
        """Taken from the stream so far, whole messages only."""
        self.raw: list[RawBytes] = []
        """Header and body of the messages that were returned last, as they came."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The messages that these bytes complete.

        Raises:
            PeerError: the stream is not OpenIGTLink any more; close it. Whole messages before that are returned first.
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
        """Whether a message has begun and not ended."""
        return self._header is not None or self._begin != self._end

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream shall be written; never empty."""
        if self._body is not None:
            if self._filled == self._body.size:  # grows with what has come
                assert self._header is not None
                grown = np.empty(min(2 * self._body.size, self._header.body_size), np.uint8)
                grown[: self._filled] = self._body
                self._body = grown
            return self._body.data[self._filled :]
        if self._begin == self._end:
            self._begin = self._end = 0
        elif _INBOX_BYTES - self._end < _OWN_BODY_BYTES:
            rest = self._end - self._begin  # less than a header and a small body
            self._inbox[:rest] = self._inbox[self._begin : self._end]
            self._begin, self._end = 0, rest
        return self._inbox[self._end : self._end + _READ_BYTES]

    def received(self, size: int) -> list[Message]:
        """The messages complete now that ``size`` bytes were written to :meth:`buffer`.

        Raises:
            PeerError: the stream is not OpenIGTLink any more; close it. If whole messages came before that they are
                returned, and :attr:`failed` is what will be raised from now on.
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
            body, self._body = self._body.data, None
            self._take(messages, self._header, body)
        else:
            self._end += size
        while self._next(messages):
            pass

    def _next(self, messages: list[Message]) -> bool:
        """Take one message from the inbox; False when there is none whole."""
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
        if ready >= size and size <= _OWN_BODY_BYTES:
            # Copied, so that what is decoded may outlive the inbox.
            body = memoryview(bytes(self._inbox[self._begin : self._begin + size]))
            self._begin += size
            self._take(messages, self._header, body)
            return True
        if size <= _OWN_BODY_BYTES:
            return False
        taken = min(ready, size)
        self._body = np.empty(min(size, max(_FIRST_ALLOCATION_BYTES, taken)), np.uint8)
        self._body[:taken] = self._inbox[self._begin : self._begin + taken]
        self._begin += taken
        self._filled = taken
        if taken < size:
            return False
        whole, self._body = self._body.data, None
        self._take(messages, self._header, whole)
        return True

    def _take(self, messages: list[Message], header: Header, body: memoryview) -> None:
        try:
            messages.append(decode_body(header, body))
        except PeerError as error:
            raise self._located(error) from error
        self.raw.append((self._head, body))
        self._header = None
        self.received_bytes += HEADER_SIZE + header.body_size

    def _located(self, error: PeerError) -> PeerError:
        """The same error with where in the stream its message began."""
        return PeerError(f"{error.problem}, message at {self.received_bytes} of the stream", error.offset)
