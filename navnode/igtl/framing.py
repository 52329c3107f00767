"""Messages out of a byte stream that arrives in any pieces."""

from __future__ import annotations

from navnode.igtl.messages import HEADER_SIZE, Header, Message, decode_body, decode_header


class Framer:
    """Feed it bytes, take whole messages.

    Nothing is allocated before the header passed its limits, and then only as bytes really arrive.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._header: Header | None = None
        self._body = bytearray()

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
                self._body = bytearray()
            take = min(self._header.body_size - len(self._body), len(view))
            self._body += view[:take]
            view = view[take:]
            if len(self._body) < self._header.body_size:
                return messages
            messages.append(decode_body(self._header, memoryview(self._body)))
            self._head.clear()
            self._header = None
