"""What the fields of a request say of themselves, once: for the library, for its callers and for the command line.

A request is a frozen struct beside the function that answers it. :func:`option` and :func:`argument` describe a field;
its type, default and bounds stand in the struct. :mod:`navnode.commands.command` makes the command's options of them.
Kinds of fields that several requests have stand at the end; HOST:PORT is written alike in configurations.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec

from navnode.errors import ConfigError

__all__ = ["Address", "Ct", "Shown", "Threads", "address_option", "argument", "option", "parse_address", "switches"]

_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\]\s]+)\]|(?P<host>[^\[\]:/\s]+)):(?P<port>[0-9]{1,5})")


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """How a field is presented on the command line; '' is as usual."""

    metavar: str = ""
    flag: str = ""
    """In place of the one that is made of the field's name."""
    panel: str = ""
    """Under which heading of the help."""
    is_argument: bool = False
    switches: Mapping[StrEnum, str] = {}
    """A flag for each of these values, and its help."""
    one_only: str = ""
    """What is said where two of them are given."""


def option(
    help_text: str,
    metavar: str = "",
    *,
    flag: str = "",
    panel: str = "",
    ge: float | None = None,
    le: float | None = None,
) -> msgspec.Meta:
    """A field that is an option, such as ``--out``; its help says what it does.

    ``ge`` and ``le`` bound its values, in the unit of the field.
    """
    shown = Shown(metavar=metavar, flag=flag, panel=panel)
    return msgspec.Meta(description=help_text, ge=ge, le=le, extra={"shown": shown})


def argument(help_text: str, metavar: str) -> msgspec.Meta:
    """A field that is given by its place."""
    return msgspec.Meta(description=help_text, extra={"shown": Shown(metavar=metavar, is_argument=True)})


def switches(help_texts: Mapping[StrEnum, str], one_only: str) -> msgspec.Meta:
    """A field with a flag for each of its values, of which one may be given: ``--lockstep``, ``--as-consumed``."""
    return msgspec.Meta(extra={"shown": Shown(switches=help_texts, one_only=one_only)})


Threads = Annotated[int, option("Threads for computing; 0: all cores.", ge=0)]
Ct = Annotated[str, option("A CT that SimpleITK reads, a DICOM folder, 'sample' or 'procedural'.", "FILE")]


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
    match = _ADDRESS.fullmatch(text)
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
