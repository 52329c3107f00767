"""ZeroMQ between machines: encrypted, and only between keys that know each other (CurveZMQ, RFC 26).

Each side has its secret certificate, ``NAME.key_secret``, and the other side's public one, ``NAME.key``, as
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
from navnode.security.secrecy import refuse_shared

__all__ = ["check", "create", "join", "listen"]

_DOMAIN = "navnode"


def create(folder: Path) -> list[Path]:
    """Create keys for a node and a worker; returns the files.

    Raises:
        ConfigError: keys already exist, or cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("node", "worker"):
            if existing := next(folder.glob(f"{name}.key*"), None):
                raise ConfigError(f"{existing}: already exists; keys are not overwritten")
            before = os.umask(0o077)
            try:
                written += [Path(path) for path in zmq.auth.create_certificates(str(folder), name)]
            finally:
                os.umask(before)
    except OSError as error:
        raise ConfigError(f"{folder}: keys cannot be written ({error.strerror})") from error
    return written


def listen(socket: zmq.Socket[Any], own: Path, allowed: Path) -> ThreadAuthenticator:
    """Let only the bearer of one key connect; the authenticator must live as long as the socket.

    Args:
        own: this side's secret certificate.
        allowed: the other side's public certificate.

    Raises:
        ConfigError: a file is missing, is not a certificate, or is a secret that others can read.
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
    """Make a socket use this side's secret certificate and connect only to the holder of the other one.

    Raises:
        ConfigError: as :func:`listen`.
    """
    public, secret = _secret(own)
    socket.setsockopt(zmq.CURVE_SERVERKEY, _public(other))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)


def check(own: Path, other: Path) -> None:
    """Check that two files are a secret and a public certificate.

    Raises:
        ConfigError: as :func:`listen`.
    """
    _secret(own)
    _public(other)


class _Only:
    """Credentials that admit a single key, in Z85."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the bearer of this key may connect."""
        return key == self._key


def _secret(path: Path) -> tuple[bytes, bytes]:
    public, secret = _loaded(path)
    if secret is None:
        raise ConfigError(f"{path}: contains no secret key; use NAME.key_secret")
    refuse_shared(path)
    return public, secret


def _public(path: Path) -> bytes:
    return _loaded(path)[0]


def _loaded(path: Path) -> tuple[bytes, bytes | None]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such key; create keys with `navnode keys`")
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a key from `navnode keys` ({error})") from error
    if len(public) != 40 or (secret is not None and len(secret) != 40):
        raise ConfigError(f"{path}: not a key from `navnode keys`")
    return public, secret
