"""Changed parts of volumes, for peers that take them: what a peer has, or will have once it has read its queue."""

from __future__ import annotations

from navnode.igtl.messages import Image

__all__ = ["Parts"]

Key = tuple[str, str]


class Parts:
    """What one peer has of every image."""

    def __init__(self) -> None:
        self._sent: dict[Key, tuple[Image, Image | None]] = {}
        """The image last sent, and what the peer has if that is withdrawn."""

    def following(self, key: Key, image: Image, *, withdrawn: bool) -> Image:
        """What to send of an image, which the peer has from now on: what has changed since the last one, or all of it.

        Args:
            withdrawn: the last one was taken back before it left, and must be no base of a part.
        """
        last, before = self._sent.get(key, (None, None))
        base = before if withdrawn else last
        self._sent[key] = image, base
        return image if base is None else image.part_changed_since(base)

    def has(self, key: Key, image: Image) -> None:
        """An image was sent whole, and is not withdrawn."""
        self._sent[key] = image, image

    def forget(self, key: Key) -> None:
        """Nothing is known of what the peer has: the next image is sent whole."""
        self._sent.pop(key, None)
