"""Which files are sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from navnode.errors import ConfigError
from navnode.files.ordinary import refuse_special
from navnode.recording.recorder import part_path

__all__ = ["found_in", "is_session", "parts_of", "sessions_in"]


def sessions_in(places: Sequence[Path]) -> list[Path]:
    """Sessions in files and folders, without further parts of split sessions, references and replays.

    Raises:
        ConfigError: a file or folder is missing, or there is no session in any.
    """
    chosen = list(dict.fromkeys(path for place in places for path in found_in(place)))
    if not chosen:
        raise ConfigError(f"{', '.join(map(str, places))}: no session there")
    return chosen


def found_in(place: Path) -> list[Path]:
    """Sessions in one file or folder; as :func:`sessions_in`, but there may be none.

    Raises:
        ConfigError: it is missing.
    """
    refuse_special(place)
    if not place.exists():
        raise ConfigError(f"{place}: there is no such file or folder")
    files = sorted(place.rglob("*.mcap")) if place.is_dir() else [place]
    return [path for path in files if is_session(path.name)]


def is_session(name: str) -> bool:
    """Whether a file begins a session, by its name."""
    ending = PurePosixPath(name).stem.rpartition(".")[2]
    return not (name.startswith(".") or ending == "reference" or (ending.isdigit() and len(ending) == 3))


def parts_of(session: Path) -> list[Path]:
    """A session's files, as far as they exist."""
    parts = [session]
    while (following := part_path(session, len(parts))).exists():
        parts.append(following)
    return parts
