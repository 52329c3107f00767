"""Files that are written whole or not at all, and files that take nobody's place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from navnode.errors import ConfigError

EXISTS = "exists already; nothing is replaced"
"""What is said of a file that would have to give way."""


def refuse_existing(path: Path) -> None:
    """Make sure that nothing has this name yet, not even a link to nowhere.

    Raises:
        ConfigError: something has.
    """
    if os.path.lexists(path):
        raise ConfigError(f"{path}: {EXISTS}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write in the block, beside ``path``; it takes that name when the block has ended and the disk has it.

    Its name ends as ``path`` does, for writers that go by the ending. When the block fails, what was there before stays
    and nothing is left over.

    Raises:
        OSError: it cannot be made or take the name.
    """
    part = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield part
        part.chmod(0o600)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file all at once.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        with whole(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write a file of text, and the folders it lies in.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
