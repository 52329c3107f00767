"""Files that are written completely or not at all, and never over existing ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from navnode.errors import ConfigError

__all__ = ["EXISTS", "check_output", "refuse_existing", "refuse_twice", "whole", "whole_with_parts", "write_whole"]

EXISTS = "exists already; nothing is replaced"
"""Error text for a file that would be overwritten."""


def refuse_existing(path: Path) -> None:
    """Make sure that the path does not exist, not even as a dangling link.

    Raises:
        ConfigError: it exists.
    """
    if os.path.lexists(path):
        raise ConfigError(f"{path}: {EXISTS}")


def check_output(path: Path, endings: Sequence[str]) -> None:
    """Make sure, before long work, that its result can be written.

    Args:
        endings: of names, lower case with the dot; the format is chosen by it.

    Raises:
        ConfigError: the name has another ending, or its folder does not exist or cannot be written to; names the file.
    """
    if not path.name.lower().endswith(tuple(endings)):
        raise ConfigError(f"{path}: is written as {', '.join(endings)}, by the file extension")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: its folder does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: its folder cannot be written to")


def refuse_twice(outputs: Sequence[Path], inputs: Sequence[Path] = ()) -> None:
    """Make sure that every output is a file of its own, and none that is read.

    Raises:
        ConfigError: one is not; names it.
    """
    seen = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in seen:
            raise ConfigError(f"{path}: would be written twice, or over what is read")
        seen.add(path.resolve())


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file to write within the block; afterwards it is synced to disk and renamed to ``path``.

    Its name has the extension of ``path``, for writers that choose the format by it. If the block fails, ``path`` stays
    as it was and the temporary file is removed.

    Raises:
        OSError: the file cannot be created or renamed.
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


@contextmanager
def whole_with_parts(path: Path) -> Iterator[Path]:
    """As :func:`whole`, for formats whose header names a second file: both are written within a temporary folder, under
    their own names, and renamed afterwards, the header last.

    Raises:
        OSError: a file cannot be created or renamed.
    """
    with TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        made = Path(folder) / path.name
        yield made
        for part in sorted(Path(folder).iterdir(), key=lambda each: each == made):
            part.chmod(0o600)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path.with_name(part.name))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with whole(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def write_text(path: Path, text: str) -> None:
    """Write a file of text completely or not at all, and the folders it lies in.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    write_whole(path, text.encode())
