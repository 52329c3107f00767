"""Puts sessions into an archive: by policy, without what may identify people, and so that none is half there.

A session becomes ``<SHA-256 of its content>.mcap``. Its manifest comes last, named ``<that>.<fingerprint of the
original>.<version of what is taken out>.json``: a listing tells what need not be looked at again. See
docs/decisions/0040.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec

from navnode import __version__
from navnode.clock import NS_PER_S, now_ns
from navnode.config.load import load_struct
from navnode.errors import ConfigError, DamagedError, NavError, RecordingError, StoreError
from navnode.files.fingerprint import combined, fingerprint, sha256_of
from navnode.files.stores import Store
from navnode.recording.deidentify import DEIDENTIFICATION, Deidentifier, Names, may_be_video
from navnode.recording.edit import new_session
from navnode.recording.format import JSON
from navnode.recording.listing import parts_of, sessions_in
from navnode.recording.policy import Facts, Policy
from navnode.recording.recording import Recording
from navnode.recording.requests import ArchiveRequest

__all__ = ["ArchiveReport", "ArchiveRow", "Manifest", "Outcome", "archive"]

_SCHEMA: Literal["navnode/archived/1"] = "navnode/archived/1"
_STAYS = ("times", "text within images", "names of devices, tools and bodies")
_CHUNK_BYTES = 1 << 19


class Outcome(StrEnum):
    """What became of a session."""

    ARCHIVED = "archived"
    READY = "ready"
    """A trial: it would be archived."""
    THERE = "already there"
    REFUSED = "not wanted"
    """By the policy."""
    DAMAGED = "damaged"
    FAILED = "failed"


class ArchiveRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session and what became of it."""

    session: str
    outcome: Outcome
    reason: str = ""
    """Why it is not in the archive."""
    xrays: int | None = None
    seconds: float | None = None
    size_bytes: int = 0
    """In the archive."""
    sha256: str = ""
    """Of its content there, which is also its name."""
    compared: str = ""
    """How it was made sure that it arrived: by the store's checksum, or read back."""
    removed: dict[str, int] = {}
    """What was taken out or replaced -> number of entries."""


class ArchiveReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all sessions."""

    to: str
    counts: dict[str, int]
    """Outcome -> number of sessions."""
    sent_bytes: int
    archive_bytes: int
    """All sessions of the archive."""
    rows: list[ArchiveRow]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the archive says of a session."""

    schema: Literal["navnode/archived/1"] = _SCHEMA
    sha256: str
    size_bytes: int
    original: str
    """Fingerprint of the session that this was made of."""
    integrity: str
    started: str
    seconds: float
    messages: int
    xrays: int
    format: int
    recorded_with: str
    """Version of navnode; '': another program recorded it."""
    archived_with: str = __version__
    deidentification: int = DEIDENTIFICATION
    removed: dict[str, int]
    """What was taken out or replaced -> number of entries."""
    stays: tuple[str, ...] = _STAYS
    """What may still identify somebody."""


_MANIFEST_BYTES = 1 << 20
_COPY = re.compile(r"[0-9a-f]{64}\.mcap")
"""A session of an archive: its checksum is its name."""

Told = Callable[[int, int, str], None]
"""Called with the number of sessions done, of all, and what is being done."""


def archive(request: ArchiveRequest, told: Told = lambda done, total, now: None) -> ArchiveReport:
    """Archive sessions one after the other; one that fails does not stop the others.

    Raises:
        ConfigError: the policy, the sessions or the store's URL cannot be used.
        StoreError: the store cannot be listed.
    """
    policy = request.over(Policy() if request.policy is None else load_struct(request.policy, Policy))
    if not request.to:
        raise ConfigError("--to: name a folder or a store's URL")
    paths = _not_copies(request.to, sessions_in(request.sessions))
    told(0, len(paths), "listing the archive")
    target = _Target(Store(request.to), policy, dry_run=request.dry_run)
    rows = []
    for done, path in enumerate(paths):

        def doing(what: str, done: int = done, path: Path = path) -> None:
            told(done, len(paths), f"{path.name}: {what}")

        rows.append(target.take(path, doing))
        told(done + 1, len(paths), path.name)
    return ArchiveReport(
        to=target.store.shown(""),
        counts=dict(Counter(row.outcome.value for row in rows)),
        sent_bytes=target.sent_bytes,
        archive_bytes=target.total_bytes,
        rows=rows,
    )


