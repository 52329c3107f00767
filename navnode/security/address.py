"""HOST:PORT, wherever it is written: on the command line and in configurations."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from navnode.errors import ConfigError

_FORM = re.compile(r"(?:\[(?P<six>[^\[\]\s]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    """A name or an address; IPv6 without its brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """HOST:PORT as two.

    Raises:
        ValueError: it is none; says what is expected.
    """
    found = _FORM.fullmatch(text)
    if found and 0 < int(found["port"]) < 65536 and (found["host"] or _is_ipv6(found["six"])):
        return Address(found["host"] or found["six"], int(found["port"]))
    raise ValueError(f"{text!r} is not HOST:PORT (ports are 1 to 65535; an IPv6 address stands in brackets)")


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
