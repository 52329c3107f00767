"""Files in a store that fsspec reaches: S3 and what speaks its protocol, other clouds, or a folder.

A store finds its credentials and its address itself, as its own tools do (docs/sessions.md); none pass through here.
What a library says of a failed request may hold keys or signatures, so errors are told in words of our own.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from navnode.errors import ConfigError, StoreError
from navnode.files.fingerprint import END_BYTES, of_ends

__all__ = ["ATTEMPTS", "PARTIAL", "Store", "Stored", "is_url", "printable"]

T = TypeVar("T")
_WAITS_S = (1.0, 2.0, 4.0, 8.0)
"""Between attempts."""
ATTEMPTS = len(_WAITS_S) + 1
"""How often every request is made before it counts as failed."""
PARTIAL = ".part"
"""Ending of what is not known to be whole."""
_BLOCK_BYTES = 1 << 24
_PART_BYTES = 1 << 26
"""Parts of an upload to S3; 10 000 of them are allowed."""
_MAX_LISTED = 1_000_000
_CONNECT_S, _READ_S = 10, 60
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_NEARLY_URL = re.compile(r"::|://|^(s3|s3a|gs|gcs|az|abfss?|https?|sftp):", re.IGNORECASE)
_SECRET = re.compile(r"[?&;][^=&]*(sig|signature|token|key|secret|password|credential)[^=&]*=", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z0-9.]{1,40}")
_FLAT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory", "oss", "r2"})
"""Stores without folders: there is nothing to create, and a mistyped bucket must not become one."""
_TALKATIVE = ("aiobotocore", "botocore", "fsspec", "s3fs", "urllib3")
"""Loggers that write requests, with their headers, at lower levels."""


class Stored(NamedTuple):
    """A file in a store."""

    name: str
    """Relative to the store's URL."""
    size: int


class _PartError(Exception):
    """Fewer bytes came than there should be."""


def is_url(place: str) -> bool:
    """Whether a place is a URL rather than a path."""
    return _URL.fullmatch(place) is not None


def printable(name: str) -> str:
    """A name for people: what a terminal would obey, and what breaks lines, as %XX."""
    return "".join(c if c.isprintable() else "".join(f"%{b:02X}" for b in c.encode("utf-8", "replace")) for c in name)


