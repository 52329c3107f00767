"""Mutual TLS around OpenIGTLink, which has no encryption itself."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

import msgspec

from navnode.errors import ConfigError
from navnode.security.secrecy import refuse_shared

__all__ = ["Tls", "is_loopback"]


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files; both sides must present a certificate signed by one of ``authorities``."""

    certificate: str
    """This side's certificate, with the intermediate ones up to the authority."""
    key: str
    """Its private key, without a passphrase, readable by its owner alone."""
    authorities: str
    """Certificates of the authorities to trust."""

    def server_context(self) -> ssl.SSLContext:
        """Context of a server that admits only clients with a certificate.

        Raises:
            ConfigError: a file is missing or invalid, or others can read the key.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext:
        """Context of a client that checks the server's certificate and name.

        Raises:
            ConfigError: a file is missing or invalid, or others can read the key.
        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        for name in ("certificate", "key", "authorities"):
            path = Path(getattr(self, name))
            if not path.is_file():
                raise ConfigError(f"tls.{name}: {path}: no such file")
        refuse_shared(Path(self.key))
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
    """Whether an address can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
