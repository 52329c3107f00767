"""JSON whose keys are unique: parsers take the last of two without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from navnode.errors import ConfigError

__all__ = ["json_of", "refuse_repeated_keys"]


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