class Store:
    """A place in a store; nothing is connected before it is used.

    Args:
        url: such as ``s3://bucket/prefix``; a path is a folder of this machine.

    Raises:
        ConfigError: no such kind of store, what it needs is not installed, or the URL holds credentials.
    """

    def __init__(self, url: str) -> None:
        match = _URL.fullmatch(url)
        if match is None and _NEARLY_URL.search(url):  # not repeated: it may hold credentials
            raise ConfigError("this is neither a path nor the URL of one store, PROTOCOL://PLACE")
        protocol, rest = (match[1].lower(), match[2]) if match else ("file", str(Path(url).absolute()))
        _check(protocol, rest)
        self.url = f"{protocol}://{rest}".rstrip("/") if match else rest
        """As given, for people and for other processes."""
        try:
            fsspec: Any = importlib.import_module("fsspec")
            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is told here
            options = _s3_options(fsspec) if protocol in ("s3", "s3a") else {}
            if protocol in _FLAT:
                options["use_listings_cache"] = False  # others hand on what they do not know
            self._files, root = fsspec.core.url_to_fs(f"{protocol}://{rest}", **options)
        except ImportError as error:
            raise ConfigError(
                f"{printable(protocol)}:// needs a package that is not installed ({error.name}): "
                "pip install 'navnode[archive]' has those of S3"
            ) from None
        except ValueError:
            raise ConfigError(f"{printable(self.url)}: no such kind of store is known, or not such a URL") from None
        except Exception as error:
            raise ConfigError(f"{printable(self.url)}: cannot be used ({_reason(error)})") from None
        self._root, self._protocol = str(root).rstrip("/"), protocol
        if hasattr(self._files, "retries"):
            self._files.retries = 1  # attempts are made here, and stated

    def shown(self, name: str) -> str:
        """A file's address, for people."""
        return printable(f"{self.url}/{name}" if name else self.url)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def listed(self) -> list[Stored]:
        """All files, in the order in which a folder's would be listed; one with the name '' is the URL itself.

        Raises:
            StoreError: the store cannot be listed.
        """
        found: Mapping[str, Any] = self._tried("", lambda: self._files.find(self._root, detail=True))
        if len(found) > _MAX_LISTED:
            raise StoreError(f"{self.shown('')}: holds over {_MAX_LISTED} files; name a part of them")
        files = [
            Stored(str(path)[len(self._root) :].lstrip("/"), int(about["size"] or 0))
            for path, about in found.items()
            if str(path).startswith(self._root) and about.get("type") == "file"
        ]
        return sorted(files, key=lambda file: file.name.split("/"))

    def size_of(self, name: str) -> int | None:
        """Length of a file; None: there is none of that name.

        Raises:
            StoreError: the store does not say.
        """

        def once() -> int | None:
            try:
                return int(self._files.info(self._path(name))["size"] or 0)
            except FileNotFoundError:
                return None

        return self._tried(name, once)

    def fingerprints(self, files: Sequence[Stored]) -> list[str | StoreError]:
        """Fingerprints of files as :func:`navnode.files.fingerprint.fingerprint`, or why there is none."""
        return [self._fingerprint(file, ends) for file, ends in zip(files, self._ends(files), strict=True)]

    def _ends(self, files: Sequence[Stored]) -> Iterator[tuple[object, object]]:
        """Both ends of every file, many at a time; an exception where they did not come."""
        for begin in range(0, len(files), 500):
            some = files[begin : begin + 500]
            wanted = [(self._path(f.name), 0, min(f.size, END_BYTES)) for f in some]
            wanted += [(self._path(f.name), max(f.size - END_BYTES, 0), f.size) for f in some]
            came = self._files.cat_ranges(*map(list, zip(*wanted, strict=True)), on_error="return")
            yield from zip(came[: len(some)], came[len(some) :], strict=True)

    def _fingerprint(self, file: Stored, ends: tuple[object, object]) -> str | StoreError:
        head, tail = ends
        size = min(file.size, END_BYTES)
        try:
            if not (isinstance(head, bytes) and isinstance(tail, bytes) and len(head) == len(tail) == size):
                head = self._part(file.name, 0, size)
                tail = self._part(file.name, file.size - size, file.size)
        except StoreError as error:
            return error
        return of_ends(file.size, head, tail)

    def fetch(self, file: Stored, target: Path) -> str:
        """Copy a file here, block by block; a block that does not come is asked for again, not the whole file.

        Returns:
            SHA-256 of its content.

        Raises:
            StoreError: it does not come, is shorter than listed, or there is no room for it here.
        """
        if shutil.disk_usage(target.parent).free < file.size:
            raise StoreError(f"{self.shown(file.name)}: there is no room here for its {file.size} bytes")
        digest = hashlib.sha256()
        try:
            with target.open("xb") as copy:
                for block in self._blocks(file):
                    digest.update(block)
                    copy.write(block)
        except OSError as error:
            raise StoreError(f"{self.shown(file.name)}: cannot be kept here ({error.strerror})") from None
        return digest.hexdigest()

    def read(self, name: str, most_bytes: int) -> bytes:
        """A small file.

        Raises:
            StoreError: it cannot be read, or is larger.
        """
        data: bytes = self._tried(name, lambda: self._files.cat_file(self._path(name), start=0, end=most_bytes + 1))
        if len(data) > most_bytes:
            raise StoreError(f"{self.shown(name)}: larger than {most_bytes} bytes")
        return data

    def put(self, source: Path, name: str, sha256: str) -> str:
        """Put a file into the store, so that nobody ever sees a part of it under its name.

        It is uploaded under another name, compared, and then renamed.

        Args:
            sha256: of its content.

        Returns:
            How it was compared: by the ``store's checksum``, or ``read back``.

        Raises:
            StoreError: it does not arrive whole.
        """
        if self._protocol not in _FLAT:
            self._tried(name, lambda: self._files.makedirs(self._root, exist_ok=True))
        etags = self._etags(source)

        def once() -> str:
            of_mine = f"{name}.{secrets.token_hex(4)}{PARTIAL}"  # others may be sending the same
            part, size = self._path(of_mine), source.stat().st_size
            options = {"chunksize": _PART_BYTES} if self._protocol in ("s3", "s3a") else {}
            try:
                self._files.put_file(str(source), part, **options)
                how = self._compared(Stored(of_mine, size), etags, sha256)
                if self._protocol == "file":
                    with Path(part).open("rb") as file:
                        os.fsync(file.fileno())
                    Path(part).replace(self._path(name))
                else:
                    self._files.mv(part, self._path(name))
                self._size_is(name, size)
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(part)
                raise
            return how

        return self._tried(name, once)

    def compared(self, source: Path, name: str, sha256: str) -> str:
        """Make sure that a file in the store is the same as one here; as :meth:`put`.

        Raises:
            StoreError: it is not, or cannot be read.
        """
        file = Stored(name, source.stat().st_size)
        return self._tried(name, lambda: self._compared(file, self._etags(source), sha256))

    def _etags(self, source: Path) -> frozenset[str]:
        """What the store may say of a file without being asked to send it back."""
        return _etags(source) if self._protocol in _FLAT else frozenset()

    def _compared(self, file: Stored, etags: frozenset[str], sha256: str) -> str:
        about = self._size_is(file.name, file.size)
        if str(about.get("ETag", "")).strip('"') in etags:
            return "store's checksum"
        digest = hashlib.sha256()
        for block in self._blocks(file):
            digest.update(block)
        if digest.hexdigest() != sha256:
            raise _PartError("its content is not what was sent")
        return "read back"

    def _size_is(self, name: str, size: int) -> Mapping[str, Any]:
        about: Mapping[str, Any] = self._files.info(self._path(name))
        if int(about["size"] or 0) != size:
            raise _PartError(f"{about['size']} of {size} bytes arrived")
        return about

    def _blocks(self, file: Stored) -> Iterator[bytes]:
        for begin in range(0, file.size, _BLOCK_BYTES):
            yield self._part(file.name, begin, min(begin + _BLOCK_BYTES, file.size))

    def _part(self, name: str, begin: int, end: int) -> bytes:
        def once() -> bytes:
            data: bytes = self._files.cat_file(self._path(name), start=begin, end=end)
            if len(data) != end - begin:
                raise _PartError(f"ends after {begin + len(data)} bytes; {end} were listed or more")
            return data

        return self._tried(name, once) if end > begin else b""

    def _tried(self, name: str, once: Callable[[], T]) -> T:
        """Do it, if need be several times."""
        for wait_s in (*_WAITS_S, None):
            try:
                return once()
            except StoreError:
                raise
            except Exception as error:
                reason = _reason(error)
                if _is_final(error):
                    raise StoreError(f"{self.shown(name)}: {reason}") from None
            if wait_s is not None:
                time.sleep(wait_s)
        raise StoreError(f"{self.shown(name)}: {reason}; {ATTEMPTS} attempts were made")


