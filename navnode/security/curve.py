"""ZeroMQ between machines: encrypted, and only between keys that know each other (CurveZMQ, RFC 26).

Each side has a certificate of its own, ``NAME.key_secret``, and the other's public one, ``NAME.key``, as
``navnode keys`` writes them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from navnode.errors import ConfigError

_DOMAIN = "navnode"


def create(folder: Path) -> list[Path]:
    """Keys for a node and a worker; returns the files.

    Raises:
        ConfigError: there are keys already, or they cannot be written.
    """
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("node", "worker"):
            if existing := next(folder.glob(f"{name}.key*"), None):
                raise ConfigError(f"{existing}: is there already; keys are not overwritten")
            before = os.umask(0o077)
            try:
                made += [Path(path) for path in zmq.auth.create_certificates(str(folder), name)]
            finally:
                os.umask(before)
    except OSError as error:
        raise ConfigError(f"{folder}: keys cannot be written ({error.strerror})") from error
    return made


def listen(socket: zmq.Socket[Any], own: Path, allowed: Path) -> ThreadAuthenticator:
    """Let only the bearer of one key connect; the authenticator must live as long as the socket.

    Args:
        own: this side's secret certificate.
        allowed: the other side's public one.

    Raises:
        ConfigError: a file is missing, no certificate, or secret and readable by others.
    """
    public, secret = _secret(own)
    authenticator = ThreadAuthenticator(socket.context)
    authenticator.start()
    authenticator.configure_curve_callback(_DOMAIN, _Only(_public(allowed)))
    socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN.encode())
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    return authenticator


def join(socket: zmq.Socket[Any], own: Path, other: Path) -> None:
    """Connect with this side's secret certificate to whoever has the other's.

    Raises:
        ConfigError: as :func:`listen`.
    """
    public, secret = _secret(own)
    socket.setsockopt(zmq.CURVE_SERVERKEY, _public(other))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)


def check(own: Path, other: Path) -> None:
    """Whether two files are the certificates that they must be.

    Raises:
        ConfigError: as :func:`listen`.
    """
    _secret(own)
    _public(other)


class _Only:
    """Credentials of a single key, in Z85."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the bearer of this key may connect."""
        return key == self._key


def _secret(path: Path) -> tuple[bytes, bytes]:
    public, secret = _loaded(path)
    if secret is None:
        raise ConfigError(f"{path}: holds no secret key; NAME.key_secret is wanted")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others can read this secret key; try: chmod 600 {path}")
    return public, secret


def _public(path: Path) -> bytes:
    return _loaded(path)[0]


def _loaded(path: Path) -> tuple[bytes, bytes | None]:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such key; `navnode keys` makes them")
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is no key of `navnode keys` ({error})") from error
    if len(public) != 40 or (secret is not None and len(secret) != 40):
        raise ConfigError(f"{path}: is no key of `navnode keys`")
    return public, secret
