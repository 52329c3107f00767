"""Messages out of a byte stream that arrives in any pieces."""

from __future__ import annotations

from navnode.igtl.messages import HEADER_SIZE, Header, Message, decode_body, decode_header


class Framer:
    """Feed it bytes, take whole messages. Nothing is allocated before the header passed its limits."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._header: Header | None = None
        self._body = bytearray()
        self._filled = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The messages that these bytes complete.

        Raises:
            PeerError: the stream is not OpenIGTLink any more; close it.
        """
        messages: list[Message] = []
        view = memoryview(data)
        while True:
            if self._header is None:
                take = min(HEADER_SIZE - len(self._head), len(view))
                self._head += view[:take]
                view = view[take:]
                if len(self._head) < HEADER_SIZE:
                    return messages
                self._header = decode_header(self._head)
                self._body = bytearray(self._header.body_size)
                self._filled = 0
            take = min(len(self._body) - self._filled, len(view))
            self._body[self._filled : self._filled + take] = view[:take]
            self._filled += take
            view = view[take:]
            if self._filled < len(self._body):
                return messages
            messages.append(decode_body(self._header, memoryview(self._body)))
            self._head.clear()
            self._header = None