def _check(protocol: str, rest: str) -> None:
    """Refuse URLs that hold credentials, and chains of stores, without repeating them."""
    host = rest.partition("/")[0] if protocol not in ("file", "local", "memory") else ""
    if "@" in host or (protocol in ("http", "https") and "?" in rest) or _SECRET.search(rest):
        raise ConfigError(
            f"{printable(protocol)}://: a URL holds no credentials here, as it is written into reports; the store's "
            "own configuration does (docs/sessions.md)"
        )
    if "::" in rest:
        raise ConfigError(f"{printable(protocol)}://: one store, not a chain of them")


def _s3_options(fsspec: Any) -> dict[str, Any]:
    """What is asked of S3 beyond its own configuration: no attempts besides ours, and limits of time."""
    given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    limits = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S, "retries": {"max_attempts": 0}}
    return {"config_kwargs": {**limits, **given}}


def _etags(path: Path) -> frozenset[str]:
    """The entity tags that S3 may give a file: MD5 of it, or of the MD5 of its parts, with their number."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as file:
        while block := file.read(_PART_BYTES):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    of_parts = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return frozenset({whole.hexdigest(), f"{of_parts}-{len(parts)}"})


_CANNOT = (NotImplementedError, TypeError, AttributeError)
"""How fsspec's libraries say what a store cannot do: an operation that they lack (writing over HTTP), an option that
they do not know, a method that an older one has not."""


def _is_final(error: Exception) -> bool:
    """Whether another attempt would fail, too: it is not there, not allowed, or beyond the store's library."""
    final = isinstance(error, (FileNotFoundError, PermissionError, *_CANNOT))
    return final or "Credential" in type(error).__name__


def _reason(error: BaseException) -> str:
    """Why something failed; never the library's own text."""
    if isinstance(error, _PartError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "is not there"
    if "Credential" in type(error).__name__:
        return "no credentials of the store were found"
    code = _code(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return f"the disk says: {os.strerror(error.errno)}"
    if isinstance(error, PermissionError):
        return f"the store refuses access{f' ({code})' if code else ''}"
    if code:
        return f"the store answers {code}"
    if isinstance(error, TimeoutError | ConnectionError) or re.search(
        "Timeout|Connect|HTTPClient", type(error).__name__
    ):
        return "the store does not answer"
    return f"failed ({type(error).__name__})"


def _code(error: BaseException | None) -> str:
    """The one word by which S3 says what is wrong, or ''."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            code = str(response.get("Error", {}).get("Code", ""))
            return code if _CODE.fullmatch(code) else ""
        error = error.__cause__
    return ""