def _not_copies(archive: str, paths: list[Path]) -> list[Path]:
    """Sessions that are not copies in an archive that is a folder here."""
    folder = Path(archive.removeprefix("file://")).resolve()
    return [path for path in paths if not (path.resolve().parent == folder and _COPY.fullmatch(path.name))]


class _Target:
    """The archive, and what it holds."""

    def __init__(self, store: Store, policy: Policy, *, dry_run: bool) -> None:
        self.store, self._policy, self._dry_run = store, policy, dry_run
        listed = {file.name: file.size for file in store.listed()}
        self._sizes = {name: size for name, size in listed.items() if name.endswith(".mcap")}
        named = [name.removesuffix(".json").split(".") for name in listed if name.endswith(".json")]
        self._originals = {  # what was made when less was taken out is made again
            parts[1]: parts[0]
            for parts in named
            if len(parts) == 3 and parts[2] == str(DEIDENTIFICATION) and f"{parts[0]}.mcap" in listed
        }
        self.total_bytes = sum(self._sizes.values())
        self.sent_bytes = 0
        self._sent_now: set[str] = set()

    def take(self, path: Path, told: Callable[[str], None]) -> ArchiveRow:
        """Archive a session, or say why not."""
        try:
            return self._taken(path, told)
        except DamagedError as error:
            return ArchiveRow(session=str(path), outcome=Outcome.DAMAGED, reason=str(error))
        except NavError as error:
            return ArchiveRow(session=str(path), outcome=Outcome.FAILED, reason=str(error))
        except OSError as error:
            return ArchiveRow(session=str(path), outcome=Outcome.FAILED, reason=f"{path}: {error.strerror}")
        except Exception as error:  # its text may hold what is in the session
            reason = f"{path}: internal error ({type(error).__name__})"
            return ArchiveRow(session=str(path), outcome=Outcome.FAILED, reason=reason)

    def _taken(self, path: Path, told: Callable[[str], None]) -> ArchiveRow:
        original = combined(map(fingerprint, parts_of(path)))
        sha256 = self._originals.get(original)
        if sha256 is not None and self._is_whole(sha256, original):
            size = self._sizes[f"{sha256}.mcap"]
            return ArchiveRow(session=str(path), outcome=Outcome.THERE, sha256=sha256, size_bytes=size)
        if not self._policy.fits(self.total_bytes + 1):
            return ArchiveRow(session=str(path), outcome=Outcome.REFUSED, reason=self._full())
        recording = Recording(path)
        try:
            told("reading")
            names = Names(recording)
            facts = _facts(recording, names)
            row = ArchiveRow(
                session=str(path), outcome=Outcome.REFUSED, xrays=facts.xrays, seconds=round(facts.seconds, 3)
            )
            if why := self._policy.refusal(facts, now_ns()):
                return msgspec.structs.replace(row, reason=why)
            if shutil.disk_usage(tempfile.gettempdir()).free < facts.size_bytes * 1.1:
                raise RecordingError(f"{path}: there is no room for a copy in {tempfile.gettempdir()} (TMPDIR)")
            with tempfile.TemporaryDirectory(prefix="navnode-archive-") as folder:
                copy = Path(folder) / "session.mcap"
                return self._sent(recording, names, row, copy, original, told)
        finally:
            recording.close()

    def _is_whole(self, sha256: str, original: str) -> bool:
        """Whether what lies in the archive is as large as it was when it was sent."""
        if sha256 in self._sent_now:
            return True
        manifest = self.store.read(f"{sha256}.{original}.{DEIDENTIFICATION}.json", _MANIFEST_BYTES)
        try:
            return msgspec.json.decode(manifest, type=Manifest).size_bytes == self._sizes[f"{sha256}.mcap"]
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False  # damaged, too: written again

    def _sent(
        self,
        recording: Recording,
        names: Names,
        row: ArchiveRow,
        copy: Path,
        original: str,
        told: Callable[[str], None],
    ) -> ArchiveRow:
        told("taking names out")
        removed = _copied(recording, names, copy, original)
        told("checking the copy")
        messages = _checked(copy, names)
        sha256, size = sha256_of(copy), copy.stat().st_size
        name = f"{sha256}.mcap"
        row = msgspec.structs.replace(row, sha256=sha256, size_bytes=size, removed=dict(sorted(removed.items())))
        there = self._sizes.get(name) == size
        if not there and not self._policy.fits(self.total_bytes - self._sizes.get(name, 0) + size):
            return msgspec.structs.replace(row, reason=self._full())
        if self._dry_run:
            self._know(original, sha256, size)
            return msgspec.structs.replace(row, outcome=Outcome.READY)
        told(f"sending {size / 1e6:.1f} MB")
        compared = self._put(copy, name, sha256, there=there)
        manifest = Manifest(
            sha256=sha256,
            size_bytes=size,
            original=original,
            integrity=recording.judged().integrity.value,
            started=datetime.fromtimestamp(recording.start_ns / NS_PER_S, UTC).isoformat(timespec="seconds"),
            seconds=row.seconds or 0.0,
            messages=messages,
            xrays=row.xrays or 0,
            format=recording.format,
            recorded_with=recording.metadata.get("version", ""),
            removed=row.removed,
        )
        written = copy.with_name("manifest.json")
        written.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        self.store.put(written, f"{sha256}.{original}.{DEIDENTIFICATION}.json", sha256_of(written))
        self._know(original, sha256, size)
        return msgspec.structs.replace(row, outcome=Outcome.ARCHIVED, compared=compared)

    def _put(self, copy: Path, name: str, sha256: str, *, there: bool) -> str:
        if there:  # of another original, or whose manifest was never written
            try:
                return self.store.compared(copy, name, sha256)
            except StoreError:
                pass  # what lies there is not what its name says
        compared = self.store.put(copy, name, sha256)
        self.sent_bytes += copy.stat().st_size
        return compared

    def _full(self) -> str:
        return f"the archive would hold over {self._policy.max_total_gb:g} GB"

    def _know(self, original: str, sha256: str, size: int) -> None:
        """Count a session as archived from now on."""
        self._originals[original] = sha256
        self._sent_now.add(sha256)
        self.total_bytes += size - self._sizes.get(f"{sha256}.mcap", 0)
        self._sizes[f"{sha256}.mcap"] = size


