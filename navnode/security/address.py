"""HOST:PORT, the same everywhere: on the command line and in configurations."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from navnode.errors import ConfigError

__all__ = ["Address", "parse_address"]

_FORM = re.compile(r"(?:\[(?P<six>[^\[\]\s]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    """A name or an address; IPv6 without brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Split HOST:PORT.

    Raises:
        ValueError: the text has another form; says what is expected.
    """
    match = _FORM.fullmatch(text)
    if match and 0 < int(match["port"]) < 65536 and (match["host"] or _is_ipv6(match["six"])):
        return Address(match["host"] or match["six"], int(match["port"]))
    raise ValueError(f"{text!r} is not HOST:PORT (ports are 1 to 65535; IPv6 addresses go in brackets)")


def address_option(text: str, flag: str) -> Address:
    """HOST:PORT of an option.

    Raises:
        ConfigError: it is none; names the option.
    """
    try:
        return parse_address(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from error


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
