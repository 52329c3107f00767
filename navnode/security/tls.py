"""Mutual TLS around OpenIGTLink, which has no encryption of its own."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

import msgspec

from navnode.errors import ConfigError


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files in PEM form; both sides must show a certificate signed by one of ``authorities``."""

    certificate: str
    """This side's certificate, with those between it and the authority."""
    key: str
    """Its private key, without a passphrase."""
    authorities: str
    """Whose signatures are believed."""

    def server_context(self) -> ssl.SSLContext:
        """For a server that lets only clients with a certificate in.

        Raises:
            ConfigError: a file is missing or not what it should be.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """For a client that checks the server's certificate and name.

        Raises:
            ConfigError: a file is missing or not what it should be.
        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        for name in ("certificate", "key", "authorities"):
            path = Path(getattr(self, name))
            if not path.is_file():
                raise ConfigError(f"tls.{name}: {path}: there is no such file")
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_passphrase)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigError(f"tls.certificate and tls.key: {self.certificate}, {self.key}: {error}") from error
        try:
            context.load_verify_locations(self.authorities)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"tls.authorities: {self.authorities}: {error}") from error
        return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase; it must have none")


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
