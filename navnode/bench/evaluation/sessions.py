"""Where the sessions of an evaluation come from: files and folders of this machine, or a store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import msgspec

from navnode import __version__
from navnode.config import Config
from navnode.errors import ConfigError, StoreError
from navnode.files.fingerprint import combined, fingerprint, sha256_of
from navnode.files.stores import Store, Stored, is_url, printable
from navnode.loop import calibrations
from navnode.recording.listing import found_in, is_session, parts_of
from navnode.recording.recorder import part_path

__all__ = ["Session", "Task", "opened", "sessions_of"]

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Session:
    """A session that was found."""

    place: str
    """Its path, or its address; for people, too."""
    identity: str
    """Fingerprint of its files: the same wherever they lie. '' if there is a problem."""
    url: str = ""
    """URL of the store that it lies in; '': this machine."""
    files: tuple[Stored, ...] = ()
    """Its files in the store."""
    problem: str = ""
    """Why it cannot be read."""

    @classmethod
    def here(cls, path: Path) -> Session:
        """A session of this machine."""
        place = str(path.absolute())
        try:
            return cls(place, combined(map(fingerprint, parts_of(path))))
        except OSError as error:
            return cls(place, "", problem=f"{place}: cannot be read ({error.strerror})")

    @property
    def name(self) -> str:
        """The name of its file."""
        return PurePosixPath(self.place).name

    def told(self, text: str, path: Path) -> str:
        """A text that names its files where they lie, not as they are called below ``path``, where it was opened."""
        for part, file in enumerate(self.files):
            text = text.replace(str(part_path(path, part)), printable(f"{self.url}/{file.name}"))
        return text


@dataclass(frozen=True)
class Task:
    """A session to replay, and how.

    Args:
        label: name of the configuration.
        config: JSON; empty: the session's configuration.
        ct: replaces the configuration's CT; '': keep that.
        most_bytes: a larger session is not fetched from a store.
        calibrations: hashes of the files that the configuration names: :func:`calibrations_of`.
    """

    session: Session
    label: str
    config: bytes
    ct: str
    threads: int
    most_bytes: int = 1 << 34
    calibrations: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """Identifies the work: content of the session, configuration and version; not where the session lies."""
        session = self.session
        about = (
            session.name,
            session.identity or session.place,
            hashlib.sha256(self.config).hexdigest(),
            *self.calibrations,
            self.ct,
            __version__,
        )
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:24]


def calibrations_of(config: bytes) -> tuple[str, ...]:
    """Hashes of the calibration files that a configuration, JSON, names: they may be replaced under one name."""
    if not config:
        return ()
    named = calibrations.files(msgspec.json.decode(config, type=Config))
    return tuple(sha256_of(Path(path)) for _, path in sorted(named.items()) if Path(path).is_file())


def sessions_of(archive: Sequence[str]) -> list[Session]:
    """The sessions of files, folders and URLs, in the order given, and within each in that of their names.

    Raises:
        ConfigError: a file or folder is missing, a URL cannot be used, or there is no session in any.
        StoreError: a store cannot be listed.
    """
    found: dict[str, Session] = {}
    for place in archive:
        path = place.removeprefix("file://")
        some = _stored(place) if is_url(path) else map(Session.here, found_in(Path(path)))
        for session in some:
            found.setdefault(session.place, session)
    if not found:
        raise ConfigError(f"{', '.join(archive)}: no session there")
    return list(found.values())


def _stored(url: str) -> Iterator[Session]:
    """The sessions of a store, with their fingerprints."""
    store = Store(url)
    listed = {file.name: file for file in store.listed()}
    if "" in listed:  # the URL of a session
        folder, _, name = store.url.rpartition("/")
        store = Store(folder)
        listed = {name: Stored(name, listed[""].size)}
        while (size := store.size_of(following := _part_name(name, len(listed)))) is not None:
            listed[following] = Stored(following, size)
    sessions: list[tuple[Stored, ...]] = []
    for name, file in listed.items():
        if name.endswith(".mcap") and is_session(PurePosixPath(name).name):
            parts = [file]
            while (following := _part_name(name, len(parts))) in listed:
                parts.append(listed[following])
            sessions.append(tuple(parts))
    prints = iter(store.fingerprints([part for parts in sessions for part in parts]))
    for files in sessions:
        of_parts = [next(prints) for _ in files]
        place = store.shown(files[0].name)
        problem = next((str(each) for each in of_parts if isinstance(each, StoreError)), "")
        identity = "" if problem else combined(each for each in of_parts if isinstance(each, str))
        yield Session(place, identity, store.url, files, problem)


def _part_name(name: str, part: int) -> str:
    return str(part_path(Path(name), part))


@contextlib.contextmanager
def opened(session: Session, most_bytes: int) -> Iterator[Path]:
    """The session's file on this machine, within the block; one of a store is fetched into a temporary file.

    Raises:
        StoreError: it does not come, is larger than allowed, or is not what was listed.
    """
    if session.problem:
        raise StoreError(session.problem)
    if not session.url:
        yield Path(session.place)
        return
    size = sum(file.size for file in session.files)
    if size > most_bytes:
        raise StoreError(
            f"{session.place}: {size / 1e9:.2f} GB; {most_bytes / 1e9:g} are fetched at most (--session-gb)"
        )
    store = Store(session.url)
    with tempfile.TemporaryDirectory(prefix="navnode-session-") as folder:
        path = Path(folder) / "session.mcap"  # names of a store are no paths of this machine
        copies = [part_path(path, n) for n in range(len(session.files))]
        sums = [store.fetch(file, copy) for file, copy in zip(session.files, copies, strict=True)]
        stated = PurePosixPath(session.name).stem
        if _SHA256.fullmatch(stated) and sums != [stated]:
            raise StoreError(f"{session.place}: its content is not what its name says; it was changed or cut off")
        if combined(map(fingerprint, copies)) != session.identity:
            raise StoreError(f"{session.place}: was changed since it was listed")
        yield path
