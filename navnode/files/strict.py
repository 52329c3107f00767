"""JSON that is what it says: no key twice (parsers take the last in silence), and the schema that is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from navnode.errors import ConfigError
from navnode.files.ordinary import refuse_special

__all__ = ["json_of", "read_document", "refuse_repeated_keys"]


class _Document(Protocol):
    @property
    def schema(self) -> str: ...


_Read = TypeVar("_Read", bound=_Document)


class _RepeatedError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in one object")
    return found


def json_of(content: bytes, name: str | Path) -> Any:
    """Decode JSON.

    Args:
        name: of the file, for errors.

    Raises:
        ConfigError: it is not JSON, is nested too deeply, or a key occurs twice in one object.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ConfigError(f"{name}: nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def read_document(path: Path, kind: type[_Read], schema: str, most_bytes: int) -> _Read:
    """Read a JSON file that names its schema.

    Args:
        kind: of msgspec; what the file holds.

    Raises:
        ConfigError: it cannot be read, is too large, or is something else; names the file.
    """
    refuse_special(path)
    try:
        if path.stat().st_size > most_bytes:
            raise ConfigError(f"{path}: too large for {schema}")
        content = path.read_bytes()
        read = msgspec.json.decode(content, type=kind)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    refuse_repeated_keys(content, path)
    if read.schema != schema:
        raise ConfigError(f"{path}: schema is {read.schema!r}, not {schema!r}")
    return read


def refuse_repeated_keys(content: bytes, name: str | Path) -> None:
    """Make sure that no key occurs twice in one object; other mistakes are for the decoder that follows.

    Raises:
        ConfigError: one does.
    """
    try:
        json.loads(content, object_pairs_hook=_unique)
    except _RepeatedError as error:
        raise ConfigError(f"{name}: {error}") from error
    except (RecursionError, ValueError):
        return