def _facts(recording: Recording, names: Names) -> Facts:
    """What the policy asks of a session.

    Raises:
        DamagedError: the session is damaged.
    """
    if names.damage is not None:
        raise names.damage
    verdict = recording.judged()
    if verdict.integrity is verdict.integrity.DAMAGED:
        raise DamagedError(verdict.text)
    config = names.config
    device = "" if config is None else config.devices.xray
    images = {topic: count for topic, count in names.topics.items() if topic.startswith("in/IMAGE/")}
    return Facts(
        xrays=images.get(f"in/IMAGE/{device}", 0) if device else sum(images.values()),
        seconds=recording.seconds,
        ended_ns=recording.end_ns,
        size_bytes=sum(file.size for file in recording.files),
        replay="replay" in recording.metadata,
        video=bool(images) and (names.video or may_be_video(recording, config)),
        verdict=verdict,
    )


def _copied(recording: Recording, names: Names, out: Path, original: str) -> Counter[str]:
    """Write the copy: the same session gives the same bytes; returns what was taken out."""
    deidentifier = Deidentifier(names)
    known = recording.metadata.get("session") or original
    stand_in = hashlib.sha256(f"{_SCHEMA} {known}".encode()).hexdigest()[:32]
    with new_session(out) as writer:
        deidentifier.copy_about(recording, writer, {"session": stand_in, "part": "0"})
        for entry in recording.raw():
            deidentifier.copy(recording, entry, writer)
            if writer.waiting > _CHUNK_BYTES:
                writer.close_chunk()
    return +deidentifier.removed


def _checked(copy: Path, names: Names) -> int:
    """Read a copy to its end, and look for names that have stayed; returns the number of its messages.

    Raises:
        RecordingError: it cannot be read, or a name is in it.
    """
    recording, messages = Recording(copy), 0
    try:
        for text in _texts(recording):
            if names.cleaned(text) != text:
                raise RecordingError("a name would have stayed in the copy: it is not archived")
        for entry in recording.raw():
            messages += 1
            if entry.channel.encoding == JSON:
                document = recording.decoded(entry).content
                if names.cleaned(document) != document:
                    raise RecordingError("a name would have stayed in the copy: it is not archived")
    finally:
        recording.close()
    return messages


def _texts(recording: Recording) -> Iterator[dict[str, object]]:
    """What the copy says of itself."""
    yield dict(recording.metadata)
    for name in recording.attachments:
        data = recording.attachment(name)
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            yield msgspec.json.decode(data, type=dict[str, object])
